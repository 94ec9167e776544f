"""Accounts near a threshold under float32 are those of float64; the others stay as they were."""

import jax
import numpy as np
import pytest

from backtest import settle
from backtest.window_records import TileResult
from tests.unit.backtest.test_engine import TIMES, batch, engine, replay, whole


__all__ = ["batch", "whole"]
pytestmark = pytest.mark.slow


class Rules:
    warning_level = np.asarray([3.0, 3.0])
    liquidation_level = np.asarray([1.0, 2.0])
    safe_level = np.asarray([1.1, 1.1])


def test_what_is_near():
    level = np.asarray([[1.00009, 0.9998, np.inf, np.nan, 3.0], [1.00009, 2.0001, 1.1, 0.0, 9.0]])
    near = settle.near_a_threshold(level, Rules, np.asarray([True, True]))
    assert near.tolist() == [[True, False, False, False, True], [False, True, True, False, False]]
    assert not settle.near_a_threshold(level, Rules, np.asarray([False, False])).any()


def test_near_accounts_are_settled(batch, whole: TileResult, monkeypatch: pytest.MonkeyPatch):
    """With a wide band many accounts are near; these, and only these, become float64's."""
    monkeypatch.setattr(settle, "NEAR_FRAC", 0.0)
    single = replay(engine("float32"), batch)
    assert single.num_settled == 0
    monkeypatch.setattr(settle, "NEAR_FRAC", 0.3)
    mixed = replay(engine("float32"), batch)
    level = single.margin.margin_level
    bound = np.asarray([1.0, 1.1, 3.0])
    near = (np.abs(level[..., None] - bound) <= 0.3 * bound).any(axis=-1)
    assert mixed.num_settled == near.sum() > 0
    who = near.any(axis=0)
    assert 0 < who.sum() < len(who)
    for name, found in (("exact", whole), ("single", single)):
        mine = who if name == "exact" else ~who
        for one, other in zip(
            jax.tree.leaves((mixed.state, mixed.codes, mixed.margin)),
            jax.tree.leaves((found.state, found.codes, found.margin)),
            strict=True,
        ):
            np.testing.assert_array_equal(one[..., mine], other[..., mine])
    # Counts and money add up to what the accounts say.
    expected = np.round(np.nan_to_num(mixed.margin.equity_usd) / 1e-4).sum(axis=1)
    from backtest.tile_programs import sum_columns
    from kernels.models import okx

    column = sum_columns(okx.MODEL).index("equity_usd")
    priced = ~np.isnan(mixed.margin.margin_level)
    expected = np.round(np.where(priced, mixed.margin.equity_usd, 0.0) / 1e-4).sum(axis=1)
    np.testing.assert_array_equal(mixed.sums[:, :, column].sum(axis=1), expected)
    assert len(TIMES) == len(mixed.sums)
