"""Which rules of a schedule hold at which times of the replay, and when they change."""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .frequency import times
from .reader import Results
from .rules import Step


@dataclass(frozen=True)
class Period:
    """Consecutive times of the replay under the same step: positions ``first`` to before ``stop``.

    ``start`` and ``end`` are the dates of the step inside the replay, UTC.
    """

    step: Step
    first: int
    stop: int
    start: pd.Timestamp
    end: pd.Timestamp


@dataclass(frozen=True)
class Switch:
    """A change of rules between two times of the replay; ``after`` holds from ``time`` on."""

    time: pd.Timestamp
    before: Step
    after: Step
    last_before: int
    """Position of the last time of the replay under the rules before."""
    first_after: int


def periods(results: Results, schedule: str) -> list[Period]:
    """The rule periods of a schedule that hold one time of the replay or more, in order."""
    grid, steps = times(results), results.steps(schedule)
    if not len(grid) or not steps:
        return []
    rule = _step_at(grid, steps)
    clock: list[pd.Timestamp] = grid[[0, -1]].tolist()
    edges = [0, *(np.flatnonzero(np.diff(rule)) + 1).tolist(), len(rule)]
    found: list[Period] = []
    for first, stop in itertools.pairwise(edges):
        if rule[first] < 0:  # before the first step there are no rules
            continue
        begin = steps[int(rule[first])].start
        until = steps[int(rule[stop])].start if stop < len(rule) else None
        start = clock[0] if begin is None or first == 0 else begin
        end = clock[-1] if until is None else until
        found.append(Period(steps[int(rule[first])], first, stop, start, end))
    return found


def _step_at(grid: pd.DatetimeIndex, steps: tuple[Step, ...]) -> np.ndarray:
    """Position of the step that holds at each time; -1 before the first."""
    rule = np.zeros(len(grid), dtype=np.int64)
    if steps[0].start is not None:
        rule -= np.asarray(grid < steps[0].start)
    for step in steps[1:]:
        rule += np.asarray(grid >= step.start)
    return rule


def switches(results: Results, schedule: str) -> list[Switch]:
    """Changes of rules inside the replay, in order."""
    found = periods(results, schedule)
    return [
        Switch(b.start, a.step, b.step, a.stop - 1, b.first) for a, b in itertools.pairwise(found)
    ]
