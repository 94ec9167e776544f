"""The risk units of an account (section 3), each with and without its open orders (section 9).

Merged era: one unit a coin, named after it. Split era: one a coin and quote currency, named
`BTC-USDT`, `BTC-USDC`, `BTC-USD` (inverse contracts and options in the last); the spot in use sits
in the unit of the account's spot mode and is found from the delta of that unit alone.
"""

from typing import NamedTuple

from backtest.reference.okx_charges import Numbers, Unit, group_of, spot_in_use
from backtest.reference.okx_legs import Book, Leg
from backtest.reference.okx_orders import Order, delta_sign, spot_flow, with_orders


POSITIONS, BUYS, SELLS = "positions", "positions+buys", "positions+sells"
_ADDED_DELTA = {BUYS: 1.0, SELLS: -1.0}


class Place(NamedTuple):
    """Coin and quote currency of a unit; no quote in the merged era."""

    coin: str
    quote: str

    @property
    def name(self) -> str:
        """Name of the unit in the answer."""
        return f"{self.coin}-{self.quote}" if self.quote else self.coin


def place_of(leg: Leg, numbers: Numbers) -> Place:
    """The unit that a contract belongs to.

    Example:
        An inverse BTC perpetual: `BTC` merged, `BTC-USD` split.
    """
    if numbers["era"] == "merged":
        return Place(leg.coin, "")
    return Place(leg.coin, "USD" if leg.style == "inverse" else leg.settle)


def spot_quote(spot_mode: str, numbers: Numbers) -> str | None:
    """Quote of the units that take the spot in: a currency, "" if merged, None for no unit.

    A spot mode that did not exist yet counts as `derivatives_only` (assumed).
    """
    if numbers["era"] == "merged":
        return ""
    allowed = spot_mode in numbers["units"]["spot_modes"]
    return spot_mode if allowed and spot_mode != "derivatives_only" else None


def risk_units(
    book: Book,
    orders: list[Order],
    equities: dict[str, float],
    indexes: dict[str, float],
    numbers: Numbers,
) -> list[dict[str, Unit]]:
    """Every unit of an account in alphabetical order, as portfolios by name.

    The portfolios are `positions`, and where the unit has such orders, `positions+buys` (with all
    orders that add delta) and `positions+sells` (with all that take some away). A unit exists for
    every place of a contract or order, and for every coin with equity or a spot order where spot
    sits. Balances in a quote currency belong to the account, not to a unit.
    """
    spot = spot_quote(book.spot_mode, numbers)
    counted = [
        order
        for order in orders
        if order.leg is not None or (spot is not None and numbers["units"]["spot_orders"])
    ]
    coins = set(equities)
    coins |= {c for order in counted if order.leg is None for c in (order.coin, order.settle)}
    places = {place_of(leg, numbers) for leg in book.legs}
    places |= {place_of(order.leg, numbers) for order in counted if order.leg is not None}
    if spot is not None:
        places |= {Place(coin, spot) for coin in coins - set(numbers["quote_currencies"])}
    units = []
    for place in sorted(places, key=lambda place: place.name):
        near = [order for order in counted if _is_in(order, place, spot, numbers)]
        chosen = {POSITIONS: list[Order]()}
        for name, sign in _ADDED_DELTA.items():
            side = [order for order in near if delta_sign(order, place.coin) == sign]
            chosen |= {name: side} if side else {}
        units.append(
            {
                name: _unit(place, book, some, equities, indexes, numbers)
                for name, some in chosen.items()
            }
        )
    return units


def _is_in(order: Order, place: Place, spot: str | None, numbers: Numbers) -> bool:
    """Whether an order belongs to a unit; a cross pair of spot may belong to two."""
    if order.leg is not None:
        return place_of(order.leg, numbers) == place
    return place.quote == spot and place.coin in (order.coin, order.settle)


def _unit(
    place: Place,
    book: Book,
    orders: list[Order],
    equities: dict[str, float],
    indexes: dict[str, float],
    numbers: Numbers,
) -> Unit:
    """The unit at a place after the fill of some of its orders."""
    coin = place.coin
    legs = [leg for leg in book.legs if place_of(leg, numbers) == place]
    legs = with_orders(legs, orders) if orders else legs
    takes_spot = place.quote == spot_quote(book.spot_mode, numbers)
    spot = 0.0
    if takes_spot and coin not in numbers["quote_currencies"]:
        equity = equities.get(coin, 0.0) + spot_flow(orders, coin)
        limited = numbers["units"]["spot_limits"]
        spot = spot_in_use(legs, equity, book.spot_limits.get(coin) if limited else None)
    return Unit(place.name, group_of(coin, numbers), indexes[coin], legs, spot)
