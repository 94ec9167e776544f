"""One parameter set through one window of a bucket: what is carried in, and the cell it leaves."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from backtest.account_state import (
    LEDGER,
    LEDGER_FIELDS,
    START_FIELDS,
    WRITTEN_OFF,
    Carryover,
    carried_ledger,
    count_quarantined,
    flat,
    flat_ledger,
    put,
    take,
)
from backtest.bare_rows import bare_events
from backtest.batching import Batch
from backtest.cells import Cell, safe_name
from backtest.durable import write_table
from backtest.loading import Loaded
from backtest.plan import Window
from backtest.result_rows import event_tables, sorted_rows, trace_table
from backtest.simulate import (
    Simulated,
    WindowSimulation,
    simulation_tables,
    written_off_usd,
)
from backtest.simulated_path import Part
from backtest.tile_programs import STATUS_COUNTS, sum_columns
from backtest.window_records import Debts, TileResult
from kernels.debts import Ledger
from kernels.episodes import AccountState
from kernels.features import CASH, GROSS
from kernels.records import OPTION


if TYPE_CHECKING:
    from backtest.replay import BucketReplay


class SetWindow:
    """The accounts of a bucket in one window under one parameter set.

    Args:
        replay: of the bucket.
        s: position of the parameter set.
        window: which window.
        before: what the accounts of the bucket have come to under the set.
        loaded: portfolios of the window's snapshot.
    """

    def __init__(
        self, replay: "BucketReplay", s: int, window: Window, before: Carryover, loaded: Loaded
    ) -> None:
        context = replay.context
        self.replay, self.context, self.set, self.window = replay, context, s, window
        self.portfolios = loaded.portfolios
        rules, ids = context.rules[s], loaded.portfolios.snapshot.account_ids
        self.is_split = rules.is_split(int(replay.plan.times_us[window.first]))
        self.priced = context.priced(window)[s]
        self.time_ids = context.time_ids(window)
        self._hours = context.hours(window)
        self._ids = ids
        self._state = before.state(ids)
        self._details = context.config.replay.details
        self._extra = before.extra(ids)
        if not self._details:
            for name in START_FIELDS:
                del self._extra[name]
        self._extra["segment"] = loaded.portfolios.segment
        if self._details:
            self._first_seen = np.isnan(self._extra["start_equity_usd"])
        segments, times = len(replay.plan.segments), window.stop - window.first
        self._sums = np.zeros((times, segments, len(sum_columns(rules.model))), np.int64)
        self._rows: dict[str, list[Any]] = {"events": [], "event_units": [], "traces": []}
        self._settled = 0
        self._parts: list[Part] = []
        self._ledger: Ledger | None = None
        if context.moves_debts:
            self._ledger = before.ledger(ids, keeps_changes=self._goes_on)
        self._simulation = self._simulation_after(before.last)

    def states_of(self, batch: Batch) -> AccountState:
        """States of a batch before the window."""
        return take(self._state, batch.accounts)

    def debts_of(self, batch: Batch) -> Debts:
        """What debts have moved of a batch before the window; only where they move anything."""
        assert self._ledger is not None
        owed = take(self._ledger, batch.accounts)
        return Debts(owed, self._hours, self.context.config.replay.conversion)

    def add(self, batch: Batch, result: TileResult) -> None:
        """Take what the engine found of a batch; where liquidations follow, those of all wait."""
        part = Part(batch, batch.accounts, _real_times(result, self.time_ids >= 0))
        snapshot = self.portfolios.snapshot
        with self.replay.stages("compute"):
            self.context.check_once(self.set, self.window, batch, part.result, snapshot)
        if self._simulation is None:
            self._keep(part, None)
        else:
            self._parts.append(part)

    def finished(self) -> Cell:
        """The cell, written with its rows."""
        if self._simulation is not None:
            with self.replay.stages("compute"):
                every = self._simulation.through(self._parts, self._state, self._ledger)
            for part, one in zip(self._parts, every, strict=True):
                self._keep(replace(part, result=one.result), one)
            self._parts.clear()
        extra = self._extra
        extra["settled"] = np.asarray(self._settled)
        if self._ledger is not None:
            extra |= {f"{LEDGER}{name}": getattr(self._ledger, name) for name in LEDGER_FIELDS}
        if self._simulation is not None:
            extra |= flat_ledger(self._simulation.ledger)
            extra[WRITTEN_OFF] = written_off_usd(self._simulation, self._ids, extra[WRITTEN_OFF])
        else:
            del extra[WRITTEN_OFF]
        with self.replay.stages("write"):
            return self._written(self._rows | simulation_tables(self._simulation))

    def _keep(self, part: Part, simulated: Simulated | None) -> None:
        """Keep the rows of a batch and what is carried on."""
        replay, at, result = self.replay, part.at, part.result
        self._sums += result.sums
        self._settled += result.num_settled
        names = self.portfolios.snapshot.account_ids[part.batch.accounts]
        with replay.stages("write"):
            if self._details:
                rows = part.batch, names, self._state, at, result, self.window, self.priced
                of_batch = event_tables(replay, self.set, *rows, simulated)
            else:
                of_batch = bare_events(replay, self.set, names, result, self.window), None
            of_batch += (trace_table(replay, self.set, names, result, self.window),)
            for kept, table in zip(self._rows.values(), of_batch, strict=True):
                kept.append(table)
        put(self._state, at, result.state)
        if self._ledger is not None and result.ledger is not None:
            put(self._ledger, at, result.ledger)
        if self._details:
            self._start_values(at, part.batch, result)

    @property
    def _goes_on(self) -> bool:
        """Whether the window before holds the same portfolios."""
        number = self.window.number
        last = self.replay.plan.windows[number - 1] if number else self.window
        return last.snapshot_us == self.window.snapshot_us

    def _simulation_after(self, before: Cell | None) -> WindowSimulation | None:
        """Liquidations of the window, None where the run only measures."""
        if not self.context.simulators:
            return None
        return WindowSimulation(
            self.context.simulators[self.set],
            self.window,
            self.priced,
            self.portfolios.snapshot.with_choices(),
            self._extra["segment"],
            carried_ledger(before if self._goes_on else None, len(self._ids)),
            self._hours if self.context.moves_debts else None,
        )

    def _written(self, tables: dict[str, list[Any]]) -> Cell:
        context, window, extra = self.context, self.window, self._extra
        quarantined, out = self.portfolios.quarantined, self.context.out
        times = window.stop - window.first
        unpriced = int(self._sums[:, :, STATUS_COUNTS.index("unpriced")].sum())
        scored = int(self._sums[:, :, : len(STATUS_COUNTS)].sum()) - unpriced
        total = (len(self.portfolios.snapshot.account_ids) + len(quarantined)) * times
        extra["quarantined_by_segment"] = np.bincount(
            self.portfolios.quarantined_segment, minlength=len(self.replay.plan.segments)
        )
        count_quarantined(extra, quarantined, times)
        extra["left_out"] = np.asarray(self.portfolios.left_out)
        self._count_unpriced(unpriced)
        bucket = self.replay.bucket
        name = f"{safe_name(context.set_names[self.set])}-b{bucket:05d}-w{window.number:05d}"
        files = []
        for folder, parts in tables.items():
            rows = [t for t in parts if t is not None and t.num_rows]
            if folder == "traces" and quarantined:
                found = trace_table(self.replay, self.set, np.asarray(quarantined), None, window)
                rows.extend([] if found is None else [found])
            file = f"{folder}/{name}.parquet"
            if rows:
                write_table(out / file, sorted_rows(rows))
                files.append(file)
            else:  # rows that the cell had at other prices are not its own any more
                (out / file).unlink(missing_ok=True)
        counts = {"in": total, "scored": scored, "unpriced": unpriced}
        cell = Cell(
            accounts=self._ids,
            state=flat(self._state, details=self._details),
            sums=self._sums,
            counts=counts | {"quarantined": len(quarantined) * times},
            files=files,
            extra=extra,
        )
        moves = context.moves_until(self.set, window)
        self.replay.cells.write(self.set, bucket, window.number, cell, moves)
        return cell

    def _count_unpriced(self, unpriced: int) -> None:
        """Which held or ordered instruments had no usable price in the window, account-times."""
        names, times = np.asarray([], dtype=str), np.asarray([], dtype=np.int64)
        if unpriced:
            window, held = self.window, self.portfolios.snapshot
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
        self._extra["unpriced_ids"], self._extra["unpriced_times"] = names, times

    def _start_values(self, at: np.ndarray, batch: Batch, result: TileResult) -> None:
        """Size and direction of accounts at their first scored time (for reports)."""
        book, extra, is_new = batch.book, self._extra, self._first_seen[at]
        new = at[is_new]
        if not len(new):
            return
        features = np.asarray(self.priced.tables.features[..., 0])
        usd = np.asarray(self.priced.tables.currency_usd[..., 0])
        legs = (
            (book.leg_instrument[0], book.leg_contracts[0]),
            (book.option_instrument[0], book.option_contracts[0]),
        )
        delta = np.nansum(np.asarray(book.coin_base) * usd[book.unit_coin], axis=0)
        # Of the positions, the first portfolio.
        option = np.zeros(len(at))
        kind = self.context.axis(self.window.snapshot_us).terms.kind
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
