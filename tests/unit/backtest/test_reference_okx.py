import math
from typing import Any

import pytest

from backtest.reference.okx import margin, status_of
from tests.okx_books import future, merged_numbers, option, portfolio, swap


NUMBERS = merged_numbers()
INDEX = {"BTC": 60_000.0, "SOL": 150.0, "USDT": 1.0, "USDC": 1.0}
PAST = "2025-03-01T08:00:00Z"


def answer(*contracts: Any, **keys: Any) -> dict[str, Any]:
    return margin(portfolio(*contracts, **{"index_usd": INDEX, **keys}), NUMBERS)


def test_a_flat_account_needs_nothing():
    found = answer(balances={"USDT": 50.0, "BTC": 1.0})
    account = found["account"]
    assert account["status"] == "no_requirement"
    assert account["margin_level"] is None
    assert account["equity_usd"] == 60_050.0
    assert account["adjusted_equity"] == pytest.approx(50.0 + 58_800.0)
    assert set(account["theta"].values()) == {math.inf}
    assert list(found["units"]) == ["BTC"]
    assert found["units"]["BTC"]["mmr"] == 0.0
    assert len(found["units"]["BTC"]["mr1_cells"]) == 21


def test_an_empty_account():
    found = answer()
    assert found["units"] == {}
    assert found["account"]["status"] == "no_requirement"
    assert found["account"]["equity_usd"] == 0.0


def test_only_debt():
    """-10,000 USDC beside 1,000 USDT: MR8 2 %, the fee (1 + 2 %) x 0.1 %; bankrupt."""
    found = answer(balances={"USDC": -10_000.0, "USDT": 1_000.0})
    account = found["account"]
    assert found["units"] == {}
    assert account["mr8"] == account["total_mmr"] == pytest.approx(200.0)
    assert account["total_imr"] == account["borrow_imr"] == pytest.approx(1_000.0)
    assert account["margin_level"] == pytest.approx(-9_000.0 / (200.0 + 10.2))
    assert account["status"] == "bankrupt"
    assert set(account["theta"].values()) == {0.0}


def test_borrowing_against_a_coin():
    """1 BTC (98 %) and -20,000 USDC: level (58,800 - 20,000) / (400 + 20.4)."""
    account = answer(balances={"USDC": -20_000.0, "BTC": 1.0})["account"]
    assert account["margin_level"] == pytest.approx(38_800.0 / 420.4)
    assert account["status"] == "ok"
    assert account["theta"]["mr8"] == pytest.approx((38_800.0 - 20.4) / 400.0)
    assert account["theta"]["mr1"] == math.inf


def test_a_debt_in_a_coin_hedges_its_long_perpetual():
    found = answer(swap("BTC-USDT-SWAP", 2.0, 60_000.0), balances={"BTC": -1.5, "USDT": 200_000.0})
    unit = found["units"]["BTC"]
    assert (unit["spot_in_use"], unit["delta"], unit["cash_delta"]) == (-1.5, 0.5, 30_000.0)
    assert unit["mr1"] == pytest.approx(0.5 * 60_000.0 * 0.12)
    assert unit["mr4"] == pytest.approx((90_000.0 + 120_000.0) * 0.002)
    assert found["account"]["mr8"] == pytest.approx(90_000.0 * 0.03)


def test_two_units_do_not_offset():
    found = answer(
        swap("BTC-USDT-SWAP", 1.0, 60_000.0),
        swap("SOL-USDT-SWAP", -400.0, 150.0),
        balances={"USDT": 100_000.0},
    )
    units = found["units"]
    btc = 60_000.0 * (0.12 + 0.002)
    sol = 60_000.0 * (0.18 + 0.008)
    assert units["BTC"]["mmr"] == pytest.approx(btc)
    assert units["SOL"]["mmr"] == pytest.approx(sol)
    assert found["account"]["derivatives_mmr"] == pytest.approx(btc + sol)
    assert found["account"]["total_imr"] == pytest.approx(1.3 * (btc + sol))


def test_equity_of_a_coin_takes_options_and_inverse_pnl():
    """2 BTC - 0.5 coins of a sold call + 6,000 USD (1/50,000 - 1/60,000) of an inverse future."""
    found = answer(
        swap("BTC-USD-SWAP", 60.0, 60_000.0, multiplier=100.0, entry_price=50_000.0),
        option(
            "BTC-USD-D-50000-C",
            "2025-06-27T08:00:00Z",
            -5.0,
            0.1,
            mark_iv=0.5,
            forward=61_000.0,
            entry_price=0.15,
        ),
        balances={"BTC": 2.0},
    )
    equity = 2.0 - 0.5 + 6_000.0 * (1.0 / 50_000.0 - 1.0 / 60_000.0)
    assert found["detail"]["collateral"]["BTC"]["equity"] == pytest.approx(equity, rel=1e-12)
    upl = (5.0 * 0.05 + 0.02) * 60_000.0
    assert found["units"]["BTC"]["upl"] == pytest.approx(upl, rel=1e-12)


def test_expired_legs_leave_only_their_settlement():
    settled = {"settlement_index_usd": {"BTC": 59_000.0, "USDT": 1.0}}
    found = answer(
        future("BTC-USDT-F", PAST, 2.0, 60_000.0, entry_price=60_000.0, **settled),
        balances={"USDT": 5_000.0},
    )
    assert found["units"] == {}
    assert found["account"]["equity_usd"] == pytest.approx(3_000.0)
    assert found["account"]["status"] == "no_requirement"
    assert found["detail"]["settled"][0]["value"] == pytest.approx(-2_000.0)


def test_the_same_instrument_twice_is_one_leg():
    twice = answer(swap("BTC-USDT-SWAP", 3.0, 60_000.0), swap("BTC-USDT-SWAP", -1.0, 60_000.0))
    once = answer(swap("BTC-USDT-SWAP", 2.0, 60_000.0))
    assert twice == once


def test_a_missing_price_makes_the_account_unpriced():
    found = answer(
        swap("BTC-USDT-SWAP", 1.0, math.nan), balances={"XYZ": 1.0, "ABC": 0.0, "USDT": -9.0}
    )
    assert found["units"] == {}
    assert found["account"]["status"] == "unpriced"
    assert found["account"]["margin_level"] is None
    assert found["account"]["total_mmr"] is None
    assert found["account"]["theta"] is None
    assert found["detail"]["unpriced"] == ["mark_price of BTC-USDT-SWAP", "index of XYZ"]


def test_a_stablecoin_off_its_peg_moves_equity_and_notional():
    index = {**INDEX, "USDT": 0.9}
    found = answer(
        swap("BTC-USDT-SWAP", -1.0, 66_000.0, entry_price=65_000.0),
        index_usd=index,
        balances={"USDT": 11_000.0},
    )
    unit, account = found["units"]["BTC"], found["account"]
    assert unit["cash_delta"] == pytest.approx(-59_400.0)
    assert unit["upl"] == pytest.approx(-900.0)
    assert unit["mr1"] == pytest.approx(7_200.0)
    assert account["equity_usd"] == pytest.approx(9_000.0)
    assert account["margin_level"] == pytest.approx(9_000.0 / (7_200.0 + 59_400.0 * 0.002))
    assert account["status"] == "warning"


@pytest.mark.parametrize(
    ("equity", "level", "status"),
    [
        (-1.0, -0.1, "bankrupt"),
        (-1.0, None, "bankrupt"),
        (50_000.0, 1.0, "liquidation"),
        (5_000.0, 0.5, "liquidation"),
        (5_000.0, None, "no_requirement"),
        (50_000.0, 1.0000001, "warning"),
        (5_000.0, 2.999, "warning"),
        (5_000.0, 3.0, "ineligible"),
        (10_000.0, 3.0, "ok"),
    ],
)
def test_status(equity: float, level: float | None, status: str):
    assert status_of(equity, level, NUMBERS) == status


def test_break_even_of_one_charge_in_two_units():
    """BTC grows by 7,200 and SOL by 10,800 a unit of theta; both MR7 floors come first."""
    found = answer(
        swap("BTC-USDT-SWAP", 1.0, 60_000.0),
        swap("SOL-USDT-SWAP", -400.0, 150.0),
        balances={"USDT": 100_000.0},
    )
    basis = 60_000.0 * (0.002 + 0.008)
    theta = found["account"]["theta"]
    # MR6 equals MR1 in a linear book and keeps the margin up when MR1 is scaled down.
    assert theta["mr1"] == pytest.approx((100_000.0 - basis) / 18_000.0)
    assert theta["mr6"] == pytest.approx(theta["mr1"])
    assert theta["mr4"] == pytest.approx((100_000.0 - 18_000.0) / basis)
    assert theta["mr7"] == pytest.approx(100_000.0 / (270.0 + 420.0))
    assert theta["mr2"] == theta["mr9"] == math.inf


def test_an_unknown_era_is_refused():
    with pytest.raises(ValueError, match="era 'joined'; allowed: merged, split"):
        margin(portfolio(index_usd={}), {**NUMBERS, "era": "joined"})
