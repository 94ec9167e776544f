"""Finite-sample distribution of everything that depends on a breach sequence by its transitions.

Of the 2^T sequences those with the same number of breaches ``x`` and of runs ``r`` of them, and the
same first and last element have the same transitions. There are

    C(x-1, r-1) C(T-x-1, z-1),   z = r - 1 + (1 - first) + (1 - last) runs of calm,

of them, so that a sum over some thousand patterns replaces one over 2^T sequences (C10).
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from backtest.errors import ConfigError


_SPREADS = 14.0
"""Standard deviations of counts and runs that are kept; what is left out weighs under 1e-30."""


@dataclass(frozen=True)
class Patterns:
    """All patterns of one length that matter at one breach probability.

    Attributes:
        length: Elements of a sequence, ``T``.
        first: 1 where the sequence starts with a breach.
        n00, n01, n10, n11: Transitions from calm (0) or breach (1) to calm or breach.
        log_count: Logarithm of the number of sequences of the pattern.
    """

    length: int
    first: Int[np.ndarray, " pattern"]
    n00: Int[np.ndarray, " pattern"]
    n01: Int[np.ndarray, " pattern"]
    n10: Int[np.ndarray, " pattern"]
    n11: Int[np.ndarray, " pattern"]
    log_count: Float[np.ndarray, " pattern"]

    @property
    def breaches(self) -> Int[np.ndarray, " pattern"]:
        """Breaches in the sequence, ``x``."""
        return self.first + self.n01 + self.n11

    def weight(self, probability: float) -> Float[np.ndarray, " pattern"]:
        """Probability of each pattern where breaches are independent."""
        x = self.breaches
        log = self.log_count + special.xlogy(x, probability)
        return np.exp(log + special.xlog1py(self.length - x, -probability))

    def markov_weight(
        self, after_calm: float, after_breach: float
    ) -> Float[np.ndarray, " pattern"]:
        """Probability of each pattern under a stationary Markov chain.

        Args:
            after_calm: Probability of a breach after a time without one.
            after_breach: Probability of a breach after a breach.
        """
        start = stationary_probability(after_calm, after_breach)
        log = self.log_count + special.xlogy(self.first, start)
        log = log + special.xlog1py(1 - self.first, -start)
        log = log + special.xlogy(self.n01, after_calm) + special.xlog1py(self.n00, -after_calm)
        log = log + special.xlogy(self.n11, after_breach) + special.xlog1py(self.n10, -after_breach)
        return np.exp(log)


def stationary_probability(after_calm: float, after_breach: float) -> float:
    """Breach probability of the chain: ``after_calm / (1 - after_breach + after_calm)``."""
    return after_calm / (1.0 - after_breach + after_calm)


def after_calm_probability(probability: float, after_breach: float) -> float:
    """Probability of a breach after calm that gives the chain the breach probability asked for."""
    found = probability * (1.0 - after_breach) / (1.0 - probability)
    if not 0.0 < found < 1.0 or not 0.0 <= after_breach < 1.0:
        raise ConfigError(
            f"no chain has breach probability {probability} and {after_breach} after a breach"
        )
    return found


@functools.lru_cache(maxsize=64)
def patterns(length: int, *probabilities: float, after_breach: float = 0.0) -> Patterns:
    """Patterns that matter at any of the probabilities.

    Args:
        length: ``T``, at least 1.
        probabilities: Breach probabilities that weights will be asked for.
        after_breach: Widens the window of counts where a clustered chain will be asked for.
    """
    if length < 1:
        raise ConfigError(f"a sequence of {length} times has no patterns")
    x = _window(length, probabilities, after_breach)
    spread = _SPREADS * np.sqrt(length) * 0.5 + 10.0 if not after_breach else float(length)
    middle = x * (length - x + 1.0) / length
    low = np.maximum(np.minimum(1, x), np.floor(middle - spread)).astype(np.int64)
    high = np.minimum(np.minimum(x, length - x + 1), np.ceil(middle + spread)).astype(np.int64)
    width = np.maximum(high - low + 1, 0)
    breaches = np.repeat(x, width)
    runs = np.arange(width.sum()) - np.repeat(np.cumsum(width) - width, width)
    runs = runs + np.repeat(low, width)
    parts = [_with_ends(length, breaches, runs, f, e) for f in (0, 1) for e in (0, 1)]
    return Patterns(length, *(np.concatenate(column) for column in zip(*parts, strict=True)))


def _window(
    length: int, probabilities: tuple[float, ...], after_breach: float
) -> Int[np.ndarray, " count"]:
    """Counts within many standard deviations of the mean of any of the probabilities."""
    kept = np.zeros(length + 1, dtype=bool)
    for p in probabilities:
        deviation = np.sqrt(length * p * (1.0 - p) * (1.0 + after_breach) / (1.0 - after_breach))
        low = int(length * p - _SPREADS * deviation - 40.0)
        high = int(length * p + _SPREADS * deviation + 40.0 / (1.0 - after_breach))
        kept[max(low, 0) : high + 1] = True
    return np.flatnonzero(kept)


def _with_ends(
    length: int,
    breaches: Int[np.ndarray, " pattern"],
    runs: Int[np.ndarray, " pattern"],
    first: int,
    last: int,
) -> tuple[np.ndarray, ...]:
    """Columns of ``Patterns`` after the length, for one pair of ends; impossible ones left out."""
    calm_runs = runs - 1 + (1 - first) + (1 - last)
    log_count = _log_compositions(breaches, runs) + _log_compositions(length - breaches, calm_runs)
    none = (runs == 0) & ((first == 1) | (last == 1))
    keep = np.isfinite(log_count) & ~none
    x, r = breaches[keep], runs[keep]
    empty = r == 0
    n01, n10 = np.where(empty, 0, r - first), np.where(empty, 0, r - last)
    n11 = x - r
    n00 = length - 1 - n01 - n10 - n11
    return np.full_like(x, first), n00, n01, n10, n11, log_count[keep]


def _log_compositions(
    total: Int[np.ndarray, " pattern"], parts: Int[np.ndarray, " pattern"]
) -> Float[np.ndarray, " pattern"]:
    """Logarithm of the ways to write ``total`` as ``parts`` positive numbers; -inf if none."""
    possible = (parts >= 1) & (total >= parts)
    n, k = np.where(possible, total - 1.0, 0.0), np.where(possible, parts - 1.0, 0.0)
    ways = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    return np.where(possible, ways, np.where((total == 0) & (parts == 0), 0.0, -np.inf))


def tail_of(
    values: Float[np.ndarray, " pattern"],
    weights: Float[np.ndarray, " pattern"],
    observed: Float[np.ndarray, " row"],
    tie: float = 1e-9,
) -> Float[np.ndarray, " row"]:
    """``P(value >= observed)`` of each row; values within ``tie`` (relative) count as equal."""
    order = np.argsort(values)
    ranked = values[order]
    above = np.concatenate([np.cumsum(weights[order][::-1])[::-1], [0.0]])
    at = np.searchsorted(ranked, observed - tie * np.abs(observed) - 1e-13)
    return np.clip(above[at], 0.0, 1.0)
