"""The canonical dataset: a folder of Parquet tables, read lazily by partition, written atomically.

Layout (``date``: UTC day of ``time``; ``bucket``: from the path, never recomputed)::

    dataset.json
    instruments.parquet
    index/date=2024-08-01/*.parquet                (marks alike)
    positions/date=2024-08-01/bucket=3/*.parquet   (balances and orders alike)
    accounts/bucket=3/*.parquet

Names come back as pandas categoricals (plain strings in the small tables ``instruments`` and
``index``), times as ``datetime64[us, UTC]``, null numbers as NaN. A time without a zone is UTC.

Example:
    >>> dataset = Dataset.open("build/datasets/crash")  # doctest: +SKIP
    >>> dataset.marks("2024-08-05", "2024-08-06")  # doctest: +SKIP
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.typing import NaTType

from backtest import tables
from backtest.dataset_writer import DatasetWriter, bucket_of
from backtest.errors import DataError
from backtest.layout import (
    MARKER_FILE,
    META_FILE,
    DatasetMeta,
    Part,
    all_parts,
    read_meta,
    table_parts,
)
from backtest.schema import TABLES


__all__ = ["Dataset", "DatasetMeta", "DatasetWriter", "Part", "TimeLike", "bucket_of", "utc"]

TimeLike = pd.Timestamp | NaTType | datetime | str
"""What the readers take as a time; NaT is a type only, it is refused."""
_PLAIN_NAMES = frozenset({"instruments", "index"})


def utc(time: TimeLike) -> pd.Timestamp:
    """The time as a UTC timestamp; a time without a zone is UTC."""
    stamp = pd.Timestamp(time)
    if not isinstance(stamp, pd.Timestamp):
        raise DataError(f"'{time}' is not a time")
    return stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")


class Dataset:
    """Lazy reader: every call opens only the partitions and columns that it needs."""

    def __init__(self, root: Path, meta: DatasetMeta) -> None:
        self.root = root
        self.meta = meta

    @classmethod
    def open(cls, path: str | Path) -> "Dataset":
        """Open a dataset folder; looks that the market tables are there and not empty.

        Raises:
            DataError: no dataset, an unfinished one, a missing table or an empty one.
        """
        root = Path(path)
        dataset = cls(root, read_meta(root))
        if (root / MARKER_FILE).exists():
            raise DataError(
                f"{root}: the last write was interrupted; run the command that wrote it again"
            )
        for name in ("instruments", "index", "marks"):
            dataset.require(name)
        for name in ("instruments", "index"):
            if not any(dataset.count_rows(part) for part in dataset.parts(name)):
                raise DataError(f"{root}: the dataset is empty: table '{name}' has no rows")
        return dataset

    def parts(
        self,
        table: str,
        first_date: str | None = None,
        last_date: str | None = None,
        bucket: int | None = None,
    ) -> list[Part]:
        """Files of a table between two dates (inclusive) and of one bucket; nothing is opened."""
        return list(table_parts(self.root, TABLES[table], first_date, last_date, bucket))

    def has(self, table: str) -> bool:
        """Whether the table has any file."""
        return next(table_parts(self.root, TABLES[table]), None) is not None

    def require(self, table: str) -> None:
        """Refuse a dataset without files of ``table``."""
        if not self.has(table):
            levels = "".join(f"/{level}=..." for level in TABLES[table].partitions)
            where = f"{table}{levels}/*.parquet" if levels else f"{table}.parquet"
            raise DataError(f"{self.root}: table '{table}' is missing (looked for {where})")

    def count_rows(self, part: Part) -> int:
        """Rows of one file, from its footer."""
        with tables.open_file(part.path) as file:
            return int(file.metadata.num_rows)

    def read_parts(
        self,
        table: str,
        parts: Iterable[Part],
        columns: Sequence[str] | None = None,
        with_source: bool = False,
    ) -> pd.DataFrame:
        """All rows of the given files; ``with_source`` adds ``_file`` and ``_row`` (0-based)."""
        loaded = (self._load(table, part, columns, with_source) for part in parts)
        return self._frame(table, list(loaded), columns, with_source)

    def instruments(
        self, columns: Sequence[str] | None = None, with_source: bool = False
    ) -> pd.DataFrame:
        """All instruments, one row each."""
        return self.read_parts("instruments", self.parts("instruments"), columns, with_source)

    def index(
        self,
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        columns: Sequence[str] | None = None,
        with_source: bool = False,
    ) -> pd.DataFrame:
        """Index prices in USD per unit between ``start`` and ``end``, both inclusive."""
        return self._between("index", start, end, columns, with_source)

    def currencies(self) -> list[str]:
        """Every currency that the index ever quotes, and USD, by name.

        The whole table, whatever the window: where a replay ends must not decide which
        currencies are unknown.
        """
        parts = self.parts("index")
        found = (self.read_parts("index", [part], ["currency"])["currency"] for part in parts)
        names = {str(name) for column in found for name in column.dropna().unique()}
        return sorted(names | {"USD"})

    def marks(
        self,
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        columns: Sequence[str] | None = None,
        with_source: bool = False,
    ) -> pd.DataFrame:
        """Mark rows between ``start`` and ``end``, both inclusive; only ``columns`` are read."""
        return self._between("marks", start, end, columns, with_source)

    def bucket_ids(self) -> list[int]:
        """Buckets that have any file, ascending, taken from the paths."""
        names = ("accounts", "balances", "positions", "orders")
        found = {part.bucket for name in names for part in table_parts(self.root, TABLES[name])}
        return sorted(bucket for bucket in found if bucket is not None)

    def snapshot_times(self) -> list[pd.Timestamp]:
        """Distinct times of balances and positions, ascending; reads the time column only."""
        self.require("balances")
        found: set[pd.Timestamp] = set()
        for table in ("balances", "positions"):
            for part in self.parts(table):
                found.update(map(utc, tables.distinct_times(part.path, TABLES[table])))
        return sorted(found)

    def accounts(
        self, bucket: int, columns: Sequence[str] | None = None, with_source: bool = False
    ) -> pd.DataFrame:
        """Accounts of one bucket."""
        self.require("accounts")
        parts = self.parts("accounts", bucket=bucket)
        return self.read_parts("accounts", parts, columns, with_source)

    def positions(
        self,
        time: TimeLike,
        bucket: int,
        columns: Sequence[str] | None = None,
        with_source: bool = False,
    ) -> pd.DataFrame:
        """Positions of one bucket in the snapshot at ``time`` (none: an empty frame)."""
        return self._between("positions", time, time, columns, with_source, bucket)

    def balances(
        self,
        time: TimeLike,
        bucket: int,
        columns: Sequence[str] | None = None,
        with_source: bool = False,
    ) -> pd.DataFrame:
        """Balances of one bucket in the snapshot at ``time``."""
        self.require("balances")
        return self._between("balances", time, time, columns, with_source, bucket)

    def orders(
        self,
        time: TimeLike,
        bucket: int,
        columns: Sequence[str] | None = None,
        with_source: bool = False,
    ) -> pd.DataFrame:
        """Open orders of one bucket in the snapshot at ``time`` (no such table: an empty frame)."""
        return self._between("orders", time, time, columns, with_source, bucket)

    def files(self) -> list[Path]:
        """All files of the dataset in a stable order."""
        return [self.root / META_FILE, *(part.path for part in all_parts(self.root))]

    def fingerprint(self) -> str:
        """SHA-256 over relative path, size and content hash of every file of the dataset."""
        digest = hashlib.sha256()
        for name, path in sorted((p.relative_to(self.root).as_posix(), p) for p in self.files()):
            with path.open("rb") as handle:
                content = hashlib.file_digest(handle, "sha256").hexdigest()
            digest.update(f"{name}\n{path.stat().st_size}\n{content}\n".encode())
        return digest.hexdigest()

    def _between(
        self,
        table: str,
        start: TimeLike | None,
        end: TimeLike | None,
        columns: Sequence[str] | None,
        with_source: bool,
        bucket: int | None = None,
    ) -> pd.DataFrame:
        first, last = (None if time is None else utc(time) for time in (start, end))
        read = columns
        if columns is not None and "time" not in columns:
            read = ["time", *columns]
        loaded: list[pa.Table] = []
        for part in self.parts(
            table,
            None if first is None else first.strftime("%Y-%m-%d"),
            None if last is None else last.strftime("%Y-%m-%d"),
            bucket,
        ):
            data = self._load(table, part, read, with_source)
            loaded.append(_inside(data, first, last))
        return self._frame(table, loaded, columns, with_source)

    def _load(
        self, table: str, part: Part, columns: Sequence[str] | None, with_source: bool
    ) -> pa.Table:
        data = tables.read_file(part.path, TABLES[table], columns)
        return tables.with_source(data, part.shown) if with_source else data

    def _frame(
        self,
        table: str,
        loaded: list[pa.Table],
        columns: Sequence[str] | None,
        with_source: bool,
    ) -> pd.DataFrame:
        none = tables.empty(TABLES[table], columns)
        loaded.append(tables.with_source(none, "") if with_source else none)
        try:
            data = pa.concat_tables(loaded, promote_options="default")
        except pa.ArrowException as error:
            raise DataError(
                f"{self.root}: files of table '{table}' disagree about an extra column: {error}"
            ) from error
        frame = tables.to_frame(data, plain_names=table in _PLAIN_NAMES)
        if columns is None:
            return frame
        extra = [tables.SOURCE_FILE, tables.SOURCE_ROW] if with_source else []
        missing = [name for name in columns if name not in frame.columns]
        if missing:
            raise DataError(f"{self.root}: table '{table}' has no column '{missing[0]}'")
        return frame.loc[:, [*columns, *extra]]


def _inside(data: pa.Table, first: pd.Timestamp | None, last: pd.Timestamp | None) -> pa.Table:
    """Rows with ``first <= time <= last``; the table itself where all rows are inside."""
    micros = tables.micros(data.column("time"))
    keep = np.ones(len(micros), bool)
    if first is not None:
        keep &= micros >= first.value // 1000
    if last is not None:
        keep &= micros <= last.value // 1000
    return data if keep.all() else data.filter(pa.array(keep))
