"""Times as int64 microseconds, and the only way to look a value up: the last one known by then."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

from backtest.market.black import BoolArray, FloatArray, IntArray


SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US


def times_of(frame: pd.DataFrame, column: str) -> IntArray:
    """A column of UTC times as int64 microseconds since 1970."""
    index = pd.DatetimeIndex(frame[column])
    index = index.tz_localize("UTC") if index.tz is None else index.tz_convert("UTC")
    return index.as_unit("us").asi8


def floats_of(frame: pd.DataFrame, column: str) -> FloatArray:
    """A column as float64."""
    return np.asarray(frame[column], dtype=np.float64)


def names_of(frame: pd.DataFrame, column: str) -> npt.NDArray[np.object_]:
    """A column of names (strings or categories) as Python strings."""
    return np.asarray(frame[column].astype(str), dtype=np.object_)


def rows_of(frame: pd.DataFrame, mask: BoolArray) -> pd.DataFrame:
    """The rows where ``mask`` holds."""
    return frame.take(np.flatnonzero(mask))


def timestamps(values: IntArray) -> pd.DatetimeIndex:
    """Int64 microseconds since 1970 as UTC times."""
    return pd.DatetimeIndex(values.astype("datetime64[us]"), tz="UTC")


@dataclass(frozen=True)
class Known:
    """Values with the times from which each is known, strictly ascending."""

    times: IntArray
    values: FloatArray

    @classmethod
    def of(cls, times: IntArray, values: FloatArray) -> "Known":
        """Sorted, without values that are not finite; of equal times the last one wins."""
        keep = np.isfinite(values)
        times, values = times[keep], values[keep]
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
        last = np.append(times[1:] != times[:-1], True) if len(times) else np.zeros(0, bool)
        return cls(times[last], values[last])

    @classmethod
    def union(cls, parts: Iterable["Known"]) -> "Known":
        """All values of several series; at equal times the later series wins."""
        parts = list(parts)
        return cls.of(
            np.concatenate([p.times for p in parts]), np.concatenate([p.values for p in parts])
        )

    def rows(self, at: IntArray, max_age_us: int) -> IntArray:
        """Row of the last value known at each time, -1 where none is that young."""
        row = np.searchsorted(self.times, at, side="right") - 1
        if len(self.times) == 0:
            return row
        stale = (row < 0) | (at - self.times[np.maximum(row, 0)] > max_age_us)
        return np.where(stale, -1, row)

    def at(self, at: IntArray, max_age_us: int) -> FloatArray:
        """Last value known at each time, NaN where none is that young."""
        row = self.rows(at, max_age_us)
        if len(self.times) == 0:
            return np.full(len(at), np.nan)
        return np.where(row >= 0, self.values[np.maximum(row, 0)], np.nan)


def spans(times: IntArray, mask: BoolArray) -> dict[str, object]:
    """Count, first and last time of the grid times in ``mask``, for provenance records."""
    if not mask.any():
        return {"times": 0}
    chosen = times[mask]
    return {
        "times": int(mask.sum()),
        "from": instant(chosen[0]).isoformat(),
        "to": instant(chosen[-1]).isoformat(),
    }


def instant(value: int | np.int64) -> datetime:
    """Microseconds since 1970 as a UTC time."""
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(value))


def microseconds_of(time: datetime) -> int:
    """One UTC time as microseconds since 1970."""
    return (time - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
