"""Fund, deleveraging and ledger: small cases by hand, identities, conservation to the cent."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from backtest.reference.waterfall import (
    Fund,
    Winner,
    deleverage,
    imbalance_usd,
    is_adl_due,
    settle,
)
from tests.unit.liquidation.liquidation_books import rules_of


NOW = datetime(2025, 10, 10, 21, 20, tzinfo=UTC)
POLICIES = ("queue", "pro_rata", "capped")


def winner(name: str, profit: float, *, entry: float = 1e3, leverage: float = 1.0) -> Winner:
    return Winner(name, profit, entry, leverage, equity_usd=2.0 * profit)


WINNERS = [winner("a", 10.0), winner("b", 20.0), winner("c", 70.0)]


def test_the_fund_pays_while_it_can() -> None:
    """Fund 100, income 5 of fees and 1 of surplus, losses 4 and 2 (peak 106, due at 74.2)."""
    out = settle(
        Fund(100.0),
        [("x", 4.0), ("y", 2.0)],
        WINNERS,
        NOW,
        rules_of(),
        fees_usd=5.0,
        surplus_usd=1.0,
    )
    assert out.fund.balance_usd == pytest.approx(100.0)
    assert out.from_fund_usd == {"x": 4.0, "y": 2.0}
    assert (out.haircuts_usd, out.overshoot) == ({}, 1.0)


def test_an_endless_fund_needs_nobody() -> None:
    out = settle(Fund(math.inf), [("x", 1e12)], WINNERS, NOW, rules_of())
    assert out.haircuts_usd == {}
    assert out.unfunded_usd == {"x": 0.0}
    assert imbalance_usd(Fund(math.inf), out, 0.0, 0.0) == 0.0


def test_without_fund_and_deleveraging_all_is_unfunded() -> None:
    losses = [("x", 7.5), ("y", 2.25)]
    out = settle(Fund(0.0), losses, WINNERS, NOW, rules_of(adl__policy="none"))
    assert out.unfunded_usd == dict(losses)
    assert out.from_fund_usd == {"x": 0.0, "y": 0.0}


@pytest.mark.parametrize(("balance", "due"), [(71.0, False), (70.0, True), (0.0, True)])
def test_deleveraging_is_due_30_percent_below_the_peak_of_8_hours(
    balance: float, due: bool
) -> None:
    within = Fund(balance, ((NOW - timedelta(hours=7.9), 100.0),))
    assert is_adl_due(within, NOW, rules_of()) is due
    before = Fund(balance, ((NOW - timedelta(hours=8.1), 100.0),))
    assert is_adl_due(before, NOW, rules_of()) is (balance == 0.0)


def test_a_fund_that_fell_leaves_the_loss_to_the_accounts() -> None:
    """60 of a peak of 100: the accounts give their 100 of a loss of 130, the fund the other 30."""
    fund = Fund(60.0, ((NOW, 100.0),))
    out = settle(fund, [("x", 130.0)], WINNERS, NOW, rules_of())
    assert out.from_adl_usd == {"x": pytest.approx(100.0)}
    assert out.from_fund_usd == {"x": pytest.approx(30.0)}
    kept = settle(fund, [("x", 130.0)], WINNERS, NOW, rules_of(adl__fund_last=False))
    assert kept.unfunded_usd == {"x": pytest.approx(30.0)}


def test_the_queue_takes_return_times_leverage_first() -> None:
    """Keys: a 10 / 100 x 2 = 0.2, b 20 / 50 x 1 = 0.4, c 70 / 1,000 x 5 = 0.35: b, c, a."""
    winners = [
        winner("a", 10.0, entry=100.0, leverage=2.0),
        winner("b", 20.0, entry=50.0),
        winner("c", 70.0, entry=1_000.0, leverage=5.0),
    ]
    assert deleverage(50.0, winners, rules_of()) == {"b": 20.0, "c": 30.0}
    assert deleverage(95.0, winners, rules_of()) == {"b": 20.0, "c": 70.0, "a": 5.0}


def test_pro_rata_takes_the_same_share_of_every_profit() -> None:
    found = deleverage(30.0, WINNERS, rules_of(adl__policy="pro_rata"))
    assert found == pytest.approx({"a": 3.0, "b": 6.0, "c": 21.0})


def test_a_cap_moves_the_need_to_the_others() -> None:
    """Equities 20, 40, 140; cap 10 %: at most 2, 4 and 14, together 20."""
    rules = rules_of(adl__policy="capped")
    assert deleverage(5.0, WINNERS, rules) == pytest.approx({"a": 0.5, "b": 1.0, "c": 3.5})
    assert deleverage(30.0, WINNERS, rules) == pytest.approx({"a": 2.0, "b": 4.0, "c": 14.0})
    rich = [Winner("a", 10.0, 1e3, 1.0, 20.0), Winner("b", 10.0, 1e3, 1.0, 1e3)]
    assert deleverage(9.0, rich, rules) == pytest.approx({"a": 2.0, "b": 7.0})


@pytest.mark.parametrize("policy", POLICIES)
def test_every_cent_is_accounted_for(policy: str) -> None:
    rng = np.random.default_rng(11)
    for _ in range(200):
        rules = rules_of(
            adl__policy=policy,
            adl__fund_last=bool(rng.random() < 0.5),
            fund__fee_share=rng.random(),
        )
        winners = [winner(f"w{k}", float(p)) for k, p in enumerate(rng.exponential(1e5, 6))]
        losses = [(f"l{k}", float(x)) for k, x in enumerate(rng.exponential(2e5, 4))]
        fund = Fund(
            float(rng.exponential(4e5)), ((NOW - timedelta(hours=1), rng.exponential(5e5)),)
        )
        fees, surplus = map(float, rng.exponential(1e4, 2))
        out = settle(fund, losses, winners, NOW, rules, fees_usd=fees, surplus_usd=surplus)
        assert imbalance_usd(fund, out, fees, surplus) < 0.005
        assert out.fund.balance_usd >= -0.005
        profits = {each.account_id: each.profit_usd for each in winners}
        assert all(amount <= profits[name] + 1e-6 for name, amount in out.haircuts_usd.items())
        assert out.overshoot <= 1.0 + 1e-9


def test_the_order_of_winners_does_not_matter() -> None:
    for policy in POLICIES:
        rules = rules_of(adl__policy=policy)
        one = settle(Fund(0.0), [("x", 42.0)], WINNERS, NOW, rules)
        other = settle(Fund(0.0), [("x", 42.0)], WINNERS[::-1], NOW, rules)
        assert one.haircuts_usd == other.haircuts_usd
