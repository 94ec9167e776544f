"""Array types of the package, sums by group, and columns of tables as plain arrays."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

from backtest.dataset import utc


Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Names = npt.NDArray[np.object_]

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
YEAR_US = 365 * DAY_US


def sum_by(group: npt.NDArray[np.integer], values: npt.ArrayLike, count: int) -> Floats:
    """Sum of ``values`` by group 0 to ``count - 1``, in the order of the rows."""
    return np.bincount(group, values, count).astype(np.float64, copy=False)


def floats(frame: pd.DataFrame, name: str) -> Floats:
    """A column of numbers, NaN where null."""
    return pd.Series(frame[name]).to_numpy(np.float64, na_value=np.nan)


def names(frame: pd.DataFrame, name: str) -> Names:
    """A column of names as Python strings, None where null."""
    column = pd.Series(frame[name]).astype(object)
    return column.where(column.notna(), None).to_numpy(object)


def places(frame: pd.DataFrame, name: str, position: Mapping[str, int]) -> Ints:
    """Position of each name of a column, -1 where it is unknown."""
    column = pd.Series(frame[name])
    codes, found = pd.factorize(column)
    table = np.array([position.get(str(key), -1) for key in found] + [-1], np.int64)
    return table[codes]


def microseconds(frame: pd.DataFrame, name: str, missing: int) -> Ints:
    """A column of times as UTC microseconds since 1970, ``missing`` where null."""
    stamps = pd.DatetimeIndex(pd.to_datetime(frame[name], utc=True)).as_unit("us")
    values = stamps.tz_localize(None).to_numpy("datetime64[us]")
    return np.where(np.isnat(values), missing, values.astype(np.int64)).astype(np.int64)


def timestamp(micros: int) -> pd.Timestamp:
    """UTC time of microseconds since 1970."""
    return utc(datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros))


def micros_of(time: pd.Timestamp) -> int:
    """Microseconds since 1970 of a time with a zone."""
    return time.value // 1_000
