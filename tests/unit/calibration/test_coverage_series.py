"""Numbers behind the figures and the table of a backtest, against cases worked by hand."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.calibration.coverage_series import (
    benchmarks,
    cumulative_table,
    excess_table,
    path_table,
    shortfall_table,
)
from backtest.calibration.coverage_tests import (
    account_p_values,
    apart,
    group_tests,
    simes,
    with_zones_and_tests,
)
from backtest.statistics.findings import BacktestKind
from backtest.statistics.records import Outcomes
from backtest.statistics.tables import Labels


NAN = math.nan
START = np.datetime64("2025-03-01T00", "us")
HOUR = np.timedelta64(1, "h")
LOSS = [
    [5.0, 20.0, 60.0, -3.0],  # a: margin 10, so two breaches: 10 and 50 short
    [1.0, 2.0, 3.0, 4.0],  # b: the same risk unit, smaller
    [NAN, 0.0, 130.0, 9.0],  # c: another unit, observed less; 30 short of 100
]
MARGIN = [10.0, 10.0, 100.0]


def outcomes(probability: float = 0.1) -> Outcomes:
    times = START + np.arange(4) * HOUR
    margin = np.repeat(np.array(MARGIN)[:, None], 4, axis=1)
    kind = BacktestKind.MARGIN_ADEQUACY
    return Outcomes(kind, probability, times, np.array([LOSS]), margin[None])


def labels() -> Labels:
    rows = {"account": ["a", "b", "c"], "unit": ["BTC", "BTC", "ETH"]}
    return Labels(("s",), pd.DataFrame(rows | {"gross_notional_usd": [500.0, 90.0, 200.0]}))


def test_benchmarks_are_the_largest_of_each_unit_whatever_they_lose():
    assert benchmarks(outcomes(), labels()).tolist() == [0, 2]
    table: Any = path_table(outcomes(), labels())
    assert table["account"].tolist() == ["a"] * 4 + ["c"] * 3
    mine = table[table["account"] == "a"]
    assert mine["loss_usd"].tolist() == LOSS[0]
    assert mine["margin_usd"].tolist() == [10.0] * 4
    assert mine["is_breach"].tolist() == [False, True, True, False]
    assert table[table["account"] == "c"]["time"].iloc[0] == pd.Timestamp(START + HOUR)


def test_a_shorter_observed_account_is_no_benchmark_of_its_unit():
    both = labels()
    both.accounts["unit"] = "BTC"
    both.accounts["gross_notional_usd"] = [500.0, 90.0, 9_000.0]
    assert benchmarks(outcomes(), both).tolist() == [0]


def test_breaches_so_far_and_what_was_expected():
    table: Any = cumulative_table(outcomes(), labels(), np.array([5.5]))
    assert table["observations"].tolist() == [2, 5, 8, 11]
    assert table["breaches"].tolist() == [0, 1, 3, 3]
    assert table["expected"].tolist() == pytest.approx([0.2, 0.5, 0.8, 1.1])
    assert (table["green_to"] >= table["expected"]).all()
    assert (table["yellow_to"] > table["green_to"]).all()


def test_edges_are_those_of_the_binomial_where_observations_are_independent():
    """Basel: of 250 at 1 %, 4 are green and 9 yellow."""
    loss = np.full((1, 1, 250), -1.0)
    one = Outcomes(BacktestKind.CORE_MODEL, 0.01, START + np.arange(250) * HOUR, loss, 0.0 * loss)
    who = Labels(("s",), pd.DataFrame({"account": ["a"], "unit": ["BTC"]}))
    last = cumulative_table(one, who, np.array([250.0])).iloc[-1]
    assert 4.0 < last["green_to"] < 5.0
    assert 9.0 < last["yellow_to"] < 10.0
    # with a tenth of the witnesses a breach weighs ten times as much
    last = cumulative_table(one, who, np.array([25.0])).iloc[-1]
    assert 5.0 < last["green_to"] < 10.0
    assert last["yellow_to"] > 10.0


def test_excess_beside_an_exponential_of_the_same_mean():
    table: Any = excess_table(outcomes(), labels())
    assert table["excess"].tolist() == pytest.approx([0.3, 1.0, 5.0])
    mean = (0.3 + 1.0 + 5.0) / 3.0
    level = np.array([1.0, 3.0, 5.0]) / 6.0
    assert table["level"].tolist() == pytest.approx(level)
    assert table["exponential"].tolist() == pytest.approx(-np.log(1.0 - level) * mean)
    assert set(table["breaches"]) == {3}


def test_shortfalls_are_counted_by_size():
    table: Any = shortfall_table(outcomes(), labels())
    counted = table[table["breaches"] > 0]
    assert counted["breaches"].tolist() == [1, 1, 1]  # 10, 30 and 50 USD
    assert counted["from_usd"].tolist() == pytest.approx([10.0, 10**1.25, 10**1.5])
    assert (table["to_usd"] / table["from_usd"]).tolist() == pytest.approx([10**0.25] * len(table))
    assert table["breaches"].sum() == 3


def test_without_a_breach_the_tables_are_empty():
    calm = outcomes()
    calm.loss_usd[:] = 0.0
    for table in (excess_table(calm, labels()), shortfall_table(calm, labels())):
        assert not len(table)
        assert "breaches" in table


def test_losses_that_do_not_overlap():
    found = apart(outcomes(), 3)
    assert found.loss_usd[0, 0].tolist() == [5.0, -3.0]
    assert found.times.tolist() == (START + np.array([0, 3]) * HOUR).tolist()


def test_tests_of_accounts_are_put_together():
    assert simes(np.array([0.04, 0.9, 0.01, NAN])) == pytest.approx(0.03)  # 3 * 0.01 / 1
    assert simes(np.array([0.04, 0.05])) == pytest.approx(0.05)  # 2 * 0.05 / 2
    assert math.isnan(simes(np.array([NAN])))
    p = account_p_values(outcomes())
    assert p["pof"].shape == (1, 3)
    assert p["pof"][0, 0] < p["pof"][0, 1]
    tests: Any = group_tests(p, labels(), "unit").set_index("group")
    both = np.sort(p["pof"][0, :2])
    assert tests.loc["BTC", "pof_p"] == pytest.approx(min(2 * both[0], both[1]))
    assert tests.loc["ETH", "pof_p"] == p["pof"][0, 2]
    whole = group_tests(p, labels(), None)
    assert whole["group"].tolist() == ["all"]


def test_zones_count_with_effective_observations():
    """30 breaches in 1,000: red of independent ones, green of ten effective ones."""
    rows = {"set": "s", "group": ["x", "y", "z"], "target_coverage_frac": 0.99}
    table = pd.DataFrame(rows | {"observations": 1_000, "breaches": [30, 30, 5]})
    table["effective_observations"] = [1_000.0, 20.0, 1.0]
    tests = pd.DataFrame({"set": "s", "group": ["z", "x"], "pof_p": [0.5, 0.1]})
    found: Any = with_zones_and_tests(table, tests)
    assert found["zone"].tolist() == ["red", "yellow", "green"]
    assert found["pof_p"].tolist()[::2] == [0.1, 0.5]
    assert found["group"].tolist() == ["x", "y", "z"]
    table["effective_observations"] = 0.5
    assert set(with_zones_and_tests(table, tests)["zone"]) == {
        "insufficient data: less than one effective observation"
    }
    untested: Any = with_zones_and_tests(table, None)
    assert untested["dq_p"].isna().all()
