"""What was read, kept and set aside, by source; with the first rows of every reason."""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from backtest.dataset import utc
from backtest.market.series import rows_of
from backtest.row_rules import (
    MISSING,
    NEGATIVE_LIMIT,
    NEGATIVE_PRICE,
    NEGATIVE_VOLATILITY,
    NOT_ALLOWED,
    NOT_FINITE,
    UNKNOWN_CURRENCY,
    UNKNOWN_INSTRUMENT,
    ZERO_PRICE,
    Clean,
)
from backtest.schema import NUMBER, TABLES
from backtest.tables import SOURCE_FILE, SOURCE_ROW


NOT_A_NUMBER = "not a number"
NOT_A_TIME = "not a time"
WRONG_FIELDS = "wrong number of fields"
COLUMNS = ["source", "table", "file", "row", "column", "value", "reason"]
MOST_ROWS = 1_000
"""Rows kept of each source, table and reason; all are counted."""


@dataclass
class Tally:
    """Rows of one source."""

    files: int = 0
    read: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Quarantined rows by reason."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that are no errors and still not needed, by why."""
    first: pd.Timestamp | None = None
    last: pd.Timestamp | None = None
    """Earliest and latest time of its good rows; None where it has no times."""

    @property
    def quarantined(self) -> int:
        """Quarantined rows."""
        return self.reasons.total()

    def see(self, times: pd.Series) -> None:
        """Widen the span of times by those of good rows."""
        if len(times):
            first, last = utc(times.min()), utc(times.max())
            self.first = first if self.first is None else min(self.first, first)
            self.last = last if self.last is None else max(self.last, last)


class Ledger:
    """Counts by source, and the quarantine."""

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {}
        self._rows: list[pd.DataFrame] = []
        self._kept: Counter[tuple[str, str, str]] = Counter()

    def of(self, source: str) -> Tally:
        """Counts of a source."""
        return self.tallies.setdefault(source, Tally())

    def set_aside(self, source: str, table: str, rows: pd.DataFrame, reason: str) -> None:
        """Quarantine rows with columns ``_file``, ``_row``, ``column``, ``value``."""
        if rows.empty:
            return
        self.of(source).reasons[reason] += len(rows)
        key = (source, table, reason)
        kept = rows.head(MOST_ROWS - self._kept[key])
        self._kept[key] += len(kept)
        if len(kept):
            named = {SOURCE_FILE: "file", SOURCE_ROW: "row"}
            shown = kept.rename(columns=named).assign(source=source, table=table, reason=reason)
            self._rows.append(
                shown.loc[:, COLUMNS].astype({"file": "str", "row": "int64", "value": "str"})
            )

    def add(self, source: str, table: str, clean: Clean) -> pd.DataFrame:
        """Quarantine what a row check rejected; the good rows."""
        if len(clean.rejected):
            reasons = clean.quarantined["reason"].to_numpy(object)
            for reason in dict.fromkeys(reasons):
                rows = rows_of(clean.rejected, reasons == reason)
                first = rows.head(MOST_ROWS)
                places = [_culprit(table, r, str(reason)) for r in first.to_dict(orient="records")]
                rest = [("", "")] * (len(rows) - len(first))
                column, value = zip(*places, *rest, strict=True)
                self.set_aside(source, table, rows.assign(column=column, value=value), str(reason))
        if "time" in clean.good.columns:
            self.of(source).see(pd.Series(clean.good["time"]))
        return clean.good

    def quarantine(self) -> pd.DataFrame:
        """The quarantined rows kept, in the order they were met."""
        if not self._rows:
            return pd.DataFrame(columns=pd.Index(COLUMNS)).astype("str").astype({"row": "int64"})
        return pd.concat(self._rows, ignore_index=True)

    @property
    def read(self) -> int:
        """Rows read of all sources."""
        return sum(tally.read for tally in self.tallies.values())

    @property
    def quarantined(self) -> int:
        """Quarantined rows of all sources."""
        return sum(tally.quarantined for tally in self.tallies.values())


def _culprit(table: str, row: Mapping[Hashable, object], reason: str) -> tuple[str, str]:
    """Column and value that a reason speaks of; the key where it speaks of the whole row."""
    columns = TABLES[table].columns
    for column in columns:
        value = row.get(column.name)
        if _is_bad(value, column.type == NUMBER, column.nullable, column.allowed, reason):
            return column.name, "" if value is None else str(value)
    named = {UNKNOWN_INSTRUMENT: "instrument_id", UNKNOWN_CURRENCY: "currency"}.get(reason)
    keys = [named] if named else list(TABLES[table].key)
    return ", ".join(keys), " ".join(str(row.get(key)) for key in keys)


def _is_bad(
    value: object, is_number: bool, nullable: bool, allowed: tuple[str, ...], reason: str
) -> bool:
    if reason == MISSING:
        return not nullable and bool(pd.isna(np.asarray(value, object)).all())
    if reason == NOT_ALLOWED and allowed:
        return isinstance(value, str) and value not in allowed
    if not is_number or not isinstance(value, int | float | np.number):
        return False
    number = float(value)
    if reason == NOT_FINITE:
        return bool(np.isinf(number))
    if reason in (NEGATIVE_PRICE, NEGATIVE_VOLATILITY, NEGATIVE_LIMIT):
        return number < 0.0
    return reason in (ZERO_PRICE, NOT_ALLOWED) and number <= 0.0
