"""Intervals that respect dependence: the stationary bootstrap over time blocks (C15).

Accounts breach together and crashes last, so times are resampled in blocks, all accounts at once.
Block lengths follow Politis and White through ``arch``; the index draws are those of ``arch`` too.

References:
    Politis and Romano (1994), JASA 89; Politis and White (2004), Econometric Reviews 23, with the
    correction of Patton, Politis and White (2009).
    Korn and Graubard (1998), Survey Methodology 24: intervals of small proportions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from arch.bootstrap import StationaryBootstrap, optimal_block_length
from jaxtyping import Bool, Float, Int, UInt8
from scipy import special

from backtest.errors import ConfigError

from .findings import DEFAULT_RULE, BacktestKind, Rule, Verdict, codes, decide
from .power import rejection
from .records import CHUNK_ELEMENTS, Sequences, check_probability


MIN_BLOCKS = 10
"""Blocks that must fit into the window for an interval from them to mean anything."""

_ROWS = 64


@dataclass(frozen=True)
class Plan:
    """How times are resampled.

    Attributes:
        resamples: Bootstrap draws.
        seed: Of the draws.
        min_block: Shortest mean block, in times; the overlap of loss windows where they overlap.
        level: Confidence of the intervals, a probability.
        block: Mean block for every row, times; by the rule of ``arch``, which takes half a second
            for 40,000 times, where it is None.
    """

    resamples: int = 1_000
    seed: int = 0
    min_block: float = 1.0
    level: float = 0.95
    block: int | None = None

    def __post_init__(self) -> None:
        check_probability(self.level, "level")
        if self.resamples < 100 or min(self.min_block, self.block or 1) < 1:
            raise ConfigError("a plan has at least 100 resamples and blocks of at least 1 time")


DEFAULT_PLAN = Plan()


@dataclass(frozen=True)
class RateInterval:
    """A breach rate with what time dependence leaves of its certainty.

    The ends are Clopper and Pearson's with the effective number of observations (Korn and
    Graubard), which keeps them inside 0 and 1 and honest for a handful of breaches.

    Attributes:
        kind: Which backtest was run.
        level: Confidence.
        value: Breaches / observations, a probability; NaN without observations.
        low, high: Ends of the interval of the breach probability; coverage is 1 less these.
        std_error: Of ``value``, from blocks.
        block: Mean block length, times.
        observations: Account-times.
        design_effect: ``Var_block(value) / [value (1 - value) / observations]``, at least 1; NaN
            where nothing varies.
        effective_observations: ``observations / design_effect``; the number of times where nothing
            varies, since accounts at one time are no independent witnesses.
        p_value: Two-sided, for the target: 1 less the confidence at which the interval ends there.
        verdict: Codes of ``Verdict``.
    """

    kind: BacktestKind
    level: float
    value: Float[np.ndarray, "*cell"]
    low: Float[np.ndarray, "*cell"]
    high: Float[np.ndarray, "*cell"]
    std_error: Float[np.ndarray, "*cell"]
    block: Int[np.ndarray, "*cell"]
    observations: Int[np.ndarray, "*cell"]
    design_effect: Float[np.ndarray, "*cell"]
    effective_observations: Float[np.ndarray, "*cell"]
    p_value: Float[np.ndarray, "*cell"]
    verdict: UInt8[np.ndarray, "*cell"]

    @property
    def words(self) -> np.ndarray:
        """Verdicts as sentences, an array of str in the shape of the cells."""
        return np.array([v.words for v in Verdict])[self.verdict]


def block_lengths(
    series: Float[np.ndarray, "row time"], plan: Plan = DEFAULT_PLAN
) -> Int[np.ndarray, " row"]:
    """Mean block of each row by the rule of ``arch``, rounded up to 1, 2, 3, 4, 6, 8, 12 ...

    Rounding lets rows share draws. Rows that never vary get the shortest block; none gets more than
    a tenth of the window.
    """
    if plan.block is not None:
        return np.full(len(series), plan.block)
    longest = max(series.shape[-1] // MIN_BLOCKS, 1)
    found = np.full(len(series), plan.min_block)
    varies = np.flatnonzero(np.ptp(series, axis=-1) > 0) if series.shape[-1] > 3 else []
    for i in varies:
        best = float(optimal_block_length(series[i])["stationary"].iloc[0])
        found[i] = max(found[i], best) if np.isfinite(best) else found[i]
    rounded = np.ceil(np.sqrt(2.0) ** np.ceil(2.0 * np.log2(found) - 1e-9) - 1e-9)
    return np.minimum(rounded, longest).astype(np.int64)


def resampled(
    series: tuple[Float[np.ndarray, "row time"], ...], block: int, plan: Plan
) -> tuple[Float[np.ndarray, "row draw"], ...]:
    """Sums of every row over each resample of times, the same times for all rows and arguments."""
    times = series[0].shape[-1]
    found = tuple(np.empty((len(s), plan.resamples)) for s in series)
    at = 0
    for weight in _weights(times, block, plan):
        for total, rows in zip(found, series, strict=True):
            total[:, at : at + len(weight)] = rows @ weight.T
        at += len(weight)
    return found


def _weights(times: int, block: int, plan: Plan) -> Iterator[Float[np.ndarray, "draw time"]]:
    """How often each time is drawn, in portions of resamples."""
    source = StationaryBootstrap(block, np.arange(times), seed=np.random.default_rng(plan.seed))
    for start in range(0, plan.resamples, _ROWS):
        size = min(_ROWS, plan.resamples - start)
        drawn = np.stack([source.update_indices() for _ in range(size)])
        flat = drawn + times * np.arange(size)[:, None]
        yield np.bincount(flat.ravel(), minlength=size * times).reshape(size, times).astype(float)


def account_intervals(
    sequences: Sequences, plan: Plan = DEFAULT_PLAN, rule: Rule = DEFAULT_RULE
) -> RateInterval:
    """Interval of each account's breach rate on its own, shape ``[set account]``."""
    times = sequences.hit.shape[-1]
    observed = sequences.observed.reshape(-1, times)
    hit = sequences.hit.reshape(-1, times) & observed
    shape = sequences.cells
    return _intervals(sequences.kind, sequences.probability, hit, observed, shape, plan, rule)


def system_intervals(
    sequences: Sequences, plan: Plan = DEFAULT_PLAN, rule: Rule = DEFAULT_RULE
) -> RateInterval:
    """Interval of each set's breach rate over all accounts together, shape ``[set]``."""
    hit = (sequences.hit & sequences.observed).sum(axis=1)
    observed = sequences.observed.sum(axis=1)
    shape = (len(hit),)
    return _intervals(sequences.kind, sequences.probability, hit, observed, shape, plan, rule)


def panel_intervals(
    kind: BacktestKind,
    probability: float,
    breaches: Int[np.ndarray, "group time"],
    observations: Int[np.ndarray, "group time"],
    plan: Plan = DEFAULT_PLAN,
    rule: Rule = DEFAULT_RULE,
) -> RateInterval:
    """Interval of the breach rate of groups of accounts, from their counts at each time."""
    check_probability(probability)
    shape = (len(breaches),)
    return _intervals(kind, probability, breaches, observations, shape, plan, rule)


@dataclass(frozen=True)
class RateDifference:
    """Breach rate of the second set less that of the first, on the same resampled times.

    Attributes:
        kind: Which backtest was run.
        value, low, high: Difference of probabilities and its interval (basic bootstrap).
        std_error: From blocks.
        verdict: One ``Verdict``.
    """

    kind: BacktestKind
    value: float
    low: float
    high: float
    std_error: float
    verdict: Verdict


def rate_difference(
    sequences: Sequences, first: int, second: int, plan: Plan = DEFAULT_PLAN
) -> RateDifference:
    """Compares two sets over all accounts; the verdict says which one has fewer breaches."""
    both = np.array([first, second])
    hit = (sequences.hit[both] & sequences.observed[both]).sum(axis=1).astype(float)
    observed = sequences.observed[both].sum(axis=1).astype(float)
    total = observed.sum(axis=-1)
    if (total == 0).any():
        nan = float("nan")
        return RateDifference(sequences.kind, nan, nan, nan, nan, Verdict.NO_OBSERVATIONS)
    value = float(hit[1].sum() / total[1] - hit[0].sum() / total[0])
    if not np.ptp(hit[1] - hit[0]) > 0:
        return RateDifference(sequences.kind, value, value, value, 0.0, Verdict.NO_DIFFERENCE)
    block = int(block_lengths((hit[1] - hit[0])[None], plan)[0])
    x, n = resampled((hit, observed), block, plan)
    rates = x / np.maximum(n, 1.0)
    draws = rates[1] - rates[0]
    tail = 0.5 * (1.0 - plan.level)
    low, high = (2.0 * value - float(q) for q in np.quantile(draws, [1.0 - tail, tail]))
    verdict = Verdict.NOT_REJECTED
    if low > 0.0 or high < 0.0:
        verdict = Verdict.FIRST_IS_BETTER if low > 0.0 else Verdict.SECOND_IS_BETTER
    return RateDifference(sequences.kind, value, low, high, float(draws.std(ddof=1)), verdict)


def _intervals(
    kind: BacktestKind,
    probability: float,
    hit: Int[np.ndarray, "row time"] | Bool[np.ndarray, "row time"],
    observed: Int[np.ndarray, "row time"] | Bool[np.ndarray, "row time"],
    shape: tuple[int, ...],
    plan: Plan,
    rule: Rule,
) -> RateInterval:
    times = hit.shape[-1]
    block, error = np.ones(len(hit), dtype=np.int64), np.zeros(len(hit))
    step = max(1, CHUNK_ELEMENTS // max(1, times))
    for start in range(0, len(hit), step):
        part = slice(start, start + step)
        block[part], error[part] = _errors(
            hit[part].astype(float), observed[part].astype(float), plan
        )
    total, seen = observed.sum(axis=-1), np.count_nonzero(observed, axis=-1)
    rate = np.where(total > 0, hit.sum(axis=-1) / np.maximum(total, 1), np.nan)
    effect = _design_effect(rate, error, total)
    size = np.where(np.isnan(effect), seen / plan.min_block, total / np.nan_to_num(effect, nan=1.0))
    ends = _korn_graubard(np.nan_to_num(rate), size, 1.0 - plan.level, probability)
    low, high, p = (
        np.where(total > 0, v, empty) for v, empty in zip(ends, (0, 1, np.nan), strict=True)
    )
    verdict = _verdict(rate, np.nan_to_num(p, nan=1.0), size, seen, probability, rule)
    cells = (a.reshape(shape) for a in (rate, low, high, error, block, total, effect, size, p))
    return RateInterval(kind, plan.level, *cells, verdict=verdict.reshape(shape))


def _errors(
    hit: Float[np.ndarray, "row time"], observed: Float[np.ndarray, "row time"], plan: Plan
) -> tuple[Int[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Block length and standard error of the rate, from linearised ratios.

    ``(I_t - rate N_t) / mean N`` has the rate's error without a division in every resample, which
    might have no observations at all.
    """
    total = observed.sum(axis=-1, keepdims=True)
    rate = hit.sum(axis=-1, keepdims=True) / np.maximum(total, 1.0)
    influence = (hit - rate * observed) / np.maximum(total, 1.0)
    block = block_lengths(influence, plan)
    error = np.zeros(len(hit))
    for length in np.unique(block).tolist():
        here = block == length
        (draws,) = resampled((influence[here],), length, plan)
        error[here] = draws.std(axis=-1, ddof=1)
    return block, error


def _design_effect(
    rate: Float[np.ndarray, " row"],
    error: Float[np.ndarray, " row"],
    total: Int[np.ndarray, " row"],
) -> Float[np.ndarray, " row"]:
    """``error^2 / [rate (1 - rate) / total]``, at least 1; NaN where nothing varies."""
    independent = np.nan_to_num(rate * (1.0 - rate)) / np.maximum(total, 1)
    varies = (independent > 0.0) & (error > 0.0)
    return np.where(varies, np.maximum(error**2 / np.where(varies, independent, 1.0), 1.0), np.nan)


def _korn_graubard(
    rate: Float[np.ndarray, " row"],
    size: Float[np.ndarray, " row"],
    alpha: float,
    probability: float,
) -> tuple[Float[np.ndarray, " row"], ...]:
    """Clopper-Pearson ends and p value with the effective size, ``x = rate size``."""
    n = np.maximum(size, 1e-9)
    x = np.clip(rate * n, 0.0, n)
    rest = n - x
    some, calm = np.maximum(x, 1e-12), np.maximum(rest, 1e-12)
    low = np.where(x > 0.0, special.betaincinv(some, rest + 1.0, alpha / 2), 0.0)
    high = np.where(rest > 0.0, special.betainccinv(x + 1.0, calm, alpha / 2), 1.0)
    up = np.where(x > 0.0, special.betainc(some, rest + 1.0, probability), 1.0)
    down = np.where(rest > 0.0, special.betaincc(x + 1.0, calm, probability), 1.0)
    return low, high, np.minimum(2.0 * np.minimum(up, down), 1.0)


def _verdict(
    rate: Float[np.ndarray, " row"],
    p: Float[np.ndarray, " row"],
    size: Float[np.ndarray, " row"],
    seen: Int[np.ndarray, " row"],
    probability: float,
    rule: Rule,
) -> UInt8[np.ndarray, " row"]:
    """Verdicts; the power is that of as many independent observations as the effective size."""
    n = np.maximum(np.floor(size), 1).astype(np.int64)
    target = np.full(n.shape, probability)
    power = rejection("binomial, upper tail", n, target, rule.alpha / 2).power(
        rule.alternative(target)
    )
    side = np.where(rate > probability, Verdict.TOO_MANY, Verdict.TOO_FEW).astype(np.uint8)
    gone = codes(
        seen.shape, (seen == 0, Verdict.NO_OBSERVATIONS), (seen < MIN_BLOCKS, Verdict.FEW_TIMES)
    )
    return decide(p, side, rule, power=power, insufficient=gone)
