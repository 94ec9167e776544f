"""Reads a results folder: lazily, one parameter set at a time, large tables as a stream.

Knows files and columns of saved results only; nothing here needs the engine that wrote them.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from backtest.errors import ConfigError, DataError

from . import frames
from .rules import Charge, Levels, Step, read_charges, read_levels, read_steps


STATUSES = ("ok", "warning", "liquidation", "bankrupt", "no_requirement", "ineligible")
EVENTS = ("warning", "liquidation", "recovered", "bankrupt")
SUMMARY_COUNTS = ("accounts", "scored", "unpriced", "quarantined", *STATUSES, "episodes_started")
SUMMARY_SUMS = (
    "equity_usd",
    "adjusted_equity",
    "gross_notional_usd",
    "liquidated_notional_usd",
    "derivatives_mmr",
    "total_mmr",
    "total_imr",
)
"""Amounts of every margin model; the charges of a set stand beside them."""
_KEY = ["parameter_set", "segment", "time"]
_MERGE_ROWS = 1_000_000
_SINGLE = (
    "index",
    "parameter_paths",
    "reverse_stress",
    "reverse_stress_net",
    "impact_tipping",
    "liquidation_profile",
)
"""Tables of one file in ``report_data``."""


class Results:
    """Saved results of one run, read on demand.

    Example:
        >>> results = Results("runs/crash")              # doctest: +SKIP
        >>> results.set_names                            # doctest: +SKIP
        ['today', 'proposal']
        >>> results.accounts(["episodes"], "today")      # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.memo: dict[tuple[object, ...], Any] = {}
        """Derived tables that several parts of a report share."""
        if not self.path.is_dir():
            raise DataError(f"{self.path}: no such results folder")
        if not (self.path / "manifest.json").is_file():
            raise DataError(f"{self.path}: manifest.json is missing, so this is no results folder")

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What was run, on which data, with which versions."""
        file = self.path / "manifest.json"
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as e:
            raise DataError(f"{file}: not valid JSON: {e}") from e
        if not isinstance(manifest, dict) or not manifest.get("parameter_sets"):
            raise DataError(f"{file}: key 'parameter_sets' is missing or empty")
        return manifest

    @cached_property
    def set_names(self) -> list[str]:
        """Names of the parameter sets in the order of the configuration."""
        try:
            return [str(s["name"]) for s in self.manifest["parameter_sets"]]
        except (TypeError, KeyError) as e:
            raise DataError(f"{self.path / 'manifest.json'}: a parameter set has no 'name'") from e

    @property
    def has_details(self) -> bool:
        """Whether the rows that a report needs were saved."""
        replay = (self.manifest.get("config") or {}).get("replay") or {}
        return bool(replay.get("details", True))

    @property
    def named_champion(self) -> str | None:
        """The champion that the configuration names, None where it names none."""
        config = self.manifest.get("config") or {}
        section = config.get("report") or {}
        named = section.get("champion") or config.get("champion")
        return self.check_set(str(named)) if named else None

    @property
    def champion(self) -> str:
        """The set that others are compared with: named in the configuration, else the first."""
        return self.named_champion or self.set_names[0]

    @property
    def challengers(self) -> list[str]:
        """All sets but the champion, in order."""
        return [name for name in self.set_names if name != self.champion]

    def charges(self, parameter_set: str) -> tuple[Charge, ...]:
        """Charges of a parameter set in the order in which they add up."""
        return read_charges(self.entry(parameter_set), str(self.path / "manifest.json"))

    def levels(self, parameter_set: str) -> Levels:
        """Margin levels at which a parameter set warns, and ends an episode."""
        return read_levels(self.entry(parameter_set))

    def steps(self, parameter_set: str) -> tuple[Step, ...]:
        """Dated steps of a schedule; none for a set whose rules hold over the whole window."""
        return read_steps(self.entry(parameter_set), str(self.path / "manifest.json"))

    def model(self, parameter_set: str) -> str:
        """Name of a parameter set's margin model, empty where the run did not save it."""
        return str(self.entry(parameter_set).get("model") or "")

    def how(self, parameter_set: str) -> str:
        """How the charges of a set make up its margin, in one sentence; empty if not saved."""
        return str(self.entry(parameter_set).get("how") or "")

    def entry(self, parameter_set: str) -> dict[str, Any]:
        """What the manifest holds of a parameter set."""
        at = self.set_names.index(self.check_set(parameter_set))
        return self.manifest["parameter_sets"][at]

    @property
    def schedules(self) -> list[str]:
        """Sets whose rules change on dates, the champion first."""
        return [n for n in (self.champion, *self.challengers) if self.steps(n)]

    def alike(self, parameter_sets: Sequence[str]) -> list[list[str]]:
        """Sets grouped by equal charges, in order: only those may share a panel or a table."""
        groups: dict[tuple[Charge, ...], list[str]] = {}
        for name in parameter_sets:
            groups.setdefault(self.charges(name), []).append(name)
        return list(groups.values())

    @property
    def interval_seconds(self) -> float:
        """Seconds between two times of the replay."""
        replay = self.manifest.get("replay") or {}
        seconds = replay.get("interval_seconds")
        if not seconds:
            seconds = (self.manifest.get("dataset") or {}).get("interval_seconds")
        if not seconds:
            raise DataError(
                f"{self.path / 'manifest.json'}: key 'replay.interval_seconds' is missing"
            )
        return float(seconds)

    def check_set(self, name: str) -> str:
        """The name, if the run has such a parameter set."""
        if name not in self.set_names:
            known = ", ".join(repr(n) for n in self.set_names)
            raise ConfigError(f"{self.path}: no parameter set {name!r}; this run has {known}")
        return name

    def has(self, table: str) -> bool:
        """Whether the folder has files of a table.

        Tables: accounts, events, summary, traces, index, parameter_paths.
        """
        return bool(self._files(table))

    def files(self, table: str, parameter_set: str | None = None) -> list[Path]:
        """Parquet files of a table; of a set: those whose statistics do not exclude it."""
        found = self._files(table)
        if parameter_set is None:
            return found
        wanted = {"parameter_set": self.check_set(parameter_set)}
        return [file for file in found if _file_may_hold(file, wanted)]

    def summary(self, parameter_set: str | None = None) -> pd.DataFrame:
        """Counts and USD sums for each parameter set, segment and time, over all cells.

        Without a set: all sets, a charge null where the set has none of that name.
        """
        if parameter_set is None:
            parts = [self.summary(name) for name in self.set_names]
            return frames.ordered(pd.concat(parts, ignore_index=True), _KEY)
        key = ("summary", self.check_set(parameter_set))
        if key not in self.memo:
            self.memo[key] = self._read_summary(parameter_set)
        return self.memo[key]

    def accounts(
        self, columns: Sequence[str] | None = None, parameter_set: str | None = None
    ) -> pd.DataFrame:
        """One row for each parameter set and account; read only what is needed of a large run."""
        return self._frame("accounts", columns, parameter_set)

    def account_batches(
        self, columns: Sequence[str], parameter_set: str
    ) -> Iterator[pa.RecordBatch]:
        """The accounts of one set as a stream of record batches, names as plain strings."""
        yield from self._batches("accounts", columns, self.check_set(parameter_set))

    def events(
        self,
        columns: Sequence[str] | None = None,
        parameter_set: str | None = None,
        event: str | None = None,
    ) -> pd.DataFrame:
        """One row for each event, optionally of one set and one kind."""
        return self._frame("events", columns, parameter_set, event)

    def event_units(self, parameter_set: str) -> pd.DataFrame:
        """Charges of every risk unit at each liquidation event of a set, USD."""
        return self._frame("event_units", None, parameter_set)

    def traces(
        self, account_id: str | None = None, parameter_set: str | None = None
    ) -> pd.DataFrame:
        """Full paths of the accounts that the run was told to trace."""
        frame = self._frame("traces", None, parameter_set)
        if account_id is not None:
            frame = frames.rows(frame, frame["account_id"] == account_id)
        return frames.ordered(frame, ["parameter_set", "account_id", "time"])

    def index(self) -> pd.DataFrame:
        """Index prices of the replay: time, currency, usd (USD per unit)."""
        return self._frame("index", ["time", "currency", "usd"], None)

    def parameter_paths(self, parameter_set: str | None = None) -> pd.DataFrame:
        """Parameters that follow the market: parameter_set, time, key, value."""
        columns = ["parameter_set", "time", "key", "value"]
        frame = self._frame("parameter_paths", columns, parameter_set)
        return frames.ordered(frame, ["parameter_set", "key", "time"])

    def of_accounts(self, table: str, parameter_set: str, accounts: Sequence[str]) -> pd.DataFrame:
        """Rows of some accounts under one set, all columns; none where there is no such table."""
        if not self.has(table):
            return pd.DataFrame()
        wanted = pc.field("account_id").isin(list(accounts))
        batches = self._batches(table, None, self.check_set(parameter_set))
        mine = [batch.filter(wanted) for batch in batches]
        mine = [b for b in mine if b.num_rows]
        return _joined(mine) if mine else pd.DataFrame()

    def single(self, table: str) -> pd.DataFrame:
        """A table of one file in ``report_data``, all columns."""
        return self._frame(table, None, None)

    def simulated(self, table: str, parameter_set: str) -> pd.DataFrame:
        """A table of simulated liquidations: liquidated, liquidations, waterfall and others."""
        return self._frame(table, None, parameter_set)

    def _files(self, table: str) -> list[Path]:
        if table in _SINGLE:
            file = self.path / "report_data" / f"{table}.parquet"
            return [file] if file.is_file() else []
        return sorted((self.path / table).rglob("*.parquet"))

    def _read_summary(self, parameter_set: str) -> pd.DataFrame:
        charges = [c.name for c in self.charges(parameter_set)]
        sums = [*SUMMARY_COUNTS, *SUMMARY_SUMS, *charges]
        parts: list[pa.Table] = []
        rows = 0
        for batch in self._batches("summary", [*_KEY, *sums], parameter_set):
            parts.append(pa.Table.from_batches([batch]))
            rows += batch.num_rows
            if rows > _MERGE_ROWS:
                parts = [_merge(parts, sums)]
                rows = parts[0].num_rows
        frame = _merge(parts, sums).to_pandas() if parts else pd.DataFrame(columns=[*_KEY, *sums])
        return frames.ordered(frame, _KEY)

    def _frame(
        self,
        table: str,
        columns: Sequence[str] | None,
        parameter_set: str | None,
        event: str | None = None,
    ) -> pd.DataFrame:
        if parameter_set is not None:
            self.check_set(parameter_set)
        batches = list(self._batches(table, columns, parameter_set, event))
        return _joined(batches) if batches else self.empty(table, columns)

    def empty(self, table: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """No rows, but columns of the right types, of whichever file has them."""
        found: dict[str, pa.Field] = {}
        for file in self._need(table):
            schema = pq.read_schema(file)
            found |= {n: schema.field(n) for n in schema.names if n not in found}
            if columns is not None and found.keys() >= set(columns):
                break
        absent = set(columns or ()) - found.keys()
        if absent:
            raise DataError(f"{self.path / table}: missing column {', '.join(sorted(absent))}")
        wanted = pa.schema([found[name] for name in (columns or found)])
        batch = pa.RecordBatch.from_pylist([], schema=wanted)
        return pa.Table.from_batches([_plain(batch)]).to_pandas()

    def _need(self, table: str) -> list[Path]:
        files = self._files(table)
        if not files:
            single = f"report_data/{table}.parquet"
            where = single if table in _SINGLE else f"{table}/*.parquet"
            raise DataError(f"{self.path}: {where} is missing; run again to write it")
        return files

    def _batches(
        self,
        table: str,
        columns: Sequence[str] | None,
        parameter_set: str | None,
        event: str | None = None,
    ) -> Iterator[pa.RecordBatch]:
        filters = {"parameter_set": parameter_set, "event": event}
        wanted = {k: v for k, v in filters.items() if v is not None}
        for file in self._need(table):
            yield from _file_batches(file, columns, wanted)


def file_frame(
    file: Path, columns: Sequence[str] | None = None, parameter_set: str | None = None
) -> pd.DataFrame:
    """One file of a table as a frame, optionally the rows of one set; names as strings."""
    wanted = {} if parameter_set is None else {"parameter_set": parameter_set}
    batches = list(_file_batches(file, columns, wanted))
    schema = pq.read_schema(file)
    none = pa.RecordBatch.from_pylist([], schema=schema).select(list(columns or schema.names))
    return _joined(batches or [_plain(none)])


def _joined(batches: list[pa.RecordBatch]) -> pd.DataFrame:
    tables = [pa.Table.from_batches([b]) for b in batches]
    return pa.concat_tables(tables, promote_options="permissive").to_pandas()


def _file_batches(
    file: Path, columns: Sequence[str] | None, wanted: dict[str, str]
) -> Iterator[pa.RecordBatch]:
    """Batches of one file with the rows where every wanted column has its value."""
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as e:
        raise DataError(f"{file}: not a readable Parquet file: {e}") from e
    with parquet:
        names = list(columns) if columns is not None else parquet.schema_arrow.names
        has = set(parquet.schema_arrow.names)
        groups = [g for g in range(parquet.num_row_groups) if _may_hold(parquet, g, wanted)]
        absent = {*names, *wanted} - has
        if absent:
            # a file of another set may lack columns that only the wanted set has
            if has >= set(wanted) and not _holds(parquet, groups, wanted):
                return
            raise DataError(f"{file}: missing column {', '.join(sorted(absent))}")
        for batch in parquet.iter_batches(
            batch_size=262_144, row_groups=groups, columns=[*names, *(set(wanted) - set(names))]
        ):
            plain = _plain(batch)
            for column, value in wanted.items():
                plain = plain.filter(pc.field(column) == value)
            if plain.num_rows:
                yield plain.select(names)


def _holds(parquet: pq.ParquetFile, groups: list[int], wanted: dict[str, str]) -> bool:
    """Whether a row of the row groups has every wanted value."""
    if not wanted:
        return True
    for batch in parquet.iter_batches(row_groups=groups, columns=list(wanted)):
        plain = _plain(batch)
        for column, value in wanted.items():
            plain = plain.filter(pc.field(column) == value)
        if plain.num_rows:
            return True
    return False


def _file_may_hold(file: Path, wanted: dict[str, str]) -> bool:
    with pq.ParquetFile(file) as parquet:
        return any(_may_hold(parquet, g, wanted) for g in range(parquet.num_row_groups))


def _may_hold(parquet: pq.ParquetFile, group: int, wanted: dict[str, str]) -> bool:
    """False where the row group's statistics show that no row has the wanted value."""
    metadata = parquet.metadata.row_group(group)
    for i in range(metadata.num_columns):
        column = metadata.column(i)
        value = wanted.get(column.path_in_schema)
        stats = column.statistics
        if value is None or stats is None or not stats.has_min_max:
            continue
        low, high = (v.decode() if isinstance(v, bytes) else str(v) for v in (stats.min, stats.max))
        if not low <= value <= high:
            return False
    return True


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with names as strings, so that files join whatever their dictionaries."""
    columns = [
        c.dictionary_decode() if isinstance(c, pa.DictionaryArray) else c for c in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _merge(parts: Iterable[pa.Table], sums: list[str]) -> pa.Table:
    """Adds up rows of the same set, segment and time."""
    table = pa.concat_tables(parts, promote_options="permissive")
    merged = table.group_by(_KEY, use_threads=False).aggregate([(s, "sum") for s in sums])
    return merged.select([*_KEY, *(f"{s}_sum" for s in sums)]).rename_columns([*_KEY, *sums])
