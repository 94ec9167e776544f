"""How much memory a run will need, before it starts; sizes as text."""

import math
import re
from dataclasses import dataclass

from backtest.config import RunConfig
from backtest.errors import ConfigError
from backtest.loading import TOGETHER_ACCOUNTS
from backtest.plan import Plan
from backtest.replay import CACHE_BYTES, MOST_TOGETHER
from kernels.features import NUM_FEATURES
from kernels.models import MODELS


BASE_BYTES = 900_000_000
"""Interpreter, libraries, and programs while they compile (measured 0.89 GB)."""
MAIN_BYTES = 400_000_000
"""The process that hands out the buckets, where others compute (measured 0.34 GB)."""
ACCOUNT_TIME_BYTES = 450
"""All numbers of an account at a time (28 of 8 bytes), as tiles and joined."""
TRACE_BYTES = 200
"""The same as rows of a trace."""
TABLE_BYTES = 8 * (NUM_FEATURES + max(m.num_columns + m.num_scenarios for m in MODELS.values()))
"""Priced table of an instrument at a time, one parameter set; of several it is there twice."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes of a size such as `4GB` (10^9), `512MiB` (2^20) or `2000000`.

    Raises:
        ConfigError: no size, or not above 0.

    Example:
        >>> parse_size("1.5 GB")
        1500000000
    """
    found = _SIZE.fullmatch(text)
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None or float(found[1]) <= 0.0:
        raise ConfigError(
            f"--memory-limit is '{text}'; allowed: a size with MB, GB, MiB or GiB, for example 4GB"
        )
    return math.floor(float(found[1]) * unit)


@dataclass(frozen=True)
class Footprint:
    """Predicted peak memory of a run, bytes: programs, priced tables, accounts at work."""

    base: int
    tables: int
    accounts: int

    @property
    def total(self) -> int:
        """All of it, bytes."""
        return self.base + self.tables + self.accounts

    def text(self) -> str:
        """The sum and its parts."""
        parts = (self.base, self.tables, self.accounts)
        base, tables, accounts = (f"{part / 1e9:.2f}" for part in parts)
        return (
            f"{self.total / 1e9:.2f} GB ({base} programs, {tables} priced tables, "
            f"{accounts} accounts)"
        )


def footprint(
    *,
    accounts: int,
    buckets: int,
    instruments: int,
    times: int,
    window_times: int,
    sets: int,
    workers: int,
    processes: int = 1,
    traces: bool = False,
    simulates: bool = False,
) -> Footprint:
    """Predicted peak memory of a run on one machine.

    Each process holds programs and priced tables, each worker one bucket over one window. Buckets
    differ by chance, so the largest is taken four standard deviations above the mean. Priced
    tables of past windows stay up to `CACHE_BYTES`; one window stays whatever its size.

    Args:
        accounts: of the dataset.
        buckets: of the dataset.
        instruments: held at the snapshot that holds most.
        times: of the grid.
        window_times: of a window.
        sets: parameter sets.
        workers: buckets at once.
        processes: that they are in; more than one have this process besides them.
        traces: every account is traced.
        simulates: liquidations are simulated, for which a bucket is held under every set at once.
    """
    mean = accounts / max(buckets, 1)
    largest = min(accounts, math.ceil(mean + 4.0 * math.sqrt(mean)))
    each = ACCOUNT_TIME_BYTES + (TRACE_BYTES if traces else 0)
    window = (instruments + 1) * window_times * sets * TABLE_BYTES * (2 if sets > 1 else 1)
    together = min(sets, MOST_TOGETHER)
    held = max(largest, (largest if simulates else min(largest, TOGETHER_ACCOUNTS)) * together)
    windows = max(1, math.ceil(times / window_times))
    return Footprint(
        base=processes * BASE_BYTES + (MAIN_BYTES if processes > 1 else 0),
        tables=processes * max(window, min(window * windows, CACHE_BYTES)),
        accounts=min(workers, max(buckets, 1)) * held * window_times * each,
    )


def check_memory(config: RunConfig, plan: Plan, limit: int, workers: int) -> Footprint:
    """Refuse a run that is predicted not to fit.

    Raises:
        ConfigError: the prediction is above the limit (bytes); says what to change.
    """
    workers = min(workers, max(1, len(plan.buckets)))
    in_processes = config.engine.workers_kind == "processes"
    found = footprint(
        accounts=plan.num_accounts,
        buckets=len(plan.buckets),
        instruments=max((len(ids) for ids in plan.held.values()), default=0),
        times=len(plan.times_us),
        window_times=config.engine.window_times,
        sets=len(config.parameter_sets),
        workers=workers,
        processes=workers if in_processes else 1,
        traces=config.traces.accounts == "all",
        simulates=config.liquidation.mode == "simulate",
    )
    if found.total > limit:
        raise ConfigError(
            f"--memory-limit is {limit / 1e9:.2f} GB; the run is predicted to need {found.text()}; "
            "use fewer --workers, a smaller engine.window_times, more buckets, or a higher limit"
        )
    return found
