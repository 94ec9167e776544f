"""Sizes and sides of the joint tests of VaR and ES, on models that are right and wrong."""

import numpy as np
import pytest
from scipy import special

from backtest.statistics.calibration_tests import conditional_calibration, shortfall_light
from backtest.statistics.findings import BacktestKind, Verdict
from backtest.statistics.severity import NORMAL, Tail
from backtest.statistics.traffic_light import Zone


KIND, ALPHA, CELLS, TIMES = BacktestKind.CORE_MODEL, 0.05, 800, 1_000


def tail(scale: float = 1.0, seed: int = 0) -> Tail:
    """Normal profit and loss of standard deviation ``scale`` under a model that says 1."""
    pnl = scale * np.random.default_rng(seed).standard_normal((CELLS, TIMES))
    var = np.full(pnl.shape, float(special.ndtri(ALPHA)))
    return Tail(KIND, ALPHA, pnl, var, np.full(pnl.shape, NORMAL.expected_shortfall(ALPHA)))


def test_a_correct_model_is_rejected_about_as_often_as_said():
    found = conditional_calibration(tail())
    assert 0.03 <= found.rejected.mean() <= 0.09
    assert (found.degrees == 2).all()


@pytest.mark.parametrize(
    ("scale", "sides"),
    [(1.3, {Verdict.TOO_SEVERE, Verdict.TOO_MANY}), (0.75, {Verdict.TOO_FEW})],
)
def test_wrong_models_are_found_on_the_right_side(scale: float, sides: set[Verdict]):
    found = conditional_calibration(tail(scale))
    assert found.rejected.mean() > 0.9
    assert set(found.verdict[found.rejected].tolist()) <= {int(v) for v in sides}


def test_the_statistic_by_hand():
    """Mean 0.05 - 1/20 = 0 of the first, so only the size of the one breach counts."""
    pnl = np.zeros((1, 20))
    pnl[0, 0] = -3.0
    one = Tail(KIND, ALPHA, pnl, np.full((1, 20), -1.0), np.full((1, 20), -2.0))
    first = np.full(20, 0.05)
    first[0] -= 1.0
    second = np.full(20, -0.5)
    second[0] += 2.0 / 0.05 / 2.0
    both = np.stack([first, second])
    mean, spread = both.mean(axis=1), both @ both.T / 20
    expected = 20 * mean @ np.linalg.inv(spread) @ mean
    assert conditional_calibration(one).statistic[0] == pytest.approx(expected, rel=1e-9)


def test_what_was_not_seen_says_so():
    pnl = np.stack(
        [np.full(30, np.nan), np.ones(30), np.concatenate([[-3.0], np.full(29, np.nan)])]
    )
    found = conditional_calibration(
        Tail(KIND, ALPHA, pnl, -np.ones((3, 30)), -2 * np.ones((3, 30)))
    )
    assert found.verdict.tolist() == [
        Verdict.NO_OBSERVATIONS,
        Verdict.NO_BREACH,
        Verdict.FEW_TIMES,
    ]


def test_the_light_of_a_correct_model_is_green():
    ranks = np.random.default_rng(2).random((4_000, 250))
    found = shortfall_light(KIND, 0.025, ranks)
    depth = found.statistic
    assert depth.mean() == pytest.approx(250 * 0.025 / 2, rel=0.03)
    assert depth.var() == pytest.approx(250 * 0.025 * (4 - 0.075) / 12, rel=0.08)
    assert 0.92 <= (found.zone == Zone.GREEN).mean() <= 0.97
    worse = shortfall_light(KIND, 0.025, ranks / 3.0)
    assert (worse.zone == Zone.RED).mean() > 0.3
    assert shortfall_light(KIND, 0.025, ranks[:, :5]).zone[0] == Zone.NONE
