import math
from typing import Any

import pytest

from backtest.reference.bybit import margin
from backtest.reference.bybit_grid import price_moves
from tests.bybit_books import future, numbers_of, portfolio, stable_option, swap
from tests.okx_books import option


NUMBERS = numbers_of()
INDEX = {"BTC": 60_000.0, "SOL": 150.0, "LTC": 100.0, "USDT": 1.0, "USDC": 1.0}
LATER = "2025-06-27T08:00:00Z"


def unit(*contracts: Any, coin: str = "BTC", numbers: Any = NUMBERS, **keys: Any) -> dict[str, Any]:
    found = margin(portfolio(*contracts, **{"index_usd": INDEX, **keys}), numbers)
    return {**found["units"][coin], "detail": found["detail"]["units"][coin]}


def cell(found: dict[str, Any], move: float, vol: str) -> float:
    (pnl,) = [
        c["pnl"]
        for c in found["cells"]
        if c["vol"] == vol and c["price_move"] == pytest.approx(move)
    ]
    return pnl


def changed(**keys: Any) -> dict[str, Any]:
    return {**NUMBERS, **keys}


@pytest.mark.parametrize(
    ("name", "coin", "largest"),
    [
        ("bybit-2025-01-10", "BTC", 0.10),
        ("bybit-pre-2025-01-10", "ETH", 0.15),
        ("bybit-pre-2025-01-10", "SOL", 0.20),
    ],
)
def test_price_moves(name: str, coin: str, largest: float):
    moves = price_moves(coin, numbers_of(name))
    assert moves == pytest.approx([largest * i / 5 for i in range(-5, 6)], abs=1e-15)
    assert moves[5] == 0.0


def test_linear_leg_moves_by_its_mark():
    """2 BTC at 60,100 USDT, fx 0.999, 10 % down: 12,007.98 USD; the index plays no part."""
    found = unit(swap("BTC-USDT-SWAP", 2.0, 60_100.0), index_usd={**INDEX, "USDT": 0.999})
    assert found["max_loss"] == pytest.approx(2.0 * 60_100.0 * 0.1 * 0.999)
    assert found["all"] == pytest.approx([0.2 * 60_100.0 * 0.999 * i / 5 for i in range(-5, 6)])
    assert found["detail"]["max_loss"]["worst"]["price_move"] == -0.1


def test_inverse_leg_is_worth_its_coins_at_the_shocked_index():
    """-60,000 USD at mark 60,000, index 60,300: 1 coin short, 6,030 USD at +10 %."""
    found = unit(
        swap("BTC-USD-SWAP", -600.0, 60_000.0, multiplier=100.0),
        index_usd={**INDEX, "BTC": 60_300.0},
    )
    assert found["max_loss"] == pytest.approx(6_030.0)
    assert found["all"][0] == pytest.approx(6_030.0)


@pytest.mark.parametrize(("days", "counted"), [(0.5, 1), (1.0, 1), (30.0, 30), (30.25, 31)])
def test_volatility_shock_by_days_rounded_up(days: float, counted: int):
    hours = round(days * 24.0)
    expiry = f"2025-03-{1 + (8 + hours) // 24:02d}T{(8 + hours) % 24:02d}:00:00Z"
    leg = stable_option("BTC-USDT-X-60000-C", expiry, 1.0, 1.0, mark_iv=0.5, forward=60_000.0)
    (shock,) = unit(leg)["detail"]["max_loss"]["volatilities"]
    size = (30.0 / counted) ** 0.30
    assert shock["up"] == pytest.approx(0.5 * (1.0 + 0.24 * size))
    assert shock["down"] == pytest.approx(0.5 * (1.0 - 0.20 * size))


def test_option_loses_against_its_published_mark():
    """Without volatility a call is worth F - K: 62,000 x 0.9 - 50,000 = 5,800, marked 12,500."""
    leg = stable_option("BTC-USDT-X-50000-C", LATER, 2.0, 12_500.0, mark_iv=0.0, forward=62_000.0)
    found = unit(leg, index_usd={**INDEX, "USDT": 0.998})
    assert cell(found, -0.1, "same") == pytest.approx(2.0 * (5_800.0 - 12_500.0) * 0.998)
    assert cell(found, 0.0, "up") == pytest.approx(2.0 * (12_000.0 - 12_500.0) * 0.998)
    assert found["max_loss"] == pytest.approx(2.0 * 6_700.0 * 0.998)


@pytest.mark.parametrize(("choice", "index_move"), [("usd_shocked", 1.1), ("coin", 1.0)])
def test_option_settled_in_the_coin(choice: str, index_move: float):
    """Coin price 1 - 50,000 / 66,000 at +10 %, marked 0.16 coins."""
    leg = option("BTC-USD-X-50000-C", LATER, -1.0, 0.16, mark_iv=0.0, forward=60_000.0)
    found = unit(leg, numbers=changed(option_pnl=choice), index_usd={"BTC": 59_900.0})
    value = (1.0 - 50.0 / 66.0) * index_move
    assert cell(found, 0.1, "same") == pytest.approx(-(value - 0.16) * 59_900.0)


def test_volatility_state_is_common_to_the_unit():
    """Long a late call, short an early one: the worst state of the sum, not of each leg."""
    late = stable_option("BTC-USDT-A-60000-C", LATER, 1.0, 9e3, mark_iv=0.6, forward=6e4)
    early = stable_option(
        "BTC-USDT-B-60000-C", "2025-03-31T08:00:00Z", -1.5, 5e3, mark_iv=0.6, forward=6e4
    )
    both, alone = unit(late, early), [unit(late), unit(early)]
    for row in both["detail"]["max_loss"]["prices"]:
        move = row["price_move"]
        sums = {vol: sum(cell(one, move, vol) for one in alone) for vol in ("down", "same", "up")}
        assert row["options"] == pytest.approx(min(sums.values()))
    assert alone[0]["detail"]["max_loss"]["worst"]["vol"] == "down"
    assert both["max_loss"] < sum(one["max_loss"] for one in alone)


@pytest.mark.parametrize(
    ("expiry", "share"),
    [
        ("2025-03-01T08:00:01Z", 1 / 1_800),
        ("2025-03-01T08:15:00Z", 0.5),
        ("2025-03-01T08:30:00Z", 1.0),
        ("2025-03-01T09:00:00Z", 1.0),
    ],
)
def test_price_shock_fades_before_expiry(expiry: str, share: float):
    leg = stable_option("BTC-USDT-X-50000-C", expiry, 1.0, 10e3, mark_iv=0.0, forward=60e3)
    perpetual = swap("BTC-USDT-SWAP", 1.0, 60_000.0)
    found = unit(leg, perpetual)
    assert cell(found, 0.1, "same") == pytest.approx(6_000.0 * share)
    assert found["all"][-1] == pytest.approx(6_000.0 * share + 6_000.0)


@pytest.mark.parametrize(("scaled", "share"), [(False, 1.0), (True, 0.5)])
def test_volatility_shock_before_expiry(scaled: bool, share: float):
    grid = NUMBERS["grid"]
    near = {**grid["near_expiry"], "scale_volatility": scaled}
    leg = stable_option(
        "BTC-USDT-X-60000-C", "2025-03-01T08:15:00Z", 1.0, 100.0, mark_iv=0.5, forward=60e3
    )
    found = unit(leg, numbers=changed(grid={**grid, "near_expiry": near}))
    (shock,) = found["detail"]["max_loss"]["volatilities"]
    assert shock["up"] == pytest.approx(0.5 * (1.0 + 0.24 * share * 30.0**0.3))


@pytest.mark.parametrize(("whole", "left"), [(True, 60.0), (False, 59.75)])
def test_clock_of_time_to_expiry(whole: bool, left: float):
    leg = stable_option(
        "BTC-USDT-X-50000-C", "2025-03-01T08:01:00Z", 1.0, 10e3, mark_iv=0.0, forward=60e3
    )
    grid = {**NUMBERS["grid"], "whole_seconds": whole}
    found = unit(leg, numbers=changed(grid=grid), time="2025-03-01T08:00:00.250Z")
    (shock,) = found["detail"]["max_loss"]["volatilities"]
    assert shock["price_share"] == pytest.approx(left / 1_800.0)


def test_spot_hedge_counts_where_it_gains():
    """2 coins against -3 of perpetual: 2 in use, a gain of 12,000 USD at +10 % only."""
    found = unit(swap("BTC-USDT-SWAP", -3.0, 60_000.0), balances={"BTC": 2.0})
    assert found["spot_in_use"] == 2.0
    assert found["all"][-1] == pytest.approx(-18_000.0 + 12_000.0)
    assert found["all"][0] == pytest.approx(18_000.0)
    assert found["max_loss"] == pytest.approx(6_000.0)
    assert found["delta"] == pytest.approx(-1.0)
    assert found["cash_delta"] == pytest.approx(-60_000.0)


@pytest.mark.parametrize(
    ("balance", "contracts", "limits", "expected"),
    [
        (2.0, -3.0, {}, 2.0),
        (5.0, -3.0, {}, 3.0),
        (5.0, -3.0, {"BTC": 0.5}, 0.5),
        (5.0, -3.0, {"BTC": 0.0}, 0.0),
        (5.0, 3.0, {}, 0.0),
        (-2.0, 3.0, {}, -2.0),
        (-2.0, -3.0, {}, 0.0),
        (0.0, 3.0, {}, 0.0),
    ],
)
def test_spot_in_use(balance: float, contracts: float, limits: dict[str, float], expected: float):
    leg = swap("BTC-USDT-SWAP", contracts, 60_000.0)
    assert unit(leg, balances={"BTC": balance}, spot_limits=limits)["spot_in_use"] == expected


def test_only_eligible_coins_hedge():
    for coin, expected in (("SOL", 1.0), ("LTC", 0.0)):
        leg = swap(f"{coin}-USDT-SWAP", -2.0, INDEX[coin])
        assert unit(leg, coin=coin, balances={coin: 1.0})["spot_in_use"] == expected
    off = changed(spot_hedge={**NUMBERS["spot_hedge"], "enabled": False})
    leg = swap("BTC-USDT-SWAP", -2.0, 60_000.0)
    assert unit(leg, balances={"BTC": 1.0}, numbers=off)["spot_in_use"] == 0.0


def test_units_do_not_net():
    found = margin(
        portfolio(
            swap("BTC-USDT-SWAP", 1.0, 60_000.0),
            swap("SOL-USDT-SWAP", -400.0, 150.0),
            index_usd=INDEX,
        ),
        NUMBERS,
    )
    assert found["units"]["BTC"]["max_loss"] == pytest.approx(6_000.0)
    assert found["units"]["SOL"]["max_loss"] == pytest.approx(12_000.0)
    total = sum(one["mmr"] for one in found["units"].values())
    assert found["account"]["derivatives_mmr"] == pytest.approx(total)


def test_contracts_of_a_unit_net_over_settlement_currencies():
    found = unit(
        swap("BTC-USDT-SWAP", 1.0, 60_000.0),
        future("BTC-USDC-250627", LATER, -0.4, 60_000.0),
        swap("BTC-USD-SWAP", -360.0, 60_000.0, multiplier=100.0),
    )
    assert found["max_loss"] == pytest.approx(0.0, abs=1e-9)
    assert math.copysign(1.0, found["max_loss"]) == 1.0
