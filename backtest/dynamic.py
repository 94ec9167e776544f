"""Paths of parameters that follow the market, known as of each time.

Nothing later than a time enters its factor: drivers are read from index rows, or rows of a file,
that were known then, and the factor remembers only earlier times. Ending a run earlier therefore
never changes a path.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from backtest.dataset import Dataset
from backtest.errors import DataError
from backtest.market_window import MICROS, micros, stamp
from backtest.params_base import Rule
from backtest.row_rules import clean_index


SECONDS_PER_YEAR = 365.0 * 86_400.0
MIN_RETURNS = 8
"""Fewer returns than this in the lookback give no volatility."""


def factor_path(
    rule: Rule, dataset: Dataset, times_us: np.ndarray, file: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """Factor of a rule at each time, and its driver (NaN = not known).

    Args:
        rule: the rule.
        dataset: where its index is read.
        times_us: grid, ascending.
        file: what the rule reads where it follows a file.
    """
    driver = _driver(rule, dataset, times_us, file)
    factors = np.empty(len(times_us))
    at = np.nan
    for k, value in enumerate(driver):
        hours = (times_us[k] - times_us[k - 1]) / (3_600.0 * MICROS) if k else 0.0
        at = _moved(rule, at, value, hours)
        factors[k] = 1.0 if np.isnan(at) else at
    return factors, driver


def _moved(rule: Rule, at: float, driver: float, hours: float) -> float:
    """Where the factor goes from ``at`` (NaN = nowhere yet)."""
    if np.isnan(driver):
        return at
    target = min(max(driver / rule.reference, rule.floor), rule.cap)
    if np.isnan(at):
        return _rounded(target, rule)
    if abs(target / at - 1.0) <= rule.band:
        return at
    if rule.max_change_per_hour is not None:
        room = rule.max_change_per_hour * hours * at
        target = min(max(target, at - room), at + room)
    return _rounded(target, rule)


def _rounded(value: float, rule: Rule) -> float:
    # To the nearest step, and never beyond the bounds.
    stepped = round(value / rule.step) * rule.step
    return min(max(stepped, rule.floor), rule.cap)


def _driver(rule: Rule, dataset: Dataset, times_us: np.ndarray, file: Path | None) -> np.ndarray:
    if rule.driver == "series":
        assert file is not None
        return _series(file, rule, times_us)
    lookback_us = int(pd.Timedelta(rule.lookback).total_seconds() * MICROS)
    when, usd = _index(dataset, str(rule.currency), times_us, lookback_us)
    if rule.driver == "depeg":
        values = pd.Series(1.0 - np.minimum(usd, 1.0 / usd), index=pd.DatetimeIndex(_stamps(when)))
        known = values.rolling(rule.lookback, closed="both").max()
    else:
        returns = np.diff(np.log(usd), prepend=np.nan)
        years = np.diff(when, prepend=np.nan) / MICROS / SECONDS_PER_YEAR
        frame = pd.DataFrame(
            {"square": returns**2, "years": years}, index=pd.DatetimeIndex(_stamps(when))
        )
        sums = frame.rolling(rule.lookback, closed="right", min_periods=MIN_RETURNS).sum()
        known = (sums["square"] / sums["years"]) ** 0.5
    return _as_of(when, np.asarray(known, dtype=float), times_us)


def _stamps(times_us: np.ndarray) -> list[pd.Timestamp]:
    return [stamp(int(t)) for t in times_us]


def _index(
    dataset: Dataset, currency: str, times_us: np.ndarray, before_us: int
) -> tuple[np.ndarray, np.ndarray]:
    rows = dataset.index(
        stamp(int(times_us[0]) - before_us), stamp(int(times_us[-1])), with_source=True
    )
    good = clean_index(rows).good
    mine = good.loc[good["currency"].astype(str) == currency]
    if not len(mine):
        raise DataError(
            f"{dataset.root}: a rule follows '{currency}', which the index never quotes"
        )
    when = micros(pd.DatetimeIndex(mine["time"]))
    order = np.argsort(when)
    return when[order], mine["usd"].to_numpy(float)[order]


def _series(file: Path, rule: Rule, times_us: np.ndarray) -> np.ndarray:
    if not file.is_file():
        raise DataError(f"{file}: no such file, and a rule follows its column '{rule.column}'")
    rows = pd.read_parquet(file)
    missing = [name for name in ("ts", str(rule.column)) if name not in rows.columns]
    if missing:
        raise DataError(f"{file}: column '{missing[0]}' is missing; there are {list(rows.columns)}")
    when = micros(pd.DatetimeIndex(pd.to_datetime(rows["ts"], utc=True)))
    when = when + int(pd.Timedelta(rule.delay).total_seconds() * MICROS)
    order = np.argsort(when, kind="stable")
    return _as_of(when[order], rows[str(rule.column)].to_numpy(float)[order], times_us)


def _as_of(when: np.ndarray, values: np.ndarray, times_us: np.ndarray) -> np.ndarray:
    """Last finite value at or before each time, NaN where there is none."""
    usable = np.isfinite(values)
    when, values = when[usable], values[usable]
    if not len(when):
        return np.full(len(times_us), np.nan)
    at = np.searchsorted(when, times_us, "right") - 1
    return np.where(at >= 0, values[np.maximum(at, 0)], np.nan)
