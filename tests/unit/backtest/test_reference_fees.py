from typing import Any

import pytest

from backtest.reference.okx import margin
from backtest.reference.okx_fees import (
    borrow_rates,
    depeg_rate,
    discounted,
    marginal_tiers,
    mr8,
    mr9_pair,
)
from tests.okx_books import merged_numbers, option, portfolio, swap


NUMBERS = merged_numbers()
INDEX = {"BTC": 60_000.0, "XYZ": 2.0, "USDT": 1.0, "USDC": 1.0}
EXPIRY = "2025-06-27T08:00:00Z"


def answer(*contracts: Any, numbers: dict[str, Any] = NUMBERS, **keys: Any) -> dict[str, Any]:
    return margin(portfolio(*contracts, **{"index_usd": INDEX, **keys}), numbers)


@pytest.mark.parametrize(
    ("amount", "total"), [(0.0, 0.0), (10.0, 10.0), (15.0, 20.0), (20.0, 30.0), (120.0, 330.0)]
)
def test_marginal_tiers(amount: float, total: float):
    slices = marginal_tiers(amount, [10.0, 20.0], [1.0, 2.0, 3.0])
    assert sum(part["value"] for part in slices) == total
    assert sum(part["amount"] for part in slices) == amount


def test_marginal_tiers_without_a_rate_above_the_last_bound():
    slices = marginal_tiers(50.0, [10.0, 20.0], [1.0, 2.0])
    assert sum(part["value"] for part in slices) == 30.0


@pytest.mark.parametrize(
    ("contracts", "strike", "expected"),
    [
        (-2.0, 50_000, 0.022 * 2.0 * 60_000.0),  # short: 2.2 % of the notional
        (2.0, 50_000, 0.022 * 2.0 * 60_000.0),  # long, worth 10,000 USD a coin: the same
        (2.0, 59_400, 2.0 * 600.0),  # long, worth 600 USD a coin: its value
        (2.0, 70_000, 0.0),  # long and worthless
    ],
)
def test_mr7_of_options(contracts: float, strike: int, expected: float):
    data = {"mark_iv": 0.0, "forward": 60_000.0}
    leg = option(f"BTC-USD-D-{strike}-C", EXPIRY, contracts, 0.1, **data)
    assert answer(leg)["units"]["BTC"]["mr7"] == pytest.approx(expected, abs=1e-9)


def test_mr7_is_gross_over_legs_and_takes_a_rate_of_the_coin():
    numbers = merged_numbers()
    contracts = (
        swap("XYZ-USDT-SWAP", 100.0, 2.0),
        swap("XYZ-USD-SWAP", -15.0, 2.0, multiplier=10.0),
    )
    assert answer(*contracts)["units"]["XYZ"]["mr7"] == pytest.approx(350.0 * 0.01, rel=1e-12)
    numbers["mr7"]["coin_linear_rate"] = {"XYZ": 0.02}
    found = answer(*contracts, numbers=numbers)["units"]["XYZ"]["mr7"]
    assert found == pytest.approx(7.0, rel=1e-12)


def test_mr7_multiplier_of_a_large_position():
    """100M USD x 0.45 % = 450,000 raw: 250,000 x 1 + 200,000 x 2."""
    found = answer(swap("BTC-USDT-SWAP", 2_000.0, 50_000.0))["units"]["BTC"]["mr7"]
    assert found == pytest.approx(650_000.0, rel=1e-12)


@pytest.mark.parametrize(
    ("coins", "mmr", "imr"),
    [
        (35.0, 0.03, 0.10),
        (35.01, 0.0625, 0.125),
        (105.0, 0.10, 0.20),
        (105.01, 0.11, 0.21),
        (140.0, 0.11, 0.21),
        (140.01, 0.12, 0.22),
        (455.0, 0.20, 0.30),
    ],
)
def test_borrow_tiers_of_bitcoin(coins: float, mmr: float, imr: float):
    rates = borrow_rates(coins, 60_000.0, "BTC", NUMBERS)
    assert (rates["mmr"], rates["imr"]) == (pytest.approx(mmr), pytest.approx(imr))


@pytest.mark.parametrize(
    ("usd", "mmr"),
    [(1e6, 0.02), (1.01e6, 0.03), (2e6, 0.03), (2.01e6, 0.04), (8e6, 0.05), (8.01e6, 0.06)],
)
def test_borrow_tiers_double(usd: float, mmr: float):
    rates = borrow_rates(usd / 2.0, 2.0, "XYZ", NUMBERS)
    assert (rates["mmr"], rates["imr"]) == (pytest.approx(mmr), pytest.approx(mmr + 0.08))


def test_a_borrow_tier_without_tail_stays_at_its_last_rate():
    numbers = merged_numbers()
    numbers["mr8"]["tiers"]["XYZ"] = {**numbers["mr8"]["tiers"]["default"], "tail_ratio": 0.0}
    assert borrow_rates(1e9, 2.0, "XYZ", numbers)["mmr"] == 0.02


def test_mr8_takes_the_whole_liability_at_its_tier():
    """40 BTC at 6.25 % and 3M units of XYZ (6M USD) at 5 %; positive equity owes nothing."""
    equities = {"BTC": -40.0, "XYZ": -3e6, "USDT": 10.0}
    found = mr8(equities, INDEX, NUMBERS)
    assert found.value == pytest.approx(2.4e6 * 0.0625 + 6e6 * 0.05)
    assert found.detail["imr"] == pytest.approx(2.4e6 * 0.125 + 6e6 * 0.13)
    assert found.detail["fee"] == pytest.approx((2.4e6 * 1.0625 + 6e6 * 1.05) * 0.001)


@pytest.mark.parametrize(
    ("index", "tier", "rate"),
    [
        (1.0, 1, 0.005),
        (1.0, 8, 0.04),
        (0.99, 3, 0.015),
        (0.985, 1, 0.0075),
        (1.0 / 0.985, 1, 0.0075),
        (0.98, 1, 0.01),
        (0.98, 8, 0.085),
        (0.975, 1, 0.015),
        (0.96, 2, 0.035 + 0.015),
        (0.875, 1, 0.20),
        (0.80, 1, 0.40),
        (0.80, 8, 0.40),
        (0.50, 1, 0.40),
        (0.81, 5, 0.40),
    ],
)
def test_depeg_rate(index: float, tier: int, rate: float):
    assert depeg_rate(tier, index, NUMBERS) == pytest.approx(rate, rel=1e-12)


def test_mr9_pairs_in_their_order():
    """USDT +9M, USD -6M, USDC -2M: 6M with USD, then 2M with USDC; nothing is left for USDC-USD."""
    contracts = (
        swap("BTC-USDT-SWAP", 150.0, 60_000.0),
        swap("BTC-USD-SWAP", -60_000.0, 60_000.0, multiplier=100.0),
        swap("BTC-USDC-SWAP", -100.0 / 3.0, 60_000.0),
    )
    found = answer(*contracts)
    assert found["units"]["BTC"]["mr9"] == pytest.approx(
        (1e6 * 0.005 + 4e6 * 0.010 + 1e6 * 0.015) + (1e6 * 0.005 + 1e6 * 0.010), rel=1e-12
    )
    pairs = found["detail"]["units"]["BTC"]["mr9"]["pairs"]
    assert [pair["pair"] for pair in pairs] == ["USDT-USD", "USDT-USDC"]


def test_mr9_of_a_pair_of_stablecoins_takes_their_ratio():
    """Both at 0.95: the pair is calm although each has left its peg."""
    index = {"BTC": 57_000.0, "USDT": 0.95, "USDC": 0.95}
    contracts = (swap("BTC-USDT-SWAP", 1.0, 60_000.0), swap("BTC-USDC-SWAP", -1.0, 60_000.0))
    found = answer(*contracts, index_usd=index)["units"]["BTC"]["mr9"]
    assert found == pytest.approx(57_000.0 * 0.005, rel=1e-12)


def test_mr9_leaves_spot_out_and_can_be_switched_off():
    numbers = merged_numbers()
    contracts = (swap("BTC-USDT-SWAP", -1.0, 60_000.0), swap("BTC-USDC-SWAP", 0.5, 60_000.0))
    found = answer(*contracts, balances={"BTC": 0.5})["units"]["BTC"]
    assert found["spot_in_use"] == 0.5
    assert found["mr9"] == pytest.approx(30_000.0 * 0.005)
    numbers["mr9"]["enabled"] = False
    assert answer(*contracts, numbers=numbers)["units"]["BTC"]["mr9"] == 0.0


def test_mr9_above_the_last_bound():
    """130M at the peg: 1, 4, 5, 10, 20, 40, 40 and 10 M at 0.5 ... 4.0 %."""
    sizes = [1e6, 4e6, 5e6, 10e6, 20e6, 40e6, 40e6, 10e6]
    expected = sum(size * 0.005 * (tier + 1) for tier, size in enumerate(sizes))
    assert mr9_pair(130e6, 1.0, NUMBERS)["value"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("currency", "equity", "index", "value"),
    [
        ("USDT", 1e9, 0.99, 0.99e9),
        ("BTC", -2.0, 60_000.0, -120_000.0),
        ("BTC", 22.0, 60_000.0, (19.6 + 2.0 * 0.9775) * 60_000.0),
        ("ETH", 550.0, 3_000.0, (490.0 + 50.0 * 0.9775) * 3_000.0),
        ("XYZ", 200_000.0, 2.0, 250e3 * 0.8 + 150e3 * 0.7),
        ("XYZ", 5e6, 2.0, 250e3 * 0.8 + 250e3 * 0.7 + 500e3 * 0.5),
        ("USDT", 0.0, 1.0, 0.0),
    ],
)
def test_collateral(currency: str, equity: float, index: float, value: float):
    assert discounted(equity, index, currency, NUMBERS)["value"] == pytest.approx(value, rel=1e-12)
