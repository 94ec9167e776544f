"""Replay of one bucket: windows in order, every parameter set, one cell after the other."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from backtest.account_state import Carryover, Roll
from backtest.bare_rows import bare_accounts
from backtest.batching import Batch, Snapshot, Terms
from backtest.cells import Cell, CellStore, safe_name
from backtest.config import RunConfig
from backtest.dataset import Dataset
from backtest.durable import write_table
from backtest.engine import Engine
from backtest.liquidation_rules import hedging_perpetuals, rules_of_sets
from backtest.loading import Loaded, Loader
from backtest.market_window import MICROS, MarketSource, MarketWindow
from backtest.model_records import Currencies, contract_records
from backtest.moves import NOTHING, Moves, moved_market
from backtest.plan import Plan, Window
from backtest.portfolio_at import MarketView
from backtest.result_rows import account_table
from backtest.self_check import check_accounts
from backtest.set_rules import SetRules
from backtest.set_window import SetWindow
from backtest.simulate import (
    Simulator,
)
from backtest.what_if import terms_of
from backtest.window_records import SetTables, TileResult, WindowTables, are_alike
from kernels.records import Contract


CACHE_BYTES = 1_500_000_000
MOST_TOGETHER = 8
"""Parameter sets that are replayed together; of more, a block would hold too few accounts."""
MICROS_PER_HOUR = 3600 * MICROS


@dataclass(frozen=True)
class _Axis:
    """Instrument axis of one snapshot and everything static on it."""

    instruments: pd.DataFrame
    contracts: Contract
    terms: Terms
    source: MarketSource


class ReplayContext:
    """Shared by the buckets that one process replays: programs, parameters, priced windows.

    ``moves`` are what liquidations have moved prices by, of each parameter set; none if absent.
    """

    def __init__(
        self, config: RunConfig, plan: Plan, out: Path, moves: Sequence[Moves] = ()
    ) -> None:
        self.config, self.plan, self.out = config, plan, out
        self.moves = list(moves) or [NOTHING] * len(config.parameter_sets)
        self.dataset = Dataset.open(plan.dataset)
        self.currencies: Currencies = plan.currencies
        self.engine = Engine(
            precision=config.engine.precision,
            tile_accounts=config.engine.tile_accounts,
            num_segments=len(plan.segments),
            multipliers=config.replay.break_even,
        )
        self.rules = [
            SetRules(s.name, s.file, self.currencies, self.dataset, plan.times_us)
            for s in config.parameter_sets
        ]
        self.set_names = [rules.name for rules in self.rules]
        numbers = rules_of_sets(config)
        self.simulators = [Simulator(self, s, each) for s, each in enumerate(numbers)]
        staleness = pd.Timedelta(config.replay.max_staleness)
        self.max_staleness_us = int(staleness.total_seconds() * MICROS)
        self._lock = threading.RLock()
        self._axes: dict[int, _Axis] = {}
        self._priced: OrderedDict[int, list[WindowTables]] = OrderedDict()
        self._together: dict[tuple[int, tuple[int, ...]], SetTables] = {}
        self._first_markets: dict[int, list[MarketWindow]] = {}
        self._start_prices: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._checked: set[Any] = set()

    def axis(self, snapshot_us: int) -> _Axis:
        """Instruments held at a snapshot."""
        with self._lock:
            if snapshot_us not in self._axes:
                every = self.plan.instruments
                names = every["instrument_id"].astype(str).to_numpy()
                held = np.isin(names, self.plan.held[snapshot_us])
                if self.simulators:
                    held |= hedging_perpetuals(every, held)
                instruments = every.take(np.flatnonzero(held)).reset_index(drop=True)
                contracts = contract_records(instruments, self.currencies)
                source = MarketSource(
                    dataset=self.dataset,
                    instruments=instruments,
                    all_instruments=every,
                    currencies=self.currencies,
                    snapshot_us=snapshot_us,
                    max_staleness_us=self.max_staleness_us,
                    with_funding=self.config.replay.funding,
                )
                self._axes[snapshot_us] = _Axis(instruments, contracts, terms_of(contracts), source)
            return self._axes[snapshot_us]

    def priced(self, window: Window) -> list[WindowTables]:
        """Priced tables of a window for every set; its times padded to the window length."""
        with self._lock:
            if window.number in self._priced:
                self._priced.move_to_end(window.number)
                return self._priced[window.number]
            axis = self.axis(window.snapshot_us)
            ids = self.time_ids(window)
            market = axis.source.window(self.plan.times_us[ids[ids >= 0]])
            markets = [
                moved_market(market, moves, axis.instruments, self.currencies)
                for moves in self.moves
            ]
            found: dict[int, WindowTables] = {}
            for one in {id(each): each for each in markets}.values():
                sets = [s for s, each in enumerate(markets) if each is one]
                found |= dict(zip(sets, self._price(window, one, sets), strict=True))
            priced = [found[s] for s in range(len(markets))]
            self._priced[window.number] = priced
            self._first_markets[window.number] = [_first_time(each) for each in markets]
            while len(self._priced) > 1 and self._cached_bytes() > CACHE_BYTES:
                number, _ = self._priced.popitem(last=False)
                del self._first_markets[number]
                for key in [key for key in self._together if key[0] == number]:
                    del self._together[key]
            return priced

    def groups(self, window: Window, sets: list[int]) -> list[list[int]]:
        """Some sets in groups that can be replayed together over a window."""
        priced, found = self.priced(window), list[list[int]]()
        time_us = int(self.plan.times_us[window.first])

        def kind(s: int) -> tuple[bool, str]:
            return self.rules[s].is_split(time_us), self.moves_until(s, window)

        for s in sets:
            for group in found:
                is_open = len(group) < MOST_TOGETHER and kind(s) == kind(group[0])
                if is_open and are_alike([priced[group[0]], priced[s]]):
                    group.append(s)
                    break
            else:
                found.append([s])
        return found

    def together(self, window: Window, group: list[int]) -> SetTables:
        """Priced tables of a window for a group of sets."""
        with self._lock:
            key = window.number, tuple(group)
            if key not in self._together:
                priced = self.priced(window)
                self._together[key] = self.engine.together([priced[s] for s in group])
            return self._together[key]

    def start_prices(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Features and USD of currencies at a window's first time, before any liquidation.

        Those of ``Table`` without its times; what liquidations move is not in them.
        """
        with self._lock:
            if window.number not in self._start_prices:
                if any(self.moves_until(s, window) for s in range(len(self.rules))):
                    ids = self.time_ids(window)
                    source = self.axis(window.snapshot_us).source
                    market = source.window(self.plan.times_us[ids[ids >= 0]])
                    tables = self._price(window, market, [0])[0].tables
                else:
                    tables = self.priced(window)[0].tables
                self._start_prices[window.number] = (
                    np.asarray(tables.features[..., 0]),
                    np.asarray(tables.currency_usd[..., 0]),
                )
            return self._start_prices[window.number]

    def moves_until(self, s: int, window: Window) -> str:
        """Name of the moves of a set's prices that decide on a window's cells."""
        return self.moves[s].name(int(self.plan.times_us[window.stop - 1]))

    def _price(self, window: Window, market: MarketWindow, sets: list[int]) -> list[WindowTables]:
        """Tables of some sets on one market; its times padded to the window length."""
        ids = self.time_ids(window)
        times = self.plan.times_us[np.where(ids < 0, window.stop - 1, ids)]
        records = [self.rules[s].records(times) for s in sets]
        contracts = self.axis(window.snapshot_us).contracts
        return self.engine.price(_pad_times(market, len(ids)), contracts, records)

    def check_once(
        self, s: int, window: Window, batch: Batch, result: TileResult, snapshot: Snapshot
    ) -> None:
        """Compare the first tile of each set and shape class with the reference.

        Raises:
            RunError: this device or library computes something else.
        """
        key = s, batch.shape, batch.book.shares_coins
        with self._lock:
            if key in self._checked:
                return
            self._checked.add(key)
            self.priced(window)
            market = self._first_markets[window.number][s]
        view = MarketView(market, self.axis(window.snapshot_us).instruments, self.currencies.names)
        numbers = self.rules[s].numbers_at(int(self.plan.times_us[window.first]))
        check_accounts(batch, result, snapshot, view, numbers, self.config.engine.precision)

    def _cached_bytes(self) -> int:
        tables = [w.tables for priced in self._priced.values() for w in priced]
        tables += [group.tables for group in self._together.values()]
        # Sets share arrays: each counts once.
        return sum({id(x): x.nbytes for x in jax.tree.leaves(tables)}.values())

    def first_window(self, snapshot_us: int) -> Window:
        """The window in which the portfolios of a snapshot begin."""
        return next(w for w in self.plan.windows if w.snapshot_us == snapshot_us)

    @property
    def moves_debts(self) -> bool:
        """Whether debts move anything."""
        return self.config.replay.interest or self.config.replay.conversion

    def time_ids(self, window: Window) -> np.ndarray:
        """Grid positions of a window's times, padded with -1 to the window length."""
        ids = np.full(self.config.engine.window_times, -1)
        ids[: window.stop - window.first] = np.arange(window.first, window.stop)
        return ids

    def hours(self, window: Window) -> np.ndarray:
        """Full hours that pay interest before each time; from the snapshot on, as funding."""
        hours = np.zeros(self.config.engine.window_times)
        if self.config.replay.interest:
            times = self.plan.times_us[window.first : window.stop]
            last = self.plan.windows[window.number - 1] if window.number else window
            is_first = not window.number or last.snapshot_us != window.snapshot_us
            since = window.snapshot_us if is_first else self.plan.times_us[window.first - 1]
            hours[: len(times)] = np.diff(np.concatenate([[since], times]) // MICROS_PER_HOUR)
        return hours


def _first_time(market: MarketWindow) -> MarketWindow:
    return MarketWindow(**{k: v[:1] for k, v in market.__dict__.items()})


def _pad_times(market: Any, length: int) -> Any:
    def pad(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.repeat(x[-1:], length - len(x), axis=0)])

    return type(market)(**{k: pad(v) for k, v in market.__dict__.items()})


class BucketReplay:
    """Replays one bucket; reuses the cells that an earlier run finished."""

    def __init__(
        self,
        context: ReplayContext,
        bucket: int,
        loader: Loader | None = None,
        next_bucket: int | None = None,
    ) -> None:
        self.context, self.bucket = context, bucket
        self.plan, self.config = context.plan, context.config
        self.cells = CellStore(context.out)
        self.loader, self.next_bucket = loader or Loader(context), next_bucket
        self.stages = self.loader.stages
        self._loaded: Loaded | None = None
        self._roll = Roll()

    def run(self, on_cell: Any = None) -> dict[str, Any]:
        """Compute the missing cells and write this bucket's account files."""
        num_sets = len(self.context.rules)
        carried = [self._carryover(s) for s in range(num_sets)]
        computed = reused = 0
        rows = dict.fromkeys(("in", "scored", "unpriced", "quarantined"), 0)
        unpriced: Counter[str] = Counter()
        left_out = settled = 0
        for window in self.plan.windows:
            finished = self._finished_before(window)
            missing = [s for s in range(num_sets) if s not in finished]
            reused += len(finished)
            computed += len(missing)
            finished |= self._computed(missing, window, carried)
            for s in range(num_sets):
                cell = finished[s]
                carried[s].take_in(cell)
                settled += int(cell.extra["settled"])
                if s == 0:
                    left_out = max(left_out, int(cell.extra["left_out"]))
                    names, times = cell.extra["unpriced_ids"], cell.extra["unpriced_times"]
                    unpriced.update(dict(zip(names.tolist(), times.tolist(), strict=True)))
                for name in rows:
                    rows[name] += cell.counts[name]
            if on_cell is not None:
                times = window.stop - window.first
                on_cell(num_sets, sum(len(c.accounts) for c in finished.values()) * times)
        for s, each in enumerate(carried):
            with self.stages("write"):
                self._write_accounts(s, each.whole())
        return {
            "bucket": self.bucket,
            "computed": computed,
            "reused": reused,
            "rows": rows,
            "unpriced_instruments": dict(unpriced),
            "left_out": left_out,
            "settled": settled,
        }

    def _carryover(self, s: int) -> Carryover:
        context = self.context
        return Carryover(
            self._roll,
            context.rules[s].model,
            multipliers=self.config.replay.break_even,
            num_currencies=len(context.currencies.names) if context.moves_debts else 0,
        )

    def _load(self, window: Window) -> Loaded:
        """Portfolios at a window's snapshot; the next snapshot or bucket is read meanwhile."""
        key = window.snapshot_us, self.bucket
        later = (w.snapshot_us for w in self.plan.windows[window.number :])
        following = next((t for t in later if t != window.snapshot_us), None)
        if following is not None:
            next_key = following, self.bucket
        elif self.next_bucket is not None:
            next_key = self.plan.windows[0].snapshot_us, self.next_bucket
        else:
            next_key = None
        self._loaded = self.loader.get(key, next_key)
        return self._loaded

    def _finished_before(self, window: Window) -> dict[int, Cell]:
        """Cells of a window that are there already, by set."""
        found = {}
        for s in range(len(self.context.rules)):
            moves = self.context.moves_until(s, window)
            cell = self.cells.find(s, self.bucket, window.number, moves)
            if cell is not None:
                found[s] = cell
        return found

    def _computed(
        self, missing: list[int], window: Window, carried: list[Carryover]
    ) -> dict[int, Cell]:
        """Cells of some sets in a window, written; sets that can be are replayed together."""
        if not missing:
            return {}
        context, cells = self.context, {}
        loaded = self._load(window)
        with self.stages("compute"):
            context.priced(window)
        for group in context.groups(window, missing):
            tables = context.together(window, group)
            each = [SetWindow(self, s, window, carried[s], loaded) for s in group]
            for batch in self.loader.grouped(loaded, split=each[0].is_split):
                with self.stages("compute"):
                    segment = loaded.portfolios.segment[batch.accounts]
                    results = context.engine.replay_together(
                        batch,
                        [one.states_of(batch) for one in each],
                        tables,
                        segment,
                        each[0].time_ids,
                        [one.debts_of(batch) for one in each] if context.moves_debts else None,
                    )
                for one, result in zip(each, results, strict=True):
                    one.add(batch, result)
            cells |= {one.set: one.finished() for one in each}
        return cells

    def segment_codes(self, accounts: np.ndarray) -> np.ndarray:
        """Segment codes of accounts by their position in the current snapshot."""
        assert self._loaded is not None
        return self._loaded.portfolios.segment[accounts]

    def _write_accounts(self, s: int, cell: Cell) -> None:
        name = self.context.set_names[s]
        if self.config.replay.details:
            table = account_table(name, self.plan, cell, self.context.rules[s].model)
        else:
            table = bare_accounts(name, self.plan, cell)
        file = f"{safe_name(name)}-b{self.bucket:05d}.parquet"
        write_table(self.context.out / "accounts" / file, table)
