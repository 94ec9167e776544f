"""Split risk units; from 2024-06-05 G1 moves 15 % (MR1), 0.6 % (MR4), 0.45 % (MR7)."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backtest.params import load_parameter_set
from backtest.reference.okx import margin
from tests.okx_books import PARAMS, future, merged_numbers, option, portfolio, swap


INDEX = {"BTC": 60_000.0, "ETH": 3_000.0, "USDT": 1.0, "USDC": 1.0}
BARE = 60_000.0 * (0.15 + 0.006)
HEDGED = 120_000.0 * 0.006


def split(date: str) -> dict[str, Any]:
    return load_parameter_set(PARAMS / f"okx-split-{date}.toml").numbers()


NOW, EARLY = split("2024-06-05"), split("2024-05-11")
SHORTS = (
    swap("BTC-USDT-SWAP", -1.0, 60_000.0),
    swap("BTC-USD-SWAP", -600.0, 60_000.0, multiplier=100.0),
)


def answer(*contracts: Any, numbers: dict[str, Any] = NOW, **keys: Any) -> dict[str, Any]:
    return margin(portfolio(*contracts, **{"index_usd": INDEX, **keys}), numbers)


def spot_buy(pair: str, contracts: float, price: float) -> tuple[dict[str, Any], dict[str, Any]]:
    coin, quote = pair.split("-")
    instrument = {
        "instrument_id": pair,
        "kind": "spot",
        "coin": coin,
        "settle": quote,
        "style": "linear",
        "multiplier": 1.0,
        **dict.fromkeys(("strike", "option_type", "expiry")),
    }
    return instrument, {"instrument_id": pair, "contracts": contracts, "price": price}


@pytest.mark.parametrize(
    ("mode", "usdt", "usd", "more"),
    [
        (None, 0.0, 0.0, []),
        ("derivatives_only", 0.0, 0.0, []),
        ("USDT", 1.0, 0.0, []),
        ("USD", 0.0, 1.0, []),
        ("USDC", 0.0, 0.0, ["BTC-USDC"]),
    ],
)
def test_spot_sits_in_the_unit_of_its_mode(
    mode: str | None, usdt: float, usd: float, more: list[str]
):
    found = answer(*SHORTS, balances={"BTC": 1.5}, spot_mode=mode)
    units = found["units"]
    assert list(units) == ["BTC-USD", *more, "BTC-USDT"]
    for name, spot in {"BTC-USDT": usdt, "BTC-USD": usd}.items():
        assert units[name]["spot_in_use"] == pytest.approx(spot)
        assert units[name]["mmr"] == pytest.approx(HEDGED if spot else BARE)
        assert units[name]["mr9"] == 0.0
    total = found["account"]["derivatives_mmr"]
    assert total == pytest.approx(HEDGED + BARE if usdt or usd else 2.0 * BARE)


def test_merged_units_ignore_the_mode():
    one, two = (
        answer(*SHORTS, balances={"BTC": 1.5}, spot_mode=mode, numbers=merged_numbers())
        for mode in (None, "USDT")
    )
    assert one["units"] == two["units"]
    assert one["units"]["BTC"]["spot_in_use"] == pytest.approx(1.5)


def test_the_coin_counts_once_whatever_the_unit():
    """Equity of an account and coin, borrowing and collateral know no units."""
    found = answer(*SHORTS, balances={"BTC": -0.5, "USDT": 200_000.0}, spot_mode="USDT")
    account = found["account"]
    assert account["mr8"] == pytest.approx(30_000.0 * 0.03)
    assert account["adjusted_equity"] == pytest.approx(170_000.0)
    assert account["total_imr"] == pytest.approx(1.3 * 2.0 * BARE + 3_000.0)


def test_options_share_the_unit_of_inverse_contracts():
    expiry = "2025-06-27T08:00:00Z"
    data = {"mark_iv": 0.6, "forward": 60_500.0, "multiplier": 0.1}
    found = answer(
        SHORTS[1],
        option("BTC-USD-250627-60000-C", expiry, 5.0, 0.1, **data),
        future("BTC-USDC-250627", expiry, 2.0, 60_400.0),
        swap("ETH-USDT-SWAP", 1.0, 3_000.0),
    )
    assert list(found["units"]) == ["BTC-USD", "BTC-USDC", "ETH-USDT"]
    assert found["units"]["BTC-USDC"]["delta"] == 2.0
    assert -1.0 < found["units"]["BTC-USD"]["delta"] < 0.0


def test_no_offset_between_quote_currencies():
    found = answer(swap("BTC-USDT-SWAP", -1.0, 60_000.0), swap("BTC-USDC-SWAP", 1.0, 60_000.0))
    assert [unit["mmr"] for unit in found["units"].values()] == pytest.approx([BARE, BARE])


@pytest.mark.parametrize(("numbers", "spot"), [(NOW, 0.4), (EARLY, 1.0)], ids=["now", "before"])
def test_user_limits_came_in_june_2024(numbers: dict[str, Any], spot: float):
    found = answer(
        SHORTS[0],
        numbers=numbers,
        balances={"BTC": 1.5},
        spot_mode="USDT",
        spot_limits={"BTC": 0.4},
    )
    assert found["units"]["BTC-USDT"]["spot_in_use"] == spot


def test_usdc_offset_came_in_june_2024():
    contract = swap("BTC-USDC-SWAP", -1.0, 60_000.0)
    keys: dict[str, Any] = {"balances": {"BTC": 1.0}, "spot_mode": "USDC"}
    assert answer(contract, **keys)["units"]["BTC-USDC"]["spot_in_use"] == 1.0
    assert answer(contract, numbers=EARLY, **keys)["units"]["BTC-USDC"]["spot_in_use"] == 0.0


@pytest.mark.parametrize(
    ("numbers", "binding", "mmr"),
    [(NOW, "positions+sells", BARE), (EARLY, "positions", 270.0)],
    ids=["now", "before"],
)
def test_spot_orders_entered_in_june_2024(numbers: dict[str, Any], binding: str, mmr: float):
    """A resting sell of the hedge; what it would lose leaves equity all along."""
    instrument, order = spot_buy("BTC-USDT", -1.0, 59_000.0)
    book = portfolio(
        SHORTS[0],
        index_usd=INDEX,
        balances={"BTC": 1.0, "USDT": 50_000.0},
        spot_mode="USDT",
        orders=[order],
    )
    book["instruments"].append(instrument)
    found = margin(book, numbers)
    unit = found["units"]["BTC-USDT"]
    assert unit["binding"] == binding
    assert unit["mmr"] == pytest.approx(mmr)
    assert found["account"]["adjusted_equity"] == pytest.approx(50_000.0 + 58_800.0 - 1_000.0)


@pytest.mark.parametrize(
    ("mode", "bindings"),
    [
        ("USDT", {"BTC-USDT": "positions+sells", "ETH-USDT": "positions"}),
        ("USD", {"BTC-USD": "positions", "BTC-USDT": "positions", "ETH-USD": "positions"}),
        ("derivatives_only", {"BTC-USDT": "positions"}),
    ],
)
def test_a_cross_pair_sits_where_spot_does(mode: str, bindings: dict[str, str]):
    instrument, order = spot_buy("ETH-BTC", 20.0, 0.05)
    book = portfolio(
        SHORTS[0],
        index_usd=INDEX,
        balances={"BTC": 1.0, "USDT": 50_000.0},
        spot_mode=mode,
        orders=[order],
    )
    book["instruments"].append(instrument)
    found = margin(book, NOW)["units"]
    assert {name: unit["binding"] for name, unit in found.items()} == bindings
    assert found["BTC-USDT"]["mmr"] == pytest.approx(BARE)


@pytest.mark.parametrize(
    ("date", "days", "move"),
    [
        ("2021-12-24", 3.65, 0.015),
        ("2021-12-24", 182.5, 0.15),
        ("2023-07-12", 3.65, 0.006),
        ("2023-07-12", 182.5, 0.15),
        ("2024-05-11", 182.5, 0.05),
        ("2025-01-15", 182.5, 0.05),
    ],
)
def test_basis_moves_of_their_time(date: str, days: float, move: float):
    """A future charged in every version, a perpetual only from 2024-06-05 on (0.6 %)."""
    time = datetime(2024, 1, 1, tzinfo=UTC)
    expiry = (time + timedelta(days=days)).isoformat()
    found = answer(
        future("BTC-USDT-X", expiry, 1.0, 60_000.0),
        swap("BTC-USDT-SWAP", -1.0, 60_000.0),
        numbers=split(date),
        time=time,
    )
    perpetual = 360.0 if date == "2025-01-15" else 0.0
    expected = 60_000.0 * move + perpetual
    assert found["units"]["BTC-USDT"]["mr4"] == pytest.approx(expected)


def test_options_pay_no_basis_before_june_2024():
    data = {"mark_iv": 0.6, "forward": 60_500.0, "multiplier": 0.1}
    contract = option("BTC-USD-250627-60000-C", "2025-06-27T08:00:00Z", 5.0, 0.1, **data)
    assert answer(contract, numbers=EARLY)["units"]["BTC-USD"]["mr4"] == 0.0
    assert answer(contract)["units"]["BTC-USD"]["mr4"] > 0.0


def test_the_shorter_aggregation():
    """A call sold far out of the money: MR6 is out of the shorter formula."""
    data = {"mark_iv": 0.6, "forward": 60_500.0, "multiplier": 1.0}
    contract = option("BTC-USD-250627-90000-C", "2025-06-27T08:00:00Z", -1.0, 0.01, **data)
    long = answer(contract)["units"]["BTC-USD"]
    short = answer(contract, numbers=split("2024-06-05-short"))["units"]["BTC-USD"]
    added = sum(long[name] for name in ("mr3", "mr4", "mr5"))
    assert long["mmr"] == pytest.approx(max(long["mr1"], long["mr2"], long["mr6"]) + added)
    assert short["mmr"] == pytest.approx(max(long["mr1"] + added, long["mr7"]))
    assert short["mr6"] == long["mr6"]
