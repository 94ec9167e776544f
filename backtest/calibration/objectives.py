"""Objectives over any stretch of time: values, and upper bounds from resampled blocks of time.

| objective | what | unit |
|---|---|---|
| ``frequency`` | accounts liquidated for the first time / account-days scored | a day |
| ``episodes`` | liquidation episodes begun / account-days scored | a day |
| ``bad_debt`` | what closing at the trigger leaves uncovered / average gross notional | a year |
| ``margin`` | total MMR / gross notional, both summed over account-times | fraction |
| ``procyclicality`` | largest / smallest margin of a block | ratio |

Smaller is better in all of them. Episodes can grow where rules are loosened: an account that is
in liquidation throughout under strict rules recovers and falls again under loose ones. All but the
last are ratios of sums; that one has no interval, since the extremes of resampled blocks say
nothing about those of the next window.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from backtest.calibration.config import BootstrapSection, Objective
from backtest.calibration.series import Series
from backtest.statistics.blocks import Plan, block_lengths, panel_intervals, resampled
from backtest.statistics.findings import BacktestKind


DAY_S, YEAR_S = 86_400.0, 365.0 * 86_400.0
KIND = BacktestKind.LIQUIDATION_OUTCOME
COUNTED: dict[Objective, str] = {"frequency": "liquidated", "episodes": "episodes"}
"""Objectives that count what happens to accounts."""
_TARGET = 0.01
"""Of the interval's test, which is not used."""
Values = Float[np.ndarray, " candidate"]


def parts(
    series: Series, objective: Objective
) -> tuple[Float[np.ndarray, "candidate block"], Float[np.ndarray, "candidate block"]]:
    """Numerator and denominator by block, whose sums make the objective."""
    if objective in COUNTED:
        return series.of(COUNTED[objective]), series.of("scored") * _days(series)
    gross = series.of("gross_usd")
    if objective == "bad_debt":
        return series.of("shortfall_usd"), gross * (series.interval_seconds / YEAR_S)
    return series.of("mmr_usd"), gross


def value(series: Series, objective: Objective) -> Values:
    """The objective of every candidate; NaN where there is nothing to divide by."""
    top, bottom = parts(series, objective)
    if objective == "procyclicality":
        held = np.where((bottom > 0) & (top > 0), top / np.where(bottom > 0, bottom, 1.0), np.nan)
        if not len(series.blocks):
            return np.full(len(top), np.nan)
        low, high = np.fmin.reduce(held, axis=1), np.fmax.reduce(held, axis=1)
        return high / low
    return _ratio(top.sum(axis=1), bottom.sum(axis=1))


def plan_of(series: Series, settings: BootstrapSection, seed: int) -> Plan:
    """How blocks are resampled: the same draws for all candidates, so that they compare in pairs.

    The mean run of blocks follows the liquidations of today's rules (the first candidate).
    """
    mean = settings.mean_block
    if mean is None:
        mean = int(block_lengths(series.of("liquidated")[:1])[0])
    return Plan(resamples=settings.resamples, seed=seed, block=mean)


def upper(series: Series, objective: Objective, plan: Plan, confidence: float) -> Values:
    """One-sided upper confidence bound of the objective of every candidate.

    That of counts is Korn and Graubard's, which stays honest where nobody is liquidated.
    """
    if objective == "procyclicality" or not len(series.blocks):
        return value(series, objective)
    top, bottom = parts(series, objective)
    if objective in COUNTED:
        both = _at(plan, 2.0 * confidence - 1.0)
        scored = series.of("scored").astype(np.int64)
        begun = np.minimum(series.of(COUNTED[objective]).astype(np.int64), scored)
        found = panel_intervals(KIND, _TARGET, begun, scored, both)
        return np.asarray(found.high) / _days(series)
    drawn = resampled((top, bottom), plan.block or 1, plan)
    return _quantile(_ratio(*drawn), confidence)


def versus_today(series: Series, objective: Objective) -> Values:
    """The objective of every candidate as a multiple of today's (the first one)."""
    return _multiple(value(series, objective), value(series, objective)[0])


def upper_versus_today(
    series: Series, objective: Objective, plan: Plan, confidence: float
) -> Values:
    """Upper bound of that multiple, both drawn from the same resampled blocks."""
    if objective == "procyclicality" or not len(series.blocks):
        return versus_today(series, objective)
    drawn = resampled(parts(series, objective), plan.block or 1, plan)
    ratio = _ratio(*drawn)
    return _quantile(_multiple(ratio, ratio[:1]), confidence)


def difference(
    series: Series, objective: Objective, plan: Plan, confidence: float = 0.95
) -> tuple[float, float, float]:
    """The second candidate less the first, with a two-sided interval on the same blocks."""
    values = value(series, objective)
    found = float(values[1] - values[0])
    if objective == "procyclicality" or not len(series.blocks):
        return found, float("nan"), float("nan")
    ratio = _ratio(*resampled(parts(series, objective), plan.block or 1, plan))
    draws = ratio[1] - ratio[0]
    tail = 0.5 * (1.0 - confidence)
    low, high = (
        np.nanquantile(draws, [tail, 1.0 - tail])
        if np.isfinite(draws).any()
        else (
            np.nan,
            np.nan,
        )
    )
    return found, float(low), float(high)


def losses(series: Series, objectives: Sequence[Objective]) -> Float[np.ndarray, "block candidate"]:
    """One loss a block and candidate for meters of the search; smaller is better.

    The mean over objectives of what each block adds to them, where today's whole window is 1. The
    frequency alone would choose the dearest margin, so cost stands beside it with the same weight.
    """
    found = []
    for objective in objectives:
        top, bottom = parts(series, objective)
        mean = bottom.mean(axis=1, keepdims=True)
        now = float(value(series, objective)[0])
        if objective != "procyclicality" and now > 0:
            found.append(top / np.where(mean > 0, mean, np.nan) / now)
    if not found:
        return np.zeros(series.values.shape[1::-1])
    return np.mean(found, axis=0).T


def _days(series: Series) -> float:
    """Days that one account-time stands for."""
    return series.interval_seconds / DAY_S


def _at(plan: Plan, level: float) -> Plan:
    return Plan(
        resamples=plan.resamples,
        seed=plan.seed,
        min_block=plan.min_block,
        level=level,
        block=plan.block,
    )


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), np.nan)


def _multiple(values: np.ndarray, now: np.ndarray | float) -> np.ndarray:
    """``values / now``; equal zeros are 1, more than zero of nothing is infinite."""
    now = np.broadcast_to(now, np.shape(values))
    safe = np.where(now > 0, now, 1.0)
    none = np.where(np.isnan(values) | np.isnan(now), np.nan, np.where(values > 0, np.inf, 1.0))
    return np.where(now > 0, values / safe, none)


def _quantile(draws: Float[np.ndarray, "candidate draw"], level: float) -> Values:
    found = np.full(len(draws), np.nan)
    known = ~np.isnan(draws).all(axis=1)
    # an infinite draw is a draw: the next one up is taken, not an average with infinity
    found[known] = np.nanquantile(draws[known], level, axis=1, method="higher")
    return found
