"""Numbers that the venue published, against the reference. Sources: `tests/golden/README.md`."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backtest.reference import black76, breakeven
from backtest.reference.okx import margin
from backtest.reference.okx_fees import discounted, marginal_tiers, mr9_pair
from tests.okx_books import (
    future,
    merged_numbers,
    option,
    portfolio,
    split_like_numbers,
    swap,
)


VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "okx_pm.json").read_text())
EXPIRY = "2025-06-27T08:00:00Z"


def v1_answer() -> dict[str, Any]:
    vector = VECTORS["V1"]
    usdt = vector["fx"]["USDT"]
    contracts = []
    for position in vector["positions"]:
        more = {key: position[key] for key in ("multiplier", "entry_price")}
        args = (position["instrument"], position["contracts"], position["mark_price"])
        contracts.append(swap(*args, **more))
    time = datetime.fromtimestamp(vector["ts_ms"] / 1000.0, tz=UTC).isoformat()
    index = {coin: price * usdt for coin, price in vector["index_in_usdt"].items()}
    return margin(
        portfolio(
            *contracts, time=time, index_usd={**index, **vector["fx"]}, balances=vector["balances"]
        ),
        merged_numbers(),
    )


V1_UNIT_KEYS = [
    (coin, key)
    for coin in ("BTC", "LTC")
    for key in VECTORS["V1"]["expect"][coin]
    if key not in ("mr1_cells_vol_any", "mr6_worst_pnl", "mr6_move")
]


@pytest.mark.parametrize(("coin", "key"), V1_UNIT_KEYS)
def test_v1_unit_number(coin: str, key: str):
    expected = VECTORS["V1"]["expect"][coin][key]
    assert v1_answer()["units"][coin][key] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("coin", ["BTC", "LTC"])
def test_v1_cells_of_mr1_and_mr6(coin: str):
    expected, answer = VECTORS["V1"]["expect"][coin], v1_answer()
    cells = answer["units"][coin]["mr1_cells"]
    assert len(cells) == 21
    for move, pnl in expected["mr1_cells_vol_any"].items():
        found = [cell["pnl"] for cell in cells if cell["price_move"] == float(move)]
        assert found == pytest.approx([pnl] * 3, rel=1e-9, abs=1e-9)
    worst = answer["detail"]["units"][coin]["mr6"]["worst"]
    assert worst["pnl"] == pytest.approx(expected["mr6_worst_pnl"], rel=1e-9)
    assert worst["price_move"] == expected["mr6_move"]


@pytest.mark.parametrize("key", VECTORS["V1"]["expect"]["account"])
def test_v1_account_number(key: str):
    answer = v1_answer()
    own_names = {"borrow_mmr": "mr8"}
    if key == "usdt_equity":
        found = answer["detail"]["collateral"]["USDT"]["equity"]
    else:
        found = answer["account"][own_names.get(key, key)]
    assert found == pytest.approx(VECTORS["V1"]["expect"]["account"][key], rel=1e-9)


def v3_unit(key: str, mark: float, *, spot: float, numbers: dict[str, Any]) -> None:
    """10 BTC of spot in use against 1,000 contracts of 0.01 sold, fx 1."""
    contract = swap("BTC-USDT-SWAP", -1000.0, mark, multiplier=0.01)
    index = {"BTC": VECTORS["V3"]["solved_prices"]["index"], "USDT": 1.0}
    unit = margin(portfolio(contract, index_usd=index, balances={"BTC": spot}), numbers)["units"][
        "BTC"
    ]
    assert unit["spot_in_use"] == 10.0
    for name, expected in VECTORS["V3"][key].items():
        assert unit[name] == pytest.approx(expected, abs=VECTORS["V3"]["tolerance_absolute"]), name


@pytest.mark.parametrize("spot", [10.0, 15.0])
def test_v3_after(spot: float):
    """The resting buy of 5 BTC makes the equity 15 BTC; the smaller of it and the delta is 10."""
    prices = VECTORS["V3"]["solved_prices"]
    v3_unit("after_2024_06_05", prices["mark_after"], spot=spot, numbers=split_like_numbers())


def test_v3_before():
    prices = VECTORS["V3"]["solved_prices"]
    numbers = split_like_numbers(charge_spot=False, charge_perpetuals=False, charge_options=False)
    v3_unit("before_2024_06_05", prices["mark_before"], spot=10.0, numbers=numbers)


def test_v4_what_holds_exactly():
    vector = VECTORS["V4"]
    contract = option(
        "BTC-USD-220325-50000-C",
        "2022-03-25T08:00:00Z",
        -1.0,
        0.005,
        multiplier=0.1,
        mark_iv=0.7,
        forward=38_500.0,
    )
    numbers = split_like_numbers(charge_spot=False, charge_perpetuals=False, charge_options=False)
    index = 38_400.0
    unit = margin(
        portfolio(contract, time="2022-03-07T00:00:00Z", index_usd={"BTC": index}), numbers
    )["units"]["BTC"]
    assert unit["mr3"] == vector["mr3"]
    assert unit["mr4"] == vector["mr4"]
    assert unit["mr7"] / index == pytest.approx(vector["mr7"], rel=1e-12)
    assert unit["imr"] / unit["mmr"] == pytest.approx(vector["imr_over_mmr"], rel=1e-12)


def test_v5_marginal_multiplier():
    vector = VECTORS["V5"]
    tiers = split_like_numbers()["mr7"]["tiers"]["G1"]
    slices = marginal_tiers(float(vector["mr7_raw"]), tiers["bounds_usd"], tiers["multipliers"])
    mr7 = sum(part["value"] for part in slices)
    assert mr7 == vector["mr7"]
    charges = {"mr1": float(vector["stress_part"]), "mr7": mr7}
    assert breakeven.unit_mmr(charges, ["mr1", "mr2", "mr6"]) == vector["mmr"]


def test_v6_depeg_tiers():
    vector = VECTORS["V6"]
    pair = mr9_pair(float(vector["hedged_usd"]), 0.985, merged_numbers())
    assert [part["rate"] for part in pair["tiers"]] == pytest.approx(vector["rates"], rel=1e-12)
    amounts = [part["amount"] for part in pair["tiers"]]
    assert [sum(amounts[:k]) for k in (1, 2, 3)] == vector["bounds"]
    assert pair["value"] == pytest.approx(vector["mr9"], rel=1e-12)


def test_v7_greeks():
    vector = VECTORS["V7"]
    expiry = datetime.fromisoformat(vector["expiry"])
    years = (expiry.timestamp() - vector["ts_ms"] / 1000.0) / (365.0 * 86_400.0)
    data = (vector["forward"], float(vector["strike"]), vector["mark_vol"], years)
    index, kind = float(vector["index_about"]), vector["type"]
    found = {
        "delta_bs": (black76.delta_bs(kind, *data), 1e-4),
        "delta_pa": (black76.delta_pa(kind, *data), 1e-4),
        "gamma_pa": (black76.gamma_pa(kind, *data), 3e-3),
        "gamma_bs": (black76.gamma_bs(*data, index), 3e-4),
        "vega_pa": (black76.vega_pa(*data) / 100.0, 3e-4),
        "vega_bs": (black76.vega_bs(*data, index) / 100.0, 3e-4),
        "theta_pa": (black76.theta_pa(*data), 8e-4),
    }
    for name, (value, tolerance) in found.items():
        assert value == pytest.approx(vector[name], rel=tolerance), name


@pytest.mark.parametrize("coins", VECTORS["V8"]["discounted"])
def test_v8_discounted_coins(coins: str):
    expected = VECTORS["V8"]["discounted"][coins]
    value = discounted(float(coins), 1.0, "BTC", merged_numbers())["value"]
    assert value == pytest.approx(expected, rel=1e-12)


# The list `identities` of the vectors, in its order.


def test_identity_linear_book():
    book = portfolio(
        swap("BTC-USDT-SWAP", -3.0, 60_100.0),
        future("BTC-USD-250627", EXPIRY, 900.0, 61_000.0, multiplier=100.0),
        swap("SOL-USDC-SWAP", 50.0, 149.0),
        index_usd={"BTC": 60_000.0, "SOL": 150.0, "USDT": 0.999, "USDC": 1.0},
    )
    for unit in margin(book, merged_numbers())["units"].values():
        assert unit["mr1"] > 0.0
        assert unit["mr6"] == pytest.approx(unit["mr1"], rel=1e-12)


@pytest.mark.parametrize("name", ["BTC-USDT-SWAP", "BTC-USD-SWAP"])
def test_identity_hedged_spot(name: str):
    mark, coins = 60_050.0, 2.0
    contracts = -coins * mark / 100.0 if name == "BTC-USD-SWAP" else -coins
    contract = swap(name, contracts, mark, multiplier=100.0 if contracts != -coins else 1.0)
    index = {"BTC": 60_000.0, "USDT": 0.998}
    unit = margin(portfolio(contract, index_usd=index, balances={"BTC": coins}), merged_numbers())[
        "units"
    ]["BTC"]
    assert unit["spot_in_use"] == pytest.approx(coins)
    assert unit["mr1"] == pytest.approx(0.0, abs=1e-9)
    assert unit["mr6"] == pytest.approx(0.0, abs=1e-9)


def test_identity_one_settlement_currency():
    book = portfolio(
        swap("BTC-USDT-SWAP", -3.0, 60_100.0),
        future("BTC-USDT-250627", EXPIRY, 3.0, 61_000.0),
        index_usd={"BTC": 60_000.0, "USDT": 0.90},
    )
    assert margin(book, merged_numbers())["units"]["BTC"]["mr9"] == 0.0


def test_identity_single_expiry():
    data = {"mark_iv": 0.6, "forward": 61_000.0, "multiplier": 0.01}
    book = portfolio(
        option("BTC-USD-250627-60000-C", EXPIRY, 10.0, 0.12, **data),
        option("BTC-USD-250627-70000-C", EXPIRY, -25.0, 0.07, **data),
        index_usd={"BTC": 60_000.0},
    )
    assert margin(book, merged_numbers())["units"]["BTC"]["mr3"] == 0.0


def test_identity_theta_toy():
    toy = {"mr1": 40, "mr2": 5, "mr3": 4, "mr4": 6, "mr5": 1, "mr6": 50, "mr7": 20, "mr9": 9}
    unit = {name: float(value) for name, value in toy.items()}
    worst = ["mr1", "mr2", "mr6"]
    assert breakeven.unit_mmr(unit, worst) + 10.0 == 80.0
    expected = {
        "mr1": 1.75,
        "mr2": 14.0,
        "mr3": 6.0,
        "mr4": 4.33333333,
        "mr5": 21.0,
        "mr6": 1.4,
        "mr7": 4.5,
        "mr8": 3.0,
        "mr9": 3.22222222,
    }
    found = breakeven.break_even([unit], mr8=10.0, budget=100.0, worst=worst)
    assert found == pytest.approx(expected, rel=1e-8)
