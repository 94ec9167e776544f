"""One account a stage, worked out by hand; set of 2025-01-10, slices of 10 %, flat slippage.

BTC stands at 100,000 USD; a trade of BTC costs 0.05 % + 0.225 % = 0.275 % of its size.
"""

import pytest

from backtest.reference.liquidation import liquidate
from tests.bybit_books import numbers_of, stable_option
from tests.okx_books import swap
from tests.unit.liquidation.liquidation_books import book, rules_of


def test_debts_are_repaid_from_a_rate_of_85_percent() -> None:
    """1 BTC, 83,150 USDT owed.

    Borrowing margin 2 % x 83,150 = 1,663; equity as collateral 85,000 - 83,150 = 1,850; rate
    0.89892. BTC of x USD is sold with x (1 - 0.275 %) = 83,150: x = 83,379.2931, costs 229.2931.
    """
    found = book(balances={"BTC": 1.0, "USDT": -83_150.0})
    done = liquidate(found, numbers_of(), rules_of("bybit"))
    assert 1.0 / done.level_before == pytest.approx(1_663 / 1_850)
    assert [(step.stage, step.target, step.slices) for step in done.steps] == [("repay", "USDT", 1)]
    assert done.steps[0].chosen == "margin rate 89.89%, 83,150.00 USD owed in USDT"
    sold = 83_150 / (1.0 - 0.00275)
    assert done.notional_usd == pytest.approx(sold)
    left = done.portfolio_after["balances"]
    assert left["BTC"] == pytest.approx(1.0 - sold / 1e5)
    assert left["USDT"] == pytest.approx(0.0, abs=1e-9)
    assert done.equity_after_usd == pytest.approx(16_850.0 - (sold - 83_150.0))
    assert (done.status, done.is_active) == ("safe", False)


def test_below_85_percent_debts_stay() -> None:
    """82,900 USDT owed: 1,658 / 2,100 = 0.78952."""
    found = book(balances={"BTC": 1.0, "USDT": -82_900.0})
    done = liquidate(found, numbers_of(), rules_of("bybit"))
    assert (done.status, done.steps) == ("untouched", [])


def test_positions_are_closed_until_a_rate_of_90_percent() -> None:
    """10 BTC of perpetual long, 100,000 USDT.

    Worst loss 10 % x 1,000,000 = 100,000, contingency 0.03 % = 300: MM 100,300, rate 1.003. A
    slice frees 10,030 and costs 275. After 1: 90,270 / 99,725 = 0.90519; after 2: 80,240 /
    99,450 = 0.80684.
    """
    found = book(swap("BTC-USDT-SWAP", 10.0, 1e5), balances={"USDT": 1e5})
    done = liquidate(found, numbers_of(), rules_of("bybit"))
    assert [(step.stage, step.slices) for step in done.steps] == [("partial", 2)]
    assert 1.0 / done.level_before == pytest.approx(1.003)
    assert 1.0 / done.level_after == pytest.approx(80_240 / 99_450)
    assert done.fees_usd == pytest.approx(100.0)
    assert done.slippage_usd == pytest.approx(450.0)
    assert done.steps[0].charges_before["max_loss"] == pytest.approx(100_000.0)


def test_orders_go_first_then_perpetuals_before_short_options() -> None:
    instrument, row = swap("BTC-USDT-SWAP", 10.0, 1e5)
    puts = stable_option(
        "BTC-USDT-F-100000-P", "2025-03-31T08:00:00Z", -10.0, 7_000.0, forward=1e5, mark_iv=0.6
    )
    found = book((instrument, row), puts, balances={"USDT": 2.2e5})
    found["orders"] = [{**row, "contracts": 1.0, "price": 1e5}]
    done = liquidate(found, numbers_of(), rules_of("bybit"))
    assert [step.stage for step in done.steps] == ["cancel", "partial"]
    assert done.steps[1].traded[0].instrument_id == "BTC-USDT-SWAP"
    assert 1.0 / done.level_after <= 0.9 or not done.is_active


def test_realised_losses_are_repaid_on_the_way() -> None:
    """A perpetual that lost 60,000 USDT, paid by 1.5 BTC: repaid first, then closed."""
    found = book(swap("BTC-USDT-SWAP", 10.0, 1e5, entry_price=1.06e5), balances={"BTC": 1.5})
    done = liquidate(found, numbers_of(), rules_of("bybit"))
    assert done.steps[0].stage == "repay"
    assert done.steps[0].target == "USDT"
    assert "partial" in [step.stage for step in done.steps]
    assert 1.0 / done.level_after <= 0.9
