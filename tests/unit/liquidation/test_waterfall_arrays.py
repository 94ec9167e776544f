"""The waterfall on arrays does what the reference does, to the cent and beyond."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from backtest import waterfall
from backtest.reference import waterfall as reference
from tests.unit.liquidation.liquidation_books import rules_of


NOW = datetime(2025, 10, 10, 21, 20, tzinfo=UTC)
POLICIES = ("none", "queue", "pro_rata", "capped")


def micros(time: datetime) -> int:
    return round(time.timestamp()) * 1_000_000


@pytest.mark.parametrize("seed", range(60))
def test_arrays_agree_with_the_reference(seed: int) -> None:
    """Several times in a row with one fund, each with losses, winners, fees and a surplus."""
    rng = np.random.default_rng(seed)
    rules = rules_of(
        adl__policy=POLICIES[seed % 4],
        adl__fund_last=bool(seed % 3),
        fund__fee_share=float(rng.choice([0.0, 0.5, 1.0])),
    )
    start = float(rng.choice([0.0, 1e4, 1e6, math.inf]))
    one, other = reference.Fund(start), waterfall.Fund.of(start)
    for k in range(6):
        now = NOW + timedelta(hours=3 * k)
        count, losers = int(rng.integers(0, 30)), int(rng.integers(0, 5))
        profit = rng.normal(2e4, 3e4, count)
        entry = np.where(rng.random(count) < 0.1, 0.0, rng.uniform(1e3, 1e6, count))
        leverage, equity = rng.uniform(0.1, 20.0, count), rng.normal(1e5, 1e5, count)
        losses = rng.exponential(3e4, losers)
        fees, surplus = float(rng.exponential(1e3)), float(rng.exponential(1e2))
        before, names = other, [f"w{j:03d}" for j in range(count)]
        mine = waterfall.settle(
            other,
            losses,
            waterfall.Winners(profit, entry, leverage, equity),
            micros(now),
            rules,
            fees_usd=fees,
            surplus_usd=surplus,
        )
        rows = zip(names, profit, entry, leverage, equity, strict=True)
        theirs = reference.settle(
            one,
            [(f"l{j}", float(loss)) for j, loss in enumerate(losses)],
            [reference.Winner(n, *map(float, rest)) for n, *rest in rows],
            now,
            rules,
            fees_usd=fees,
            surplus_usd=surplus,
        )
        for array, by_name in (
            (mine.from_fund_usd, theirs.from_fund_usd),
            (mine.from_adl_usd, theirs.from_adl_usd),
            (mine.unfunded_usd, theirs.unfunded_usd),
        ):
            assert array.tolist() == pytest.approx(list(by_name.values()), abs=1e-7)
        cuts = [theirs.haircuts_usd.get(name, 0.0) for name in names]
        assert mine.haircut_usd.tolist() == pytest.approx(cuts, abs=1e-7)
        assert mine.fund.balance_usd == pytest.approx(theirs.fund.balance_usd, abs=1e-7)
        assert mine.overshoot == pytest.approx(theirs.overshoot, rel=1e-12)
        assert waterfall.imbalance_usd(before, mine, fees, surplus) < 1e-6
        one, other = theirs.fund, mine.fund


def test_identities() -> None:
    """An endless fund needs nobody; without fund and deleveraging all is unfunded."""
    winners = waterfall.Winners(*(np.full(3, 10.0) for _ in range(4)))
    loss = np.asarray([7.5, 2.25])
    endless = waterfall.settle(waterfall.Fund.of(math.inf), loss, winners, micros(NOW), rules_of())
    assert endless.haircut_usd.sum() == endless.unfunded_usd.sum() == 0.0
    rules = rules_of(adl__policy="none")
    alone = waterfall.settle(waterfall.Fund.of(0.0), loss, winners, micros(NOW), rules)
    assert alone.unfunded_usd.tolist() == loss.tolist()
