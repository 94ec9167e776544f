"""Intervals that know that time is one draw: the stationary bootstrap over blocks of time.

A crash liquidates thousands of accounts in one minute, so accounts are no independent observations.
Times are resampled in blocks of random length, all accounts and all parameter sets together.

References:
    Politis and Romano (1994), The Stationary Bootstrap, JASA 89(428), 1303-1313.
"""

from dataclasses import dataclass

import numpy as np


RESAMPLES = 2_000
CONFIDENCE = 0.95
MIN_TIMES = 10
_DAY = 86_400.0


@dataclass(frozen=True)
class BlockPlan:
    """How times were resampled: ``times`` observations, ``block`` their mean block length."""

    times: int
    block: int
    resamples: int = RESAMPLES
    seed: int = 0

    @property
    def blocks(self) -> float:
        """Blocks in a resample, the rough number of independent observations of time."""
        return self.times / self.block


@dataclass(frozen=True)
class Estimate:
    """A number with its interval (None where no interval makes sense) and standard error."""

    value: float
    low: float | None = None
    high: float | None = None
    std_error: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """True where the interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def plan_blocks(times: int, interval_seconds: float) -> BlockPlan:
    """Mean block of one day, or a tenth of the window where that is shorter."""
    day = max(1, round(_DAY / interval_seconds))
    return BlockPlan(times, max(1, min(day, times // 10)))


def resampled_sums(series: np.ndarray, plan: BlockPlan) -> np.ndarray:
    """Sums over each resample of times: shape (time, column) in, (resample, column) out.

    Blocks start anywhere and wrap around the end; lengths are geometric with mean ``plan.block``.
    Cost is one cumulative sum and a few look-ups a block, whatever the number of times.
    """
    n = plan.times
    if series.shape[0] != n:
        raise ValueError(f"series of {series.shape[0]} times, plan for {n}")
    rng = np.random.default_rng(plan.seed)
    cumulative = np.zeros((2 * n + 1, series.shape[1]))
    np.cumsum(np.concatenate([series, series]), axis=0, out=cumulative[1:])
    left = np.full(plan.resamples, n)
    sums = np.zeros((plan.resamples, series.shape[1]))
    while left.any():
        start = rng.integers(0, n, plan.resamples)
        length = np.minimum(rng.geometric(1 / plan.block, plan.resamples), left)
        sums += cumulative[start + length] - cumulative[start]
        left = left - length
    return sums


def estimate(value: float, draws: np.ndarray | None) -> Estimate:
    """The value with the percentile interval of ``draws``; none where the draws do not vary."""
    if draws is None or not np.isfinite(draws).all() or not np.ptp(draws) > 0:
        return Estimate(value)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), float(draws.std(ddof=1)))
