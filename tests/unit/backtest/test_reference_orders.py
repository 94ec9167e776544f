"""Open orders in merged units: G1 moves 12 % (MR1), 0.2 % (MR4), 0.45 % (MR7)."""

from typing import Any

import numpy as np
import pytest

from backtest.params import load_parameter_set
from backtest.reference.okx import margin
from backtest.reference.okx_legs import read_book
from backtest.reference.okx_orders import (
    delta_sign,
    order_loss,
    outgoing,
    premium,
    read_orders,
    spot_flow,
)
from tests.okx_books import PARAMS, future, merged_numbers, option, portfolio, swap


NUMBERS = merged_numbers()
INDEX = {"BTC": 60_000.0, "ETH": 3_000.0, "USDT": 1.0, "USDC": 1.0}
EXPIRY = "2025-06-27T08:00:00Z"
OPTION = {"multiplier": 0.1, "mark_iv": 0.6, "forward": 60_000.0}
CALL, PUT = "BTC-USD-250627-60000-C", "BTC-USD-250627-60000-P"
MISSING = dict.fromkeys(("strike", "option_type", "expiry"))
MMR = 60_000.0 * (0.12 + 0.002)


def split_numbers() -> dict[str, Any]:
    return load_parameter_set(PARAMS / "okx-split-2024-06-05.toml").numbers()


def spot(pair: str) -> dict[str, Any]:
    coin, quote = pair.split("-")
    terms = {"instrument_id": pair, "kind": "spot", "coin": coin, "settle": quote}
    return {**MISSING, **terms, "style": "linear", "multiplier": 1.0}


def order(name: str, contracts: float, price: float, **marks: Any) -> dict[str, Any]:
    return {"instrument_id": name, "contracts": contracts, "price": price, **marks}


def book(*contracts: Any, more: tuple[Any, ...] = (), **keys: Any) -> dict[str, Any]:
    found = portfolio(*contracts, **{"index_usd": INDEX, **keys})
    found["instruments"] += more
    return found


def answer(*contracts: Any, more: tuple[Any, ...] = (), **keys: Any) -> dict[str, Any]:
    return margin(book(*contracts, more=more, **keys), NUMBERS)


def read(*rows: dict[str, Any], more: tuple[Any, ...]) -> list[Any]:
    content = book(more=more, orders=list(rows))
    quotes = NUMBERS["quote_currencies"]
    return read_orders(content, read_book(content, quotes), quotes)


@pytest.mark.parametrize(
    ("rows", "mmr", "binding", "delta"),
    [
        ([order("BTC-USDT-SWAP", -3.0, 60_000.0)], 2.0 * MMR, "positions+sells", -2.0),
        ([order("BTC-USDT-SWAP", -1.0, 60_000.0)], MMR, "positions", 1.0),
        ([order("BTC-USDT-SWAP", -2.0, 60_000.0)], MMR, "positions", 1.0),
        ([order("BTC-USDT-SWAP", 0.5, 60_000.0)], 1.5 * MMR, "positions+buys", 1.5),
        (
            [order("BTC-USDT-SWAP", n, 60_000.0) for n in (0.5, -3.5, 0.5)],
            2.5 * MMR,
            "positions+sells",
            -2.5,
        ),
        (
            [order("BTC-USDT-SWAP", n, 60_000.0) for n in (1.0, -4.0)],
            3.0 * MMR,
            "positions+sells",
            -3.0,
        ),
    ],
    ids=["through", "closing", "equal", "adding", "both", "sell more"],
)
def test_a_linear_order_nets_with_its_position(
    rows: list[dict[str, Any]], mmr: float, binding: str, delta: float
):
    found = answer(
        swap("BTC-USDT-SWAP", 1.0, 60_000.0, entry_price=59_000.0),
        balances={"USDT": 100_000.0},
        orders=rows,
    )
    unit = found["units"]["BTC"]
    assert unit["mmr"] == pytest.approx(mmr)
    assert (unit["binding"], unit["delta"], unit["upl"]) == (binding, delta, 1_000.0)
    assert unit["mr7"] == pytest.approx(abs(delta) * 270.0)
    account = found["account"]
    assert account["equity_usd"] == account["adjusted_equity"] == 101_000.0
    assert account["total_imr"] == pytest.approx(1.3 * mmr)
    assert account["theta"]["mr4"] == pytest.approx(
        (101_000.0 - abs(delta) * 7_200.0) / (abs(delta) * 120.0)
    )


def test_orders_of_both_sides_alike_bind_with_the_buys():
    rows = [order("BTC-USDT-SWAP", n, 60_000.0, mark_price=60_000.0) for n in (1.0, -1.0)]
    instrument, _ = swap("BTC-USDT-SWAP", 1.0, 60_000.0)
    found = answer(more=(instrument,), balances={"USDT": 100_000.0}, orders=rows)
    assert found["units"]["BTC"]["binding"] == "positions+buys"
    assert found["units"]["BTC"]["mmr"] == pytest.approx(MMR)
    portfolios = found["detail"]["units"]["BTC"]["portfolios"]
    assert list(portfolios.values()) == pytest.approx([0.0, MMR, MMR])
    assert "binding" not in answer(balances={"BTC": 1.0})["units"]["BTC"]


def test_orders_in_two_instruments_of_a_unit_count_together():
    long, short = swap("BTC-USDT-SWAP", 1.0, 60_000.0), swap("BTC-USDC-SWAP", 1.0, 60_000.0)
    rows = [
        order("BTC-USDT-SWAP", 1.0, 60_000.0, mark_price=60_000.0),
        order("BTC-USDC-SWAP", 2.0, 60_000.0, mark_price=60_000.0),
        order("BTC-USDC-SWAP", -2.0, 60_000.0),
    ]
    found = answer(more=(long[0], short[0]), orders=rows)
    assert found["units"]["BTC"]["mmr"] == pytest.approx(3.0 * MMR)
    assert found["units"]["BTC"]["delta"] == 3.0


def test_an_inverse_order_and_its_loss():
    """100 contracts of 100 USD bought at 61,000 with the mark at 60,000."""
    instrument, _ = swap("BTC-USD-SWAP", 1.0, 60_000.0, multiplier=100.0)
    rows = [order("BTC-USD-SWAP", 100.0, 61_000.0, mark_price=60_000.0)]
    found = answer(more=(instrument,), balances={"USDT": 50_000.0}, orders=rows)
    unit = found["units"]["BTC"]
    assert unit["mr1"] == pytest.approx(10_000.0 * 0.12)
    assert unit["mr4"] == pytest.approx(10_000.0 * 0.002)
    loss = 10_000.0 * (1.0 / 60_000.0 - 1.0 / 61_000.0) * 60_000.0
    assert found["detail"]["order_loss"] == pytest.approx(loss)
    account = found["account"]
    assert account["adjusted_equity"] == pytest.approx(50_000.0 - loss)
    assert account["equity_usd"] == 50_000.0
    assert account["margin_level"] == pytest.approx((50_000.0 - loss) / unit["mmr"])


@pytest.mark.parametrize(
    ("pair", "contracts", "limit", "mark", "loss"),
    [
        ("BTC-USDT-SWAP", 2.0, 61_000.0, 60_000.0, 2_000.0 * 0.5),
        ("BTC-USDT-SWAP", 2.0, 59_000.0, 60_000.0, 0.0),
        ("BTC-USDT-SWAP", -2.0, 59_000.0, 60_000.0, 2_000.0 * 0.5),
        ("BTC-USDT-SWAP", -2.0, 61_000.0, 60_000.0, 0.0),
        ("BTC-USD-SWAP", -60.0, 50_000.0, 60_000.0, 60.0 * (1 / 5e4 - 1 / 6e4) * 60_000.0),
        ("BTC-USD-SWAP", -60.0, 70_000.0, 60_000.0, 0.0),
    ],
)
def test_order_loss_of_contracts(
    pair: str, contracts: float, limit: float, mark: float, loss: float
):
    instrument, _ = swap(pair, 1.0, mark)
    content = book(
        more=(instrument,),
        index_usd={"BTC": 60_000.0, "USDT": 0.5},
        orders=[order(pair, contracts, limit, mark_price=mark)],
    )
    quotes = NUMBERS["quote_currencies"]
    (found,) = read_orders(content, read_book(content, quotes), quotes)
    assert order_loss(found) == pytest.approx(loss, abs=1e-9)
    assert premium(found) == 0.0
    assert outgoing([found]) == {}


def test_a_sold_option():
    """10 calls of 0.1 sold at 0.04 with the mark at 0.05: 600 USD lost; no potential borrowing."""
    name, marks = CALL, {"mark_price": 0.05, "mark_iv": 0.6, "forward": 60_000.0}
    instrument, position = option(name, EXPIRY, -10.0, 0.05, **OPTION)
    rows = [order(name, -10.0, 0.04, **marks)]
    found = answer(more=(instrument,), balances={"USDT": 50_000.0}, orders=rows)
    assert found["account"]["adjusted_equity"] == pytest.approx(50_000.0 - 600.0)
    assert found["account"]["mr8"] == 0.0
    unit = found["units"]["BTC"]
    assert unit["binding"] == "positions+sells"
    held = answer((instrument, position), balances={"USDT": 50_000.0})["units"]["BTC"]
    for key in ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mmr", "delta"):
        assert unit[key] == pytest.approx(held[key], rel=1e-12), key


@pytest.mark.parametrize(
    ("name", "contracts", "binding"),
    [
        (CALL, 10.0, "positions+buys"),
        (PUT, 10.0, "positions+sells"),
        (CALL, -10.0, "positions+sells"),
        (PUT, -10.0, "positions+buys"),
    ],
)
def test_the_delta_of_an_option_order(name: str, contracts: float, binding: str):
    instrument, _ = option(name, EXPIRY, 1.0, 0.05, **OPTION)
    marks = {"mark_price": 0.05, "mark_iv": 0.6, "forward": 60_000.0}
    rows = [order(name, contracts, 0.05, **marks)]
    found = answer(more=(instrument,), balances={"USDT": 50_000.0}, orders=rows)
    assert found["units"]["BTC"]["binding"] == binding


@pytest.mark.parametrize(("mode", "mr8"), [("auto", 1_200.0 * 0.03), ("non_auto", 0.0)])
def test_a_bought_option_costs_its_premium(mode: str, mr8: float):
    """10 calls of 0.1 bought at 0.06: 0.06 BTC leave, 0.02 of them would be borrowed."""
    instrument, _ = option(CALL, EXPIRY, 1.0, 0.05, **OPTION)
    marks = {"mark_price": 0.05, "mark_iv": 0.6, "forward": 60_000.0}
    rows = [order(CALL, 10.0, 0.06, **marks)]
    found = answer(
        more=(instrument,), balances={"BTC": 0.04, "USDT": 50_000.0}, orders=rows, borrow_mode=mode
    )
    account = found["account"]
    assert account["adjusted_equity"] == pytest.approx(50_000.0 + 2_400.0 * 0.98 - 3_600.0)
    assert found["detail"]["order_loss"] == 0.0
    assert account["mr8"] == pytest.approx(mr8)
    assert account["borrow_imr"] == pytest.approx(mr8 / 0.03 * 0.10)


def test_a_spot_buy_hedges_only_once_it_is_filled():
    found = answer(
        swap("BTC-USDT-SWAP", -1.0, 60_000.0),
        more=(spot("BTC-USDT"),),
        balances={"USDT": 100_000.0},
        orders=[order("BTC-USDT", 1.0, 61_000.0)],
    )
    unit = found["units"]["BTC"]
    assert (unit["binding"], unit["spot_in_use"]) == ("positions", 0.0)
    assert unit["mmr"] == pytest.approx(MMR)
    portfolios = found["detail"]["units"]["BTC"]["portfolios"]
    assert portfolios["positions+buys"] == pytest.approx(270.0)
    assert found["account"]["adjusted_equity"] == pytest.approx(100_000.0 - 1_000.0)
    assert found["account"]["mr8"] == 0.0


def test_a_spot_sell_takes_the_hedge_away():
    found = answer(
        swap("BTC-USDT-SWAP", -1.0, 60_000.0),
        more=(spot("BTC-USDT"),),
        balances={"BTC": 1.0, "USDT": 10_000.0},
        orders=[order("BTC-USDT", -0.75, 59_000.0)],
    )
    unit = found["units"]["BTC"]
    assert (unit["binding"], unit["spot_in_use"]) == ("positions+sells", 0.25)
    assert unit["mr1"] == pytest.approx(0.75 * 7_200.0)
    assert unit["mr4"] == pytest.approx((15_000.0 + 60_000.0) * 0.002)
    assert found["account"]["adjusted_equity"] == pytest.approx(58_800.0 + 10_000.0 - 750.0)
    assert found["account"]["equity_usd"] == 70_000.0


def test_a_cross_pair_moves_two_units():
    """20 ETH bought for 1 BTC, both short: ETH would be hedged by it, BTC laid bare."""
    found = answer(
        swap("BTC-USDT-SWAP", -1.0, 60_000.0),
        swap("ETH-USDT-SWAP", -20.0, 3_000.0),
        more=(spot("ETH-BTC"),),
        balances={"BTC": 1.0, "USDT": 10_000.0},
        orders=[order("ETH-BTC", 20.0, 0.05)],
    )
    units = found["units"]
    assert (units["BTC"]["binding"], units["BTC"]["spot_in_use"]) == ("positions+sells", 0.0)
    assert (units["ETH"]["binding"], units["ETH"]["spot_in_use"]) == ("positions", 0.0)
    assert units["BTC"]["mmr"] == units["ETH"]["mmr"] == pytest.approx(MMR)
    assert list(found["detail"]["units"]["BTC"]["portfolios"]) == ["positions", "positions+sells"]
    assert found["detail"]["units"]["ETH"]["portfolios"]["positions+buys"] == pytest.approx(270.0)


def test_signs_flows_and_payments_of_spot_orders():
    instruments = (spot("BTC-USDT"), spot("ETH-BTC"))
    rows = (order("BTC-USDT", -2.0, 61_000.0), order("ETH-BTC", 30.0, 0.06))
    sell, cross = read(*rows, more=instruments)
    assert [delta_sign(sell, c) for c in ("BTC", "USDT", "ETH")] == [-1.0, 1.0, 0.0]
    assert [delta_sign(cross, c) for c in ("BTC", "ETH")] == [-1.0, 1.0]
    assert spot_flow([sell, cross], "BTC") == pytest.approx(-3.8)
    assert spot_flow([sell, cross], "ETH") == 30.0
    assert outgoing([sell, cross]) == pytest.approx({"BTC": 3.8})  # nothing is netted
    assert order_loss(sell) == 0.0
    assert order_loss(cross) == pytest.approx(30.0 * 0.01 * 60_000.0)


@pytest.mark.parametrize(("mode", "liability"), [("auto", 20_000.0), ("non_auto", 0.0)])
def test_potential_borrowing_of_a_buy(mode: str, liability: float):
    """2 BTC at 60,000 with 100,000 USDT: 20,000 USDT would be borrowed at 2 % / 10 %."""
    account = answer(
        more=(spot("BTC-USDT"),),
        balances={"USDT": 100_000.0},
        orders=[order("BTC-USDT", 2.0, 60_000.0)],
        borrow_mode=mode,
    )["account"]
    assert account["mr8"] == account["total_mmr"] == pytest.approx(0.02 * liability)
    assert account["total_imr"] == pytest.approx(0.10 * liability)
    if liability:
        assert account["margin_level"] == pytest.approx(100_000.0 / (400.0 + 20.4))
        assert account["theta"]["mr8"] == pytest.approx((100_000.0 - 20.4) / 400.0)
    else:
        assert account["margin_level"] is None


@pytest.mark.parametrize(("mode", "liability"), [("auto", 65_000.0), ("non_auto", 5_000.0)])
def test_orders_add_to_a_debt(mode: str, liability: float):
    found = answer(
        more=(spot("BTC-USDT"),),
        balances={"USDT": -5_000.0, "ETH": 100.0},
        orders=[order("BTC-USDT", 1.0, 60_000.0)],
        borrow_mode=mode,
    )
    rows = found["detail"]["mr8"]["liabilities"]
    assert {name: row["liability"] for name, row in rows.items()} == {"USDT": liability}


def test_an_order_without_prices_leaves_the_account_unpriced():
    instrument, _ = option(CALL, EXPIRY, 1.0, 0.05, **OPTION)
    rows = [order(CALL, 1.0, 0.05, mark_price=0.05)]
    found = answer(more=(instrument,), balances={"USDT": 1.0}, orders=rows)
    assert found["account"]["status"] == "unpriced"
    assert found["detail"]["unpriced"] == [f"forward of {CALL}", f"mark_iv of {CALL}"]
    rows = [order("SOL-USDT", 1.0, 150.0)]
    found = answer(more=(spot("SOL-USDT"),), orders=rows)
    assert found["detail"]["unpriced"] == ["index of SOL"]


def test_prices_come_from_any_row_of_the_instrument():
    instrument, position = swap("BTC-USDT-SWAP", 0.0, 60_000.0)
    found = answer((instrument, position), orders=[order("BTC-USDT-SWAP", 1.0, 60_000.0)])
    assert found["units"]["BTC"]["mmr"] == pytest.approx(MMR)
    rows = [
        order("BTC-USDT-SWAP", 1.0, 60_000.0, mark_price=60_000.0),
        order("BTC-USDT-SWAP", 1.0, 60_000.0),
    ]
    assert answer(more=(instrument,), orders=rows)["units"]["BTC"]["mmr"] == pytest.approx(2 * MMR)


def test_void_orders():
    expired, _ = option("BTC-USD-250228-60000-C", "2025-02-28T08:00:00Z", 1.0, 0.05, **OPTION)
    live, _ = swap("BTC-USDT-SWAP", 1.0, 60_000.0)
    rows = [
        order("BTC-USD-250228-60000-C", 10.0, 0.05),
        order("BTC-USDT-SWAP", 0.0, 60_000.0),
    ]
    found = answer(more=(expired, live), balances={"USDT": 1.0}, orders=rows)
    assert found["units"] == {}
    assert found["account"]["adjusted_equity"] == 1.0
    assert found["detail"]["orders"] == []


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("era", ["merged", "split"])
def test_a_unit_is_the_worst_of_three_portfolios_filled_by_hand(seed: int, era: str):
    rng = np.random.default_rng(seed)
    data = {"mark_iv": 0.6, "forward": 60_500.0, "multiplier": 0.1}
    contracts = [
        swap("BTC-USDT-SWAP", 1.0, 60_000.0),
        swap("BTC-USD-SWAP", 1.0, 60_000.0, multiplier=100.0),
        future("BTC-USDC-250627", EXPIRY, 1.0, 60_400.0),
        option(CALL, EXPIRY, 1.0, 0.11, **data),
        option(PUT, EXPIRY, 1.0, 0.10, **data),
    ]
    sizes = [2.0, 1_000.0, 2.0, 20.0, 20.0]
    held, *rested = rng.uniform(-1.0, 1.0, (3, 5)) * sizes
    rested = np.asarray(rested)
    adds = np.sign(rested) * [1.0, 1.0, 1.0, 1.0, -1.0]

    def filled(sign: float) -> dict[str, Any]:
        """The options come for their value, so that the equity in BTC stays."""
        added = np.where(adds == sign, rested, 0.0).sum(axis=0)
        cash = 0.7 - 0.1 * (added[3] * 0.11 + added[4] * 0.10)
        total = zip(contracts, held + added, strict=True)
        rows = [(i, {**p, "contracts": n}) for (i, p), n in total]
        content = book(*rows, balances={"BTC": cash, "USDT": 1e6}, spot_mode="USD")
        return margin(content, numbers)["units"]

    numbers = NUMBERS if era == "merged" else split_numbers()
    balances = {"BTC": 0.7, "USDT": 1e6}
    rows = [(i, {**p, "contracts": n}) for (i, p), n in zip(contracts, held, strict=True)]
    orders = [
        order(i["instrument_id"], n, p["mark_price"])
        for (i, p), n in zip([*contracts, *contracts], rested.ravel(), strict=True)
    ]
    content = book(*rows, balances=balances, orders=orders, spot_mode="USD")
    found = margin(content, numbers)["units"]
    by_hand = {"positions": filled(0.0), "positions+buys": filled(1.0)}
    by_hand["positions+sells"] = filled(-1.0)
    assert set(found) == set(by_hand["positions"])
    for name, unit in found.items():
        assert unit["mmr"] == pytest.approx(max(units[name]["mmr"] for units in by_hand.values()))
        assert unit["mr6"] == pytest.approx(by_hand[unit["binding"]][name]["mr6"])


def test_unusable_orders_are_errors():
    inverse, _ = swap("BTC-USD-SWAP", 1.0, 60_000.0)
    marks = {"mark_price": 60_000.0}
    with pytest.raises(ValueError, match="order in 'X', which is not among the instruments"):
        answer(orders=[order("X", 1.0, 1.0)])
    with pytest.raises(ValueError, match="price of the order is 0; allowed: above 0"):
        answer(more=(inverse,), orders=[order("BTC-USD-SWAP", 1.0, 0.0, **marks)])
    with pytest.raises(ValueError, match="price of the order is -1; allowed: 0 or more"):
        answer(more=(spot("BTC-USDT"),), orders=[order("BTC-USDT", 1.0, -1.0)])
    with pytest.raises(ValueError, match="quote currency of spot is the coin itself"):
        answer(more=(spot("BTC-BTC"),), orders=[order("BTC-BTC", 1.0, 1.0)])
    bad = {**inverse, "settle": "USDT"}
    with pytest.raises(ValueError, match="inverse contracts settle in 'BTC'"):
        answer(more=(bad,), orders=[order("BTC-USD-SWAP", 1.0, 1.0, **marks)])
