"""What a test can see: power, the breach rate it detects, and "insufficient data" (C13).

A test that cannot reject proves nothing by not rejecting. Everything here is exact for independent
breaches or for a Markov chain; ``simulated_power`` covers the tests without a closed form.

References:
    Kupiec (1995), section on power; Basel Committee (1996), table of errors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import special

from backtest.errors import ConfigError

from .binomial import at_least, at_most, critical_counts, exact_critical_counts, likelihood_ratio
from .findings import DEFAULT_RULE, BacktestKind, Finding, Rule, Verdict
from .independence import independence_ratio
from .patterns import after_calm_probability, patterns
from .records import Sequences, check_probability
from .traffic_light import bounds


CountTest = Literal["POF", "POF, asymptotic", "binomial, upper tail", "yellow", "red"]
OrderTest = Literal["independence", "conditional coverage"]
COUNT_TESTS: tuple[CountTest, ...] = (
    "POF",
    "POF, asymptotic",
    "binomial, upper tail",
    "yellow",
    "red",
)
_HALVINGS = 60


@dataclass(frozen=True)
class Rejection:
    """Numbers of breaches that a test rejects: up to ``low`` (-1: none) and from ``high`` on.

    ``high`` above the number of observations means that too many breaches cannot be shown.
    """

    low: Int[np.ndarray, "*cell"]
    high: Int[np.ndarray, "*cell"]
    observations: Int[np.ndarray, "*cell"]

    def power(self, breach_probability: Float[np.ndarray, "*cell"]) -> Float[np.ndarray, "*cell"]:
        """Probability of rejection where breaches are independent with this probability."""
        few = at_most(self.low, self.observations, breach_probability)
        return np.minimum(few + at_least(self.high, self.observations, breach_probability), 1.0)


def rejection(
    test: CountTest,
    observations: Int[np.ndarray, "*cell"],
    probability: Float[np.ndarray, "*cell"],
    alpha: float = 0.05,
) -> Rejection:
    """Which numbers of breaches a test rejects; zones of the traffic light ignore ``alpha``."""
    n, p = observations, probability
    none = np.full(n.shape, -1)
    if test == "POF":
        return Rejection(*exact_critical_counts(n, p, alpha), n)
    if test == "POF, asymptotic":
        return Rejection(*critical_counts(n, p, float(special.chdtri(1, alpha))), n)
    if test == "binomial, upper tail":
        low, high = np.zeros_like(n), n + 1
        while (low < high).any():
            probe = (low + high) // 2
            enough = at_least(probe, n, p) < alpha
            low, high = (
                np.where(enough, low, np.minimum(probe + 1, high)),
                np.where(enough, probe, high),
            )
        return Rejection(none, high, n)
    ends = bounds(n, p)
    if test == "yellow":
        return Rejection(none, ends.max_green + 1, n)
    if test == "red":
        return Rejection(none, ends.max_yellow + 1, n)
    raise ConfigError(f"test is {test!r}; allowed: {', '.join(COUNT_TESTS)}")


def detectable(
    region: Rejection, probability: Float[np.ndarray, "*cell"], min_power: float = 0.8
) -> tuple[Float[np.ndarray, "*cell"], Float[np.ndarray, "*cell"]]:
    """Breach probabilities nearest to the target that are noticed with ``min_power``.

    Returns:
        The largest below and the smallest above the target; NaN where there is none.
    """
    check_probability(min_power, "min_power")
    n = region.observations
    low, high = probability.copy(), np.ones(n.shape)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        enough = at_least(region.high, n, middle) >= min_power
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    above = np.where(region.high <= n, high, np.nan)
    low, high = np.zeros(n.shape), probability.copy()
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        enough = at_most(region.low, n, middle) >= min_power
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return np.where(region.low >= 0, low, np.nan), above


def power_table(
    observations: Sequence[int],
    probabilities: Sequence[float],
    rule: Rule = DEFAULT_RULE,
    tests: Sequence[CountTest] = COUNT_TESTS,
) -> pd.DataFrame:
    """What each test of the number of breaches can see, a row for each test, T and p (C13).

    Columns: test, observations, probability, reject_up_to and reject_from (breaches; missing where
    no number rejects), size (true probability of rejecting a correct model), alternative and
    power, detectable_below and detectable_above (breach probabilities noticed with
    ``rule.min_power``; NaN where there is none), verdict (what "not rejected" would be worth).
    """
    grid = np.meshgrid(np.asarray(observations, dtype=np.int64), probabilities, indexing="ij")
    n, p = grid[0].ravel(), np.asarray(grid[1], dtype=float).ravel()
    frames = []
    for test in tests:
        region = rejection(test, n, p, rule.alpha)
        other = rule.alternative(p)
        power = region.power(other)
        below, above = detectable(region, p, rule.min_power)
        words = np.where(power >= rule.min_power, "a pass means something", Verdict.LOW_POWER.words)
        frames.append(
            pd.DataFrame(
                {
                    "test": test,
                    "observations": n,
                    "probability": p,
                    "reject_up_to": _present(region.low, region.low >= 0),
                    "reject_from": _present(region.high, region.high <= n),
                    "size": region.power(p),
                    "alternative": other,
                    "power": power,
                    "detectable_below": below,
                    "detectable_above": above,
                    "verdict": words,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def order_power(
    test: OrderTest,
    observations: int,
    probability: float,
    after_breach: float,
    *,
    true_probability: float | None = None,
    alpha: float = 0.05,
    exact: bool = False,
) -> float:
    """Exact power of independence or conditional coverage against a stationary Markov chain.

    Args:
        test: Which test.
        observations: ``T``.
        probability: Target that the test is about.
        after_breach: Probability of a breach after a breach.
        true_probability: Breach probability of the chain; the target unless given.
        alpha: Size.
        exact: Critical value of the exact distribution in place of the chi-square one.
    """
    true = probability if true_probability is None else true_probability
    after_calm = after_calm_probability(true, after_breach)
    found = patterns(observations, probability, true, after_breach=after_breach)
    value = independence_ratio(found.n00, found.n01, found.n10, found.n11)
    if test == "conditional coverage":
        n, p = np.full_like(found.n00, observations), np.full(found.n00.shape, probability)
        value = value + likelihood_ratio(found.breaches, n, p)
    degrees = 1 if test == "independence" else 2
    critical = float(special.chdtri(degrees, alpha))
    if exact:
        critical = _exact_critical(value, found.weight(probability), alpha)
    weight = found.markov_weight(after_calm, after_breach)
    return min(float(weight[value > critical].sum()), 1.0)


def simulated_power(
    test: Callable[[Sequences], Finding],
    observations: int,
    probability: float,
    true_probability: float,
    *,
    after_breach: float | None = None,
    repetitions: int = 2_000,
    seed: int = 0,
) -> float:
    """Share of simulated sequences that any test rejects (durations, gaps and the like).

    Args:
        test: From sequences to a finding.
        observations: ``T``.
        probability: Target that the test is about.
        true_probability: Breach probability of the sequences.
        after_breach: Probability of a breach after a breach; independent unless given.
        repetitions: Sequences, all tested in one call.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    hit = markov_breaches(repetitions, observations, true_probability, rng, after_breach)
    finding = test(Sequences.of(BacktestKind.CORE_MODEL, probability, hit))
    return float(finding.rejected.mean())


def markov_breaches(
    rows: int,
    times: int,
    probability: float,
    rng: np.random.Generator,
    after_breach: float | None = None,
) -> Bool[np.ndarray, "row time"]:
    """Breaches of a stationary two-state chain, or independent ones."""
    draw = rng.random((rows, times))
    if after_breach is None:
        return draw < probability
    after_calm = after_calm_probability(probability, after_breach)
    hit = np.empty((rows, times), dtype=bool)
    hit[:, 0] = draw[:, 0] < probability
    for t in range(1, times):
        hit[:, t] = draw[:, t] < np.where(hit[:, t - 1], after_breach, after_calm)
    return hit


def _exact_critical(
    values: Float[np.ndarray, " pattern"], weights: Float[np.ndarray, " pattern"], alpha: float
) -> float:
    """Value above which at most ``alpha`` of the weight lies, ties kept together."""
    order = np.argsort(values)[::-1]
    ranked, mass = values[order], np.cumsum(weights[order])
    out = int(np.searchsorted(mass, alpha, side="right"))
    return float(ranked[min(out, ranked.size - 1)] * (1.0 + 1e-9) + 1e-13)


def _present(values: Int[np.ndarray, " row"], present: Bool[np.ndarray, " row"]) -> pd.Series:
    return pd.Series(values).astype("Int64").where(pd.Series(present))
