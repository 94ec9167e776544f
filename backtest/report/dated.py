"""What each dated change of a schedule did: numbers by rule period and at each change.

A constant set of the same run sees the same accounts and prices, so what changes under it over the
same time is the market alone; the ratio to it leaves what the rules did.
"""

from typing import Any

import numpy as np
import pandas as pd

from . import frames
from .frequency import DAY, by_time
from .reader import Results
from .switches import Period, Switch, periods, switches


_RATIOS = ("episodes_per_account_day", "newly_liquidated", "mmr_frac", "imr_frac")
_PERIOD_COLUMNS = (
    "schedule",
    "period",
    "from",
    "to",
    "rules",
    "era",
    "days",
    "parameter_set",
    "role",
    "account_days",
    "episodes",
    *_RATIOS,
    *(f"{k}_ratio" for k in _RATIOS),
)
_SWITCH_COLUMNS = (
    "schedule",
    "time",
    "rules_before",
    "rules_after",
    "time_before",
    "time_after",
    "parameter_set",
    "role",
    *(f"{m}_{k}" for m in ("mmr", "imr") for k in ("before_frac", "after_frac", "change_frac")),
    "mmr_rule_change_frac",
    "imr_rule_change_frac",
)


def constant_sets(results: Results) -> list[str]:
    """Sets whose rules hold over the whole window, the champion first."""
    return [n for n in (results.champion, *results.challengers) if not results.steps(n)]


def period_table(results: Results) -> pd.DataFrame:
    """Each schedule by rule period, beside the constant sets over the same times.

    ``newly_liquidated`` counts accounts whose first episode starts in the period; ``mmr_frac`` and
    ``imr_frac`` are margin / gross notional, both summed over the period. ``_ratio`` columns are
    the schedule's number over that of the row's constant set; NaN where there is none.
    """
    rows: list[dict[str, Any]] = []
    for schedule in results.schedules:
        for number, period in enumerate(periods(results, schedule), start=1):
            mine = _period_numbers(results, schedule, period)
            head = {
                "schedule": schedule,
                "period": number,
                "from": period.start,
                "to": period.end,
                "rules": period.step.name,
                "era": period.step.era,
                "days": (period.stop - period.first) * results.interval_seconds / DAY,
            }
            ratios = {f"{k}_ratio": np.nan for k in _RATIOS}
            rows.append(head | {"parameter_set": schedule, "role": "schedule"} | mine | ratios)
            for name in constant_sets(results):
                other = _period_numbers(results, name, period)
                ratios = {f"{k}_ratio": _ratio(mine[k], other[k]) for k in _RATIOS}
                rows.append(head | {"parameter_set": name, "role": "constant"} | other | ratios)
    return pd.DataFrame(rows, columns=list(_PERIOD_COLUMNS))


def _period_numbers(results: Results, name: str, period: Period) -> dict[str, float | int]:
    frame = by_time(results, name).iloc[period.first : period.stop]
    days = frames.count(frame, "scored") * results.interval_seconds / DAY
    episodes = frames.count(frame, "episodes_started")
    gross = frames.total(frame, "gross_notional_usd")
    return {
        "account_days": days,
        "episodes": episodes,
        "episodes_per_account_day": _ratio(episodes, days),
        "newly_liquidated": frames.count(frame, "first_liquidations"),
        "mmr_frac": _ratio(frames.total(frame, "total_mmr"), gross),
        "imr_frac": _ratio(frames.total(frame, "total_imr"), gross),
    }


def _ratio(part: float | int, whole: float | int) -> float:
    return part / whole if whole else float("nan")


def switch_table(results: Results) -> pd.DataFrame:
    """Margin / gross notional at the last time before and the first after each change of rules.

    ``_change_frac`` is after / before - 1. ``_rule_change_frac`` of a constant set's row is the
    schedule's change beyond the change of that set: (1 + schedule's) / (1 + set's) - 1, so that the
    move of the market over the same step is taken out; NaN in rows of the schedule itself.
    """
    rows: list[dict[str, Any]] = []
    for schedule in results.schedules:
        for switch in switches(results, schedule):
            clock = by_time(results, schedule).index
            head = {
                "schedule": schedule,
                "time": switch.time,
                "rules_before": switch.before.name,
                "rules_after": switch.after.name,
                "time_before": clock[switch.last_before],
                "time_after": clock[switch.first_after],
            }
            mine = _switch_numbers(results, schedule, switch)
            rows.append(head | {"parameter_set": schedule, "role": "schedule"} | mine)
            for name in constant_sets(results):
                other = _switch_numbers(results, name, switch)
                beyond = {f"{m}_rule_change_frac": _beyond(mine, other, m) for m in ("mmr", "imr")}
                rows.append(head | {"parameter_set": name, "role": "constant"} | other | beyond)
    return pd.DataFrame(rows, columns=list(_SWITCH_COLUMNS))


def _switch_numbers(results: Results, name: str, switch: Switch) -> dict[str, float]:
    frame = by_time(results, name).iloc[[switch.last_before, switch.first_after]]
    gross = frames.numbers(frame, "gross_notional_usd").tolist()
    found: dict[str, float] = {}
    for margin in ("mmr", "imr"):
        amounts = frames.numbers(frame, f"total_{margin}").tolist()
        before, after = (_ratio(a, g) for a, g in zip(amounts, gross, strict=True))
        found[f"{margin}_before_frac"] = before
        found[f"{margin}_after_frac"] = after
        found[f"{margin}_change_frac"] = _ratio(after, before) - 1
    return found


def _beyond(mine: dict[str, float], other: dict[str, float], margin: str) -> float:
    column = f"{margin}_change_frac"
    return _ratio(1 + mine[column], 1 + other[column]) - 1


def step_table(results: Results) -> pd.DataFrame:
    """All steps of the schedules, also those outside the window."""
    rows = [
        {"parameter_set": n, "from": s.start, "rules": s.name, "era": s.era, "hash": s.hash}
        for n in results.schedules
        for s in results.steps(n)
    ]
    table = pd.DataFrame(rows, columns=["parameter_set", "from", "rules", "era", "hash"])
    return table.assign(**{"from": pd.to_datetime(table["from"], utc=True)})
