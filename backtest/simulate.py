"""Liquidation as it happens in the replay of one bucket.

The engine scores a window as if nobody were liquidated. Accounts that come to the trigger are
taken out: each is liquidated at the first time that this is due, scored again with what is left
over the rest of the window, and so on until no trigger is left in it. What is left carries through
later windows until a new snapshot is read, which says what the account holds from then on.

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
from backtest.liquidation_ledger import LiquidationLedger, after, applied
from backtest.liquidation_records import hedges, liquidation_record, listing_record
from backtest.liquidation_room import rooms
from backtest.liquidation_rows import TIME_SCHEMA, Axis, rows_of, step_schema, table_of
from backtest.liquidator import Liquidated, liquidate
from backtest.market_window import stamp
from backtest.scores import Scores
from backtest.set_rules import SetRules
from backtest.settle import some_of, with_accounts
from backtest.tile_programs import sum_up
from backtest.window_records import TileResult, WindowTables
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
class Version:
    """Accounts of a batch as they were at some of the times of a window.

    Fields:
        batch: their book; who: their places in the batch of the replay.
        holds: whether this was their book [time, account].
    """

    batch: Batch
    who: np.ndarray
    holds: np.ndarray


@dataclass(frozen=True)
class Simulated:
    """A batch after a window: its result, the books that its accounts had, last stages.

    ``stages`` are the last stages of the liquidations [time, account], empty where there is none.
    """

    result: TileResult
    versions: list[Version]
    stages: np.ndarray


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
    """

    def __init__(
        self,
        simulator: Simulator,
        window: "Window",
        priced: WindowTables,
        snapshot: Snapshot,
        segment: np.ndarray,
        ledger: LiquidationLedger,
    ) -> None:
        context = simulator.context
        self.simulator, self.window = simulator, window
        self.priced = priced.in_float64
        self.snapshot, self.segment, self.ledger = snapshot, segment, ledger
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
        self, batch: Batch, at: np.ndarray, state: AccountState, result: TileResult
    ) -> Simulated:
        """Take the accounts of a batch through the window.

        Args:
            batch: accounts as their snapshot has them.
            at: their places in the ledger.
            state: their states before the window.
            result: their scores without liquidations; codes and sums of real times.
        """
        count = len(self.times_us)
        path = _Path(len(at), count, state, result)
        path.level[:] = result.scores.field("margin_level")[:count]
        path.owes[:] = self._owes(result.scores)
        path.add(batch, np.arange(len(at)), np.full(len(at), -1))
        changed = np.flatnonzero(self.ledger.is_changed[at])
        self._go_on(changed, np.full(len(at), -1), at, path)
        start, active = np.zeros(len(at), int), self.ledger.is_active[at]
        while True:
            when = self._first_due(path.level, path.owes, start, active)
            due = np.flatnonzero(when < count)
            if not len(due):
                break
            before = self.ledger
            touched = [
                self._liquidate(int(time), due[when[due] == time], at, path)
                for time in np.unique(when[due])
            ]
            who = np.sort(np.concatenate(touched))
            self._go_until(who, when, at, before, path)
            self._go_on(who, when, at, path)
            start[due] = when[due] + 1
            active = self.ledger.is_active[at]
        return self._finished(path, at, result)

    def _first_due(
        self, level: np.ndarray, owes: np.ndarray, start: np.ndarray, active: np.ndarray
    ) -> np.ndarray:
        """First time of each account, from its start on, at which a stage may have to do."""
        levels = self.priced.params.account
        count = len(level)
        trigger = np.asarray(levels.liquidation_level)[:count, None]
        with np.errstate(invalid="ignore"):
            due = (level <= trigger) | (owes & (level <= self._repay[:, None]))
        due |= active[None] & ~np.isnan(level)
        due &= np.arange(count)[:, None] >= start[None]
        return np.where(due.any(axis=0), due.argmax(axis=0), count)

    def _owes(self, scores: Scores) -> np.ndarray:
        """Whether debts would be repaid at the level for it [time, account]."""
        count = len(self.times_us)
        if not self._repay.any():
            return np.zeros((count, scores.num_accounts), bool)
        return scores.charge(self.priced.model.borrow_charge)[:count] > 0

    def _liquidate(self, time: int, who: np.ndarray, at: np.ndarray, path: "_Path") -> np.ndarray:
        """Liquidate some accounts of a batch at a time; those that anything changed of."""
        table = jax.tree.map(lambda x: x[..., time], self.priced.tables)
        params = jax.tree.map(lambda x: x[time], self.priced.params)
        time_us = int(self.times_us[time])
        rules = self.simulator.record(time_us)
        snapshot, places = self._left(at[who], self.ledger)
        features = np.asarray(table.features)
        deltas = np.where(self.axis.terms.is_option, 0.0, _cash_delta(features, self.axis.terms))
        touched = []
        for part in self._batches(snapshot):
            for some, room in rooms(part, snapshot, self.axis.terms, self._hedges):
                mine = places[part.accounts[some]]
                done = liquidate(
                    room,
                    self.ledger.is_active[mine],
                    table,
                    params,
                    self._listing,
                    rules,
                    self.simulator.surplus_share,
                )
                moved = replace(some_of(part, some), accounts=mine)
                self.ledger = after(self.ledger, moved, done, self.axis.terms)
                self._keep(done, mine, time_us, deltas)
                of_batch = who[np.searchsorted(at[who], mine)]
                last = np.flatnonzero(done.is_touched)
                for k in last.tolist():
                    path.stages[time, of_batch[k]] = _last_stage(done, k)
                touched.append(of_batch[last])
        return np.concatenate(touched)

    def _left(self, accounts: np.ndarray, ledger: LiquidationLedger) -> tuple[Snapshot, np.ndarray]:
        """What some accounts hold by a ledger, and their places in it, ascending."""
        keep = np.zeros(len(self.snapshot.account_ids), bool)
        keep[accounts] = True
        return applied(self.snapshot.only(keep), ledger.only(keep)), np.flatnonzero(keep)

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

    def _go_until(
        self,
        who: np.ndarray,
        when: np.ndarray,
        at: np.ndarray,
        ledger: LiquidationLedger,
        path: "_Path",
    ) -> None:
        """Bring the states of some accounts to the time of their liquidation."""
        spans = np.stack([path.begun[who], when[who]], axis=1)
        for first, last in np.unique(spans, axis=0).tolist():
            some = who[(spans == [first, last]).all(axis=1)]
            for _, of_batch, found in self._replayed(some, first, last + 1, at, ledger, path):
                put(path.state, of_batch, found.state)

    def _go_on(self, who: np.ndarray, when: np.ndarray, at: np.ndarray, path: "_Path") -> None:
        """Take some accounts on with what they hold now; it counts after ``when``."""
        for time in np.unique(when[who]).tolist():
            some, first, count = who[when[who] == time], time + 1, len(self.times_us)
            for moved, of_batch, found in self._replayed(some, first, count, at, self.ledger, path):
                path.put(of_batch, first, found, self._owes(found.scores))
                path.add(moved, of_batch, when[of_batch])

    def _replayed(
        self,
        who: np.ndarray,
        first: int,
        stop: int,
        at: np.ndarray,
        ledger: LiquidationLedger,
        path: "_Path",
    ) -> Iterator[tuple[Batch, np.ndarray, TileResult]]:
        """Some accounts of a batch through some times, from the states that they have."""
        snapshot, places = self._left(at[who], ledger)
        ids = np.full_like(self.time_ids, -1)
        ids[first:stop] = self.time_ids[first:stop]
        for part in self._batches(snapshot):
            mine = places[part.accounts]
            moved = replace(part, accounts=mine)
            of_batch = who[np.searchsorted(at[who], mine)]
            yield (
                moved,
                of_batch,
                self.simulator.engine.replay(
                    moved, take(path.state, of_batch), self.priced, self.segment[mine], ids
                ),
            )

    def _finished(self, path: "_Path", at: np.ndarray, result: TileResult) -> Simulated:
        """The result with the paths of the accounts that liquidation has changed."""
        who = path.who
        if not len(who):
            return Simulated(result, path.versions, path.stages)
        margin, codes, state = path.of(who)
        old, codes_before = result.scores.of(who), np.zeros_like(codes)
        count, segment = len(self.times_us), self.segment[at[who]]
        codes_before[:count] = result.codes[:, who]
        sums = self._summed(margin, codes, segment) - self._summed(old, codes_before, segment)
        both = with_accounts((result.state, result.codes), who, (state, codes[:count]))
        return Simulated(
            result=replace(
                result,
                state=both[0],
                codes=both[1],
                sums=result.sums + sums[:count],
                scores=_replaced(result.scores, who, margin),
            ),
            versions=path.versions,
            stages=path.stages,
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


class _Path:
    """The accounts of a batch through a window: which numbers, states and books each had when.

    Args:
        num_accounts, num_times: of the batch and of the window.
        state: states before the window.
        result: what the engine gives where nobody is liquidated.

    Attributes:
        level, owes: margin level, and whether debts may have to be repaid [time, account].
        begun: first time of the book that an account holds now; state: its state before that time.
        stages: last stage of each liquidation [time, account].
    """

    def __init__(
        self, num_accounts: int, num_times: int, state: AccountState, result: TileResult
    ) -> None:
        shape = num_times, num_accounts
        self.num_times, self.result = num_times, result
        self.level, self.owes = np.zeros(shape), np.zeros(shape, bool)
        self.begun = np.zeros(num_accounts, int)
        self.state = jax.tree.map(np.array, state)
        self.stages = np.full(shape, "", dtype="U16")
        self._ends = jax.tree.map(np.array, state)
        self._version = np.zeros(shape, int)
        self._parts: list[tuple[Batch, np.ndarray]] = []
        self._place: dict[int, int] = {}
        self._values: tuple[AccountMargin, np.ndarray] | None = None

    @property
    def who(self) -> np.ndarray:
        """Accounts whose numbers are not those of the engine, ascending."""
        return np.asarray(sorted(self._place), int)

    @property
    def versions(self) -> list[Version]:
        """The books that were held at some time."""
        found = []
        for k, (batch, who) in enumerate(self._parts):
            holds = self._version[:, who] == k
            if holds.any():
                found.append(Version(batch, who, holds))
        return found

    def add(self, batch: Batch, who: np.ndarray, when: np.ndarray) -> None:
        """Let some accounts have another book after a time."""
        later = np.arange(self.num_times)[:, None] > when[None]
        self._version[:, who] = np.where(later, len(self._parts), self._version[:, who])
        self._parts.append((batch, who))
        self.begun[who] = when + 1

    def put(self, who: np.ndarray, first: int, found: TileResult, owes: np.ndarray) -> None:
        """Let some accounts have other numbers from a time on."""
        self._join(who)
        assert self._values is not None
        at = [self._place[k] for k in who.tolist()]
        margin = found.scores.all

        def later(old: np.ndarray, values: Any) -> None:
            old[first:, at] = np.asarray(values)[first:]

        jax.tree.map(later, self._values, (margin, found.codes))
        self.level[first:, who] = np.asarray(margin.margin_level)[first : self.num_times]
        self.owes[first:, who] = owes[first:]
        put(self._ends, who, found.state)

    def of(self, who: np.ndarray) -> tuple[AccountMargin, np.ndarray, AccountState]:
        """Numbers and codes of some accounts at every time, and their states at the end."""
        assert self._values is not None
        at = [self._place[k] for k in who.tolist()]
        margin, codes = jax.tree.map(lambda x: x[:, at], self._values)
        return margin, codes, take(self._ends, who)

    def _join(self, who: np.ndarray) -> None:
        """Begin with the numbers of the engine."""
        new = np.asarray([k for k in who.tolist() if k not in self._place], int)
        if not len(new):
            return
        self._place |= {k: len(self._place) + n for n, k in enumerate(new.tolist())}
        margin = jax.tree.map(np.array, self.result.scores.of(new))
        codes = np.zeros(margin.status.shape, np.uint8)
        codes[: self.num_times] = self.result.codes[:, new]
        if self._values is None:
            self._values = margin, codes
            return
        self._values = jax.tree.map(
            lambda x, y: np.concatenate([x, y], axis=1), self._values, (margin, codes)
        )


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


def widened_snapshot(snapshot: Snapshot, places: np.ndarray, known: np.ndarray) -> Snapshot:
    """The snapshot with all known accounts, its own at ``places``; the others hold nothing."""
    given = snapshot.with_choices()
    family, auto = np.full(len(known), -1), np.ones(len(known), bool)
    family[places], auto[places] = given.spot_family, given.auto_borrows
    return replace(
        snapshot,
        account_ids=known,
        leg_account=places[snapshot.leg_account],
        cash_account=places[snapshot.cash_account],
        order_account=places[snapshot.order_account],
        spot_family=family,
        auto_borrows=auto,
    )


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
