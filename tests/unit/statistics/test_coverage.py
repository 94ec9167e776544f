"""Number of breaches: identities with scipy, full enumeration, extremes, properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from backtest.errors import ConfigError, DataError
from backtest.statistics.binomial import at_least, at_most, exact_likelihood_ratio_p
from backtest.statistics.coverage import binomial, clopper_pearson, kupiec
from backtest.statistics.findings import BacktestKind, Rule, Verdict, same_kind
from backtest.statistics.records import Counts
from backtest.statistics.traffic_light import Zone, traffic_light


KIND = BacktestKind.CORE_MODEL


def counts(x: object, n: object, p: float = 0.01) -> Counts:
    return Counts.of(KIND, p, x, n)


@pytest.mark.parametrize(("x", "n", "p"), [(57, 1043, 0.05), (1, 250, 0.01), (400, 40_000, 0.01)])
def test_pof_is_the_g_statistic(x: int, n: int, p: float):
    expected = stats.power_divergence([x, n - x], [n * p, n * (1 - p)], lambda_="log-likelihood")
    found = kupiec(counts(x, n, p))
    assert found.statistic[0] == pytest.approx(expected.statistic, rel=1e-9, abs=1e-9)
    assert found.p_value[0] == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("n", "p"), [(1, 0.3), (7, 0.5), (12, 0.1), (14, 0.25)])
def test_exact_p_values_are_those_of_all_sequences(n: int, p: float):
    sequences = np.array(list(itertools.product([0, 1], repeat=n)))
    x = sequences.sum(axis=1)
    weight = p**x * (1 - p) ** (n - x)
    found = kupiec(counts(x, n, p))
    assert found.p_exact is not None
    assert found.p_mid is not None
    for at in np.unique(x, return_index=True)[1]:
        tied = found.statistic >= found.statistic[at] * (1 - 1e-9) - 1e-12
        tail, point = weight[tied].sum(), weight[x == x[at]].sum()
        assert found.p_exact[at] == pytest.approx(tail, rel=1e-10)
        assert found.p_mid[at] == pytest.approx(tail - point / 2, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("side", ["upper", "lower"])
def test_one_sided_binomial_is_scipys(side):
    x = np.arange(0, 21)
    found = binomial(counts(x, 250), side)
    other = {"upper": "greater", "lower": "less"}[side]
    expected = [stats.binomtest(int(k), 250, 0.01, alternative=other).pvalue for k in x]
    assert found.p_exact == pytest.approx(expected, rel=1e-10)


def test_the_interval_is_scipys():
    found = clopper_pearson(counts([0, 3, 250], 250))
    for i, x in enumerate((0, 3, 250)):
        expected = stats.binomtest(x, 250).proportion_ci(0.95, method="exact")
        assert (found.low[i], found.high[i]) == pytest.approx((expected.low, expected.high))


def test_one_class_and_long_histories_stay_finite():
    found = kupiec(counts([0, 40_000, 400], 40_000))
    assert found.statistic == pytest.approx([-80_000 * np.log(0.99), 80_000 * np.log(100), 0.0])
    assert np.isfinite(found.p_value).all()
    assert found.words.tolist() == [
        Verdict.TOO_FEW.words,
        Verdict.TOO_MANY.words,
        Verdict.NOT_REJECTED.words,
    ]


def test_nothing_observed_is_said_so():
    found = kupiec(counts(0, 0))
    assert np.isnan(found.statistic[0])
    assert found.words[0] == "insufficient data: no observations"
    assert traffic_light(counts(0, 0)).zone[0] == Zone.NONE
    interval = clopper_pearson(counts(0, 0))
    assert (interval.low[0], interval.high[0]) == (0.0, 1.0)


def test_a_pass_without_power_is_none():
    found = kupiec(counts([2, 2], [250, 250]))
    assert found.words[0] == Verdict.LOW_POWER.words
    strict = kupiec(counts(2, 250), Rule(alternative_ratio=5.0))
    assert strict.words[0] == Verdict.NOT_REJECTED.words


def test_zero_breaches_are_green_however_short():
    assert traffic_light(counts([0, 0], [1, 5])).words.tolist() == ["green", "green"]


def test_kinds_are_never_mixed():
    one, other = counts(1, 10), Counts.of(BacktestKind.MARGIN_ADEQUACY, 0.01, 1, 10)
    assert kupiec(other).kind is BacktestKind.MARGIN_ADEQUACY
    with pytest.raises(ConfigError, match="one kind of backtest"):
        same_kind(kupiec(one), kupiec(other))


def test_impossible_counts_are_refused():
    with pytest.raises(DataError, match="exceed observations"):
        counts([1, 9], 5)
    with pytest.raises(ConfigError, match="strictly between"):
        counts(1, 5, 1.0)


probabilities = st.floats(1e-4, 0.9)
sizes = st.integers(1, 5_000)


@settings(max_examples=40)
@given(n=sizes, p=probabilities, share=st.floats(0, 1))
def test_p_values_are_probabilities(n: int, p: float, share: float):
    x = round(share * n)
    for found in (
        kupiec(counts(x, n, p)),
        *(binomial(counts(x, n, p), s) for s in ("two", "upper")),
    ):
        assert found.p_exact is not None
        assert found.p_mid is not None
        assert found.power is not None
        for value in (found.p_value, found.p_exact, found.p_mid, found.power):
            assert 0.0 <= value[0] <= 1.0 + 1e-12


@settings(max_examples=40)
@given(n=st.integers(2, 2_000), p=probabilities)
def test_more_breaches_above_the_target_are_less_likely(n: int, p: float):
    x = np.arange(n + 1)
    found = kupiec(counts(x, n, p))
    assert found.p_exact is not None
    above = x >= n * p
    assert (np.diff(found.p_exact[above]) <= 1e-12).all()
    assert (np.diff(found.statistic[above]) >= -1e-9).all()
    assert (np.diff(found.p_exact[~above]) >= -1e-12).all()


@given(n=st.integers(2, 3_000), p=probabilities, share=st.floats(0, 1))
def test_two_sided_binomial_agrees_with_the_interval(n: int, p: float, share: float):
    given_counts = counts(round(share * n), n, p)
    found, interval = binomial(given_counts), clopper_pearson(given_counts)
    assert found.p_exact is not None
    gap = min(abs(p - interval.low[0]), abs(p - interval.high[0]))
    inside = interval.low[0] <= p <= interval.high[0]
    assert gap < 1e-9 or inside == (found.p_exact[0] >= 0.05)


@given(n=st.integers(1, 3_000), p=probabilities, share=st.floats(0, 1))
def test_tails_add_up(n: int, p: float, share: float):
    k, size, target = np.array([round(share * n)]), np.array([n]), np.array([p])
    assert at_least(k, size, target) + at_most(k - 1, size, target) == pytest.approx([1.0])
    assert at_most(k, size, target) == pytest.approx(stats.binom.cdf(k, n, p), abs=1e-10)


@given(n=st.integers(1, 400), p=probabilities)
def test_the_exact_test_keeps_its_size(n: int, p: float):
    x = np.arange(n + 1)
    many, target = np.full(n + 1, n), np.full(n + 1, p)
    found = exact_likelihood_ratio_p(x, many, target)
    for alpha in (0.01, 0.05, 0.2):
        assert stats.binom.pmf(x, n, p)[found < alpha].sum() <= alpha + 1e-9


@settings(max_examples=40)
@given(st.permutations(range(6)))
def test_cells_do_not_know_each_other(order: list[int]):
    x, n = np.array([0, 1, 5, 12, 250, 3]), np.array([250, 250, 300, 1_000, 250, 40])
    plain, mixed = kupiec(counts(x, n)), kupiec(counts(x[order], n[order]))
    for name in ("statistic", "p_exact", "power", "verdict"):
        assert (getattr(plain, name)[order] == getattr(mixed, name)).all()
