"""Zones of the traffic light for any number of observations, level, overlap and portfolios (C3).

Green below 95 % of the cumulative probability, yellow below 99.99 %, red from there on. Zero
breaches are always green. Overlapping windows (a ten-day loss every day) cluster their breaches:
their bounds come from simulated sums of normal steps, not from the binomial.

References:
    Basel Committee (1996), Supervisory framework for the use of "backtesting"; MAR 99 for the
    multipliers now in force.
"""

import functools
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy import special

from backtest.errors import ConfigError

from .binomial import at_least, at_most
from .findings import BacktestKind
from .records import Counts


YELLOW_FROM, RED_FROM = 0.95, 0.9999
_WORDS = ("green", "yellow", "red", "insufficient data: no observations")
_TOO_FEW = "insufficient data: less than one effective observation"
_BATCH = 5_000


class Zone(IntEnum):
    """Zone of one cell; ``NONE`` where nothing was observed."""

    GREEN = 0
    YELLOW = 1
    RED = 2
    NONE = 3


@dataclass(frozen=True)
class Bounds:
    """Largest numbers of breaches that are still green, and still yellow."""

    max_green: Int[np.ndarray, "*cell"]
    max_yellow: Int[np.ndarray, "*cell"]


@dataclass(frozen=True)
class TrafficLight:
    """Zones of all cells.

    Attributes:
        kind: Which backtest was counted.
        zone: Codes of ``Zone``.
        cumulative: ``P(X <= x)`` for a correct model; NaN without observations and for overlaps.
        type_one: ``P(X >= x)``, the chance of doing a correct model wrong by a line drawn here.
        bounds: Where the zones end.
    """

    kind: BacktestKind
    zone: UInt8[np.ndarray, "*cell"]
    cumulative: Float[np.ndarray, "*cell"]
    type_one: Float[np.ndarray, "*cell"]
    bounds: Bounds

    @property
    def words(self) -> np.ndarray:
        """Zones in words, an array of str in the shape of the cells."""
        return np.array(_WORDS)[self.zone]


def traffic_light(counts: Counts) -> TrafficLight:
    """Zones of independent observations: ``F = BinomialCDF(x; T, p)``.

    Example:
        >>> traffic_light(Counts.of(BacktestKind.CORE_MODEL, 0.01, [4, 5, 10], 250)).words.tolist()
        ['green', 'yellow', 'red']
    """
    x, n = counts.breaches, counts.observations
    p = np.full(x.shape, counts.probability)
    nothing = n == 0
    return TrafficLight(
        counts.kind,
        _zones(x, n, bounds(n, p)),
        np.where(nothing, np.nan, at_most(x, n, p)),
        np.where(nothing, np.nan, at_least(x, n, p)),
        bounds(n, p),
    )


def overlapping_light(
    counts: Counts, horizon: int, *, paths: int = 400_000, seed: int = 0
) -> TrafficLight:
    """Zones of losses over ``horizon`` steps that are observed at every step.

    Cumulative probabilities are those of the simulation's paths, whose rare tail is coarse: the
    yellow bound moves by one breach from seed to seed.
    """
    n, at = np.unique(counts.observations.ravel(), return_inverse=True)
    sizes = tuple(int(v) for v in np.maximum(n, 1))
    table = simulated_counts(sizes, counts.probability, horizon, paths=paths, seed=seed)
    cumulative = np.cumsum(table, axis=1) / paths
    row = at.reshape(counts.breaches.shape)
    x = np.minimum(counts.breaches, cumulative.shape[1] - 1)
    before = np.where(x > 0, cumulative[row, np.maximum(x - 1, 0)], 0.0)
    found = _bounds_of(cumulative)
    ends = Bounds(found.max_green[row], found.max_yellow[row])
    nothing = counts.observations == 0
    return TrafficLight(
        counts.kind,
        _zones(counts.breaches, counts.observations, ends),
        np.where(nothing, np.nan, cumulative[row, x]),
        np.where(nothing, np.nan, 1.0 - before),
        ends,
    )


def bounds(n: Int[np.ndarray, "*cell"], p: Float[np.ndarray, "*cell"]) -> Bounds:
    """Where the zones of independent observations end."""
    return Bounds(_largest_below(YELLOW_FROM, n, p), _largest_below(RED_FROM, n, p))


def zone_edges(
    n: Float[np.ndarray, "*cell"], p: float | Float[np.ndarray, "*cell"]
) -> tuple[Float[np.ndarray, "*cell"], Float[np.ndarray, "*cell"]]:
    """Breaches below which ``n`` effective observations are green, and yellow; no whole numbers.

    Where ``I_(1-p)(n - x, x + 1)``, the binomial's ``P(X <= x)`` at whole numbers, comes to 95 %
    and 99.99 %; no less than ``n p``, since what meets its target is green.
    """
    size = np.maximum(n, 1e-9)

    def edge(level: float) -> Float[np.ndarray, "*cell"]:
        return np.maximum(np.nan_to_num(special.bdtrik(level, size, p)), size * p)

    return edge(YELLOW_FROM), edge(RED_FROM)


def effective_zones(
    x: Float[np.ndarray, "*cell"],
    n: Float[np.ndarray, "*cell"],
    p: float | Float[np.ndarray, "*cell"],
) -> np.ndarray:
    """Zones in words of ``x`` effective breaches among ``n`` effective observations.

    Dependent observations count for fewer (``blocks.RateInterval``); neither is a whole number.
    Less than one observation has no zone.
    """
    green, yellow = zone_edges(n, p)
    zone = (x > green).astype(np.uint8) + (x > yellow).astype(np.uint8)
    return np.array([*_WORDS[:3], _TOO_FEW])[np.where(n >= 1.0, zone, Zone.NONE)]


def simulated_bounds(
    observations: tuple[int, ...],
    probability: float,
    horizon: int,
    correlation: tuple[tuple[float, ...], ...] = ((1.0,),),
    *,
    paths: int = 400_000,
    seed: int = 0,
) -> Bounds:
    """Where the zones end for overlapping windows and correlated portfolios counted together.

    Shape ``[observations]``; the arguments are those of ``simulated_counts``.
    """
    table = simulated_counts(
        observations, probability, horizon, correlation, paths=paths, seed=seed
    )
    return _bounds_of(np.cumsum(table, axis=1) / paths)


@functools.lru_cache(maxsize=32)
def simulated_counts(
    observations: tuple[int, ...],
    probability: float,
    horizon: int,
    correlation: tuple[tuple[float, ...], ...] = ((1.0,),),
    *,
    paths: int = 400_000,
    seed: int = 0,
) -> Int[np.ndarray, "size breaches"]:
    """Histogram of breaches in simulated paths, one row for each number of observations.

    A path has ``max(observations) + horizon - 1`` normal steps; a breach is a sum of ``horizon``
    steps beyond its ``1 - probability`` quantile. Shorter windows are the starts of the same paths.

    Args:
        observations: Overlapping windows that were observed, each at least 1.
        probability: Target probability of a breach of one window.
        horizon: Steps of one window.
        correlation: Of the steps of portfolios whose breaches are added up.
        paths: Simulated paths; 400,000 give the green bound exactly, the yellow one within 1.
        seed: Of the random numbers.
    """
    if horizon < 1 or not observations or min(observations) < 1:
        raise ConfigError("horizon and observations are at least 1")
    root = np.linalg.cholesky(np.asarray(correlation, dtype=float)).astype(np.float32)
    steps = max(observations) + horizon - 1
    limit = np.float32(special.ndtri(1.0 - probability) * np.sqrt(horizon))
    rng = np.random.default_rng(seed)
    columns = np.asarray(observations) - 1
    size = len(root) * max(observations) + 1
    table = np.zeros((len(observations), size), dtype=np.int64)
    done = 0
    while done < paths:
        batch = min(_BATCH, paths - done)
        hits = np.zeros((batch, max(observations)), dtype=np.int32)
        draws = rng.standard_normal((len(root), batch, steps), dtype=np.float32)
        for row in np.tensordot(root, draws, axes=1) if len(root) > 1 else draws:
            hits += _window_sums(row, horizon) > limit
        for i, count in enumerate(np.cumsum(hits, axis=1)[:, columns].T):
            table[i] += np.bincount(count, minlength=size)
        done += batch
    return table


def _window_sums(
    steps: Float[np.ndarray, "path step"], horizon: int
) -> Float[np.ndarray, "path window"]:
    """Sums over ``horizon`` steps, by doubling so that rounding stays that of a few additions."""
    total, width = np.zeros_like(steps[:, : steps.shape[1] - horizon + 1]), 1
    block, at = steps, 0
    while width <= horizon:
        if horizon & width:
            total = total + block[:, at : at + total.shape[1]]
            at += width
        if 2 * width <= horizon:
            block = block[:, :-width] + block[:, width:]
        width *= 2
    return total


def _bounds_of(cumulative: Float[np.ndarray, "size breaches"]) -> Bounds:
    def largest(level: float) -> Int[np.ndarray, " size"]:
        return np.maximum((cumulative < level).sum(axis=1) - 1, 0)

    return Bounds(largest(YELLOW_FROM), largest(RED_FROM))


def _largest_below(
    level: float, n: Int[np.ndarray, "*cell"], p: Float[np.ndarray, "*cell"]
) -> Int[np.ndarray, "*cell"]:
    """Largest k with ``P(X <= k) < level``, 0 at least, by bisection."""
    low, high = np.zeros_like(n), n.copy()
    while (low < high).any():
        probe = (low + high + 1) // 2
        inside = at_most(probe, n, p) < level
        low, high = np.where(inside, probe, low), np.where(inside, high, probe - 1)
        high = np.maximum(high, low)
    return low


def _zones(
    x: Int[np.ndarray, "*cell"], n: Int[np.ndarray, "*cell"], ends: Bounds
) -> UInt8[np.ndarray, "*cell"]:
    zone = (x > ends.max_green).astype(np.uint8) + (x > ends.max_yellow).astype(np.uint8)
    return np.where(n == 0, Zone.NONE, zone).astype(np.uint8)


_PLUS_1996 = (0.40, 0.50, 0.65, 0.75, 0.85)
_MULTIPLIER_MAR = (1.70, 1.76, 1.83, 1.88, 1.92)


def basel_plus_factor(breaches: Int[np.ndarray, "*cell"]) -> Float[np.ndarray, "*cell"]:
    """Addition of 1996 to the multiplier of 3, for 250 observations at 99 %: 0 to 1."""
    return _by_breaches(breaches, 0.0, _PLUS_1996, 1.0)


def basel_multiplier(breaches: Int[np.ndarray, "*cell"]) -> Float[np.ndarray, "*cell"]:
    """Multiplier now in force, for 250 observations at 99 %: 1.5 to 2."""
    return _by_breaches(breaches, 1.5, _MULTIPLIER_MAR, 2.0)


def _by_breaches(
    breaches: Int[np.ndarray, "*cell"], green: float, yellow: tuple[float, ...], red: float
) -> Float[np.ndarray, "*cell"]:
    """Values for 0 ... 4 breaches, each of 5 ... 9, and 10 or more."""
    return np.array([green, *yellow, red])[np.clip(breaches - 4, 0, len(yellow) + 1)]
