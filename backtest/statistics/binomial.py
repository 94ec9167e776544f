"""Binomial tails, and finite-sample p values of any statistic that grows away from its middle.

Tails come from the incomplete beta function, so they hold at 40,000 observations and beyond.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy import special


TIE = 1e-9
"""Relative difference of two statistics below which they count as equal."""

Score = Callable[[Int[np.ndarray, "*cell"]], Float[np.ndarray, "*cell"]]


def at_least(
    k: Int[np.ndarray, "*cell"], n: Int[np.ndarray, "*cell"], p: Float[np.ndarray, "*cell"]
) -> Float[np.ndarray, "*cell"]:
    """``P(X >= k)`` of a binomial X(n, p); 1 at ``k <= 0``, 0 at ``k > n``."""
    inside = np.clip(k, 1, np.maximum(n, 1))
    tail = special.betainc(inside, np.maximum(n, 1) - inside + 1.0, p)
    return np.where(k <= 0, 1.0, np.where(k > n, 0.0, tail))


def at_most(
    k: Int[np.ndarray, "*cell"], n: Int[np.ndarray, "*cell"], p: Float[np.ndarray, "*cell"]
) -> Float[np.ndarray, "*cell"]:
    """``P(X <= k)`` of a binomial X(n, p); 0 at ``k < 0``, 1 at ``k >= n``."""
    inside = np.clip(k, 0, np.maximum(n - 1, 0))
    head = special.betaincc(inside + 1.0, np.maximum(n - inside, 1.0), p)
    return np.where(k < 0, 0.0, np.where(k >= n, 1.0, head))


def likelihood_ratio(
    x: Int[np.ndarray, "*cell"], n: Int[np.ndarray, "*cell"], p: Float[np.ndarray, "*cell"]
) -> Float[np.ndarray, "*cell"]:
    """``LR_uc = 2 [x ln(x / Tp) + (T-x) ln((T-x) / T(1-p))]``, 0 ln 0 = 0; 0 without observations.

    It is the G-statistic of (x, T-x) against (Tp, T(1-p)). At x = 0 it is ``-2 T ln(1-p)``.
    """
    expected = np.maximum(n, 1) * p
    rest = np.maximum(n, 1) - expected
    half = special.xlogy(x, x / expected) + special.xlogy(n - x, (n - x) / rest)
    zero = -n * np.log1p(-p)
    return np.where(n > 0, 2.0 * np.maximum(np.where(x == 0, zero, half), 0.0), 0.0)


def outer_bounds(
    score: Score,
    threshold: Float[np.ndarray, "*cell"],
    lowest: Int[np.ndarray, "*cell"],
    middle: Int[np.ndarray, "*cell"],
    highest: Int[np.ndarray, "*cell"],
) -> tuple[Int[np.ndarray, "*cell"], Int[np.ndarray, "*cell"]]:
    """Where a score that falls up to ``middle`` and grows after it is at least ``threshold``.

    Returns:
        The largest ``k <= middle`` and the smallest ``k > middle`` of that kind; ``lowest - 1`` and
        ``highest + 1`` where there is none. Ties within ``TIE`` count as reached.
    """
    needed = threshold - TIE * np.abs(threshold) - 1e-13
    low = lowest - 1
    high = middle
    while (low < high).any():
        probe = (low + high + 1) // 2
        reached = (score(probe) >= needed) | (probe <= low)
        low, high = (
            np.where(reached, np.maximum(probe, low), low),
            np.where(reached, high, probe - 1),
        )
    below = low
    low, high = np.minimum(middle + 1, highest + 1), highest + 1
    while (low < high).any():
        probe = (low + high) // 2
        reached = (score(probe) >= needed) | (probe > highest)
        low, high = (
            np.where(reached, low, probe + 1),
            np.where(reached, np.minimum(probe, high), high),
        )
        low = np.minimum(low, high)
    return below, high


def critical_counts(
    n: Int[np.ndarray, "*cell"], p: Float[np.ndarray, "*cell"], threshold: float
) -> tuple[Int[np.ndarray, "*cell"], Int[np.ndarray, "*cell"]]:
    """Largest count below and smallest above ``Tp`` whose LR_uc is at least ``threshold``."""
    level = np.full(n.shape, threshold)
    return outer_bounds(lambda k: likelihood_ratio(k, n, p), level, 0 * n, _middle(n, p), n)


def exact_likelihood_ratio_p(
    x: Int[np.ndarray, "*cell"], n: Int[np.ndarray, "*cell"], p: Float[np.ndarray, "*cell"]
) -> Float[np.ndarray, "*cell"]:
    """``P(LR_uc(X) >= LR_uc(x))`` under X ~ binomial(n, p): both tails, ties included."""
    below, above = outer_bounds(
        lambda k: likelihood_ratio(k, n, p), likelihood_ratio(x, n, p), 0 * n, _middle(n, p), n
    )
    return np.minimum(at_most(below, n, p) + at_least(above, n, p), 1.0)


def exact_critical_counts(
    n: Int[np.ndarray, "*cell"], p: Float[np.ndarray, "*cell"], alpha: float
) -> tuple[Int[np.ndarray, "*cell"], Int[np.ndarray, "*cell"]]:
    """Largest count below and smallest above ``Tp`` whose exact p value is under ``alpha``.

    The search runs over distinct pairs of ``n`` and ``p`` only.
    """
    pairs, at = np.unique(np.stack([n.ravel(), p.ravel()]), axis=1, return_inverse=True)
    many, target = pairs[0].astype(np.int64), pairs[1]
    low, high = outer_bounds(
        lambda k: 1.0 * (exact_likelihood_ratio_p(np.clip(k, 0, many), many, target) < alpha),
        np.ones(many.shape),
        0 * many,
        _middle(many, target),
        many,
    )
    index = at.reshape(n.shape)
    return low[index], high[index]


def _middle(n: Int[np.ndarray, "*cell"], p: Float[np.ndarray, "*cell"]) -> Int[np.ndarray, "*cell"]:
    return np.floor(n * p).astype(np.int64)
