"""The only place that places on devices and chooses dtypes; with its programs, that compiles.

Accounts come in tiles of a fixed size, times in windows of a fixed length, so that each shape
class compiles once. What is compiled stands in ``price_programs`` and ``tile_programs``.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from backtest import precision as precision
from backtest.batching import Batch
from backtest.kept_programs import keep_programs
from backtest.market_window import MarketWindow
from backtest.price_programs import priced_columns, priced_features
from backtest.scores import Scores
from backtest.settle import near_a_threshold, some_of, with_accounts
from backtest.tile_arrays import (
    all_equal,
    joined_tiles,
    joined_times,
    padded_instruments,
    padded_piece,
)
from backtest.tile_programs import (
    Blocks,
    Clock,
    Owed,
    Through,
    sum_up,
    through_window,
    through_window_together,
)
from backtest.window_records import (
    Debts,
    SetTables,
    TileResult,
    WindowTables,
    by_account,
    result_of_set,
)
from kernels.episodes import AccountState
from kernels.model import MarginModel
from kernels.records import AccountMargin, Book, Contract, Quote, Table


BLOCK_INSTRUMENTS = 32
"""Contracts of a block that a processor core prices at once, at the times of a window."""

TILE_ACCOUNTS = 1024
"""Most accounts of a tile on a processor core."""
TILE_ACCOUNT_TIMES_SETS = 65_536
"""Of a tile on a processor core: a tile that is not full costs nearly as much as one that is."""
BLOCK_ACCOUNT_TIMES = 1536
"""Of a block of accounts over a window, whose numbers stay in the cache of a processor core."""
WIDE_LEGS, WIDE_NARROWING = 32, 2
"""Books with this many option legs take blocks this much smaller."""
TOGETHER_ACCOUNT_TIMES_SETS = 3072
"""Of a block under several parameter sets, which share a good part of their numbers."""
LEAST_TILE, TILE_ACCOUNT_TIMES = 8_192, 24 * 131_072
"""Accelerators take tiles from this many accounts up to this many account-times: enough work for
all their units, and the numbers of a tile within a few GB."""


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
    keep_programs(root / "programs")
    jax.config.update("jax_compilation_cache_dir", str(root / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def initial_state(
    num_accounts: int, model: MarginModel, *, multipliers: bool = True
) -> AccountState:
    """State of accounts before the first time; account axis last, as host arrays.

    Break-even multipliers that nobody looks for are NaN.
    """

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
        theta={name: full(np.inf if multipliers else np.nan, np.float64) for name in model.charges},
    )


class Engine:
    """Compiled programs of one run.

    Args:
        precision: dtype of the scenario columns, "float64" or "float32"; all else is float64.
        tile_accounts: accounts a tile and device, None = as suits the device.
        num_segments: number of segment labels.
        devices: devices to share the accounts of a tile group; default all.
        multipliers: whether break-even multipliers are looked for.
    """

    def __init__(
        self,
        precision: str = "float64",
        tile_accounts: int | None = None,
        num_segments: int = 1,
        devices: list[Any] | None = None,
        *,
        multipliers: bool = True,
    ) -> None:
        self.hot_dtype = jnp.dtype(precision)
        self.num_segments, self.multipliers = num_segments, multipliers
        self.devices = devices or jax.local_devices()
        self._tile_accounts = tile_accounts
        self._differs: dict[Any, np.ndarray] = {}
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
        contracts, quotes = jax.tree.map(padded_instruments, (contracts, quotes))
        now_s = window.times_us / 1e6
        features, order_terms = priced_features(contracts, quotes, now_s, window.currency_usd)
        length = len(contracts.kind)
        blocks = 1 if self._accelerates else length // math.gcd(length, BLOCK_INSTRUMENTS)
        priced = []
        for params in sets:
            columns, scenarios, rates = priced_columns(
                contracts, quotes, features, now_s, window.currency_usd, params, blocks=blocks
            )
            table = Table(
                features=features,
                columns=columns,
                scenarios=scenarios.astype(self.hot_dtype),
                order_terms=order_terms,
                currency_usd=jnp.asarray(window.currency_usd.T),
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
        given = batch, state, priced, segment, time_ids, debts
        return self._settled(self._scored(*given), *given)

    def together(self, priced: list[WindowTables]) -> SetTables:
        """Tables of several sets for ``replay_together``; the sets must be ``are_alike``.

        What once differed counts as different in later windows too, so that few programs are
        compiled.
        """
        numbers = [(one.tables, one.params) for one in priced]
        leaves = list(zip(*map(jax.tree.leaves, numbers), strict=True))
        structure = jax.tree.structure(numbers[0])
        known = self._differs.get((structure, len(priced)), np.zeros(len(leaves), bool))
        differs = np.asarray([k or not all_equal(x) for k, x in zip(known, leaves, strict=True)])
        self._differs[structure, len(priced)] = differs
        joined = [
            jnp.stack(each) if mine else each[0] for each, mine in zip(leaves, differs, strict=True)
        ]
        tables, params = jax.tree.unflatten(structure, joined)
        return SetTables(priced, tables, params, tuple(differs.tolist()))

    def replay_together(
        self,
        batch: Batch,
        states: list[AccountState],
        sets: SetTables,
        segment: np.ndarray,
        time_ids: np.ndarray,
        debts: list[Debts] | None = None,
    ) -> list[TileResult]:
        """``replay`` of a batch under every set: the same numbers to the bit, but faster.

        Args:
            batch: accounts of one shape class.
            states: their states by set, host arrays.
            sets: tables of the window.
            segment: segment code of each account.
            time_ids: index of each time on the run's grid, -1 = padding.
            debts: by set; None = they move nothing.
        """
        if len(states) == 1:
            of_set = None if debts is None else debts[0]
            return [self.replay(batch, states[0], sets.each[0], segment, time_ids, of_set)]
        stacked: AccountState = jax.tree.map(lambda *x: np.stack(x), *states)
        moving = None
        if debts is not None:
            ledger = jax.tree.map(lambda *x: np.stack(x), *[one.ledger for one in debts])
            moving = Debts(ledger, debts[0].hours, debts[0].converts)
        found = self._scored(batch, stacked, sets, segment, time_ids, moving)
        results = []
        for k, (state, priced) in enumerate(zip(states, sets.each, strict=True)):
            of_set = None if debts is None else debts[k]
            mine = result_of_set(found, k)
            results.append(self._settled(mine, batch, state, priced, segment, time_ids, of_set))
        return results

    def _scored(
        self,
        batch: Batch,
        state: AccountState,
        priced: WindowTables | SetTables,
        segment: np.ndarray,
        time_ids: np.ndarray,
        debts: Debts | None,
    ) -> TileResult:
        """Every tile of a batch; where there are several sets, they are outside everywhere."""
        size, tile = len(batch.accounts), self.tile_size(batch, len(time_ids), _num_sets(priced))
        results = []
        for start in range(0, size, tile):
            part = slice(start, min(start + tile, size))
            results.append(self._tile(batch, state, priced, segment, time_ids, debts, part))
        return joined_tiles(results, size)

    def _settled(
        self,
        result: TileResult,
        batch: Batch,
        state: AccountState,
        priced: WindowTables,
        segment: np.ndarray,
        time_ids: np.ndarray,
        debts: Debts | None,
    ) -> TileResult:
        """With account-times near a threshold from float64."""
        if priced.exact is None:
            return result
        level = result.scores.field("margin_level")
        near = near_a_threshold(level, priced.params.account, time_ids >= 0)
        who = np.flatnonzero(near.any(axis=0))
        if not len(who):
            return result
        some = some_of(batch, who)
        part = jax.tree.map(lambda x: x[..., who], (state, debts and debts.ledger))
        moving = None if debts is None else Debts(part[1], debts.hours, debts.converts)
        settled = self.replay(some, part[0], priced.in_float64, segment[who], time_ids, moving)
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
                lambda x, part=part: padded_piece(np.asarray(x), part, tile),
                (margin, codes, segment.astype(np.int32)),
            )
            valid = np.arange(tile) < part.stop - part.start
            names = tuple(priced.model.charges)
            total = total + np.asarray(
                sum_up(*cut, valid, num_segments=self.num_segments, names=names)
            )
        return np.asarray(total)

    def tile_size(self, batch: Batch, num_times: int, num_sets: int = 1) -> int:
        """Accounts a tile over all devices, of a window of some times under some sets.

        A number of whole blocks. Accelerators take the whole batch where it fits, in powers of two,
        so that few sizes are compiled.
        """
        block = self._block_accounts(batch, num_times, num_sets)
        fitting = 1 << max(TILE_ACCOUNT_TIMES_SETS // (num_times * num_sets), 1).bit_length() - 1
        usual = block if self._accelerates else min(TILE_ACCOUNTS, fitting)
        wanted = self._tile_accounts or usual
        return -(-wanted // block) * block * len(self.devices)

    @property
    def _accelerates(self) -> bool:
        return self.devices[0].platform != "cpu"

    def _block_accounts(self, batch: Batch, num_times: int, num_sets: int) -> int:
        """Accounts a block and device, of a window of some times; at most a tile."""
        if self._accelerates:
            fitting = TILE_ACCOUNT_TIMES // (num_times * num_sets)
            most = max(LEAST_TILE, 1 << fitting.bit_length() - 1)
            needed = 1 << (-(-len(batch.accounts) // len(self.devices)) - 1).bit_length()
            block = min(most, max(LEAST_TILE, needed))
        else:
            narrowing = WIDE_NARROWING if batch.shape.option_legs >= WIDE_LEGS else 1
            room = TOGETHER_ACCOUNT_TIMES_SETS if num_sets > 1 else BLOCK_ACCOUNT_TIMES
            fitting = room // narrowing // (num_times * num_sets)
            block = max(8, 1 << max(fitting, 1).bit_length() - 1)
        return min(block, self._tile_accounts or block)

    def _tile(
        self,
        batch: Batch,
        state: AccountState,
        priced: WindowTables | SetTables,
        segment: np.ndarray,
        time_ids: np.ndarray,
        moving: Debts | None,
        part: slice,
    ) -> TileResult:
        count, num_sets = part.stop - part.start, _num_sets(priced)
        padded = self.tile_size(batch, len(time_ids), num_sets)

        def cut(x: Any) -> Any:
            return self._place(padded_piece(np.asarray(x), part, padded))

        book, state = self._tile_book(batch, part, padded, cut), jax.tree.map(cut, state)
        owed, hours = None, None
        if moving is not None:
            hours = moving.hours
            may_sell = ~book.auto_borrows & np.asarray(moving.converts)
            owed = Owed(jax.tree.map(cut, moving.ledger), may_sell)
        segment, valid = cut(segment.astype(np.int32)), self._place(np.arange(padded) < count)
        block = self._block_accounts(batch, len(time_ids), num_sets) * len(self.devices)
        blocks = Blocks(padded // block, len(self.devices))

        def through(mask: np.ndarray, state: AccountState, owed: Owed | None) -> Through:
            clock = Clock(np.where(mask, time_ids, -1).astype(np.int32), hours)
            given = book, state, priced.tables, priced.params, clock, owed, segment, valid
            static = {
                "num_segments": self.num_segments,
                "blocks": blocks,
                "multipliers": self.multipliers,
            }
            if isinstance(priced, WindowTables):
                return through_window(*given, **static)
            return through_window_together(*given, **static, differs=priced.differs)

        of_set = priced if isinstance(priced, WindowTables) else priced.each[0]
        first, *later = of_set.eras
        found = through(first, state, owed)
        for mask in later:
            if owed is not None:
                owed = owed._replace(ledger=found.ledger)
            found = joined_times(found, through(mask, found.state, owed), mask, num_sets > 1)

        def keep(x: np.ndarray) -> np.ndarray:
            return x[..., :count]

        sums = np.asarray(found.sums)
        results = jax.device_get((found.state, found.codes, found.ledger, found.changes))
        state, codes, ledger, changes = jax.tree.map(keep, results)
        return TileResult(state, codes, Scores([found.margin], count), sums, ledger, changes)

    def _tile_book(self, batch: Batch, part: slice, padded: int, cut: Callable[[Any], Any]) -> Book:
        """A tile's book on its devices, kept with the batch for the next window and set."""
        key = (id(self), part.start, padded)
        if key not in batch.tiles:
            batch.tiles[key] = jax.tree.map(lambda x: jnp.asarray(cut(x)), batch.book)
        return batch.tiles[key]

    def _place(self, x: np.ndarray) -> Any:
        """Spread the account axis (the last one) over the devices."""
        if self._sharding is None:
            return x
        spec = PartitionSpec(*([None] * (x.ndim - 1)), "account")
        return jax.device_put(x, NamedSharding(self._sharding.mesh, spec))


def _num_sets(priced: WindowTables | SetTables) -> int:
    return 1 if isinstance(priced, WindowTables) else len(priced.each)
