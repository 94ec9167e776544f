"""The scenario nearest to no move at all at which something reaches a level.

A scenario is a price move ``x`` and a relative move ``v`` of volatility. Its distance is that of
Mahalanobis, ``sqrt((a^2 - 2 rho a b + b^2) / (1 - rho^2))`` with ``a = x / price_sigma_frac`` and
``b = v / vol_sigma_frac``: how many typical moves away it is. Levels are looked up along rays from
no move: on a coarse net first, then between the two points of the net where a ray crosses. Hedged
books may leave and come back: what counts is the first crossing of each ray on the net.

References:
    EMIR RTS 153/2013, article 57: reverse stress tests. Backtesting rules, K14.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


Points = Float[np.ndarray, "scenario 2"]
"""Price move and relative move of volatility, fractions."""
Measure = Callable[[np.ndarray], np.ndarray]
"""Numbers of some scenarios, [scenario, number]."""
LOWEST = -0.95
"""No scenario takes more of a price or of a volatility."""
MOST_DISTANCE = 10.0
"""Furthest distance looked at where none is given, typical moves."""
OPEN_INTEREST_FRAC = (0.05, 0.25)
"""Shares of open interest looked for where none are given."""
POINTS_REFINED = 8
"""Parts that a crossing is cut into, twice."""


@dataclass(frozen=True)
class Norm:
    """How far a scenario is from no move.

    Attributes:
        price_sigma_frac, vol_sigma_frac: a typical price move, and relative move of volatility, of
            a day; assumed where none are given.
        correlation: between the two, above -1 and below 1.
    """

    price_sigma_frac: float = 0.04
    vol_sigma_frac: float = 0.15
    correlation: float = 0.0

    def distance(self, points: Points) -> Float[np.ndarray, " scenario"]:
        """Typical moves between each scenario and no move."""
        a, b = (points / (self.price_sigma_frac, self.vol_sigma_frac)).T
        rho = self.correlation
        return np.sqrt((a * a - 2.0 * rho * a * b + b * b) / (1.0 - rho * rho))

    def rays(self, count: int) -> Points:
        """Scenarios at distance 1, evenly spread over the circle of uncorrelated moves."""
        angle = 2.0 * np.pi * np.arange(count) / count
        a, other = np.cos(angle), np.sin(angle)
        b = self.correlation * a + np.sqrt(1.0 - self.correlation**2) * other
        return np.stack([a * self.price_sigma_frac, b * self.vol_sigma_frac], axis=1)


@dataclass(frozen=True)
class Net:
    """Numbers at distances along rays.

    Attributes:
        norm: what distance means; rays: scenarios at distance 1; radii: ascending, the first 0.
        values: [ray, radius, number], NaN beyond what prices and volatilities can lose.
    """

    norm: Norm
    rays: Points
    radii: Float[np.ndarray, " radius"]
    values: Float[np.ndarray, "ray radius number"]

    @property
    def points(self) -> Float[np.ndarray, "ray radius 2"]:
        """The scenarios."""
        return self.rays[:, None, :] * self.radii[:, None]


@dataclass(frozen=True)
class Nearest:
    """The nearest scenario found.

    Attributes:
        price_move_frac, vol_move_frac: the scenario; distance: typical moves away.
        values: numbers there; resolution: how much nearer on its ray it might be.
    """

    price_move_frac: float
    vol_move_frac: float
    distance: float
    values: Float[np.ndarray, " number"]
    resolution: float


def cast(measure: Measure, norm: Norm, rays: int, radii: int, most: float) -> Net:
    """A net of scenarios up to a distance.

    Args:
        measure: numbers of scenarios.
        norm: what distance means.
        rays: directions.
        radii: distances besides 0, evenly up to the furthest one.
        most: the furthest one.
    """
    directions, distances = norm.rays(rays), np.linspace(0.0, most, radii + 1)
    points = (directions[:, None, :] * distances[1:, None]).reshape(-1, 2)
    found = measured(measure, np.concatenate([np.zeros((1, 2)), points]))
    start = np.broadcast_to(found[0], (rays, 1, found.shape[1]))
    values = np.concatenate([start, found[1:].reshape(rays, radii, -1)], axis=1)
    return Net(norm, directions, distances, values)


def measured(measure: Measure, points: Points) -> Float[np.ndarray, "scenario number"]:
    """Numbers of the scenarios that can be, NaN of the others."""
    can_be = (points >= LOWEST).all(axis=1)
    found = measure(points[can_be])
    values = np.full((len(points), found.shape[1]), np.nan)
    values[can_be] = found
    return values


def nearest(net: Net, measure: Measure, number: int, level: float) -> Nearest | None:
    """The nearest scenario at which a number is at least ``level``; None within the net's reach.

    Args:
        net: what was measured.
        measure: for what is between its points.
        number: which of the numbers.
        level: what it is to reach.
    """
    if net.values[0, 0, number] >= level:
        return Nearest(0.0, 0.0, 0.0, net.values[0, 0], 0.0)
    at = _first(net.values[:, :, number] >= level)
    hit = np.flatnonzero(at >= 0)
    if not len(hit):
        return None
    # A ray that crosses between two later points of the net is further than these.
    rays = hit[at[hit] == at[hit].min()]
    low, high = net.radii[at[rays] - 1], net.radii[at[rays]]
    values = net.values[rays, at[rays]]
    for _ in range(2):
        low, high, values = _closer(net.rays[rays], low, high, values, measure, number, level)
    best = int(np.argmin(high))
    x, v = (high[best] * net.rays[rays[best]]).tolist()
    return Nearest(x, v, float(high[best]), values[best], float(high[best] - low[best]))


def _first(reached: Bool[np.ndarray, "ray radius"]) -> np.ndarray:
    return np.where(reached.any(axis=1), reached.argmax(axis=1), -1)


def _closer(
    rays: Points,
    low: np.ndarray,
    high: np.ndarray,
    values: np.ndarray,
    measure: Measure,
    number: int,
    level: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each crossing within a part of where it was known to be."""
    parts = np.linspace(0.0, 1.0, POINTS_REFINED + 1)[1:-1]
    radii = low[:, None] + (high - low)[:, None] * parts
    found = measured(measure, (rays[:, None, :] * radii[:, :, None]).reshape(-1, 2))
    inside = found.reshape(*radii.shape, -1)
    edges = np.concatenate([low[:, None], radii, high[:, None]], axis=1)
    whole = np.concatenate([inside, values[:, None]], axis=1)
    at = (whole[:, :, number] >= level).argmax(axis=1)
    row = np.arange(len(rays))
    return edges[row, at], edges[row, at + 1], whole[row, at]
