"""The portfolio of one account, read into legs: what the charges of `okx` work on.

A leg is the net position in one instrument with its prices; an expired contract is no leg any
more, only the value it settles at. Symbols as in the rule text: `n` contracts (signed), `m`
multiplier, `P` mark price, `S` index USD per coin, `fx` USD per unit of the settlement currency.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from backtest.reference import black76


SECONDS_PER_DAY = 86_400.0
BORROW_MODES = ("auto", "non_auto")
SPOT_MODES = ("derivatives_only", "USDT", "USDC", "USD")
_KINDS = ("perpetual", "future", "option")


@dataclass(frozen=True)
class Leg:
    """Net position in one live instrument; `mark` has the unit of `P`, see the module."""

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
    days: float = 0.0
    strike: float = math.nan
    option_type: str = ""
    forward: float = math.nan
    sigma: float = math.nan

    @property
    def is_option(self) -> bool:
        """True for options."""
        return self.kind == "option"

    @property
    def years(self) -> float:
        """Years to expiry, ACT/365 in seconds; 0 for perpetuals."""
        return self.days / black76.DAYS_PER_YEAR

    @property
    def size(self) -> float:
        """`n m`: coins of linear contracts and options, USD of inverse ones."""
        return self.contracts * self.multiplier


@dataclass(frozen=True)
class Settled:
    """An expired position: `value` units of `currency`, paid into equity."""

    instrument_id: str
    currency: str
    value: float


@dataclass
class Book:
    """Everything the rules need of one account at one time; `missing` lists absent prices.

    `auto_borrow` is the borrow mode `auto`; `spot_mode` is where split units put the spot.
    """

    time: datetime
    index_usd: dict[str, float]
    legs: list[Leg]
    settled: list[Settled]
    cash: dict[str, float]
    spot_limits: dict[str, float]
    missing: list[str]
    auto_borrow: bool = True
    spot_mode: str = "derivatives_only"


def read_book(portfolio: dict[str, Any], quote_currencies: list[str]) -> Book:
    """Read the portfolio file of the command line into a book; `okx_orders` reads the orders.

    Args:
        portfolio: The JSON shape of `pmstress margin`: `time`, `index_usd`, `instruments`,
            `positions`, `balances` and optionally `spot_limits`, `borrow_mode` (null: auto),
            `spot_mode` (null: derivatives_only). A position of an instrument that has expired
            carries `settlement_index_usd` {currency: USD}.
        quote_currencies: Settlement currencies that are no coins, for example USDT, USDC, USD.

    Returns:
        The book; positions in the same instrument are netted, unrealised PnL kept lot by lot.

    Raises:
        ValueError: An unknown instrument, kind, style or mode, or a contract settled in a
            currency that its style does not allow.
    """
    book = Book(
        time=parse_time(portfolio["time"]),
        index_usd=_indexes(portfolio["index_usd"]),
        legs=[],
        settled=[],
        cash=_numbers(portfolio.get("balances")),
        spot_limits={
            c: x for c, x in _numbers(portfolio.get("spot_limits")).items() if not math.isnan(x)
        },
        missing=[],
        auto_borrow=_choice(portfolio, "borrow_mode", BORROW_MODES) == "auto",
        spot_mode=_choice(portfolio, "spot_mode", SPOT_MODES),
    )
    instruments = instruments_by_name(portfolio.get("instruments", []))
    book.missing += [f"balance of {c}" for c, x in book.cash.items() if not math.isfinite(x)]
    lots: dict[str, list[dict[str, Any]]] = {}
    for position in portfolio.get("positions", []):
        lots.setdefault(position["instrument_id"], []).append(position)
    for name, rows in lots.items():
        if name not in instruments:
            raise ValueError(f"position in {name!r}, which is not among the instruments")
        check_contract(instruments[name], quote_currencies)
        _add(book, instruments[name], rows)
    return book


def parse_time(value: str | datetime) -> datetime:
    """An ISO 8601 text as an aware UTC time; without an offset it is UTC."""
    time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def index_of(book: Book, currency: str) -> float:
    """USD per unit of a currency; NaN and an entry in `book.missing` where it is not known."""
    return _positive(book, book.index_usd.get(currency), f"index of {currency}")


def expiry_of(instrument: dict[str, Any]) -> datetime | None:
    """Expiry time of an instrument, UTC; None for perpetuals and spot."""
    return parse_time(instrument["expiry"]) if instrument.get("expiry") else None


def linear_pnl(leg_size: float, entry: float, price: float) -> float:
    """`n m (P - entry)`, settlement currency."""
    return leg_size * (price - entry)


def inverse_pnl(leg_size: float, entry: float, price: float) -> float:
    """`n m (1/entry - 1/P)`, coins; `n m` in USD."""
    if entry <= 0.0:
        raise ValueError(f"entry_price of an inverse contract is {entry}; it must be above 0")
    return leg_size * (1.0 / entry - 1.0 / price)


def _choice(portfolio: dict[str, Any], key: str, allowed: tuple[str, ...]) -> str:
    """A mode of the file; null is the first of those allowed."""
    value = portfolio.get(key) or allowed[0]
    if value not in allowed:
        raise ValueError(f"{key} is {value!r}; allowed: {', '.join(map(repr, allowed))}")
    return value


def instruments_by_name(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Instruments by name; there may be more than the positions need."""
    found: dict[str, dict[str, Any]] = {}
    for item in items:
        if found.setdefault(item["instrument_id"], item) != item:
            raise ValueError(f"{item['instrument_id']!r} is twice among the instruments")
    return found


def check_contract(instrument: dict[str, Any], quote_currencies: list[str]) -> None:
    """Refuse the terms of a contract that the rules do not know."""
    name, kind, style = instrument["instrument_id"], instrument["kind"], instrument["style"]
    coin, settle = instrument["coin"], instrument["settle"]
    if kind not in _KINDS:
        raise ValueError(
            f"{name}: kind is {kind!r}; positions are allowed in {', '.join(_KINDS)}; "
            "spot is held in 'balances'"
        )
    if style not in ("linear", "inverse"):
        raise ValueError(f"{name}: style is {style!r}; allowed: 'linear', 'inverse'")
    if kind != "perpetual" and not instrument.get("expiry"):
        raise ValueError(f"{name}: a {kind} needs an 'expiry'")
    if kind == "option" and style == "linear":
        raise ValueError(f"{name}: options are settled in the coin here; style is {style!r}")
    if style == "inverse" and settle != coin:
        raise ValueError(f"{name}: settled in {settle!r}; inverse contracts settle in {coin!r}")
    if style == "linear" and settle not in quote_currencies:
        raise ValueError(
            f"{name}: settled in {settle!r}; allowed: {', '.join(map(repr, quote_currencies))}"
        )


def _add(book: Book, instrument: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Put the positions of one instrument into the book, as a leg or settled."""
    expiry = expiry_of(instrument)
    if expiry is not None and expiry <= book.time:
        book.settled.extend(_settle(book, instrument, row) for row in rows)
    elif any(float(row["contracts"]) != 0.0 for row in rows):
        book.legs.append(leg_of(book, instrument, rows))


def leg_of(book: Book, instrument: dict[str, Any], rows: list[dict[str, Any]]) -> Leg:
    """The net position of all rows of one live instrument, at the prices of the first row."""
    expiry = expiry_of(instrument)
    name, kind, style = instrument["instrument_id"], instrument["kind"], instrument["style"]
    coin, settle = instrument["coin"], instrument["settle"]
    multiplier = float(instrument["multiplier"])
    is_option, inverse = kind == "option", style == "inverse" and kind != "option"
    read = _positive if inverse else _not_negative
    mark = read(book, rows[0].get("mark_price"), f"mark_price of {name}")
    pnl = inverse_pnl if inverse else linear_pnl
    return Leg(
        instrument_id=name,
        kind=kind,
        style=style,
        coin=coin,
        settle=settle,
        contracts=sum(float(row["contracts"]) for row in rows),
        multiplier=multiplier,
        mark=mark,
        index=index_of(book, coin),
        fx=index_of(book, settle),
        upl_settle=sum(
            pnl(float(row["contracts"]) * multiplier, _entry(row, mark), mark) for row in rows
        ),
        expiry=expiry,
        days=(expiry - book.time).total_seconds() / SECONDS_PER_DAY if expiry else 0.0,
        strike=float(instrument["strike"]) if is_option else math.nan,
        option_type=instrument["option_type"] if is_option else "",
        forward=_positive(book, rows[0].get("forward"), f"forward of {name}")
        if is_option
        else math.nan,
        sigma=_not_negative(book, rows[0].get("mark_iv"), f"mark_iv of {name}")
        if is_option
        else math.nan,
    )


def _entry(row: dict[str, Any], otherwise: float) -> float:
    entry = _number(row.get("entry_price"))
    return otherwise if math.isnan(entry) else entry


def _settle(book: Book, instrument: dict[str, Any], row: dict[str, Any]) -> Settled:
    """Settlement value of an expired position, in the settlement currency.

    Linear `n m (I - entry)` with `I = S / fx`, inverse `n m (1/entry - 1/S)`, option
    `n m max(0, +-(S - K)) / S`. A null entry is the mark of the position.
    """
    name, settle = instrument["instrument_id"], instrument["settle"]
    size = float(row["contracts"]) * float(instrument["multiplier"])
    indexes = _indexes(row.get("settlement_index_usd"))
    coin = instrument["coin"]
    spot = _positive(book, indexes.get(coin), f"settlement index of {coin} for {name}")
    if instrument["kind"] == "option":
        sign = 1.0 if instrument["option_type"] == "C" else -1.0
        value = size * max(0.0, sign * (spot - float(instrument["strike"]))) / spot
        return Settled(name, settle, value)
    entry = _entry(row, _number(row.get("mark_price")))
    if math.isnan(entry):
        book.missing.append(f"entry_price of {name}")
    if instrument["style"] == "inverse":
        return Settled(name, settle, inverse_pnl(size, entry, spot))
    fx = _positive(book, indexes.get(settle), f"settlement index of {settle} for {name}")
    return Settled(name, settle, linear_pnl(size, entry, spot / fx))


def _number(value: Any) -> float:
    """A number of the file as float; null is NaN."""
    return math.nan if value is None else float(value)


def _numbers(values: dict[str, Any] | None) -> dict[str, float]:
    return {name: _number(value) for name, value in (values or {}).items()}


def _indexes(values: dict[str, Any] | None) -> dict[str, float]:
    return {"USD": 1.0, **_numbers(values)}


def _positive(book: Book, value: Any, what: str) -> float:
    number = _number(value)
    if math.isfinite(number) and number > 0.0:
        return number
    return _missing(book, what)


def _not_negative(book: Book, value: Any, what: str) -> float:
    number = _number(value)
    if math.isfinite(number) and number >= 0.0:
        return number
    return _missing(book, what)


def _missing(book: Book, what: str) -> float:
    if what not in book.missing:
        book.missing.append(what)
    return math.nan
