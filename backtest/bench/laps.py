"""Timing in turns: every lap of one side is followed by one of the other, on the same machine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


REST_S = 0.2
"""Pause before a lap: threads of some libraries go on spinning after their work."""


@dataclass(frozen=True)
class Lap:
    """Seconds of every lap of one thing, and how much it did in each."""

    seconds: tuple[float, ...]
    work: float = 1.0

    @property
    def median_s(self) -> float:
        """Median of the laps in seconds."""
        return float(np.median(self.seconds))

    @property
    def rate(self) -> float:
        """Work a second at the median lap."""
        return self.work / self.median_s

    @property
    def spread(self) -> float:
        """Interquartile range of the laps as a fraction of their median."""
        low, high = np.percentile(self.seconds, [25, 75])
        return float((high - low) / self.median_s)

    def plus(self, other: "Lap") -> "Lap":
        """Both one after the other, lap by lap; the work stays that of the first."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return Lap(tuple(a + b for a, b in pairs), self.work)

    def record(self) -> dict[str, Any]:
        """As in ``bench.json``."""
        return {
            "seconds": list(self.seconds),
            "median_s": self.median_s,
            "spread_frac": self.spread,
            "work": self.work,
            "rate_per_s": self.rate,
        }


def seconds_of(call: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def laps(
    calls: Mapping[str, Callable[[], Any]], repeats: int, work: Mapping[str, float] | None = None
) -> dict[str, Lap]:
    """Laps of some calls that take turns; each runs once before anything is timed.

    Args:
        calls: what to time; a call returns when its work is done.
        repeats: laps of each.
        work: what one call does, for rates; 1 where it is not given.
    """
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(REST_S)
            found[name].append(seconds_of(call))
    done = work or {}
    return {name: Lap(tuple(s), done.get(name, 1.0)) for name, s in found.items()}


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """Slope of the logarithm of the time over the logarithm of the size: 1 = linear."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
