"""Walk-forward folds: choose on one stretch of time, try on the next, leave out what overlaps."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool

from backtest.calibration.config import WalkForwardSection
from backtest.errors import ConfigError


@dataclass(frozen=True)
class Fold:
    """One step of the walk: blocks to choose on, blocks to try on."""

    number: int
    train: Bool[np.ndarray, " block"]
    test: Bool[np.ndarray, " block"]


def folds(blocks: np.ndarray, length: str, walk: WalkForwardSection) -> list[Fold]:
    """Folds over blocks of time; blocks between training and trial are purged.

    Args:
        blocks: start of each block, ascending.
        length: of a block.
        walk: how many folds, and what is purged.

    Raises:
        ConfigError: the window is too short for them.
    """
    count = len(blocks)
    edges = np.linspace(0, count, walk.folds + 2).round().astype(int)
    block_s, purge_s = (pd.Timedelta(text).total_seconds() for text in (length, walk.purge))
    purge = int(np.ceil(purge_s / block_s))
    shortest = int(np.diff(edges).min())
    if shortest <= purge:
        raise ConfigError(
            f"walk_forward: {walk.folds} folds of {count} blocks of {length} leave {shortest} "
            f"blocks a fold and {purge} are purged; use fewer folds, shorter blocks or less purge"
        )
    place = np.arange(count)
    found = []
    for k in range(walk.folds):
        first = 0 if walk.anchored else edges[k]
        train = (place >= first) & (place < edges[k + 1])
        test = (place >= edges[k + 1] + purge) & (place < edges[k + 2])
        found.append(Fold(k, train, test))
    return found
