"""Liquidation as a classifier: does the trigger single out the accounts that would have failed?

A run that only measures leaves every account as it is, so what it did after its first trigger is
known. Within the horizon it went below zero (the trigger was right), recovered untouched (it was a
false alarm), or neither yet (left out of both rates). An account that goes below zero without a
trigger before, or at the same time, is missed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from . import frames
from .reader import Results


_EVENT = ["account_id", "time"]


@dataclass(frozen=True)
class Classified:
    """Accounts of one set by what the trigger said and what became of them untouched."""

    right: int
    false_alarms: int
    late: int
    unseen: int
    undecided: int
    quiet: int
    false_alarm_notional_usd: float

    @property
    def true_positive_rate(self) -> float:
        """Share of the accounts that failed which were triggered before; NaN: none failed."""
        failed = self.right + self.late + self.unseen
        return self.right / failed if failed else float("nan")

    @property
    def false_positive_rate(self) -> float:
        """Share of the accounts that did not fail which were triggered; NaN: all failed."""
        sound = self.false_alarms + self.quiet
        return self.false_alarms / sound if sound else float("nan")

    @property
    def precision(self) -> float:
        """Share of the decided triggers that were right; NaN: there are none."""
        decided = self.right + self.false_alarms
        return self.right / decided if decided else float("nan")


def horizon_of(results: Results) -> float | None:
    """Seconds after the trigger for which an account is watched; None = to the end of the run."""
    found = ((results.manifest.get("config") or {}).get("report") or {}).get("horizon")
    return None if found is None else pd.Timedelta(found).total_seconds()


def classified(results: Results, parameter_set: str) -> Classified:
    """The accounts of one set, computed once per ``Results``."""
    key = ("classified", parameter_set)
    if key not in results.memo:
        results.memo[key] = _compute(results, parameter_set, horizon_of(results))
    return results.memo[key]


def _compute(results: Results, parameter_set: str, horizon: float | None) -> Classified:
    scored = results.accounts(["account_id", "scored"], parameter_set)
    scored = frames.rows(scored, scored["scored"] > 0)
    rows = pd.DataFrame({"account_id": scored["account_id"].to_numpy()})
    columns = [*_EVENT, "gross_notional_usd"]
    for event, name in (("liquidation", "trigger"), ("bankrupt", "failed")):
        found = _events(results, columns, parameter_set, event)
        first = frames.ordered(found, "time").drop_duplicates("account_id")
        first.columns = ["account_id", name, f"{name}_usd"]
        rows = rows.merge(first, on="account_id", how="left")
    trigger, failed = _clock(rows, "trigger"), _clock(rows, "failed")
    right = (failed > trigger) & (failed <= _until(trigger, horizon))
    late = failed <= trigger
    came_back = _recovered(results, parameter_set, rows, horizon) & ~right & ~late
    flagged = ~np.isnat(trigger)
    unseen = ~np.isnat(failed) & ~flagged
    return Classified(
        right=int(right.sum()),
        false_alarms=int(came_back.sum()),
        late=int(late.sum()),
        unseen=int(unseen.sum()),
        undecided=int((flagged & ~right & ~late & ~came_back).sum()),
        quiet=int((~flagged & ~unseen).sum()),
        false_alarm_notional_usd=float(np.nansum(frames.numbers(rows, "trigger_usd")[came_back])),
    )


def _clock(frame: pd.DataFrame, column: str) -> np.ndarray:
    """A column of times as ``datetime64``; missing is not a time."""
    found: Any = pd.to_datetime(frame[column], utc=True)
    return pd.DatetimeIndex(found).tz_convert(None).to_numpy()


def _until(trigger: np.ndarray, horizon: float | None) -> np.ndarray:
    """Last time at which an account is watched."""
    if horizon is None:
        return np.full(trigger.shape, np.datetime64("9999-01-01", "s"))
    return trigger + np.timedelta64(round(horizon * 1e9), "ns")


def _recovered(
    results: Results, parameter_set: str, rows: pd.DataFrame, horizon: float | None
) -> np.ndarray:
    """Whether an account came back above the safe level after its trigger, within the horizon."""
    found = _events(results, _EVENT, parameter_set, "recovered")
    found = found.merge(rows[["account_id", "trigger"]], on="account_id")
    trigger, time = _clock(found, "trigger"), _clock(found, "time")
    in_time = (time > trigger) & (time <= _until(trigger, horizon))
    names = set(frames.rows(found, in_time)["account_id"])
    return np.asarray([name in names for name in rows["account_id"]], dtype=bool)


def _events(results: Results, columns: list[str], parameter_set: str, event: str) -> pd.DataFrame:
    if not results.has("events"):  # a run without any event may write no file
        empty = pd.DataFrame({"account_id": [], "time": pd.DatetimeIndex([], tz="UTC")})
        return empty.reindex(columns=columns)
    return results.events(columns, parameter_set, event)


def classifier_table(results: Results) -> pd.DataFrame:
    """One row for each set, the champion first: counts, rates, and what false alarms held."""
    rows = []
    for name in (results.champion, *results.challengers):
        found = classified(results, name)
        rows.append(
            {
                "parameter_set": name,
                "true_positives": found.right,
                "false_positives": found.false_alarms,
                "late": found.late,
                "unseen": found.unseen,
                "undecided": found.undecided,
                "true_negatives": found.quiet,
                "true_positive_rate_frac": found.true_positive_rate,
                "false_positive_rate_frac": found.false_positive_rate,
                "precision_frac": found.precision,
                "false_alarm_notional_usd": found.false_alarm_notional_usd,
            }
        )
    return pd.DataFrame(rows)
