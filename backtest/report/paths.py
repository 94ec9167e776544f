"""Parameters that a rule sets from the market: their path over the replay, key by key."""

import numpy as np
import pandas as pd

from . import frames
from .reader import Results


MOST_PATHS = 18
"""Keys that a figure draws; the others stand in the table."""


def sets_with_paths(results: Results) -> list[str]:
    """Sets of which the run saved paths of parameters, the champion first."""
    if not results.has("parameter_paths"):
        return []
    names = (results.champion, *results.challengers)
    return [n for n in names if len(paths(results, n))]


def paths(results: Results, parameter_set: str) -> dict[str, tuple[pd.DatetimeIndex, np.ndarray]]:
    """Times and values of each parameter of a set, by key; the value holds until the next time."""
    key = ("parameter_paths", parameter_set)
    if key not in results.memo:
        frame = results.parameter_paths(parameter_set)
        results.memo[key] = {
            str(name): (pd.DatetimeIndex(part["time"]), frames.numbers(part, "value"))
            for name, part in frame.groupby("key", sort=True)
        }
    return results.memo[key]


def moving(results: Results, parameter_set: str) -> list[str]:
    """Keys whose value changes over the window, those that change most first."""
    reach: dict[str, float] = {}
    for key, (_, values) in paths(results, parameter_set).items():
        known = values[np.isfinite(values)]
        if len(known) and np.ptp(known) > 0:
            reach[key] = float(np.ptp(known) / np.abs(known).max())
    return sorted(reach, key=lambda k: (-reach[k], k))


def path_table(results: Results) -> pd.DataFrame:
    """Each parameter that follows the market: first, last, lowest and highest value, changes."""
    rows = []
    for name in sets_with_paths(results):
        for key, (_, values) in paths(results, name).items():
            known = values[np.isfinite(values)]
            if not len(known):
                continue
            rows.append(
                {
                    "parameter_set": name,
                    "key": key,
                    "first": known[0],
                    "last": known[-1],
                    "lowest": known.min(),
                    "highest": known.max(),
                    "changes": int(np.count_nonzero(np.diff(known))),
                }
            )
    columns = ["parameter_set", "key", "first", "last", "lowest", "highest", "changes"]
    return pd.DataFrame(rows, columns=columns)
