"""The configuration of ``pmstress ingest``: which files, what they are, how they become a dataset.

Paths and patterns are relative to the configuration file.
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, field_validator, model_validator

from backtest.config_errors import read_section
from backtest.market.config import Currency, Duration, Section
from backtest.schema import TABLES


Patterns = Annotated[tuple[str, ...], Field(min_length=1)]
Naming = Literal["venue", "okx"]
QUOTES = "quotes"
"""Prices of one currency in another, from which the table ``index`` is made."""
FUNDING = "funding"
"""Funding rates at the times at which they are paid."""
MAPPED: dict[str, tuple[str, ...]] = {
    **{name: tuple(table.column_names) for name, table in TABLES.items()},
    QUOTES: ("time", "base", "quote", "price"),
    FUNDING: ("time", "instrument_id", "funding_rate"),
}
"""Columns of everything that a mapping can make."""
SIGNED = ("contracts", "cash", "funding_rate")
"""Columns whose sign may stand in another column of the file."""


class AccountDefaults(Section):
    """What the files do not say about an account. Assumed."""

    segment: str = "ingested"
    borrow_mode: Literal["auto", "non_auto"] = "auto"
    incomplete: Literal["quarantine", "keep"] = "quarantine"
    """Accounts of which a row cannot be used: the replay keeps them out and counts them, or what is
    left of them is replayed."""


class _Source(Section):
    name: str = ""
    """What messages call the source; empty: its kind and place."""
    files: Patterns
    naming: Naming | None = None
    """How its contracts are called: as the venue does, or as OKX does with OKX's contract sizes
    (prices are a coin, so another venue's history can mark them). Default: ``[ingest] naming``."""


class BinanceSource(_Source):
    """Zips (or the CSV files in them) of Binance's public data.

    ``market`` and ``data`` are read from the path (``futures/um/.../markPriceKlines/...``) where it
    has them.
    """

    kind: Literal["binance"]
    market: Literal["spot", "um", "cm"] | None = None
    data: Literal["klines", "markPriceKlines", "indexPriceKlines", "fundingRate"] | None = None


class TardisSource(_Source):
    """CSV files of Tardis: ``options_chain`` and ``derivative_ticker``, plain or gzipped."""

    kind: Literal["tardis"]
    data: Literal["options_chain", "derivative_ticker"] | None = None
    """Default: by the columns of each file."""


class DeribitSource(_Source):
    """CSV files of Deribit option chains: volatilities in percent, marks in coins."""

    kind: Literal["deribit"]


class OkxAccountSource(_Source):
    """OKX account exports: positions, balances, orders and settings, JSON answers or CSV."""

    kind: Literal["okx_account"]
    account_id: Annotated[str, Field(min_length=1)]
    segment: str | None = None
    time: AwareDatetime | None = None
    """Time of the snapshot; default: the latest ``uTime`` of its positions and balances."""


class OkxInstrumentsSource(_Source):
    """Answers of OKX's ``public/instruments``: terms of contracts; they win over names."""

    kind: Literal["okx_instruments"]


class FetchedSource(_Source):
    """Journals of folders that ``pmstress fetch`` has filled; their whole pages are read."""

    kind: Literal["fetched"]


class TimeFormat(Section):
    """How a column of times is written."""

    column: str
    format: str
    """``iso``, ``s``, ``ms``, ``us``, ``ns`` since 1970, or a pattern: ``%d/%m/%Y %H:%M``."""
    zone: str = "UTC"
    """Zone of times that do not say theirs, for instance ``Europe/Vienna``."""
    bar: Duration | None = None
    """Where the time is a bar's open: its length, for a close is known at its end."""

    @field_validator("format")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("iso", "s", "ms", "us", "ns") and "%" not in value:
            raise ValueError(
                f"is '{value}'; allowed: iso, s, ms, us, ns, or a pattern such as %d/%m/%Y %H:%M"
            )
        return value


class SignRule(Section):
    """A column that says which way an amount goes: long or short, buy or sell."""

    column: str
    names: Annotated[dict[str, Literal[-1, 1]], Field(min_length=1)]
    """What the file says to the sign, for instance ``{ LONG = 1, SHORT = -1 }``."""


class ColumnRule(Section):
    """Where a column of the dataset comes from: a column of the file, or one value for all rows."""

    column: str | None = None
    value: str | float | None = None
    scale: float = 1.0
    """Numbers are multiplied by it: 0.01 for percent, -1 for the other sign."""
    names: dict[str, str] = Field(default_factory=dict)
    """Other names for what the file says, for instance ``{ XBT = "BTC" }``."""
    sign: SignRule | None = None
    """Another column that gives the sign; the number itself must not be negative then."""
    zone: str = "UTC"
    format: str = "iso"

    @model_validator(mode="after")
    def _one(self) -> "ColumnRule":
        if (self.column is None) == (self.value is None):
            raise ValueError("give either 'column' or 'value'")
        if self.sign is not None and self.column is None:
            raise ValueError("'sign' needs a 'column'")
        return self


Venue = Literal["okx", "bybit", "deribit", "binance", "binance-futures", "binance-delivery"]


class CsvSource(_Source):
    """Plain CSV files (also .gz, .zip) with a mapping of their columns."""

    kind: Literal["csv"]
    table: str
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    thousands: Literal[",", ".", " ", "'"] | None = None
    """What stands between groups of three digits; if absent, a point where ``decimal`` is a comma,
    else nothing."""
    time: TimeFormat | None = None
    venue: Venue | None = None
    """Venue whose names ``instrument_id`` has: terms of contracts are then read from the names. If
    absent, a source of the table ``instruments`` states them."""
    columns: dict[str, str | ColumnRule]
    """Column of the dataset to column of the file, or to a rule."""

    @field_validator("table")
    @classmethod
    def _table(cls, value: str) -> str:
        if value not in MAPPED:
            raise ValueError(f"is '{value}'; allowed: {', '.join(MAPPED)}")
        return value

    @model_validator(mode="after")
    def _signs(self) -> "CsvSource":
        if self.thousands == self.decimal:
            raise ValueError(f"'thousands' is '{self.thousands}', as 'decimal' is")
        return self

    @model_validator(mode="after")
    def _complete(self) -> "CsvSource":
        known, table = MAPPED[self.table], TABLES.get(self.table)
        optional = {c.name for c in table.columns if c.nullable} if table else set[str]()
        if ("time" in known) != (self.time is not None):
            needs = "needs" if "time" in known else "has no time, so it takes no"
            raise ValueError(f"'time': table '{self.table}' {needs} [ingest.source.time]")
        for name in self.columns:
            if name not in known or name == "time":
                allowed = ", ".join(n for n in known if n != "time")
                raise ValueError(f"'columns.{name}': table '{self.table}' has {allowed}")
            rule = self.rule(name)
            if rule is not None and rule.sign is not None and name not in SIGNED:
                raise ValueError(f"'columns.{name}.sign': allowed for {', '.join(SIGNED)}")
        if self.venue is not None and ("instrument_id" not in known or self.table == "instruments"):
            raise ValueError(f"'venue': table '{self.table}' has no names of contracts to read")
        for name in known:
            if name != "time" and name not in self.columns and name not in optional:
                raise ValueError(f"'columns.{name}' is missing (table '{self.table}')")
        return self

    def rule(self, name: str) -> ColumnRule | None:
        """Where a column comes from; None where the mapping does not have it."""
        found = self.columns.get(name)
        return ColumnRule(column=found) if isinstance(found, str) else found


Source = Annotated[
    BinanceSource
    | TardisSource
    | DeribitSource
    | OkxAccountSource
    | OkxInstrumentsSource
    | FetchedSource
    | CsvSource,
    Field(discriminator="kind"),
]


class IngestConfig(Section):
    """Section ``[ingest]``."""

    name: str = ""
    """Name of the dataset; empty: that of its folder."""
    interval: Duration = timedelta(hours=1)
    """Grid of the dataset: a value counts at the first grid time that is not before it."""
    late: Duration | None = None
    """Values so much later than a grid time still count for it (clocks that are a bit off)."""
    max_age: Duration = timedelta(days=1)
    """How long a stablecoin's price in USD is used for other prices."""
    buckets: int = Field(default=8, ge=1)
    naming: Naming = "venue"
    quotes: tuple[Currency, ...] = ("USD", "USDT", "USDC")
    """In what a coin may be quoted, the preferred one first."""
    assumed_usd: dict[Currency, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """USD of a unit of a quote currency where no file says it. Assumed."""
    index_from_marks: bool = False
    """The mark of a coin's perpetual as its index where there is no other. Assumed."""
    max_quarantined_share: float = Field(default=0.01, ge=0, le=1)
    rename: dict[str, str] = Field(default_factory=dict)
    """Names of instruments in the files to names in the dataset."""
    accounts: AccountDefaults = AccountDefaults()
    source: Annotated[tuple[Source, ...], Field(min_length=1)]

    @field_validator("interval")
    @classmethod
    def _whole_seconds(cls, value: timedelta) -> timedelta:
        if value % timedelta(seconds=1):
            raise ValueError(f"is {value}; allowed: whole seconds")
        return value


def load_ingest_config(path: Path) -> IngestConfig:
    """Section ``[ingest]`` of a TOML file.

    Raises:
        ConfigError: no such file or section, broken TOML, an unknown key or a bad value.
    """
    return read_section(path, "ingest", IngestConfig)


def source_label(source: _Source, place: int) -> str:
    """What messages call a source."""
    return source.name or f"{getattr(source, 'kind', 'source')} (source {place + 1})"
