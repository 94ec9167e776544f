"""Numbers that the venue published, against the reference.

B1: a perpetual, a long call and a spot debt of one coin, from the portfolio margin example of the
venue's API documentation (2026-03-24 02:28:10 UTC); index, forward and volatility are solved.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backtest.reference import bybit
from backtest.reference.bybit_grid import VOL_STATES
from tests.bybit_books import future, numbers_of, portfolio, stable_option, swap


B1: dict[str, Any] = json.loads((Path(__file__).parent / "bybit_uta.json").read_text())["B1"]
TOLERANCE = B1["tolerance"]
HEDGE = -0.001000062225
"""The spot hedge before it was cut to eight decimals (note of the vector)."""
MOVES = list(B1["grid"])


def b1(hedge: float = HEDGE, milliseconds: int = B1["now_ms"]) -> dict[str, Any]:
    perpetual, call = B1["positions"].values()
    expiry = datetime.fromtimestamp(B1["expiry_s"], tz=UTC).isoformat()
    book = portfolio(
        swap("BTC-USDT-SWAP", perpetual["size"], perpetual["mark"]),
        stable_option(
            "BTC-USDT-25SEP26-80000-C",
            expiry,
            call["size"],
            call["mark"],
            mark_iv=B1["mark_iv_solved"],
            forward=B1["forward_solved"],
        ),
        time=datetime.fromtimestamp(milliseconds / 1000.0, tz=UTC).isoformat(),
        index_usd={"BTC": B1["index_btc_solved"], **B1["fx"]},
        balances={"BTC": hedge, "USDT": 100_000.0},
    )
    return bybit.margin(book, numbers_of())


def unit(**keys: Any) -> dict[str, Any]:
    return b1(**keys)["units"]["BTC"]


@pytest.mark.parametrize("milliseconds", [B1["now_ms"], B1["now_whole_seconds"] * 1000])
@pytest.mark.parametrize("move", MOVES)
def test_option_cells(move: str, milliseconds: int):
    found = {
        cell["vol"]: cell["pnl"]
        for cell in unit(milliseconds=milliseconds)["cells"]
        if cell["price_move"] == pytest.approx(float(move))
    }
    up, same, down = B1["grid"][move]["option_up_same_down"]
    for state, expected in {"up": up, "same": same, "down": down}.items():
        assert found[state] == pytest.approx(expected, abs=TOLERANCE["grid_cells"]), state


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize(
    ("hedge", "spot_tolerance"), [(HEDGE, 1e-8), (B1["spot_hedge"], TOLERANCE["spot_cells"])]
)
def test_sums_of_a_price(move: str, hedge: float, spot_tolerance: float):
    prices = b1(hedge)["detail"]["units"]["BTC"]["max_loss"]["prices"]
    (price,) = [row for row in prices if row["price_move"] == pytest.approx(float(move))]
    expected = B1["grid"][move]
    assert price["linear"] == pytest.approx(expected["perp"], abs=TOLERANCE["grid_cells"])
    assert price["spot"] == pytest.approx(expected["spot"], abs=spot_tolerance)
    assert price["all"] == pytest.approx(expected["all"], abs=TOLERANCE["all"])


def test_the_grid_has_33_cells():
    found = unit()
    assert [cell["vol"] for cell in found["cells"]] == list(VOL_STATES) * 11
    assert len(found["all"]) == 11
    assert found["max_loss"] == -min(found["all"])


def test_contingency():
    """The index is solved to cents and the hedge known to eight decimals: 1e-5 relative."""
    expected, found = B1["contingency"], unit()
    assert found["short_options"] == expected["short_options"]
    assert found["vega_spread"] == expected["vega_spread"]
    assert found["stablecoin_spread"] == expected["usdt_usdc_usd"]
    assert found["delta_spread"] == pytest.approx(expected["delta_spread"], rel=1e-5)
    assert found["perpetual_futures"] == pytest.approx(expected["perpetual_and_futures"], rel=1e-6)


def test_option_delta_and_hedge():
    found = b1()
    (call,) = [leg for leg in found["detail"]["legs"] if leg["kind"] == "option"]
    assert call["delta"] / call["contracts"] == pytest.approx(B1["option_delta"], abs=1e-6)
    assert found["units"]["BTC"]["spot_in_use"] == HEDGE


def test_margin_and_initial_margin():
    found = unit()
    assert found["mmr"] == pytest.approx(B1["mm"], rel=TOLERANCE["mm_relative"])
    assert found["imr"] == pytest.approx(B1["im"], rel=TOLERANCE["mm_relative"])
    assert found["imr"] == 1.2 * found["mmr"]
    assert B1["im"] / B1["mm"] == pytest.approx(1.2, rel=1e-12)


# The list `identities` of the vectors, in its order.


def test_identity_near_expiry():
    """15 % price shock, 900 s before expiry: 7.5 %."""
    name, expiry, mark = "BTC-USDT-250301-60000-C", "2025-03-01T08:15:00Z", 400.0
    call = stable_option(name, expiry, 1.0, mark, mark_iv=0.0, forward=60_000.0)
    book = portfolio(call, index_usd={"BTC": 60_000.0, "USDT": 1.0})
    cells = bybit.margin(book, numbers_of("bybit-pre-2025-01-10"))["units"]["BTC"]["cells"]
    (pnl,) = {cell["pnl"] for cell in cells if cell["price_move"] == 0.15}
    assert pnl == pytest.approx(60_000.0 * 0.075 - mark, rel=1e-12)


def test_identity_put_spread():
    """A put spread of equal size has no short option contingency."""
    legs = [
        stable_option(
            f"BTC-USDT-250627-{strike}-P",
            "2025-06-27T08:00:00Z",
            contracts,
            mark,
            mark_iv=0.5,
            forward=61_000.0,
        )
        for strike, contracts, mark in ((50_000, 3.0, 2_000.0), (60_000, -3.0, 6_000.0))
    ]
    book = portfolio(*legs, index_usd={"BTC": 60_000.0, "USDT": 1.0})
    assert bybit.margin(book, numbers_of())["units"]["BTC"]["short_options"] == 0.0


@pytest.mark.parametrize("position", [-3.0, 0.5, 3.0])
def test_identity_orders(position: float):
    """MM = max(MM[C], MM[A+C], MM[B+C])."""
    index = {"BTC": 60_000.0, "USDT": 1.0}

    def mmr(contracts: float, orders: list[dict[str, Any]]) -> float:
        legs = [
            swap("BTC-USDT-SWAP", contracts, 60_100.0),
            future("BTC-USDT-250627", "2025-06-27T08:00:00Z", 1.0, 61_000.0),
        ]
        book = portfolio(*legs, index_usd=index, orders=orders)
        return bybit.margin(book, numbers_of())["units"]["BTC"]["mmr"]

    orders = [
        {"instrument_id": "BTC-USDT-SWAP", "contracts": contracts, "price": price}
        for contracts, price in ((2.0, 59_000.0), (1.0, 58_000.0), (-4.0, 62_000.0))
    ]
    alone = [mmr(position + change, []) for change in (0.0, 3.0, -4.0)]
    assert mmr(position, orders) == max(alone)
