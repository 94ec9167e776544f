"""The accounts of the hand-worked stages through the kernels, and what must hold of every one."""

from typing import Any

import numpy as np
import pytest

from backtest.params import load_parameter_set
from backtest.reference.liquidation import liquidate
from tests.bybit_books import numbers_of
from tests.okx_books import PARAMS, future, merged_numbers, option, swap
from tests.unit.liquidation.kernel_books import differences, liquidated, world_of
from tests.unit.liquidation.liquidation_books import book, random_books, rules_of


YEAR = "2026-03-01T08:00:00Z"
MONTH = "2025-03-31T08:00:00Z"


def run(
    found: dict[str, Any],
    numbers: dict[str, Any] | None = None,
    model: str = "okx",
    *,
    active: bool = False,
    **changed: Any,
) -> dict[str, Any]:
    """The kernels on one account, which must agree with the reference in everything."""
    numbers = numbers or merged_numbers()
    rules = rules_of(model, **changed)
    (done,) = liquidated(world_of([found], numbers, rules), np.asarray([active]))
    expected = liquidate(found, numbers, rules, active=active)
    assert differences(expected, done) == []
    return done


def stages(done: dict[str, Any]) -> list[tuple[str, int]]:
    return [(step["stage"], step["slices"]) for step in done["steps"]]


def traded(done: dict[str, Any]) -> dict[str, float]:
    return {name: n for step in done["steps"] for name, n in step["traded"].items()}


def test_ddh2_reduces_what_makes_the_delta() -> None:
    """122,000 of margin; a slice of 1 BTC costs 275: after 3, 99,175 / 85,400."""
    done = run(book(swap("BTC-USDT-SWAP", 10.0, 1e5), balances={"USDT": 1e5}))
    assert stages(done) == [("ddh2", 3)]
    assert traded(done) == pytest.approx({"BTC-USDT-SWAP": -3.0}, rel=1e-12)
    assert done["level"] == pytest.approx((100 / 122, 99_175 / 85_400), rel=1e-12)
    assert (done["fees_usd"], done["slippage_usd"]) == pytest.approx((150.0, 675.0), rel=1e-12)


def test_ddh2_opens_a_perpetual_where_options_make_the_delta() -> None:
    """10 deep calls: a tenth of 10 BTC is sold, for 0.275 % of 100,000 USD."""
    calls = option("BTC-USD-F-1000-C", YEAR, 10.0, 0.01, forward=1e5, mark_iv=0.5)
    found = book(calls, swap("BTC-USDT-SWAP", 0.0, 1e5), balances={"USDC": 1e5})
    done = run(found, slices__max_slices=1.0)
    assert traded(done) == pytest.approx({"BTC-USDT-SWAP": -1.0}, rel=1e-6)
    assert done["fees_usd"] + done["slippage_usd"] == pytest.approx(275.0, rel=1e-6)
    assert (done["status"], done["is_active"]) == ("unfinished", True)
    run(found, slices__max_slices=4.0, ddh2__may_open=False)


def test_ddh1_closes_both_sides_of_the_worst_pair() -> None:
    """MR9 9 % x 1,000,000; a slice is 1 BTC of each side for 550: 78,350 / 63,000 after 3."""
    done = run(
        book(
            swap("BTC-USDT-SWAP", 10.0, 1e5 / 0.93),
            swap("BTC-USDC-SWAP", -10.0, 1e5),
            index_usd={"USDT": 0.93},
            balances={"USDT": 10_000.0, "USDC": 70_700.0},
        )
    )
    assert stages(done) == [("ddh1", 3)]
    assert traded(done) == pytest.approx({"BTC-USDT-SWAP": -3.0, "BTC-USDC-SWAP": 3.0})
    assert done["level"][1] == pytest.approx(78_350 / 63_000)
    assert done["cash"]["USDT"] == pytest.approx(10_000 - 825 / 0.93)


def test_basis_closes_opposite_maturities_together() -> None:
    """MR4 52,000; a slice is 100,000 USD of each for 550: 48,900 / 41,600 after 2."""
    done = run(
        book(
            future("BTC-USDT-Y", YEAR, 10.0, 1e5),
            swap("BTC-USDT-SWAP", -10.0, 1e5),
            balances={"USDT": 50_000.0},
        )
    )
    assert stages(done) == [("basis", 2)]
    assert done["level"] == pytest.approx((50 / 52, 48_900 / 41_600))


def test_basis_takes_spot() -> None:
    """0.1 BTC of spot for 10,000 USDT against 0.1 BTC of perpetual, costs 55 USD."""
    found = book(swap("BTC-USDT-SWAP", -1.0, 1e5), balances={"BTC": 1.0, "USDT": -97_000.0})
    done = run(found, slices__max_slices=1.0)
    assert traded(done) == pytest.approx({"spot BTC": -0.1, "BTC-USDT-SWAP": 0.1})
    assert done["cash"]["USDT"] == pytest.approx(-97_000.0 + 10_000.0 - 55.0)


def test_reduction_takes_the_leg_that_frees_most_for_its_costs() -> None:
    """FOO frees 2,600 for 55, BTC 6,100 for 137.50: six slices of FOO."""
    done = run(
        book(
            swap("BTC-USDT-SWAP", 5.0, 1e5),
            swap("FOO-USDT-SWAP", 1e5, 1.0),
            balances={"USDT": 80_000.0},
        ),
        stages__order=["cancel", "reduction"],
    )
    assert traded(done) == pytest.approx({"FOO-USDT-SWAP": -60_000.0})
    assert done["level"] == pytest.approx((80 / 87, 79_670 / 71_400))


def test_reduction_repays_debts_by_selling_assets() -> None:
    """9,700 USDT of 97,000: 9,700 / (1 - 0.275 %) USD of BTC."""
    done = run(book(balances={"BTC": 1.0, "USDT": -97_000.0}), slices__max_slices=1.0)
    assert traded(done) == pytest.approx({"spot BTC": -9_700 / 0.99725 / 1e5})
    assert done["cash"]["USDT"] == pytest.approx(-87_300.0)


def test_orders_are_cancelled_first() -> None:
    instrument, row = swap("BTC-USDT-SWAP", 10.0, 1e5)
    order = {**row, "contracts": 30.0, "price": 1e5}
    done = run(book((instrument, row), orders=[order], balances={"USDT": 1.5e5}))
    assert stages(done) == [("cancel", 1)]
    assert done["level"] == pytest.approx((150 / 488, 150 / 122))


def test_the_multiplier_of_the_tier_is_paid() -> None:
    found = book(swap("BTC-USDT-SWAP", 1_000.0, 1e5), balances={"USDT": 1e7})
    for choice, multiplier in (("tier", 2.0), ("average", 650 / 450), ("none", 1.0)):
        done = run(found, slices__max_slices=1.0, slippage__multiplier=choice)
        assert done["slippage_usd"] == pytest.approx(1e7 * 0.00225 * multiplier)
    assert run(found, slices__max_slices=1.0, slippage__model="none")["slippage_usd"] == 0.0
    run(found, slices__max_slices=1.0, slippage__model="flat")


def test_what_is_missing_at_the_end_is_bad_debt() -> None:
    done = run(book(swap("BTC-USDT-SWAP", 10.0, 1e5, entry_price=1.3e5), balances={"USDT": 1e5}))
    assert stages(done)[-1] == ("bankruptcy", 0)
    assert done["bad_debt_usd"] == pytest.approx(202_750.0)
    assert done["equity_usd"][1] == 0.0


def test_a_closed_account_may_leave_its_surplus_to_the_fund() -> None:
    """From far above the trigger nothing is taken; a tiny account is closed altogether."""
    found = book(swap("BTC-USDT-SWAP", 0.0009, 1e5), balances={"USDT": 5.0})
    done = run(found, fund__surplus_share=0.5)
    assert (done["status"], done["contracts"]) == ("safe", {})
    assert done["surplus_usd"] == pytest.approx(0.5 * (5.0 - 0.00275 * 90.0))


def test_a_liquidation_goes_on_from_105_percent_only_if_it_has_begun() -> None:
    found = book(swap("BTC-USDT-SWAP", 10.0, 1e5), balances={"USDT": 128_100.0})
    assert run(found)["status"] == "untouched"
    assert stages(run(found, active=True)) == [("ddh2", 1)]


def test_an_account_without_a_price_is_left_alone() -> None:
    instrument, row = swap("BTC-USDT-SWAP", 10.0, 1e5)
    found = book((instrument, {**row, "mark_price": None}), balances={"USDT": 1e5})
    found["positions"][0]["entry_price"] = 1e5
    done = liquidated(world_of([found], merged_numbers(), rules_of()), np.asarray([True]))[0]
    assert (done["status"], done["is_active"], done["steps"]) == ("unpriced", True, [])
    assert done["contracts"] == {"BTC-USDT-SWAP": 10.0}


@pytest.mark.slow
def test_split_units_have_no_ddh1() -> None:
    """Two units of 156,000 each: 3 slices of 15,600, 299,175 / 265,200."""
    numbers = load_parameter_set(PARAMS / "okx-split-2024-06-05.toml").numbers()
    found = book(
        swap("BTC-USDT-SWAP", 10.0, 1e5 / 0.93),
        swap("BTC-USDC-SWAP", -10.0, 1e5),
        index_usd={"USDT": 0.93},
        balances={"USDC": 290_700.0, "USDT": 10_000.0},
    )
    done = run(found, numbers)
    assert stages(done) == [("ddh2", 3)]
    assert done["level"] == pytest.approx((300 / 312, 299_175 / 265_200))


def test_bybit_repays_debts_from_a_rate_of_85_percent() -> None:
    """83,150 / (1 - 0.275 %) USD of BTC; below 85 % nothing."""
    done = run(book(balances={"BTC": 1.0, "USDT": -83_150.0}), numbers_of(), "bybit")
    assert stages(done) == [("repay", 1)]
    assert done["cash"]["BTC"] == pytest.approx(1.0 - 83_150 / 0.99725 / 1e5)
    assert done["cash"]["USDT"] == pytest.approx(0.0, abs=1e-9)
    calm = run(book(balances={"BTC": 1.0, "USDT": -82_900.0}), numbers_of(), "bybit")
    assert (calm["status"], calm["steps"]) == ("untouched", [])


def test_bybit_closes_in_part_until_a_rate_of_90_percent() -> None:
    """100,300 at first, 10,030 a slice for 275: 80,240 / 99,450 after 2."""
    done = run(
        book(swap("BTC-USDT-SWAP", 10.0, 1e5), balances={"USDT": 1e5}), numbers_of(), "bybit"
    )
    assert stages(done) == [("partial", 2)]
    assert 1.0 / done["level"][1] == pytest.approx(80_240 / 99_450)


@pytest.mark.slow
def test_spot_that_is_sold_and_bought_again_counts_with_both_sizes() -> None:
    """The hedge of a unit is opened against spot and turned round within one step of slices."""
    found = random_books(1_002, 41, merged_numbers())[40]
    done = run(found)
    spot = [n for s in done["steps"] for name, n in s["traded"].items() if name == "spot BTC"]
    assert len(spot) == 2


def test_every_account_is_for_itself() -> None:
    """Neither the order of accounts nor who else is there changes a bit."""
    legs = swap("BTC-USDT-SWAP", 10.0, 1e5), swap("ETH-USDT-SWAP", -50.0, 3e3)
    found = [
        book(*legs, balances={"USDT": cash, "BTC": coins})
        for cash, coins in ((1e5, 0.0), (9e4, 0.1), (-2e5, 1.0), (1e6, 0.0), (6e4, 0.2))
    ]
    numbers, rules = merged_numbers(), rules_of()
    together = liquidated(world_of(found, numbers, rules))
    backwards = liquidated(world_of(found[::-1], numbers, rules))[::-1]
    alone = [liquidated(world_of([each], numbers, rules))[0] for each in found]
    assert together == backwards
    for one, all_of_them in zip(alone, together, strict=True):
        assert (one["steps"], one["contracts"]) == (all_of_them["steps"], all_of_them["contracts"])
