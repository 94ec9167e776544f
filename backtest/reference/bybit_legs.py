"""The portfolio of one account, read into legs: what the rules of `bybit` work on.

A leg is the net position in one instrument with its prices, an order wants to add to a leg, and an
expired contract is no leg any more, only the value that it settles at. Symbols as in the rule
text: `n` contracts (signed), `m` multiplier, `P` mark price, `S` index USD per coin, `fx` USD per
unit of the settlement currency; quotes of contracts settled in a quote currency `q` (mark,
strike, forward) are in `q`, those of coin-settled options in coins (mark) and USD.

Assumed where the rule text is silent:

* time to expiry is counted from a clock in whole seconds (`grid.whole_seconds`);
* an option settled in a quote currency pays `n m max(0, +-(S / fx - K))` at its expiry;
* `mark_price`, `mark_iv` and `forward` are those of the first row of an instrument that gives one,
  positions before orders; a spot order needs the two indexes only.
"""

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backtest.reference import black76
from backtest.reference.okx_charges import Numbers
from backtest.reference.okx_legs import inverse_pnl, linear_pnl, parse_time


SECONDS_PER_DAY = 86_400.0
_KINDS = ("perpetual", "future", "option", "spot")


@dataclass(frozen=True)
class Leg:
    """Net position in one live instrument; for `spot` the instrument that orders are in."""

    instrument_id: str
    kind: str
    style: str
    coin: str
    settle: str
    contracts: float
    multiplier: float
    mark: float
    index: float
    fx: float
    upl_settle: float
    expiry: datetime | None = None
    seconds_left: float = 0.0
    strike: float = math.nan
    option_type: str = ""
    forward: float = math.nan
    sigma: float = math.nan

    @property
    def is_option(self) -> bool:
        """True for options."""
        return self.kind == "option"

    @property
    def coin_settled(self) -> bool:
        """True where the PnL is paid in the coin itself."""
        return self.settle == self.coin

    @property
    def size(self) -> float:
        """`n m`: coins of linear contracts and options, USD of inverse ones."""
        return self.contracts * self.multiplier

    @property
    def years(self) -> float:
        """Years to expiry, ACT/365 in seconds; 0 for perpetuals."""
        return self.seconds_left / (black76.DAYS_PER_YEAR * SECONDS_PER_DAY)

    @property
    def whole_days(self) -> float:
        """Days to expiry, floored; 0 for perpetuals."""
        return float(math.floor(self.seconds_left / SECONDS_PER_DAY))

    @property
    def delta(self) -> float:
        """USD delta in coins: linear `n m`, inverse `n m / P`, option `n m N(d1)`, put `- n m`."""
        if self.is_option:
            return self.size * black76.delta_bs(
                self.option_type, self.forward, self.strike, self.sigma, self.years
            )
        return self.size / self.mark if self.style == "inverse" else self.size

    @property
    def cash_delta(self) -> float:
        """Cash delta in USD: linear `n m P fx`, inverse `n m`, option `delta S`."""
        if self.is_option:
            return self.delta * self.index
        return self.size if self.style == "inverse" else self.size * self.mark * self.fx

    @property
    def vega(self) -> float:
        """Coins for 1.00 of volatility, `n m phi(d1) sqrt(T)`; 0 for all but options."""
        if not self.is_option:
            return 0.0
        return self.size * black76.vega_pa(self.forward, self.strike, self.sigma, self.years)


@dataclass(frozen=True)
class Order:
    """An open order in the instrument `instrument_id` at a limit `price` (unit of the mark)."""

    instrument_id: str
    contracts: float
    price: float


@dataclass(frozen=True)
class Settled:
    """An expired position: `value` units of `currency`, paid into equity."""

    instrument_id: str
    currency: str
    value: float


@dataclass
class Book:
    """Everything the rules need of one account at one time; `missing` lists absent prices.

    `legs` holds every instrument with a position or an order, the latter with 0 contracts.
    """

    time: datetime
    clock: datetime
    index_usd: dict[str, float]
    cash: dict[str, float]
    spot_limits: dict[str, float]
    auto_borrow: bool
    legs: dict[str, Leg] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    lapsed: list[Order] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def positions(self) -> list[Leg]:
        """Legs that are held."""
        return [leg for leg in self.legs.values() if leg.contracts != 0.0]


def read_book(portfolio: dict[str, Any], numbers: Numbers) -> Book:
    """Read the portfolio file of the command line into a book.

    Args:
        portfolio: The JSON shape of `pmstress margin`. A position of an instrument that has
            expired carries `settlement_index_usd` {currency: USD}. Options settled in a quote
            currency carry it as `settle`.
        numbers: The plain numbers of a parameter set of the model `bybit`.

    Returns:
        The book; positions in the same instrument are netted, unrealised PnL kept lot by lot,
        orders in expired instruments are in `lapsed` and have no effect.

    Raises:
        ValueError: An unknown instrument, kind or style, or a contract settled in a currency
            that its style does not allow.
    """
    time = parse_time(portfolio["time"])
    borrow_mode = portfolio.get("borrow_mode") or "auto"
    if borrow_mode not in ("auto", "non_auto"):
        raise ValueError(f"borrow_mode is {borrow_mode!r}; allowed: 'auto', 'non_auto'")
    book = Book(
        time=time,
        clock=time.replace(microsecond=0) if numbers["grid"]["whole_seconds"] else time,
        index_usd={"USD": 1.0, **_floats(portfolio["index_usd"])},
        cash=_floats(portfolio.get("balances")),
        spot_limits={
            c: x for c, x in _floats(portfolio.get("spot_limits")).items() if not math.isnan(x)
        },
        auto_borrow=borrow_mode == "auto",
    )
    book.missing += [f"balance of {c}" for c, x in book.cash.items() if not math.isfinite(x)]
    instruments = _instruments(portfolio.get("instruments", []))
    rows = _by_instrument(book, portfolio.get("positions"), "position", instruments)
    orders = _by_instrument(book, portfolio.get("orders"), "order", instruments)
    for name in {**rows, **orders}:
        _check(instruments[name], numbers["quote_currencies"], held=bool(rows.get(name)))
        _add(book, instruments[name], rows.get(name, []), orders.get(name, []))
    return book


def index_of(book: Book, currency: str) -> float:
    """USD per unit of a currency; NaN and an entry in `book.missing` where it is not known."""
    return _number(book, book.index_usd.get(currency), f"index of {currency}", positive=True)


def equity_by_currency(book: Book) -> dict[str, float]:
    """Equity of each currency in its own units, currencies in alphabetical order.

    `cash + unrealised PnL of contracts settled in it + option value n m P + settled contracts`;
    a debt is negative cash. A zero cash row is no equity.
    """
    found = {currency: cash for currency, cash in book.cash.items() if cash != 0.0}
    for leg in book.legs.values():
        if leg.kind == "spot" or (leg.contracts == 0.0 and leg.upl_settle == 0.0):
            continue
        value = leg.size * leg.mark if leg.is_option else leg.upl_settle
        found[leg.settle] = found.get(leg.settle, 0.0) + value
    for settled in book.settled:
        found[settled.currency] = found.get(settled.currency, 0.0) + settled.value
    return dict(sorted(found.items()))


def _by_instrument(
    book: Book,
    items: list[dict[str, Any]] | None,
    what: str,
    instruments: dict[str, dict[str, Any]],
) -> dict[str, list[dict[str, Any]]]:
    """Positions or orders by instrument; rows of 0 contracts serve as prices only."""
    found: dict[str, list[dict[str, Any]]] = {}
    for item in items or []:
        name = item["instrument_id"]
        if name not in instruments:
            raise ValueError(f"{what} in {name!r}, which is not among the instruments")
        contracts = _number(book, item["contracts"], f"contracts of {what} in {name}", signed=True)
        found.setdefault(name, []).append({**item, "contracts": contracts})
    return found


def _instruments(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for item in items:
        if found.setdefault(item["instrument_id"], item) != item:
            raise ValueError(f"{item['instrument_id']!r} is twice among the instruments")
    return found


def _check(instrument: dict[str, Any], quotes: list[str], *, held: bool) -> None:
    """Refuse instruments that the model does not know."""
    name, kind = instrument["instrument_id"], instrument["kind"]
    coin, settle = instrument["coin"], instrument["settle"]
    if kind not in _KINDS:
        raise ValueError(f"{name}: kind is {kind!r}; allowed: {', '.join(_KINDS)}")
    if kind == "spot":
        if held:
            raise ValueError(f"{name}: spot is held in 'balances', not in 'positions'")
        if settle == coin:
            raise ValueError(f"{name}: the quote currency of spot is the coin itself")
    else:
        _check_contract(instrument, quotes)


def _check_contract(instrument: dict[str, Any], quotes: list[str]) -> None:
    """Refuse terms of a contract that the model does not know."""
    name, kind, style = instrument["instrument_id"], instrument["kind"], instrument["style"]
    coin, settle = instrument["coin"], instrument["settle"]
    if style not in ("linear", "inverse"):
        raise ValueError(f"{name}: style is {style!r}; allowed: 'linear', 'inverse'")
    if kind in ("future", "option") and not instrument.get("expiry"):
        raise ValueError(f"{name}: a {kind} needs an 'expiry'")
    allowed = [*quotes, coin] if kind == "option" else quotes
    if style == "inverse" and kind != "option":
        allowed = [coin]
    if settle not in allowed:
        raise ValueError(f"{name}: settled in {settle!r}; allowed: {', '.join(map(repr, allowed))}")


def _add(
    book: Book,
    instrument: dict[str, Any],
    rows: list[dict[str, Any]],
    orders: list[dict[str, Any]],
) -> None:
    """Put positions and orders of one instrument into the book, as a leg or settled."""
    name = instrument["instrument_id"]
    quotes = _quotes([*rows, *orders])
    rows = [row for row in rows if row["contracts"] != 0.0]
    live = [
        Order(
            name,
            order["contracts"],
            _number(book, order.get("price"), f"price of the order in {name}"),
        )
        for order in orders
        if order["contracts"] != 0.0
    ]
    expiry = parse_time(instrument["expiry"]) if instrument.get("expiry") else None
    if expiry is not None and expiry <= book.time:
        book.settled += [_settle(book, instrument, row) for row in rows]
        book.lapsed += live
    elif rows or live:
        book.legs[name] = _leg(book, instrument, rows, quotes, expiry)
        book.orders += live


def _quotes(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mark, volatility and forward of an instrument: of the first row that gives one."""
    return {
        key: next((row[key] for row in rows if row.get(key) is not None), None)
        for key in ("mark_price", "mark_iv", "forward")
    }


def _leg(
    book: Book,
    instrument: dict[str, Any],
    rows: list[dict[str, Any]],
    quotes: dict[str, Any],
    expiry: datetime | None,
) -> Leg:
    """The net position of all rows of one live instrument."""
    name, kind = instrument["instrument_id"], instrument["kind"]
    multiplier, is_option = float(instrument["multiplier"]), kind == "option"
    index, fx = index_of(book, instrument["coin"]), index_of(book, instrument["settle"])
    inverse = instrument["style"] == "inverse" and not is_option
    if kind == "spot":
        mark = index / fx
    else:
        text = f"mark_price of {name}"
        mark = _number(book, quotes.get("mark_price"), text, positive=inverse)
    pnl = inverse_pnl if inverse else linear_pnl
    option: dict[str, Any] = {}
    if is_option:
        option = {
            "strike": float(instrument["strike"]),
            "option_type": instrument["option_type"],
            "forward": _number(book, quotes.get("forward"), f"forward of {name}", positive=True),
            "sigma": _number(book, quotes.get("mark_iv"), f"mark_iv of {name}"),
        }
    return Leg(
        instrument_id=name,
        kind=kind,
        style=instrument["style"],
        coin=instrument["coin"],
        settle=instrument["settle"],
        contracts=sum((row["contracts"] for row in rows), 0.0),
        multiplier=multiplier,
        mark=mark,
        index=index,
        fx=fx,
        upl_settle=sum(
            (pnl(row["contracts"] * multiplier, _entry(row, mark), mark) for row in rows), 0.0
        ),
        expiry=expiry,
        seconds_left=(expiry - book.clock).total_seconds() if expiry else 0.0,
        **option,
    )


def _settle(book: Book, instrument: dict[str, Any], row: dict[str, Any]) -> Settled:
    """Settlement value of an expired position, in the settlement currency.

    Linear `n m (I - entry)` with `I = S / fx`, inverse `n m (1/entry - 1/S)`, option settled in
    the coin `n m max(0, +-(S - K)) / S`, in a quote currency `n m max(0, +-(I - K))`. A null
    entry is the mark of the position.
    """
    name, coin, settle = instrument["instrument_id"], instrument["coin"], instrument["settle"]
    size = row["contracts"] * float(instrument["multiplier"])
    indexes = {"USD": 1.0, **_floats(row.get("settlement_index_usd"))}

    def index(currency: str) -> float:
        text = f"settlement index of {currency} for {name}"
        return _number(book, indexes.get(currency), text, positive=True)

    spot = index(coin)
    price = spot if settle == coin else spot / index(settle)
    if instrument["kind"] == "option":
        sign = 1.0 if instrument["option_type"] == "C" else -1.0
        payoff = max(0.0, sign * (price - float(instrument["strike"])))
        return Settled(name, settle, size * payoff / (spot if settle == coin else 1.0))
    entry = _entry(row, _float(row.get("mark_price")))
    if math.isnan(entry):
        book.missing.append(f"entry_price of {name}")
    pnl = inverse_pnl if instrument["style"] == "inverse" else linear_pnl
    return Settled(name, settle, pnl(size, entry, price))


def _entry(row: dict[str, Any], otherwise: float) -> float:
    entry = _float(row.get("entry_price"))
    return otherwise if math.isnan(entry) else entry


def _float(value: Any) -> float:
    """A number of the file as float; null is NaN."""
    return math.nan if value is None else float(value)


def _floats(values: dict[str, Any] | None) -> dict[str, float]:
    return {name: _float(value) for name, value in (values or {}).items()}


def _number(
    book: Book, value: Any, what: str, *, positive: bool = False, signed: bool = False
) -> float:
    """A finite number, not negative unless `signed`; else NaN and an entry in `book.missing`."""
    number = _float(value)
    if math.isfinite(number) and (signed or number > 0.0 or (number == 0.0 and not positive)):
        return number
    if what not in book.missing:
        book.missing.append(what)
    return math.nan
