"""Meters of a search: noise is found out, skill is not; equal sets stay together."""

import numpy as np
import pytest

from backtest.errors import ConfigError
from backtest.statistics.confidence_set import confidence_set
from backtest.statistics.overfitting import overfitting


def noise(times: int = 400, sets: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((times, sets))


def test_noise_is_as_likely_below_as_above_the_middle():
    found = [overfitting(noise(seed=seed)).probability for seed in range(40)]
    assert 0.4 < np.mean(found) < 0.6


def test_a_set_that_is_better_is_no_overfitting():
    losses = noise()
    losses[:, 3] -= 1.0
    found = overfitting(losses)
    assert found.probability == 0.0
    assert (found.chosen == 3).all()
    assert len(found.logits) == 70
    assert found.logits == pytest.approx(np.log(20.0), rel=1e-12)  # rank 20 of 20: 20/21 over 1/21


def test_by_hand():
    """Two sets, two blocks: each half chooses the set that the other half ranks last."""
    found = overfitting(np.array([[0.0, 1.0], [1.0, 0.0]]), splits=2)
    assert found.chosen.tolist() == [0, 1]
    assert found.probability == 1.0
    assert found.in_sample.tolist() == [0.0, 0.0]
    assert found.out_of_sample.tolist() == [1.0, 1.0]
    assert found.logits == pytest.approx(np.log([0.5, 0.5]))  # rank 1 of 2: 1/3 over 2/3


def test_it_refuses_what_cannot_be_halved():
    with pytest.raises(ConfigError, match="even number"):
        overfitting(noise(), splits=3)
    with pytest.raises(ConfigError, match="two sets"):
        overfitting(noise(sets=1))


def test_the_confidence_set_leaves_out_what_is_worse():
    losses = noise(sets=5)
    losses[:, 1:3] += 0.6
    found = confidence_set(losses, 0.1, resamples=200)
    assert not found.included[1:3].any()
    assert found.included[[0, 3, 4]].sum() >= 2
    again = confidence_set(losses, 0.1, resamples=200)
    assert again.p_value.tolist() == found.p_value.tolist()


def test_equal_sets_stand_together():
    losses = noise(sets=3)[:, [0, 1, 0, 2]]
    losses[:, 1] += 1.0
    found = confidence_set(losses, resamples=200)
    assert found.p_value[0] == found.p_value[2]
    assert confidence_set(losses[:, :1]).included.tolist() == [True]
