"""Rows of the result tables, from what the engine gives back; columns as documented in the README.

``summary``, ``accounts``, ``events`` and ``traces`` have their Arrow schemas here, once.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from backtest.account_state import START_FIELDS, WRITTEN_OFF
from backtest.batching import Batch, widened
from backtest.cells import Cell
from backtest.market_window import stamp
from backtest.plan import Plan, Window
from backtest.schema import NAME, NUMBER, TIME
from backtest.simulate import Simulated
from backtest.simulated_path import Version
from backtest.tile_programs import COUNT_COLUMNS, SUM_UNIT_USD, VOL_STATES, binding
from backtest.window_records import TileResult, WindowTables
from kernels.episodes import EVENT_BITS, STARTED, STATUS_MASK
from kernels.model import MarginModel
from kernels.records import AccountMargin
from kernels.status import QUARANTINED, STATUS_NAMES


if TYPE_CHECKING:
    from backtest.replay import BucketReplay

TOTALS = ("derivatives_mmr", "total_mmr", "total_imr", "adjusted_equity")


def level_columns(model: MarginModel) -> tuple[str, ...]:
    """The numbers of an account at one time: charges of the model, then totals."""
    return (*model.charges, *TOTALS)


@cache
def _trace_schema(columns: tuple[str, ...]) -> pa.Schema:
    return pa.schema(
        [
            ("parameter_set", NAME),
            ("account_id", NAME),
            ("time", TIME),
            *((c, NUMBER) for c in columns),
            ("margin_level", NUMBER),
            ("status", NAME),
        ]
    )


@cache
def _event_schema(columns: tuple[str, ...]) -> pa.Schema:
    return pa.schema(
        [
            ("parameter_set", NAME),
            ("account_id", NAME),
            ("segment", NAME),
            ("time", TIME),
            ("event", NAME),
            ("episode", pa.int32()),
            ("margin_level", NUMBER),
            ("equity_usd", NUMBER),
            ("gross_notional_usd", NUMBER),
            *((c, NUMBER) for c in columns),
            ("binding_unit", NAME),
            ("binding_charge", NAME),
            ("binding_price_move", NUMBER),
            ("binding_vol", NAME),
            ("stage", NAME),
        ]
    )


@cache
def _unit_schema(charges: tuple[str, ...]) -> pa.Schema:
    return pa.schema(
        [
            ("parameter_set", NAME),
            ("account_id", NAME),
            ("time", TIME),
            ("unit", NAME),
            *((c, NUMBER) for c in charges),
        ]
    )


@cache
def _account_schema(charges: tuple[str, ...]) -> pa.Schema:
    return pa.schema(
        [
            ("parameter_set", NAME),
            ("account_id", NAME),
            ("segment", NAME),
            *((c, pa.int32()) for c in ("scored", "unpriced", "quarantined", "episodes")),
            ("first_liquidation_time", TIME),
            ("liquidation_times", pa.int32()),
            ("worst_time", TIME),
            ("worst_margin_level", NUMBER),
            ("worst_adjusted_equity", NUMBER),
            ("worst_equity_usd", NUMBER),
            ("worst_total_mmr", NUMBER),
            *((f"worst_{c}", NUMBER) for c in charges),
            *((f"theta_{c}", NUMBER) for c in charges),
            ("bad_debt_usd", NUMBER),
            ("interest_usd", NUMBER),
            ("converted_usd", NUMBER),
            ("conversions", pa.int32()),
            *((c, NUMBER) for c in START_FIELDS),
        ]
    )


BINDING_PAD = 64


def sorted_rows(tables: list[pa.Table]) -> pa.Table:
    """Rows of all tables by account and time, so that their order never depends on batches."""
    table = pa.concat_tables(tables).unify_dictionaries()
    account = np.asarray(table["account_id"].cast(pa.string()).to_pylist())
    when = table["time"].cast(pa.int64()).to_numpy()
    return table.take(np.lexsort((when, account)))


def time_array(values_us: np.ndarray) -> pa.Array:
    """Microseconds since 1970 as times of a column."""
    return pa.array(values_us.astype("int64"), pa.int64()).cast(TIME)


def as_table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """Columns by name, arrays of either kind, as a table of a schema."""
    arrays = [
        pa.array(columns[f.name], from_pandas=True).cast(f.type)
        if not isinstance(columns[f.name], pa.Array)
        else columns[f.name].cast(f.type)
        for f in schema
    ]
    return pa.table(arrays, schema=schema)


def _levels(margin: AccountMargin, model: MarginModel) -> dict[str, np.ndarray]:
    columns = {c: np.asarray(margin.charges[c]) for c in model.charges}
    for name in TOTALS:
        columns[name] = np.asarray(getattr(margin, name))
    level = np.asarray(margin.margin_level)
    return columns | {"margin_level": np.where(np.isfinite(level), level, np.nan)}


def trace_table(
    replay: "BucketReplay", s: int, names: np.ndarray, result: TileResult | None, window: Window
) -> pa.Table | None:
    """Full path of the chosen accounts over a window; ``result`` None = quarantined accounts."""
    wanted = replay.config.traces.accounts
    chosen = np.arange(len(names)) if wanted == "all" else np.flatnonzero(np.isin(names, wanted))
    if not len(chosen):
        return None
    model = replay.context.rules[s].model
    names_of_levels = level_columns(model)
    grid = replay.plan.times_us[window.first : window.stop]
    count = len(grid) * len(chosen)
    columns: dict[str, Any]
    if result is None:
        columns = {c: np.full(count, np.nan) for c in (*names_of_levels, "margin_level")}
        status = np.full(count, QUARANTINED)
    else:
        when, who = np.repeat(np.arange(len(grid)), len(chosen)), np.tile(chosen, len(grid))
        columns = _levels(result.scores.at(when, who), model)
        status = result.codes[when, who] & STATUS_MASK
        unpriced = STATUS_NAMES.index("unpriced")
        for name in columns:
            columns[name] = np.where(status == unpriced, np.nan, columns[name])
    columns["parameter_set"] = pa.array([replay.context.set_names[s]] * count)
    columns["account_id"] = pa.array(np.tile(names[chosen], len(grid)).tolist())
    columns["time"] = time_array(np.repeat(grid, len(chosen)))
    columns["status"] = pa.array(np.asarray(STATUS_NAMES)[status].tolist())
    return as_table(columns, _trace_schema(names_of_levels))


def event_tables(
    replay: "BucketReplay",
    s: int,
    batch: Batch,
    names: np.ndarray,
    state: Any,
    at: np.ndarray,
    result: TileResult,
    window: Window,
    priced: WindowTables,
    simulated: Simulated | None = None,
) -> tuple[pa.Table | None, pa.Table | None]:
    """One row for each event of a batch in a window, with what was binding.

    ``simulated`` are its liquidations, None where accounts are left as they are. The second table
    holds the charges of every risk unit of the accounts at the liquidation level.
    """
    parts, units = [], None
    model = replay.context.rules[s].model
    started = (result.codes & STARTED) > 0
    episode = state.episodes[at] + np.cumsum(started, axis=0)
    for event, bit in EVENT_BITS.items():
        when, who = np.nonzero(result.codes & bit)
        if not len(when):
            continue
        found = result.scores.at(when, who)
        columns: dict[str, Any] = _levels(found, model)
        columns["equity_usd"] = found.equity_usd
        columns["gross_notional_usd"] = found.gross_notional_usd
        columns["episode"] = episode[when, who]
        columns["parameter_set"] = pa.array([replay.context.set_names[s]] * len(when))
        columns["account_id"] = pa.array(names[who].tolist())
        codes = replay.segment_codes(batch.accounts[who])
        columns["segment"] = pa.array([replay.plan.segments[k] for k in codes])
        columns["time"] = time_array(replay.plan.times_us[window.first + when])
        columns["event"] = pa.array([event] * len(when))
        columns["stage"] = pa.nulls(len(when), pa.string())
        versions = None
        if simulated is not None:
            at_times = simulated.stages
            stages = [at_times.get(key) for key in zip(when.tolist(), who.tolist(), strict=True)]
            columns["stage"] = pa.array(stages, pa.string())
            versions = simulated.versions
        bound, of_units = _binding(replay, batch, when, who, priced, result.changes, versions)
        columns |= bound
        parts.append(as_table(columns, _event_schema(level_columns(model))))
        if event == "liquidation":
            units = _unit_table(replay, parts[-1], of_units, tuple(model.charges))
    return (pa.concat_tables(parts) if parts else None), units


class _Units(NamedTuple):
    """Risk units of events that have charges: row of the event, coin, charges of each."""

    row: np.ndarray
    coin: np.ndarray
    charges: np.ndarray


def _unit_table(
    replay: "BucketReplay", events: pa.Table, units: _Units, charges: tuple[str, ...]
) -> pa.Table:
    """Charges of the risk units of some events, USD."""
    of_event = events.select(["parameter_set", "account_id", "time"]).take(units.row)
    columns: dict[str, Any] = {n: of_event[n].combine_chunks() for n in of_event.column_names}
    names = replay.context.currencies.names
    columns["unit"] = pa.array([names[c] for c in units.coin], pa.string())
    columns |= {name: units.charges[:, k] for k, name in enumerate(charges)}
    return as_table(columns, _unit_schema(charges))


def _binding(
    replay: "BucketReplay",
    batch: Batch,
    when: np.ndarray,
    who: np.ndarray,
    priced: WindowTables,
    changes: np.ndarray | None,
    versions: list[Version] | None,
) -> tuple[dict[str, Any], _Units]:
    """Unit of the largest MMR, its largest charge, the grid scenario that binds it; all units."""
    coin, charge, cell = (np.empty(len(when), int) for _ in range(3))
    parts = []
    everyone = np.arange(len(batch.accounts))
    for version in versions or [Version(batch, everyone, np.ones((0, 0), bool), changes)]:
        inside = np.searchsorted(version.who, who)
        inside = np.minimum(inside, len(version.who) - 1)
        mine = version.who[inside] == who
        if versions is not None:
            mine &= version.holds[when, inside]
        rows = np.flatnonzero(mine)
        found = _bound(version.batch, when[rows], inside[rows], priced, version.changes)
        coin[rows], charge[rows], cell[rows] = found[:3]
        parts.append(found[3]._replace(row=rows[found[3].row]))
    moves = np.asarray(priced.model.grid_moves(priced.params))
    names = replay.context.currencies.names
    charges = list(priced.model.charges)
    return {
        "binding_unit": pa.array([names[c] for c in coin]),
        "binding_charge": pa.array([charges[k] for k in charge]),
        "binding_price_move": moves[when, coin, cell // 3],
        "binding_vol": pa.array([VOL_STATES[k % 3] for k in cell]),
    }, _joined(parts)


def _joined(parts: list[_Units]) -> _Units:
    """Units in the order of events and coins, however they were looked up."""
    whole = _Units(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    order = np.lexsort((whole.coin, whole.row))
    return _Units(*(each[order] for each in whole))


def _bound(
    batch: Batch,
    when: np.ndarray,
    who: np.ndarray,
    priced: WindowTables,
    changes: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, _Units]:
    """Coin of the unit that binds some accounts at some times, charge, grid cell; all units."""
    coin, charge, cell = (np.empty(len(when), int) for _ in range(3))
    nothing = np.zeros(0, int)
    parts = [_Units(nothing, nothing, np.zeros((0, len(priced.model.charges))))]
    for time in np.unique(when):
        rows = np.flatnonzero(when == time)
        moved = None if changes is None else changes[time]
        for start in range(0, len(rows), BINDING_PAD):
            some = rows[start : start + BINDING_PAD]
            accounts = np.resize(who[some], BINDING_PAD)
            book = widened(batch, accounts, moved)
            out = binding(book, priced.tables, priced.params, np.asarray(time))
            unit, grid_cell, charges = (np.asarray(x)[..., : len(some)] for x in out)
            own = np.arange(len(some))
            coin[some] = book.unit_coin[unit, own]
            cell[some] = grid_cell
            charge[some] = np.argmax(charges[:, unit, own], axis=0)
            which, mine = np.nonzero(charges.any(axis=0))
            held = book.unit_coin[which, mine], charges[:, which, mine].T
            parts.append(_Units(some[mine], *held))
    return coin, charge, cell, _joined(parts)


def first_rows(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Accounts of a cell, ascending, and the row of each in its states; -1 = never scored."""
    ids = np.concatenate([cell.accounts, cell.extra["quarantined_ids"]])
    ids, first = np.unique(ids, return_index=True)
    return ids, np.where(first < len(cell.accounts), first, -1)


def moments(index: np.ndarray, rows: np.ndarray, plan: Plan) -> pa.Array:
    """Times of the run at the positions that some rows hold; null where either is -1."""
    position, has = np.full(len(rows), -1), rows >= 0
    position[has] = index[rows[has]]
    at = plan.times_us[np.maximum(position, 0)]
    return pa.array(at, pa.int64(), mask=position < 0).cast(TIME)


def account_table(name: str, plan: Plan, cell: Cell, model: MarginModel) -> pa.Table:
    """One row for each account of a bucket, from the last cell of a set."""
    state, extra = cell.state, cell.extra
    ids, scored_row = first_rows(cell)
    has = scored_row >= 0
    quarantined = dict(
        zip(extra["quarantined_ids"].tolist(), extra["quarantined_times"].tolist(), strict=True)
    )

    def take(values: np.ndarray, empty: Any) -> np.ndarray:
        out = np.full(len(ids), empty, np.result_type(values.dtype, type(empty)))
        out[has] = values[scored_row[has]]
        return out

    segment = take(extra["segment"], -1)
    level = take(state["worst_level"], np.inf)
    columns: dict[str, Any] = {
        "parameter_set": pa.array([name] * len(ids)),
        "account_id": pa.array(ids.tolist()),
        "segment": pa.array([plan.segments[k] for k in segment]),
        "quarantined": np.asarray([quarantined.get(k, 0) for k in ids.tolist()], np.int32),
        "first_liquidation_time": moments(state["first_time"], scored_row, plan),
        "worst_time": moments(state["worst_time"], scored_row, plan),
        "worst_margin_level": np.where(np.isfinite(level), level, np.nan),
        "bad_debt_usd": take(_bad_debt_usd(cell), 0.0),
    }
    for column in ("scored", "unpriced", "episodes", "liquidation_times"):
        columns[column] = take(state[column], 0)
    for column, empty in (("interest_usd", 0.0), ("converted_usd", 0.0), ("conversions", 0)):
        moved = extra.get(f"ledger_{column}")
        columns[column] = np.full(len(ids), empty) if moved is None else take(moved, empty)
    for column in ("worst_adjusted_equity", "worst_equity_usd", "worst_total_mmr"):
        columns[column] = take(state[column], np.nan)
    for charge in model.charges:
        columns[f"worst_{charge}"] = take(state[f"worst_charges_{charge}"], np.nan)
        columns[f"theta_{charge}"] = take(state[f"theta_{charge}"], np.nan)
    for column in START_FIELDS:
        columns[column] = take(extra[column], np.nan)
    return as_table(columns, _account_schema(tuple(model.charges)))


def _bad_debt_usd(cell: Cell) -> np.ndarray:
    """What liquidation wrote off of each account; where nothing is closed, equity below zero."""
    written_off = cell.extra.get(WRITTEN_OFF)
    if written_off is not None:
        return written_off
    return np.maximum(0.0, -cell.state["lowest_equity_usd"])


def summary_table(
    name: str, plan: Plan, sums: np.ndarray, quarantined: np.ndarray, column_names: tuple[str, ...]
) -> pa.Table:
    """Counts and USD sums per segment and time.

    Args:
        name: the parameter set.
        plan: the run's plan.
        sums: [time, segment, column] integers, money in ten-thousandths of a USD.
        quarantined: [time, segment] accounts.
        column_names: names of the columns of ``sums``.
    """
    num_times, num_segments = quarantined.shape
    counts = {c: sums[:, :, k].reshape(-1) for k, c in enumerate(column_names)}
    frame: dict[str, Any] = {}
    for column, values in counts.items():
        frame[column] = values if column in COUNT_COLUMNS else values * SUM_UNIT_USD
    frame["quarantined"] = quarantined.reshape(-1)
    priced = [c for c in STATUS_NAMES[:QUARANTINED] if c != "unpriced"]
    frame["scored"] = np.sum([frame[c] for c in priced], axis=0)
    frame["accounts"] = frame["scored"] + frame["unpriced"] + frame["quarantined"]
    frame["parameter_set"] = name
    frame["segment"] = np.tile(np.asarray(plan.segments), num_times)
    times = pd.DatetimeIndex([stamp(t) for t in plan.times_us])
    frame["time"] = times.repeat(num_segments)
    held = pd.DataFrame(frame)
    of_segment = np.sum(frame["accounts"].reshape(num_times, num_segments), axis=0)
    held = held.take(np.flatnonzero(np.tile(of_segment > 0, num_times)))
    order = ["parameter_set", "segment", "time", "accounts", "scored", "unpriced", "quarantined"]
    rest = [c for c in held.columns if c not in order]
    held = held.reindex(columns=[*order, *rest])
    held = held.sort_values(by=["segment", "time"], ignore_index=True)
    table = pa.Table.from_pandas(held, preserve_index=False)
    return table.set_column(2, "time", table["time"].cast(TIME))
