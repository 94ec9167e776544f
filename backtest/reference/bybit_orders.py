"""Open orders: what the account would hold if they filled, what they would lose, what they need.

Orders are taken as filled at their limit. A derivative order nets with the position in the same
instrument and leaves every equity as it is; a spot order changes the equities of its currencies
only. Orders that add positive delta are `A`, the others `B`, the positions `C`.

Assumed where the rule text is silent: the premium of a bought option order belongs to the order
loss; borrowing that the orders would need counts in the borrowing margin of an account that
borrows automatically; the side of an option order is that of its contracts for a call and the
opposite for a put, whatever the size of its delta.
"""

from dataclasses import replace
from typing import Any

from backtest.reference.bybit_legs import Book, Leg, Order


CASES = ("positions", "positions+buys", "positions+sells")
"""`C`, `A + C` and `B + C`, in the order in which the first of equal margins binds."""


def delta_sign(order: Order, leg: Leg, coin: str) -> float:
    """+1 if the order adds delta in a coin, -1 if it takes some away, 0 if neither.

    The sign of the contracts, turned for puts and for the quote coin of a cross pair of spot.
    """
    sign = 1.0 if order.contracts > 0.0 else -1.0
    if coin == leg.coin:
        return -sign if leg.option_type == "P" else sign
    return -sign if leg.kind == "spot" and coin == leg.settle else 0.0


def orders_of(book: Book, coin: str, case: str) -> list[Order]:
    """The orders of the unit of a coin that are taken as filled in one of the `CASES`."""
    wanted = {"positions": None, "positions+buys": 1.0, "positions+sells": -1.0}[case]
    return [o for o in book.orders if delta_sign(o, book.legs[o.instrument_id], coin) == wanted]


def filled(book: Book, coin: str, equity: float, case: str) -> tuple[list[Leg], float]:
    """Derivative legs of a unit and equity of its coin, coins, with the orders of a case filled."""
    legs = {name: leg for name, leg in book.legs.items() if leg.coin == coin}
    for order in orders_of(book, coin, case):
        leg = book.legs[order.instrument_id]
        size = order.contracts * leg.multiplier
        if leg.kind != "spot":
            contracts = legs[order.instrument_id].contracts + order.contracts
            legs[order.instrument_id] = replace(leg, contracts=contracts)
        elif leg.coin == coin:
            equity += size
        else:
            equity -= size * order.price
    held = [leg for leg in legs.values() if leg.kind != "spot" and leg.contracts != 0.0]
    return held, equity


def loss_of(order: Order, leg: Leg) -> float:
    """Loss of an order on being filled at its limit, USD, >= 0.

    Linear and spot `max(0, n m (limit - P)) fx`, spot `P = S / fx`; inverse `max(0, n m (1/P -
    1/limit)) S`; sold option as linear; a bought option its whole premium `n m limit fx`.

    Source: OKX rule text section 9, [A].
    Example: buying 1 coin at 61,000 USDT against a mark of 60,000: 1,000 USDT.
    """
    size = order.contracts * leg.multiplier
    if leg.is_option and size > 0.0:
        return size * order.price * leg.fx
    if leg.style == "inverse" and not leg.is_option:
        if order.price <= 0.0:
            raise ValueError(
                f"price of the order in {leg.instrument_id} is {order.price}; it must be above 0"
            )
        return max(0.0, size * (1.0 / leg.mark - 1.0 / order.price)) * leg.index
    return max(0.0, size * (order.price - leg.mark)) * leg.fx


def order_rows(book: Book) -> list[dict[str, Any]]:
    """Every order with its side and its loss, USD."""
    rows = []
    for order in book.orders:
        leg = book.legs[order.instrument_id]
        side = "buys" if delta_sign(order, leg, leg.coin) > 0.0 else "sells"
        rows.append({**order.__dict__, "side": side, "loss": loss_of(order, leg)})
    return rows


def outflows(book: Book) -> dict[str, float]:
    """What the orders would take from each currency, units of it; no netting.

    Quote currency of spot buys, coin of spot sells, premium of bought options. Nothing for an
    account that does not borrow automatically.

    Source: OKX rule text section 6, MR8, [A].
    """
    found: dict[str, float] = {}
    for order in book.orders if book.auto_borrow else []:
        leg = book.legs[order.instrument_id]
        size = order.contracts * leg.multiplier
        if size > 0.0 and (leg.kind == "spot" or leg.is_option):
            found[leg.settle] = found.get(leg.settle, 0.0) + size * order.price
        elif leg.kind == "spot":
            found[leg.coin] = found.get(leg.coin, 0.0) - size
    return found
