"""Do breaches follow each other: Christoffersen's independence and conditional coverage (C4, C10).

Transitions are counted on each account's clock: T observed times have T - 1 of them. Unconditional
coverage uses T observations, independence T - 1 transitions, as the common packages do.

References:
    Christoffersen (1998), Evaluating interval forecasts, International Economic Review 39.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import special

from .binomial import likelihood_ratio
from .findings import DEFAULT_RULE, BacktestKind, Finding, Rule, Verdict, codes, decide
from .patterns import patterns, tail_of
from .records import Counts, Sequences


Weighted = Callable[[int, float], tuple[np.ndarray, np.ndarray]]
"""From length and breach probability to the statistic of every pattern and its probability."""


@dataclass(frozen=True)
class Transitions:
    """How often each state follows each state, with the counts they come from.

    Attributes:
        counts: Breaches and observations of the same cells.
        n00, n01, n10, n11: From calm (0) or breach (1) to calm or breach.
    """

    counts: Counts
    n00: Int[np.ndarray, "*cell"]
    n01: Int[np.ndarray, "*cell"]
    n10: Int[np.ndarray, "*cell"]
    n11: Int[np.ndarray, "*cell"]

    @property
    def kind(self) -> BacktestKind:
        """Which backtest was run."""
        return self.counts.kind

    @property
    def clustered(self) -> Bool[np.ndarray, "*cell"]:
        """True where a breach is more likely after a breach: ``n11 n00 > n10 n01``."""
        return self.n11 * self.n00 > self.n10 * self.n01


def transitions(sequences: Sequences) -> Transitions:
    """Transitions of every cell, shape ``[set account]``, from the ragged list of breaches."""
    counts = sequences.counts()
    breaches = sequences.breaches()
    cells = sequences.cells
    size = breaches.observations.size
    follows = ~breaches.is_first & (breaches.gap == 1)
    n11 = np.bincount(breaches.row[follows], minlength=size)
    total = breaches.count
    n01 = total - n11 - (breaches.first_day == 1)
    ends = (breaches.last_day == breaches.observations) & (total > 0)
    n10 = total - n11 - ends
    n00 = np.maximum(breaches.observations - 1, 0) - n01 - n10 - n11
    return Transitions(counts, *(n.reshape(cells) for n in (n00, n01, n10, n11)))


def independence_ratio(
    n00: Int[np.ndarray, "*cell"],
    n01: Int[np.ndarray, "*cell"],
    n10: Int[np.ndarray, "*cell"],
    n11: Int[np.ndarray, "*cell"],
) -> Float[np.ndarray, "*cell"]:
    """``LR_ind``, the G-statistic of the 2x2 table: ``2 sum n ln(n N / (row column))``; >= 0.

    Empty rows or columns give 0: with one class only nothing speaks against independence.
    """
    total = np.maximum(n00 + n01 + n10 + n11, 1)
    calm, breach = n00 + n01, n10 + n11
    to_calm, to_breach = n00 + n10, n01 + n11
    pairs = ((n00, calm, to_calm), (n01, calm, to_breach), (n10, breach, to_calm))
    found = np.zeros(n00.shape)
    for n, row, column in (*pairs, (n11, breach, to_breach)):
        expected = row * (column / total)
        found = found + special.xlogy(n, np.where(n > 0, n / np.where(n > 0, expected, 1.0), 1.0))
    return 2.0 * np.maximum(found, 0.0)


def independence(table: Transitions, rule: Rule = DEFAULT_RULE, *, exact: bool = False) -> Finding:
    """Christoffersen's independence: ``LR_ind`` against one degree of freedom (C4).

    With ``exact`` the p value is ``P(LR_ind >= observed)`` where breaches are independent with the
    target probability, over all sequences of the same length (C10).
    """
    statistic = independence_ratio(table.n00, table.n01, table.n10, table.n11)
    few = _too_few(table)
    p = special.chdtrc(1, statistic)
    p_exact = _exact(table, statistic, _independence_of) if exact else None
    kind = np.where(table.clustered, Verdict.CLUSTERED, Verdict.SPREAD_OUT).astype(np.uint8)
    return Finding(
        kind=table.kind,
        test="independence",
        rule=rule,
        statistic=_known(statistic, table),
        degrees=np.ones_like(table.n00),
        p_value=_known(p, table),
        p_exact=None if p_exact is None else _known(p_exact, table),
        verdict=decide(p if p_exact is None else p_exact, kind, rule, insufficient=few),
    )


def conditional_coverage(
    table: Transitions, rule: Rule = DEFAULT_RULE, *, exact: bool = False
) -> Finding:
    """Conditional coverage: ``LR_cc = LR_uc + LR_ind`` against two degrees of freedom (C4).

    The verdict names what weighs more, the number of breaches or their order. Few breaches make it
    a test of their number alone; without observations there is none.
    """
    counts = table.counts
    target = np.full(counts.breaches.shape, counts.probability)
    number = likelihood_ratio(counts.breaches, counts.observations, target)
    order = independence_ratio(table.n00, table.n01, table.n10, table.n11)
    statistic = number + order
    p = special.chdtrc(2, statistic)
    p_exact = _exact(table, statistic, _coverage_of(counts.probability)) if exact else None
    by_number = np.where(counts.too_many, Verdict.TOO_MANY, Verdict.TOO_FEW)
    by_order = np.where(table.clustered, Verdict.CLUSTERED, Verdict.SPREAD_OUT)
    kind = np.where(number >= order, by_number, by_order).astype(np.uint8)
    decisive = p if p_exact is None else p_exact
    verdict = decide(decisive, kind, rule, insufficient=_unobserved(table))
    few = _too_few(table)
    verdict = np.where((verdict == Verdict.NOT_REJECTED) & (few > 0), few, verdict)
    return Finding(
        kind=table.kind,
        test="conditional coverage",
        rule=rule,
        statistic=_known(statistic, table),
        degrees=np.full_like(table.n00, 2),
        p_value=_known(p, table),
        p_exact=None if p_exact is None else _known(p_exact, table),
        verdict=verdict.astype(np.uint8),
    )


def _independence_of(length: int, probability: float) -> tuple[np.ndarray, np.ndarray]:
    found = patterns(length, probability)
    values = independence_ratio(found.n00, found.n01, found.n10, found.n11)
    return values, found.weight(probability)


def _coverage_of(target: float) -> Weighted:
    def values(length: int, probability: float) -> tuple[np.ndarray, np.ndarray]:
        found = patterns(length, probability)
        order = independence_ratio(found.n00, found.n01, found.n10, found.n11)
        n, p = np.full_like(found.n00, length), np.full(found.n00.shape, target)
        return likelihood_ratio(found.breaches, n, p) + order, found.weight(probability)

    return values


def _exact(
    table: Transitions, statistic: Float[np.ndarray, "*cell"], values_of: Weighted
) -> Float[np.ndarray, "*cell"]:
    """Tail probabilities under the target, once for each distinct number of observations."""
    n = table.counts.observations
    p = np.ones(n.shape)
    for length in np.unique(n[n > 0]).tolist():
        here = n == length
        values, weights = values_of(length, table.counts.probability)
        p[here] = tail_of(values, weights, statistic[here])
    return p


def _unobserved(table: Transitions) -> UInt8[np.ndarray, "*cell"]:
    n = table.counts.observations
    return codes(n.shape, (n == 0, Verdict.NO_OBSERVATIONS))


def _too_few(table: Transitions) -> UInt8[np.ndarray, "*cell"]:
    x, n = table.counts.breaches, table.counts.observations
    return codes(
        n.shape,
        (n == 0, Verdict.NO_OBSERVATIONS),
        (x == 0, Verdict.NO_BREACH),
        (x < 2, Verdict.FEW_BREACHES),
        (n - x < 2, Verdict.NO_CALM),
    )


def _known(value: Float[np.ndarray, "*cell"], table: Transitions) -> Float[np.ndarray, "*cell"]:
    return np.where(table.counts.observations > 0, value, np.nan)
