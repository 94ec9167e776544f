"""The portfolio file of `pmstress margin`: JSON, validated; errors name file, key and value."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from backtest.config_errors import explain, nearest
from backtest.errors import ConfigError


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
_QUOTED = ("mark_price", "mark_iv", "forward")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _as_utc(value: datetime | None) -> datetime | None:
    if value is None:
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class FileInstrument(_Part):
    """Terms of a contract; `multiplier` in coins (USD for inverse), `strike` in USD."""

    instrument_id: Annotated[str, Field(min_length=1)]
    kind: Literal["spot", "perpetual", "future", "option"]
    coin: Annotated[str, Field(min_length=1)]
    settle: Annotated[str, Field(min_length=1)]
    style: Literal["linear", "inverse"]
    multiplier: Positive
    strike: Positive | None = None
    option_type: Literal["C", "P"] | None = None
    expiry: datetime | None = None

    _expiry_utc = field_validator("expiry")(_as_utc)

    @model_validator(mode="after")
    def _terms(self) -> "FileInstrument":
        needs = {"option": ("strike", "option_type", "expiry"), "future": ("expiry",)}
        for key in needs.get(self.kind, ()):
            if getattr(self, key) is None:
                raise ValueError(f"'{key}' is missing; an instrument of kind {self.kind} needs it")
        if self.kind == "option" and self.style == "linear":
            raise ValueError("'style' is 'linear'; allowed for options: 'inverse'")
        if self.style == "inverse" and self.kind != "option" and self.settle != self.coin:
            raise ValueError(f"'settle' is '{self.settle}'; inverse contracts settle in the coin")
        if self.style == "linear" and self.settle == self.coin:
            raise ValueError(
                f"'settle' is '{self.settle}', the coin; linear contracts settle in a "
                "quote currency"
            )
        return self


class FilePosition(_Part):
    """A position; prices in the unit of the contract, null = no such price.

    `settlement_index_usd` {currency: USD} settles a contract that has expired at `time`.
    """

    instrument_id: str
    contracts: float
    entry_price: NotNegative | None = None
    mark_price: NotNegative | None = None
    mark_iv: NotNegative | None = None
    forward: Positive | None = None
    settlement_index_usd: dict[str, Positive | None] | None = None


class FileOrder(_Part):
    """An open order, or a trade to try; the marks where no other row of the instrument has them."""

    instrument_id: str
    contracts: float
    price: NotNegative
    mark_price: NotNegative | None = None
    mark_iv: NotNegative | None = None
    forward: Positive | None = None


class PortfolioFile(_Part):
    """One account at one time; see the examples in `configs/portfolios`.

    Fields:
        orders: open orders; margined as such, filled in the answer `after` if nothing is traded.
        trades: trades to try; filled at their price in the answer `after`, orders still resting.
        others: as in the answer of the command; prices in the unit of the contract.
    """

    time: datetime
    index_usd: dict[str, Positive | None]
    instruments: list[FileInstrument] = []
    positions: list[FilePosition] = []
    balances: dict[str, float] = {}
    spot_limits: dict[str, NotNegative | None] = {}
    borrow_mode: Literal["auto", "non_auto"] = "auto"
    spot_mode: Literal["derivatives_only", "USDT", "USDC", "USD"] | None = None
    orders: list[FileOrder] = []
    trades: list[FileOrder] = []

    _time_utc = field_validator("time")(_as_utc)

    @model_validator(mode="after")
    def _consistent(self) -> "PortfolioFile":
        known: dict[str, FileInstrument] = {}
        for k, instrument in enumerate(self.instruments):
            if instrument.instrument_id in known:
                raise ValueError(
                    f"'instruments[{k}].instrument_id': '{instrument.instrument_id}' is there twice"
                )
            known[instrument.instrument_id] = instrument
        for key, row in self._rows():
            if row.instrument_id not in known:
                raise ValueError(_not_listed(key, row.instrument_id, known))
        for k, position in enumerate(self.positions):
            _check_position(f"positions[{k}]", position, known[position.instrument_id])
        self._no_expired_trades(known)
        self._one_mark_each()
        self._every_order_marked(known)
        return self

    def _rows(self) -> Iterator[tuple[str, FilePosition | FileOrder]]:
        yield from ((f"positions[{k}]", row) for k, row in enumerate(self.positions))
        yield from ((f"orders[{k}]", row) for k, row in enumerate(self.orders))
        yield from ((f"trades[{k}]", row) for k, row in enumerate(self.trades))

    def _one_mark_each(self) -> None:
        """An instrument has one mark, volatility and forward, however many rows name it."""
        found: dict[tuple[str, str], tuple[str, float | None]] = {}
        for key, row in self._rows():
            for name in _QUOTED:
                value = getattr(row, name)
                if value is None and isinstance(row, FileOrder):
                    continue
                first, before = found.setdefault((row.instrument_id, name), (key, value))
                if before != value:
                    raise ValueError(
                        f"'{key}.{name}' is {value}, but {before} in {first} of the same "
                        f"instrument '{row.instrument_id}'"
                    )

    def _no_expired_trades(self, known: dict[str, FileInstrument]) -> None:
        for k, trade in enumerate(self.trades):
            expiry = known[trade.instrument_id].expiry
            if expiry is not None and expiry <= self.time:
                raise ValueError(
                    f"'trades[{k}].instrument_id' is '{trade.instrument_id}', which expired at "
                    f"{expiry.isoformat()}; allowed: later than 'time', {self.time.isoformat()}"
                )

    def _every_order_marked(self, known: dict[str, FileInstrument]) -> None:
        """An order or trade in a live contract has its marks, from itself or from another row."""
        held = {row.instrument_id for row in self.positions}
        given = {(r.instrument_id, q) for _, r in self._rows() for q in _QUOTED if _given(r, q)}
        for key, row in self._rows():
            terms = known[row.instrument_id]
            is_void = terms.expiry is not None and terms.expiry <= self.time
            if row.instrument_id in held or terms.kind == "spot" or is_void:
                continue
            for name in _QUOTED if terms.kind == "option" else _QUOTED[:1]:
                if (row.instrument_id, name) not in given:
                    raise ValueError(
                        f"'{key}.{name}' is missing; there is no position in "
                        f"'{row.instrument_id}' to take it from"
                    )

    def as_dict(self) -> dict[str, Any]:
        """The file as plain data; orders and trades carry the marks of their instrument."""
        content = self.model_dump(mode="python")
        content["time"] = self.time.isoformat()
        for row in content["instruments"]:
            row["expiry"] = row["expiry"] and row["expiry"].isoformat()
        quotes: dict[str, dict[str, float]] = {}
        for _, row in self._rows():
            given = row.model_dump(include=set(_QUOTED), exclude_none=True)
            quotes.setdefault(row.instrument_id, {}).update(given)
        for key, rows in (("orders", self.orders), ("trades", self.trades)):
            content[key] = [
                {**row.model_dump(exclude_none=True), **quotes[row.instrument_id]} for row in rows
            ]
        return content


def parse_portfolio(content: Any, shown: str = "portfolio") -> dict[str, Any]:
    """Check a portfolio in the shape of the file; `shown` stands for the file name in messages.

    Returns:
        Plain data in the shape of the file, times in UTC, every key present.

    Raises:
        ConfigError: an unknown or missing key, or a bad value; with the full key.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{shown}: is {type(content).__name__}; allowed: a JSON object")
    try:
        return PortfolioFile.model_validate(content).as_dict()
    except ValidationError as error:
        raise explain(error, PortfolioFile, shown) from None


def load_portfolio(path: str | Path) -> dict[str, Any]:
    """Read a portfolio file, see `parse_portfolio`.

    Raises:
        ConfigError: no such file, not JSON, or a content that is refused; with the file's name.
    """
    content = read_json(path)
    if isinstance(content, dict) and "simPos" in content:
        raise ConfigError(
            f"{path}: is a request of OKX's position builder (it has 'simPos'); "
            "use --position-builder --market MARKET.json"
        )
    return parse_portfolio(content, str(path))


def read_json(path: str | Path, what: str = "portfolio file") -> Any:
    """Content of a JSON file; no NaN, no key twice.

    Raises:
        ConfigError: no such file, not readable or not JSON.
    """
    path = Path(path)

    def no_constant(name: str) -> float:
        raise ValueError(f"{name} is no JSON number; a value that is not known is null")

    def no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in pairs:
            if key in content:
                raise ValueError(f"key '{key}' is given twice")
            content[key] = value
        return content

    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text, parse_constant=no_constant, object_pairs_hook=no_doubles)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {what}") from None
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None


def _given(row: FilePosition | FileOrder, name: str) -> bool:
    return getattr(row, name) is not None


def _not_listed(key: str, name: str, known: dict[str, FileInstrument]) -> str:
    near = nearest(name, known)
    hint = f"did you mean '{near}'? " if near else ""
    allowed = ", ".join(known) or "none, 'instruments' is empty"
    return f"'{key}.instrument_id' is '{name}'; {hint}allowed: {allowed}"


def _check_position(key: str, position: FilePosition, instrument: FileInstrument) -> None:
    if instrument.kind == "spot":
        raise ValueError(
            f"'{key}.instrument_id' is '{position.instrument_id}', a spot pair; spot is held in "
            "'balances'"
        )
    if instrument.style == "inverse" and instrument.kind != "option" and position.entry_price == 0:
        raise ValueError(f"'{key}.entry_price' is 0; inverse contracts need a price above 0")
