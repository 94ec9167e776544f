"""Market rows on their way to the grid: written aside as they come, read back by time.

However large the files are, memory holds one flush and, later, one window of grid times.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from backtest.dataset_writer import DAY_US
from backtest.durable import write_table
from backtest.market.black import IntArray
from backtest.tables import SOURCE_FILE, SOURCE_ROW


FOLDER = ".ingest"
FLUSH_ROWS = 500_000
WINDOW_ROWS = 500_000
_NAME = pa.dictionary(pa.int32(), pa.string())
_COMMON = {
    "time": pa.timestamp("us", tz="UTC"),
    "cell": pa.int64(),
    "rank": pa.int16(),
    "sampled": pa.bool_(),
    "source": _NAME,
    SOURCE_FILE: _NAME,
    SOURCE_ROW: pa.int64(),
}
_COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "marks": {
        "instrument_id": _NAME,
        **dict.fromkeys(("mark_price", "low", "high", "forward", "mark_iv"), pa.float64()),
    },
    "funding": {"instrument_id": _NAME, "funding_rate": pa.float64()},
    "quotes": {"base": _NAME, "quote": _NAME, "price": pa.float64()},
}


class Staging:
    """Rows of ``marks``, ``funding`` and ``quotes`` below a folder, by grid time (``cell``)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        shutil.rmtree(self.folder, ignore_errors=True)
        self._pending: dict[str, list[pa.Table]] = {name: [] for name in _COLUMNS}
        self._days: Counter[int] = Counter()
        self._files = 0

    def add(self, table: str, frame: pd.DataFrame) -> None:
        """Keep rows; every column of the table must be there."""
        if frame.empty:
            return
        columns = _COLUMNS[table] | _COMMON
        arrays = {
            name: pa.array(
                frame[name].astype("str") if kind == _NAME else frame[name],
                pa.string() if kind == _NAME else kind,
                from_pandas=True,
            )
            for name, kind in columns.items()
        }
        encoded = {
            n: a.dictionary_encode() if columns[n] == _NAME else a for n, a in arrays.items()
        }
        self._pending[table].append(pa.table(encoded))
        days, counts = np.unique(frame["cell"].to_numpy(np.int64) // DAY_US, return_counts=True)
        self._days.update(dict(zip(days.tolist(), counts.tolist(), strict=True)))
        if sum(part.num_rows for part in self._pending[table]) >= FLUSH_ROWS:
            self._flush(table)

    def _flush(self, table: str) -> None:
        if self._pending[table]:
            rows = pa.concat_tables(self._pending[table], promote_options="default")
            self._files += 1
            path = self.folder / table / f"{self._files:06d}.parquet"
            write_table(path, rows.unify_dictionaries().sort_by("cell"))
            self._pending[table].clear()

    def windows(self) -> Iterator[tuple[int, int]]:
        """First cell and the one after the last (microseconds) of each window of whole days."""
        for table in _COLUMNS:
            self._flush(table)
        days = sorted(self._days)
        first, rows = 0, 0
        for place, day in enumerate(days):
            rows += self._days[day]
            if rows >= WINDOW_ROWS or place == len(days) - 1:
                yield days[first] * DAY_US, (day + 1) * DAY_US
                first, rows = place + 1, 0

    def read(self, table: str, window: tuple[int, int]) -> pd.DataFrame:
        """Rows of a table in a window, in the order in which they were added."""
        place = self.folder / table
        schema = pa.schema(_COLUMNS[table] | _COMMON)
        if not place.is_dir():
            return schema.empty_table().to_pandas()
        cell = ds.field("cell")
        chosen = (cell >= window[0]) & (cell < window[1])
        return ds.dataset(place, schema).to_table(filter=chosen).to_pandas()

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


def cells_of(times: pd.Series, interval_us: int, late_us: int) -> IntArray:
    """The first grid time at which each value is known (microseconds).

    Example:
        >>> times = pd.Series(pd.to_datetime(["2024-01-01T00:59:59Z", "2024-01-01T01:00Z"]))
        >>> cells_of(times, 3_600_000_000, 0).tolist()
        [1704070800000000, 1704070800000000]
    """
    micros = pd.DatetimeIndex(times).as_unit("us").asi8 - late_us
    return -(-micros // interval_us) * interval_us
