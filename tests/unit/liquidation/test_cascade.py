"""Many accounts at one time: static without impact, cascades with it, losses, deleveraging."""

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from backtest.reference.cascade import Moment, deleveraged, happen
from backtest.reference.impact import moved
from backtest.reference.liquidation import liquidate
from backtest.reference.models import margin
from backtest.reference.waterfall import Fund
from tests.okx_books import merged_numbers, swap
from tests.unit.liquidation.liquidation_books import book, rules_of


NOW = datetime(2025, 3, 1, 8, tzinfo=UTC)


def long(usdt: float, contracts: float = 10.0, entry: float = 1e5) -> dict[str, Any]:
    """A long of BTC at 100,000 with so much cash."""
    return book(swap("BTC-USDT-SWAP", contracts, 1e5, entry_price=entry), balances={"USDT": usdt})


def accounts() -> dict[str, dict[str, Any]]:
    """One at the trigger, one a little above it, one safe, one far below zero, two winners."""
    return {
        "b-due": long(1.1e5),
        "a-near": long(1.235e5),
        "c-safe": long(5e5),
        "d-lost": long(1e5, entry=1.3e5),
        "e-short": long(4e5, contracts=-10.0, entry=1.1e5),
        "f-short": long(4e5, contracts=-5.0, entry=1.2e5),
    }


def run(found: dict[str, dict[str, Any]], fund: float = 1e7, **changed: Any) -> Moment:
    return happen(found, merged_numbers(), rules_of(**changed), now=NOW, fund=Fund(fund))


def total_usd(portfolios: dict[str, dict[str, Any]], moment: Moment | None = None) -> float:
    """Equity of all accounts at the prices of the market or at the moved ones."""
    moves = moment.moves if moment else {}
    return math.fsum(
        margin(moved(each, moves, rules_of()), merged_numbers())["account"]["equity_usd"]
        for each in portfolios.values()
    )


def test_without_impact_every_account_is_as_if_alone() -> None:
    found = accounts()
    moment = run(found, adl__policy="none")
    assert (moment.moves, moment.rounds) == ({}, 1)
    for name, given in found.items():
        alone = liquidate(given, merged_numbers(), rules_of())
        assert moment.portfolios[name] == alone.portfolio_after
    weak = run(
        found,
        adl__policy="none",
        impact__model="linear",
        impact__linear__move_per_musd={"default": 0.0},
    )
    assert weak.portfolios == moment.portfolios


def test_the_order_of_accounts_does_not_matter() -> None:
    found = accounts()
    one = run(found, impact__model="linear")
    other = run(dict(reversed(found.items())), impact__model="linear")
    assert one.portfolios == other.portfolios
    assert one.fund == other.fund


def test_impact_takes_the_next_account_down() -> None:
    """The account at 101 % is left alone without impact and is liquidated with it."""
    names = {name for _, name, _ in run(accounts()).events}
    assert names == {"b-due", "d-lost"}
    moment = run(
        accounts(), impact__model="linear", impact__linear__move_per_musd={"default": 0.01}
    )
    assert {name for _, name, _ in moment.events} >= {"a-near", "b-due", "d-lost"}
    assert moment.moves["BTC"] == pytest.approx(moment.traded_usd["BTC"] / 1e6 * 0.01)
    assert moment.moves["BTC"] < 0.0
    assert moment.rounds > 1


def test_the_fund_takes_fees_and_pays_the_loss() -> None:
    moment = run(accounts())
    fees = math.fsum(done.fees_usd for _, _, done in moment.events)
    [loss] = [done.bad_debt_usd for _, _, done in moment.events if done.bad_debt_usd]
    assert loss == pytest.approx(202_750.0)
    assert moment.fund.balance_usd == pytest.approx(1e7 + fees - loss)


@pytest.mark.parametrize("policy", ["queue", "pro_rata", "capped", "none"])
def test_no_cent_is_lost(policy: str) -> None:
    """Accounts after = before - costs + what the fund and nobody paid, at the same prices."""
    found = accounts()
    moment = run(found, fund=5e4, adl__policy=policy, adl__cap_share=0.05)
    costs = math.fsum(d.fees_usd + d.slippage_usd + d.surplus_usd for _, _, d in moment.events)
    paid = math.fsum(
        amount
        for out in moment.outcomes
        for part in (out.from_fund_usd, out.unfunded_usd)
        for amount in part.values()
    )
    assert total_usd(moment.portfolios) == pytest.approx(total_usd(found) - costs + paid, abs=0.005)
    taken = math.fsum(x for out in moment.outcomes for x in out.haircuts_usd.values())
    assert (taken > 0.0) is (policy != "none")


def test_deleveraging_is_paid_by_the_winning_side() -> None:
    """Both shorts gain 100,000; f, with the higher return, goes first: 100,000 x 1 of 202,750."""
    moment = run(accounts(), fund=0.0, fund__fee_share=0.0)
    [out] = [each for each in moment.outcomes if each.needed_usd > 0.0]
    assert out.haircuts_usd == pytest.approx({"f-short": 100_000.0, "e-short": 100_000.0})
    assert sum(out.unfunded_usd.values()) == pytest.approx(2_750.0)
    assert [row["contracts"] for row in moment.portfolios["e-short"]["positions"]] == [0.0]


def test_a_share_of_a_position_goes_with_its_profit() -> None:
    """Half of a short of 10 BTC at 110,000: equity falls by half of 100,000."""
    found = long(4e5, contracts=-10.0, entry=1.1e5)
    after = deleveraged(found, {"BTC-USDT-SWAP"}, 0.5)
    before, left = (
        margin(each, merged_numbers())["account"]["equity_usd"] for each in (found, after)
    )
    assert before - left == pytest.approx(50_000.0)


def test_a_broken_hedge_is_margined_again() -> None:
    """Long a future, short the perpetual: deleveraged in the short, it is liquidated at once."""
    found = accounts()
    del found["e-short"], found["f-short"]

    found["hedger"] = book(
        swap("BTC-USDT-SWAP", -10.0, 1e5, entry_price=1.3e5),
        swap("BTC-USDC-SWAP", 10.0, 1e5, entry_price=1.29e5),
        balances={"USDT": 1e4, "USDC": 1e5 * 0.9},
    )
    moment = run(found, fund=0.0)
    assert "hedger" in moment.outcomes[0].haircuts_usd
    later = [round_ for round_, name, _ in moment.events if name == "hedger"]
    assert later
    assert later[0] > 1
