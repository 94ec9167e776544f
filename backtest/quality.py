"""Quality of a whole dataset: what is quarantined, what is missing, what is in it.

The row checks themselves are in ``backtest.row_rules`` and are offered here too.

Example:
    >>> report = check(Dataset.open("build/datasets/crash"))  # doctest: +SKIP
    >>> report.quarantined  # doctest: +SKIP
    0
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from backtest.dataset import Dataset, utc
from backtest.layout import Part
from backtest.row_rules import (
    QUARANTINE_COLUMNS,
    REASONS,
    Clean,
    clean_accounts,
    clean_balances,
    clean_index,
    clean_instruments,
    clean_marks,
    clean_orders,
    clean_positions,
    cleaner,
    describe_rows,
)
from backtest.schema import TABLES
from backtest.snapshot_times import unpaired_snapshots
from backtest.tables import read_file


__all__ = [
    "QUARANTINE_COLUMNS",
    "REASONS",
    "CheckReport",
    "Clean",
    "Description",
    "check",
    "clean_accounts",
    "clean_balances",
    "clean_index",
    "clean_instruments",
    "clean_marks",
    "clean_orders",
    "clean_positions",
    "describe",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_ROWS = 5
_MOST_GAPS = 20
_MOST_NAMES = 20


@dataclass(frozen=True)
class Gap:
    """Grid times missing between two times that are there."""

    after: str
    before: str
    missing_times: int


@dataclass
class CheckReport:
    """Findings of ``check``; only quarantined rows are errors, the rest informs.

    ``coverage`` is the share of the grid's times with a row: a currency's over the whole grid, an
    instrument's between its listing and its expiry; the lowest ones are listed.
    """

    rows: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    first_rows: list[dict[str, Any]] = field(default_factory=list)
    grid_times: int = 0
    missing_grid_times: int = 0
    gaps: list[Gap] = field(default_factory=list)
    coverage: dict[str, float] = field(default_factory=dict)
    lowest_coverage: dict[str, float] = field(default_factory=dict)
    option_rows_without_volatility: int = 0
    options_without_volatility: list[str] = field(default_factory=list)
    expired_positions: int = 0
    first_expired_positions: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def quarantined(self) -> int:
        """Quarantined rows of all tables."""
        return sum(count for reasons in self.reasons.values() for count in reasons.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"quarantined": self.quarantined, **asdict(self)}

    def add(self, table: str, clean: Clean) -> None:
        """Count the rows of one check and keep the first quarantined ones of each reason."""
        self.rows[table] = self.rows.get(table, 0) + len(clean.good) + len(clean.quarantined)
        counts = self.reasons.setdefault(table, {})
        for reason, rows in clean.quarantined.groupby("reason", sort=False):
            known = counts.get(str(reason), 0)
            counts[str(reason)] = known + len(rows)
            self.first_rows.extend(_records(rows.head(max(_FIRST_ROWS - known, 0))))


@dataclass(frozen=True)
class Description:
    """What is in a dataset; sizes in bytes, times in UTC."""

    name: str
    source: str | dict[str, Any]
    interval_seconds: int
    first_time: str
    last_time: str
    buckets: int
    rows: dict[str, int]
    bytes: dict[str, int]
    files: dict[str, int]
    currencies: list[str]
    coins: list[str]
    instruments_by_kind: dict[str, int]
    accounts: int
    snapshots: list[str]

    @property
    def total_bytes(self) -> int:
        """Size on disk of all tables."""
        return sum(self.bytes.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "total_bytes": self.total_bytes}


def describe(dataset: Dataset) -> Description:
    """Rows, time span, coins, instruments, accounts, snapshots and size; reads little."""
    rows: dict[str, int] = {}
    size: dict[str, int] = {}
    files: dict[str, int] = {}
    for table in TABLES:
        parts = dataset.parts(table)
        rows[table] = sum(dataset.count_rows(part) for part in parts)
        size[table] = sum(part.path.stat().st_size for part in parts)
        files[table] = len(parts)
    instruments = dataset.instruments()
    kinds = instruments["kind"].value_counts()
    meta = dataset.meta
    return Description(
        name=meta.name,
        source=meta.source,
        interval_seconds=meta.interval_seconds,
        first_time=_iso(meta.first_time),
        last_time=_iso(meta.last_time),
        buckets=meta.buckets,
        rows=rows,
        bytes=size,
        files=files,
        currencies=_currencies(dataset),
        coins=sorted(str(coin) for coin in instruments["coin"].dropna().unique()),
        instruments_by_kind={str(kind): int(count) for kind, count in kinds.items()},
        accounts=rows["accounts"],
        snapshots=[_iso(t) for t in dataset.snapshot_times()] if dataset.has("balances") else [],
    )


def check(dataset: Dataset) -> CheckReport:
    """Check every row of every table, partition by partition, and the market for gaps."""
    report = CheckReport()
    clean = clean_instruments(dataset.instruments(with_source=True))
    report.add("instruments", clean)
    currencies = _check_market(dataset, clean.good, report)
    for table in ("accounts", "balances", "positions", "orders"):
        outside = 0
        for part, frame in _partitions(dataset, table):
            rows = cleaner(table, clean.good, currencies)(frame)
            report.add(table, rows)
            outside += _outside(frame, part)
            if table == "positions":
                _count_expired(rows.good, clean.good, report)
        _warn_outside(table, outside, report)
    if dataset.has("accounts") or dataset.has("balances"):
        _check_accounts(dataset, report)
        report.warnings += unpaired_snapshots(dataset)
    else:
        report.warnings.append("no accounts: a market only")
    return report


def _partitions(dataset: Dataset, table: str) -> Iterator[tuple[Part, pd.DataFrame]]:
    """Rows with their source, one partition at a time."""
    parts = dataset.parts(table)
    for _, group in groupby(parts, key=lambda part: (part.date, part.bucket)):
        files = list(group)
        yield files[0], dataset.read_parts(table, files, with_source=True)


def _outside(frame: pd.DataFrame, part: Part) -> int:
    """Rows whose UTC day is not the folder's; readers by time would not find them."""
    if part.date is None:
        return 0
    first = pd.Timestamp(part.date, tz="UTC")
    time = pd.Series(frame["time"])
    wrong = (time < first) | (time >= first + pd.Timedelta(days=1))
    return int(np.count_nonzero(wrong))


def _warn_outside(table: str, outside: int, report: CheckReport) -> None:
    if outside:
        report.warnings.append(f"{outside} rows of '{table}' lie in the folder of another date")


# -- market ----------------------------------------------------------------------------------------


def _check_market(dataset: Dataset, instruments: pd.DataFrame, report: CheckReport) -> list[str]:
    """Check index and marks; the currencies with a good index row."""
    grid: set[int] = set()
    counts: dict[str, Counter[str]] = {"index": Counter(), "marks": Counter()}
    without: Counter[str] = Counter()
    options = set(instruments.loc[instruments["kind"] == "option", "instrument_id"])
    for table, name in (("index", "currency"), ("marks", "instrument_id")):
        outside = 0
        for part, frame in _partitions(dataset, table):
            clean = cleaner(table, instruments, ())(frame)
            report.add(table, clean)
            grid.update(_micros(clean.good).tolist())
            counts[table].update(_counts(clean.good, name))
            outside += _outside(frame, part)
            if table == "marks":
                without.update(_without_volatility(clean.good, options))
        _warn_outside(table, outside, report)
    times = np.array(sorted(grid), np.int64)
    report.option_rows_without_volatility = without.total()
    report.options_without_volatility = sorted(without)[:_MOST_NAMES]
    _check_grid(times, dataset, report)
    _check_coverage(times, counts, instruments, report)
    return sorted(counts["index"])


def _without_volatility(good: pd.DataFrame, options: set[str]) -> dict[str, int]:
    lacking = good[good["mark_iv"].isna() | good["forward"].isna()]
    return {
        k: n for k, n in _counts(pd.DataFrame(lacking), "instrument_id").items() if k in options
    }


def _check_grid(times: np.ndarray, dataset: Dataset, report: CheckReport) -> None:
    step = dataset.meta.interval_seconds * 1_000_000
    report.grid_times = len(times)
    if len(times) == 0:
        report.warnings.append("the market has no good row")
        return
    for key, stated, found in (
        ("first_time", dataset.meta.first_time, times[0]),
        ("last_time", dataset.meta.last_time, times[-1]),
    ):
        if _iso(stated) != _iso_micros(found):
            report.warnings.append(
                f"dataset.json: '{key}' is {_iso(stated)}, the market's is {_iso_micros(found)}"
            )
    off = int(((times - times[0]) % step != 0).sum())
    if off:
        report.warnings.append(f"{off} grid times are off the interval of {step // 1_000_000} s")
    missing = np.diff(times) // step - 1
    places = np.flatnonzero(missing > 0)
    report.missing_grid_times = int(missing[places].sum())
    report.gaps = [
        Gap(_iso_micros(times[p]), _iso_micros(times[p + 1]), int(missing[p]))
        for p in places[:_MOST_GAPS]
    ]


def _check_coverage(
    times: np.ndarray,
    counts: dict[str, Counter[str]],
    instruments: pd.DataFrame,
    report: CheckReport,
) -> None:
    if len(times) == 0:
        return
    covered = {f"index {name}": n / len(times) for name, n in counts["index"].items()}
    report.coverage["index"] = float(np.mean(list(covered.values()))) if covered else 0.0
    first = _bounds(pd.Series(instruments["listed"]), times, 0)
    last = _bounds(pd.Series(instruments["expiry"]), times, len(times))
    for kind in ("perpetual", "future", "option"):
        shares: list[float] = []
        for place in np.flatnonzero((instruments["kind"] == kind) & (last > first)):
            name = str(instruments["instrument_id"].iloc[place])
            shares.append(min(counts["marks"][name] / (last[place] - first[place]), 1.0))
            covered[f"marks {name}"] = shares[-1]
        if shares:
            report.coverage[f"marks of {kind}s"] = float(np.mean(shares))
    lowest = sorted((share, name) for name, share in covered.items() if share < 1.0)
    report.lowest_coverage = {name: share for share, name in lowest[:_MOST_NAMES]}


def _bounds(when: pd.Series, times: np.ndarray, otherwise: int) -> np.ndarray:
    """Place of each time in the grid, ``otherwise`` where it is null."""
    micros = when.dt.as_unit("us").astype("int64").to_numpy()
    return np.where(when.isna(), otherwise, np.searchsorted(times, micros))


# -- accounts --------------------------------------------------------------------------------------


def _count_expired(good: pd.DataFrame, instruments: pd.DataFrame, report: CheckReport) -> None:
    """Positions whose instrument had expired by the time of the snapshot."""
    expiry = instruments.set_index("instrument_id")["expiry"]
    names = good["instrument_id"].astype("category").cat.remove_unused_categories()
    of_name = expiry.reindex(names.cat.categories).reset_index(drop=True)
    when = of_name.take(names.cat.codes.to_numpy()).reset_index(drop=True)
    expired = pd.DataFrame(good[(when <= good["time"]).to_numpy()])
    report.expired_positions += len(expired)
    wanted = _FIRST_ROWS - len(report.first_expired_positions)
    if len(expired) and wanted > 0:
        first = expired.head(wanted)
        rows = describe_rows("positions", first, np.arange(len(first)))
        report.first_expired_positions.extend(_records(rows))


def _check_accounts(dataset: Dataset, report: CheckReport) -> None:
    """Whether every account that holds anything is in ``accounts``, and in one bucket only."""
    hashes: list[np.ndarray] = []
    lacking: Counter[str] = Counter()
    unnamed: str | None = None
    for bucket in dataset.bucket_ids():
        known = _ids(dataset, "accounts", bucket)
        everyone = set(known)
        for table in ("balances", "positions", "orders"):
            held = _ids(dataset, table, bucket)
            everyone |= held
            lacking[table] += len(held - known)
            unnamed = unnamed or next(iter(sorted(held - known)), None)
        hashes.append(np.fromiter(map(hash, everyone), np.int64, len(everyone)))
    together = np.sort(np.concatenate(hashes)) if hashes else np.array([], np.int64)
    split = int(np.count_nonzero(np.diff(together) == 0))
    if split:
        report.warnings.append(f"{split} accounts lie in more than one bucket")
    for table, count in lacking.items():
        if count:
            report.warnings.append(
                f"{count} accounts of '{table}' have no row in 'accounts' (for instance {unnamed})"
            )


def _ids(dataset: Dataset, table: str, bucket: int) -> set[str]:
    found: set[str] = set()
    for part in dataset.parts(table, bucket=bucket):
        names = read_file(part.path, TABLES[table], ["account_id"]).column("account_id")
        found.update(names.cast(pa.string()).drop_null().unique().to_pylist())
    return found


# -- helpers ---------------------------------------------------------------------------------------


def _counts(frame: pd.DataFrame, name: str) -> dict[str, int]:
    counted = frame[name].value_counts()
    return {str(name): int(count) for name, count in counted.items() if count}


def _currencies(dataset: Dataset) -> list[str]:
    found: set[str] = set()
    for part in dataset.parts("index"):
        names = dataset.read_parts("index", [part], ["currency"])["currency"]
        found.update(str(name) for name in names.dropna().unique())
    return sorted(found)


def _micros(frame: pd.DataFrame) -> np.ndarray:
    return np.unique(frame["time"].astype("int64").to_numpy())


def _iso(time: datetime) -> str:
    return utc(time).isoformat().replace("+00:00", "Z")


def _iso_micros(micros: Any) -> str:
    return _iso(EPOCH + timedelta(microseconds=int(micros)))


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]
