"""The compiled programs of a run: pricing the contracts, and one tile through a window.

A tile goes through the times one after another, and at each time through the stages of
``kernels.account``, each of them computed apart: what passes from stage to stage is stored once and
stays in the cache of a processor core.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

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
from kernels.records import AccountMargin, Book, Contract, Quote, Table, UnitMargin, Values
from kernels.table import model_columns, shared_features
from kernels.tiers import of_coin


SUM_UNIT_USD = 1e-4
"""Sums over accounts count in hundredths of a cent as integers: exact in any order."""

STATUS_COUNTS = status.STATUS_NAMES[: status.QUARANTINED]
VOL_STATES = ("down", "same", "up")
"""Volatility states of a model's grid, innermost in its cells."""
COUNT_COLUMNS = (*STATUS_COUNTS, "episodes_started")


def sum_columns(model: MarginModel) -> tuple[str, ...]:
    """Columns of the sums over accounts: counts, then money."""
    money = ("equity_usd", "adjusted_equity", "gross_notional_usd", "liquidated_notional_usd")
    totals = ("derivatives_mmr", "total_mmr", "total_imr")
    return (*COUNT_COLUMNS, *money, *model.charges, *totals)


@kept()
def priced_features(
    contracts: Contract, quotes: Quote, now_s: Array, currency_usd: Array
) -> tuple[Float[Array, "time instrument feature"], Float[Array, "time instrument order_term"]]:
    """Features and order terms of every contract at every time, for all parameter sets."""
    return jax.vmap(shared_features, in_axes=(None, 0, 0, 0))(
        contracts, quotes, now_s, currency_usd
    )


@kept()
def priced_columns(
    contracts: Contract,
    quotes: Quote,
    features: Array,
    now_s: Array,
    currency_usd: Array,
    params: Any,
) -> tuple[Array, Array, Array]:
    """Columns, scenarios and rates of one parameter set at every time (``model_columns``)."""
    return jax.vmap(model_columns, in_axes=(None, 0, 0, 0, 0, 0))(
        contracts, quotes, features, now_s, currency_usd, params
    )


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


@kept("num_segments")
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
) -> Through:
    """Score a tile at every time of a window and advance its states; padded times change nothing.

    Args:
        book: the accounts of the tile.
        state: their states before.
        tables: priced, times first.
        params: numbers of the set, times first.
        clock: the times.
        owed: what debts have moved before, None = they move nothing.
        segment: segment code of each account.
        valid: whether it is an account and no padding.
        num_segments: number of segment labels.
    """
    moved = None
    if owed is not None:
        totals = owed.ledger.interest_usd, owed.ledger.converted_usd, owed.ledger.conversions
        moved = debts.at_start(owed.ledger, book), *totals
    names = tuple(model_of(params).charges)

    def at(so_far: tuple[AccountState, Moved | None], now: Any) -> Any:
        state, moved = so_far
        table, rules, (time_id, hours) = now
        apart = partial(computed_apart, time_id >= 0)
        exposures = apart(account.batch_exposures, book, table, rules)
        held, bits = book, jnp.uint8(0)
        if owed is not None:
            assert moved is not None
            inputs = moved, exposures, book, table, owed.may_sell, hours, rules
            before, moved = moved, apart(_moved, *inputs, otherwise=moved)
            held = debts.with_changes(book, moved[0])
            bits = jnp.where(moved[3] > before[3], episodes.CONVERTED, 0).astype(jnp.uint8)
        units, margin = account.batch_margin(apart, exposures, held, table, rules)
        theta = apart(account.batch_theta, units, margin, rules, state.theta, otherwise=state.theta)
        state = eqx.tree_at(lambda s: s.theta, state, theta)
        none = state, jnp.zeros_like(margin.status)
        state, code = apart(_advanced, state, margin, time_id, rules.account, otherwise=none)
        codes = code.astype(jnp.uint8) | bits
        sums = apart(partial(_sums_of, num_segments, names), margin, codes, segment, valid)
        changes = None if moved is None else moved[0]
        return (state, moved), (margin, codes, sums, changes)

    times = tables, params, clock
    (state, moved), (margin, codes, sums, changes) = jax.lax.scan(at, (state, moved), times)
    ledger = None if owed is None or moved is None else _ledger(moved, owed.ledger, book)
    return Through(state, margin, codes, sums, ledger, changes)


def _ledger(moved: Moved, before: Ledger, book: Book) -> Ledger:
    change, *totals = moved
    return Ledger(debts.by_currency(change, book, len(before.change_units)), *totals)


def _advanced(
    state: AccountState, margin: AccountMargin, time_id: Int[Array, ""], rules: AccountRules
) -> tuple[AccountState, Int[Array, " account"]]:
    step = jax.vmap(episodes.advance, in_axes=(0, 0, None, None))
    return step(state, margin, time_id, rules)


def _moved(
    so_far: Moved,
    exposures: Exposures,
    book: Book,
    table: Table,
    may_sell: Bool[Array, " account"],
    hours: Float[Array, ""],
    rules: Any,
) -> Moved:
    held = debts.held_by(exposures, book, table)
    return debts.step(so_far, held, may_sell, hours, rules.account)


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
    return exposures, units, margin, apart(account.batch_theta, units, margin, params, free)


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
    """What binds each account of a tile at time ``at``: its largest unit, grid cell and charges.

    Returns:
        (unit ordinal [account], cell of the model's grid [account], charges of that unit in the
        model's order [charge, account]).
    """
    apart = partial(computed_apart, at >= 0)
    table, params = jax.tree.map(lambda x: x[at], (tables, params))
    exposures = apart(account.batch_exposures, book, table, params)
    found = apart(account.batch_charges, exposures, book, table, params)
    units = apart(account.binding_units, *found, exposures, params)
    unit = jnp.argmax(units.mmr_usd, axis=0)
    grids = apart(unit_grids, exposures, units, book, table, params)
    cells = jax.vmap(jax.vmap(_worst_cell))(grids)
    pick = unit[None, :]
    charges = jnp.stack(
        [jnp.take_along_axis(units.charges[name], pick, 0)[0] for name in model_of(params).charges]
    )
    return unit, jnp.take_along_axis(cells, pick, 0)[0], charges


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
