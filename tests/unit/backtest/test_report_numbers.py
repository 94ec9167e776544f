import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backtest.report import frames, quality, tables, text
from backtest.report.account_stats import BREAK_EVEN_POINTS, LEVEL_GRID, THETA_GRID, account_stats
from backtest.report.bootstrap import BlockPlan, estimate, plan_blocks, resampled_sums
from backtest.report.decision import decision_table
from backtest.report.figures_time import shortest_half
from backtest.report.frequency import by_time, effective_accounts, rate_differences, rates
from backtest.report.reader import Results
from backtest.report.triggers import trigger_stats
from backtest.report.verdict import caveats, verdict
from tests.unit.backtest.fake_results import Spec, write_results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(write_results(tmp_path_factory.mktemp("run"), Spec(accounts=600, times=80)))


def scored_accounts(results: Results, name: str) -> pd.DataFrame:
    frame = results.accounts(None, name)
    return frames.rows(frame, frame["scored"] > 0)


def test_stream_equals_one_look_at_all_accounts(results: Results):
    frame = scored_accounts(results, "today")
    hit = frames.rows(frame, frame["episodes"] > 0)
    debt, debt_of_hit = (frames.numbers(f, "bad_debt_usd") for f in (frame, hit))
    stats = account_stats(results, "today")
    assert (stats.scored, stats.liquidated) == (len(frame), len(hit))
    assert stats.episodes == frames.count(frame, "episodes")
    assert stats.liquidated_solvent == (debt_of_hit == 0).sum()
    assert stats.bad_debt_usd == pytest.approx(debt.sum(), rel=1e-12)
    assert stats.bad_debt_largest_usd == debt.max()
    assert stats.losses["bad_debt_usd"].tolist() == sorted(debt[debt > 0], reverse=True)[:50]
    assert stats.charges["worst_mr4"] == pytest.approx(frames.total(hit, "worst_mr4"), rel=1e-12)
    assert stats.first_times.sum() == len(hit)
    level = frames.numbers(frame, "worst_margin_level")
    assert stats.without_level == np.isnan(level).sum()
    for at in (0, 77, len(LEVEL_GRID) - 1):
        assert stats.level_counts[at] == (level <= LEVEL_GRID[at]).sum()


def test_break_even_curves_are_empirical_distributions(results: Results):
    frame = scored_accounts(results, "proposal")
    stats = account_stats(results, "proposal")
    assert set(BREAK_EVEN_POINTS) <= set(THETA_GRID.tolist())
    for charge in (c.name for c in results.charges("proposal")):
        theta = frames.numbers(frame, f"theta_{charge}")
        for multiplier in BREAK_EVEN_POINTS:
            assert stats.liquidated_at(charge, multiplier) == (theta <= multiplier).sum()
        assert stats.liquidated_at(charge, 1.0) == stats.liquidated
        assert np.all(np.diff(stats.theta_counts[charge]) >= 0)


def test_segments_add_up(results: Results):
    for name in results.set_names:
        stats = account_stats(results, name)
        assert frames.total(stats.segments, "scored") == stats.scored
        assert frames.total(stats.segments, "liquidated") == stats.liquidated
        assert frames.total(stats.segments, "episodes") == stats.episodes


def test_frequencies_equal_counts(results: Results):
    row = frames.records(tables.summary_table(results))[0]
    stats, frame = account_stats(results, "today"), by_time(results, "today")
    assert row["parameter_set"] == "today"
    assert row["role"] == "champion"
    assert row["per_account_frac"] == stats.liquidated / stats.scored
    days = frames.count(frame, "scored") * 3600 / 86_400
    assert row["per_account_day"] == pytest.approx(stats.episodes / days, rel=1e-12)
    gross = frames.total(frame, "gross_notional_usd")
    want = frames.total(frame, "liquidated_notional_usd") / (gross / len(frame))
    assert row["per_notional_frac"] == pytest.approx(want, rel=1e-12)
    for name in ("per_account_frac", "per_account_day", "per_notional_frac"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert row["average_mmr_frac"] == pytest.approx(frames.total(frame, "total_mmr") / gross)


def test_difference_counts_flips_only(results: Results):
    difference = rate_differences(results, "today", "proposal")
    a, b = account_stats(results, "today"), account_stats(results, "proposal")
    assert difference.per_account.value == pytest.approx((b.liquidated - a.liquidated) / a.scored)
    assert difference.per_account.low is not None
    assert difference.per_account.low <= difference.per_account.value


def test_effective_accounts_far_below_accounts(results: Results):
    effective = effective_accounts(results, "today")
    assert effective is not None
    assert 1 < effective < account_stats(results, "today").scored / 5


def test_trigger_statistics(results: Results):
    liquidations = results.events(None, "today", "liquidation")
    first = frames.ordered(liquidations, "time").drop_duplicates("account_id")
    equity = frames.numbers(first, "equity_usd")
    bankrupt = results.events(["account_id"], "today", "bankrupt")
    stats = trigger_stats(results, "today")
    assert stats.accounts == len(first) == account_stats(results, "today").liquidated
    assert stats.shortfall_usd == pytest.approx(-equity[equity < 0].sum())
    assert frames.count(stats.binding, "events") == len(liquidations)
    assert stats.bankrupt == len(set(bankrupt["account_id"].tolist()))
    assert 0 <= stats.no_lead <= stats.bankrupt


def test_debts_show_where_they_moved_something(results: Results, tmp_path: Path):
    table = frames.records(tables.summary_table(results))
    assert table[0]["interest_usd"] == 0
    assert table[1]["interest_usd"] == 0.25 * table[1]["accounts_scored"]
    assert table[1]["converted_usd"] == 1_000 * table[1]["converted_accounts"]
    assert "Debts over time" in decision_table(tables.summary_table(results)).groups
    spec = Spec(sets=("today",), scales=({},), accounts=200)
    calm = Results(write_results(tmp_path, spec))
    assert "Debts over time" not in decision_table(tables.summary_table(calm)).groups


def test_all_checks_hold(results: Results):
    found = quality.checks(results)
    assert len(found) == 1 + 3 * 2 + 1
    assert all(c.holds for c in found)


def test_broken_identity_is_found_and_told(tmp_path: Path):
    rows = {"in": 10, "scored": 5, "unpriced": 1, "quarantined": 1}
    spec = Spec(accounts=30, times=12, extra_manifest={"rows": rows, "cells": {"failed": 3}})
    results = Results(write_results(tmp_path, spec))
    assert quality.checks(results)[0].holds is False
    notes = " ".join(caveats(results))
    assert "3 cells of the run failed" in notes
    assert "A check of the saved numbers fails. Rows in" in notes


def test_verdict_in_words(results: Results):
    found = verdict(results, "today", "proposal")
    a, b = account_stats(results, "today"), account_stats(results, "proposal")
    assert found.label == "looser"
    assert f"liquidates {a.liquidated - b.liquidated} fewer accounts than “today”" in found.sentence
    assert "less margin" in found.sentence
    back = verdict(results, "proposal", "today")
    assert back.label == "stricter"
    assert "more accounts" in back.sentence


def test_quarantine_counts_of_the_manifest_win(tmp_path: Path):
    counts = {"negative price": 7, "duplicate key": 4000}
    spec = Spec(accounts=10, times=2, extra_manifest={"quarantined_counts": counts})
    table = quality.quarantine_table(Results(write_results(tmp_path, spec)))
    assert table["rows"].tolist() == [4000, 7]


def test_bootstrap_keeps_totals_of_a_constant_series():
    plan = BlockPlan(times=50, block=7, resamples=200)
    sums = resampled_sums(np.ones((50, 2)), plan)
    np.testing.assert_allclose(sums, 50.0)


def test_bootstrap_is_seeded_and_pairs_columns():
    series = np.random.default_rng(0).normal(size=(60, 1))
    plan = BlockPlan(times=60, block=5)
    both = resampled_sums(np.hstack([series, 2 * series]), plan)
    np.testing.assert_allclose(both[:, 1], 2 * both[:, 0], atol=1e-9)
    np.testing.assert_array_equal(both, resampled_sums(np.hstack([series, 2 * series]), plan))


def test_blocks_widen_the_interval_of_a_clustered_series():
    series = np.zeros((400, 1))
    series[200:220] = 1.0
    spread = {
        block: resampled_sums(series, BlockPlan(400, block, resamples=4000)).std()
        for block in (1, 20)
    }
    assert spread[1] == pytest.approx(math.sqrt(400 * 0.05 * 0.95), rel=0.05)
    assert spread[20] > 3 * spread[1]


def test_block_rule():
    assert plan_blocks(200, 3600.0).block == 20
    assert plan_blocks(6000, 300.0).block == 288
    assert plan_blocks(3, 3600.0).block == 1


def test_no_interval_where_nothing_varies():
    assert estimate(0.0, np.zeros(100)).low is None
    assert estimate(float("nan"), None).low is None


def test_short_window_has_no_interval(tmp_path: Path):
    results = Results(write_results(tmp_path, Spec(accounts=60, times=5)))
    assert rates(results, "today").per_account.low is None
    assert any("too short a window" in note for note in caveats(results))


def test_shortest_half():
    assert shortest_half(np.array([1, 0, 5, 4, 1, 1])) == (2, 2)
    assert shortest_half(np.array([0, 0, 3])) == (2, 1)


@pytest.mark.parametrize(
    ("shown", "want"),
    [
        (text.number(1234567), "1,234,567"),
        (text.number(-0.4), "0"),
        (text.number(None), text.NONE),
        (text.percent(0.1234), "12.3\u00a0%"),
        (text.percent(0.00012), "0.012\u00a0%"),
        (text.percent(0), "0\u00a0%"),
        (text.percent(float("nan")), text.NONE),
        (text.points(-0.0281), "\u22122.8\u00a0pp"),
        (text.usd(999_950), "USD\u00a01.00\u00a0m"),
        (text.usd(-2.5e9), "USD\u00a0\u22122.50\u00a0bn"),
        (text.usd(0), "USD\u00a00"),
        (text.p_value(1e-12), "< 0.0001"),
        (text.duration(90_061), "1\u00a0d 1\u00a0h"),
        (text.time("2024-08-05T06:00:00Z"), "2024-08-05 06:00\u00a0UTC"),
        (text.time(pd.NaT), text.NONE),
        (text.shorten("abcdefghij", 5), "ab…ij"),
        (text.listing(["a", "b", "c"], 2), "a, b and 1 more"),
    ],
)
def test_numbers_for_people(shown: str, want: str):
    assert shown == want
