"""When breaches come: first failure, time between failures, Weibull durations (C5, C6).

Times are counted on each account's clock; a first breach at the n-th has n = 1, 2 ...

References:
    Kupiec (1995); Haas (2001), New methods in backtesting.
    Christoffersen and Pelletier (2004), Backtesting value-at-risk: a duration-based approach.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy import special

from .binomial import likelihood_ratio, outer_bounds
from .findings import DEFAULT_RULE, Finding, Rule, Verdict, codes, decide
from .records import Breaches, Sequences


SHAPE_LOW, SHAPE_HIGH = 0.001, 10.0
"""Where the Weibull shape is searched."""


def waiting_ratio(
    n: Int[np.ndarray, "*cell"], p: Float[np.ndarray, "*cell"]
) -> Float[np.ndarray, "*cell"]:
    """``TUFF(n) = -2 [ln p + (n-1) ln(1-p) - ln(1/n) - (n-1) ln(1-1/n)]``; n >= 1 times of wait."""
    free = special.xlog1py(n - 1.0, -1.0 / n) - np.log(n)
    return 2.0 * np.maximum(free - np.log(p) - special.xlog1py(n - 1.0, -p), 0.0)


def first_failure(sequences: Sequences, rule: Rule = DEFAULT_RULE) -> Finding:
    """Time until first failure, one degree of freedom (C5).

    ``p_exact = P(TUFF(N) >= TUFF(n))`` with N geometric. Without a breach among T observations the
    first can only come later: where ``T > 1/p`` the statistic of ``n = T + 1`` bounds it from below
    and is reported if that rejects; else there is none.
    """
    breaches = sequences.breaches()
    first = breaches.first_day
    none = first == 0
    day = np.where(none, breaches.observations + 1, first)
    p = np.full(day.shape, sequences.probability)
    statistic = waiting_ratio(day, p)
    exact = _geometric_p(day, p)
    late = (day * p > 1.0) & (exact < rule.alpha)
    gone = _none_yet(breaches, none & ~late)
    side = np.where(day * p > 1.0, Verdict.TOO_FEW, Verdict.TOO_MANY).astype(np.uint8)
    days = _critical_days(sequences.probability, rule.alpha)
    power = _waiting_power(days, rule.alternative(p))
    return _shaped(
        Finding(
            kind=sequences.kind,
            test="time until first failure",
            rule=rule,
            statistic=np.where(gone > 0, np.nan, statistic),
            degrees=np.ones_like(day),
            p_value=np.where(gone > 0, np.nan, special.chdtrc(1, statistic)),
            p_exact=np.where(gone > 0, np.nan, exact),
            power=power,
            verdict=decide(exact, side, rule, power=power, insufficient=gone),
        ),
        sequences,
    )


def between_failures(
    sequences: Sequences, rule: Rule = DEFAULT_RULE, *, mixed: bool = False
) -> Finding:
    """Time between failures: ``TBFI = sum TUFF(n_i)`` over x gaps, x degrees of freedom (C5).

    ``mixed`` adds ``LR_uc``: TBF with x + 1 degrees. The gap after the last breach is left out. No
    breach is treated as in ``first_failure``. The verdict of the gaps is only that they do not come
    by chance.
    """
    breaches = sequences.breaches()
    size = breaches.observations.size
    p = np.full(size, sequences.probability)
    each = waiting_ratio(breaches.gap, p[breaches.row])
    statistic = _summed(breaches.row, each, size)
    degrees = breaches.count
    none = degrees == 0
    start = first_failure(sequences, rule)
    late = none & start.rejected.ravel()
    statistic = np.where(late, start.statistic.ravel(), statistic)
    degrees = np.where(late, 1, degrees)
    if mixed:
        statistic = statistic + likelihood_ratio(breaches.count, breaches.observations, p)
        degrees = degrees + 1
    gone = _none_yet(breaches, none & ~late)
    value = np.where(gone > 0, np.nan, special.chdtrc(np.maximum(degrees, 1), statistic))
    rejection = np.where(late, Verdict.TOO_FEW, Verdict.REJECTED).astype(np.uint8)
    return _shaped(
        Finding(
            kind=sequences.kind,
            test="time between failures, mixed" if mixed else "time between failures",
            rule=rule,
            statistic=np.where(gone > 0, np.nan, statistic),
            degrees=degrees,
            p_value=value,
            verdict=decide(np.nan_to_num(value, nan=1.0), rejection, rule, insufficient=gone),
        ),
        sequences,
    )


@dataclass(frozen=True)
class WeibullFinding:
    """The duration test with the shape that it found.

    Attributes:
        finding: Statistic, p value and verdict.
        shape: Weibull shape ``b``; below 1 breaches cluster, NaN with fewer than two breaches.
        at_bound: True where the search ended at ``SHAPE_LOW`` or ``SHAPE_HIGH``.
    """

    finding: Finding
    shape: Float[np.ndarray, "set account"]
    at_bound: np.ndarray


def weibull_duration(sequences: Sequences, rule: Rule = DEFAULT_RULE) -> WeibullFinding:
    """Weibull durations between breaches against the exponential, one degree of freedom (C6).

    With m uncensored durations D, all of them in ``S(b) = sum D^b``, the scale drops out:
    ``l(b) = m ln(m / S(b)) + m ln b + (b - 1) sum ln D - m`` and ``LR = 2 [l(b) - l(1)]``. It is
    concave in b, so that bisection of its slope finds the maximum in all rows at once. Waits before
    the first and after the last breach are censored.
    """
    breaches = sequences.breaches()
    row, log_wait, censored = _durations(breaches)
    size = breaches.observations.size
    m = np.maximum(breaches.count - 1, 0)
    few = m < 1
    free = _summed(row[~censored], log_wait[~censored], size)
    slope = _Slope(row, log_wait, m, free, size)
    low, high = np.full(size, SHAPE_LOW), np.full(size, SHAPE_HIGH)
    for _ in range(60):
        middle = 0.5 * (low + high)
        rising = slope(middle) > 0.0
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    shape = np.where(high >= SHAPE_HIGH, SHAPE_HIGH, np.where(low <= SHAPE_LOW, SHAPE_LOW, low))
    ratio = 2.0 * np.maximum(slope.likelihood(shape) - slope.likelihood(np.ones(size)), 0.0)
    p = special.chdtrc(1, ratio)
    gone = codes(
        few.shape,
        (breaches.observations == 0, Verdict.NO_OBSERVATIONS),
        (breaches.count == 0, Verdict.NO_BREACH),
        (few, Verdict.FEW_BREACHES),
    )
    side = np.where(shape < 1.0, Verdict.CLUSTERED, Verdict.SPREAD_OUT).astype(np.uint8)
    finding = Finding(
        kind=sequences.kind,
        test="Weibull duration",
        rule=rule,
        statistic=np.where(few, np.nan, ratio),
        degrees=np.ones_like(m),
        p_value=np.where(few, np.nan, p),
        verdict=decide(p, side, rule, insufficient=gone),
    )
    bound = (shape == SHAPE_LOW) | (shape == SHAPE_HIGH)
    return WeibullFinding(
        _shaped(finding, sequences),
        np.where(few, np.nan, shape).reshape(sequences.cells),
        (bound & ~few).reshape(sequences.cells),
    )


@dataclass(frozen=True)
class _Slope:
    """Profile likelihood of the shape and its slope, for every row."""

    row: Int[np.ndarray, " wait"]
    log_wait: Float[np.ndarray, " wait"]
    m: Int[np.ndarray, " row"]
    free: Float[np.ndarray, " row"]
    size: int

    def __call__(self, b: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        power = np.exp(b[self.row] * self.log_wait)
        total = self._sum(power)
        change = self._sum(power * self.log_wait) / np.where(total > 0, total, 1.0)
        return self.m * (1.0 / b - change) + self.free

    def likelihood(self, b: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        total = self._sum(np.exp(b[self.row] * self.log_wait))
        scale = special.xlogy(self.m, np.where(self.m > 0, self.m / np.maximum(total, 1e-300), 1.0))
        return scale + self.m * np.log(b) + (b - 1.0) * self.free - self.m

    def _sum(self, values: Float[np.ndarray, " wait"]) -> Float[np.ndarray, " row"]:
        return _summed(self.row, values, self.size)


def _durations(breaches: Breaches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, logarithm and censoring of every wait, those before and after all breaches included."""
    total = breaches.count
    start = breaches.is_first
    inside = ~start | (breaches.day > 1)
    tail = (total > 0) & (breaches.last_day < breaches.observations)
    ends = np.flatnonzero(tail)
    row = np.concatenate([breaches.row[inside], ends])
    wait = np.concatenate([breaches.gap[inside], (breaches.observations - breaches.last_day)[tail]])
    censored = np.concatenate([start[inside], np.ones(ends.size, dtype=bool)])
    return row, np.log(wait), censored


def _summed(
    row: Int[np.ndarray, " wait"], values: Float[np.ndarray, " wait"], size: int
) -> Float[np.ndarray, " row"]:
    return np.bincount(row, weights=values, minlength=size).astype(float)


def _geometric_p(
    n: Int[np.ndarray, "*cell"], p: Float[np.ndarray, "*cell"]
) -> Float[np.ndarray, "*cell"]:
    """``P(TUFF(N) >= TUFF(n))`` of a geometric N."""
    below, above = _outer_days(waiting_ratio(n, p), p)
    return np.minimum(_by_day(below, p) + np.exp((above - 1.0) * np.log1p(-p)), 1.0)


def _outer_days(
    threshold: Float[np.ndarray, "*cell"], p: Float[np.ndarray, "*cell"]
) -> tuple[Int[np.ndarray, "*cell"], Int[np.ndarray, "*cell"]]:
    middle = np.maximum(np.floor(1.0 / p), 1.0).astype(np.int64)
    farthest = middle * 1_000_000
    return outer_bounds(
        lambda k: waiting_ratio(np.maximum(k, 1), p),
        threshold,
        np.ones_like(middle),
        middle,
        farthest,
    )


@functools.lru_cache(maxsize=256)
def _critical_days(probability: float, alpha: float) -> tuple[int, int]:
    """Latest early and earliest late first breach that the exact test rejects."""
    p = np.array([probability])
    middle = np.maximum(np.floor(1.0 / p), 1.0).astype(np.int64)
    low, high = outer_bounds(
        lambda k: 1.0 * (_geometric_p(np.maximum(k, 1), p) < alpha),
        np.ones(1),
        np.ones_like(middle),
        middle,
        middle * 10_000,
    )
    return int(low[0]), int(high[0])


def _waiting_power(
    days: tuple[int, int], other: Float[np.ndarray, "*cell"]
) -> Float[np.ndarray, "*cell"]:
    low, high = days
    return _by_day(np.full(other.shape, low), other) + np.exp((high - 1.0) * np.log1p(-other))


def _by_day(
    n: Int[np.ndarray, "*cell"], p: Float[np.ndarray, "*cell"]
) -> Float[np.ndarray, "*cell"]:
    """``P(N <= n) = 1 - (1-p)^n``."""
    return -np.expm1(np.maximum(n, 0) * np.log1p(-p))


def _none_yet(breaches: Breaches, none: np.ndarray) -> UInt8[np.ndarray, " row"]:
    return codes(
        none.shape,
        (breaches.observations == 0, Verdict.NO_OBSERVATIONS),
        (none, Verdict.NO_BREACH),
    )


def _shaped(finding: Finding, sequences: Sequences) -> Finding:
    """The finding with cells ``[set account]`` in place of rows."""
    shape = sequences.cells
    p_exact, power = finding.p_exact, finding.power
    return Finding(
        kind=finding.kind,
        test=finding.test,
        rule=finding.rule,
        statistic=finding.statistic.reshape(shape),
        degrees=finding.degrees.reshape(shape),
        p_value=finding.p_value.reshape(shape),
        verdict=finding.verdict.reshape(shape),
        p_exact=None if p_exact is None else p_exact.reshape(shape),
        power=None if power is None else power.reshape(shape),
    )
