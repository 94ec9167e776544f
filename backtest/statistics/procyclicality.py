"""How margin moves with the market, on portfolios that do not change (K16, K17, K18).

A path is the margin of one constant portfolio over time; several are rows of one array. Steps are
relative. A step of exactly n and the largest within n differ, so both have a name.

References:
    Murphy, Vasios and Vause (2014), BoE Financial Stability Paper 29: measures over the cycle and
    over short horizons. EMIR RTS 153/2013, article 28: the three tools.
    Gurrola-Perez and Murphy (2025): impulse responses of margin models.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from backtest.errors import ConfigError


Path = Float[np.ndarray, "*path time"]
Measure = Float[np.ndarray, "*path"] | np.floating
"""One number a path, a plain number where there is one path."""
QUANTILE = 0.99
"""Of the n-step change that is reported beside the largest."""


def peak_to_trough(path: Path) -> Measure:
    """Largest over smallest margin, a ratio."""
    return path.max(axis=-1) / path.min(axis=-1)


def steps(path: Path, n: int) -> Float[np.ndarray, "*path step"]:
    """Relative change over exactly n times, ``(M_{t+n} - M_t) / M_t``, for every start.

    Raises:
        ConfigError: n is not between 1 and the number of times less one.
    """
    if not 1 <= n < path.shape[-1]:
        raise ConfigError(f"a step over {n} times of a path of {path.shape[-1]}")
    return path[..., n:] / path[..., :-n] - 1.0


def largest_step(path: Path, n: int) -> Measure:
    """Largest relative increase over exactly n times."""
    return steps(path, n).max(axis=-1)


def largest_step_within(path: Path, n: int) -> Measure:
    """Largest relative increase over any number of times up to n."""
    return np.max([largest_step(path, k) for k in range(1, n + 1)], axis=0)


def largest_increase(path: Path, n: int) -> Measure:
    """Largest increase over exactly n times, in the unit of the margin."""
    steps(path, n)
    return (path[..., n:] - path[..., :-n]).max(axis=-1)


def step_quantile(path: Path, n: int, level: float = QUANTILE) -> Measure:
    """Quantile of the relative change over exactly n times, linear between order statistics."""
    return np.quantile(steps(path, n), level, axis=-1)


@dataclass(frozen=True)
class ImpulseResponse:
    """How margin answers a shock at one time.

    Attributes:
        response: ``M_{t0 + s} / M_{t0 - 1}`` from the shock on.
        overshoot: Largest response over that at the end, less 1; 0 where it never goes beyond.
        rise: Times until 90 % of the way from 1 to the largest response is gone.
        half_life: Times from the peak until half of the overshoot is gone; NaN without one, inf
            where the window ends before.
    """

    response: Float[np.ndarray, " time"]
    overshoot: float
    rise: int
    half_life: float


def impulse_response(path: Float[np.ndarray, " time"], shock: int) -> ImpulseResponse:
    """The response of a path to a shock at time ``shock`` (counted from 0, at least 1).

    Raises:
        ConfigError: there is no time before the shock, or none from it on.
    """
    if not 1 <= shock < len(path):
        raise ConfigError(f"a shock at time {shock} of a path of {len(path)}")
    response = path[shock:] / path[shock - 1]
    peak = int(response.argmax())
    top, end = float(response[peak]), float(response[-1])
    rise = int(np.argmax(response >= 1.0 + 0.9 * (top - 1.0)))
    half_life = float("nan")
    if top > end:
        gone = np.flatnonzero(response[peak:] <= end + 0.5 * (top - end))
        half_life = float(gone[0]) if len(gone) else float("inf")
    return ImpulseResponse(response, top / end - 1.0, rise, half_life)


def buffered(raw: Path, share: float = 0.25) -> Path:
    """A buffer on top of margin that erodes while margin rises (RTS 28, first tool).

    ``m_t = max(raw_t, min((1 + share) raw_t, m_{t-1}))``, ``m_0 = (1 + share) raw_0``.
    """
    found = np.empty_like(raw)
    found[..., 0] = (1.0 + share) * raw[..., 0]
    for t in range(1, raw.shape[-1]):
        held = np.minimum((1.0 + share) * raw[..., t], found[..., t - 1])
        found[..., t] = np.maximum(raw[..., t], held)
    return found


def stress_weighted(
    raw: Path, stress: float | Float[np.ndarray, "*#path"], weight: float = 0.25
) -> Path:
    """Margin with a weight on what a stressed market would ask for (RTS 28, second tool)."""
    return (1.0 - weight) * raw + weight * np.asarray(stress)[..., None]


def floored(raw: Path, floor: float | Float[np.ndarray, "*#path"]) -> Path:
    """Margin not below what ten years of volatility would ask for (RTS 28, third tool)."""
    return np.maximum(raw, np.asarray(floor)[..., None])


def step_capped(raw: Path, n: int, most: float) -> Path:
    """Margin that rises by at most the fraction ``most`` within any n times; it falls freely.

    Below the raw margin while a rise is cut: coverage is traded, so it is measured again.
    """
    found = raw.copy()
    for t in range(1, raw.shape[-1]):
        lowest = found[..., max(0, t - n) : t].min(axis=-1)
        found[..., t] = np.minimum(raw[..., t], (1.0 + most) * lowest)
    return found


def speed_limited(raw: Path, most: float) -> Path:
    """Margin that moves by at most the fraction ``most`` of itself at each time, up and down."""
    found = raw.copy()
    for t in range(1, raw.shape[-1]):
        before = found[..., t - 1]
        found[..., t] = np.clip(raw[..., t], (1.0 - most) * before, (1.0 + most) * before)
    return found
