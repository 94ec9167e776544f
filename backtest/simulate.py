"""Liquidation as it happens in the replay of one bucket.

The engine scores a window as if nobody were liquidated. Accounts that come to the trigger are
taken out: time after time those that are due are liquidated, all of a bucket together, and scored
again with what is left over the rest of the window. What is left carries through later windows
until a new snapshot is read, which says what the account holds from then on.

Where debts move, they do so on what liquidation has left: interest and conversion of a time come
before its liquidation. What is left holds as cash what they have moved by then, and their ledger
of changes begins anew, as at a snapshot; what was paid altogether stays counted.

The numbers of a time are those before its liquidations; what these led to is seen from the next
time on. Accounts that liquidation has not changed keep the numbers of the engine, bit for bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from backtest.account_state import put, take
from backtest.batching import SHAPES, Batch, Shape, Snapshot, Terms, batches
from backtest.engine import Engine
from backtest.liquidation_ledger import LiquidationLedger, after, applied, with_moved
from backtest.liquidation_records import hedges, liquidation_record, listing_record
from backtest.liquidation_room import rooms
from backtest.liquidation_rows import TIME_SCHEMA, Axis, rows_of, step_schema, table_of
from backtest.liquidator import Liquidated, liquidate
from backtest.market_window import stamp
from backtest.scores import Scores
from backtest.set_rules import SetRules
from backtest.settle import some_of, with_accounts
from backtest.simulated_path import Part, Path, Version
from backtest.tile_programs import sum_up
from backtest.window_records import Debts, TileResult, WindowTables
from kernels.debts import Ledger
from kernels.episodes import AccountState
from kernels.features import CASH
from kernels.records import AccountMargin


if TYPE_CHECKING:
    from backtest.plan import Window
    from backtest.replay import ReplayContext

TILE = 64
"""Accounts of a tile of those that are scored again."""
LEFT_SHAPES = (Shape(4, 4, 2, 8), *SHAPES[-3:])
"""Classes of what liquidation leaves: few, since few accounts are in them."""


@dataclass(frozen=True)
class Simulated:
    """A batch after a window: its result, the books that its accounts had, last stages.

    ``stages`` are the last stages of the liquidations by time and place in the batch.
    """

    result: TileResult
    versions: list[Version]
    stages: dict[tuple[int, int], str]


class Simulator:
    """What the liquidations of one parameter set share between buckets.

    Args:
        context: of the replay.
        s: position of the parameter set.
        numbers: plain numbers of its liquidation file.
    """

    def __init__(self, context: "ReplayContext", s: int, numbers: dict[str, Any]) -> None:
        self.context, self.set, self.numbers = context, s, numbers
        self.rules: SetRules = context.rules[s]
        self.surplus_share = float(numbers["fund"]["surplus_share"])
        self.engine = Engine(
            tile_accounts=TILE,
            num_segments=len(context.plan.segments),
            devices=context.engine.devices[:1],
            multipliers=context.engine.multipliers,
        )
        self._records: dict[str, Any] = {}

    def record(self, time_us: int) -> Any:
        """The liquidation rules at a time, with the levels of the parameter set in force."""
        chosen = self.rules.set_at(time_us)
        if chosen.hash not in self._records:
            record = liquidation_record(self.numbers, chosen.numbers(), self.context.currencies)
            self._records[chosen.hash] = record
        return self._records[chosen.hash]


class WindowSimulation:
    """The liquidations of one bucket in one window under one parameter set.

    Args:
        simulator: of the parameter set.
        window: which window.
        priced: its tables; scenarios in float64 are used where there are both.
        snapshot: portfolios of the bucket, accounts in the order of ``ledger``.
        segment: segment code of each account.
        ledger: what liquidation has left before the window.
        hours: full hours before each time that pay interest; None where debts move nothing.
    """

    def __init__(
        self,
        simulator: Simulator,
        window: "Window",
        priced: WindowTables,
        snapshot: Snapshot,
        segment: np.ndarray,
        ledger: LiquidationLedger,
        hours: np.ndarray | None = None,
    ) -> None:
        context = simulator.context
        self.simulator, self.window = simulator, window
        self.priced = priced.in_float64
        self.snapshot, self.segment, self.ledger = snapshot, segment, ledger
        self._hours, self._converts = hours, context.config.replay.conversion
        self.axis = context.axis(window.snapshot_us)
        self.time_ids = context.time_ids(window)
        self.times_us = context.plan.times_us[window.first : window.stop]
        self._repay = np.asarray([simulator.record(int(t)).repay_level for t in self.times_us])
        self.is_split = simulator.rules.is_split(int(self.times_us[0]))
        names = [str(name) for name in self.axis.instruments["instrument_id"]]
        self._listing = listing_record(self.axis.contracts, names, simulator.numbers)
        self._hedges = hedges(self.axis.terms, self._listing)
        charges = tuple(priced.model.charges)
        self._names = Axis(self.axis.instruments, context.currencies.names, charges)
        self.rows: tuple[list[dict[str, Any]], list[dict[str, Any]]] = [], []
        """Rows of ``liquidated`` and of ``liquidations``."""

    def through(
        self, parts: list[Part], state: AccountState, owed: Ledger | None
    ) -> list[Simulated]:
        """Take the accounts of a bucket through the window, time after time.

        Args:
            parts: batches of accounts as their snapshot has them, places in the ledger, and their
                scores without liquidations (codes and sums of real times).
            state: states of all accounts before the window, in the order of the ledger.
            owed: what debts have moved before the window, None where they move nothing.
        """
        path = Path(len(self.times_us), parts, state, owed)
        for part in parts:
            path.owes[:, part.at] = self._owes(part.result.scores)
        self._go_on(np.flatnonzero(self.ledger.is_changed), -1, path)
        levels = np.asarray(self.priced.params.account.liquidation_level)
        for time in range(len(self.times_us)):
            level, active = path.level[time], self.ledger.is_active
            with np.errstate(invalid="ignore"):
                is_due = (level <= levels[time]) | (active & ~np.isnan(level))
                is_due |= path.owes[time] & (level <= self._repay[time])
            due = np.flatnonzero(is_due)
            if len(due):
                self._liquidate(time, due, path)
        return [self._finished(number, path) for number in range(len(parts))]

    def _owes(self, scores: Scores) -> np.ndarray:
        """Whether debts would be repaid at the level for it [time, account]."""
        count = len(self.times_us)
        if not self._repay.any():
            return np.zeros((count, scores.num_accounts), bool)
        return scores.charge(self.priced.model.borrow_charge)[:count] > 0

    def _liquidate(self, time: int, due: np.ndarray, path: Path) -> None:
        """Liquidate some accounts at a time and take those that anything changed of on."""
        table = jax.tree.map(lambda x: x[..., time], self.priced.tables)
        params = jax.tree.map(lambda x: x[time], self.priced.params)
        time_us = int(self.times_us[time])
        rules = self.simulator.record(time_us)
        held = self.ledger
        snapshot = self._left(due, held)
        if path.owed is not None:
            # Liquidation sells the cash that is there, what debts have moved of it included.
            owed = self._reached(due, time, path, held)[1]
            assert owed is not None
            snapshot = with_moved(snapshot, np.asarray(owed.change_units))
        features = np.asarray(table.features)
        deltas = np.where(self.axis.terms.is_option, 0.0, _cash_delta(features, self.axis.terms))
        touched = []
        for batch in self._batches(snapshot):
            for some, room in rooms(batch, snapshot, self.axis.terms, self._hedges):
                mine = due[batch.accounts[some]]
                done = liquidate(
                    room,
                    self.ledger.is_active[mine],
                    table,
                    params,
                    self._listing,
                    rules,
                    self.simulator.surplus_share,
                )
                left = replace(some_of(batch, some), accounts=mine)
                self.ledger = after(self.ledger, left, done, self.axis.terms)
                self._keep(done, mine, time_us, deltas)
                last = np.flatnonzero(done.is_touched)
                path.stages |= {(time, int(mine[k])): _last_stage(done, int(k)) for k in last}
                touched.append(mine[last])
        who = np.sort(np.concatenate(touched))
        path.restart(who, *self._reached(who, time, path, held))
        self._go_on(who, time, path)

    def _left(self, accounts: np.ndarray, ledger: LiquidationLedger) -> Snapshot:
        """What some accounts, ascending, hold by a ledger."""
        keep = np.zeros(len(self.snapshot.account_ids), bool)
        keep[accounts] = True
        return applied(self.snapshot.only(keep), ledger.only(keep))

    def _batches(self, snapshot: Snapshot) -> list[Batch]:
        return batches(
            snapshot,
            self.axis.terms,
            self.simulator.context.currencies,
            split=self.is_split,
            shapes=LEFT_SHAPES,
        )

    def _keep(self, done: Liquidated, mine: np.ndarray, time_us: int, deltas: np.ndarray) -> None:
        """Keep the rows of what was done."""
        context = self.simulator.context
        for k in np.flatnonzero(done.is_touched).tolist():
            who = {
                "parameter_set": context.set_names[self.simulator.set],
                "account_id": str(self.snapshot.account_ids[mine[k]]),
                "segment": context.plan.segments[self.segment[mine[k]]],
                "time": stamp(time_us).to_pydatetime(),
            }
            at_time, steps = rows_of(done, k, who, self._names, deltas)
            self.rows[0].append(at_time)
            self.rows[1].extend(steps)

    def _reached(
        self, who: np.ndarray, time: int, path: Path, held: LiquidationLedger
    ) -> tuple[AccountState, Ledger | None]:
        """States and ledgers of some accounts after a time, with the books that they held."""
        state, owed = take(path.state, who), take(path.owed, who)
        for first in np.unique(path.begun[who]).tolist():
            some = who[path.begun[who] == first]
            for batch, found in self._replayed(some, first, time + 1, path, held):
                at = np.searchsorted(who, batch.accounts)
                put(state, at, found.state)
                put(owed, at, found.ledger)
        return state, owed

    def _go_on(self, who: np.ndarray, time: int, path: Path) -> None:
        """Take some accounts on with what they hold now; it counts after a time."""
        first, count = time + 1, len(self.times_us)
        for batch, found in self._replayed(who, first, count, path, self.ledger):
            path.put(batch.accounts, first, found, self._owes(found.scores))
            path.add(batch, batch.accounts, np.full(len(batch.accounts), time), found.changes)

    def _replayed(
        self, who: np.ndarray, first: int, stop: int, path: Path, held: LiquidationLedger
    ) -> Iterator[tuple[Batch, TileResult]]:
        """Some accounts through some times, from the states that they have."""
        snapshot = self._left(who, held)
        ids = np.full_like(self.time_ids, -1)
        ids[first:stop] = self.time_ids[first:stop]
        for part in self._batches(snapshot):
            batch = replace(part, accounts=who[part.accounts])
            debts, state = None, take(path.state, batch.accounts)
            if path.owed is not None and self._hours is not None:
                debts = Debts(take(path.owed, batch.accounts), self._hours, self._converts)
            segment = self.segment[batch.accounts]
            yield (
                batch,
                self.simulator.engine.replay(batch, state, self.priced, segment, ids, debts),
            )

    def _finished(self, number: int, path: Path) -> Simulated:
        """The result of a part with the paths of the accounts that liquidation has changed."""
        part, who = path.parts[number], path.changed_of(number)
        result, versions, stages = part.result, path.versions_of(number), path.stages_of(number)
        if not len(who):
            return Simulated(result, versions, stages)
        place = np.flatnonzero(np.isin(part.at, who))
        margin, codes, state, owed = path.of(who)
        old, codes_before = result.scores.of(place), np.zeros_like(codes)
        count, segment = len(self.times_us), self.segment[who]
        codes_before[:count] = result.codes[:, place]
        sums = self._summed(margin, codes, segment) - self._summed(old, codes_before, segment)
        whole = with_accounts(
            (result.state, result.codes, result.ledger), place, (state, codes[:count], owed)
        )
        return Simulated(
            result=replace(
                result,
                state=whole[0],
                codes=whole[1],
                ledger=whole[2],
                sums=result.sums + sums[:count],
                scores=_replaced(result.scores, place, margin),
            ),
            versions=versions,
            stages=stages,
        )

    def _summed(self, margin: AccountMargin, codes: np.ndarray, segment: np.ndarray) -> np.ndarray:
        """Sums over accounts, tile by tile."""
        count, names = len(segment), tuple(self.priced.model.charges)
        num_segments = self.simulator.engine.num_segments
        total = np.zeros(1, np.int64)
        for start in range(0, count, TILE):
            cut = jax.tree.map(
                lambda x, start=start: _tile(x, start), (margin, codes, segment.astype(np.int32))
            )
            valid = np.arange(TILE) < count - start
            total = total + np.asarray(sum_up(*cut, valid, num_segments=num_segments, names=names))
        return total


def simulation_tables(simulation: WindowSimulation | None) -> dict[str, list[pa.Table | None]]:
    """Tables of the liquidations of a window by the folder that they belong to."""
    if simulation is None:
        return {}
    at_times, steps = simulation.rows
    schema = step_schema(tuple(simulation.priced.model.charges))
    return {
        "liquidated": [table_of(at_times, TIME_SCHEMA)],
        "liquidations": [table_of(steps, schema)],
    }


def written_off_usd(
    simulation: WindowSimulation, ids: np.ndarray, before: np.ndarray
) -> np.ndarray:
    """What has been written off of each account by the end of a window, USD.

    Added up in the order of time, so that windows do not matter.
    """
    total = before.copy()
    for row in simulation.rows[0]:
        total[np.searchsorted(ids, row["account_id"])] += row["bad_debt_usd"]
    return total


def _cash_delta(features: np.ndarray, terms: Terms) -> np.ndarray:
    """Cash delta of one contract of each instrument of the axis, USD."""
    return features[: len(terms.kind), CASH].sum(axis=1)


def _last_stage(done: Liquidated, k: int) -> str:
    named = [step.stage for step in done.steps[k] if step.stage != "bankruptcy"]
    return named[-1] if named else "bankruptcy"


def _tile(x: Any, start: int) -> np.ndarray:
    """A tile of the last axis, filled up with zeros."""
    piece = np.asarray(x)[..., start : start + TILE]
    out = np.zeros((*piece.shape[:-1], TILE), piece.dtype)
    out[..., : piece.shape[-1]] = piece
    return out


def _replaced(scores: Scores, who: np.ndarray, margin: AccountMargin) -> Scores:
    """Scores with other numbers of some accounts, those that float64 settled kept."""
    if scores.settled is not None:
        every = np.union1d(who, scores.settled.who)
        margin = with_accounts(scores.of(every), np.searchsorted(every, who), margin)
        who = every
    tiles = [
        jax.tree.map(lambda x, start=start: jnp.asarray(_tile(x, start)), margin)
        for start in range(0, len(who), TILE)
    ]
    return scores.replaced(who, Scores(tiles, len(who)))
