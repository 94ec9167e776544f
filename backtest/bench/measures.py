"""One function a target: from laps to the ratio that the target is about."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from backtest.bench import checks, machine
from backtest.bench.bench import Bench
from backtest.bench.laps import Lap, exponent, laps, seconds_of
from backtest.bench.ours import (
    BUCKET_ACCOUNTS,
    Ours,
    ScenarioStage,
    buckets,
    class_rates,
)
from backtest.bench.peers.pricing import Price, evaluations, plain_price, quantlib_price
from backtest.bench.peers.sparse import SparsePeer
from backtest.bench.profile import stage_profile
from backtest.bench.results import Measure
from backtest.okx_records import okx_parameters
from backtest.window_records import WindowTables
from kernels.models.okx import NUM_SCENARIOS
from kernels.records import OPTION


NUM_SETS = 8
SCENARIO_ACCOUNTS = 131_072
PROFILE_ACCOUNTS = 65_536
WINDOWS = (1, 2, 4, 8)
"""Windows that growth with times is measured over."""
GROWTH = 10.0**0.5
"""Step of the sizes that growth is measured over."""


def repricing(bench: Bench) -> Measure:
    """P1: account-times a second of ours over those of repricing every leg."""
    return _ratio(bench, "P1", {"float64": "numba repricing float64"})


def shared_table(bench: Bench) -> Measure:
    """P2: the same against the peer that shares the table, alike in precision."""
    return _ratio(bench, "P2", {p: f"numba shared table {p}" for p in bench.precisions})


def _ratio(bench: Bench, name: str, peers: dict[str, str]) -> Measure:
    found = bench.margin_laps
    more, spread = {}, 0.0
    for p in bench.precisions:
        peer = found[peers.get(p, next(iter(peers.values())))]
        more[p] = found[f"ours {p}"].rate / peer.rate
        spread = max(spread, peer.spread, found[f"ours {p}"].spread)
    return Measure(name, more["float64"], spread, "float64; pricing is part of both sides", more)


def scenario_stage(bench: Bench) -> Measure:
    """P3: operations a second of the scenario stage over those of a float32 matrix product."""
    legs, held = _option_legs(bench)
    table = np.asarray(bench.priced[bench.precisions[-1]].tables.scenarios)
    stage = ScenarioStage(table, legs, held, bench.threads)
    sparse = SparsePeer(bench.flat_book, bench.flat[0], "float32")
    cells = table[: len(bench.flat[0].kind), :, 0].astype(np.float32)
    _check_scenarios(bench, stage, table, legs, held)
    small = bench.settings.small
    peaks = machine.ceilings(bench.settings.repeats, small=small)
    with ThreadPoolExecutor(bench.threads) as pool:
        found = laps(
            {
                "our scenario stage": lambda: stage.run(pool),
                "scipy sparse scenarios": lambda: sparse.scenarios(cells),
            },
            bench.settings.repeats,
            {
                "our scenario stage": stage.account_times,
                "scipy sparse scenarios": float(bench.findings.book["with_options"]),
            },
        )
    bench.findings.laps |= peaks | found
    peak = max(peaks["sgemm numpy"].rate, peaks["sgemm jax"].rate)
    rate = stage.flops / found["our scenario stage"].median_s
    spread = max(lap.spread for lap in (*peaks.values(), found["our scenario stage"]))
    more = {
        "scenario_gflops": rate / 1e9,
        "sgemm_gflops": peak / 1e9,
        "million_option_account_times_per_s": found["our scenario stage"].rate / 1e6,
        "against_scipy_sparse": found["our scenario stage"].rate
        / found["scipy sparse scenarios"].rate,
    }
    note = "float32, 6 legs x 28 columns x 24 times and the worst; counted: 2 x legs x columns"
    return Measure("P3", rate / peak, spread, note, more)


def _option_legs(bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    """Instruments and contracts of the option legs [account, leg], repeated to a good size."""
    kind = bench.flat[0].kind[bench.snapshot.leg_instrument]
    mine = kind == OPTION
    legs = bench.snapshot.leg_instrument[mine].reshape(-1, 6)
    contracts = bench.snapshot.leg_contracts[mine].reshape(-1, 6)
    most = 8_192 if bench.settings.small else SCENARIO_ACCOUNTS
    rows = np.arange(most) % len(legs)
    return legs[rows], contracts[rows]


def _check_scenarios(
    bench: Bench, stage: ScenarioStage, table: np.ndarray, legs: np.ndarray, held: np.ndarray
) -> None:
    """The stage and the sparse product against NumPy in float64."""
    some = slice(0, min(stage.num_accounts, 1_024))
    terms = held[some, :, None, None] * table[legs[some]].astype(float)
    with ThreadPoolExecutor(1) as pool:
        worst = stage.run(pool)[some]
    scale = np.abs(terms).sum(axis=1).max(axis=1)
    gap = float((np.abs(worst - terms.sum(axis=1).min(axis=1)) / scale).max())
    found = [checks.agreed("scenario stage and numpy", worst.size, gap, 1e-6)]
    exact = SparsePeer(bench.flat_book, bench.flat[0], "float64")
    cells = np.asarray(bench.priced["float64"].tables.scenarios[..., 0])[: len(bench.flat[0].kind)]
    found.append(_checked_sparse(exact, cells))
    bench.findings.checks += found


def _checked_sparse(peer: SparsePeer, cells: np.ndarray) -> checks.Agreement:
    """The sparse product against sums over the legs of each account."""
    positions = peer.expiring.tocoo()
    row, column = positions.coords
    terms = positions.data[:, None] * cells[column]
    sums = np.zeros((peer.num_accounts, cells.shape[1]))
    gross = np.zeros_like(sums)
    np.add.at(sums, row, terms)
    np.add.at(gross, row, np.abs(terms))
    gap = float((np.abs(peer.scenarios(cells) - sums) / (gross + 1.0)).max())
    return checks.agreed("scipy sparse and sums over legs", sums.size, gap)


def eight_sets(bench: Bench) -> Measure:
    """P4: eight parameter sets priced and replayed over one, in the engine's own order."""
    sets = [okx_parameters(_scaled(bench, k), bench.world.currencies) for k in range(NUM_SETS)]

    def replay(count: int) -> None:
        workers.every("replay_sets", "float64", sets[:count])

    with bench.workers() as workers:
        found = laps(
            {f"{n} sets" if n > 1 else "1 set": lambda n=n: replay(n) for n in (1, NUM_SETS)},
            max(1, bench.settings.repeats // 2),
        )
    bench.findings.laps |= found
    ratio = found[f"{NUM_SETS} sets"].median_s / found["1 set"].median_s
    return Measure("P4", ratio, max(lap.spread for lap in found.values()), "float64")


def _scaled(bench: Bench, k: int) -> dict[str, Any]:
    """The rules with wider price moves: another set that costs the same to compute."""
    moves = bench.numbers["mr1"]["price_moves"]
    wider = {group: [x * (1 + 0.02 * k) for x in row] for group, row in moves.items()}
    return bench.numbers | {"mr1": bench.numbers["mr1"] | {"price_moves": wider}}


def growth(bench: Bench) -> Measure:
    """P8: slope of log time over log size, over accounts and over times, in one thread."""
    ours, most = bench.ours["float64"], bench.settings.accounts
    smallest = min(10_000, max(64, most // 10))
    steps = round(np.log(most / smallest) / np.log(GROWTH))
    sizes = [round(smallest * GROWTH**k) for k in range(steps)] + [most]
    tables = bench.priced["float64"]
    books = {n: buckets(bench.snapshot, bench.world, n, smallest) for n in sizes}
    repeats = max(1, bench.settings.repeats // 2)
    by_accounts = laps(
        {f"{n} accounts": lambda n=n: ours.replay(books[n], tables) for n in sizes}, repeats
    )
    times, held = WINDOWS[: 3 if bench.settings.small else None], books[sizes[0]]

    def windows(count: int) -> None:
        for _ in range(count):
            priced = ours.price([bench.params])[0]
            ours.replay(held, priced)

    by_times = laps({f"{n} windows": lambda n=n: windows(n) for n in times}, repeats)
    bench.findings.laps |= by_accounts | by_times
    slopes = {
        "accounts": exponent([float(n) for n in sizes], _medians(by_accounts)),
        "times": exponent([float(n) for n in times], _medians(by_times)),
    }
    worst = max(slopes.values(), key=lambda x: abs(x - 1.0))
    spread = max(lap.spread for lap in (by_accounts | by_times).values())
    note = f"{sizes[0]:,} to {most:,} accounts; {times[0]} to {times[-1]} windows; the worse one"
    return Measure("P8", worst, spread, note, slopes)


def _medians(found: dict[str, Lap]) -> list[float]:
    return [lap.median_s for lap in found.values()]


def pricing_loops(bench: Bench) -> None:
    """Options x scenarios priced a second by loops over libraries and by our tables, checked."""
    work = evaluations(*bench.flat, 0)
    table = np.asarray(bench.priced["float64"].tables.scenarios[..., 0])[work.option]
    loops: dict[str, Price] = {"QuantLib loop": quantlib_price(), "SciPy loop": plain_price}
    scale = np.maximum(np.abs(table), work.multiplier[:, None] * work.index[:, :1] * 1e-3)
    for label, price in loops.items():
        profits = work.profits(work.priced(price))
        gap = float((np.abs(profits - table) / scale).max())
        bench.findings.checks.append(checks.agreed(f"{label} and table", table.size, gap))
    ours = bench.ours["float64"]
    calls: dict[str, Callable[[], Any]] = {
        label: lambda p=price: work.priced(p) for label, price in loops.items()
    }
    calls["our tables"] = lambda: ours.price([bench.params])
    of_tables = float(len(work.option) * (NUM_SCENARIOS + 1) * ours.num_times)
    done = {label: float(work.count) for label in loops} | {"our tables": of_tables}
    found = laps(calls, bench.settings.repeats, done)
    bench.findings.laps |= found
    bench.findings.pricing = {label: lap.rate for label, lap in found.items()}


def profile(bench: Bench) -> None:
    """Seconds of our stages, and the rate of each shape class, on one thread."""
    count = max(1, PROFILE_ACCOUNTS // BUCKET_ACCOUNTS)
    held = bench.buckets[:count]
    for p in bench.precisions:
        ours: Ours = bench.ours[p]
        priced = bench.priced[p]
        ours.margins(held[0].batches[0], priced)

        def replay(ours: Ours = ours, priced: WindowTables = priced) -> None:
            for bucket in held:
                for batch in bucket.batches:
                    ours.result(batch, priced)

        traced = [partial(ours.result, batch, priced) for batch in held[0].batches]
        stages = stage_profile(replay, traced)
        stages["pricing"] = seconds_of(lambda o=ours: o.price([bench.params]))
        done = sum(b.stop - b.start for b in held) * ours.num_times
        bench.findings.profile[p] = stages | {
            "account_times": float(done),
            "account_times_per_s": done / stages["total"],
        }
    bench.findings.classes = class_rates(bench.ours["float64"], held, bench.priced["float64"])


MEASURES: dict[str, Callable[[Bench], Measure]] = {
    "P1": repricing,
    "P2": shared_table,
    "P3": scenario_stage,
    "P4": eight_sets,
    "P8": growth,
}
"""Targets measured on the book in this process."""
