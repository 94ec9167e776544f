"""Power: against sums, enumerations and simulations; the table and its verdicts."""

import itertools

import numpy as np
import pytest
from scipy import stats

from backtest.errors import ConfigError
from backtest.statistics.coverage import kupiec
from backtest.statistics.findings import BacktestKind, Rule
from backtest.statistics.independence import conditional_coverage, independence, transitions
from backtest.statistics.power import (
    COUNT_TESTS,
    detectable,
    markov_breaches,
    order_power,
    power_table,
    rejection,
    simulated_power,
)
from backtest.statistics.records import Counts, Sequences
from backtest.statistics.timing import between_failures, weibull_duration


KIND = BacktestKind.CORE_MODEL


@pytest.mark.parametrize(("n", "p"), [(50, 0.1), (250, 0.01), (1_000, 0.05)])
def test_power_of_the_exact_test_is_the_sum_over_its_region(n: int, p: float):
    x = np.arange(n + 1)
    finding = kupiec(Counts.of(KIND, p, x, n))
    assert finding.p_exact is not None
    assert finding.power is not None
    rejected = finding.p_exact < 0.05
    region = rejection("POF", np.array([n]), np.array([p]))
    for true in (p, 2 * p, p / 3):
        expected = stats.binom.pmf(x, n, true)[rejected].sum()
        assert region.power(np.array([true]))[0] == pytest.approx(expected, abs=1e-12)
    assert finding.power[0] == pytest.approx(stats.binom.pmf(x, n, 2 * p)[rejected].sum())


def test_detectable_rates_have_the_power_asked_for():
    n, p = np.array([250, 1_000, 40_000]), np.array([0.01, 0.01, 0.01])
    region = rejection("POF", n, p)
    below, above = detectable(region, p, 0.8)
    assert region.power(above) == pytest.approx(0.8, abs=1e-4)  # the other tail adds a little
    assert np.isnan(below[0])  # no number of breaches is too small among 250
    assert region.power(np.nan_to_num(below))[1:] == pytest.approx(0.8, abs=1e-4)
    assert (np.diff(above) < 0).all()


def test_no_number_of_breaches_may_be_rejected():
    region = rejection("binomial, upper tail", np.array([1]), np.array([0.5]))
    assert region.high[0] > 1
    assert np.isnan(detectable(region, np.array([0.5]))[1][0])


def test_power_table_says_where_a_pass_means_nothing():
    table = power_table([250, 10_000], [0.01])
    assert len(table) == 2 * len(COUNT_TESTS)
    short = table["observations"].to_numpy() == 250
    words = table["verdict"].to_numpy(dtype=str)
    assert np.char.startswith(words[short], "insufficient data").all()
    assert (words[~short] == "a pass means something").all()
    power, size = table["power"].to_numpy(), table["size"].to_numpy()
    assert ((power >= 0) & (power <= 1)).all()
    assert (size[table["test"].to_numpy() == "POF"] <= 0.05).all()


@pytest.mark.parametrize("test", ["independence", "conditional coverage"])
def test_power_against_a_chain_is_that_of_all_sequences(test):
    n, p, after_breach = 10, 0.2, 0.5
    after_calm = p * (1 - after_breach) / (1 - p)
    hits = np.array(list(itertools.product([False, True], repeat=n)))
    chance = np.where(hits[:, 0], p, 1 - p)
    for t in range(1, n):
        q = np.where(hits[:, t - 1], after_breach, after_calm)
        chance = chance * np.where(hits[:, t], q, 1 - q)
    run = {"independence": independence, "conditional coverage": conditional_coverage}[test]
    found = run(transitions(Sequences.of(KIND, p, hits)))
    expected = chance[found.p_value[0] < 0.05].sum()
    assert order_power(test, n, p, after_breach) == pytest.approx(expected, abs=1e-12)


def test_exact_critical_values_keep_the_size():
    for test in ("independence", "conditional coverage"):
        assert order_power(test, 500, 0.02, 0.02, exact=True) <= 0.05 + 1e-12


def test_simulated_power_agrees_with_the_exact_one():
    found = simulated_power(
        lambda s: independence(transitions(s)), 500, 0.05, 0.05, after_breach=0.2
    )
    expected = order_power("independence", 500, 0.05, 0.2)
    assert found == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 2_000))


def test_timing_tests_notice_clusters():
    for test in (lambda s: weibull_duration(s).finding, between_failures):
        assert simulated_power(test, 1_000, 0.05, 0.05, after_breach=0.5, repetitions=300) > 0.9


def test_a_chain_has_the_rates_asked_for():
    hit = markov_breaches(2_000, 500, 0.05, np.random.default_rng(0), after_breach=0.4)
    assert hit.mean() == pytest.approx(0.05, abs=0.002)
    assert hit[:, 1:][hit[:, :-1]].mean() == pytest.approx(0.4, abs=0.01)
    with pytest.raises(ConfigError, match="no chain"):
        markov_breaches(1, 5, 0.9, np.random.default_rng(0), after_breach=0.0)


def test_a_rule_is_checked():
    with pytest.raises(ConfigError, match="alpha"):
        Rule(alpha=0.0)
    with pytest.raises(ConfigError, match="above 1"):
        Rule(alternative_ratio=1.0)
