"""Liquidation frequency under three denominators, with intervals from blocks of time."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from . import frames
from .account_stats import account_stats
from .bootstrap import MIN_TIMES, BlockPlan, Estimate, estimate, plan_blocks, resampled_sums
from .compare import pair_accounts
from .reader import SUMMARY_COUNTS, SUMMARY_SUMS, Results


DAY = 86_400.0


@dataclass(frozen=True)
class Rates:
    """Frequencies of one set (or their difference between two sets).

    Attributes:
        per_account: Accounts liquidated once or more / accounts scored; a fraction.
        per_account_day: Episodes / scored account-days.
        per_notional: Gross notional at the start of episodes / average gross notional; a fraction
            of the whole window, not per day.
    """

    per_account: Estimate
    per_account_day: Estimate
    per_notional: Estimate


def times(results: Results) -> pd.DatetimeIndex:
    """All times of the replay, of any set."""
    key = ("times",)
    if key not in results.memo:
        found = [pd.DatetimeIndex(results.summary(n)["time"].unique()) for n in results.set_names]
        results.memo[key] = found[0].append(found[1:]).unique().sort_values()
    return results.memo[key]


def by_time(results: Results, parameter_set: str) -> pd.DataFrame:
    """Counts, sums and charges of one set over all segments, one row for each replayed time.

    Adds ``first_liquidations`` (accounts whose first episode starts then) and ``at_or_below_100``
    (accounts in liquidation or with equity below zero).
    """
    key = ("by_time", parameter_set)
    if key not in results.memo:
        charges = (c.name for c in results.charges(parameter_set))
        columns = [*SUMMARY_COUNTS, *SUMMARY_SUMS, *charges]
        frame = frames.summed(results.summary(parameter_set), "time", columns)
        frame = frame.reindex(times(results), fill_value=0)
        first = account_stats(results, parameter_set).first_times
        frame["first_liquidations"] = first.reindex(frame.index, fill_value=0)
        frame["at_or_below_100"] = frame["liquidation"] + frame["bankrupt"]
        results.memo[key] = frame
    return results.memo[key]


def block_plan(results: Results) -> BlockPlan:
    """How times are resampled, the same for every set so that differences are paired."""
    return plan_blocks(len(times(results)), results.interval_seconds)


def rates(results: Results, parameter_set: str) -> Rates:
    """Frequencies of one parameter set with 95 % intervals."""
    values, draws = _values(results, parameter_set), _draws(results, parameter_set)
    return Rates(*(estimate(values[i], None if draws is None else draws[:, i]) for i in range(3)))


def rate_differences(results: Results, champion: str, challenger: str) -> Rates:
    """Frequencies of the challenger less those of the champion, on the same resampled times.

    The difference per account counts only accounts that one of the two sets liquidates, each at the
    time when that set does: one liquidated a little later under the other set is no difference.
    """
    value = _values(results, challenger) - _values(results, champion)
    a, b = _draws(results, champion), _draws(results, challenger)
    draws = None if a is None or b is None else b - a
    flips, per_account = _flip_draws(results, champion, challenger)
    others = (estimate(value[i], None if draws is None else draws[:, i]) for i in (1, 2))
    return Rates(estimate(flips, per_account), *others)


def _flip_draws(
    results: Results, champion: str, challenger: str
) -> tuple[float, np.ndarray | None]:
    """Share newly liquidated less share saved among paired accounts, and its resamples."""
    key = ("flip_draws", champion, challenger)
    if key not in results.memo:
        results.memo[key] = _compute_flip_draws(results, champion, challenger)
    return results.memo[key]


def _compute_flip_draws(
    results: Results, champion: str, challenger: str
) -> tuple[float, np.ndarray | None]:
    pairs = pair_accounts(results, champion, challenger)
    if not len(pairs):
        return float("nan"), None
    outcome = pairs["outcome"].to_numpy()
    sign = (outcome == "only_challenger").astype(float) - (outcome == "only_champion").astype(float)
    flips = pairs[["flip_time"]].assign(sign=sign)
    series = frames.summed(flips, "flip_time", ["sign"]).reindex(times(results), fill_value=0.0)
    value = float(sign.sum()) / len(pairs)
    plan = block_plan(results)
    if plan.times < MIN_TIMES:
        return value, None
    return value, resampled_sums(series.to_numpy(dtype=float), plan)[:, 0] / len(pairs)


def effective_accounts(results: Results, parameter_set: str) -> float | None:
    """Independent accounts that would give the same uncertainty of the share liquidated."""
    share = rates(results, parameter_set).per_account
    if not share.std_error or not 0 < share.value < 1:
        return None
    return share.value * (1 - share.value) / share.std_error**2


def _series(results: Results, parameter_set: str) -> np.ndarray:
    columns = [
        "first_liquidations",
        "episodes_started",
        "scored",
        "liquidated_notional_usd",
        "gross_notional_usd",
    ]
    return by_time(results, parameter_set)[columns].to_numpy(dtype=float)


def _ratios(results: Results, parameter_set: str, sums: np.ndarray) -> np.ndarray:
    """The three frequencies from sums over time, shape (..., 3); NaN where nothing was scored."""
    first, episodes, scored, notional, gross = np.moveaxis(sums, -1, 0)
    accounts = account_stats(results, parameter_set).scored
    count = len(times(results))
    with np.errstate(divide="ignore", invalid="ignore"):
        per_account = np.minimum(first / accounts, 1.0) if accounts else first * np.nan
        per_day = episodes / (scored * results.interval_seconds / DAY)
        per_notional = notional / (gross / count if count else gross)
    return np.stack([per_account, per_day, per_notional], axis=-1)


def _values(results: Results, parameter_set: str) -> np.ndarray:
    values = _ratios(results, parameter_set, _series(results, parameter_set).sum(axis=0))
    values[0] = account_stats(results, parameter_set).share
    return values


def _draws(results: Results, parameter_set: str) -> np.ndarray | None:
    """Resampled frequencies, shape (resample, 3); None where the window is too short."""
    key = ("draws", parameter_set)
    if key not in results.memo:
        plan = block_plan(results)
        if plan.times < MIN_TIMES:
            results.memo[key] = None
        else:
            sums = resampled_sums(_series(results, parameter_set), plan)
            results.memo[key] = _ratios(results, parameter_set, sums)
    return results.memo[key]


def average_margin(results: Results, parameter_set: str, column: str = "total_mmr") -> float:
    """Margin / gross notional, both summed over all times and accounts; NaN without positions."""
    frame = by_time(results, parameter_set)
    gross = frames.total(frame, "gross_notional_usd")
    return frames.total(frame, column) / gross if gross else float("nan")


def peak_to_trough(results: Results, parameter_set: str) -> float:
    """Largest over smallest margin / gross notional on the way; NaN without positions."""
    frame = by_time(results, parameter_set)
    margin, gross = (frames.numbers(frame, c) for c in ("total_mmr", "gross_notional_usd"))
    held = (gross > 0) & (margin > 0)
    path = margin[held] / gross[held]
    return float(path.max() / path.min()) if len(path) else float("nan")


def largest_rise(results: Results, parameter_set: str, days: int) -> float:
    """Largest rise of margin / gross notional over exactly so many days, a fraction.

    NaN where the window is not longer, days are no multiple of the interval, or no two times so
    far apart have positions.
    """
    frame = by_time(results, parameter_set)
    margin, gross = (frames.numbers(frame, c) for c in ("total_mmr", "gross_notional_usd"))
    held = (gross > 0) & (margin > 0)
    path = np.divide(margin, gross, out=np.full_like(margin, np.nan), where=held)
    step = days * DAY / results.interval_seconds
    if step != int(step) or not 0 < step < len(path):
        return float("nan")
    rises = path[int(step) :] / path[: -int(step)] - 1.0
    known = rises[np.isfinite(rises)]
    return float(known.max()) if len(known) else float("nan")
