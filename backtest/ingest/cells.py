"""Text of CSV files as numbers, times and names; what cannot be read is quarantined."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from backtest.errors import ConfigError, DataError
from backtest.ingest.ledger import NOT_A_NUMBER, NOT_A_TIME, Ledger
from backtest.market.black import BoolArray, FloatArray
from backtest.market.series import rows_of
from backtest.row_rules import MISSING, NOT_ALLOWED
from backtest.tables import SOURCE_FILE, SOURCE_ROW


_EMPTY = ("", "nan", "NaN", "null", "NULL", "None", "N/A", "NA", "-")
BAD = "_bad"
"""Marks rows that cannot be read, where they are not left out at once."""
_UNITS = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
_LATEST_US = 4_102_444_800_000_000
"""1 January 2100: a later time is a wrong unit."""


class Cells:
    """One piece of a file while it is read; the first reason of each bad row counts."""

    def __init__(
        self,
        rows: pd.DataFrame,
        ledger: Ledger,
        source: str,
        table: str,
        decimal: str = ".",
        thousands: str | None = None,
    ) -> None:
        self._rows, self._ledger, self._source, self._table = rows, ledger, source, table
        self._decimal = decimal
        self._thousands = thousands or ("." if decimal == "," else None)
        self.bad: BoolArray = np.zeros(len(rows), bool)

    def __len__(self) -> int:
        return len(self._rows)

    def has(self, column: str) -> bool:
        """Whether the file has a column."""
        return column in self._rows.columns

    def text(self, column: str) -> pd.Series:
        """A column as it is written.

        Raises:
            DataError: the file lacks it; names those it has.
        """
        if column not in self._rows.columns:
            own = [str(c) for c in self._rows.columns if c not in (SOURCE_FILE, SOURCE_ROW)]
            file = str(self._rows[SOURCE_FILE].iloc[0]) if len(self._rows) else "the file"
            raise DataError(f"{file}: column '{column}' is missing; found: {', '.join(own)}")
        return pd.Series(self._rows[column])

    def reject(self, mask: BoolArray, column: str, reason: str) -> None:
        """Quarantine rows for what stands in a column."""
        fresh = mask & ~self.bad
        if fresh.any():
            rows = self._rows.iloc[np.flatnonzero(fresh)]
            value = rows[column].astype("str") if column in rows.columns else ""
            shown = rows[[SOURCE_FILE, SOURCE_ROW]].assign(column=column, value=value)
            self._ledger.set_aside(self._source, self._table, shown, reason)
            self.bad |= fresh

    def numbers(self, column: str, scale: float = 1.0, needed: bool = False) -> FloatArray:
        """A column as numbers; empty is NaN, and quarantined where it is ``needed``."""
        text = self.text(column).str.strip()
        text = _with_point(text, self._decimal, self._thousands)
        empty = text.isin(_EMPTY).to_numpy(bool)
        found = _floats(text.mask(empty))
        self.reject(np.isnan(found) & ~empty, column, NOT_A_NUMBER)
        if needed:
            self.reject(empty, column, MISSING)
        return found * scale

    def signed(
        self, column: str, numbers: FloatArray, sign: str, signs: Mapping[str, int]
    ) -> FloatArray:
        """Numbers with the sign that another column names; no other name, no negative number."""
        factors = self.text(sign).str.strip().map(signs).to_numpy(np.float64, na_value=np.nan)
        self.reject(np.isnan(factors), sign, NOT_ALLOWED)
        self.reject(numbers < 0.0, column, NOT_ALLOWED)
        return numbers * factors

    def names(self, column: str, needed: bool = True) -> pd.Series:
        """A column as names; empty is null, and quarantined where it is ``needed``."""
        text = self.text(column).str.strip()
        empty = text.isin(_EMPTY).to_numpy(bool)
        if needed:
            self.reject(empty, column, MISSING)
        return text.astype(object).mask(empty, None)

    def times(
        self, column: str, form: str = "iso", zone: str = "UTC", needed: bool = True
    ) -> pd.Series:
        """A column as UTC times in microseconds.

        ``form`` is ``iso``, a unit (``s``, ``ms``, ``us``, ``ns``), ``epoch`` for milliseconds or
        microseconds by their size, or a pattern of ``strftime``.
        """
        text = self.text(column).str.strip()
        empty = text.isin(_EMPTY).to_numpy(bool)
        if form in _UNITS or form == "epoch":
            found = _epoch(text.mask(empty), form)
        else:
            found = _calendar(text.mask(empty), "ISO8601" if form == "iso" else form, zone)
        self.reject(found.isna().to_numpy() & ~empty, column, NOT_A_TIME)
        if needed:
            self.reject(empty, column, MISSING)
        return found

    def whole(self, columns: dict[str, Any]) -> pd.DataFrame:
        """The columns of all rows, with their file and row, and ``_bad`` where quarantined."""
        frame = pd.DataFrame(columns, index=self._rows.index)
        for name in (SOURCE_FILE, SOURCE_ROW):
            frame[name] = self._rows[name]
        return frame.assign(**{BAD: self.bad})

    def kept(self, columns: dict[str, Any]) -> pd.DataFrame:
        """The columns of the rows that are not quarantined, with their file and row."""
        frame = self.whole(columns).drop(columns=BAD)
        return rows_of(frame, ~self.bad).reset_index(drop=True) if self.bad.any() else frame


def _with_point(text: pd.Series, decimal: str, thousands: str | None) -> pd.Series:
    """Numbers as Python writes them; a sign between digits that are no group of three stays.

    So 1.234,5 is 1234.5, and 1.5 of a file with decimal commas is no number.
    """
    if thousands is None:
        return text
    mark, point = re.escape(thousands), re.escape(decimal)
    grouped = text.str.fullmatch(rf"[+-]?\d{{1,3}}(?:{mark}\d{{3}})+(?:{point}\d*)?")
    text = text.where(
        ~grouped.to_numpy(bool, na_value=False), text.str.replace(thousands, "", regex=False)
    )
    if decimal == ".":
        return text
    # A point that is left is no decimal sign; a letter makes sure that it is not read as one.
    text = text.str.replace(".", "x", regex=False)
    return text.str.replace(decimal, ".", regex=False)


def _floats(text: pd.Series) -> FloatArray:
    return np.asarray(pd.to_numeric(text, errors="coerce"), np.float64)


def _epoch(text: pd.Series, form: str) -> pd.Series:
    numbers = _floats(text)
    scale = np.where(numbers >= 1e14, 1.0, 1e3) if form == "epoch" else _UNITS[form]
    micros = np.round(numbers * scale)
    good = (micros > 0) & (micros < _LATEST_US)
    whole = np.where(good, micros, 0.0).astype(np.int64)
    found = pd.Series(pd.DatetimeIndex(whole.view("datetime64[us]"), tz="UTC"), index=text.index)
    return found.mask(~good)


def _calendar(text: pd.Series, form: str, zone: str) -> pd.Series:
    # Times that say their zone and times that do not may stand in one file.
    stamps = pd.to_datetime(text, format=form, errors="coerce", utc=True).dt.as_unit("us")
    if zone == "UTC":
        return stamps
    says = text.str.contains(r"(?:Z|[+-]\d{2}:?\d{2})$", regex=True, na=False)
    try:
        local = stamps.dt.tz_localize(None).dt.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    except (KeyError, ValueError) as error:
        raise ConfigError(f"zone '{zone}': no such time zone; such as 'Europe/Vienna'") from error
    return stamps.where(says, local.dt.tz_convert("UTC"))
