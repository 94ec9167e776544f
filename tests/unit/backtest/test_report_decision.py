"""The table of the first page, from numbers worked by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.report import frames, text
from backtest.report.decision import ELSEWHERE, decision_table
from backtest.report.frequency import by_time, largest_rise, rate_differences
from backtest.report.reader import Results
from backtest.report.tables import summary_table
from backtest.report.terminal import summary_rows
from backtest.report.verdict import caveats
from tests.unit.backtest.fake_liquidations import by_hand
from tests.unit.backtest.fake_results import Spec, write_results


START = pd.Timestamp("2024-08-01", tz="UTC")
PAID = ("fee_usd", "surplus_usd", "revenue_usd", "loss_usd", "adl_needed_usd")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("measured")
    return Results(write_results(folder, Spec(accounts=200, times=80)))


def row_of(results: Results, name: str) -> dict[str, Any]:
    found = frames.records(summary_table(results))
    return next(row for row in found if row["parameter_set"] == name)


def metrics(results: Results) -> dict[str, list[str]]:
    """Texts of the sets by metric."""
    return {row[0]: row[1:] for row in summary_rows(frames.records(summary_table(results)))}


def losing(folder: Path) -> Results:
    """Four days; 4 USD are lost on the second, 3 and 3 on the fourth; three parties pay."""
    hours, losses = (30, 73, 74), (4.0, 3.0, 3.0)
    times = [START + pd.Timedelta(hours=h) for h in hours]
    rows = [
        {"time": t, "account_id": "a", "notional_usd": 1.0, "bad_debt_usd": x}
        for t, x in zip(times, losses, strict=True)
    ]
    payers = ((4.0, 0.0, 0.0, 0), (1.0, 2.0, 0.0, 2), (0.0, 2.5, 0.5, 3))
    funds = [
        {
            "parameter_set": "today",
            "time": t,
            **dict.fromkeys(PAID, 0.0),
            **dict.fromkeys(("liquidated", "bankrupt"), 1),
            "from_fund_usd": fund,
            "from_adl_usd": adl,
            "unfunded_usd": unfunded,
            "deleveraged": winners,
            "fund_before_usd": 5.0,
            "fund_after_usd": 5.0 - fund,
        }
        for t, (fund, adl, unfunded, winners) in zip(times, payers, strict=True)
    ]
    return Results(
        by_hand(write_results(folder, Spec(accounts=20, times=80)), "today", rows, funds)
    )


def test_bad_debt_of_a_day_and_who_paid(tmp_path: Path):
    results = losing(tmp_path)
    row = row_of(results, "today")
    # Days of 0, 4, 0 and 6 USD: half of them have none.
    found = [row[f"bad_debt_day_q{q}_usd"] for q in (50, 95, 99)]
    assert found == [0.0, 6.0, 6.0]
    assert (row["fund_draw_usd"], row["adl_usd"], row["unfunded_usd"]) == (5.0, 4.5, 0.5)
    assert row["adl_account_times"] == 5
    shown = metrics(results)
    assert shown["Deleveraging"][0] == "USD\u00a04.50 (5 account-times)"
    assert shown["Paid by the fund"][0] == "USD\u00a05.00"
    assert shown["Bad debt of a day, 99 %"][0].startswith("USD\u00a06.00 (95\u00a0%: USD\u00a06.00")
    other = row_of(results, "proposal")
    assert (other["fund_draw_usd"], other["adl_usd"], other["adl_account_times"]) == (0.0, 0.0, 0)


def test_a_run_that_measures_has_no_payers(measured: Results):
    row = row_of(measured, "today")
    assert np.isnan([row["fund_draw_usd"], row["adl_usd"], row["bad_debt_day_q99_usd"]]).all()
    assert not {"Deleveraging", "Paid by the fund", "Unfunded"} & metrics(measured).keys()


def test_average_of_one_account(measured: Results):
    row = row_of(measured, "today")
    debt = frames.numbers(measured.accounts(["bad_debt_usd", "scored"], "today"), "bad_debt_usd")
    assert row["bad_debt_average_usd"] == pytest.approx(debt[debt > 0.0].mean())
    assert row["bad_debt_average_usd"] <= row["bad_debt_largest_usd"]


def test_differences_of_all_three_frequencies(measured: Results):
    row, champion = row_of(measured, "proposal"), row_of(measured, "today")
    found = rate_differences(measured, "today", "proposal")
    for key, rate, want in (
        ("difference_day", "per_account_day", found.per_account_day),
        ("difference_notional_frac", "per_notional_frac", found.per_notional),
    ):
        assert row[key] == pytest.approx(row[rate] - champion[rate])
        assert (row[f"{key}_low"], row[f"{key}_high"]) == (want.low, want.high)
        assert row[f"{key}_low"] <= row[key] <= row[f"{key}_high"]
        assert np.isnan(champion[key])
    assert {"Difference per account-day", "Difference per notional"} <= metrics(measured).keys()


def margins(results: Results, path: list[float], gross: float = 10.0) -> Results:
    """The results with another margin of all accounts at their times."""
    frame = by_time(results, "today").copy()
    frame["total_mmr"], frame["gross_notional_usd"] = path, gross
    results.memo["by_time", "today"] = frame
    return results


def test_largest_rise_over_exactly_five_days(tmp_path: Path):
    spec = Spec(accounts=10, times=8, interval_seconds=86_400)
    results = margins(
        Results(write_results(tmp_path, spec)), [100, 102, 101, 105, 120, 150, 180, 110]
    )
    # 102 to 180; 101 to 180 is steeper, but four days. Shares of 10 USD, so the ratio is the same.
    assert largest_rise(results, "today", 5) == pytest.approx(180 / 102 - 1)
    assert largest_rise(results, "today", 1) == pytest.approx(150 / 120 - 1)
    assert np.isnan(largest_rise(results, "today", 8))
    results = margins(results, [100, 0, 101, 105, 120, 150, 180, 110])
    assert largest_rise(results, "today", 5) == pytest.approx(0.5)


def test_a_short_window_has_no_five_days(measured: Results):
    assert np.isnan(row_of(measured, "today")["largest_5_day_step_frac"])
    none = f"{text.NONE} (window too short)"
    assert metrics(measured)["Margin rate, largest 5-day rise"] == [none, none]


def test_what_a_run_does_not_know_is_said(measured: Results):
    note = decision_table(summary_table(measured)).note
    assert note == ELSEWHERE
    assert "pmstress backtest" in note
    assert "pmstress calibrate" in note


def test_power_is_said(measured: Results):
    error = rate_differences(measured, "today", "proposal").per_account.std_error
    assert error
    (note,) = [n for n in caveats(measured) if n.startswith("Power")]
    assert f"{100 * 2.8 * error:.1f}\u00a0pp for “proposal”" in note
