"""The sets that the data cannot tell from the best one: the model confidence set (K8).

References:
    Hansen, Lunde and Nason (2011), The model confidence set, Econometrica 79; through ``arch``.
"""

from dataclasses import dataclass

import numpy as np
from arch.bootstrap import MCS
from jaxtyping import Bool, Float

from .records import check_probability


@dataclass(frozen=True)
class ConfidenceSet:
    """Which sets may be the best.

    Attributes:
        size: Probability that the best set is left out.
        included: Whether a set may be the best.
        p_value: Size at which it would just be left out; 1 for the last one standing.
    """

    size: float
    included: Bool[np.ndarray, " set"]
    p_value: Float[np.ndarray, " set"]


def confidence_set(
    losses: Float[np.ndarray, "time set"],
    size: float = 0.1,
    *,
    block: int = 1,
    resamples: int = 500,
    seed: int = 0,
) -> ConfidenceSet:
    """The model confidence set of losses over time; smaller is better.

    Sets with the same losses stand or fall together: they are told apart by nothing.

    Args:
        losses: of every set at every time.
        size: probability that the best set is left out.
        block: mean block of the stationary bootstrap, times.
        resamples: bootstrap draws.
        seed: of the draws.
    """
    check_probability(size, "size")
    unique, same = np.unique(losses, axis=1, return_inverse=True)
    same = np.ravel(same)
    p_value = np.ones(unique.shape[1])
    if unique.shape[1] > 1:
        test = MCS(
            unique, size, reps=resamples, block_size=block, method="max", bootstrap="stationary",
            seed=seed,
        )  # fmt: skip
        test.compute()
        found = test.pvalues["Pvalue"]
        p_value[found.index.to_numpy(dtype=int)] = found.to_numpy(dtype=float)
    mine = p_value[same]
    return ConfidenceSet(size, mine > size, mine)
