"""Runs with a dated schedule: rule periods, changes, and parameters that follow the market."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backtest.errors import DataError
from backtest.report import dated, frames, quality
from backtest.report.account_stats import account_stats
from backtest.report.build import build_report
from backtest.report.figures import FIGURES, figure_parameter_paths
from backtest.report.figures_time import label_sides
from backtest.report.frequency import by_time, times
from backtest.report.paths import moving, path_table, sets_with_paths
from backtest.report.reader import Results
from backtest.report.switches import periods, switches
from tests.unit.backtest.fake_results import FakeStep, Spec, write_results
from tests.unit.backtest.test_report_page import check_page


STEPS = (
    FakeStep(None, "rules-2023", {"mr1": 1.3, "mr6": 1.2}),
    FakeStep(0.3, "rules-2024", {"mr4": 1.4}),
    FakeStep(0.75, "rules-2025", {"mr1": 0.8, "mr6": 0.8}),
)
SPEC = Spec(
    sets=("constant", "history"),
    scales=({}, {}),
    schedules={"history": STEPS},
    paths=("history",),
    accounts=400,
    times=81,
)
DAY = 86_400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("run"), SPEC)


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return Results(folder)


def with_steps(folder: Path, target: Path, steps: object) -> Results:
    """The same results under another manifest; tables are read from the first folder."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["parameter_sets"][1]["schedule"] = steps
    (target / "manifest.json").write_text(json.dumps(manifest))
    for name in ("accounts", "events", "summary", "report_data"):
        (target / name).symlink_to(folder / name)
    return Results(target)


def test_periods_split_the_window_at_the_dates(results: Results):
    found = periods(results, "history")
    assert [(p.step.name, p.first, p.stop) for p in found] == [
        ("rules-2023", 0, 24),
        ("rules-2024", 24, 60),
        ("rules-2025", 60, 81),
    ]
    grid = times(results)
    assert [p.start for p in found] == [grid[0], grid[24], grid[60]]
    assert [p.end for p in found] == [grid[24], grid[60], grid[-1]]
    assert periods(results, "constant") == []
    assert results.schedules == ["history"]
    assert dated.constant_sets(results) == ["constant"]


def test_a_date_between_two_times_holds_from_the_next_one(folder: Path, tmp_path: Path):
    steps = [
        {"from": "2020-01-01T00:00:00Z", "set": "a"},
        {"from": "2024-08-01T10:30:00Z", "set": "never seen"},
        {"from": "2024-08-01T10:59:00+00:00", "set": "c"},
        {"from": "2030-01-01T00:00:00Z", "set": "later"},
    ]
    results = with_steps(folder, tmp_path, steps)
    found = switches(results, "history")
    assert [(s.before.name, s.after.name, s.last_before, s.first_after) for s in found] == [
        ("a", "c", 10, 11)
    ]
    assert found[0].time == pd.Timestamp("2024-08-01T10:59:00Z")
    assert [p.step.name for p in periods(results, "history")] == ["a", "c"]


def test_one_step_is_no_schedule(folder: Path, tmp_path: Path):
    results = with_steps(folder, tmp_path, [{"from": None, "set": "a"}])
    assert results.schedules == []
    build_report(results)
    assert "dated-changes" not in check_page(tmp_path).ids


@pytest.mark.parametrize(
    "steps",
    [
        [{"from": None, "set": "a"}, {"from": None, "set": "b"}],
        [
            {"from": "2024-08-02T00:00:00Z", "set": "a"},
            {"from": "2024-08-01T00:00:00Z", "set": "b"},
        ],
        [{"from": None, "set": "a"}, {"from": "soon", "set": "b"}],
        [{"from": None}, {"from": "2024-08-01T00:00:00Z"}],
    ],
)
def test_unusable_steps_are_refused(folder: Path, tmp_path: Path, steps: object):
    with pytest.raises(DataError, match=r"manifest\.json: .*'schedule'"):
        with_steps(folder, tmp_path, steps).steps("history")


def test_period_numbers_by_hand(results: Results):
    table = dated.period_table(results)
    assert table["parameter_set"].tolist() == ["history", "constant"] * 3
    grid = times(results)
    for row in frames.records(table):
        frame = results.summary(row["parameter_set"])
        inside = (frame["time"] >= row["from"]) & (frame["time"] < row["to"])
        if row["period"] == 3:
            inside = frame["time"] >= row["from"]
        mine = frames.rows(frame, inside)
        days = frames.count(mine, "scored") * SPEC.interval_seconds / DAY
        assert row["account_days"] == pytest.approx(days, rel=1e-12)
        started = frames.count(mine, "episodes_started")
        assert row["episodes_per_account_day"] == pytest.approx(started / days, rel=1e-12)
        gross = frames.total(mine, "gross_notional_usd")
        assert row["mmr_frac"] == pytest.approx(frames.total(mine, "total_mmr") / gross, rel=1e-9)
        assert row["imr_frac"] == pytest.approx(frames.total(mine, "total_imr") / gross, rel=1e-9)
        hit = results.accounts(["first_liquidation_time", "episodes"], row["parameter_set"])
        first = pd.DatetimeIndex(hit["first_liquidation_time"].dropna())
        new = (first >= row["from"]) & ((first < row["to"]) | (row["to"] == grid[-1]))
        assert row["newly_liquidated"] == new.sum()


def test_ratios_are_schedule_over_constant_set(results: Results):
    rows = frames.records(dated.period_table(results))
    for mine, other in zip(rows[::2], rows[1::2], strict=True):
        assert (mine["role"], other["role"]) == ("schedule", "constant")
        assert np.isnan(mine["mmr_frac_ratio"])
        assert other["mmr_frac_ratio"] == pytest.approx(mine["mmr_frac"] / other["mmr_frac"])
    assert rows[1]["mmr_frac_ratio"] > 1.1
    assert rows[5]["mmr_frac_ratio"] < 0.9


def test_switch_takes_the_market_out(results: Results):
    rows = frames.records(dated.switch_table(results))
    assert [r["parameter_set"] for r in rows] == ["history", "constant"] * 2
    mine, other = rows[0], rows[1]
    path = by_time(results, "history")
    share = frames.numbers(path, "total_mmr") / frames.numbers(path, "gross_notional_usd")
    assert mine["mmr_before_frac"] == pytest.approx(share[23], rel=1e-12)
    assert mine["mmr_after_frac"] == pytest.approx(share[24], rel=1e-12)
    assert mine["time_after"] - mine["time_before"] == pd.Timedelta(SPEC.interval_seconds, "s")
    want = (1 + mine["mmr_change_frac"]) / (1 + other["mmr_change_frac"]) - 1
    assert other["mmr_rule_change_frac"] == pytest.approx(want, rel=1e-12)
    assert abs(other["mmr_change_frac"]) < 0.01
    assert other["mmr_rule_change_frac"] < -0.1


def test_periods_are_checked_to_add_up(results: Results):
    check = next(c for c in quality.checks(results) if "rule periods" in c.name)
    assert check.holds
    total = account_stats(results, "history").liquidated
    assert f"= {total} accounts newly liquidated" in check.detail


def test_a_schedule_without_a_constant_set(tmp_path: Path):
    spec = Spec(
        sets=("history",), scales=({},), schedules={"history": STEPS}, accounts=80, times=41
    )
    build_report(write_results(tmp_path, spec))
    assert "The run has no set of constant rules" in check_page(tmp_path).text
    assert len(dated.period_table(Results(tmp_path))) == 3


def test_time_figures_mark_the_dates(results: Results):
    for name, panels in (("timeline", slice(None)), ("charges_by_time", slice(1, 2))):
        figure = FIGURES[name](results)
        named = [t.get_text() for a in figure.axes for t in a.texts]
        assert named == ["rules-2024", "rules-2025"], name
        for axis in figure.axes[panels]:
            upright = [ln for ln in axis.get_lines() if ln.get_transform() != axis.transData]
            assert len(upright) == 2, name


def test_label_sides_leave_out_what_has_no_room():
    assert label_sides([0.2, 0.6]) == ["right", "right"]
    assert label_sides([0.99]) == ["left"]
    assert label_sides([0.5, 0.505]) == ["left", "right"]
    assert label_sides([0.5, 0.505, 0.51]) == ["left", "", "right"]
    assert label_sides([]) == []


def test_paths_of_parameters(results: Results):
    assert sets_with_paths(results) == ["history"]
    assert set(moving(results, "history")) == {
        "mr1.price_moves.BTC",
        "mr1.price_moves.ETH",
        "borrow_limit.USDT",
    }
    table = path_table(results).set_index("key")
    assert table.loc["mr4.annual.BTC", "changes"] == 0
    assert table.loc["borrow_limit.USDT", "lowest"] == 5e6
    figure = figure_parameter_paths(results, "history")
    assert [a.get_title(loc="left") for a in figure.axes if a.axison] == [
        "borrow_limit.USDT",
        "mr1.price_moves.BTC",
        "mr1.price_moves.ETH",
    ]


def test_page_of_a_schedule(folder: Path):
    files = build_report(folder)
    page = check_page(folder)
    assert {"dated-changes", "parameter-paths"} <= set(page.ids)
    assert "What each dated change did" in page.text
    assert "rules-2023" in page.text
    assert "Dated steps of schedules" in page.text
    assert "3 of 4 parameters change" in page.text
    assert (folder / "report" / "parameter_paths.png").is_file()
    names = {f.stem for f in files.tables}
    assert {"schedule_periods", "schedule_switches", "schedule_steps", "parameter_paths"} <= names
