"""Zone of the choice, and what the probability of overfitting means, for the first screen."""

from typing import Any

import numpy as np

from backtest.calibration import objectives
from backtest.calibration.series import Series
from backtest.statistics.blocks import Plan, panel_intervals
from backtest.statistics.traffic_light import effective_zones


LOW, HIGH = 0.2, 0.5
"""Probabilities of overfitting: below the first it is called low, from the second on high; assumed.
At one half the choice is as good as chance."""
NOT_MEASURED = "not measured"


def overfitting_words(probability: float | None) -> str:
    """The probability of overfitting as a judgement."""
    if probability is None or np.isnan(probability):
        return NOT_MEASURED
    if probability < LOW:
        return "low"
    return "middling" if probability < HIGH else "high"


def zone_of(series: Series, chosen: int, target: float, plan: Plan) -> dict[str, Any]:
    """Zone of the frequency of a candidate against a target.

    Accounts liquidated for the first time of those scored at each time, counted as the effective
    number that resampled blocks leave; green below 95 % and yellow below 99.99 % of the binomial.

    Args:
        series: all candidates.
        chosen: which one.
        target: accounts liquidated per account-day.
        plan: how blocks are resampled.

    Returns:
        zone (None where the target is no probability), liquidated, expected (accounts), target.
    """
    begun, scored = (series.of(name)[chosen].astype(np.int64) for name in ("liquidated", "scored"))
    begun = np.minimum(begun, scored)
    probability = target * series.interval_seconds / objectives.DAY_S
    found: dict[str, Any] = {
        "zone": None,
        "liquidated": int(begun.sum()),
        "expected": probability * float(scored.sum()),
        "target": target,
    }
    if 0.0 < probability < 1.0 and scored.sum() > 0:
        rates = panel_intervals(objectives.KIND, probability, begun[None], scored[None], plan)
        size = rates.effective_observations
        found["zone"] = str(effective_zones(rates.value * size, size, probability)[0])
    return found
