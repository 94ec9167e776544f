"""The what-if calculator: published vectors, identities, random portfolios, orders, bad files."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backtest import what_if
from backtest.errors import ConfigError
from backtest.params import load_parameter_set
from backtest.reference import okx as reference
from tests.okx_books import PARAMS, future, merged_numbers, option, portfolio, swap
from tests.unit.kernels import random_books


VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "golden" / "okx_pm.json").read_text()
)
EXPIRY = "2025-06-27T08:00:00Z"
OPTION = {"mark_iv": 0.6, "forward": 61_000.0, "multiplier": 0.01}
ACCOUNT_NUMBERS = (
    "equity_usd",
    "adjusted_equity",
    "derivatives_mmr",
    "mr8",
    "borrow_imr",
    "total_mmr",
    "total_imr",
)


@pytest.fixture(scope="module", autouse=True)
def compilation_cache() -> None:
    random_books.use_cache()


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    return merged_numbers()


def near(expected: float, scale: float) -> Any:
    return pytest.approx(expected, rel=1e-9, abs=1e-12 * scale)


def assert_same(book: dict[str, Any], numbers: dict[str, Any], scale: float):
    """Every number of the calculator is the reference's, unit by unit."""
    found, expected = what_if.margin(book, numbers), reference.margin(book, numbers)
    assert found["account"]["status"] == expected["account"]["status"]
    if expected["account"]["status"] == "unpriced":
        return
    for name in ACCOUNT_NUMBERS:
        assert found["account"][name] == near(expected["account"][name], scale), name
    level, wanted = found["account"]["margin_level"], expected["account"]["margin_level"]
    assert (level is None) == (wanted is None)
    if wanted is not None:
        assert level == near(wanted, scale / expected["account"]["total_mmr"] * (1 + abs(wanted)))
    assert set(found["units"]) == set(expected["units"])
    for coin, unit in expected["units"].items():
        for name, value in unit.items():
            if name == "mr1_cells":
                for cell, other in zip(found["units"][coin][name], value, strict=True):
                    assert cell["price_move"] == pytest.approx(other["price_move"])
                    assert cell["vol"] == other["vol"]
                    assert cell["pnl"] == near(other["pnl"], scale)
            else:
                assert found["units"][coin][name] == near(value, scale), (coin, name)


def v1_portfolio() -> dict[str, Any]:
    vector = VECTORS["V1"]
    contracts = [
        swap(
            p["instrument"],
            p["contracts"],
            p["mark_price"],
            multiplier=p["multiplier"],
            entry_price=p["entry_price"],
        )
        for p in vector["positions"]
    ]
    time = datetime.fromtimestamp(vector["ts_ms"] / 1000.0, tz=UTC).isoformat()
    index = {c: price * vector["fx"]["USDT"] for c, price in vector["index_in_usdt"].items()}
    return portfolio(
        *contracts, time=time, index_usd={**index, **vector["fx"]}, balances=vector["balances"]
    )


@pytest.mark.slow
def test_v1_position_builder(numbers: dict[str, Any]):
    answer = what_if.margin(v1_portfolio(), numbers)
    expected = VECTORS["V1"]["expect"]
    other_keys = ("mr1_cells_vol_any", "mr6_worst_pnl", "mr6_move")
    for coin in ("BTC", "LTC"):
        for key in set(expected[coin]) - set(other_keys):
            found = answer["units"][coin][key]
            assert found == pytest.approx(expected[coin][key], rel=1e-9, abs=1e-9), (coin, key)
    for key in set(expected["account"]) - {"usdt_equity"}:
        found = answer["account"][{"borrow_mmr": "mr8"}.get(key, key)]
        assert found == pytest.approx(expected["account"][key], rel=1e-9), key


@pytest.mark.slow
def test_identities_of_a_linear_book(numbers: dict[str, Any]):
    """MR6 = MR1 without options; spot against the same short has neither; one quote, no MR9."""
    book = portfolio(
        swap("BTC-USDT-SWAP", -2.0, 60_100.0),
        swap("SOL-USDC-SWAP", 50.0, 149.0),
        future("SOL-USDC-250627", EXPIRY, -20.0, 151.0),
        index_usd={"BTC": 60_000.0, "SOL": 150.0, "USDT": 0.90, "USDC": 1.0},
        balances={"BTC": 2.0},
    )
    units = what_if.margin(book, numbers)["units"]
    assert units["BTC"]["spot_in_use"] == pytest.approx(2.0)
    assert units["BTC"]["mr1"] == pytest.approx(0.0, abs=1e-9)
    assert units["BTC"]["mr6"] == pytest.approx(0.0, abs=1e-9)
    assert units["SOL"]["mr1"] > 0
    assert units["SOL"]["mr6"] == pytest.approx(units["SOL"]["mr1"], rel=1e-12)
    assert units["SOL"]["mr9"] == units["BTC"]["mr9"] == 0.0
    assert_same(book, numbers, 2e5)


@pytest.mark.slow
def test_identity_of_a_single_expiry(numbers: dict[str, Any]):
    book = portfolio(
        option("BTC-USD-250627-60000-C", EXPIRY, 10.0, 0.12, **OPTION),
        option("BTC-USD-250627-70000-C", EXPIRY, -25.0, 0.07, **OPTION),
        index_usd={"BTC": 60_000.0},
        balances={"BTC": 1.0},
    )
    assert what_if.margin(book, numbers)["units"]["BTC"]["mr3"] == 0.0
    assert_same(book, numbers, 1e5)


@pytest.mark.slow
@pytest.mark.parametrize("k", [0, 1, 2, 4, 7])
def test_random_portfolios_unit_by_unit(k: int, numbers: dict[str, Any]):
    """All instruments of the universe are listed, so that each shape is compiled once."""
    book = random_books.accounts(12, seed=31)[k]
    file = random_books.portfolio_file(book, 3 * k, random_books.markets())
    size = sum(abs(p["contracts"]) for p in file["positions"]) * 1e5
    without_upl = {"upl"}
    found, expected = what_if.margin(file, numbers), reference.margin(file, numbers)
    assert found["account"]["status"] == expected["account"]["status"]
    for coin, unit in expected["units"].items():
        for name in set(unit) - {"mr1_cells"} - without_upl:
            assert found["units"][coin][name] == near(unit[name], size), (coin, name)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3, 5, 9])
@pytest.mark.parametrize(
    "rules", ["okx-merged-2025-01-21", "okx-split-2024-06-05", "okx-split-2024-05-11"]
)
def test_random_portfolios_with_orders_unit_by_unit(k: int, rules: str):
    """Which portfolio binds a unit, and every number of it; empty units may be on one side."""
    chosen = load_parameter_set(PARAMS / f"{rules}.toml").numbers()
    books = random_books.with_choices(random_books.accounts(12, seed=31), seed=32)
    book = random_books.with_orders(books, seed=33)[k]
    file = random_books.portfolio_file(book, 2 * k, random_books.markets())
    found, expected = what_if.margin(file, chosen), reference.margin(file, chosen)
    size = random_books.gross_usd(book)
    assert found["account"]["status"] == expected["account"]["status"] != "unpriced"
    for name in ACCOUNT_NUMBERS:
        assert found["account"][name] == near(expected["account"][name], size), name
    for units, others in ((found, expected), (expected, found)):
        for name in set(units["units"]) - set(others["units"]):
            assert units["units"][name]["mmr"] == units["units"][name]["delta"] == 0.0
    shared = set(found["units"]) & set(expected["units"])
    assert len(shared) >= 1
    for name in shared:
        unit = found["units"][name]
        assert unit["binding"] == expected["units"][name]["binding"], name
        for key in set(unit) - {"mr1_cells", "binding"}:
            # A position of any entry gains or loses any multiple of its size.
            room = abs(unit["upl"]) + size if key == "upl" else size
            assert unit[key] == near(expected["units"][name][key], room), (name, key)
        cells = zip(unit["mr1_cells"], expected["units"][name]["mr1_cells"], strict=True)
        for cell, other in cells:
            assert cell["pnl"] == near(other["pnl"], size)


@pytest.mark.slow
@pytest.mark.parametrize("contracts", [-3.0, 3.0])
def test_an_order_that_adds_nothing_leaves_the_positions_binding(
    contracts: float, numbers: dict[str, Any]
):
    """An hour before it expires worthless: the requirement with it differs by rounding at most."""
    soon = {"mark_iv": 0.5, "forward": 61_000.0, "multiplier": 0.01}
    terms, quotes = option("BTC-USD-250301-90000-C", "2025-03-01T09:00:00Z", 0.0, 1e-9, **soon)
    order = {**quotes, "contracts": contracts, "price": 1e-4}
    del order["entry_price"]
    book = portfolio(
        swap("BTC-USDT-SWAP", -2.0, 60_100.0),
        option("BTC-USD-250627-60000-C", EXPIRY, 30.0, 0.12, **OPTION),
        index_usd={"BTC": 60_000.0, "USDT": 1.0},
        balances={"USDT": 50_000.0},
        orders=[order],
    )
    book["instruments"].append(terms)
    found, expected = what_if.margin(book, numbers), reference.margin(book, numbers)
    assert found["units"]["BTC"]["binding"] == expected["units"]["BTC"]["binding"] == "positions"
    without = what_if.margin({**book, "orders": []}, numbers)["units"]["BTC"]
    assert found["units"]["BTC"]["mmr"] == pytest.approx(without["mmr"], rel=1e-9)
    assert found["units"]["BTC"]["mr7"] == pytest.approx(without["mr7"], rel=1e-9)


@pytest.mark.slow
def test_expired_legs_do_not_spoil_the_unit(numbers: dict[str, Any]):
    """The unrealised profit of a unit leaves out what has settled."""
    old = "2025-02-28T08:00:00Z"
    final = {"settlement_index_usd": {"BTC": 59_000.0}}
    book = portfolio(
        swap("BTC-USDT-SWAP", -2.0, 60_100.0, entry_price=61_000.0),
        future("BTC-USD-250228", old, 5.0, None, multiplier=100.0, entry_price=58_000.0, **final),
        index_usd={"BTC": 60_000.0, "USDT": 1.0},
        balances={"USDT": 50_000.0},
    )
    assert_same(book, numbers, 2e5)


@pytest.mark.slow
def test_rows_of_one_instrument_are_netted(numbers: dict[str, Any]):
    def book(*sizes: float) -> dict[str, Any]:
        legs = [swap("BTC-USDT-SWAP", n, 60_100.0, entry_price=60_000.0) for n in sizes]
        chosen = portfolio(*legs, index_usd={"BTC": 60_000.0, "USDT": 1.0}, balances={"USDT": 9e4})
        return {**chosen, "instruments": [legs[0][0]]}

    one, two = (what_if.margin(book(*sizes), numbers) for sizes in ((-3.0,), (-1.0, -2.0)))
    assert one["account"]["total_mmr"] == pytest.approx(two["account"]["total_mmr"], rel=1e-12)
    assert one["account"]["margin_level"] == pytest.approx(
        two["account"]["margin_level"], rel=1e-12
    )
    assert one["units"]["BTC"]["mr7"] == pytest.approx(two["units"]["BTC"]["mr7"], rel=1e-12)


@pytest.mark.slow
def test_a_flat_account_has_no_requirement(numbers: dict[str, Any]):
    book = portfolio(index_usd={"BTC": 60_000.0, "USDT": 1.0}, balances={"USDT": 2e4, "BTC": 1.0})
    account = what_if.margin(book, numbers)["account"]
    assert account["status"] == "no_requirement"
    assert account["margin_level"] is None
    assert account["total_mmr"] == 0.0
    assert all(math.isinf(theta) for theta in account["theta"].values())


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["mark_price", "forward", "mark_iv"])
def test_a_missing_price_makes_the_account_unpriced(missing: str, numbers: dict[str, Any]):
    leg = option("BTC-USD-250627-60000-C", EXPIRY, 10.0, 0.12, **OPTION)
    leg[1][missing] = None
    book = portfolio(leg, index_usd={"BTC": 60_000.0}, balances={"BTC": 1.0})
    assert what_if.margin(book, numbers)["account"]["status"] == "unpriced"


def test_unknown_instrument_and_missing_key(numbers: dict[str, Any]):
    book = portfolio(swap("BTC-USDT-SWAP", -2.0, 6e4), index_usd={"BTC": 6e4, "USDT": 1.0})
    book["positions"][0]["instrument_id"] = "BTC-USDT-SWAB"
    with pytest.raises(ConfigError, match=r"instrument 'BTC-USDT-SWAB' is not in 'instruments'"):
        what_if.margin(book, numbers)
    del book["instruments"][0]["coin"]
    with pytest.raises(ConfigError, match=r"instruments\[0\].*coin"):
        what_if.margin(book, numbers)


def test_orders_filled_at_their_price():
    legs = swap("BTC-USDT-SWAP", -2.0, 60_100.0), option("BTC-USD-250627-60000-C", EXPIRY, 1.0, 0.1)
    spot = {**legs[0][0], "instrument_id": "BTC-USDT", "kind": "spot", "multiplier": 1.0}
    orders = [
        {"instrument_id": "BTC-USDT-SWAP", "contracts": 1.0, "price": 60_000.0},
        {"instrument_id": "BTC-USD-250627-60000-C", "contracts": 3.0, "price": 0.2},
        {"instrument_id": "BTC-USDT", "contracts": 0.5, "price": 59_000.0},
    ]
    book = portfolio(*legs, index_usd={"BTC": 6e4}, balances={"USDT": 1e5}, orders=orders)
    book["instruments"].append(spot)
    after = what_if.after_fills(book)
    assert after["orders"] == []
    assert after["balances"] == pytest.approx({"USDT": 1e5 - 29_500.0, "BTC": 0.5 - 0.6})
    assert [p["contracts"] for p in after["positions"]] == [-2.0, 1.0, 1.0, 3.0]
    assert after["positions"][2]["entry_price"] == 60_000.0
    assert len(book["positions"]) == 2


def test_orders_in_unknown_instruments_are_refused():
    order = {"instrument_id": "ETH-USDT-SWAP", "contracts": 1.0, "price": 1.0}
    book = portfolio(swap("BTC-USDT-SWAP", -2.0, 6e4), index_usd={}, orders=[order])
    with pytest.raises(ConfigError, match="ETH-USDT-SWAP"):
        what_if.after_fills(book)
