"""Measures and tools against the hand-checkable toy of the backtesting rules, section 3.9."""

import numpy as np
import pytest

from backtest.errors import ConfigError
from backtest.statistics import procyclicality as p


_RISE = [100.0, 100.0, 102.0, 101.0, 105.0, 120.0, 150.0, 180.0, 175.0, 160.0]
_FALL = [140.0, 130.0, 125.0, 120.0, 118.0, 115.0, 112.0, 110.0, 108.0, 105.0]
M = np.array([*_RISE, *_FALL])
RAW = np.array([100, 100, 120, 150, 200, 140, 110], dtype=float)


def test_measures_of_the_toy():
    assert p.peak_to_trough(M) == pytest.approx(1.8, rel=1e-12)
    assert p.largest_step(M, 1) == pytest.approx(0.25, rel=1e-12)
    assert p.largest_step(M, 5) == pytest.approx(78.0 / 102.0, rel=1e-9)
    assert p.largest_step_within(M, 5) == pytest.approx(79.0 / 101.0, rel=1e-9)
    assert p.largest_increase(M, 1) == 30.0
    assert p.largest_increase(M, 5) == 78.0
    assert p.step_quantile(M, 1) == pytest.approx(0.241, rel=1e-9)
    assert p.step_quantile(M, 5) == pytest.approx(0.7602213162, rel=1e-9)
    assert M.mean() == pytest.approx(123.8, rel=1e-12)


@pytest.mark.parametrize(
    ("path", "expected", "ratio"),
    [
        (p.buffered(RAW), [125, 125, 125, 150, 200, 175, 137.5], 1.6),
        (p.floored(RAW, 130.0), [130, 130, 130, 150, 200, 140, 130], 1.538461538),
        (p.stress_weighted(RAW, 200.0), [125, 125, 140, 162.5, 200, 155, 132.5], 1.6),
    ],
)
def test_tools_of_the_toy(path: np.ndarray, expected: list[float], ratio: float):
    assert path.tolist() == pytest.approx(expected, rel=1e-12)
    assert p.peak_to_trough(path) == pytest.approx(ratio, rel=1e-9)
    assert p.peak_to_trough(RAW) == 2.0


def test_limits_hold():
    capped = p.step_capped(RAW, 2, 0.2)
    assert p.largest_step_within(capped, 2) <= 0.2 + 1e-12
    assert (capped <= RAW).all()
    slow = p.speed_limited(RAW, 0.1)
    assert np.abs(p.steps(slow, 1)).max() <= 0.1 + 1e-12


def test_paths_stand_side_by_side():
    both = np.stack([RAW, 2.0 * RAW])
    for tool in (p.buffered, lambda x: p.step_capped(x, 2, 0.2), lambda x: p.speed_limited(x, 0.1)):
        assert tool(both)[0].tolist() == tool(RAW).tolist()
        assert tool(both)[1] == pytest.approx(2.0 * tool(RAW))
    assert p.peak_to_trough(both).tolist() == [2.0, 2.0]
    assert p.floored(both, np.array([130.0, 260.0]))[1] == pytest.approx(2 * p.floored(RAW, 130.0))


def test_impulse_response_of_a_known_decay():
    """Jumps to 3 at once, falls back to 2 by halves of what is left."""
    s = np.arange(30)
    path = np.concatenate([np.ones(5), 2.0 + 0.5**s])
    found = p.impulse_response(path, 5)
    assert found.response[0] == 3.0
    assert found.rise == 0
    assert found.half_life == 1.0
    assert found.overshoot == pytest.approx(0.5, rel=1e-6)
    slow = p.impulse_response(np.concatenate([np.ones(5), np.linspace(1.1, 2.0, 10)]), 5)
    assert slow.rise == 8
    assert slow.overshoot == 0.0
    assert np.isnan(slow.half_life)


def test_it_refuses_steps_that_do_not_fit():
    with pytest.raises(ConfigError, match="a step over 7"):
        p.steps(RAW, 7)
    with pytest.raises(ConfigError, match="a shock at time 0"):
        p.impulse_response(RAW, 0)
