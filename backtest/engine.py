"""The only place that compiles, places on devices and chooses dtypes.

Accounts come in tiles of a fixed size, times in windows of a fixed length, so that each shape
class compiles once. Inside a tile the stages run over the times of the window one after another
(exposures, units, accounts, multipliers), which keeps a tile in cache and hands each stage its
input once; the account states then advance through the times.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt8

from backtest import precision as precision
from backtest.batching import Batch
from backtest.market_window import MarketWindow
from backtest.scores import Scores
from backtest.settle import near_a_threshold, some_of, with_accounts
from backtest.window_records import Debts, TileResult, WindowTables, by_account
from kernels import account, debts, episodes, status
from kernels.account import Exposures
from kernels.breakeven import Multipliers
from kernels.debts import Ledger
from kernels.episodes import AccountState
from kernels.model import MarginModel
from kernels.models import model_of
from kernels.records import AccountMargin, Book, Contract, Quote, Table, UnitMargin
from kernels.table import model_columns, shared_features
from kernels.tiers import of_coin


SUM_UNIT_USD = 1e-4
"""Sums over accounts count in hundredths of a cent as integers: exact in any order."""

INSTRUMENT_STEP = 256
"""The instrument axis is padded to 256, 512, 768, 1152, 1728 ... contracts."""

TILE_ACCOUNTS = 1024
"""Accounts of a tile that stays in the cache of a processor core."""
WIDE_LEGS, WIDE_NARROWING = 32, 2
"""Books with this many option legs take tiles this much smaller."""
LEAST_TILE, TILE_ACCOUNT_TIMES = 8_192, 24 * 131_072
"""Accelerators take tiles from this many accounts up to this many account-times: enough work for
all their units, and the numbers of a tile within a few GB."""

STATUS_COUNTS = status.STATUS_NAMES[: status.QUARANTINED]
VOL_STATES = ("down", "same", "up")
"""Volatility states of a model's grid, innermost in its cells."""
COUNT_COLUMNS = (*STATUS_COUNTS, "episodes_started")


def sum_columns(model: MarginModel) -> tuple[str, ...]:
    """Columns of the sums over accounts: counts, then money."""
    money = ("equity_usd", "adjusted_equity", "gross_notional_usd", "liquidated_notional_usd")
    totals = ("derivatives_mmr", "total_mmr", "total_imr")
    return (*COUNT_COLUMNS, *money, *model.charges, *totals)


def over_times(params: Any, count: int) -> Any:
    """One parameter record for every time of a window: the form that the engine takes."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), params)


def stacked(params: list[Any]) -> Any:
    """Parameter records of one model, one a time."""
    return jax.tree.map(lambda *x: jnp.stack(x), *params)


def use_compilation_cache(folder: Path | None = None) -> None:
    """Keep compiled programs on disk (``PMSTRESS_CACHE``, default the user's cache folder)."""
    named = os.environ.get("PMSTRESS_CACHE")
    root = folder or Path(named or Path.home() / ".cache" / "pmstress")
    root.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(root / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def initial_state(num_accounts: int, model: MarginModel) -> AccountState:
    """State of accounts before the first time; account axis last, as host arrays."""

    def full(value: Any, dtype: Any) -> np.ndarray:
        return np.full(num_accounts, value, dtype)

    return AccountState(
        is_warned=full(False, bool),
        in_episode=full(False, bool),
        is_bankrupt=full(False, bool),
        episodes=full(0, np.int32),
        first_time=full(-1, np.int32),
        scored=full(0, np.int32),
        unpriced=full(0, np.int32),
        liquidation_times=full(0, np.int32),
        worst_level=full(np.inf, np.float64),
        worst_time=full(-1, np.int32),
        worst_adjusted_equity=full(np.nan, np.float64),
        worst_equity_usd=full(np.nan, np.float64),
        worst_total_mmr=full(np.nan, np.float64),
        worst_charges={name: full(np.nan, np.float64) for name in model.charges},
        lowest_equity_usd=full(np.inf, np.float64),
        theta={name: full(np.inf, np.float64) for name in model.charges},
    )


class Engine:
    """Compiled programs of one run.

    Args:
        precision: dtype of the scenario columns, "float64" or "float32"; all else is float64.
        tile_accounts: accounts a tile and device, None = as suits the device.
        num_segments: number of segment labels.
        devices: devices to share the accounts of a tile group; default all.
    """

    def __init__(
        self,
        precision: str = "float64",
        tile_accounts: int | None = None,
        num_segments: int = 1,
        devices: list[Any] | None = None,
    ) -> None:
        self.hot_dtype = jnp.dtype(precision)
        self.num_segments = num_segments
        self.devices = devices or jax.local_devices()
        self._tile_accounts = tile_accounts
        self._sharding = None
        if len(self.devices) > 1:
            self._sharding = NamedSharding(
                Mesh(np.asarray(self.devices), ("account",)), PartitionSpec()
            )

    def price(
        self, window: MarketWindow, contracts: Contract, sets: list[Any]
    ) -> list[WindowTables]:
        """Price every contract once per time and set.

        Args:
            window: the market at each time.
            contracts: the instrument axis.
            sets: parameter records of any models, each with a leading time axis (``over_times``).
        """
        quotes = Quote(
            mark=window.mark,
            forward_usd=window.forward_usd,
            iv=window.iv,
            settlement=window.settlement,
            settlement_fx=window.settlement_fx,
            funding=window.funding,
        )
        contracts, quotes = jax.tree.map(_padded_instruments, (contracts, quotes))
        now_s = window.times_us / 1e6
        features, order_terms = _features(contracts, quotes, now_s, window.currency_usd)
        priced = []
        for params in sets:
            columns, scenarios, rates = _columns(
                contracts, quotes, features, now_s, window.currency_usd, params
            )
            table = Table(
                features=features,
                columns=columns,
                scenarios=scenarios.astype(self.hot_dtype),
                order_terms=order_terms,
                currency_usd=jnp.asarray(window.currency_usd),
                rates=rates,
            )
            exact = None
            if self.hot_dtype != scenarios.dtype:
                exact = eqx.tree_at(lambda t: t.scenarios, table, scenarios)
            priced.append(WindowTables(table, params, exact))
        return priced

    def replay(
        self,
        batch: Batch,
        state: AccountState,
        priced: WindowTables,
        segment: np.ndarray,
        time_ids: np.ndarray,
        debts: Debts | None = None,
    ) -> TileResult:
        """Score a batch over a window and advance its states.

        Args:
            batch: accounts of one shape class.
            state: their states, host arrays.
            priced: tables of the window (its times may be padded: ``time_ids`` < 0).
            segment: segment code of each account.
            time_ids: index of each time on the run's grid, -1 = padding.
            debts: what debts move, None = nothing.
        """
        size, tile = len(batch.accounts), self.tile_size(batch, len(time_ids))
        results = []
        for start in range(0, size, tile):
            part = slice(start, min(start + tile, size))
            results.append(self._tile(batch, state, priced, segment, time_ids, debts, part))
        result = _join(results, size)
        if priced.exact is None:
            return result
        level = result.scores.field("margin_level")
        near = near_a_threshold(level, priced.params.account, time_ids >= 0)
        who = np.flatnonzero(near.any(axis=0))
        if not len(who):
            return result
        some = some_of(batch, who)
        exact = WindowTables(priced.exact, priced.params)
        part = jax.tree.map(lambda x: x[..., who], (state, debts and debts.ledger))
        moving = None if debts is None else Debts(part[1], debts.hours, debts.converts)
        settled = self.replay(some, part[0], exact, segment[who], time_ids, moving)
        before = self._summed(
            some, result.scores.of(who), result.codes[:, who], segment[who], priced
        )
        state, codes, ledger, changes = with_accounts(by_account(result), who, by_account(settled))
        scores = result.scores.replaced(who, settled.scores)
        sums = result.sums - before + settled.sums
        return TileResult(state, codes, scores, sums, ledger, changes, int(near.sum()))

    def _summed(
        self,
        batch: Batch,
        margin: AccountMargin,
        codes: np.ndarray,
        segment: np.ndarray,
        priced: WindowTables,
    ) -> np.ndarray:
        """Sums over the accounts of a batch, tile by tile."""
        tile, count = self.tile_size(batch, len(codes)), len(batch.accounts)
        total = 0
        for start in range(0, count, tile):
            part = slice(start, min(start + tile, count))
            cut = jax.tree.map(
                lambda x, part=part: _padded(np.asarray(x), part, tile),
                (margin, codes, segment.astype(np.int32)),
            )
            valid = np.arange(tile) < part.stop - part.start
            names = tuple(priced.model.charges)
            total = total + np.asarray(_sums(*cut, valid, self.num_segments, names))
        return np.asarray(total)

    def tile_size(self, batch: Batch, num_times: int) -> int:
        """Accounts a tile over all devices, of a window of some times.

        On processors wide books take smaller tiles to stay in cache. Accelerators take the whole
        batch where it fits, in powers of two, so that few sizes are compiled.
        """
        count = len(self.devices)
        if self._tile_accounts is None and self.devices[0].platform != "cpu":
            most = max(LEAST_TILE, 1 << (TILE_ACCOUNT_TIMES // num_times).bit_length() - 1)
            needed = 1 << (-(-len(batch.accounts) // count) - 1).bit_length()
            return min(most, max(LEAST_TILE, needed)) * count
        tile = self._tile_accounts or TILE_ACCOUNTS
        narrowing = WIDE_NARROWING if batch.shape.option_legs >= WIDE_LEGS else 1
        return max(8, tile // narrowing) * count

    def _tile(
        self,
        batch: Batch,
        state: AccountState,
        priced: WindowTables,
        segment: np.ndarray,
        time_ids: np.ndarray,
        moving: Debts | None,
        part: slice,
    ) -> TileResult:
        count = part.stop - part.start
        padded = self.tile_size(batch, len(time_ids))

        def cut(x: Any) -> Any:
            return self._place(_padded(np.asarray(x), part, padded))

        book = self._tile_book(batch, part, cut)
        mine = jax.tree.map(cut, state)
        valid = self._place(np.arange(padded) < count)
        window = priced.tables, priced.params
        exposures = _exposures(book, *window)
        ledger = changes = moved = None
        if moving is not None:
            before = jax.tree.map(cut, moving.ledger)
            clock = moving.hours, time_ids >= 0, np.asarray(moving.converts)
            ledger, changes, moved = _debts(exposures, book, *window, before, *clock)
        units, margin = _margins(exposures, book, *window, changes)
        ids = time_ids.astype(np.int32)
        lowest = _theta(units, margin, priced.params, mine.theta, ids)
        mine = eqx.tree_at(lambda state: state.theta, mine, lowest)
        new_state, codes = _advance(mine, margin, ids, priced.params)
        if moved is not None:
            codes = codes | moved
        names = tuple(priced.model.charges)
        sums = _sums(margin, codes, cut(segment.astype(np.int32)), valid, self.num_segments, names)

        def keep(x: np.ndarray) -> np.ndarray:
            return x[..., :count]

        sums = np.asarray(sums)
        results = jax.device_get((new_state, codes, ledger, changes))
        state, codes, ledger, changes = jax.tree.map(keep, results)
        return TileResult(state, codes, Scores([margin], count), sums, ledger, changes)

    def _tile_book(self, batch: Batch, part: slice, cut: Callable[[Any], Any]) -> Book:
        """A tile's book on its devices, kept with the batch for the next window and set."""
        key = (id(self), part.start)
        if key not in batch.tiles:
            batch.tiles[key] = jax.tree.map(lambda x: jnp.asarray(cut(x)), batch.book)
        return batch.tiles[key]

    def _place(self, x: np.ndarray) -> Any:
        """Spread the account axis (the last one) over the devices."""
        if self._sharding is None:
            return x
        spec = PartitionSpec(*([None] * (x.ndim - 1)), "account")
        return jax.device_put(x, NamedSharding(self._sharding.mesh, spec))


def _padded_instruments(x: Any) -> np.ndarray:
    """The instrument axis (the last one) filled up with the null contract it begins with.

    A few lengths serve all datasets, so that they share compiled programs.
    """
    x = np.asarray(x)
    count = x.shape[-1]
    length = INSTRUMENT_STEP
    while length < count:
        length += max(INSTRUMENT_STEP, length // 2)
    return np.concatenate([x, np.repeat(x[..., :1], length - count, axis=-1)], axis=-1)


def _padded(x: np.ndarray, part: slice, size: int) -> np.ndarray:
    """A slice of the last axis, filled up with zeros."""
    piece = x[..., part]
    if piece.shape[-1] == size:
        return piece
    out = np.zeros((*piece.shape[:-1], size), piece.dtype)
    out[..., : piece.shape[-1]] = piece
    return out


def _join(results: list[TileResult], num_accounts: int) -> TileResult:
    if len(results) == 1:
        return results[0]

    def concatenate(*parts: np.ndarray) -> np.ndarray:
        return np.concatenate(parts, axis=-1)

    # What is None stays None.
    parts = jax.tree.map(concatenate, *[by_account(r) for r in results])
    state, codes, ledger, changes = parts
    scores = Scores([tile for r in results for tile in r.scores.tiles], num_accounts)
    return TileResult(
        state, codes, scores, np.sum([r.sums for r in results], axis=0), ledger, changes
    )


@jax.jit
def _features(
    contracts: Contract, quotes: Quote, now_s: Array, currency_usd: Array
) -> tuple[Float[Array, "time instrument feature"], Float[Array, "time instrument order_term"]]:
    return jax.vmap(shared_features, in_axes=(None, 0, 0, 0))(
        contracts, quotes, now_s, currency_usd
    )


@jax.jit
def _columns(
    contracts: Contract,
    quotes: Quote,
    features: Array,
    now_s: Array,
    currency_usd: Array,
    params: Any,
) -> tuple[Array, Array, Array]:
    return jax.vmap(model_columns, in_axes=(None, 0, 0, 0, 0, 0))(
        contracts, quotes, features, now_s, currency_usd, params
    )


@jax.jit
def _exposures(book: Book, tables: Table, params: Any) -> Exposures:
    return jax.lax.map(lambda x: account.batch_exposures(book, *x), (tables, params))


Changes = Float[Array, "time holding account"] | None
"""What debts have moved since the snapshot, None = nothing."""


@jax.jit
def _debts(
    exposures: Exposures,
    book: Book,
    tables: Table,
    params: Any,
    ledger: Ledger,
    hours: Float[Array, " time"],
    is_real: Bool[Array, " time"],
    converts: Bool[Array, ""],
) -> tuple[Ledger, Changes, UInt8[Array, "time account"]]:
    """Ledger after the window, what debts have moved by each time, and the event bits."""
    may_sell = ~book.auto_borrows & converts

    def through_time(so_far: debts.Moved, now: Any) -> tuple[debts.Moved, tuple[Array, Array]]:
        exposure, table, rules, hours, is_real = now
        held = debts.held_by(exposure, book, table)
        new = debts.step(so_far, held, may_sell, hours, rules)
        kept = jax.tree.map(lambda x, old: jnp.where(is_real, x, old), new, so_far)
        bits = jnp.where(kept[3] > so_far[3], episodes.CONVERTED, 0)
        return kept, (kept[0], bits.astype(jnp.uint8))

    start = ledger.interest_usd, ledger.converted_usd, ledger.conversions
    times = exposures, tables, params.account, hours, is_real
    before = debts.at_start(ledger, book), *start
    (change, *totals), (changes, bits) = jax.lax.scan(through_time, before, times)
    after = debts.by_currency(change, book, len(ledger.change_units))
    return Ledger(after, *totals), changes, bits


@jax.jit
def _units(
    exposures: Exposures, book: Book, tables: Table, params: Any, changes: Changes = None
) -> UnitMargin:
    def at(x: Any) -> UnitMargin:
        exposure, table, rules, change = x
        return account.batch_units(exposure, _changed(book, change), table, rules)

    return jax.lax.map(at, (exposures, tables, params, changes))


@jax.jit
def _totals(
    units: UnitMargin, book: Book, tables: Table, params: Any, changes: Changes = None
) -> AccountMargin:
    def at(x: Any) -> AccountMargin:
        unit, table, rules, change = x
        return account.batch_totals(unit, _changed(book, change), table, rules)

    return jax.lax.map(at, (units, tables, params, changes))


def _changed(book: Book, change: Array | None) -> Book:
    return book if change is None else debts.with_changes(book, change)


@jax.jit
def _theta(
    units: UnitMargin,
    margin: AccountMargin,
    params: Any,
    lowest: Multipliers,
    time_ids: Int[Array, " time"],
) -> Multipliers:
    """Lowest break-even multipliers after the window."""

    def through_time(lowest: Multipliers, now: Any) -> tuple[Multipliers, None]:
        units, margin, rules, time_id = now
        lower = account.batch_theta(units, margin, rules, lowest)
        return jax.tree.map(lambda x, old: jnp.where(time_id >= 0, x, old), lower, lowest), None

    return jax.lax.scan(through_time, lowest, (units, margin, params, time_ids))[0]


@jax.jit
def _advance(
    state: AccountState,
    margin: AccountMargin,
    time_ids: Int[Array, " time"],
    params: Any,
) -> tuple[AccountState, UInt8[Array, "time account"]]:
    step = jax.vmap(episodes.advance, in_axes=(0, 0, None, None))

    def through_time(state: AccountState, now: tuple[AccountMargin, Array, Any]):
        margin_now, time_id, rules = now
        new_state, code = step(state, margin_now, time_id, rules)
        kept = jax.tree.map(lambda new, old: jnp.where(time_id >= 0, new, old), new_state, state)
        return kept, code.astype(jnp.uint8)

    return jax.lax.scan(through_time, state, (margin, time_ids, params.account))


def stages_over_times(
    book: Book, tables: Table, params: Any
) -> tuple[Exposures, UnitMargin, AccountMargin, Multipliers]:
    """Exposures, units and accounts of a tile at every time of a window, times first.

    Last its lowest break-even multipliers. Each stage is a program of its own over all times: it
    stores its output once, so that no later stage computes it again (one fused program recomputes,
    and takes longer to compile and to run).
    """
    exposures = _exposures(book, tables, params)
    units, margin = _margins(exposures, book, tables, params)
    free = jnp.full(margin.status.shape[1], jnp.inf)
    times = np.arange(len(margin.status), dtype=np.int32)
    lowest = _theta(units, margin, params, dict.fromkeys(margin.charges, free), times)
    return exposures, units, margin, lowest


def _margins(
    exposures: Exposures, book: Book, tables: Table, params: Any, changes: Changes = None
) -> tuple[UnitMargin, AccountMargin]:
    units = _units(exposures, book, tables, params, changes)
    return units, _totals(units, book, tables, params, changes)


@partial(jax.jit, static_argnames=("num_segments", "names"))
def _sums(
    margin: AccountMargin,
    codes: UInt8[Array, "time account"],
    segment: Int[Array, " account"],
    valid: Bool[Array, " account"],
    num_segments: int,
    names: tuple[str, ...],
) -> Int[Array, "time segment column"]:
    """Counts and money over the accounts of a tile by time and segment; unpriced left out.

    ``names`` are the charges in the order of the columns.

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
    columns = jnp.stack([c.astype(jnp.float64) for c in counted] + whole, axis=1)
    mine = valid[None, :] & (
        segment[None, :] == jnp.arange(num_segments, dtype=segment.dtype)[:, None]
    )
    sums = jnp.einsum("tka,ga->tgk", columns, mine.astype(jnp.float64), precision="highest")
    return sums.astype(jnp.int64)


@jax.jit
def binding(
    book: Book, tables: Table, params: Any, at: Int[Array, ""]
) -> tuple[Array, Array, Array]:
    """What binds each account of a tile at time ``at``: its largest unit, grid cell and charges.

    Returns:
        (unit ordinal [account], cell of the model's grid [account], charges of that unit in the
        model's order [charge, account]).
    """
    table, params = jax.tree.map(lambda x: x[at], (tables, params))
    exposures = account.batch_exposures(book, table, params)
    units = account.batch_units(exposures, book, table, params)
    unit = jnp.argmax(units.mmr_usd, axis=0)
    grids = unit_grids(exposures, units, book, table, params)
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
