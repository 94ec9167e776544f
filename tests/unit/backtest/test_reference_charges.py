import math
from typing import Any

import pytest

from backtest.reference.okx import margin
from backtest.reference.okx_charges import group_of, spot_in_use, vol_shock
from backtest.reference.okx_legs import read_book
from tests.okx_books import future, merged_numbers, option, portfolio, swap


INDEX = {"BTC": 60_000.0, "USDT": 1.0, "USDC": 1.0}
YEAR, DAYS_30, DAYS_120 = "2026-03-01T08:00:00Z", "2025-03-31T08:00:00Z", "2025-06-29T08:00:00Z"
HOUR = "2025-03-01T09:00:00Z"


def unit(*contracts: Any, numbers: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    book = portfolio(*contracts, **{"index_usd": INDEX, **keys})
    return margin(book, numbers or merged_numbers())["units"]["BTC"]


def call(expiry: str, contracts: float, strike: int = 60_000, sigma: float = 0.6) -> Any:
    data = {"mark_iv": sigma, "forward": 60_000.0}
    date = expiry[:10].replace("-", "")
    return option(f"BTC-USD-{date}-{strike}-C", expiry, contracts, 0.1, **data)


def on_the_forward(sigma: float, days: float) -> tuple[float, float]:
    """Coin price and vega in USD of an option on the forward, by the error function."""
    spread = sigma * math.sqrt(days / 365.0)
    density = math.exp(-spread * spread / 8.0) / math.sqrt(2.0 * math.pi)
    return math.erf(spread / math.sqrt(8.0)), 60_000.0 * density * math.sqrt(days / 365.0)


@pytest.mark.parametrize(
    ("days", "points"),
    [(0.0, 0.30), (15.0, 0.25), (30.0, 0.20), (45.0, 0.175), (60.0, 0.15), (400.0, 0.15)],
)
def test_volatility_shock_between_nodes(days: float, points: float):
    assert vol_shock(0.6, days, merged_numbers()) == pytest.approx(points, rel=1e-12)


@pytest.mark.parametrize(
    ("combine", "shock"), [("points", 0.2), ("percent", 0.24), ("max", 0.24), ("min", 0.2)]
)
def test_volatility_shock_combines_points_and_percent(combine: str, shock: float):
    numbers = merged_numbers()
    numbers["mr1"]["volatility"] |= {
        "combine": combine,
        "percent_days": [0.0, 60.0],
        "percent": [0.5, 0.3],
    }
    assert vol_shock(0.6, 30.0, numbers) == pytest.approx(shock)


def test_volatility_shock_refuses_an_unknown_combination():
    numbers = merged_numbers()
    numbers["mr1"]["volatility"]["combine"] = "mean"
    with pytest.raises(ValueError, match="'mean'; allowed: points, percent, max, min"):
        vol_shock(0.6, 30.0, numbers)


def test_mr1_of_an_option_without_volatility():
    """A call at 50,000 on a forward of 60,000 is worth 10,000 USD; at -12 % 2,800 USD."""
    contract = call(DAYS_120, 1.0, strike=50_000, sigma=0.0)
    answer = unit(contract)
    assert answer["mr1"] == pytest.approx(7_200.0, rel=1e-12)
    cells = {(cell["price_move"], cell["vol"]): cell["pnl"] for cell in answer["mr1_cells"]}
    assert cells[-0.12, "same"] == pytest.approx(-7_200.0, rel=1e-12)
    assert cells[0.0, "same"] == 0.0
    assert cells[0.12, "same"] == pytest.approx(7_200.0, rel=1e-12)
    # Down is floored at 1 %, which is more than the mark; far from the strike it is worth nothing.
    assert cells[-0.12, "down"] == pytest.approx(-7_200.0, abs=1e-6)
    assert cells[-0.12, "up"] > cells[-0.12, "down"]


def test_mr1_of_an_option_in_coins():
    numbers = {**merged_numbers(), "option_pnl": "coin"}
    answer = unit(call(DAYS_120, 1.0, strike=50_000, sigma=0.0), numbers=numbers)
    assert answer["mr1"] == pytest.approx((50_000.0 / 52_800.0 - 5.0 / 6.0) * 60_000.0, rel=1e-12)


def test_mr1_volatility_state_is_common_to_the_options():
    """Long 30 days, short 120 days on the forward: shocks 20 and 15 points, the same way."""
    answer = unit(call(DAYS_30, 1.0), call(DAYS_120, -1.0))
    cells = {(cell["price_move"], cell["vol"]): cell["pnl"] for cell in answer["mr1_cells"]}
    for state, sign in (("down", -1.0), ("up", 1.0)):
        near = on_the_forward(0.6 + sign * 0.20, 30.0)[0] - on_the_forward(0.6, 30.0)[0]
        far = on_the_forward(0.6 + sign * 0.15, 120.0)[0] - on_the_forward(0.6, 120.0)[0]
        assert cells[0.0, state] == pytest.approx((near - far) * 60_000.0, rel=1e-9)


def test_mr2_with_an_hour_left_is_the_whole_time_value():
    answer = unit(call(HOUR, 2.0, sigma=0.5))
    coins, _ = on_the_forward(0.5, 1.0 / 24.0)
    assert answer["mr2"] == pytest.approx(2.0 * coins * 60_000.0, rel=1e-9)


def test_mr2_of_a_day_and_never_below_zero():
    later, now = on_the_forward(0.6, 29.0)[0], on_the_forward(0.6, 30.0)[0]
    assert unit(call(DAYS_30, 1.0))["mr2"] == pytest.approx((now - later) * 60_000.0, rel=1e-9)
    assert unit(call(DAYS_30, -1.0))["mr2"] == 0.0


def test_mr3_of_two_expiries():
    """Weights 1 at 30 days and 1/2 at 120 days; hedged is the smaller of opposite vegas."""
    near, far = on_the_forward(0.6, 30.0)[1], on_the_forward(0.6, 120.0)[1]
    answer = unit(call(DAYS_30, 3.0), call(DAYS_120, -2.0))
    assert answer["mr3"] == pytest.approx(0.05 * min(3.0 * near, 2.0 * far / 2.0), rel=1e-9)
    assert unit(call(DAYS_30, 3.0), call(DAYS_120, 2.0))["mr3"] == pytest.approx(0.0, abs=1e-9)


def test_mr3_counts_a_day_at_least():
    vega = on_the_forward(0.5, 1.0 / 24.0)[1]
    answer = unit(call(HOUR, 1.0, sigma=0.5), call(DAYS_30, -100.0))
    assert answer["mr3"] == pytest.approx(0.05 * vega * math.sqrt(30.0), rel=1e-9)


def test_mr4_buckets():
    """Perpetuals net whatever they settle in; a future and an option of one time share a bucket."""
    contracts = (
        swap("BTC-USDT-SWAP", -1.0, 60_100.0),
        swap("BTC-USD-SWAP", 300.0, 60_050.0, multiplier=100.0),
        future("BTC-USDC-F", DAYS_120, 1.0, 61_000.0),
        option("BTC-USD-D-60000-P", DAYS_120, 1.0, 0.1, mark_iv=0.0, forward=50_000.0),
    )
    near, far = 0.002, 0.05 * 120.0 / 365.0
    expected = (60_100.0 - 30_000.0) * near + (61_000.0 - 60_000.0) * far
    assert unit(*contracts, spot_limits={"BTC": 0})["mr4"] == pytest.approx(expected, rel=1e-12)
    # 0.05 coins of cash and the put at its mark of 0.1 coins.
    spot = unit(*contracts, balances={"BTC": 0.05})
    assert spot["spot_in_use"] == pytest.approx(0.15)
    assert spot["mr4"] == pytest.approx(expected + 0.15 * 60_000.0 * near, rel=1e-12)


def test_mr4_without_spot_perpetuals_and_options():
    numbers = merged_numbers()
    numbers["mr4"] |= {"charge_spot": False, "charge_perpetuals": False, "charge_options": False}
    contracts = (
        swap("BTC-USDT-SWAP", -1.0, 60_100.0),
        future("BTC-USDC-F", DAYS_120, 0.5, 61_000.0),
        call(DAYS_120, 1.0),
    )
    answer = unit(*contracts, balances={"BTC": 1.0}, numbers=numbers)
    assert answer["mr4"] == pytest.approx(30_500.0 * 0.05 * 120.0 / 365.0, rel=1e-12)


def test_mr5_of_a_year_turns_slope_against_parallel():
    """A call at 50,000 without volatility: `c = 1 - K/F`; the worst rate move is -3 % - 1.5 %."""
    answer = unit(call(YEAR, 1.0, strike=50_000, sigma=0.0))
    assert answer["mr5"] == pytest.approx(50_000.0 * math.expm1(0.045), rel=1e-12)
    assert unit(swap("BTC-USDT-SWAP", -1.0, 60_100.0))["mr5"] == 0.0


def test_mr6_is_half_of_the_extreme_loss():
    """Short call without volatility at +24 %: 74,400 - 60,000 USD lost."""
    answer = unit(call(DAYS_120, -1.0, sigma=0.0))
    assert answer["mr6"] == pytest.approx(7_200.0, rel=1e-12)
    assert answer["mr1"] > 7_200.0


@pytest.mark.parametrize(
    ("net", "equity", "limit", "expected"),
    [
        (-4.0, 10.0, None, 4.0),
        (-4.0, 3.0, None, 3.0),
        (-4.0, 10.0, 1.0, 1.0),
        (-4.0, 10.0, 0.0, 0.0),
        (4.0, -10.0, None, -4.0),
        (4.0, -3.0, 2.0, -2.0),
        (4.0, 10.0, None, 0.0),
        (-4.0, -10.0, None, 0.0),
        (0.0, 10.0, None, 0.0),
        (-4.0, 0.0, None, 0.0),
    ],
)
def test_spot_in_use(net: float, equity: float, limit: float | None, expected: float):
    contracts = [swap("BTC-USDT-SWAP", net, 60_000.0)] if net else []
    legs = read_book(portfolio(*contracts, index_usd=INDEX), ["USDT", "USDC", "USD"]).legs
    assert spot_in_use(legs, equity, limit) == expected


def test_spot_in_use_takes_premium_adjusted_delta_and_equity_with_pnl():
    """A call sold: delta -(N(d1) - c); equity 0.3 coins of cash less the option's value of 0.1."""
    coins, _ = on_the_forward(0.6, 120.0)
    delta = 0.5 + coins / 2.0  # N(d1) on the forward
    answer = unit(call(DAYS_120, -1.0), balances={"BTC": 0.8})
    assert answer["spot_in_use"] == pytest.approx(delta - coins, rel=1e-12)
    assert answer["delta"] == pytest.approx(-coins, rel=1e-12)
    assert unit(call(DAYS_120, -1.0), balances={"BTC": 0.3})["spot_in_use"] == pytest.approx(0.2)


def test_coins_that_are_not_listed_are_in_the_third_group():
    numbers = merged_numbers()
    assert [group_of(coin, numbers) for coin in ("ETH", "SOL", "XYZ")] == ["G1", "G2", "G3"]
