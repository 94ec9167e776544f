"""Every Parquet column of the canonical dataset, once: name, type, unit, nullability.

A dataset is a folder of zstd Parquet tables (see ``docs`` and ``pmstress dataset describe``).
Times are UTC microseconds, money, prices and quantities float64, names dictionary-encoded strings.
"""

from dataclasses import dataclass, field

import pyarrow as pa


SCHEMA_VERSION = 1
TIME = pa.timestamp("us", tz="UTC")
NAME = pa.dictionary(pa.int32(), pa.string())
NUMBER = pa.float64()

KINDS = ("spot", "perpetual", "future", "option")
STYLES = ("linear", "inverse")
OPTION_TYPES = ("C", "P")
BORROW_MODES = ("auto", "non_auto")
SPOT_MODES = ("derivatives_only", "USDT", "USDC", "USD")


@dataclass(frozen=True)
class Column:
    """One column: ``unit`` is empty for names and dimensionless numbers."""

    name: str
    type: pa.DataType
    unit: str = ""
    nullable: bool = False
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """One table: ``key`` columns identify a row, ``partitions`` are folder levels."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partitions: tuple[str, ...] = ()
    optional: bool = False
    by_name: dict[str, Column] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {c.name: c for c in self.columns})

    @property
    def arrow_schema(self) -> pa.Schema:
        """Arrow schema of the table's own columns, without partition levels."""
        return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns])

    @property
    def column_names(self) -> list[str]:
        """Names of the required columns in order."""
        return [c.name for c in self.columns]


def _table(
    name: str,
    columns: list[Column],
    key: tuple[str, ...],
    partitions: tuple[str, ...] = (),
    optional: bool = False,
) -> Table:
    return Table(name, tuple(columns), key, partitions, optional)


TABLES: dict[str, Table] = {
    t.name: t
    for t in [
        _table(
            "instruments",
            [
                Column("instrument_id", NAME),
                Column("kind", NAME, allowed=KINDS),
                Column("coin", NAME),
                Column("settle", NAME),
                Column("style", NAME, allowed=STYLES),
                Column("multiplier", NUMBER, "coins a contract; USD for inverse"),
                Column("strike", NUMBER, "USD", nullable=True),
                Column("option_type", NAME, nullable=True, allowed=OPTION_TYPES),
                Column("listed", TIME, "UTC", nullable=True),
                Column("expiry", TIME, "UTC", nullable=True),
            ],
            key=("instrument_id",),
        ),
        _table(
            "index",
            [
                Column("time", TIME, "UTC"),
                Column("currency", NAME),
                Column("usd", NUMBER, "USD per unit"),
            ],
            key=("time", "currency"),
            partitions=("date",),
        ),
        _table(
            "marks",
            [
                Column("time", TIME, "UTC"),
                Column("instrument_id", NAME),
                Column(
                    "mark_price", NUMBER, "settle per coin; USD per coin (inverse); coins (options)"
                ),
                Column("low", NUMBER, "as mark_price", nullable=True),
                Column("high", NUMBER, "as mark_price", nullable=True),
                Column("forward", NUMBER, "USD per coin", nullable=True),
                Column("mark_iv", NUMBER, "fraction a year", nullable=True),
                Column("funding_rate", NUMBER, "fraction of notional", nullable=True),
            ],
            key=("time", "instrument_id"),
            partitions=("date",),
        ),
        _table(
            "positions",
            [
                Column("time", TIME, "UTC, of the snapshot"),
                Column("account_id", NAME),
                Column("instrument_id", NAME),
                Column("contracts", NUMBER, "contracts, signed"),
                Column("entry_price", NUMBER, "as mark_price", nullable=True),
            ],
            key=("time", "account_id", "instrument_id"),
            partitions=("date", "bucket"),
        ),
        _table(
            "balances",
            [
                Column("time", TIME, "UTC, of the snapshot"),
                Column("account_id", NAME),
                Column("currency", NAME),
                Column("cash", NUMBER, "units of the currency, negative = debt"),
                Column("spot_limit", NUMBER, "units of the currency", nullable=True),
            ],
            key=("time", "account_id", "currency"),
            partitions=("date", "bucket"),
        ),
        _table(
            "orders",
            [
                Column("time", TIME, "UTC, of the snapshot"),
                Column("account_id", NAME),
                Column("instrument_id", NAME),
                Column("contracts", NUMBER, "contracts, signed"),
                Column("price", NUMBER, "as mark_price"),
            ],
            key=("time", "account_id", "instrument_id", "price"),
            partitions=("date", "bucket"),
            optional=True,
        ),
        _table(
            "accounts",
            [
                Column("account_id", NAME),
                Column("segment", NAME),
                Column("borrow_mode", NAME, allowed=BORROW_MODES),
                Column("spot_mode", NAME, nullable=True, allowed=SPOT_MODES),
            ],
            key=("account_id",),
            partitions=("bucket",),
        ),
    ]
}
"""All tables of a canonical dataset by name."""
