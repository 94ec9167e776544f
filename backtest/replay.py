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

from backtest.account_state import (
    LEDGER_FIELDS,
    carried_ledger,
    count_quarantined,
    flat,
    flat_ledger,
    put,
    reindexed,
    reindexed_extra,
    reindexed_ledger,
    take,
)
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
from backtest.portfolios import Portfolios
from backtest.result_rows import account_table, event_tables, sorted_rows, trace_table
from backtest.self_check import check_accounts
from backtest.set_rules import SetRules
from backtest.simulate import (
    Simulator,
    WindowSimulation,
    simulation_tables,
    widened_snapshot,
)
from backtest.tile_programs import STATUS_COUNTS, sum_columns
from backtest.what_if import terms_of
from backtest.window_records import Debts, TileResult, WindowTables
from kernels.debts import Ledger
from kernels.episodes import AccountState
from kernels.features import CASH, GROSS
from kernels.records import OPTION, Contract


CACHE_BYTES = 1_500_000_000
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
            return priced

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
        leaves = [
            x for priced in self._priced.values() for w in priced for x in jax.tree.leaves(w.tables)
        ]
        return sum(x.nbytes for x in leaves)

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

    def run(self, on_cell: Any = None) -> dict[str, Any]:
        """Compute the missing cells and write this bucket's account files."""
        num_sets = len(self.context.rules)
        last: list[Cell | None] = [None] * num_sets
        computed = reused = 0
        rows = dict.fromkeys(("in", "scored", "unpriced", "quarantined"), 0)
        unpriced: Counter[str] = Counter()
        left_out = settled = 0
        for window in self.plan.windows:
            for s in range(num_sets):
                moves = self.context.moves_until(s, window)
                cell = self.cells.find(s, self.bucket, window.number, moves)
                if cell is not None:
                    reused += 1
                else:
                    cell = self._compute(s, window, last[s])
                    computed += 1
                last[s] = cell
                settled += int(cell.extra["settled"])
                if s == 0:
                    left_out = max(left_out, int(cell.extra["left_out"]))
                    names, times = cell.extra["unpriced_ids"], cell.extra["unpriced_times"]
                    unpriced.update(dict(zip(names.tolist(), times.tolist(), strict=True)))
                for name in rows:
                    rows[name] += cell.counts[name]
            if on_cell is not None:
                on_cell(num_sets, self._size(last, window))
        for s, cell in enumerate(last):
            assert cell is not None
            with self.stages("write"):
                self._write_accounts(s, cell)
        return {
            "bucket": self.bucket,
            "computed": computed,
            "reused": reused,
            "rows": rows,
            "unpriced_instruments": dict(unpriced),
            "left_out": left_out,
            "settled": settled,
        }

    def _size(self, last: list[Cell | None], window: Window) -> int:
        times = window.stop - window.first
        return sum(len(c.accounts) for c in last if c is not None) * times

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

    def _compute(self, s: int, window: Window, before: Cell | None) -> Cell:
        rules = self.context.rules[s]
        loaded = self._load(window)
        portfolios = loaded.portfolios
        is_split = rules.is_split(int(self.plan.times_us[window.first]))
        ids = portfolios.snapshot.account_ids
        known = ids if before is None else np.union1d(before.accounts, ids)
        state = reindexed(before, known, rules.model)
        extra = reindexed_extra(before, known)
        mine = np.searchsorted(known, ids)
        segments = _of(extra, "segment", known)
        segments[mine] = portfolios.segment
        time_ids = self.context.time_ids(window)
        real = time_ids >= 0
        with self.stages("compute"):
            priced = self.context.priced(window)[s]
        shape = int(real.sum()), len(self.plan.segments), len(sum_columns(rules.model))
        sums = np.zeros(shape, np.int64)
        rows: dict[str, list[Any]] = {"events": [], "event_units": [], "traces": []}
        settled = 0
        first_seen = np.isnan(extra["start_equity_usd"])
        ledger = self._ledger(window, before, known)
        hours = self.context.hours(window)
        simulation = self._simulation(s, window, before, known, mine, segments)
        for batch in self.loader.grouped(loaded, split=is_split):
            at = mine[batch.accounts]
            owed = None if ledger is None else take(ledger, at)
            debts = owed and Debts(owed, hours, self.config.replay.conversion)
            segment = portfolios.segment[batch.accounts]
            with self.stages("compute"):
                result = self.context.engine.replay(
                    batch, take(state, at), priced, segment, time_ids, debts
                )
                result = _real_times(result, real)
                self.context.check_once(s, window, batch, result, portfolios.snapshot)
                simulated = None
                if simulation is not None:
                    simulated = simulation.through(batch, at, take(state, at), result, owed)
                    result = simulated.result
            sums += result.sums
            settled += result.num_settled
            names = ids[batch.accounts]
            with self.stages("write"):
                found = batch, names, state, at, result, window, priced, simulated
                of_batch = event_tables(self, s, *found)
                of_batch += (trace_table(self, s, names, result, window),)
                for kept, table in zip(rows.values(), of_batch, strict=True):
                    kept.append(table)
            put(state, at, result.state)
            if ledger is not None and result.ledger is not None:
                put(ledger, at, result.ledger)
            self._start_values(extra, at, first_seen[at], batch, result, priced)
        extra["settled"] = np.asarray(settled)
        if ledger is not None:
            extra |= {f"ledger_{name}": getattr(ledger, name) for name in LEDGER_FIELDS}
        if simulation is not None:
            extra |= flat_ledger(simulation.ledger)
        with self.stages("write"):
            tables = rows | simulation_tables(simulation)
            return self._finish(s, window, known, state, extra, sums, portfolios, tables)

    def _ledger(self, window: Window, before: Cell | None, known: np.ndarray) -> Ledger | None:
        """What debts have moved before the window, None where the run moves nothing."""
        if not self.context.moves_debts:
            return None
        last = self.plan.windows[window.number - 1] if window.number else window
        count = len(self.context.currencies.names)
        same = last.snapshot_us == window.snapshot_us
        return reindexed_ledger(before, known, count, keeps_changes=same)

    def _simulation(
        self,
        s: int,
        window: Window,
        before: Cell | None,
        known: np.ndarray,
        mine: np.ndarray,
        segments: np.ndarray,
    ) -> WindowSimulation | None:
        """Liquidations of the window, None where the run only measures."""
        if not self.context.simulators:
            return None
        assert self._loaded is not None
        last = self.plan.windows[window.number - 1] if window.number else window
        is_same = last.snapshot_us == window.snapshot_us
        return WindowSimulation(
            self.context.simulators[s],
            window,
            self.context.priced(window)[s],
            widened_snapshot(self._loaded.portfolios.snapshot, mine, known),
            segments,
            carried_ledger(before if is_same else None, known),
            self.context.hours(window) if self.context.moves_debts else None,
        )

    def _finish(
        self,
        s: int,
        window: Window,
        known: np.ndarray,
        state: AccountState,
        extra: dict[str, np.ndarray],
        sums: np.ndarray,
        portfolios: Portfolios,
        tables: dict[str, list[Any]],
    ) -> Cell:
        times = window.stop - window.first
        quarantined = len(portfolios.quarantined)
        unpriced = int(sums[:, :, STATUS_COUNTS.index("unpriced")].sum())
        scored = int(sums[:, :, : len(STATUS_COUNTS)].sum()) - unpriced
        total = (len(portfolios.snapshot.account_ids) + quarantined) * times
        extra["quarantined_by_segment"] = np.bincount(
            portfolios.quarantined_segment, minlength=len(self.plan.segments)
        )
        count_quarantined(extra, portfolios.quarantined, times)
        extra["left_out"] = np.asarray(portfolios.left_out)
        self._count_unpriced(extra, portfolios.snapshot, window, unpriced)
        name = f"{safe_name(self.context.set_names[s])}-b{self.bucket:05d}-w{window.number:05d}"
        files = []
        for folder, parts in tables.items():
            rows = [t for t in parts if t is not None and t.num_rows]
            if folder == "traces" and portfolios.quarantined:
                rows.extend(self._quarantined_traces(s, portfolios.quarantined, window))
            file = f"{folder}/{name}.parquet"
            if rows:
                write_table(self.context.out / file, sorted_rows(rows))
                files.append(file)
            else:  # rows that the cell had at other prices are not its own any more
                (self.context.out / file).unlink(missing_ok=True)
        cell = Cell(
            accounts=known,
            state=flat(state),
            sums=sums,
            counts={
                "in": total,
                "scored": scored,
                "unpriced": unpriced,
                "quarantined": quarantined * times,
            },
            files=files,
            extra=extra,
        )
        moves = self.context.moves_until(s, window)
        self.cells.write(s, self.bucket, window.number, cell, moves)
        return cell

    def _count_unpriced(
        self, extra: dict[str, np.ndarray], held: Snapshot, window: Window, unpriced: int
    ) -> None:
        """Which held or ordered instruments had no usable price in the window, account-times."""
        names, times = np.asarray([], dtype=str), np.asarray([], dtype=np.int64)
        if unpriced:
            axis = self.context.axis(window.snapshot_us)
            tables = self.context.priced(window)[0].tables
            count = len(axis.instruments) + 1
            legs = np.unique(held.leg_account * count + held.leg_instrument)
            orders = np.setdiff1d(held.order_account * count + held.order_instrument, legs)
            times = np.zeros(count, np.int64)
            for keys, table in ((legs, tables.features), (orders, tables.order_terms)):
                rows = np.asarray(table[:count, :, : window.stop - window.first])
                holders = np.bincount(keys % count, minlength=count)
                times += np.isnan(rows).any(axis=1).sum(axis=1) * holders
            which = np.flatnonzero(times)
            names = axis.instruments["instrument_id"].astype(str).to_numpy()[which - 1].astype(str)
            times = times[which]
        extra["unpriced_ids"], extra["unpriced_times"] = names, times

    def _quarantined_traces(self, s: int, accounts: list[str], window: Window) -> list[Any]:
        table = trace_table(self, s, np.asarray(accounts), None, window)
        return [] if table is None else [table]

    def _start_values(
        self,
        extra: dict[str, np.ndarray],
        at: np.ndarray,
        is_new: np.ndarray,
        batch: Batch,
        result: TileResult,
        priced: WindowTables,
    ) -> None:
        """Size and direction of accounts at their first scored time (for reports)."""
        book = batch.book
        features = np.asarray(priced.tables.features[..., 0])
        usd = np.asarray(priced.tables.currency_usd[..., 0])
        new = at[is_new]
        if not len(new):
            return
        legs = (
            (book.leg_instrument[0], book.leg_contracts[0]),
            (book.option_instrument[0], book.option_contracts[0]),
        )
        delta = np.nansum(np.asarray(book.coin_base) * usd[book.unit_coin], axis=0)
        # Of the positions, the first portfolio.
        option = np.zeros(len(at))
        kind = self.context.axis(self._portfolios_snapshot()).terms.kind
        for instrument, contracts in legs:
            cash = features[:, CASH].sum(axis=1)[instrument] * contracts
            delta = delta + cash.sum(axis=(0, 1))
            gross = features[:, GROSS][instrument] * np.abs(contracts)
            option = option + np.where(kind[instrument] == OPTION, gross, 0.0).sum(axis=(0, 1))
        first = result.scores.at(np.zeros(len(new), int), np.flatnonzero(is_new))
        extra["start_equity_usd"][new] = first.equity_usd
        extra["start_gross_notional_usd"][new] = first.gross_notional_usd
        extra["start_option_notional_usd"][new] = option[is_new]
        extra["start_net_delta_usd"][new] = delta[is_new]

    def segment_codes(self, accounts: np.ndarray) -> np.ndarray:
        """Segment codes of accounts by their position in the current snapshot."""
        assert self._loaded is not None
        return self._loaded.portfolios.segment[accounts]

    def _portfolios_snapshot(self) -> int:
        assert self._loaded is not None
        return self._loaded.snapshot_us

    def _write_accounts(self, s: int, cell: Cell) -> None:
        name = f"{safe_name(self.context.set_names[s])}-b{self.bucket:05d}.parquet"
        table = account_table(
            self.context.set_names[s], self.plan, cell, self.context.rules[s].model
        )
        write_table(self.context.out / "accounts" / name, table)


def _real_times(result: TileResult, real: np.ndarray) -> TileResult:
    return TileResult(
        result.state,
        result.codes[real],
        result.scores,
        result.sums[real],
        result.ledger,
        None if result.changes is None else result.changes[real],
        result.num_settled,
    )


def _of(extra: dict[str, np.ndarray], name: str, known: np.ndarray) -> np.ndarray:
    assert len(extra[name]) == len(known)
    return extra[name]
