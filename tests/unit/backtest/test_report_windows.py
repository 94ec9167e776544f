"""When accounts are liquidated, from rows worked by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.report import frames
from backtest.report.build import build_report
from backtest.report.event_windows import (
    event_windows,
    figure_window,
    furthest_move,
    liquidated_coins,
    price_path,
    window_table,
    worst_stretches,
)
from backtest.report.figures import shown
from backtest.report.frequency import times
from backtest.report.liquidation_calendar import (
    calendar,
    calendar_grid,
    calendar_section,
    class_bounds,
    figure_calendar,
)
from backtest.report.liquidations import usd_by_time
from backtest.report.reader import Results
from tests.unit.backtest.fake_liquidations import by_hand
from tests.unit.backtest.fake_results import Spec, write_results


START = pd.Timestamp("2024-08-01", tz="UTC")


def at(hours: float, account: str, usd: float, **more: Any) -> dict[str, Any]:
    """A row of ``liquidated`` some hours after the start."""
    time = START + pd.Timedelta(hours=hours)
    return {"time": time, "account_id": account, "notional_usd": usd, **more}


ROWS = [
    at(1, "a", 100.0, sold_coins=["ETH"], sold_delta_usd=[-40.0]),
    at(46, "a", 400.0, sold_coins=["BTC", "ETH"], sold_delta_usd=[-300.0, 200.0]),
    at(46, "b", 600.0, bad_debt_usd=7.0, sold_coins=["ETH"], sold_delta_usd=[-250.0]),
    at(76, "b", 30.0),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    spec = Spec(accounts=30, times=80)
    folder = write_results(tmp_path_factory.mktemp("windows"), spec)
    return Results(by_hand(folder, "today", ROWS))


def test_usd_at_every_time(results: Results):
    usd = usd_by_time(results, "today")
    assert len(usd) == 80
    assert {k: usd[k] for k in np.flatnonzero(usd)} == {1: 100.0, 46: 1_000.0, 76: 30.0}
    assert not usd_by_time(results, "proposal").any()


def test_what_is_measured_is_the_notional_of_episodes(tmp_path: Path):
    found = Results(write_results(tmp_path, Spec(accounts=60, times=60)))
    want = frames.numbers(
        frames.summed(found.summary("today"), "time", ["liquidated_notional_usd"]),
        "liquidated_notional_usd",
    )
    assert want.any()
    assert usd_by_time(found, "today") == pytest.approx(want)


def test_hours_by_date(results: Results):
    """80 hours are three days and the first eight hours of a fourth."""
    grid = calendar_grid(results, "today")
    assert grid.shape == (24, 4)
    assert grid[1, 0] == 100.0
    assert grid[22, 1] == 1_000.0
    assert grid[4, 3] == 30.0
    assert np.nansum(grid) == 1_130.0
    assert np.isnan(grid[8:, 3]).all()
    assert not np.isnan(grid[:8]).any()
    rows = calendar(results, "today")
    assert len(rows) == 80
    assert frames.total(rows, "liquidated_usd") == 1_130.0


def test_a_long_run_is_folded_into_weekdays(tmp_path: Path):
    folder = write_results(tmp_path, Spec(accounts=10, times=70, interval_seconds=86_400))
    # 1 August 2024 is a Thursday; so is a week later.
    found = Results(by_hand(folder, "today", [at(0, "a", 5.0), at(7 * 24, "a", 2.0)]))
    grid = calendar_grid(found, "today")
    assert grid.shape == (24, 7)
    assert grid[0].tolist() == [0.0, 0.0, 0.0, 7.0, 0.0, 0.0, 0.0]
    assert np.isnan(grid[1:]).all()
    labels = [t.get_text() for t in figure_calendar(found).axes[0].get_yticklabels()]
    assert labels == ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


@pytest.mark.parametrize(
    ("amounts", "bounds"),
    [
        ([4e3, 2e6], [3e3, 1e4, 3e4, 1e5, 3e5, 1e6]),
        ([3.0], [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]),
        ([2e3, 2e6], [1e1, 1e2, 1e3, 1e4, 1e5, 1e6]),
    ],
)
def test_classes_are_round(amounts: list[float], bounds: list[float]):
    assert class_bounds(np.asarray(amounts)) == pytest.approx(bounds)


@pytest.mark.parametrize(
    ("amounts", "want"),
    [
        ([0, 0, 9, 0, 0, 0, 0, 4, 0, 0], [(1, 4), (6, 9)]),
        ([0, 0, 0, 0], []),
        ([5.0, 0, 0], [(0, 3)]),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 4.9], [(8, 11)]),
        ([0, 1, 1, 0, 3, 3, 0, 0, 5, 5, 0, 2, 2], [(7, 10), (3, 6), (10, 13)]),
    ],
)
def test_worst_stretches(amounts: list[float], want: list[tuple[int, int]]):
    assert worst_stretches(np.asarray(amounts, float), 3) == want


def test_windows_of_the_run(results: Results):
    """A day around hour 46; hour 1 is a tenth of it, hour 76 too little for a window."""
    first, second = event_windows(results)
    assert (first.stop - first.first, first.usd) == (24, 1_000.0)
    assert first.first <= 46 < first.stop
    assert second.usd == 100.0
    assert second.stop <= first.first
    assert liquidated_coins(results, first) == {"ETH": 450.0, "BTC": 300.0}
    assert liquidated_coins(results, second) == {"ETH": 40.0}


def test_table_of_windows(results: Results):
    first = event_windows(results)[0]
    table = window_table(results)
    assert table["window"].tolist() == [1, 1, 2, 2]
    row: dict[str, Any] = dict(table.to_dict("records")[0])
    assert row["coin"] == "ETH"
    assert row["liquidated_usd"] == 1_000.0
    assert row["accounts"] == 2
    assert row["bad_debt_usd"] == 7.0
    index = results.index()
    index = frames.numbers(frames.rows(index, index["currency"] == "ETH"), "usd")
    price = index[first.first : first.stop]
    assert price_path(results, first, "ETH")["usd"].tolist() == price.tolist()
    assert row["index_move_frac"] == furthest_move(price)
    assert table["liquidated_usd"].tolist() == [1_000.0, 0.0, 100.0, 0.0]


def test_furthest_move():
    assert furthest_move(np.array([np.nan, 100.0, 104.0, 94.0, 99.0])) == pytest.approx(-0.06)
    assert furthest_move(np.array([100.0, 104.0, 98.0])) == pytest.approx(0.04)
    assert np.isnan(furthest_move(np.array([np.nan])))


def test_figures_hold_the_numbers(results: Results):
    figure = figure_window(results, 1)
    price, liquidated, fund = figure.axes
    assert price.get_title("left") == "ETH, index price"
    first = event_windows(results)[0].widened(80)
    assert first.stop - first.first == 36
    drawn: Any = liquidated.patches[0]
    assert drawn.get_data().values.tolist() == (
        usd_by_time(results, "today")[first.first : first.stop].tolist()
    )
    assert len(fund.lines) == 1 + 2  # the other set has no fund; two lines bound the window
    titles = [axis.get_title("left") for axis in figure_calendar(results).axes]
    assert titles == ["today: USD\u00a01.13\u00a0k", "proposal: USD\u00a00"]


def test_nothing_liquidated_is_said_in_words(tmp_path: Path):
    folder = write_results(tmp_path, Spec(accounts=30, times=20, crash=0.0, leverage=0.2))
    found = Results(folder)
    section = calendar_section(found)
    assert not section.pictures
    assert "Nothing is liquidated" in section.intro
    assert "calendar" not in shown(found)
    assert len(times(found)) == 20


def test_figures_are_files_and_tables(results: Results):
    files = build_report(results)
    names = {file.name for file in files.figures}
    assert {"calendar.png", "worst_window-1.png", "worst_window-2.png"} <= names
    table = pd.read_parquet(files.page.parent / "tables" / "worst_windows.parquet")
    assert table["liquidated_usd"].tolist() == [1_000.0, 0.0, 100.0, 0.0]
