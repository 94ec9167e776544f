"""The compiled programs of a run: one tile of accounts through a window, and what it is made of.

A tile goes block by block through the stages of ``kernels.account``, each of them at all times of
the window and computed apart: what passes from stage to stage is stored once and stays in the cache
of a processor core. What depends on the time before follows, one time after another.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from backtest import precision as precision
from backtest.apart import computed_apart
from backtest.kept_programs import kept
from kernels import account, debts, episodes, status
from kernels.account import Exposures
from kernels.breakeven import Multipliers
from kernels.debts import Ledger, Moved
from kernels.episodes import AccountState
from kernels.model import AccountRules, MarginModel
from kernels.models import model_of
from kernels.records import AccountMargin, Book, Table, UnitMargin, Values
from kernels.stages import Apart
from kernels.tiers import MarginalTiers, StepTiers, of_coin


SUM_UNIT_USD = 1e-4
"""Sums over accounts count in hundredths of a cent as integers: exact in any order."""

STATUS_COUNTS = status.STATUS_NAMES[: status.QUARANTINED]
TIER_TABLES = (MarginalTiers, StepTiers)
VOL_STATES = ("down", "same", "up")
"""Volatility states of a model's grid, innermost in its cells."""
COUNT_COLUMNS = (*STATUS_COUNTS, "episodes_started")


def sum_columns(model: MarginModel) -> tuple[str, ...]:
    """Columns of the sums over accounts: counts, then money."""
    money = ("equity_usd", "adjusted_equity", "gross_notional_usd", "liquidated_notional_usd")
    totals = ("derivatives_mmr", "total_mmr", "total_imr")
    return (*COUNT_COLUMNS, *money, *model.charges, *totals)


class Blocks(NamedTuple):
    """How the accounts of a tile are cut into blocks that stay in the cache of a processor core.

    Every device works on its own part of each block.

    Fields:
        number: blocks of a tile.
        devices: devices that share the accounts of a tile.
    """

    number: int
    devices: int

    def cut(self, x: Shaped[Array, "*axes account"]) -> Shaped[Array, "block *axes mine"]:
        """Blocks outside; of each device's accounts as many in each."""
        *axes, num_accounts = x.shape
        size = num_accounts // self.number
        parts = x.reshape(*axes, self.devices, self.number, size // self.devices)
        return jnp.moveaxis(parts, -2, 0).reshape(self.number, *axes, size)

    def joined(self, x: Shaped[Array, "block *axes mine"]) -> Shaped[Array, "*axes account"]:
        """The tile from its blocks."""
        _, *axes, size = x.shape
        parts = x.reshape(self.number, *axes, self.devices, size // self.devices)
        return jnp.moveaxis(parts, 0, -2).reshape(*axes, self.number * size)


class Clock(NamedTuple):
    """Times of a window.

    Fields:
        time_ids: index of each time on the run's grid, -1 = padding.
        hours: full hours before each time that pay interest; None = debts move nothing.
    """

    time_ids: Int[Values, " time"]
    hours: Float[Values, " time"] | None = None


class Owed(NamedTuple):
    """What debts have moved before a window, and whose assets are sold for them."""

    ledger: Ledger
    may_sell: Bool[Values, " account"]


class Through(NamedTuple):
    """One tile after a window; ``ledger`` and ``changes`` are None where debts move nothing.

    Fields:
        state: account states after the window.
        margin: every number, [time, account].
        codes: status plus event bits.
        sums: see ``sum_up``.
        ledger: what debts have moved by the end.
        changes: the same by time.
    """

    state: AccountState
    margin: AccountMargin
    codes: UInt8[Array, "time account"]
    sums: Int[Array, "time segment column"]
    ledger: Ledger | None
    changes: Float[Array, "time holding account"] | None


@kept("num_segments", "blocks", "multipliers")
def through_window(
    book: Book,
    state: AccountState,
    tables: Table,
    params: Any,
    clock: Clock,
    owed: Owed | None,
    segment: Int[Array, " account"],
    valid: Bool[Array, " account"],
    num_segments: int,
    blocks: Blocks,
    multipliers: bool,
) -> Through:
    """Score a tile at every time of a window and advance its states; padded times change nothing.

    Args:
        book: the accounts of the tile.
        state: their states before.
        tables: priced, times last.
        params: numbers of the set, times first; tier tables must be the same at all times but the
            padded ones.
        clock: the times.
        owed: what debts have moved before, None = they move nothing.
        segment: segment code of each account.
        valid: whether it is an account and no padding.
        num_segments: number of segment labels.
        blocks: how the tile is cut.
        multipliers: whether break-even multipliers are looked for; else they stay as they are.
    """
    names = tuple(model_of(params).charges)
    rules = _times_last(params, clock.time_ids)

    def through(block: tuple[Any, ...]) -> tuple[Any, ...]:
        book, theta, owed, valid = block
        apart = partial(computed_apart, jnp.any(valid))
        exposures = apart(account.batch_exposures, book, tables, rules)
        moved = None
        if owed is not None:
            moved = _moved_by_debts(apart, exposures, book, tables, owed, clock, params)
            book = debts.with_changes(book, jnp.moveaxis(moved.changes, 0, -1))
        units, margin = account.batch_margin(apart, exposures, book, tables, rules)
        level = jnp.where(clock.time_ids >= 0, margin.margin_level, jnp.nan)
        counted = eqx.tree_at(lambda m: m.margin_level, margin, level)
        if multipliers:
            theta_apart = partial(account.batch_theta, apart)
            theta = apart(theta_apart, units, counted, rules, theta, otherwise=theta)
        # Times before accounts, as results have them.
        return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), margin), theta, moved

    parts = jax.tree.map(blocks.cut, (book, state.theta, owed, valid))
    margin, theta, moved = jax.tree.map(blocks.joined, jax.lax.map(through, parts))
    state = eqx.tree_at(lambda s: s.theta, state, theta)
    no_bits = jnp.zeros(margin.status.shape, jnp.uint8)
    bits = no_bits if moved is None else jnp.where(moved.sold, jnp.uint8(episodes.CONVERTED), 0)

    def at(state: AccountState, now: Any) -> Any:
        margin, rules, time_id, bits = now
        apart = partial(computed_apart, time_id >= 0)
        none = state, jnp.zeros_like(margin.status)
        state, code = apart(_advanced, state, margin, time_id, rules, otherwise=none)
        codes = code.astype(jnp.uint8) | bits
        sums = apart(partial(_sums_of, num_segments, names), margin, codes, segment, valid)
        return state, (codes, sums)

    times = margin, params.account, clock.time_ids, bits
    state, (codes, sums) = jax.lax.scan(at, state, times)
    ledger, changes = (None, None) if moved is None else (moved.ledger, moved.changes)
    return Through(state, margin, codes, sums, ledger, changes)


@kept("num_segments", "blocks", "multipliers", "differs")
def through_window_together(
    book: Book,
    states: AccountState,
    tables: Table,
    params: Any,
    clock: Clock,
    owed: Owed | None,
    segment: Int[Array, " account"],
    valid: Bool[Array, " account"],
    num_segments: int,
    blocks: Blocks,
    multipliers: bool,
    differs: tuple[bool, ...],
) -> Through:
    """``through_window`` under several parameter sets at once; every result with sets outside.

    What depends on nothing that differs between the sets is computed once for all of them.

    Args:
        book: the accounts of the tile.
        states: of the accounts, sets outside.
        tables: sets outside in the leaves that differ; the others are those of every set.
        params: likewise.
        clock: the times.
        owed: ledgers with sets outside; who may sell is alike.
        segment: segment code of each account.
        valid: whether it is an account and no padding.
        num_segments: number of segment labels.
        blocks: how the tile is cut.
        multipliers: whether break-even multipliers are looked for.
        differs: which leaves of ``(tables, params)`` those are.
    """
    numbers = tables, params
    of_leaves = [0 if mine else None for mine in differs]
    of_numbers = jax.tree.unflatten(jax.tree.structure(numbers), of_leaves)
    of_owed: Any = None if owed is None else (0, None)

    def one(state: AccountState, owed: Any, numbers: Any) -> Through:
        debts = None if owed is None else Owed(*owed)
        given = book, state, *numbers, clock, debts, segment, valid
        static = {"num_segments": num_segments, "blocks": blocks, "multipliers": multipliers}
        return through_window(*given, **static)

    by_set = states, None if owed is None else tuple(owed), numbers
    return jax.vmap(one, in_axes=(0, of_owed, of_numbers))(*by_set)


def _times_last(params: Any, time_ids: Int[Array, " time"]) -> Any:
    """Numbers with times first as kernels take those of several times: last, tier tables once."""
    first = jnp.argmax(time_ids >= 0)

    def turned(x: Any) -> Any:
        if isinstance(x, TIER_TABLES):
            return jax.tree.map(lambda table: table[first], x)
        return jnp.moveaxis(x, 0, -1)

    return jax.tree.map(turned, params, is_leaf=lambda x: isinstance(x, TIER_TABLES))


class _Debts(NamedTuple):
    """What debts move in a window: at its end, by time, and whether assets were sold."""

    ledger: Ledger
    changes: Float[Array, "time holding account"]
    sold: Bool[Array, "time account"]


def _moved_by_debts(
    apart: Apart,
    exposures: Exposures,
    book: Book,
    tables: Table,
    owed: Owed,
    clock: Clock,
    params: Any,
) -> _Debts:
    """One time after another: what debts move at one is there at the next."""
    held = apart(debts.held_by, exposures, book, tables)
    before = owed.ledger
    totals = before.interest_usd, before.converted_usd, before.conversions

    def at(so_far: Moved, now: Any) -> tuple[Moved, tuple[Array, Array]]:
        k, time_id, hours, rules = now
        inputs = so_far, held.at(k), owed.may_sell, hours, rules
        moved = computed_apart(time_id >= 0, debts.step, *inputs, otherwise=so_far)
        return moved, (moved[0], moved[3] > so_far[3])

    each = jnp.arange(len(clock.time_ids)), clock.time_ids, clock.hours, params.account
    start = debts.at_start(before, book), *totals
    (change, *totals), (changes, sold) = jax.lax.scan(at, start, each)
    by_currency = debts.by_currency(change, book, len(before.change_units))
    return _Debts(Ledger(by_currency, *totals), changes, sold)


def _advanced(
    state: AccountState, margin: AccountMargin, time_id: Int[Array, ""], rules: AccountRules
) -> tuple[AccountState, Int[Array, " account"]]:
    step = jax.vmap(episodes.advance, in_axes=(0, 0, None, None))
    return step(state, margin, time_id, rules)


@kept()
def stages(
    book: Book, table: Table, params: Any, is_needed: Bool[Array, ""]
) -> tuple[Exposures, UnitMargin, AccountMargin, Multipliers]:
    """Exposures, units, accounts and break-even multipliers of a tile at one time.

    ``is_needed`` must be true; see ``computed_apart``.
    """
    apart = partial(computed_apart, is_needed)
    exposures = apart(account.batch_exposures, book, table, params)
    units, margin = account.batch_margin(apart, exposures, book, table, params)
    free = dict.fromkeys(margin.charges, jnp.full(margin.status.shape, jnp.inf))
    theta = apart(partial(account.batch_theta, apart), units, margin, params, free)
    return exposures, units, margin, theta


def _sums_of(
    num_segments: int,
    names: tuple[str, ...],
    margin: AccountMargin,
    codes: UInt8[Array, " account"],
    segment: Int[Array, " account"],
    valid: Bool[Array, " account"],
) -> Int[Array, "segment column"]:
    """Counts and money over the accounts of a tile by segment at one time; unpriced left out.

    A product of whole numbers in float64: exact below 2^53 units, 0.9 trillion USD a tile.
    """
    codes = codes.astype(jnp.int32)
    state = codes & episodes.STATUS_MASK
    started = (codes & episodes.STARTED) > 0
    priced = state != status.UNPRICED
    counted = [state == k for k in range(len(STATUS_COUNTS))] + [started]
    gross = margin.gross_notional_usd
    money = [
        margin.equity_usd,
        margin.adjusted_equity,
        gross,
        jnp.where(started, gross, 0.0),
        *(margin.charges[name] for name in names),
        margin.derivatives_mmr,
        margin.total_mmr,
        margin.total_imr,
    ]
    whole = [jnp.round(jnp.where(priced, x, 0.0) / SUM_UNIT_USD) for x in money]
    columns = jnp.stack([c.astype(jnp.float64) for c in counted] + whole)
    mine = valid[None, :] & (
        segment[None, :] == jnp.arange(num_segments, dtype=segment.dtype)[:, None]
    )
    sums = jnp.einsum("ka,ga->gk", columns, mine.astype(jnp.float64), precision="highest")
    return sums.astype(jnp.int64)


@kept("num_segments", "names")
def sum_up(
    margin: AccountMargin,
    codes: UInt8[Array, "time account"],
    segment: Int[Array, " account"],
    valid: Bool[Array, " account"],
    num_segments: int,
    names: tuple[str, ...],
) -> Int[Array, "time segment column"]:
    """Counts and money over the accounts of a tile by time and segment; unpriced left out.

    ``names`` are the charges in the order of the columns.
    """

    def at(now: tuple[AccountMargin, Array]) -> Array:
        return _sums_of(num_segments, names, *now, segment, valid)

    return jax.lax.map(at, (margin, codes))


@kept()
def binding(
    book: Book, tables: Table, params: Any, at: Int[Array, ""]
) -> tuple[Array, Array, Array]:
    """What binds each account of a tile at time ``at``: its largest unit and grid cell.

    Returns:
        (unit ordinal [account], cell of the model's grid [account], charges of every unit in the
        model's order [charge, unit, account]).
    """
    apart = partial(computed_apart, at >= 0)
    table = jax.tree.map(lambda x: x[..., at], tables)
    params = jax.tree.map(lambda x: x[at], params)
    exposures = apart(account.batch_exposures, book, table, params)
    found = apart(account.batch_charges, exposures, book, table, params)
    units = apart(account.binding_units, *found, exposures, params)
    unit = jnp.argmax(units.mmr_usd, axis=0)
    grids = apart(unit_grids, exposures, units, book, table, params)
    cells = jax.vmap(jax.vmap(_worst_cell))(grids)
    charges = jnp.stack([units.charges[name] for name in model_of(params).charges])
    return unit, jnp.take_along_axis(cells, unit[None, :], 0)[0], charges


def unit_grids(
    exposures: Exposures, units: UnitMargin, book: Book, table: Table, params: Any
) -> Float[Array, "unit account cell"]:
    """USD profit of each unit in the cells of its model's grid, in the portfolio that binds."""
    model = model_of(params)

    def one(exposure: Any, worst: Array, coin: Array, spot: Array) -> Array:
        chosen = jax.tree.map(lambda x: x[worst], exposure)
        return model.grid(chosen, coin, of_coin(table.currency_usd, coin), spot, params)

    parts, start = [], 0
    for part in exposures:
        if part is not None:
            rows = slice(start, start + part.coin_value.shape[1])
            start = rows.stop
            over_accounts = jax.vmap(one, in_axes=(1, 0, 0, 0))
            over_units = jax.vmap(over_accounts, in_axes=(1, 0, 0, 0))
            held = units.portfolio[rows], book.unit_coin[rows], units.spot_coin[rows]
            parts.append(over_units(part, *held))
    return jnp.concatenate(parts)


def _worst_cell(cells: Float[Array, " cell"]) -> Int[Array, ""]:
    """Cell of the worst loss; ties go to unchanged volatility, the middle one of three."""
    unchanged = jnp.argmin(cells[1::3])
    best = jnp.argmin(cells)
    is_tie = cells[1::3][unchanged] <= cells[best]
    return jnp.where(is_tie, unchanged * 3 + 1, best)
