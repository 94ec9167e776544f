"""Account-times near a threshold, computed again in float64 where a run computes in float32.

The scenario sums of float32 may put an account on the wrong side of a margin level. Whoever comes
near one is replayed through the window with tables in float64, and that result counts.
"""

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from backtest.batching import Batch


NEAR_FRAC = 1e-4
"""A margin level this near a threshold, as a fraction of it, is settled in float64."""


def near_a_threshold(margin_level: np.ndarray, rules: Any, is_real: np.ndarray) -> np.ndarray:
    """Which account-times to settle [time, account].

    Args:
        margin_level: [time, account], 1.0 = requirement met.
        rules: ``AccountRules`` with a leading time axis.
        is_real: times that are no padding.
    """
    near = np.zeros(margin_level.shape, bool)
    for threshold in (rules.warning_level, rules.liquidation_level, rules.safe_level):
        bound = np.asarray(threshold)[:, None]
        with np.errstate(invalid="ignore"):
            near |= np.abs(margin_level - bound) <= NEAR_FRAC * bound
    return near & is_real[:, None]


def some_of(batch: Batch, who: np.ndarray) -> Batch:
    """Some accounts of a batch, by their positions in it."""
    book = jax.tree.map(lambda x: x[..., who], batch.book)
    return replace(batch, accounts=batch.accounts[who], book=book, tiles={})


def with_accounts(values: Any, who: np.ndarray, others: Any) -> Any:
    """Every array of a tree with some accounts (the last axis) replaced."""

    def one(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        out = np.array(old)
        out[..., who] = new
        return out

    return jax.tree.map(one, values, others)
