"""Row checks of the canonical tables: good rows and quarantined rows with file, row and reason.

Shared by ``pmstress dataset check`` and by the replay, so that both judge a row alike. A row is
quarantined for the first reason that holds, in the order of ``REASONS``; all rows of a duplicated
key are quarantined. Null and NaN are the same ("missing value"); infinities are "not finite".
"""

import weakref
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from backtest.errors import DataError
from backtest.schema import KINDS, NUMBER, TABLES, TIME, Column, Table
from backtest.tables import SOURCE_FILE, SOURCE_ROW


MISSING = "missing value"
NOT_FINITE = "not finite"
UNKNOWN_INSTRUMENT = "unknown instrument"
UNKNOWN_CURRENCY = "unknown currency"
NEGATIVE_PRICE = "negative price"
ZERO_PRICE = "zero price"
NEGATIVE_VOLATILITY = "negative volatility"
NEGATIVE_LIMIT = "negative limit"
SPOT_POSITION = "spot position"
NOT_ALLOWED = "value not allowed"
DUPLICATE = "duplicate key"
REASONS = (
    MISSING,
    NOT_FINITE,
    UNKNOWN_INSTRUMENT,
    UNKNOWN_CURRENCY,
    NEGATIVE_PRICE,
    ZERO_PRICE,
    NEGATIVE_VOLATILITY,
    NEGATIVE_LIMIT,
    SPOT_POSITION,
    NOT_ALLOWED,
    DUPLICATE,
)
QUARANTINE_COLUMNS = ["table", "file", "row", "key", "reason"]

_NO_KIND = -1
_SPOT = KINDS.index("spot")
_OPTION = KINDS.index("option")


@dataclass(frozen=True)
class Clean:
    """Outcome of a check.

    ``good`` and ``rejected`` are rows of the input; ``quarantined`` describes the rejected ones in
    the same order: ``table``, ``file`` and ``row`` (where the input has ``_file`` and ``_row``,
    else empty and the position), ``key``, ``reason``.
    """

    good: pd.DataFrame
    quarantined: pd.DataFrame
    rejected: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass
class _Judge:
    """First reason of each row: 0 is good, ``i + 1`` is ``REASONS[i]``."""

    table: Table
    frame: pd.DataFrame

    def __post_init__(self) -> None:
        self.codes = np.zeros(len(self.frame), np.int8)
        for column in self.table.columns:
            self._check_type(column)

    def _check_type(self, column: Column) -> None:
        where = f"table {self.table.name}: column '{column.name}'"
        if column.name not in self.frame.columns:
            raise DataError(f"{where} is missing")
        kind = self.frame[column.name].dtype
        good = True
        if column.type == NUMBER:
            good = pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)
        elif column.type == TIME:
            good = isinstance(kind, pd.DatetimeTZDtype)
        if not good:
            raise DataError(f"{where} holds {kind}, must be {column.type}")

    def reject(self, bad: np.ndarray | pd.Series, reason: str) -> None:
        self.codes[np.asarray(bad, bool) & (self.codes == 0)] = REASONS.index(reason) + 1

    def number(self, name: str) -> np.ndarray:
        return self.frame[name].to_numpy(np.float64, na_value=np.nan)

    def missing(self, rows: np.ndarray | None = None, names: Iterable[str] | None = None) -> None:
        """Nulls in the required columns, or in ``names`` among ``rows``."""
        if names is None:
            names = [column.name for column in self.table.columns if not column.nullable]
        for name in names:
            bad = self.frame[name].isna().to_numpy()
            self.reject(bad if rows is None else bad & rows, MISSING)

    def finite(self) -> None:
        for column in self.table.columns:
            if column.type == NUMBER:
                self.reject(np.isinf(self.number(column.name)), NOT_FINITE)

    def price(self, names: Iterable[str], may_be_zero: np.ndarray | bool = False) -> None:
        for name in names:
            values = self.number(name)
            self.reject(values < 0.0, NEGATIVE_PRICE)
            self.reject((values == 0.0) & ~np.asarray(may_be_zero, bool), ZERO_PRICE)

    def allowed(self) -> None:
        for column in self.table.columns:
            if column.allowed:
                values = self.frame[column.name]
                known = values.isin(column.allowed) | values.isna()
                self.reject(~known.to_numpy(), NOT_ALLOWED)

    def unique(self) -> None:
        self.reject(duplicated_keys(self.frame, self.table.key), DUPLICATE)

    def result(self) -> Clean:
        bad = self.codes > 0
        if not bad.any():
            return Clean(self.frame, _no_quarantine(), self.frame.iloc[:0])
        places = np.flatnonzero(bad)
        rejected = self.frame.iloc[places]
        quarantined = describe_rows(self.table.name, rejected, places)
        quarantined["reason"] = np.array(["", *REASONS], object)[self.codes[places]]
        quarantined["reason"] = quarantined["reason"].astype("str")
        good = self.frame.iloc[np.flatnonzero(~bad)].reset_index(drop=True)
        return Clean(good, quarantined, rejected.reset_index(drop=True))


def clean_instruments(frame: pd.DataFrame) -> Clean:
    """Check instruments: known kinds, positive multipliers, terms of options and futures."""
    judge = _Judge(TABLES["instruments"], frame)
    kind = frame["kind"].astype("object").to_numpy()
    option = kind == "option"
    judge.missing()
    judge.missing(option, ["strike", "option_type", "expiry"])
    judge.missing(kind == "future", ["expiry"])
    judge.finite()
    judge.price(["strike"])
    judge.reject(judge.number("multiplier") <= 0.0, NOT_ALLOWED)
    judge.allowed()
    judge.unique()
    return judge.result()


def clean_index(frame: pd.DataFrame, known_currencies: Collection[str] | None = None) -> Clean:
    """Check index prices: finite and above zero; of known currencies where these are given."""
    judge = _Judge(TABLES["index"], frame)
    judge.missing()
    judge.finite()
    if known_currencies is not None:
        judge.reject(_unknown(_column(frame, "currency"), known_currencies), UNKNOWN_CURRENCY)
    judge.price(["usd"])
    judge.unique()
    return judge.result()


def clean_marks(frame: pd.DataFrame, instruments: pd.DataFrame) -> Clean:
    """Check mark prices; an option without a volatility is good (it is not priced later).

    Prices of options may be zero, all others and the forward may not.
    """
    judge = _Judge(TABLES["marks"], frame)
    kind = _kinds(_column(frame, "instrument_id"), instruments)
    judge.missing()
    judge.finite()
    judge.reject(kind == _NO_KIND, UNKNOWN_INSTRUMENT)
    judge.price(["mark_price", "low", "high"], may_be_zero=kind == _OPTION)
    judge.price(["forward"])
    judge.reject(judge.number("mark_iv") < 0.0, NEGATIVE_VOLATILITY)
    judge.unique()
    return judge.result()


def clean_positions(frame: pd.DataFrame, instruments: pd.DataFrame) -> Clean:
    """Check positions: known instruments other than spot, which is held in balances."""
    judge = _Judge(TABLES["positions"], frame)
    kind = _kinds(_column(frame, "instrument_id"), instruments)
    judge.missing()
    judge.finite()
    judge.reject(kind == _NO_KIND, UNKNOWN_INSTRUMENT)
    judge.price(["entry_price"], may_be_zero=kind == _OPTION)
    judge.reject(kind == _SPOT, SPOT_POSITION)
    judge.unique()
    return judge.result()


def clean_balances(frame: pd.DataFrame, known_currencies: Collection[str]) -> Clean:
    """Check balances: currencies that have an index, finite cash, limits not below zero."""
    judge = _Judge(TABLES["balances"], frame)
    judge.missing()
    judge.finite()
    judge.reject(_unknown(_column(frame, "currency"), known_currencies), UNKNOWN_CURRENCY)
    judge.reject(judge.number("spot_limit") < 0.0, NEGATIVE_LIMIT)
    judge.unique()
    return judge.result()


def clean_orders(frame: pd.DataFrame, instruments: pd.DataFrame) -> Clean:
    """Check open orders: known instruments (spot too), prices above zero (options: or zero)."""
    judge = _Judge(TABLES["orders"], frame)
    kind = _kinds(_column(frame, "instrument_id"), instruments)
    judge.missing()
    judge.finite()
    judge.reject(kind == _NO_KIND, UNKNOWN_INSTRUMENT)
    judge.price(["price"], may_be_zero=kind == _OPTION)
    judge.unique()
    return judge.result()


def clean_accounts(frame: pd.DataFrame) -> Clean:
    """Check accounts: known borrow and spot modes, one row an account."""
    judge = _Judge(TABLES["accounts"], frame)
    judge.missing()
    judge.allowed()
    judge.unique()
    return judge.result()


def cleaner(
    table: str, instruments: pd.DataFrame, known_currencies: Collection[str]
) -> Callable[[pd.DataFrame], Clean]:
    """The check of a table as a function of its rows alone."""
    checks: dict[str, Callable[[pd.DataFrame], Clean]] = {
        "instruments": clean_instruments,
        "index": clean_index,
        "marks": lambda frame: clean_marks(frame, instruments),
        "positions": lambda frame: clean_positions(frame, instruments),
        "balances": lambda frame: clean_balances(frame, known_currencies),
        "orders": lambda frame: clean_orders(frame, instruments),
        "accounts": clean_accounts,
    }
    return checks[table]


def describe_rows(table: str, rows: pd.DataFrame, places: np.ndarray) -> pd.DataFrame:
    """Table, file, row and key of each row; ``places`` stand for the rows of an unknown file."""
    known = SOURCE_FILE in rows.columns and SOURCE_ROW in rows.columns
    keys = [_key_text(_column(rows, name), name) for name in TABLES[table].key]
    return pd.DataFrame(
        {
            "table": pd.Series([table] * len(rows), dtype="str"),
            "file": pd.Series(
                rows[SOURCE_FILE].astype("str").to_numpy() if known else [""] * len(rows),
                dtype="str",
            ),
            "row": rows[SOURCE_ROW].to_numpy() if known else places.astype(np.int64),
            "key": pd.Series([" ".join(key) for key in zip(*keys, strict=True)], dtype="str"),
        }
    )


def duplicated_keys(frame: pd.DataFrame, key: Iterable[str]) -> np.ndarray:
    """Rows whose key occurs more than once; rows with a null in the key are never duplicates."""
    joint = np.zeros(len(frame), np.int64)
    size = 1
    null = np.zeros(len(frame), bool)
    for name in key:
        codes, values = _factorize(_column(frame, name))
        null |= codes < 0
        count = len(values) + 1  # null has a code of its own
        if size * count >= 2**62:
            joint, present = pd.factorize(joint)
            size = len(present)
        joint = joint * count + (codes + 1)
        size *= count
    return pd.Series(joint).duplicated(keep=False).to_numpy() & ~null


def _no_quarantine() -> pd.DataFrame:
    none = describe_rows("index", pd.DataFrame({"time": [], "currency": []}), np.array([]))
    return none.assign(reason=pd.Series([], dtype="str"))


def _key_text(values: pd.Series, name: str) -> list[str]:
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.cat.remove_unused_categories()
    codes, uniques = _factorize(values)
    texts = [
        one.isoformat().replace("+00:00", "Z") if isinstance(one, pd.Timestamp) else str(one)
        for one in uniques
    ]
    return [f"{name}={texts[code] if code >= 0 else 'null'}" for code in codes]


def _factorize(values: pd.Series) -> tuple[np.ndarray, Any]:
    """Integer code of each row (-1: null) and the distinct values."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.cat.codes.to_numpy().astype(np.int64), values.cat.categories
    codes, uniques = pd.factorize(values)
    return codes.astype(np.int64), uniques


def _unknown(names: pd.Series, known: Collection[str]) -> np.ndarray:
    return ~names.isin(list(known)).to_numpy()


def _kinds(names: pd.Series, instruments: pd.DataFrame) -> np.ndarray:
    """Place in ``KINDS`` of each row's instrument, -1 where there is no such instrument."""
    known, places = _places(instruments)
    codes, uniques = _factorize(names)
    at = known.get_indexer(pd.Index(np.asarray(uniques, object)))
    of_name = np.where(at >= 0, places[at], _NO_KIND)
    return np.append(of_name, _NO_KIND).astype(np.int8)[codes]


_latest: list[tuple[Any, tuple[pd.Index, np.ndarray]]] = []
"""Instruments looked up last (weakly held) and their index: a replay asks for the same each day."""


def _places(instruments: pd.DataFrame) -> tuple[pd.Index, np.ndarray]:
    """Index of instrument ids and the place in ``KINDS`` of each; the last of equal ids."""
    for table, found in _latest:
        if table() is instruments:
            return found
    known = pd.Index(instruments["instrument_id"].to_numpy(object))
    place_of = {kind: place for place, kind in enumerate(KINDS)}
    kinds = instruments["kind"].to_numpy(object)
    places = np.asarray([place_of.get(kind, _NO_KIND) for kind in kinds], np.int8)
    once = ~known.duplicated(keep="last")
    found = known[once], np.append(places[once], np.int8(_NO_KIND))
    _latest[:] = [(weakref.ref(instruments), found)]
    return found


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    return pd.Series(frame[name])
