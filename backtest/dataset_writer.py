"""Writing a canonical dataset: appendable, split by date and bucket, atomic file by file."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pandas as pd
import pyarrow as pa

from backtest import tables
from backtest.durable import write_bytes, write_table
from backtest.errors import ConfigError, DataError
from backtest.layout import (
    MARKER_FILE,
    META_FILE,
    DatasetMeta,
    all_parts,
    read_meta,
    table_parts,
)
from backtest.schema import SCHEMA_VERSION, TABLES, Table


if TYPE_CHECKING:
    from backtest.dataset import Dataset

FLUSH_ROWS = 2_000_000
DAY_US = 86_400_000_000
_ACCOUNT_TABLES = ("accounts", "positions", "balances", "orders")


def bucket_of(account_id: str, buckets: int) -> int:
    """Bucket of a new account: ``crc32(account_id) mod buckets``.

    Example:
        >>> bucket_of("123456789", 1000)
        262
    """
    return crc32(account_id.encode()) % buckets


class DatasetWriter:
    """Adds rows to the tables of a dataset; each method may be called any number of times.

    Rows are buffered and written as new files, one a partition, whenever ``FLUSH_ROWS`` rows have
    gathered; ``finish`` writes the rest and ``dataset.json``. A marker file tells readers about a
    write that was interrupted, and the next writer removes what that one had added.

    Example:
        >>> writer = DatasetWriter(root, "demo", 300, 8, "made up")  # doctest: +SKIP
        >>> writer.instruments(instruments)  # doctest: +SKIP
        >>> writer.index(index)  # doctest: +SKIP
        >>> writer.marks(marks)  # doctest: +SKIP
        >>> dataset = writer.finish()  # doctest: +SKIP
    """

    def __init__(
        self,
        root: str | Path,
        name: str,
        interval_seconds: int,
        buckets: int,
        source: str | dict[str, Any],
    ) -> None:
        self._start(Path(root), name, interval_seconds, buckets, source)
        if (self.root / META_FILE).exists():
            raise ConfigError(f"{self.root}: holds a dataset already; choose another folder")
        self._remove_unfinished()
        left = all_parts(self.root)
        if left:
            raise ConfigError(
                f"{self.root}: not empty ('{left[0].shown}'); choose another folder or empty it"
            )

    @classmethod
    def reopen(cls, root: str | Path, buckets: int | None = None) -> "DatasetWriter":
        """Go on with a finished dataset, for instance to add accounts to a market.

        Raises:
            ConfigError: ``buckets`` changes although accounts have been split already.
        """
        meta = read_meta(Path(root))
        writer = cls.__new__(cls)
        writer._start(Path(root), meta.name, meta.interval_seconds, meta.buckets, meta.source)
        writer._remove_unfinished()
        writer._times = [meta.first_time, meta.last_time]
        writer._extra = dict(meta.model_extra or {})
        if buckets is not None and buckets != meta.buckets:
            for table in _ACCOUNT_TABLES:
                part = next(table_parts(writer.root, TABLES[table]), None)
                if part is not None:
                    raise ConfigError(
                        f"{root}: buckets = {buckets}, but '{part.shown}' was split into "
                        f"{meta.buckets}; allowed: {meta.buckets}"
                    )
            writer.buckets = _checked_buckets(buckets)
        return writer

    def instruments(self, frame: pd.DataFrame) -> None:
        """Add instruments."""
        self._add("instruments", frame)

    def index(self, frame: pd.DataFrame) -> None:
        """Add index prices."""
        self._add("index", frame)

    def marks(self, frame: pd.DataFrame) -> None:
        """Add mark prices."""
        self._add("marks", frame)

    def accounts(self, frame: pd.DataFrame) -> None:
        """Add accounts."""
        self._add("accounts", frame)

    def positions(self, frame: pd.DataFrame) -> None:
        """Add positions of one or more snapshots."""
        self._add("positions", frame)

    def balances(self, frame: pd.DataFrame) -> None:
        """Add balances of one or more snapshots."""
        self._add("balances", frame)

    def orders(self, frame: pd.DataFrame) -> None:
        """Add open orders of one or more snapshots."""
        self._add("orders", frame)

    def finish(self) -> "Dataset":
        """Write what is buffered and ``dataset.json``; the dataset, opened.

        Raises:
            DataError: no instruments, index or marks have been written.
        """
        from backtest.dataset import Dataset  # the two modules know each other

        self._flush()
        if not self._times:
            raise DataError(f"{self.root}: the dataset is empty: table 'index' has no rows")
        meta = DatasetMeta(
            schema_version=SCHEMA_VERSION,
            name=self.name,
            interval_seconds=self.interval_seconds,
            first_time=min(self._times),
            last_time=max(self._times),
            buckets=self.buckets,
            source=self.source,
            **self._extra,
        )
        text = json.dumps(meta.model_dump(mode="json"), indent=2) + "\n"
        write_bytes(self.root / META_FILE, text.encode())
        (self.root / MARKER_FILE).unlink(missing_ok=True)
        return Dataset.open(self.root)

    def _start(
        self,
        root: Path,
        name: str,
        interval_seconds: int,
        buckets: int,
        source: str | dict[str, Any],
    ) -> None:
        self.root = root
        self.name = name
        self.interval_seconds = interval_seconds
        self.buckets = _checked_buckets(buckets)
        self.source = source
        self._times: list[datetime] = []
        self._extra: dict[str, Any] = {}
        self._pending: dict[tuple[str, str], list[pa.Table]] = {}
        self._pending_rows = 0
        self._next_number: dict[str, int] = {}

    def _remove_unfinished(self) -> None:
        marker = self.root / MARKER_FILE
        if marker.exists():
            kept = set(json.loads(marker.read_text()))
            for part in all_parts(self.root):
                if part.shown not in kept:
                    part.path.unlink()
            marker.unlink()

    def _mark_unfinished(self) -> None:
        marker = self.root / MARKER_FILE
        if not marker.exists():
            names = sorted(part.shown for part in all_parts(self.root))
            write_bytes(marker, json.dumps(names).encode())

    def _add(self, name: str, frame: pd.DataFrame) -> None:
        table = TABLES[name]
        data = tables.from_frame(frame, table)
        if data.num_rows == 0:
            return
        if name == "index":
            micros = tables.micros(_required(data, "time", table))
            self._times += [_instant(micros.min()), _instant(micros.max())]
        for folder, rows in self._split(data, table):
            self._pending.setdefault((name, folder), []).append(rows)
        self._pending_rows += data.num_rows
        if self._pending_rows >= FLUSH_ROWS:
            self._flush()

    def _split(self, data: pa.Table, table: Table) -> Iterable[tuple[str, pa.Table]]:
        """The rows of each partition folder, in their order."""
        if not table.partitions:
            return [("", data)]
        labels: list[list[str]] = []
        codes = np.zeros(data.num_rows, np.int64)
        for level in table.partitions:
            values, level_codes = (
                _day_codes(data, table) if level == "date" else self._bucket_codes(data, table)
            )
            labels.append([f"{level}={value}" for value in values])
            codes = codes * len(values) + level_codes
        order = np.argsort(codes, kind="stable")
        present, starts = np.unique(codes[order], return_index=True)
        ends = np.append(starts[1:], len(codes))
        if len(present) > 1:
            data = data.take(pa.array(order))
        return [
            (_folder(int(code), labels), data.slice(start, end - start))
            for code, start, end in zip(present, starts, ends, strict=True)
        ]

    def _bucket_codes(self, data: pa.Table, table: Table) -> tuple[list[int], np.ndarray]:
        ids = _required(data, "account_id", table).combine_chunks().dictionary_encode()
        names = ids.dictionary.to_pylist()
        buckets = self.buckets
        of_name = np.array([crc32(name.encode()) % buckets for name in names], np.int64)
        return list(range(buckets)), of_name[ids.indices.to_numpy()]

    def _flush(self) -> None:
        if self._pending:
            self._mark_unfinished()
        for (name, folder), rows in self._pending.items():
            data = pa.concat_tables(rows, promote_options="default")
            self._write(name, folder, tables.encode_names(data, TABLES[name]))
        self._pending.clear()
        self._pending_rows = 0

    def _write(self, name: str, folder: str, data: pa.Table) -> None:
        if not TABLES[name].partitions:
            path = self.root / f"{name}.parquet"
            if path.exists():
                old = tables.read_file(path, TABLES[name])
                data = pa.concat_tables([old, data], promote_options="default")
                data = data.unify_dictionaries().combine_chunks()
            write_table(path, data)
            return
        place = self.root / name / folder
        key = f"{name}/{folder}"
        number = self._next_number.get(key, 0)
        while (place / f"part-{number:05d}.parquet").exists():
            number += 1
        write_table(place / f"part-{number:05d}.parquet", data)
        self._next_number[key] = number + 1


def _checked_buckets(buckets: int) -> int:
    if buckets < 1:
        raise ConfigError(f"buckets = {buckets}; allowed: 1 or more")
    return buckets


def _folder(code: int, labels: list[list[str]]) -> str:
    names: list[str] = []
    for values in reversed(labels):
        code, place = divmod(code, len(values))
        names.append(values[place])
    return "/".join(reversed(names))


def _required(data: pa.Table, column: str, table: Table) -> pa.ChunkedArray:
    values = data.column(column)
    if values.null_count:
        raise DataError(f"table {table.name}: column '{column}' has {values.null_count} nulls")
    return values


def _day_codes(data: pa.Table, table: Table) -> tuple[list[str], np.ndarray]:
    days = tables.micros(_required(data, "time", table)) // DAY_US
    first = days.min()
    if first == days.max():
        return [_instant(first * DAY_US).strftime("%Y-%m-%d")], np.zeros(len(days), np.int64)
    present, codes = np.unique(days, return_inverse=True)
    return [_instant(day * DAY_US).strftime("%Y-%m-%d") for day in present], codes


def _instant(micros: np.int64) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(micros))
