"""The insurance fund through time, and the balance at which deleveraging is due."""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pandas as pd

from . import frames, text
from .frequency import times
from .liquidations import fund_path
from .reader import Results


MICROS_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class AdlRules:
    """When deleveraging is due: the fund is empty, or ``drop`` below its peak of a while."""

    policy: str
    drop: float
    window_days: float

    @property
    def words(self) -> str:
        """The rule in words."""
        hours = text.duration(86_400.0 * self.window_days)
        return f"{text.percent(self.drop)} below the peak of the last {hours}, or empty"


def adl_rules(results: Results, name: str) -> AdlRules | None:
    """The rule of a set; None where the run did not save it, or nobody is ever deleveraged."""
    saved = results.entry(name).get("adl")
    if not saved or saved["policy"] == "none":
        return None
    return AdlRules(str(saved["policy"]), float(saved["drop"]), float(saved["window_days"]))


def fund_balances(results: Results, name: str) -> np.ndarray:
    """Balance of the fund after every replayed time, USD; NaN where a run has no rows of it."""
    rows = fund_path(results, name)
    if not len(rows):
        return np.full(len(times(results)), np.nan)
    last = (
        np.searchsorted(_micros(frames.names(rows, "time")), _micros(times(results)), side="right")
        - 1
    )
    start, after = (frames.numbers(rows, f"fund_{side}_usd") for side in ("before", "after"))
    return np.where(last < 0, start[0], after[np.maximum(last, 0)])


def adl_trigger(results: Results, name: str) -> np.ndarray:
    """Balance at or below which deleveraging is due at every replayed time, USD; NaN if unknown.

    Asked before the first loss of a time, when its income is in the fund: the peak is that of all
    balances as far back as the rule looks, that one included.
    """
    rules, rows = adl_rules(results, name), fund_path(results, name)
    path = fund_balances(results, name)
    if rules is None or not np.isfinite(path).all():
        return np.full(len(path), np.nan)
    # Losses only take from the fund, so a time is at its highest before them.
    highest = frames.numbers(rows, "fund_before_usd") + frames.numbers(rows, "revenue_usd")
    path[np.searchsorted(_micros(times(results)), _micros(frames.names(rows, "time")))] = highest
    window = timedelta(microseconds=round(rules.window_days * MICROS_PER_DAY))
    recent = pd.Series(path, index=times(results)).rolling(window, closed="both")
    return np.maximum((1.0 - rules.drop) * recent.max().to_numpy(float), 0.0)


def corners(values: np.ndarray) -> np.ndarray:
    """Positions where a stepped line changes, with the first and the last one.

    Example:
        >>> corners(np.array([1.0, 1.0, 2.0, 2.0, 2.0]))
        array([0, 2, 4])
    """
    changes = np.flatnonzero(np.diff(values)) + 1
    return np.unique(np.concatenate([[0], changes, [len(values) - 1]]))


def _micros(moments: pd.DatetimeIndex | pd.Series) -> np.ndarray:
    return pd.DatetimeIndex(moments).as_unit("us").asi8
