from typing import Any

import pytest

from backtest.reference.bybit import margin
from tests.bybit_books import future, numbers_of, portfolio, spot, stable_option, swap
from tests.okx_books import option


NUMBERS = numbers_of()
S = 60_000.0
INDEX = {"BTC": S, "ETH": 3_000.0, "USDT": 1.0, "USDC": 1.0}
PAST, LATER = "2025-02-01T08:00:00Z", "2025-06-27T08:00:00Z"
PERPETUAL = "BTC-USDT-SWAP"


def order(name: str, contracts: float, price: float, **more: Any) -> dict[str, Any]:
    return {"instrument_id": name, "contracts": contracts, "price": price, **more}


def answer(*contracts: Any, orders: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    book = portfolio(*contracts, **{"index_usd": INDEX, "orders": orders, **keys})
    book["instruments"] += [spot("BTC-USDT"), spot("ETH-USDT")]
    return margin(book, NUMBERS)


def losses(*contracts: Any, orders: list[dict[str, Any]]) -> float:
    return answer(*contracts, orders=orders)["detail"]["order_loss"]


@pytest.mark.parametrize(
    ("contract", "contracts", "price", "loss"),
    [
        (swap(PERPETUAL, 0.0, S), 2.0, 61_000.0, 2_000.0),
        (swap(PERPETUAL, 0.0, S), 2.0, 59_000.0, 0.0),
        (swap(PERPETUAL, 0.0, S), -2.0, 59_000.0, 2_000.0),
        (swap("BTC-USD-SWAP", 0.0, S, multiplier=100.0), 600.0, 80_000.0, 0.25 * S),
        (swap("BTC-USD-SWAP", 0.0, S, multiplier=100.0), -600.0, 50_000.0, 0.2 * S),
        (option("BTC-USD-X-60000-C", LATER, 0.0, 0.05, mark_iv=0.5, forward=S), 1.0, 0.02, 1_200.0),
        (
            option("BTC-USD-X-60000-C", LATER, 0.0, 0.05, mark_iv=0.5, forward=S),
            -1.0,
            0.02,
            1_800.0,
        ),
        (option("BTC-USD-X-60000-C", LATER, 0.0, 0.05, mark_iv=0.5, forward=S), -1.0, 0.06, 0.0),
        (
            stable_option("BTC-USDT-X-60000-P", LATER, 0.0, 900.0, mark_iv=0.5, forward=S),
            *(-3.0, 800.0, 300.0),
        ),
    ],
)
def test_order_loss(contract: Any, contracts: float, price: float, loss: float):
    orders = [order(contract[0]["instrument_id"], contracts, price)]
    assert losses(contract, orders=orders) == pytest.approx(-loss)


def test_order_loss_of_spot_and_of_several_orders():
    """Buying 1 coin at 60,500 with an index of 60,000, and selling one at 59,800."""
    orders = [order("BTC-USDT", 1.0, 60_500.0), order("BTC-USDT", -1.0, 59_800.0)]
    found = answer(orders=orders, balances={"USDT": 1e6, "BTC": 1.0})
    assert found["detail"]["order_loss"] == pytest.approx(-700.0)
    account = found["account"]
    assert account["adjusted_equity"] == pytest.approx(1e6 + 0.85 * S - 700.0)
    assert account["equity_usd"] == pytest.approx(1e6 + S)


@pytest.mark.parametrize(
    ("position", "binding"),
    [(0.0, "positions+sells"), (1.0, "positions+buys"), (-1.0, "positions+sells")],
)
def test_the_worst_of_three_portfolios_binds(position: float, binding: str):
    orders = [order(PERPETUAL, 1.0, S), order(PERPETUAL, -1.5, S)]
    found = answer(swap(PERPETUAL, position, S), orders=orders)
    unit, portfolios = found["units"]["BTC"], found["detail"]["units"]["BTC"]["portfolios"]
    assert unit["binding"] == binding
    expected = {"positions": 0.0, "positions+buys": 1.0, "positions+sells": -1.5}
    mmrs = {case: 6_018.0 * abs(position + change) for case, change in expected.items()}
    assert portfolios == pytest.approx(mmrs)
    assert unit["mmr"] == pytest.approx(max(mmrs.values()))
    assert unit["delta"] == pytest.approx(position + expected[binding])


def test_the_first_of_equal_portfolios_is_reported():
    orders = [order(PERPETUAL, 1.0, S), order(PERPETUAL, -1.0, S)]
    assert answer(orders=orders, **book(swap(PERPETUAL, 0.0, S)))["units"]["BTC"]["binding"] == (
        "positions+buys"
    )
    reduce = answer(swap(PERPETUAL, 1.0, S), orders=[order(PERPETUAL, -2.0, S)])
    assert reduce["units"]["BTC"]["binding"] == "positions"


def book(*contracts: Any) -> dict[str, Any]:
    return {
        "instruments": [instrument for instrument, _ in contracts],
        "positions": [position for _, position in contracts],
    }


def test_a_sold_put_adds_delta():
    put = stable_option("BTC-USDT-X-60000-P", LATER, 0.0, 900.0, mark_iv=0.5, forward=S)
    for contracts, side in ((-1.0, "buys"), (1.0, "sells")):
        (row,) = answer(put, orders=[order(put[0]["instrument_id"], contracts, 900.0)])["detail"][
            "orders"
        ]
        assert row["side"] == side


def test_a_derivative_order_leaves_equity_and_profit_of_positions():
    leg = swap(PERPETUAL, 1.0, S, entry_price=59_000.0)
    found = answer(leg, orders=[order(PERPETUAL, 1.0, 58_000.0)])
    assert found["account"]["equity_usd"] == pytest.approx(1_000.0)
    assert found["units"]["BTC"]["upl"] == pytest.approx(1_000.0)
    assert found["units"]["BTC"]["mmr"] == pytest.approx(2.0 * 6_018.0)


def test_an_order_without_a_position_brings_its_prices():
    instrument, _ = future("BTC-USDT-A", LATER, 0.0, S)
    orders = [order("BTC-USDT-A", 1.0, S, mark_price=S)]
    found = answer(orders=orders, instruments=[instrument])
    assert found["units"]["BTC"]["mmr"] == pytest.approx(6_018.0)
    bare = answer(orders=[order("BTC-USDT-A", 1.0, S)], instruments=[instrument])
    assert bare["account"]["status"] == "unpriced"
    assert bare["detail"]["unpriced"] == ["mark_price of BTC-USDT-A"]
    no_price = answer(orders=[{**orders[0], "price": None}], instruments=[instrument])
    assert no_price["detail"]["unpriced"] == ["price of the order in BTC-USDT-A"]


def test_an_order_of_an_expired_contract_is_listed_and_without_effect():
    instrument, _ = future("BTC-USDT-A", PAST, 0.0, S)
    found = answer(orders=[order("BTC-USDT-A", 1.0, 70_000.0)], instruments=[instrument])
    assert found["account"]["status"] == "no_requirement"
    assert found["detail"]["order_loss"] == 0.0
    assert [row["instrument_id"] for row in found["detail"]["lapsed_orders"]] == ["BTC-USDT-A"]


def test_a_spot_order_changes_the_hedge():
    """2 coins hedge -3; the sell leaves 0.5, the buy makes 3; equity stays."""
    leg = swap(PERPETUAL, -3.0, S)
    balances = {"BTC": 2.0, "USDT": 1e6}
    orders = [order("BTC-USDT", 4.0, S), order("BTC-USDT", -1.5, S)]
    found = answer(leg, orders=orders, balances=balances)
    unit = found["units"]["BTC"]
    assert unit["binding"] == "positions+sells"
    assert unit["spot_in_use"] == 0.5
    assert unit["max_loss"] == pytest.approx(2.5 * 6_000.0)
    assert found["detail"]["collateral"]["BTC"]["equity"] == 2.0
    portfolios = found["detail"]["units"]["BTC"]["portfolios"]
    assert portfolios["positions+buys"] < portfolios["positions"] < portfolios["positions+sells"]


def test_a_cross_pair_of_spot_moves_two_hedges():
    """Selling 20 ETH for BTC at 0.05: the ETH hedge goes, the BTC hedge grows by 1."""
    legs = [swap(PERPETUAL, -3.0, S), swap("ETH-USDT-SWAP", -20.0, 3_000.0)]
    balances = {"BTC": 1.0, "ETH": 20.0}
    keys = book(*legs)
    keys["instruments"].append(spot("ETH-BTC"))
    found = answer(orders=[order("ETH-BTC", -20.0, 0.05)], balances=balances, **keys)
    for coin, case in (("BTC", "positions"), ("ETH", "positions+sells")):
        assert found["units"][coin]["binding"] == case
    assert found["units"]["ETH"]["spot_in_use"] == 0.0
    portfolios = found["detail"]["units"]["BTC"]["portfolios"]
    assert portfolios["positions+sells"] == portfolios["positions"]
    assert portfolios["positions+buys"] == pytest.approx(6_000.0 + 3 * 18.0 + 2 * 0.0225 * S)
    assert found["detail"]["order_loss"] == 0.0


def test_a_spot_order_alone_has_a_unit_without_margin():
    found = answer(orders=[order("ETH-USDT", 1.0, 3_000.0)], balances={"USDT": 5_000.0})
    assert found["units"]["ETH"]["mmr"] == 0.0
    assert found["account"]["status"] == "no_requirement"


@pytest.mark.parametrize(("mode", "share"), [("auto", 1.0), ("non_auto", 0.0), (None, 1.0)])
def test_borrowing_that_orders_would_need(mode: str | None, share: float):
    """40,000 USDT of 50,000 + 10,000 + 900 asked for, and 0.5 of 1.5 coins sold."""
    call = stable_option("BTC-USDT-X-60000-C", LATER, 0.0, 900.0, mark_iv=0.5, forward=S)
    orders = [
        order("BTC-USDT", 1.0, 50_000.0),
        order("BTC-USDT", 0.2, 50_000.0),
        order("BTC-USDT", -1.5, 70_000.0),
        order(call[0]["instrument_id"], 1.0, 900.0),
        order(call[0]["instrument_id"], -1.0, 900.0),
    ]
    balances = {"USDT": 20_900.0, "BTC": 1.0}
    account = answer(call, orders=orders, balances=balances, borrow_mode=mode)["account"]
    assert account["borrow_mmr"] == pytest.approx(share * (0.02 * 40_000.0 + 0.04 * 0.5 * S))
    assert account["borrow_imr"] == pytest.approx(share * (0.1 * 40_000.0 + 0.2 * 0.5 * S))


def test_orders_that_are_refused():
    with pytest.raises(ValueError, match="order in 'NEW', which is not among the instruments"):
        answer(orders=[order("NEW", 1.0, 1.0)])
    with pytest.raises(ValueError, match="quote currency of spot is the coin itself"):
        answer(orders=[order("BTC-BTC", 1.0, 1.0)], instruments=[spot("BTC-BTC")])
    inverse = swap("BTC-USD-SWAP", 1.0, S)
    with pytest.raises(ValueError, match=r"price of the order in BTC-USD-SWAP is 0\.0"):
        answer(inverse, orders=[order("BTC-USD-SWAP", 1.0, 0.0)])
