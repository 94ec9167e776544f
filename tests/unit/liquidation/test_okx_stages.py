"""One account a stage, worked out by hand; all numbers of the set of 2025-01-21, slices of 10 %.

BTC stands at 100,000 USD. Costs of a trade of BTC: fee 0.05 % + slippage 0.5 x 0.45 % x multiplier
1 (raw minimum charge below 250,000) = 0.275 % of its size.
"""

from typing import Any

import pytest

from backtest.params import load_parameter_set
from backtest.reference import liquidation_stages as said
from backtest.reference.liquidation import Liquidation, liquidate
from backtest.reference.liquidation_trades import Account, account_of, after_fills, fill_of
from tests.okx_books import PARAMS, future, merged_numbers, option, swap
from tests.unit.liquidation.liquidation_books import book, rules_of


YEAR = "2026-03-01T08:00:00Z"
"""365 days after the time of the books."""


def run(found: dict[str, Any], **changed: Any) -> Liquidation:
    return liquidate(found, merged_numbers(), rules_of(**changed))


def stages(done: Liquidation) -> list[tuple[str, int]]:
    return [(step.stage, step.slices) for step in done.steps]


def traded(done: Liquidation) -> dict[str, float]:
    return {each.instrument_id: each.contracts for step in done.steps for each in step.traded}


def test_ddh2_sells_the_perpetual_that_makes_the_delta() -> None:
    """10 BTC of perpetual long, 100,000 USDT.

    MR1 = 12 % x 1,000,000 = 120,000 = MR6; MR4 = 0.2 % x 1,000,000 = 2,000; MMR 122,000.
    Level 100,000 / 122,000 = 0.81967. A slice is 1 BTC: 100,000 USD, fee 50, slippage 225.
    After k slices equity 100,000 - 275 k, MMR 122,000 - 12,200 k; above 1.1 from k = 3 on
    (k = 2: 99,450 / 97,600 = 1.01895): 99,175 / 85,400 = 1.16130.
    """
    done = run(book(swap("BTC-USDT-SWAP", 10.0, 1e5), balances={"USDT": 1e5}))
    assert stages(done) == [("ddh2", 3)]
    assert traded(done) == {"BTC-USDT-SWAP": pytest.approx(-3.0, rel=1e-12)}
    step = done.steps[0]
    assert (step.fee_usd, step.slippage_usd) == pytest.approx((150.0, 675.0), rel=1e-12)
    assert (step.level_before, step.level_after) == pytest.approx((100 / 122, 99_175 / 85_400))
    assert (step.mmr_before_usd, step.mmr_after_usd) == pytest.approx((122_000.0, 85_400.0))
    assert (step.charges_before["mr1"], step.charges_after["mr1"]) == pytest.approx((12e4, 84e3))
    assert step.traded[0].price == pytest.approx(1e5 * (1.0 - 0.00275))
    assert "MR1 of 120,000.00 USD is the largest charge of BTC" in step.chosen
    assert step.ended == said.SAFE
    assert (done.status, done.is_active, done.is_warned) == ("safe", False, True)
    assert done.equity_after_usd == pytest.approx(99_175.0)
    row = done.portfolio_after["positions"][0]
    assert row["contracts"] == pytest.approx(7.0)


def test_ddh2_opens_a_perpetual_where_options_make_the_delta() -> None:
    """10 calls deep in the money (strike 1,000, almost a coin each), 11 coins of value.

    The delta of the options is 10 BTC and nothing can be reduced, so a tenth of it, 1 BTC, is
    sold in a perpetual whose price a row of 0 contracts gives: 1 BTC x 0.275 % = 275 USD.
    """
    calls = option("BTC-USD-F-1000-C", YEAR, 10.0, 0.01, forward=1e5, mark_iv=0.5)
    found = book(calls, swap("BTC-USDT-SWAP", 0.0, 1e5), balances={"USDC": 1e5})
    done = run(found, slices__max_slices=1.0)
    assert stages(done) == [("ddh2", 1)]
    assert traded(done) == {"BTC-USDT-SWAP": pytest.approx(-1.0, rel=1e-6)}
    assert done.fees_usd + done.slippage_usd == pytest.approx(275.0, rel=1e-6)
    assert (done.status, done.is_active) == ("unfinished", True)
    assert done.steps[0].ended == said.LIMIT
    not_opened = run(found, ddh2__may_open=False, slices__max_slices=1.0)
    assert [step.stage for step in not_opened.steps] != ["ddh2"]


def test_ddh1_closes_both_sides_of_the_worst_pair() -> None:
    """10 BTC long in USDT, 10 short in USDC; USDT at 0.93, 10,000 USDT and 70,700 USDC.

    Rate of tier 1 at 0.93: between 15 % at 0.90 and 5 % at 0.95, 9 %. Hedged 1,000,000 USD, so
    MR9 = 90,000. No delta: MR1 = MR6 = MR4 = 0; MR7 = 0.45 % x 2,000,000 = 9,000. MMR 90,000.
    Equity 9,300 + 70,700 = 80,000; level 0.88889. A slice is 100,000 USD of each side (1 BTC
    each), 2 x 275 = 550 USD. After k: 80,000 - 550 k over 90,000 - 9,000 k; k = 2 gives
    78,900 / 72,000 = 1.09583, k = 3 gives 78,350 / 63,000 = 1.24365.
    """
    done = run(
        book(
            swap("BTC-USDT-SWAP", 10.0, 1e5 / 0.93),
            swap("BTC-USDC-SWAP", -10.0, 1e5),
            index_usd={"USDT": 0.93},
            balances={"USDT": 10_000.0, "USDC": 70_700.0},
        )
    )
    assert stages(done) == [("ddh1", 3)]
    assert done.steps[0].target == "BTC USDT-USDC"
    assert done.steps[0].charges_before["mr9"] == pytest.approx(90_000.0)
    assert traded(done) == pytest.approx({"BTC-USDT-SWAP": -3.0, "BTC-USDC-SWAP": 3.0})
    assert done.level_before == pytest.approx(8 / 9)
    assert done.level_after == pytest.approx(78_350 / 63_000)
    assert done.fees_usd == pytest.approx(6 * 50.0)
    assert done.slippage_usd == pytest.approx(6 * 225.0)
    # the costs of each side leave its own currency: 3 x 275 / 0.93 USDT and 3 x 275 USDC
    left = done.portfolio_after["balances"]
    assert left == pytest.approx({"USDT": 10_000 - 825 / 0.93, "USDC": 69_875.0})


def test_basis_closes_opposite_maturities_together() -> None:
    """10 BTC of a future of one year long, 10 of perpetual short, both at the index; 50,000 USDT.

    MR4 = 5 % x 1,000,000 + 0.2 % x 1,000,000 = 52,000; MR1 = 0; MR7 = 9,000. MMR 52,000, level
    0.96154. A slice is 100,000 USD of each, 550 USD. After 1: 49,450 / 46,800 = 1.05662; after 2:
    48,900 / 41,600 = 1.17548.
    """
    done = run(
        book(
            future("BTC-USDT-Y", YEAR, 10.0, 1e5),
            swap("BTC-USDT-SWAP", -10.0, 1e5),
            balances={"USDT": 50_000.0},
        )
    )
    assert stages(done) == [("basis", 2)]
    assert done.steps[0].target == "BTC 2026-03-01T08:00:00+00:00 / perpetuals"
    assert traded(done) == pytest.approx({"BTC-USDT-Y": -2.0, "BTC-USDT-SWAP": 2.0})
    assert done.level_before == pytest.approx(50 / 52)
    assert done.level_after == pytest.approx(48_900 / 41_600)


def test_basis_takes_spot_since_it_is_charged() -> None:
    """1 BTC of spot against 1 BTC of perpetual short, 100,000 USDT owed less 3,000.

    Spot in use 1 BTC. MR4 = 0.2 % x 200,000 = 400, MR7 = 0.45 % x 100,000 = 450, so the unit 450;
    MR8 = 2 % x 97,000 = 1,940. Adjusted equity 98,000 - 97,000 = 1,000: level
    1,000 / (2,390 + 97,000 x 1.02 x 0.1 %) = 0.40179. DDH1 and DDH2 have nothing (no delta), so
    a slice of 10,000 USD of both legs is closed: 0.1 BTC of spot for 10,000 USDT and 0.1 BTC of
    perpetual bought. Costs 2 x 27.50 USD.
    """
    found = book(swap("BTC-USDT-SWAP", -1.0, 1e5), balances={"BTC": 1.0, "USDT": -97_000.0})
    done = run(found, slices__max_slices=1.0)
    assert done.level_before == pytest.approx(1_000 / (2_390 + 98.94))
    assert stages(done) == [("basis", 1)]
    assert traded(done) == pytest.approx({"BTC-USDT": -0.1, "BTC-USDT-SWAP": 0.1})
    assert done.portfolio_after["balances"] == pytest.approx(
        {"BTC": 0.9, "USDT": -97_000.0 + 10_000.0 - 55.0}
    )


def test_reduction_takes_the_leg_that_frees_most_for_its_costs() -> None:
    """5 BTC and 100,000 FOO (group 3, 1 USD each) long, 80,000 USDT, no stages before it.

    BTC: 12.2 % x 500,000 = 61,000, a slice of 50,000 frees 6,100 for 137.50: 44.4 for 1.
    FOO: (25 % + 1 %) x 100,000 = 26,000, a slice of 10,000 frees 2,600 for 0.55 % = 55: 47.3 for
    1, so FOO goes first. Level 80,000 / 87,000 = 0.91954. After 5: 79,725 / 74,000 = 1.07736;
    after 6: 79,670 / 71,400 = 1.11583.
    """
    done = run(
        book(
            swap("BTC-USDT-SWAP", 5.0, 1e5),
            swap("FOO-USDT-SWAP", 1e5, 1.0),
            balances={"USDT": 80_000.0},
        ),
        stages__order=["cancel", "reduction"],
    )
    assert stages(done) == [("reduction", 6)]
    assert traded(done) == pytest.approx({"FOO-USDT-SWAP": -60_000.0})
    assert (done.level_before, done.level_after) == pytest.approx((80 / 87, 79_670 / 71_400))
    assert done.steps[0].chosen == (
        "FOO-USDT-SWAP frees 2,600.00 USD of maintenance margin for 55.00 USD of cost"
    )


def test_reduction_repays_debts_by_selling_assets() -> None:
    """No positions: 1 BTC, 97,000 USDT owed. MR8 = 2 % x 97,000 = 1,940, fee 98.94.

    Adjusted 98,000 - 97,000 = 1,000, level 0.49046. A slice repays 9,700 USD: 9,700 / (1 -
    0.275 %) = 9,726.75 USD of BTC are sold.
    """
    done = run(book(balances={"BTC": 1.0, "USDT": -97_000.0}), slices__max_slices=1.0)
    assert done.level_before == pytest.approx(1_000 / (1_940 + 98.94))
    assert stages(done) == [("reduction", 1)]
    assert traded(done) == pytest.approx({"BTC-USDT": -9_700 / 0.99725 / 1e5})
    assert done.portfolio_after["balances"]["USDT"] == pytest.approx(-87_300.0)


def test_orders_are_cancelled_first_and_that_may_do() -> None:
    """An order of 30 BTC more than doubles the charge; without it the level is 1.23."""
    instrument, row = swap("BTC-USDT-SWAP", 10.0, 1e5)
    order = {**row, "contracts": 30.0, "price": 1e5}
    done = run(book((instrument, row), orders=[order], balances={"USDT": 1.5e5}))
    assert stages(done) == [("cancel", 1)]
    assert done.portfolio_after["orders"] == []
    assert (done.level_before, done.level_after) == pytest.approx((150 / 488, 150 / 122))
    assert done.equity_after_usd == done.equity_before_usd


def test_the_price_of_an_order_is_kept_for_a_hedge() -> None:
    """A hedge may be opened in an instrument of which only an order told the price."""
    calls = option("BTC-USD-F-1000-C", YEAR, 10.0, 0.01, forward=1e5, mark_iv=0.5)
    instrument, row = swap("BTC-USDT-SWAP", 0.0, 1e5)
    found = book(calls, balances={"USDC": 1e5})
    found["instruments"].append(instrument)
    found["orders"] = [{**row, "contracts": 0.001, "price": 1e5}]
    done = run(found, slices__max_slices=2.0)
    assert stages(done) == [("cancel", 1), ("ddh2", 1)]
    assert "BTC-USDT-SWAP" in traded(done)


def test_a_higher_tier_trades_at_its_multiplier() -> None:
    """1,000 BTC: raw minimum charge 450,000, second tier, so slippage 0.45 % of the size."""
    found = book(swap("BTC-USDT-SWAP", 1_000.0, 1e5), balances={"USDT": 1e7})
    for choice, multiplier in (("tier", 2.0), ("average", 650 / 450), ("none", 1.0)):
        done = run(found, slices__max_slices=1.0, slippage__multiplier=choice)
        assert done.slippage_usd == pytest.approx(1e7 * 0.00225 * multiplier)
    assert run(found, slices__max_slices=1.0, slippage__model="none").slippage_usd == 0.0


def test_selling_an_option_never_costs_more_than_it_brings() -> None:
    """A worthless call: neither fee nor slippage, a price of 0."""
    calls = option("BTC-USD-F-900000-C", YEAR, 5.0, 1e-6, forward=1e5, mark_iv=0.3)
    found = book(calls, swap("BTC-USDT-SWAP", 10.0, 1e5), balances={"USDT": -1e6})
    done = run(found)
    [sold] = [t for step in done.steps for t in step.traded if t.kind == "option"]
    assert sold.fee_usd + sold.slippage_usd <= 5.0 * 1e-6 * 1e5 + 1e-12
    assert sold.price >= 0.0
    assert done.status == "bankrupt"


def test_what_is_missing_at_the_end_is_bad_debt() -> None:
    """10 BTC bought at 130,000, 100,000 USDT: equity -200,000, and 2,750 USD of costs."""
    done = run(book(swap("BTC-USDT-SWAP", 10.0, 1e5, entry_price=1.3e5), balances={"USDT": 1e5}))
    assert stages(done)[-1] == ("bankruptcy", 0)
    assert done.bad_debt_usd == pytest.approx(202_750.0)
    assert (done.equity_after_usd, done.portfolio_after["balances"]) == (0.0, {})


def test_a_liquidation_goes_on_from_105_percent_only_if_it_has_begun() -> None:
    found = book(swap("BTC-USDT-SWAP", 10.0, 1e5), balances={"USDT": 128_100.0})
    assert run(found).status == "untouched"
    done = liquidate(found, merged_numbers(), rules_of(), active=True)
    assert stages(done) == [("ddh2", 1)]


def test_split_units_have_no_ddh1() -> None:
    """The hedge across stablecoins under the rules of 2024-06-05: two units, no MR9.

    Each unit: MR1 15 % x 1,000,000 = 150,000, MR4 0.6 % = 6,000. Level 300,000 / 312,000. A slice
    costs 275 and frees 15,600: after 3, 299,175 / 265,200 = 1.12811.
    """
    numbers = load_parameter_set(PARAMS / "okx-split-2024-06-05.toml").numbers()
    found = book(
        swap("BTC-USDT-SWAP", 10.0, 1e5 / 0.93),
        swap("BTC-USDC-SWAP", -10.0, 1e5),
        index_usd={"USDT": 0.93},
        balances={"USDC": 290_700.0, "USDT": 10_000.0},
    )
    done = liquidate(found, numbers, rules_of())
    assert stages(done) == [("ddh2", 3)]
    assert done.level_before == pytest.approx(300 / 312)
    assert done.level_after == pytest.approx(299_175 / 265_200)


def test_rules_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="of the model 'bybit'"):
        liquidate(book(), merged_numbers(), rules_of("bybit"))


def test_an_account_without_a_price_is_left_alone() -> None:
    instrument, row = swap("BTC-USDT-SWAP", 10.0, 1e5)
    found = book((instrument, {**row, "mark_price": None}), balances={"USDT": 1e5})
    done = liquidate(found, merged_numbers(), rules_of(), active=True)
    assert (done.status, done.is_active, done.steps) == ("unpriced", True, [])
    assert done.portfolio_after is found


def traded_once(row: tuple[dict[str, Any], ...], contracts: float) -> tuple[Account, Account]:
    """The account of 1 BTC before and after a trade in its perpetual."""
    numbers, rules = merged_numbers(), rules_of()
    first = account_of(book(row, balances={"USDT": 1e5}), numbers)
    leg = first.legs["BTC-USDT-SWAP"]
    fill = fill_of(leg, contracts, first, numbers, rules)
    return first, account_of(after_fills(first, [fill]), numbers)


def test_a_trade_beyond_the_position_opens_the_other_side() -> None:
    """1 BTC bought at 90,000, 3 sold at 100,000: 10,000 are paid out, -2 stand at 100,000."""
    first, last = traded_once(swap("BTC-USDT-SWAP", 1.0, 1e5, entry_price=9e4), -3.0)
    assert last.legs["BTC-USDT-SWAP"]["contracts"] == -2.0
    assert last.cash["USDT"] == pytest.approx(1e5 + 1e4 - 3 * 275.0)
    assert last.equity_usd == pytest.approx(first.equity_usd - 3 * 275.0)


def test_what_closes_all_but_dust_closes_all() -> None:
    _, last = traded_once(swap("BTC-USDT-SWAP", 1.0, 1e5), -1.0 + 1e-12)
    assert last.legs == {}


def test_basis_leaves_options_alone_where_they_are_not_charged() -> None:
    """Rules of 2023-07-12 charge futures only; a call of the same expiry keeps its size."""
    numbers = load_parameter_set(PARAMS / "okx-split-2023-07-12.toml").numbers()
    calls = option("BTC-USD-F-90000-C", YEAR, 1.0, 0.2, forward=1e5, mark_iv=0.5)
    found = book(
        calls,
        future("BTC-USD-Y", YEAR, 1e4, 1e5, multiplier=100.0),
        swap("BTC-USD-SWAP", -1e4, 1e5, multiplier=100.0),
        balances={"BTC": 0.5},
    )
    done = liquidate(found, numbers, rules_of(stages__order=["basis"]), active=True)
    assert {t.instrument_id for step in done.steps for t in step.traded} == {
        "BTC-USD-Y",
        "BTC-USD-SWAP",
    }
