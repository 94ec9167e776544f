"""How many breaches: Kupiec's proportion of failures, the binomial test and exact intervals (C2).

Everything is vectorised over cells. chi-square p values are poor at 1 % and a few hundred
observations, so the finite-sample ones stand beside them and decide the verdict.

References:
    Kupiec (1995), Techniques for verifying the accuracy of risk measurement models, J. Derivatives.
    Clopper and Pearson (1934), Biometrika 26.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from scipy import special

from .binomial import (
    at_least,
    at_most,
    critical_counts,
    exact_critical_counts,
    exact_likelihood_ratio_p,
    likelihood_ratio,
)
from .findings import DEFAULT_RULE, BacktestKind, Finding, Rule, Verdict, codes, decide
from .records import Counts, check_probability


Side = Literal["two", "upper", "lower"]


@dataclass(frozen=True)
class Interval:
    """An interval of a breach probability.

    Attributes:
        kind: Which backtest was counted.
        level: Confidence, a probability.
        value: Breaches / observations; NaN without observations.
        low, high: Ends, probabilities; 0 and 1 without observations.
    """

    kind: BacktestKind
    level: float
    value: Float[np.ndarray, "*cell"]
    low: Float[np.ndarray, "*cell"]
    high: Float[np.ndarray, "*cell"]


def kupiec(counts: Counts, rule: Rule = DEFAULT_RULE) -> Finding:
    """Proportion of failures: ``LR_uc`` against one degree of freedom (C2).

    ``p_exact = P(LR_uc(X) >= LR_uc(x))`` under the binomial, ``p_mid`` takes half of P(X = x) off.
    The power is that of the exact test against ``rule.alternative``.

    Example:
        >>> float(kupiec(Counts.of(BacktestKind.CORE_MODEL, 0.05, 57, 1043)).statistic[0].round(5))
        0.46147
    """
    x, n = counts.breaches, counts.observations
    p = _target(counts)
    statistic = likelihood_ratio(x, n, p)
    exact = exact_likelihood_ratio_p(x, n, p)
    point = at_least(x, n, p) - at_least(x + 1, n, p)
    low, high = exact_critical_counts(n, p, rule.alpha)
    other = rule.alternative(p)
    power = at_most(low, n, other) + at_least(high, n, other)
    return Finding(
        kind=counts.kind,
        test="POF",
        rule=rule,
        statistic=_known(statistic, counts),
        degrees=np.ones_like(n),
        p_value=_known(special.chdtrc(1, statistic), counts),
        p_exact=_known(exact, counts),
        p_mid=_known(np.clip(exact - 0.5 * point, 0.0, 1.0), counts),
        power=power,
        verdict=decide(exact, _side(counts), rule, power=power, insufficient=_nothing(counts)),
    )


def binomial(counts: Counts, side: Side = "two", rule: Rule = DEFAULT_RULE) -> Finding:
    """Binomial test (C2): ``z = (x - Tp) / sqrt(Tp(1-p))`` with normal, exact and mid p values.

    One-sided exact: ``P(X >= x)`` or ``P(X <= x)``; two-sided is twice the smaller one, at most 1,
    so that it agrees with ``clopper_pearson``.
    """
    x, n = counts.breaches, counts.observations
    p = _target(counts)
    z = (x - n * p) / np.sqrt(np.maximum(n, 1) * p * (1.0 - p))
    half = 0.5 * (at_least(x, n, p) - at_least(x + 1, n, p))
    tails = {"upper": at_least(x, n, p), "lower": at_most(x, n, p)}
    normal = {"upper": special.ndtr(-z), "lower": special.ndtr(z)}
    exact, middle, limit = (_sided(side, t) for t in (tails, _less(tails, half), normal))
    power = binomial_power(counts, side, rule)
    return Finding(
        kind=counts.kind,
        test=f"binomial, {side}-sided" if side == "two" else f"binomial, {side} tail",
        rule=rule,
        statistic=_known(z, counts),
        degrees=np.zeros_like(n),
        p_value=_known(limit, counts),
        p_exact=_known(exact, counts),
        p_mid=_known(middle, counts),
        power=power,
        verdict=decide(exact, _side(counts), rule, power=power, insufficient=_nothing(counts)),
    )


def binomial_power(
    counts: Counts, side: Side = "two", rule: Rule = DEFAULT_RULE
) -> Float[np.ndarray, "*cell"]:
    """Probability that the exact binomial test rejects at the alternative of ``rule``.

    The lower tail is asked about ``p / ratio``, the others about ``ratio p``.
    """
    n, p = counts.observations, _target(counts)
    tail = rule.alpha / 2 if side == "two" else rule.alpha
    other = p / rule.alternative_ratio if side == "lower" else rule.alternative(p)
    high = special.bdtrik(1.0 - tail, np.maximum(n, 1), p)
    up = np.floor(np.nan_to_num(high)).astype(np.int64)
    up = np.where(at_least(up, n, p) < tail, up, up + 1)
    up = np.where(at_least(up, n, p) < tail, up, up + 1)
    down = np.floor(np.nan_to_num(special.bdtrik(tail, np.maximum(n, 1), p))).astype(np.int64)
    down = np.where(at_most(down, n, p) < tail, down, down - 1)
    down = np.where(at_most(down, n, p) < tail, down, down - 1)
    power = np.zeros(n.shape)
    if side != "lower":
        power = power + at_least(up, n, other)
    if side != "upper":
        power = power + at_most(down, n, other)
    return np.where(n > 0, power, 0.0)


def clopper_pearson(counts: Counts, level: float = 0.95) -> Interval:
    """Exact interval of the breach probability, each tail at most ``(1 - level) / 2``.

    ``low = BetaPPF(a/2; x, T-x+1)``, ``high = BetaPPF(1-a/2; x+1, T-x)``. It takes observations as
    independent; ``blocks.rate_interval`` does not.
    """
    tail = (1.0 - check_probability(level, "level")) / 2
    x, n = counts.breaches, counts.observations
    rest = n - x
    low = special.betaincinv(np.maximum(x, 1), rest + 1.0, tail)
    high = special.betainccinv(x + 1.0, np.maximum(rest, 1), tail)
    return Interval(
        counts.kind,
        level,
        1.0 - counts.coverage_frac,
        np.where(x == 0, 0.0, low),
        np.where(rest == 0, 1.0, high),
    )


def acceptance_region(counts: Counts, alpha: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest number of breaches that Kupiec's asymptotic test does not reject.

    The formula rejects zero breaches once ``-2 T ln(1-p)`` passes the critical value (from 192
    observations at 1 %); the table of 1995 treats zero as fine.
    """
    limit = float(special.chdtri(1, check_probability(alpha, "alpha")))
    low, high = critical_counts(counts.observations, _target(counts), limit)
    return low + 1, high - 1


def _target(counts: Counts) -> Float[np.ndarray, "*cell"]:
    return np.full(counts.breaches.shape, counts.probability)


def _side(counts: Counts) -> UInt8[np.ndarray, "*cell"]:
    return np.where(counts.too_many, Verdict.TOO_MANY, Verdict.TOO_FEW).astype(np.uint8)


def _nothing(counts: Counts) -> UInt8[np.ndarray, "*cell"]:
    return codes(counts.breaches.shape, (counts.observations == 0, Verdict.NO_OBSERVATIONS))


def _known(value: Float[np.ndarray, "*cell"], counts: Counts) -> Float[np.ndarray, "*cell"]:
    return np.where(counts.observations > 0, value, np.nan)


def _less(
    tails: dict[str, Float[np.ndarray, "*cell"]], half: Float[np.ndarray, "*cell"]
) -> dict[str, Float[np.ndarray, "*cell"]]:
    return {side: np.clip(tail - half, 0.0, 1.0) for side, tail in tails.items()}


def _sided(side: Side, tails: dict[str, Float[np.ndarray, "*cell"]]) -> Float[np.ndarray, "*cell"]:
    if side != "two":
        return tails[side]
    return np.minimum(2.0 * np.minimum(tails["upper"], tails["lower"]), 1.0)
