"""Order and timing of breaches: scipy, full enumeration, data gaps, extremes, properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from backtest.statistics.dynamic_quantile import dynamic_quantile
from backtest.statistics.findings import BacktestKind, Finding, Verdict
from backtest.statistics.independence import (
    conditional_coverage,
    independence,
    independence_ratio,
    transitions,
)
from backtest.statistics.patterns import patterns
from backtest.statistics.power import markov_breaches
from backtest.statistics.records import Outcomes, Sequences
from backtest.statistics.timing import between_failures, first_failure, weibull_duration


KIND = BacktestKind.MARGIN_ADEQUACY


def all_sequences(n: int) -> np.ndarray:
    return np.array(list(itertools.product([False, True], repeat=n)))


def findings(sequences: Sequences) -> list[Finding]:
    table = transitions(sequences)
    return [
        independence(table),
        independence(table, exact=True),
        conditional_coverage(table),
        conditional_coverage(table, exact=True),
        first_failure(sequences),
        between_failures(sequences),
        between_failures(sequences, mixed=True),
        weibull_duration(sequences).finding,
    ]


def test_independence_is_the_g_test_of_the_table():
    cells = np.array([[932, 53], [53, 4]])
    expected, *_ = stats.chi2_contingency(cells, correction=False, lambda_="log-likelihood")
    found = independence_ratio(*(np.array([n]) for n in cells.ravel()))
    assert found[0] == pytest.approx(expected, rel=1e-9)


def test_independence_does_not_mind_a_transposed_table():
    one = independence_ratio(*(np.array([n]) for n in (240, 4, 5, 0)))
    other = independence_ratio(*(np.array([n]) for n in (240, 5, 4, 0)))
    assert one == pytest.approx(other)


@pytest.mark.parametrize(("n", "p"), [(2, 0.1), (5, 0.3), (9, 0.5), (14, 0.1)])
def test_exact_p_values_are_those_of_all_sequences(n: int, p: float):
    hits = all_sequences(n)
    weight = p ** hits.sum(axis=1) * (1 - p) ** (n - hits.sum(axis=1))
    table = transitions(Sequences.of(KIND, p, hits))
    for test in (independence, conditional_coverage):
        found = test(table, exact=True)
        assert found.p_exact is not None
        value, mass = np.unique(np.round(found.statistic[0], 9), return_inverse=True)
        tail = np.cumsum(np.bincount(mass, weights=weight, minlength=value.size)[::-1])[::-1]
        assert found.p_exact[0] == pytest.approx(tail[mass], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_patterns_count_every_sequence_once(n: int):
    found = patterns(n, 0.2)
    assert np.exp(found.log_count).sum() == pytest.approx(2.0**n)
    assert found.weight(0.2).sum() == pytest.approx(1.0)
    assert found.markov_weight(0.1, 0.6).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("p", [0.01, 0.05])
def test_patterns_of_a_long_history_keep_all_of_the_weight(p: float):
    assert patterns(5_000, p).weight(p).sum() == pytest.approx(1.0, abs=1e-10)


def test_transitions_are_those_of_a_loop():
    rng = np.random.default_rng(3)
    hit, observed = rng.random((2, 3, 40)) < 0.3, rng.random((2, 3, 40)) < 0.8
    table = transitions(Sequences(KIND, 0.1, hit, observed))
    for at in itertools.product(range(2), range(3)):
        path = hit[at][observed[at]].astype(int)
        pairs = list(itertools.pairwise(path))
        for name, pair in (("n00", (0, 0)), ("n01", (0, 1)), ("n10", (1, 0)), ("n11", (1, 1))):
            assert getattr(table, name)[at] == pairs.count(pair)


def test_a_gap_in_the_data_closes():
    hit = np.array([0, 1, 0, 1, 1, 0, 0, 1, 0, 0], dtype=bool)
    full = Sequences.of(KIND, 0.1, hit)
    wide = np.insert(hit, [2, 2, 5], [True, True, True])
    observed = np.insert(np.ones(10, dtype=bool), [2, 2, 5], [False] * 3)
    gaps = Sequences(KIND, 0.1, wide[None, None], observed[None, None])
    for one, other in zip(findings(full), findings(gaps), strict=True):
        assert one.statistic == pytest.approx(other.statistic, nan_ok=True)


def test_extremes_are_finite_or_say_why():
    hit = np.zeros((6, 40_000), dtype=bool)
    hit[1] = True
    hit[2, 100] = True
    hit[3, ::2] = True
    hit[4, 39_999] = True
    sequences = Sequences.of(KIND, 0.01, hit)
    for found in findings(sequences):
        assert not np.isinf(found.statistic).any()
        unexplained = np.isnan(found.p_value) & ~found.insufficient
        assert not unexplained.any(), found.test
    nothing = Sequences(KIND, 0.01, hit[None, :2], np.zeros((1, 2, 40_000), dtype=bool))
    for found in findings(nothing):
        assert np.isnan(found.statistic).all()
        assert (found.verdict == Verdict.NO_OBSERVATIONS).all(), found.test


def test_no_breach_counts_against_the_model_once_it_is_late():
    hit = np.zeros((2, 2_000), dtype=bool)
    late = first_failure(Sequences.of(KIND, 0.01, hit))
    assert (late.verdict == Verdict.TOO_FEW).all()
    soon = first_failure(Sequences.of(KIND, 0.01, hit[:, :100]))
    assert (soon.verdict == Verdict.NO_BREACH).all()
    assert np.isnan(soon.statistic).all()


def test_first_failure_exact_p_value_is_the_sum_over_all_waits():
    p = 0.05
    n = np.arange(1, 2_000)
    hit = n[:300, None] == n[None, :400]
    found = first_failure(Sequences.of(KIND, p, hit))
    assert found.p_exact is not None
    weight = p * (1 - p) ** (n - 1.0)
    ratio = -2 * (np.log(p) + (n - 1) * np.log(1 - p) + np.log(n))
    ratio[1:] += 2 * (n[1:] - 1) * np.log1p(-1 / n[1:])
    for i in (0, 4, 18, 19, 60, 150):
        expected = weight[ratio >= ratio[i] - 1e-9].sum()
        assert found.p_exact[0, i] == pytest.approx(expected, rel=1e-8)


def test_clusters_are_named():
    rng = np.random.default_rng(1)
    hit = markov_breaches(50, 2_000, 0.05, rng, after_breach=0.5)
    sequences = Sequences.of(KIND, 0.05, hit)
    assert (independence(transitions(sequences)).verdict == Verdict.CLUSTERED).all()
    assert (weibull_duration(sequences).shape < 1.0).all()


def simulated(rows: int, times: int, scale: float = 1.0) -> Outcomes:
    rng = np.random.default_rng(0)
    sigma = np.exp(0.3 * rng.standard_normal((1, rows, times))) * 1e6
    loss = scale * sigma * rng.standard_normal((1, rows, times))
    return Outcomes(KIND, 0.05, np.arange(times), loss, 1.6448536269514722 * sigma)


def test_dynamic_quantile_has_its_size_and_notices_a_bad_quantile():
    right = dynamic_quantile(simulated(1_000, 1_000))
    assert (right.degrees == 7).all()
    assert 0.02 < right.rejected.mean() < 0.12
    assert dynamic_quantile(simulated(100, 1_000, 1.3)).rejected.mean() > 0.9


def test_dynamic_quantile_is_the_formula():
    outcomes = simulated(3, 300)
    found = dynamic_quantile(outcomes)
    for row in range(3):
        loss, margin = outcomes.loss_usd[0, row] / 1e6, outcomes.margin_usd[0, row] / 1e6
        hit = (loss > margin) - 0.05
        x = np.column_stack(
            [
                np.ones(296),
                -margin[4:],
                *(hit[4 - k : 300 - k] for k in range(1, 5)),
                loss[3:-1] ** 2,
            ]
        )
        score = x.T @ hit[4:]
        expected = score @ np.linalg.pinv(x.T @ x) @ score / (0.05 * 0.95)
        assert found.statistic[0, row] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("times", [1, 3, 4, 5])
def test_dynamic_quantile_of_hardly_any_times_says_so(times: int):
    found = dynamic_quantile(Outcomes(KIND, 0.05, np.arange(times), *np.ones((2, 1, 2, times))))
    assert (found.verdict == Verdict.FEW_TIMES).all()


def test_dynamic_quantile_without_breaches_or_data_says_so():
    outcomes = simulated(3, 100)
    loss = outcomes.loss_usd.copy()
    loss[0, 0], loss[0, 1], loss[0, 2, 5:] = -1.0, np.nan, np.nan
    found = dynamic_quantile(Outcomes(KIND, 0.05, outcomes.times, loss, outcomes.margin_usd))
    expected = [Verdict.NO_BREACH, Verdict.NO_OBSERVATIONS, Verdict.FEW_TIMES]
    assert found.verdict[0].tolist() == expected


@settings(max_examples=40)
@given(
    hits=st.lists(st.booleans(), min_size=1, max_size=60),
    p=st.floats(0.005, 0.5),
)
def test_p_values_are_probabilities_or_explained(hits: list[bool], p: float):
    for found in findings(Sequences.of(KIND, p, hits)):
        for value in (found.p_value, found.p_decisive):
            known = value[~np.isnan(value)]
            assert ((known >= 0.0) & (known <= 1.0)).all()
        assert (found.insufficient | ~np.isnan(found.p_decisive)).all()


@given(hits=st.lists(st.booleans(), min_size=2, max_size=60), p=st.floats(0.005, 0.5))
def test_independence_reads_the_same_backwards(hits: list[bool], p: float):
    forward, backward = (transitions(Sequences.of(KIND, p, order)) for order in (hits, hits[::-1]))
    for test in (independence, conditional_coverage):
        assert test(forward).statistic == pytest.approx(test(backward).statistic, nan_ok=True)


@settings(max_examples=20)
@given(seed=st.integers(0, 1_000))
def test_accounts_do_not_know_each_other(seed: int):
    rng = np.random.default_rng(seed)
    hit = rng.random((1, 7, 50)) < 0.15
    order = rng.permutation(7)
    one = findings(Sequences.of(KIND, 0.1, hit))
    other = findings(Sequences.of(KIND, 0.1, hit[:, order]))
    for a, b in zip(one, other, strict=True):
        assert a.statistic[:, order] == pytest.approx(b.statistic, nan_ok=True)
        assert (a.verdict[:, order] == b.verdict).all()
