"""Size of breaches and scores: formulas by hand, size and power of the tests, what is refused."""

import numpy as np
import pytest
from scipy import integrate, stats

from backtest.errors import ConfigError, DataError
from backtest.statistics.findings import BacktestKind, Verdict
from backtest.statistics.scores import Losses, diebold_mariano, fz0_loss, tick_loss
from backtest.statistics.severity import (
    NORMAL,
    Shape,
    Tail,
    expected_tail_mean,
    mcneil_frey,
    z1,
    z2,
    z3,
)


KIND = BacktestKind.CORE_MODEL
ALPHA = 0.025


def tail(pnl: np.ndarray, scale: float = 1.0) -> Tail:
    one = np.full(pnl.shape, scale)
    var = stats.norm.ppf(ALPHA) * one
    return Tail(KIND, ALPHA, pnl, var, NORMAL.expected_shortfall(ALPHA) * one)


@pytest.mark.parametrize("shape", [NORMAL, Shape(3.0), Shape(8.0)])
def test_expected_shortfall_is_the_integral(shape: Shape):
    dof = 1e9 if np.isinf(shape.dof) else shape.dof
    edge = stats.t.ppf(ALPHA, dof)
    area = integrate.quad(lambda v: v * stats.t.pdf(v, dof), -np.inf, edge)[0]
    assert shape.expected_shortfall(ALPHA) == pytest.approx(area / ALPHA, rel=1e-7)


def test_expected_tail_mean_of_two_normals():
    assert expected_tail_mean(2, 1, NORMAL) == pytest.approx(-1 / np.sqrt(np.pi))
    assert expected_tail_mean(5, 5, NORMAL) == pytest.approx(0.0, abs=1e-9)


def test_z_statistics_by_hand():
    pnl = np.array([[-4.0, 1.0, -6.0, 2.0]])
    given = Tail(KIND, 0.25, pnl, np.full((1, 4), -3.0), np.full((1, 4), -4.0))
    assert z1(given).statistic == pytest.approx(1 - (1.0 + 1.5) / 2)
    assert z2(given).statistic == pytest.approx(1 - (1.0 + 1.5) / (4 * 0.25))


def test_a_single_series_is_one_cell():
    assert z3(KIND, ALPHA, np.linspace(0.01, 0.99, 99)).statistic.shape == (1,)
    with pytest.raises(ConfigError, match="axis of cells"):
        tail(np.ones(4))
    with pytest.raises(ConfigError, match="a loss is negative"):
        tail(np.ones((1, 4)), -1.0)


def test_size_and_power():
    rng = np.random.default_rng(0)
    pnl = rng.standard_normal((2_000, 250))
    right, wrong = tail(pnl), tail(1.3 * pnl)
    ranks = stats.norm.cdf(pnl), stats.norm.cdf(1.3 * pnl)
    for test, least in ((z1, 0.2), (z2, 0.9)):
        assert 0.035 < test(right).rejected.mean() < 0.065
        assert test(wrong).rejected.mean() > least
    assert 0.035 < z3(KIND, ALPHA, ranks[0]).rejected.mean() < 0.065
    assert z3(KIND, ALPHA, ranks[1]).rejected.mean() > 0.85


def test_severity_without_breaches_or_data():
    pnl = np.ones((2, 250))
    pnl[1] = np.nan
    for test in (z1, z2):
        found = test(tail(pnl))
        assert found.verdict[1] == Verdict.NO_OBSERVATIONS
        assert np.isnan(found.p_value[1])
    assert z1(tail(pnl)).verdict[0] == Verdict.NO_BREACH
    assert z2(tail(pnl)).statistic[0] == 1.0
    assert z3(KIND, ALPHA, pnl * np.nan).words[0] == "insufficient data: no observations"


def test_mcneil_frey_notices_deeper_losses_than_the_model():
    rng = np.random.default_rng(1)
    pnl = rng.standard_normal((50, 2_000))
    scale = np.ones_like(pnl)
    assert mcneil_frey(tail(pnl), scale).rejected.mean() < 0.15
    heavy = stats.norm.ppf(ALPHA) * np.exp(0.8 * rng.exponential(size=pnl.shape))
    deep = np.where(pnl < stats.norm.ppf(ALPHA), heavy, pnl)
    assert mcneil_frey(tail(deep), scale).rejected.mean() > 0.9
    assert (mcneil_frey(tail(np.abs(pnl)), scale).verdict == Verdict.NO_BREACH).all()


def test_scores_by_hand():
    pnl, var, es = np.array([-5.0, 1.0]), np.array([-3.0, -3.0]), np.array([-4.0, -4.0])
    assert tick_loss(KIND, pnl, var, 0.1).values == pytest.approx([2.0 * 0.9, 4.0 * 0.1])
    base = 0.75 + np.log(4.0) - 1.0
    found = fz0_loss(KIND, pnl, var, es, 0.1).values
    assert found == pytest.approx([2.0 / (0.1 * 4.0) + base, base])
    with pytest.raises(DataError, match="at most var"):
        fz0_loss(KIND, pnl, es, var, 0.1)


def test_scores_are_smallest_at_the_truth():
    pnl = np.random.default_rng(2).standard_normal(400_000)
    var, es = stats.norm.ppf(ALPHA), NORMAL.expected_shortfall(ALPHA)

    def mean(scale: float) -> tuple[float, float]:
        v, e = np.full(pnl.shape, scale * var), np.full(pnl.shape, scale * es)
        tick, fz0 = tick_loss(KIND, pnl, v, ALPHA), fz0_loss(KIND, pnl, v, e, ALPHA)
        return float(tick.values.mean()), float(fz0.values.mean())

    best = mean(1.0)
    for scale in (0.8, 0.9, 1.1, 1.25):
        assert mean(scale)[0] > best[0]
        assert mean(scale)[1] > best[1]


def test_diebold_mariano_without_lags_is_a_t_test():
    a, b = np.random.default_rng(3).standard_normal((2, 4, 300))
    found = diebold_mariano(Losses(KIND, "tick", a), Losses(KIND, "tick", b), lags=0)
    expected, _ = stats.ttest_1samp(a - b, 0.0, axis=-1)
    assert found.statistic == pytest.approx(expected * np.sqrt(300 / 299))


def test_diebold_mariano_size_under_dependence_and_direction():
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((2_000, 503))
    moving = noise[:, 3:] + noise[:, 2:-1] + noise[:, 1:-2] + noise[:, :-3]
    zero = np.zeros_like(moving)
    found = diebold_mariano(Losses(KIND, "tick", moving), Losses(KIND, "tick", zero), lags=12)
    assert 0.03 < found.rejected.mean() < 0.09
    worse = diebold_mariano(Losses(KIND, "tick", moving + 1.0), Losses(KIND, "tick", zero))
    assert (worse.verdict == Verdict.SECOND_IS_BETTER).mean() > 0.9


def test_diebold_mariano_extremes():
    same = Losses(KIND, "tick", np.ones((1, 10)))
    assert diebold_mariano(same, same).verdict[0] == Verdict.NO_DIFFERENCE
    gone = Losses(KIND, "tick", np.full((1, 10), np.nan))
    assert diebold_mariano(same, gone).verdict[0] == Verdict.NO_OBSERVATIONS
    other = Losses(BacktestKind.MARGIN_ADEQUACY, "tick", np.ones((1, 10)))
    with pytest.raises(ConfigError, match="one kind"):
        diebold_mariano(same, other)
    with pytest.raises(ConfigError, match="do not compare"):
        diebold_mariano(same, Losses(KIND, "FZ0", np.ones((1, 10))))


def test_pooled_scores_leave_out_what_was_not_observed():
    values = np.array([[1.0, np.nan, 3.0], [3.0, 4.0, np.nan]])
    pooled = Losses(KIND, "tick", values).pooled(np.array([1.0, 3.0]))
    assert pooled.values == pytest.approx([2.5, 4.0, 3.0])
