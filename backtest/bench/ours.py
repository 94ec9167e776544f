"""Our side: the engine as a replay calls it."""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from backtest.batching import Batch, Snapshot, batches
from backtest.bench.book import World
from backtest.bench.laps import seconds_of
from backtest.engine import Engine, TileResult, WindowTables, initial_state, over_times
from backtest.market_window import MarketWindow
from kernels.axes import lowest
from kernels.exposure import scenario_sum
from kernels.records import AccountMargin


BUCKET_ACCOUNTS = 16_384
"""Accounts a bucket: what one thread replays at a time, as the buckets of a dataset."""
LEAST_ACCOUNTS = 512
"""Small books come in fewer buckets than eight."""
SCENARIO_TILE = 64
"""Accounts of a block of 24 times, as in the engine."""


@dataclass(frozen=True)
class Bucket:
    """A range of consecutive accounts and their books."""

    start: int
    stop: int
    batches: list[Batch]


def buckets(
    snapshot: Snapshot, world: World, stop: int | None = None, size: int | None = None
) -> list[Bucket]:
    """Books of the first accounts of a snapshot, one bucket of some accounts after the other."""
    count = stop or len(snapshot.account_ids)
    size = size or max(LEAST_ACCOUNTS, min(BUCKET_ACCOUNTS, -(-count // 8)))
    numbers = np.arange(len(snapshot.account_ids))
    out = []
    for start in range(0, count, size):
        end = min(start + size, count)
        part = snapshot.only((numbers >= start) & (numbers < end))
        out.append(Bucket(start, end, batches(part, world.terms, world.currencies)))
    return out


class Ours:
    """The engine in one precision over one window; parameter records are given at each pricing."""

    def __init__(self, world: World, window: MarketWindow, precision: str) -> None:
        self._engine = Engine(precision, devices=[jax.local_devices()[0]])
        self._world, self._window = world, window
        self.num_times = len(window.times_us)

    def price(self, sets: list[Any]) -> list[WindowTables]:
        """Tables of every set over the window, ready for use."""
        spread = [over_times(params, self.num_times) for params in sets]
        priced = self._engine.price(self._window, self._world.contracts, spread)
        jax.block_until_ready([(p.tables, p.params) for p in priced])
        return priced

    def result(self, batch: Batch, priced: WindowTables) -> TileResult:
        """What a replay computes of a batch over the window."""
        count = len(batch.accounts)
        state = initial_state(count, priced.model)
        segment, times = np.zeros(count, int), np.arange(self.num_times)
        return self._engine.replay(batch, state, priced, segment, times)

    def margins(self, batch: Batch, priced: WindowTables) -> AccountMargin:
        """Every number of a batch over the window, on the host."""
        return self.result(batch, priced).margin

    def replay(self, held: list[Bucket], priced: WindowTables) -> None:
        """Replay buckets one after the other."""
        for bucket in held:
            for batch in bucket.batches:
                self.result(batch, priced)

    def replay_together(self, held: list[Bucket], priced: list[WindowTables]) -> None:
        """Replay buckets under several sets."""
        tables = self._engine.together(priced)
        for bucket in held:
            for batch in bucket.batches:
                count = len(batch.accounts)
                states = [initial_state(count, one.model) for one in priced]
                segment, times = np.zeros(count, int), np.arange(self.num_times)
                self._engine.replay_together(batch, states, tables, segment, times)


def class_rates(ours: Ours, held: list[Bucket], priced: WindowTables) -> list[dict[str, Any]]:
    """Accounts, seconds and rate of each shape class in one thread, the costliest first."""
    seconds: dict[Any, float] = {}
    accounts: dict[Any, int] = {}
    for bucket in held:
        for batch in bucket.batches:
            took = seconds_of(lambda batch=batch: ours.result(batch, priced))
            seconds[batch.shape] = seconds.get(batch.shape, 0.0) + took
            accounts[batch.shape] = accounts.get(batch.shape, 0) + len(batch.accounts)
    return [
        {
            "shape": dict(shape.__dict__),
            "accounts": accounts[shape],
            "seconds": took,
            "account_times_per_s": accounts[shape] * ours.num_times / took,
        }
        for shape, took in sorted(seconds.items(), key=lambda item: -item[1])
    ]


def _tile_worst(table: Array, books: tuple[Array, Array]) -> tuple[Array, Array]:
    def worst(instruments: Array, contracts: Array) -> Array:
        return lowest(scenario_sum(table, instruments, contracts))

    return table, jax.vmap(worst)(*books)


class ScenarioStage:
    """The scenario stage alone: worst loss of option books over all columns at each time, float32.

    Args:
        table: [instrument, scenario, time].
        instruments, contracts: [account, leg]; cut to whole tiles.
        parts: as many pieces as there are threads.
    """

    def __init__(
        self, table: np.ndarray, instruments: np.ndarray, contracts: np.ndarray, parts: int
    ) -> None:
        tiles = len(contracts) // SCENARIO_TILE // parts * parts
        shape = parts, tiles // parts, SCENARIO_TILE, contracts.shape[1]
        self.num_accounts = tiles * SCENARIO_TILE
        self.account_times = float(self.num_accounts * table.shape[2])
        self.flops = 2.0 * self.account_times * contracts.shape[1] * table.shape[1]
        held = slice(0, self.num_accounts)
        self._table = jnp.asarray(table, jnp.float32)
        self._instruments = jnp.asarray(instruments[held].reshape(shape), jnp.int32)
        self._contracts = jnp.asarray(contracts[held].reshape(shape), jnp.float32)

    def run(self, pool: Executor) -> np.ndarray:
        """Worst loss of each account at each time in USD [account, time]."""

        def one(part: int) -> Array:
            # A function of the module, so that the loop is compiled once and not at each call.
            books = self._instruments[part], self._contracts[part]
            return jax.block_until_ready(jax.lax.scan(_tile_worst, self._table, books)[1])

        worst = list(pool.map(one, range(len(self._contracts))))
        return np.concatenate([np.asarray(w).reshape(-1, w.shape[-1]) for w in worst])
