"""Laws of the Bybit reference that hold for whole accounts, on random portfolios."""

import math
from typing import Any

import pytest
from hypothesis import assume, given, strategies as st

from backtest.reference.bybit import CHARGES, CONTINGENCY, margin
from tests.bybit_books import future, numbers_of, portfolio, spot, stable_option, swap
from tests.okx_books import option


pytestmark = pytest.mark.slow
NUMBERS = numbers_of()
INDEX = {"BTC": 60_000.0, "SOL": 150.0, "USDT": 0.999, "USDC": 1.0}
EARLY, LATE = "2025-03-01T08:20:00Z", "2025-06-27T08:00:00Z"

CONTRACTS = [
    swap("BTC-USDT-SWAP", 1.0, 60_100.0, entry_price=58_000.0),
    swap("BTC-USDC-SWAP", 1.0, 59_950.0),
    swap("BTC-USD-SWAP", 1.0, 60_050.0, multiplier=30_000.0, entry_price=61_000.0),
    future("BTC-USDT-250627", LATE, 1.0, 61_500.0),
    stable_option("BTC-USDT-A-60000-C", EARLY, 1.0, 150.0, mark_iv=0.6, forward=60_020.0),
    stable_option("BTC-USDT-B-65000-C", LATE, 1.0, 5_900.0, mark_iv=0.55, forward=61_500.0),
    stable_option("BTC-USDC-B-55000-P", LATE, 1.0, 3_800.0, mark_iv=0.6, forward=61_500.0),
    option("BTC-USD-C-60000-P", LATE, 1.0, 0.11, mark_iv=0.58, forward=61_400.0),
    swap("SOL-USDT-SWAP", 1.0, 150.2, multiplier=100.0),
]
NAMES = [instrument["instrument_id"] for instrument, _ in CONTRACTS]

amounts = st.floats(-5.0, 5.0).filter(lambda x: abs(x) > 1e-3)
sizes = st.dictionaries(st.sampled_from(range(len(CONTRACTS))), amounts, max_size=6)
cash = st.dictionaries(
    st.sampled_from(["BTC", "SOL", "USDT", "USDC"]), st.floats(-3.0, 5.0), max_size=3
)
resting = st.lists(
    st.tuples(st.sampled_from([*NAMES, "BTC-USDT"]), amounts, st.floats(0.9, 1.1)), max_size=3
)


def book(
    held: dict[int, float],
    balances: dict[str, float],
    orders: list[tuple[str, float, float]],
    factor: float = 1.0,
) -> dict[str, Any]:
    """Contracts, thousands of USD or coins, and orders near the mark; `factor` scales all."""
    rows = [
        (instrument, {**row, "contracts": factor * held.get(k, 0.0)})
        for k, (instrument, row) in enumerate(CONTRACTS)
    ]
    found = portfolio(*rows, index_usd=INDEX)
    marks = {row["instrument_id"]: row["mark_price"] for row in found["positions"]}
    marks["BTC-USDT"] = 60_060.0
    units = {"USDT": 10_000.0, "USDC": 10_000.0, "BTC": 1.0, "SOL": 100.0}
    return {
        **found,
        "instruments": [*found["instruments"], spot("BTC-USDT")],
        "balances": {c: factor * units[c] * x for c, x in balances.items()},
        "orders": [
            {"instrument_id": name, "contracts": factor * n, "price": marks[name] * x}
            for name, n, x in orders
        ],
    }


def close(one: Any, two: Any) -> bool:
    return one == two or math.isclose(one, two, rel_tol=1e-9, abs_tol=1e-6)


@given(sizes, cash, resting, st.floats(-2.0, 3.0))
def test_splitting_a_position_into_two_rows_changes_nothing(held, balances, orders, share):
    whole = book(held, balances, orders)
    rows = []
    for row in whole["positions"]:
        part = share * row["contracts"]
        rows += [{**row, "contracts": part}, {**row, "contracts": row["contracts"] - part}]
    one, two = margin(whole, NUMBERS), margin({**whole, "positions": rows[::-1]}, NUMBERS)
    for key in ("equity_usd", "adjusted_equity", "total_mmr", "total_imr"):
        assert close(one["account"][key], two["account"][key]), key
    for coin, unit in one["units"].items():
        for key in (*CHARGES[:-1], "delta", "spot_in_use", "upl"):
            assert close(unit[key], two["units"][coin][key]), (coin, key)


@given(sizes, cash, resting, st.floats(0.01, 100.0))
def test_scaling_the_account_scales_its_margin(held, balances, orders, factor):
    """Borrow tiers, the only ones with bounds, stay out of it."""
    one = margin(book(held, balances, orders), NUMBERS)
    two = margin(book(held, balances, orders, factor), NUMBERS)
    for coin, unit in one["units"].items():
        other = two["units"][coin]
        assert math.isclose(other["mmr"], factor * unit["mmr"], rel_tol=1e-9, abs_tol=1e-6)
    for key in ("equity_usd", "adjusted_equity", "derivatives_mmr"):
        assert math.isclose(
            two["account"][key], factor * one["account"][key], rel_tol=1e-9, abs_tol=1e-4
        )


@given(sizes, cash, resting, st.floats(0.0, 1e6))
def test_adding_equity_never_lowers_the_level(held, balances, orders, added):
    """For accounts with equity: below zero the smaller requirement of a smaller debt divides it."""
    before = margin(book(held, balances, orders), NUMBERS)["account"]
    assume(before["adjusted_equity"] >= 0.0)
    richer = book(held, balances, orders)
    richer["balances"]["USDT"] = richer["balances"].get("USDT", 0.0) + added
    after = margin(richer, NUMBERS)["account"]
    assert after["total_mmr"] <= before["total_mmr"] * (1.0 + 1e-12)
    if after["margin_level"] is not None:
        assert after["margin_level"] >= before["margin_level"] * (1.0 - 1e-12)
    assert all(
        after["theta"][name] >= before["theta"][name] * (1.0 - 1e-9) - 1e-9 for name in CHARGES
    )


@given(st.dictionaries(st.sampled_from(["BTC", "SOL", "USDT", "USDC"]), st.floats(0.0, 1e6)))
def test_a_flat_account_has_no_requirement(balances):
    account = margin(portfolio(index_usd=INDEX, balances=balances), NUMBERS)["account"]
    assert account["total_mmr"] == account["total_imr"] == 0.0
    assert account["margin_level"] is None
    assert account["status"] == "no_requirement"


@given(sizes, cash, resting)
def test_parts_add_up(held, balances, orders):
    found = margin(book(held, balances, orders), NUMBERS)
    account, detail = found["account"], found["detail"]
    for unit in found["units"].values():
        assert min(unit[name] for name in CHARGES[:-1]) >= 0.0
        assert unit["max_loss"] == max(0.0, -min(unit["all"]))
        assert close(unit["contingency"], sum(unit[name] for name in CONTINGENCY))
        portfolios = detail["units"][unit_name(found, unit)]["portfolios"]
        assert unit["mmr"] == max(portfolios.values()) == portfolios[unit["binding"]]
    assert close(sum(detail["charges"].values()), account["total_mmr"])
    adjusted = account["equity_usd"] - detail["haircut_loss"] + detail["order_loss"]
    assert close(account["adjusted_equity"], adjusted)
    assert detail["haircut_loss"] >= 0.0 >= detail["order_loss"]
    for name, theta in account["theta"].items():
        if 0.0 < theta < math.inf:
            charge = detail["charges"][name]
            scaled = account["total_mmr"] + (theta - 1.0) * charge
            assert scaled == pytest.approx(account["adjusted_equity"], rel=1e-9, abs=1e-6)


def unit_name(found: dict[str, Any], unit: dict[str, Any]) -> str:
    return next(name for name, other in found["units"].items() if other is unit)


@given(sizes, cash, resting)
def test_orders_never_lower_the_requirement_of_a_unit(held, balances, orders):
    without = margin(book(held, balances, []), NUMBERS)["units"]
    for coin, unit in margin(book(held, balances, orders), NUMBERS)["units"].items():
        assert unit["mmr"] >= without.get(coin, {"mmr": 0.0})["mmr"]
