"""How much a search has learnt from noise: probability of backtest overfitting (K7).

Times are cut into blocks; on every half of the blocks the best set is chosen, and its rank is taken
on the other half. A choice that means something stays above the middle.

References:
    Bailey, Borwein, Lopez de Prado and Zhu (2017), The probability of backtest overfitting, Journal
    of Computational Finance 20(4): combinatorially symmetric cross-validation.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from backtest.errors import ConfigError


@dataclass(frozen=True)
class Overfitting:
    """What the halves say.

    Attributes:
        probability: Share of halves whose chosen set is in the lower half of the other half.
        logits: ``ln(w / (1 - w))`` of the relative rank ``w`` of the chosen set, one a half.
        chosen: The set chosen on each half.
        in_sample, out_of_sample: Mean loss of the chosen set on its half and on the other.
    """

    probability: float
    logits: Float[np.ndarray, " half"]
    chosen: np.ndarray
    in_sample: Float[np.ndarray, " half"]
    out_of_sample: Float[np.ndarray, " half"]


def overfitting(losses: Float[np.ndarray, "time set"], splits: int = 8) -> Overfitting:
    """Probability of backtest overfitting from losses of every set at every time.

    Args:
        losses: smaller is better; means over times are compared.
        splits: blocks of time, an even number; all their halves are looked at.

    Raises:
        ConfigError: fewer than two sets, or fewer times than blocks, or an odd number of blocks.
    """
    times, sets = losses.shape
    if splits % 2 or splits < 2 or times < splits or sets < 2:
        raise ConfigError(
            f"{sets} sets over {times} times in {splits} blocks; allowed: two sets or more, an "
            "even number of blocks, and a time or more in each"
        )
    parts = np.array_split(losses, splits)
    sums = np.stack([part.sum(axis=0) for part in parts])
    sizes = np.array([len(part) for part in parts], dtype=float)
    halves = np.array(list(itertools.combinations(range(splits), splits // 2)))
    mine = np.zeros((len(halves), splits), dtype=bool)
    mine[np.arange(len(halves))[:, None], halves] = True
    inside = (mine @ sums) / (mine @ sizes)[:, None]
    outside = (~mine @ sums) / (~mine @ sizes)[:, None]
    chosen = inside.argmin(axis=1)
    row = np.arange(len(halves))
    # the best of N sets outside has rank N
    rank = rankdata(-outside, axis=1)[row, chosen]
    share = rank / (sets + 1.0)
    logits = np.log(share / (1.0 - share))
    probability = float((logits <= 0.0).mean())
    return Overfitting(probability, logits, chosen, inside[row, chosen], outside[row, chosen])
