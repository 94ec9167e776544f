"""The curve of one charge: an empirical distribution, mergeable, with its slope at 1."""

import numpy as np
import pytest

from backtest.errors import ConfigError
from backtest.statistics.frequency_curve import MULTIPLIERS, POINTS, FrequencyCurve


RNG = np.random.default_rng(3)
THETA = np.concatenate([RNG.lognormal(0.5, 0.6, 5_000), [0.0, 1.0, np.inf, np.nan]])


def test_it_is_the_empirical_distribution():
    curve = FrequencyCurve.of(THETA)
    for k in range(0, len(MULTIPLIERS), 17):
        assert curve.liquidated[k] == (MULTIPLIERS[k] >= THETA).sum()
    for point in POINTS:
        assert curve.at(point) == (point >= THETA).mean()
    assert np.all(np.diff(curve.share) >= 0)


def test_parts_merge_to_the_whole():
    whole = FrequencyCurve.of(THETA)
    parts = [FrequencyCurve.of(part) for part in np.array_split(THETA, 7)]
    merged = sum(parts[1:], start=parts[0])
    assert merged.accounts == whole.accounts
    assert merged.liquidated.tolist() == whole.liquidated.tolist()


def test_the_slope_of_a_uniform_logarithm_is_its_density():
    theta = np.exp(np.linspace(np.log(0.5), np.log(2.0), 200_001))
    curve = FrequencyCurve.of(theta)
    density = 1.0 / np.log(4.0)
    assert curve.slope == pytest.approx(density, rel=1e-4)
    assert curve.elasticity == pytest.approx(2.0 * density, rel=1e-4)
    assert curve.newly_liquidated == pytest.approx(200_001 * density * np.log(1.1), abs=1.5)
    assert curve.saved == pytest.approx(-200_001 * density * np.log(0.9), abs=1.5)


def test_nobody_liquidated_has_a_slope_and_no_elasticity():
    curve = FrequencyCurve.of(np.array([1.05, np.inf]))
    assert curve.slope > 0
    assert np.isnan(curve.elasticity)
    assert np.isnan(FrequencyCurve.of(np.array([])).at(1.0))


def test_it_refuses_what_it_does_not_know():
    with pytest.raises(ConfigError, match=r"not counted at 1\.03"):
        FrequencyCurve.of(THETA).at(1.03)
    other = FrequencyCurve.of(THETA, np.array([0.9, 1.0, 1.1]))
    with pytest.raises(ConfigError, match="different multipliers"):
        _ = other + FrequencyCurve.of(THETA)
