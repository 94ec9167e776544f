"""What a run is going to do: grid, snapshots, windows, instruments, segments, refused rows."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from backtest.config import RunConfig
from backtest.dataset import Dataset, utc
from backtest.errors import DataError
from backtest.market_window import MICROS, grid_times, micros, stamp
from backtest.model_records import Currencies
from backtest.row_rules import (
    Clean,
    clean_balances,
    clean_index,
    clean_instruments,
    clean_marks,
    clean_orders,
    clean_positions,
)
from backtest.schedule import load_rules
from backtest.set_rules import unit_switches_us


MAX_SEGMENTS = 64
OTHER_SEGMENT = "(other)"
UNKNOWN_SEGMENT = "(unknown)"


@dataclass(frozen=True)
class Window:
    """Consecutive grid times of one snapshot: positions ``first`` to ``stop`` of the grid."""

    number: int
    snapshot_us: int
    first: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """All that bucket tasks share; small and picklable.

    Fields:
        times_us: the grid; windows: how it is cut; snapshot_times_us: portfolios used.
        instruments: valid instruments; held: per snapshot the ids of instruments held.
        coins: coins that any account can hold; segments: labels in order.
        input_rows: per table rows in and quarantined; quarantined_counts: rows by table and
            reason; quarantined: first of these rows.
    """

    dataset: Path
    times_us: np.ndarray
    windows: list[Window]
    buckets: list[int]
    instruments: pd.DataFrame
    held: dict[int, list[str]]
    coins: list[str]
    currencies_known: list[str]
    segments: list[str]
    interval_seconds: float
    num_accounts: int
    input_rows: dict[str, dict[str, int]]
    quarantined_counts: dict[str, int]
    quarantined: list[dict[str, object]]

    @property
    def currencies(self) -> Currencies:
        """The currency axis of the run."""
        return Currencies(self.coins)


class _Quarantine:
    """Counts rows and keeps the first refused ones."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, int]] = {}
        self.reasons: Counter[str] = Counter()
        self.first: list[dict[str, object]] = []

    def keep(self, table: str, frame: pd.DataFrame, clean: Clean) -> pd.DataFrame:
        counts = self.rows.setdefault(table, {"in": 0, "quarantined": 0})
        counts["in"] += len(frame)
        counts["quarantined"] += len(clean.quarantined)
        self.reasons.update(f"{table}: {reason}" for reason in clean.quarantined["reason"])
        room = max(0, 1000 - len(self.first))
        self.first.extend(clean.quarantined.head(room).to_dict("records"))
        return clean.good

    def refuse_above(self, share: float, root: Path) -> None:
        for table, counts in self.rows.items():
            if counts["quarantined"] > share * counts["in"]:
                mine = [r for r in self.first if r["table"] == table][:3]
                shown = "; ".join(f"{r['file']} row {r['row']}: {r['reason']}" for r in mine)
                raise DataError(
                    f"{root}: table '{table}': {counts['quarantined']} of {counts['in']} rows are "
                    f"quarantined, more than replay.max_quarantined_share {share:g} ({shown})"
                )


def make_plan(config: RunConfig, dataset: Dataset) -> Plan:
    """Read what the whole run needs to know and refuse what cannot be replayed.

    Raises:
        DataError: no data, no snapshot at or before the start, too many bad rows.
        ConfigError: a schedule has no rules for the start.
    """
    replay, quarantine = config.replay, _Quarantine()
    start = utc(replay.start) if replay.start else utc(dataset.meta.first_time)
    end = utc(replay.end) if replay.end else utc(dataset.meta.last_time)
    interval = pd.Timedelta(replay.interval) if replay.interval else None
    interval_us = None if interval is None else int(interval.total_seconds() * MICROS)
    times = grid_times(dataset, start, end, interval_us)
    if not len(times):
        raise DataError(f"{dataset.root}: no index times between {start} and {end}")
    known = _snapshots(dataset, int(times[0]), int(times[-1]), replay.mode)
    times = times[times >= known[0]]
    schedules = [load_rules(chosen.file) for chosen in config.parameter_sets]
    for schedule in schedules:
        schedule.at(stamp(times[0]).to_pydatetime())
    switches = unit_switches_us(schedules)
    instruments = _instruments(dataset, quarantine)
    currencies_known = dataset.currencies()
    _index_rows(dataset, times, quarantine)
    _mark_rows(dataset, times, instruments, quarantine)
    buckets = dataset.bucket_ids()
    held, holders, coins = _portfolios(
        dataset, known, buckets, instruments, currencies_known, quarantine
    )
    quarantine.refuse_above(replay.max_quarantined_share, dataset.root)
    if not holders:
        raise DataError(f"{dataset.root}: no account has a portfolio at {stamp(known[0])}")
    step = interval.total_seconds() if interval is not None else dataset.meta.interval_seconds
    return Plan(
        dataset=dataset.root,
        times_us=times,
        windows=_windows(times, known, switches, config.engine.window_times),
        buckets=buckets,
        instruments=instruments,
        held=held,
        coins=coins,
        currencies_known=currencies_known,
        segments=_segments(dataset, buckets),
        interval_seconds=float(step),
        num_accounts=holders,
        input_rows=quarantine.rows,
        quarantined_counts=dict(sorted(quarantine.reasons.items())),
        quarantined=quarantine.first,
    )


def _snapshots(dataset: Dataset, first_us: int, last_us: int, mode: str) -> list[int]:
    times = dataset.snapshot_times()
    all_us = [int(x) for x in micros(pd.DatetimeIndex(times))]
    before = [t for t in all_us if t <= first_us]
    if not before:
        shown = times[0] if times else "none"
        raise DataError(
            f"{dataset.root}: no snapshot at or before the start {stamp(first_us)}; "
            f"the first one is {shown}"
        )
    if mode == "frozen":
        return [before[-1]]
    return [before[-1], *(t for t in all_us if first_us < t <= last_us)]


def _windows(
    times: np.ndarray, snapshots: list[int], switches: list[int], length: int
) -> list[Window]:
    """Windows of at most ``length`` times; none spans a snapshot or a switch of the units."""
    windows: list[Window] = []
    cuts = sorted({*snapshots, *(t for t in switches if t > times[0])})
    stops = [*cuts[1:], np.iinfo(np.int64).max]
    for cut, until in zip(cuts, stops, strict=True):
        snapshot = max(s for s in snapshots if s <= cut)
        first, stop = np.searchsorted(times, [max(cut, times[0]), until])
        number = len(windows)
        windows.extend(
            Window(number + k, snapshot, at, min(at + length, int(stop)))
            for k, at in enumerate(range(int(first), int(stop), length))
        )
    return windows


def _instruments(dataset: Dataset, quarantine: _Quarantine) -> pd.DataFrame:
    rows = dataset.instruments(with_source=True)
    good = quarantine.keep("instruments", rows, clean_instruments(rows))
    return good.sort_values("instrument_id", ignore_index=True)


def _days(times: np.ndarray) -> list[tuple[pd.Timestamp, pd.Timestamp]]:
    days = pd.date_range(stamp(times[0]).normalize(), stamp(times[-1]).normalize(), freq="D")
    last = pd.Timedelta(days=1) - pd.Timedelta(microseconds=1)
    return [(max(day, stamp(times[0])), min(day + last, stamp(times[-1]))) for day in days]


def _index_rows(dataset: Dataset, times: np.ndarray, quarantine: _Quarantine) -> None:
    for first, last in _days(times):
        rows = dataset.index(first, last, with_source=True)
        quarantine.keep("index", rows, clean_index(rows))


def _mark_rows(
    dataset: Dataset, times: np.ndarray, instruments: pd.DataFrame, quarantine: _Quarantine
) -> None:
    for first, last in _days(times):
        rows = dataset.marks(first, last, with_source=True)
        quarantine.keep("marks", rows, clean_marks(rows, instruments))


def _portfolios(
    dataset: Dataset,
    snapshots: list[int],
    buckets: list[int],
    instruments: pd.DataFrame,
    currencies: list[str],
    quarantine: _Quarantine,
) -> tuple[dict[int, list[str]], int, list[str]]:
    coin_of = instruments.set_index(instruments["instrument_id"].astype(str))["coin"].astype(str)
    held: dict[int, list[str]] = {}
    coins: set[str] = set()
    holders = 0
    for snapshot in snapshots:
        ids: set[str] = set()
        accounts = 0
        for bucket in buckets:
            rows = dataset.positions(stamp(snapshot), bucket, with_source=True)
            good = quarantine.keep("positions", rows, clean_positions(rows, instruments))
            ids.update(good["instrument_id"].astype(str).unique())
            rows = dataset.balances(stamp(snapshot), bucket, with_source=True)
            good = quarantine.keep("balances", rows, clean_balances(rows, currencies))
            coins.update(good["currency"].astype(str).unique())
            accounts += len(rows["account_id"].unique())
            rows = dataset.orders(stamp(snapshot), bucket, with_source=True)
            good = quarantine.keep("orders", rows, clean_orders(rows, instruments))
            ids.update(good["instrument_id"].astype(str).unique())
        held[snapshot] = sorted(ids)
        coins.update(coin_of.loc[sorted(ids)])
        holders = max(holders, accounts)
    ever_held = sorted({name for ids in held.values() for name in ids})
    settles = instruments.loc[instruments["instrument_id"].isin(ever_held)]
    coins.update(settles["settle"].astype(str))
    return held, holders, sorted(coins)


def _segments(dataset: Dataset, buckets: list[int]) -> list[str]:
    found: set[str] = set()
    for bucket in buckets:
        found.update(dataset.accounts(bucket, ["segment"])["segment"].astype(str).unique())
    names = sorted(found)
    if len(names) > MAX_SEGMENTS - 2:
        names = [*names[: MAX_SEGMENTS - 2], OTHER_SEGMENT]
    return [*names, UNKNOWN_SEGMENT]
