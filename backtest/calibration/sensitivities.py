"""What margin and shortfall do when a parameter moves, and where a search may start (K10).

Everything is taken at today's rules, on the first training stretch of the walk: what later
stretches hold must not guide a search that is tried on them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from backtest.calibration.config import CalibrationConfig, GradientSection
from backtest.calibration.designs import Points
from backtest.calibration.gradients import OBJECTIVES, Leaves, Sensitivities, continuous_leaves
from backtest.calibration.space import Space
from backtest.calibration.standing import Standing
from backtest.config import RunConfig
from backtest.errors import ConfigError


MOST_FINITE = 16
"""Leaves whose finite changes are computed besides those of the parameters searched."""
REACH = 0.5
"""How far the furthest start moves, as a fraction of the box."""


def sensitivity_table(config: CalibrationConfig, base: RunConfig, space: Space) -> pd.DataFrame:
    """Slopes and finite changes of margin and shortfall, one row a parameter, USD.

    Columns: ``parameter``, ``is_searched``, ``accounts`` (account-times), ``step_frac``; of each
    objective its value ``{}_usd``, ``{}_slope_usd`` for a change of the parameter by 100 % (of an
    absolute parameter: by 1), ``{}_down_usd`` and ``{}_up_usd`` for the step down and up through
    the same kernels, NaN where they were not computed.

    Raises:
        ConfigError: the first stretch of the walk does not hold the horizon.
    """
    section = config.gradients
    assert section is not None
    standing = Standing(base, section.accounts, config.seed)
    functions = _functions(config, section, standing)
    searched = _searched(space)
    leaves: dict[str, Leaves] = {k: {k: 1.0} for k in continuous_leaves(space.today.leaves())}
    found = functions.gradient({**leaves, **searched})
    sizes = {k: max(abs(found.change[k] / np.where(found.value, found.value, 1.0))) for k in leaves}
    largest = sorted((k for k in leaves if sizes[k] > 0.0), key=lambda k: -sizes[k])[:MOST_FINITE]
    rows = []
    for name, speeds in {**searched, **leaves}.items():
        row: dict[str, Any] = {"parameter": name, "is_searched": name in searched}
        row |= {"accounts": found.accounts, "step_frac": section.step_frac}
        changes = _none()
        if name in searched or name in largest:
            changes = _finite(functions, speeds, section.step_frac, found.value, name, space)
        for k, objective in enumerate(OBJECTIVES):
            row[f"{objective}_usd"] = found.value[k]
            row[f"{objective}_slope_usd"] = found.change[name][k]
            row[f"{objective}_down_usd"], row[f"{objective}_up_usd"] = changes[:, k]
        rows.append(row)
    return pd.DataFrame(rows)


def starts(config: CalibrationConfig, space: Space, table: pd.DataFrame) -> Points:
    """Points that lower margin along its gradient while shortfall stays, to first order.

    In the unit cube of the box: against the slope of margin, less its part along the slope of the
    shortfall where that would rise; in equal steps up to ``REACH``, within the box.
    """
    section = config.gradients
    count = 0 if section is None else section.starts
    mine = table[table["is_searched"].to_numpy(bool)].set_index("parameter").loc[space.names]
    span = space.high - space.low
    slopes = {k: mine[f"{k}_slope_usd"].to_numpy(float) * span for k in OBJECTIVES}
    down = descent(slopes["margin"], slopes["shortfall"])
    if not count or not down.any():
        return np.zeros((0, len(span)))
    low, high, limit = space.low, space.high, config.trust_region
    if limit is not None:
        most = limit.step_frac * np.abs(space.now)
        low, high = np.maximum(low, space.now - most), np.minimum(high, space.now + most)
    moves = np.flatnonzero(down)
    step = (down / np.abs(down).max() * span)[moves]
    # As far as the box lets the whole direction go: bending it would raise shortfall.
    room = np.where(step > 0.0, (high - space.now)[moves], (space.now - low)[moves]) / np.abs(step)
    reach = min(REACH, float(room.min())) * np.arange(1, count + 1) / count
    points = np.repeat(space.now[None], count if reach[-1] > 0.0 else 0, axis=0)
    points[:, moves] += reach[: len(points), None] * step
    return np.clip(points, low, high)


def descent(
    margin: Float[np.ndarray, " parameter"], shortfall: Float[np.ndarray, " parameter"]
) -> Float[np.ndarray, " parameter"]:
    """Direction in which margin falls fastest among those in which shortfall does not rise."""
    down = -margin
    rise = float(down @ shortfall)
    if rise <= 0.0:
        return down
    left = down - rise / float(shortfall @ shortfall) * shortfall
    # What rounding leaves of a direction that is all shortfall is none.
    return left if np.abs(left).max() > 1e-9 * np.abs(down).max() else np.zeros_like(down)


def _functions(
    config: CalibrationConfig, section: GradientSection, standing: Standing
) -> Sensitivities:
    seconds = pd.Timedelta(section.horizon).total_seconds()
    steps = round(seconds / standing.plan.interval_seconds)
    first = len(standing.times_us) // (config.walk_forward.folds + 1)
    last = first - 1 - steps
    if steps < 1 or last < 0:
        raise ConfigError(
            f"gradients.horizon is {section.horizon}; allowed: at least one interval, and at most "
            f"the first stretch of the walk, {first} times of {standing.plan.interval_seconds:g} s"
        )
    at = np.unique(np.linspace(0, last, section.times).round().astype(int))
    assert config.today is not None
    return Sensitivities(
        standing, config.today, standing.times_us[at], steps, section.smoothing_frac
    )


def _searched(space: Space) -> dict[str, Leaves]:
    """By parameter searched, how fast the factors of its leaves move with it."""
    found: dict[str, Leaves] = {}
    for parameter, now in zip(space.parameters, space.now.tolist(), strict=True):
        speed = 1.0 if parameter.scale == "relative" or now == 0.0 else 1.0 / now
        found[parameter.name] = dict.fromkeys(parameter.leaves, speed)
    return found


def _none() -> np.ndarray:
    return np.full((2, len(OBJECTIVES)), np.nan)


def _finite(
    functions: Sensitivities,
    speeds: Mapping[str, float],
    step_frac: float,
    value: np.ndarray,
    name: str,
    space: Space,
) -> Float[np.ndarray, "direction objective"]:
    """Changes for a step down and up, as a fraction of where the parameter stands."""
    now = dict(zip(space.names, space.now.tolist(), strict=True)).get(name, 1.0)
    changes = _none()
    for k, step in enumerate((-step_frac, step_frac)):
        factors = {leaf: 1.0 + step * speed * now for leaf, speed in speeds.items()}
        changes[k] = functions.value(factors) - value
    return changes
