"""Points that do not depend on results: a grid, and Sobol points in nested boxes.

References:
    Sobol (1967); scrambling after Owen, as in ``scipy.stats.qmc``.
"""

import itertools

import numpy as np
from jaxtyping import Float
from scipy.stats import qmc

from backtest.calibration.space import Space


Points = Float[np.ndarray, "candidate parameter"]


def grid(space: Space, points: int) -> Points:
    """Every combination of ``points`` levels of each parameter, both ends among them."""
    axes = [np.linspace(p.low, p.high, points) for p in space.parameters]
    return np.array(list(itertools.product(*axes)))


def sobol(
    space: Space, count: int, seed: int, boxes: list[tuple[np.ndarray, np.ndarray]]
) -> Points:
    """Scrambled Sobol points, dealt in turn to boxes of low and high ends.

    Boxes that lie one in another put as many points within one step of today as within two: a
    trust region would leave most points of one large box out of reach.
    """
    draw = qmc.Sobol(len(space.parameters), scramble=True, rng=np.random.default_rng(seed))
    unit = draw.random_base2(max(0, int(np.ceil(np.log2(count)))))[:count]
    found = np.empty_like(unit)
    for k, (low, high) in enumerate(boxes):
        found[k :: len(boxes)] = low + unit[k :: len(boxes)] * (high - low)
    return found


def nested_boxes(
    space: Space, step_frac: float | None, steps: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What 1, 2 ... ``steps`` steps from today reach inside the space; the space without a limit.

    Args:
        space: what is searched.
        step_frac: most that a step moves a parameter, of where it stands; None = no limit.
        steps: how many are taken.
    """
    if step_frac is None:
        return [(space.low, space.high)]
    boxes = []
    for k in range(1, steps + 1):
        low = np.maximum(space.low, space.now * (1.0 - step_frac) ** k)
        high = np.minimum(space.high, space.now * (1.0 + step_frac) ** k)
        boxes.append((low, high))
    return boxes
