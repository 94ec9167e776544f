"""From numbers to a choice: constraints on bounds, frontier, knee, what a step may reach."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from backtest.calibration import objectives
from backtest.calibration.config import OBJECTIVES, CalibrationConfig, Objective
from backtest.calibration.series import Series


ROUNDING = 1e-9
"""A step that is longer than allowed by less than this fraction is allowed."""


@dataclass(frozen=True)
class Assessment:
    """All candidates over one stretch of time.

    Attributes:
        values: Each objective of each candidate.
        bounds: What each constraint looks at: upper bounds, in the unit of its limit.
        violations: ``bound / limit - 1``, the last axis constraints; above 0 where broken or where
            there is no number.
    """

    values: dict[Objective, Float[np.ndarray, " candidate"]]
    bounds: Float[np.ndarray, "candidate constraint"]
    violations: Float[np.ndarray, "candidate constraint"]

    @property
    def feasible(self) -> Bool[np.ndarray, " candidate"]:
        """Whether a candidate holds every constraint."""
        return np.all(self.violations <= 0.0, axis=1)

    def matrix(self, names: Sequence[Objective]) -> Float[np.ndarray, "candidate objective"]:
        """Some objectives side by side."""
        return np.stack([self.values[name] for name in names], axis=1)


def assess(series: Series, config: CalibrationConfig) -> Assessment:
    """Values and constraints of all candidates; the first one is today's rules."""
    plan = objectives.plan_of(series, config.bootstrap, config.seed)
    found: dict[Objective, np.ndarray] = {n: objectives.value(series, n) for n in OBJECTIVES}
    count = len(series.values)
    bounds, broken = np.zeros((count, 0)), np.zeros((count, 0))
    for rule in config.constraints:
        of = objectives.upper if rule.most is not None else objectives.upper_versus_today
        bound = of(series, rule.objective, plan, rule.confidence)
        limit = rule.most if rule.most is not None else rule.of_today
        assert limit is not None
        over = bound / limit - 1.0 if limit > 0 else np.where(bound > 0, np.inf, 0.0)
        over = np.where(np.isnan(bound), np.inf, over)
        bounds = np.column_stack([bounds, bound])
        broken = np.column_stack([broken, over])
    return Assessment(found, bounds, broken)


def dominated(values: Float[np.ndarray, "candidate objective"]) -> Bool[np.ndarray, " candidate"]:
    """Whether some other candidate is no worse in all and better in one; NaN is dominated."""
    known = np.all(np.isfinite(values), axis=1)
    safe = np.where(np.isfinite(values), values, np.inf)
    found = ~known
    for k in np.flatnonzero(known).tolist():
        no_worse = (safe <= safe[k]).all(axis=1)
        better = (safe < safe[k]).any(axis=1)
        found[k] = bool((no_worse & better & known).any())
    return found


def knee(
    values: Float[np.ndarray, "candidate objective"], frontier: Bool[np.ndarray, " candidate"]
) -> int | None:
    """The candidate of the frontier nearest to the best of every objective at once.

    Objectives count by their range over the frontier. None without a frontier.
    """
    members = np.flatnonzero(frontier)
    if not len(members):
        return None
    mine = values[members]
    low, reach = mine.min(axis=0), np.ptp(mine, axis=0)
    scaled = (mine - low) / np.where(reach > 0, reach, 1.0)
    return int(members[np.argmin((scaled**2).sum(axis=1))])


def reachable(
    points: Float[np.ndarray, "candidate parameter"],
    start: Float[np.ndarray, " parameter"],
    step_frac: float | None,
) -> Bool[np.ndarray, " candidate"]:
    """Whether one step leads from ``start`` to each point."""
    if step_frac is None:
        return np.ones(len(points), dtype=bool)
    most = step_frac * np.abs(start) * (1.0 + ROUNDING) + ROUNDING * np.abs(start)
    return np.all(np.abs(points - start) <= most, axis=1)


def choose(
    assessment: Assessment,
    minimise: Objective,
    within: Bool[np.ndarray, " candidate"],
    current: int,
) -> tuple[int, bool]:
    """The best candidate that holds the constraints and can be reached; else the current one.

    Returns:
        (candidate, whether any held the constraints within reach). Of equal ones the first.
    """
    values = assessment.values[minimise]
    allowed = assessment.feasible & within & np.isfinite(values)
    if not allowed.any():
        return current, False
    return int(np.argmin(np.where(allowed, values, np.inf))), True
