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
            raise ValueError("'style' is 'linear'; options are settled in the coin: 'inverse'")
        if self.style == "inverse" and self.settle != self.coin:
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
    """An order, or a trade to try; the marks where no position has them."""

    instrument_id: str
    contracts: float
    price: NotNegative
    mark_price: NotNegative | None = None
    mark_iv: NotNegative | None = None
    forward: Positive | None = None


class PortfolioFile(_Part):
    """One account at one time; see the examples in `configs/portfolios`."""

    time: datetime
    index_usd: dict[str, Positive | None]
    instruments: list[FileInstrument] = []
    positions: list[FilePosition] = []
    balances: dict[str, float] = {}
    spot_limits: dict[str, NotNegative | None] = {}
    borrow_mode: Literal["auto", "non_auto"] = "auto"
    spot_mode: Literal["derivatives_only", "USDT", "USDC", "USD"] | None = None
    orders: list[FileOrder] = []

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
        self._one_mark_each()
        return self

    def _rows(self) -> Iterator[tuple[str, FilePosition | FileOrder]]:
        yield from ((f"positions[{k}]", row) for k, row in enumerate(self.positions))
        yield from ((f"orders[{k}]", row) for k, row in enumerate(self.orders))

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

    def as_dict(self) -> dict[str, Any]:
        """The file as plain data, keys that orders do not need left out."""
        content = self.model_dump(mode="python")
        content["time"] = self.time.isoformat()
        for row in content["instruments"]:
            row["expiry"] = row["expiry"] and row["expiry"].isoformat()
        content["orders"] = [row.model_dump(exclude_none=True) for row in self.orders]
        return content


def load_portfolio(path: str | Path) -> dict[str, Any]:
    """Read a portfolio file.

    Returns:
        Plain data in the shape of the file, times in UTC, every key present.

    Raises:
        ConfigError: no such file, not JSON, an unknown or missing key, a bad value; all with the
            name of the file and the full key.
    """
    path = Path(path)
    content = _read_json(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is {type(content).__name__}; allowed: a JSON object")
    try:
        return PortfolioFile.model_validate(content).as_dict()
    except ValidationError as error:
        raise explain(error, PortfolioFile, str(path)) from None


def _read_json(path: Path) -> Any:
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
        raise ConfigError(f"{path}: no such portfolio file") from None
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None


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
