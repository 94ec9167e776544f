"""Many accounts: scipy's adjustment, what an adjustment must keep, the list of survivors."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from backtest.statistics.coverage import kupiec
from backtest.statistics.findings import BacktestKind
from backtest.statistics.multiple import adjust, over_accounts, worst_accounts
from backtest.statistics.records import Counts


METHODS = ("holm", "benjamini-hochberg", "benjamini-yekutieli")
p_values = arrays(float, st.integers(1, 30), elements=st.floats(0, 1))


@given(p_values)
def test_false_discovery_control_is_scipys(p: np.ndarray):
    assert adjust(p, "benjamini-hochberg") == pytest.approx(stats.false_discovery_control(p))
    expected = stats.false_discovery_control(p, method="by")
    assert adjust(p, "benjamini-yekutieli") == pytest.approx(expected)


@given(p_values)
def test_holm_is_its_definition(p: np.ndarray):
    found, running = adjust(p, "holm"), 0.0
    for rank, at in enumerate(np.argsort(p, kind="stable")):
        running = max(running, (p.size - rank) * p[at])
        assert found[at] == pytest.approx(min(running, 1.0))


@given(p_values, st.randoms(use_true_random=False))
def test_adjusting_raises_keeps_the_order_and_knows_no_account(p: np.ndarray, random):
    order = list(range(p.size))
    random.shuffle(order)
    for method in METHODS:
        found = adjust(p, method)
        assert (found >= p - 1e-12).all()
        assert (np.diff(found[np.argsort(p)]) >= -1e-12).all()
        assert adjust(p[order], method) == pytest.approx(found[order])


@pytest.mark.parametrize("method", METHODS)
def test_what_was_not_tested_is_no_hypothesis(method):
    p = np.array([[0.01, np.nan, 0.04, np.nan], [np.nan] * 4])
    found = adjust(p, method)
    assert found[0, [0, 2]] == pytest.approx(adjust(np.array([0.01, 0.04]), method))
    assert np.isnan(found[1]).all()


def test_worst_accounts_are_those_that_survive():
    accounts = [f"account {i}" for i in range(1_000)]
    x = np.random.default_rng(0).binomial(1_000, 0.01, (2, 1_000))
    x[1, [3, 400]] = 60, 45
    counts = Counts.of(BacktestKind.MARGIN_ADEQUACY, 0.01, x, 1_000)
    finding = kupiec(counts)
    assert finding.rejected.sum() > 50
    family = over_accounts(finding)
    table = worst_accounts(family, ["now", "proposal"], accounts)
    assert table["account"].tolist() == ["account 3", "account 400"]
    assert set(table["set"]) == {"proposal"}
    assert set(table["backtest"]) == {"margin adequacy"}
    assert (table["p_adjusted"].to_numpy() < 0.05).all()
