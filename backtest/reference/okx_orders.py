"""Open orders (section 9, all of it assumed): what they add to units, and what they cost at once.

An order is taken as filled at its limit. A derivative order nets with the position in its
instrument and leaves every equity as it is; a spot order moves the equities of its two currencies,
for the spot in use only. What an order would lose at once, and the premium of a bought option,
leave the adjusted equity. Symbols as in `okx_legs`; `limit` has the unit of the mark price `P`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from backtest.reference.okx_legs import (
    Book,
    Leg,
    check_contract,
    expiry_of,
    index_of,
    instruments_by_name,
    inverse_pnl,
    leg_of,
    linear_pnl,
)


_QUOTED = ("mark_price", "mark_iv", "forward")


@dataclass(frozen=True)
class Order:
    """An order that rests; `leg` is the position it would open, None for spot.

    `size` is `n m`, signed: coins (USD of inverse contracts); `limit >= 0`; `index` and `fx` are
    USD per unit of the coin and of the settlement currency.
    """

    instrument_id: str
    kind: str
    style: str
    coin: str
    settle: str
    size: float
    limit: float
    index: float
    fx: float
    leg: Leg | None

    @property
    def is_bought_option(self) -> bool:
        """True for orders that cost their premium and no order loss."""
        return self.kind == "option" and self.size > 0.0


def read_orders(portfolio: dict[str, Any], book: Book, quote_currencies: list[str]) -> list[Order]:
    """The orders of a portfolio file; void ones (expired, of 0 contracts) are left out.

    The mark, volatility and forward are those of any row of the instrument, position or order. A
    price that is missing goes into `book.missing`.

    Raises:
        ValueError: An instrument that is not listed or not known to the rules, a negative limit.
    """
    rows = portfolio.get("orders") or []
    instruments = instruments_by_name(portfolio.get("instruments", []))
    quotes = _quotes([*portfolio.get("positions", []), *rows])
    found = []
    for row in rows:
        name, contracts = row["instrument_id"], float(row["contracts"])
        if name not in instruments:
            raise ValueError(f"order in {name!r}, which is not among the instruments")
        expiry = expiry_of(instruments[name])
        if contracts == 0.0 or (expiry is not None and expiry <= book.time):
            continue
        _check(instruments[name], float(row["price"]), quote_currencies)
        found.append(_order(book, instruments[name], {**row, **quotes[name]}))
    return found


def order_loss(order: Order) -> float:
    """What a fill at the limit loses against the mark, USD, never negative.

    Linear and spot `max(0, n m (limit - P)) fx` (spot: `P` is the index in the quote currency),
    inverse `max(0, n m (1/P - 1/limit)) S`, sold option `max(0, n m (limit - P)) S`; a bought
    option has none.

    Example:
        Buying 5 coins at 102 with the mark at 100 USDT, fx 1: 10 USD.
    """
    if order.is_bought_option:
        return 0.0
    mark = order.index / order.fx if order.leg is None else order.leg.mark
    if order.kind == "option" or order.style == "linear":
        return max(0.0, -linear_pnl(order.size, order.limit, mark)) * order.fx
    return max(0.0, -inverse_pnl(order.size, order.limit, mark)) * order.fx


def premium(order: Order) -> float:
    """Premium of a bought option, `n m limit S` in USD; 0 for every other order."""
    return order.size * order.limit * order.fx if order.is_bought_option else 0.0


def outgoing(orders: Iterable[Order]) -> dict[str, float]:
    """What the orders would pay out, by currency in its units, all positive (section 6, MR8).

    Quote currency of spot buys, coin of spot sells, premium of bought options; no netting.

    Example:
        Orders to buy 5 BTC at 60,000 USDT and to sell 2 ETH: `{"USDT": 300000, "ETH": 2}`.
    """
    found: dict[str, float] = {}
    for order in orders:
        if order.leg is None:
            paid, amount = order.settle, order.size * order.limit
            if order.size < 0.0:
                paid, amount = order.coin, -order.size
        elif order.is_bought_option:
            paid, amount = order.settle, order.size * order.limit
        else:
            continue
        found[paid] = found.get(paid, 0.0) + amount
    return found


def delta_sign(order: Order, coin: str) -> float:
    """+1 if the order adds delta in a coin, -1 if it takes some away, 0 if neither.

    The sign of the contracts, turned for puts and for the quote coin of a cross pair: buying
    ETH-BTC adds delta in ETH and takes delta in BTC away.
    """
    sign = 1.0 if order.size > 0.0 else -1.0
    if order.leg is not None:
        put = order.leg.option_type == "P"
        return (-sign if put else sign) if order.coin == coin else 0.0
    return {order.coin: sign, order.settle: -sign}.get(coin, 0.0)


def spot_flow(orders: Iterable[Order], coin: str) -> float:
    """What filled spot orders change the equity of a coin by, coins: `n m`, quote `-n m limit`."""
    flow = 0.0
    for order in orders:
        if order.leg is None:
            change = {order.settle: -order.size * order.limit, order.coin: order.size}
            flow += change.get(coin, 0.0)
    return flow


def with_orders(legs: list[Leg], orders: Iterable[Order]) -> list[Leg]:
    """Legs of a unit after the fill of derivative orders; unrealised PnL stays what it was.

    An order nets with the leg of its instrument; a leg that becomes flat goes.
    """
    found = {leg.instrument_id: leg for leg in legs}
    for order in orders:
        if order.leg is None:
            continue
        leg = found.get(order.instrument_id)
        if leg is None:
            found[order.instrument_id] = order.leg
        else:
            contracts = leg.contracts + order.leg.contracts
            found[order.instrument_id] = replace(leg, contracts=contracts)
    return [leg for leg in found.values() if leg.contracts != 0.0]


def _quotes(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mark, volatility and forward of each instrument: the first row that gives one."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        quote = found.setdefault(row["instrument_id"], dict.fromkeys(_QUOTED))
        for key in _QUOTED:
            if quote[key] is None:
                quote[key] = row.get(key)
    return found


def _check(instrument: dict[str, Any], limit: float, quote_currencies: list[str]) -> None:
    name = instrument["instrument_id"]
    if instrument["kind"] != "spot":
        check_contract(instrument, quote_currencies)
    elif instrument["settle"] == instrument["coin"]:
        raise ValueError(f"{name}: the quote currency of spot is the coin itself")
    inverse = instrument["style"] == "inverse" and instrument["kind"] != "option"
    if not limit >= 0.0 or (inverse and limit == 0.0):
        floor = "above 0" if inverse else "0 or more"
        raise ValueError(f"{name}: the price of the order is {limit:g}; allowed: {floor}")


def _order(book: Book, instrument: dict[str, Any], row: dict[str, Any]) -> Order:
    coin, settle = instrument["coin"], instrument["settle"]
    spot = instrument["kind"] == "spot"
    # No entry price: what an order would gain or lose is order loss, not unrealised PnL.
    leg = None if spot else leg_of(book, instrument, [{**row, "entry_price": None}])
    return Order(
        instrument_id=instrument["instrument_id"],
        kind=instrument["kind"],
        style=instrument["style"],
        coin=coin,
        settle=settle,
        size=float(row["contracts"]) * float(instrument["multiplier"]),
        limit=float(row["price"]),
        index=index_of(book, coin),
        fx=index_of(book, settle),
        leg=leg,
    )
