"""Where the time of a replay goes: seconds of each stage, added up."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager


STAGES = ("read", "batch", "compute", "write")
"""Reading portfolios; grouping and padding them; pricing and margins; saving results."""


class Stages:
    """Adds up the seconds of each stage; threads may share it, and then their seconds overlap.

    Example:
        >>> stages = Stages()
        >>> with stages("read"):
        ...     pass
        >>> sorted(stages.seconds)
        ['batch', 'compute', 'read', 'write']
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._now = now
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the seconds of the block, also of one that fails."""
        start = self._now()
        try:
            yield
        finally:
            seconds = self._now() - start
            with self._lock:
                self.seconds[stage] += seconds


def total(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds of each stage over several buckets, to the millisecond."""
    every = list(parts)
    return {stage: round(sum((p.get(stage, 0.0) for p in every), 0.0), 3) for stage in STAGES}
