"""Targets of whole runs: `pmstress run` in processes of its own, on a generated market."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from backtest.bench.laps import Lap
from backtest.bench.results import Measure
from backtest.errors import RunError
from backtest.paths import PROJECT_ROOT


START = datetime(2025, 3, 1, tzinfo=UTC)
SNAPSHOT = START + timedelta(days=2)
HOURS, MORE_HOURS = 24, 240
MOST_MEMORY_GB = 4.0
DEMO_ACCOUNTS = 2_000
WORKERS = 2
CRASH_AFTER_HOURS, WINDOW_HOURS = 96, 24
"""The generated market falls four days after the snapshot; the crash window opens 6 h before."""
MOST_CRASH_RATIO = 4.0
PARAMETERS = PROJECT_ROOT / "configs" / "params" / "okx-merged-2025-01-21.toml"
LIQUIDATION = PROJECT_ROOT / "configs" / "liquidation" / "okx-default.toml"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Finished:
    """One run: wall seconds, largest memory of its process in GB, its manifest."""

    seconds: float
    peak_gb: float
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Runs:
    """Runs on one generated dataset, which the first of them builds.

    Fields:
        folder: datasets, configurations and results go below it.
        accounts, repeats: size of the population, runs of each kind.
        say: hears what is being done.
    """

    folder: Path
    accounts: int
    repeats: int
    say: Say

    def config(
        self,
        name: str,
        hours: int,
        accounts: int | None = None,
        after_hours: int = 0,
        mode: str = "measure",
        workers_kind: str = "processes",
    ) -> Path:
        """A configuration of some hours, the first of them so long after the snapshot."""
        count = accounts or self.accounts
        file = self.folder / f"{name}.toml"
        first = SNAPSHOT + timedelta(hours=after_hours)
        last = first + timedelta(hours=hours - 1)
        text = f"""name = "{name}"
[dataset]
path = "{self.folder.resolve() / f"dataset-{count}"}"
[market]
kind = "generated"
seed = 1
start = {_toml(START)}
end = {_toml(SNAPSHOT + timedelta(hours=MORE_HOURS))}
coins = ["BTC", "ETH", "SOL", "XRP", "DOGE"]
[market.crash]
after = "{int((SNAPSHOT - START).total_seconds()) // 3600 + CRASH_AFTER_HOURS}h"
[population]
accounts = {count}
seed = 7
at = {_toml(SNAPSHOT)}
[replay]
mode = "frozen"
start = {_toml(first)}
end = {_toml(last)}
interval = "1h"
[liquidation]
mode = "{mode}"
rules.okx = "{LIQUIDATION}"
[engine]
workers_kind = "{workers_kind}"
[[parameter_sets]]
name = "today"
file = "{PARAMETERS}"
"""
        self.folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def run(self, config: Path, workers: int = WORKERS, *, on_one_core: bool = False) -> Finished:
        """One run from an existing dataset to its report.

        Args:
            config: what is run.
            workers: buckets at once.
            on_one_core: keep the run from all cores but one.

        Raises:
            RunError: it failed; the message is its own.
        """
        self.say(f"running {config.stem} with {workers} workers")
        out = config.with_suffix("")
        words = ["run", str(config), "--out", str(out), "--workers", str(workers), "--fresh"]
        command = [sys.executable, "-m", "backtest", *words, "--quiet"]
        start = time.perf_counter()
        with _affinity(on_one_core=on_one_core):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RunError(f"{config}: the run failed: {done.stderr.strip()}")
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        return Finished(seconds, manifest["peak_memory_mb"] / 1000.0, manifest)

    def warmed(self, config: Path) -> Path:
        """The configuration, once its dataset is there and its programs are compiled."""
        self.run(config)
        return config


def memory(runs: Runs) -> Measure:
    """P5: peak memory of ten times as many hours."""
    short = runs.run(runs.warmed(runs.config("hours-24", HOURS)))
    long = runs.run(runs.config("hours-240", MORE_HOURS))
    more = {"gb_24_hours": short.peak_gb, "gb_240_hours": long.peak_gb}
    fits = max(more.values()) <= MOST_MEMORY_GB
    note = f"{runs.accounts:,} accounts"
    return Measure("P5", long.peak_gb / short.peak_gb, note=note, more=more, also_met=fits)


def outside(runs: Runs) -> Measure:
    """P6: share of a run's wall time that is not the replay; the report is part of the run."""
    config = runs.warmed(runs.config("hours-24", HOURS))
    found = [runs.run(config) for _ in range(runs.repeats)]
    wall = Lap(tuple(f.seconds for f in found))
    last = found[-1].manifest
    shares = [f.manifest["stage_seconds"]["compute"] / (WORKERS * f.seconds) for f in found]
    timings = last["timings_seconds"] | last["stage_seconds"]
    note = f"{WORKERS} workers; kernels: what they spend computing, of their wall time"
    more = {"wall_s": wall.median_s, **{f"{k}_s": float(v) for k, v in timings.items()}}
    return Measure("P6", 1.0 - float(np.median(shares)), wall.spread, note, more)


def workers(runs: Runs) -> Measure:
    """P7: wall time of one worker on one core over that of two workers on two, in turns.

    One worker that may use both cores is told beside: it reads, computes and writes at once.
    """
    config = runs.warmed(runs.config("hours-24", HOURS))
    calls: dict[str, Callable[[], Finished]] = {
        "one_s": lambda: runs.run(config, workers=1, on_one_core=True),
        "one_on_all_cores_s": lambda: runs.run(config, workers=1),
        "two_s": lambda: runs.run(config, workers=2),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs.repeats):
        for name, call in calls.items():
            seconds[name].append(call().seconds)
    found = {name: Lap(tuple(each)) for name, each in seconds.items()}
    more = {name: lap.median_s for name, lap in found.items()}
    spread = max(lap.spread for lap in found.values())
    note = "whole runs; a core for each worker"
    return Measure("P7", more["one_s"] / more["two_s"], spread, note, more)


def simulated(runs: Runs) -> Measure:
    """P9: replay time with liquidations over without, before the crash and through it."""
    ratios, spread, more = [], 0.0, {}
    for window, after_hours in (("calm", 0), ("crash", CRASH_AFTER_HOURS - 6)):
        seconds: dict[str, list[float]] = {"measure": [], "simulate": []}
        configs = {
            mode: runs.warmed(
                runs.config(f"{window}-{mode}", WINDOW_HOURS, after_hours=after_hours, mode=mode)
            )
            for mode in seconds
        }
        for _ in range(runs.repeats):
            for mode, config in configs.items():
                timings = runs.run(config).manifest["timings_seconds"]
                seconds[mode].append(float(timings["replay"]))
        laps = {mode: Lap(tuple(found)) for mode, found in seconds.items()}
        ratios.append(laps["simulate"].median_s / laps["measure"].median_s)
        spread = max(spread, *(lap.spread for lap in laps.values()))
        more |= {f"{window}_{mode}_s": lap.median_s for mode, lap in laps.items()}
    calm, crash = ratios
    note = f"replay of {WINDOW_HOURS} hours, {runs.accounts:,} accounts; the value is the calm one"
    more["crash"] = crash
    return Measure("P9", calm, spread, note, more, also_met=crash <= MOST_CRASH_RATIO)


def cold_start(runs: Runs) -> Measure:
    """P10: wall time of two weeks of a few accounts, programs compiled and dataset built before.

    In threads, as the demo is configured: it is too small for processes of its own.
    """
    config = runs.config("demo", MORE_HOURS, DEMO_ACCOUNTS, workers_kind="threads")
    runs.warmed(config)
    wall = Lap(tuple(runs.run(config).seconds for _ in range(runs.repeats)))
    note = f"{DEMO_ACCOUNTS:,} accounts x {MORE_HOURS} times, one set"
    return Measure("P10", wall.median_s, wall.spread, note)


RUN_MEASURES: dict[str, Callable[[Runs], Measure]] = {
    "P5": memory,
    "P6": outside,
    "P7": workers,
    "P9": simulated,
    "P10": cold_start,
}
"""Targets that need whole runs."""


@contextmanager
def _affinity(*, on_one_core: bool) -> Iterator[None]:
    """Processes that are started meanwhile run on one of the cores of this one, or on all."""
    if not on_one_core or not hasattr(os, "sched_setaffinity"):
        yield
        return
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(every)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)


def _toml(time_: datetime) -> str:
    return time_.strftime("%Y-%m-%dT%H:%M:%SZ")
