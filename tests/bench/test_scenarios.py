"""The scenario stage against a careful Numba implementation of the same shared-table product.

8 option legs, 32 scenario columns, worst loss, float32. Run once as a test in every check;
``pytest tests/bench --benchmark-enable`` measures. Speeds are ratios within one run: both sides
are timed in turns. Numba takes every core; ours one device, then as many as there are cores.
"""

import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numba import njit, prange

from kernels.exposure import scenario_sum


ACCOUNTS, LEGS, COLUMNS, INSTRUMENTS, TILE = 262_144, 8, 32, 800, 1024
REST_S = 0.4
EPS32 = float(np.finfo(np.float32).eps)


@njit(parallel=True, fastmath=True)
def numba_worst(table, instruments, contracts, out):  # pragma: no cover (compiled)
    blocks = out.shape[0] // TILE
    for block in prange(blocks):
        pnl = np.empty(COLUMNS, np.float32)
        for a in range(block * TILE, (block + 1) * TILE):
            pnl[:] = 0.0
            for k in range(LEGS):
                row, n = instruments[a, k], contracts[a, k]
                for c in range(COLUMNS):
                    pnl[c] += n * table[row, c]
            worst = pnl[0]
            for c in range(1, COLUMNS):
                worst = min(worst, pnl[c])
            out[a] = worst


@jax.jit
def jax_worst(table, instruments, contracts):
    def tile(books):
        pnl = jax.vmap(lambda i, n: scenario_sum(table, i, n))(*books)
        return jnp.min(pnl, axis=1)

    shape = (len(contracts) // TILE, TILE, LEGS)
    return jax.lax.map(tile, (instruments.reshape(shape), contracts.reshape(shape))).reshape(-1)


@pytest.fixture(scope="module")
def books():
    rng = np.random.default_rng(0)
    return (
        rng.normal(0, 100, (INSTRUMENTS, COLUMNS)).astype(np.float32),
        rng.integers(0, INSTRUMENTS, (ACCOUNTS, LEGS)).astype(np.int32),
        rng.normal(0, 10, (ACCOUNTS, LEGS)).astype(np.float32),
    )


def fastest_s(*calls: Callable[[], object], rounds: int = 3, repeats: int = 7) -> list[float]:
    """Shortest lap of each call. They take turns round by round, with a rest in between: the
    threads of one library go on spinning for a while and would slow the other down."""
    best = [np.inf] * len(calls)
    for _ in range(rounds):
        for k, call in enumerate(calls):
            time.sleep(REST_S)
            call()
            for _ in range(repeats):
                start = time.perf_counter()
                call()
                best[k] = min(best[k], time.perf_counter() - start)
    return best


def on_devices(books, count: int):
    """The stage on some devices, accounts shared among them, and its arguments in place."""
    mesh = Mesh(np.asarray(jax.local_devices()[:count]), ("account",))
    everywhere, shared = PartitionSpec(), PartitionSpec("account")
    specs = everywhere, shared, shared
    placed = [
        jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(books, specs, strict=True)
    ]
    run = jax.shard_map(jax_worst, mesh=mesh, in_specs=specs, out_specs=shared, check_vma=False)
    return jax.jit(run), placed


@pytest.mark.parametrize("num_devices", sorted({1, min(os.cpu_count() or 1, 8)}))
def test_scenario_stage_beats_numba(books, num_devices: int, benchmark):
    table, instruments, contracts = books
    stage, on_device = on_devices(books, num_devices)
    ours = np.asarray(stage(*on_device))
    theirs = np.empty(ACCOUNTS, np.float32)
    numba_worst(table, instruments, contracts, theirs)
    terms = contracts[:, :, None].astype(float) * table[instruments].astype(float)
    exact = terms.sum(axis=1).min(axis=1)
    # Each of the additions and multiplications rounds once: (legs + 2) eps of the gross.
    bound = (LEGS + 2) * EPS32 * np.abs(terms).sum(axis=1).max(axis=1)
    assert (np.abs(ours - exact) <= bound).all()
    assert (np.abs(theirs - exact) <= bound).all()

    def run():
        return jax.block_until_ready(stage(*on_device))

    peer_s, ours_s = fastest_s(lambda: numba_worst(table, instruments, contracts, theirs), run)
    benchmark.extra_info |= {
        "million_accounts_a_second": ACCOUNTS / ours_s / 1e6,
        "numba_million_accounts_a_second": ACCOUNTS / peer_s / 1e6,
        "ratio": peer_s / ours_s,
        "max_error_usd": float(np.abs(ours - exact).max()),
        "devices": num_devices,
        "device": jax.default_backend(),
    }
    benchmark(run)
    # Half of what a quiet machine shows would still pass; slower than the peer never should.
    assert ours_s < peer_s
