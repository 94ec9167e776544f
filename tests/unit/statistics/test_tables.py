"""Breach tables: by hand, by group and regime, in parts, never mixed."""

import numpy as np
import pandas as pd
import pytest

from backtest.errors import ConfigError, DataError
from backtest.statistics.blocks import Plan
from backtest.statistics.findings import BacktestKind
from backtest.statistics.records import Outcomes
from backtest.statistics.tables import (
    Labels,
    breach_table,
    interval_table,
    merge_tables,
    with_tests,
)


KIND = BacktestKind.MARGIN_ADEQUACY
TIMES = np.datetime64("2025-10-10T00:00:00", "us") + np.arange(4) * np.timedelta64(1, "h")


def small(kind: BacktestKind = KIND) -> Outcomes:
    loss = np.array([[[5.0, 1.0, 9.0, np.nan], [1.0, 1.0, 1.0, 1.0], [2.0, 3.0, 2.0, 0.0]]])
    return Outcomes(kind, 0.01, TIMES, loss, np.full((1, 3, 4), 2.0))


def labels() -> Labels:
    accounts = pd.DataFrame({"account": ["a", "b", "c"], "segment": ["maker", "maker", "retail"]})
    return Labels(("base",), accounts, np.array(["calm", "calm", "crash", "crash"]))


def test_one_row_for_everybody():
    row = breach_table(small(), labels()).iloc[0]
    assert row["backtest"] == "margin adequacy"
    assert (row["observations"], row["breaches"]) == (11, 3)
    assert row["coverage_frac"] == pytest.approx(1 - 3 / 11)
    assert row["expected_breaches"] == pytest.approx(0.11)
    assert row["target_coverage_frac"] == pytest.approx(0.99)
    assert row["largest_shortfall_usd"] == 7.0
    assert row["total_shortfall_usd"] == 3.0 + 7.0 + 1.0
    assert row["average_shortfall_usd"] == pytest.approx(11.0 / 3)
    dates = [str(row[name]) for name in ("first_breach_utc", "last_breach_utc")]
    assert dates == ["2025-10-10 00:00:00", "2025-10-10 02:00:00"]


def test_a_loss_of_exactly_the_margin_is_no_breach():
    table = breach_table(small(), labels(), ["account"])
    assert table.set_index("account")["breaches"].to_dict() == {"a": 2, "b": 0, "c": 1}


def test_groups_without_a_breach_have_no_dates_and_no_average():
    row = breach_table(small(), labels(), ["account"]).to_dict("records")[1]
    assert row["account"] == "b"
    assert str(row["first_breach_utc"]) == "NaT"
    assert np.isnan(row["average_shortfall_usd"])
    assert (row["coverage_frac"], row["largest_shortfall_usd"]) == (1.0, 0.0)


def test_by_segment_and_regime_adds_up():
    table = breach_table(small(), labels(), ["segment", "regime"])
    found = table[["segment", "regime", "observations", "breaches"]].to_numpy().tolist()
    assert found == [
        ["maker", "calm", 4, 1],
        ["maker", "crash", 3, 1],
        ["retail", "calm", 2, 1],
        ["retail", "crash", 2, 0],
    ]
    total = breach_table(small(), labels())["breaches"].tolist()
    assert sum(table["breaches"].tolist()) == total[0]


def test_parts_of_the_history_merge_to_the_whole():
    whole, parts = small(), []
    for part in (slice(0, 2), slice(2, 4)):
        piece = Outcomes(
            KIND, 0.01, TIMES[part], whole.loss_usd[..., part], whole.margin_usd[..., part]
        )
        parts.append(breach_table(piece, labels_without_regimes(), ["segment"]))
    expected = breach_table(whole, labels_without_regimes(), ["segment"])
    pd.testing.assert_frame_equal(merge_tables(parts), expected)


def labels_without_regimes() -> Labels:
    return Labels(("base",), labels().accounts)


def test_tables_of_different_backtests_do_not_merge():
    other = breach_table(small(BacktestKind.CORE_MODEL), labels())
    with pytest.raises(ConfigError, match="one kind of backtest"):
        merge_tables([breach_table(small(), labels()), other])
    with pytest.raises(ConfigError, match="different groupings"):
        merge_tables(
            [breach_table(small(), labels()), breach_table(small(), labels(), ["segment"])]
        )


def test_tests_belong_to_single_accounts():
    table = with_tests(breach_table(small(), labels(), ["account"]))
    assert all(table["verdict"].tolist())
    assert all(0.0 <= p <= 1.0 for p in table["pof_p_exact"].tolist())
    assert set(table["zone"].tolist()) <= {"green", "yellow", "red"}
    with pytest.raises(ConfigError, match="pool accounts"):
        with_tests(breach_table(small(), labels(), ["segment"]))


def test_intervals_stand_beside_their_rows():
    rng = np.random.default_rng(0)
    times = TIMES[0] + np.arange(400) * np.timedelta64(1, "h")
    loss = rng.standard_normal((2, 6, 400))
    loss[:, 4:] = np.nan
    outcomes = Outcomes(KIND, 0.05, times, loss, np.full(loss.shape, 1.645))
    accounts = pd.DataFrame({"segment": ["x", "x", "y", "y", "z", "z"]})
    table = interval_table(
        outcomes, Labels(("now", "new"), accounts), ["segment"], Plan(resamples=200)
    )
    assert table["segment"].tolist() == ["x", "y", "x", "y"]  # z was never observed
    columns = ["breaches", "observations", "breach_rate_low", "breach_rate_high"]
    breaches, observations, low, high = table[columns].to_numpy(dtype=float).T
    assert (low <= breaches / observations).all()
    assert (high >= breaches / observations).all()
    assert (table["effective_observations"].to_numpy() <= observations).all()


def test_bad_requests_are_refused():
    with pytest.raises(ConfigError, match="cannot split by 'unit'"):
        breach_table(small(), labels(), ["unit"])
    with pytest.raises(ConfigError, match="cannot split by 'regime'"):
        breach_table(small(), labels_without_regimes(), ["regime"])
    with pytest.raises(DataError, match="labels of 2 sets"):
        breach_table(small(), Labels(("a", "b"), labels().accounts))
    empty = Outcomes(KIND, 0.01, TIMES, np.full((1, 3, 4), np.nan), np.ones((1, 3, 4)))
    with pytest.raises(DataError, match="nothing to table"):
        breach_table(empty, labels())


def test_outcomes_know_their_shortfall():
    outcomes = small()
    assert outcomes.shortfall_usd[0, 0, :3].tolist() == [3.0, 0.0, 7.0]
    assert np.isnan(outcomes.shortfall_usd[0, 0, 3])
    assert outcomes.sequences().counts().observations.tolist() == [[3, 4, 4]]
