"""Heat map of a search, zone of its choice and words for overfitting, against cases by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.calibration import verdict
from backtest.calibration.calibrate import calibrate
from backtest.calibration.heat import (
    Heat,
    edges,
    figure_heat,
    heat_of,
    most_influential,
    table_of,
    target_of,
)
from backtest.calibration.judgement import overfitting_alone
from backtest.calibration.page import search_section
from backtest.calibration.saved import Saved
from backtest.calibration.series import METRICS, Series
from backtest.calibration.zones import overfitting_words, zone_of
from backtest.report import theme
from backtest.statistics.blocks import Plan
from tests.unit.calibration import searched_world as world


GRID = {"method": "grid", "points": 3, "batch": 9}
FREQUENCY = {"objective": "frequency", "most": None, "of_today": None}


def searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Saved:
    world.use_formula(monkeypatch)
    calibrate(world.config(**changes), world.base(tmp_path), tmp_path / "out")
    return Saved(tmp_path / "out")


def words_of(saved: Saved) -> str:
    return theme.to_svg(figure_heat(saved), "heat")


def test_the_parameters_that_frequency_follows():
    points = np.array([[1.0, 5.0, 2.0], [2.0, 4.0, 2.0], [3.0, 1.0, 2.0], [4.0, 2.0, 2.0]])
    frequency = np.array([8.0, 6.0, 5.0, 1.0])  # falls with the first at every step
    assert most_influential(points, frequency) == [0, 1, 2]
    assert most_influential(points[:, ::-1], frequency) == [2, 1, 0]


def test_borders_of_cells():
    assert edges(np.array([1.0, 2.0, 4.0])).tolist() == [0.5, 1.5, 3.0, 5.0]


def test_cells_of_a_grid():
    points = np.array([[2.0, 10.0], [1.0, 10.0], [1.0, 20.0]])
    ones = np.ones(3, dtype=bool)
    heat = Heat(("a", "b"), points, np.array([0.3, 0.1, 0.2]), ones, 0.15, "the limit", True)
    across, up, cells = table_of(heat)
    assert (across.tolist(), up.tolist()) == ([1.0, 2.0], [10.0, 20.0])
    assert cells[0].tolist() == [0.1, 0.3]
    assert cells[1, 0] == 0.2
    assert np.isnan(cells[1, 1])


def test_the_target_is_the_limit_or_today():
    assert target_of([FREQUENCY | {"most": 0.02}], 0.5) == (0.02, "the limit")
    found = target_of([FREQUENCY | {"of_today": 1.5}], 0.5)
    assert found[0] == 0.75
    assert "1.50 of today's" in found[1]
    assert target_of([FREQUENCY | {"objective": "margin", "most": 1.0}], 0.5) == (0.5, "today's")


def test_a_grid_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved = searched(tmp_path, monkeypatch, search=GRID)
    heat = heat_of(saved)
    assert isinstance(heat, Heat)
    assert heat.grid
    assert heat.names == ("moves", "basis")
    across, up, cells = table_of(heat)
    assert (across.tolist(), up.tolist()) == ([0.5, 1.0, 1.5], [0.5, 1.25, 2.0])
    storm = np.random.default_rng(0).poisson(6.0, world.BLOCKS)
    days = world.BLOCKS * world.ACCOUNT_TIMES / 24.0
    expected = [np.floor(storm * moves).sum() / days for moves in across]
    for row in cells:  # accounts liquidated follow the moves alone
        assert row.tolist() == pytest.approx(expected)
    assert heat.target == pytest.approx(1.1 * expected[1])
    assert "frequency at the limit" in words_of(saved)


def test_other_searches_are_interpolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved = searched(tmp_path, monkeypatch)
    heat = heat_of(saved)
    assert isinstance(heat, Heat)
    assert not heat.grid
    assert len(heat.points) == 13
    assert heat.points[0].tolist() == [1.0, 1.0]
    svg = words_of(saved)
    for words in ("moves, level", "basis, level", "breaks a constraint", "chosen"):
        assert words in svg


def test_what_cannot_be_drawn_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved = searched(tmp_path, monkeypatch)
    saved.tables["candidates"]["frequency"] = 0.1
    assert "liquidates the same number" in words_of(saved)
    saved.tables["candidates"]["frequency"] = np.nan
    assert "a frequency" in words_of(saved)
    saved.summary["levels"].pop("basis")
    assert "a map needs two" in words_of(saved)


def test_a_limit_that_no_candidate_comes_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved = searched(tmp_path, monkeypatch, constraints=[{"objective": "frequency", "most": 0.5}])
    svg = words_of(saved)
    assert "the limit (0.500): not on the map" in svg
    assert "frequency at" not in svg


def test_candidates_on_a_line_have_marks_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved = searched(tmp_path, monkeypatch)
    frame = saved.tables["candidates"]
    saved.tables["candidates"] = frame.assign(basis=2.0 * frame["moves"])
    svg = words_of(saved)
    assert "breaks a constraint" in svg
    assert "frequency at" not in svg


def series(begun: list[float]) -> Series:
    """A thousand accounts at each of some hours, of whom some are liquidated."""
    values = np.zeros((1, len(begun), len(METRICS)))
    values[0, :, METRICS.index("scored")] = 1_000.0
    values[0, :, METRICS.index("liquidated")] = begun
    hours = np.datetime64("2025-03-01", "us") + np.arange(len(begun)) * np.timedelta64(1, "h")
    return Series(hours, values, 3_600.0)


def test_zone_of_the_choice():
    """40 hours of 1,000 accounts: 0.024 a day are 40 accounts."""
    plan = Plan(resamples=100, block=1)
    mild = zone_of(series([1.0, 0.0] * 20), 0, 0.024, plan)
    assert mild["expected"] == pytest.approx(40.0)
    assert (mild["liquidated"], mild["zone"]) == (20, "green")
    assert zone_of(series([4.0, 2.0] * 20), 0, 0.024, plan)["zone"] == "red"
    assert zone_of(series([1.0, 0.0] * 20), 0, 0.0, plan)["zone"] is None


def test_words_for_the_probability_of_overfitting():
    found = [overfitting_words(p) for p in (0.0, 0.19, 0.2, 0.49, 0.5, None, float("nan"))]
    assert found == ["low", "low", "middling", "middling", "high", "not measured", "not measured"]


def test_the_first_screen_says_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved = searched(tmp_path, monkeypatch)
    zone, probability = saved.summary["zone"], saved.summary["overfitting"]
    assert zone["liquidated"] == round(zone["expected"] / zone["target"] * frequency(saved))
    facts = dict(verdict.facts(saved))
    assert facts["Zone of the choice"] == zone["zone"] == "green"
    assert facts["Probability of overfitting"].endswith(overfitting_words(probability))
    words = dict(verdict.points(saved))
    assert list(words)[:2] == ["Overfitting", "Zone"]
    assert words["Zone"].startswith("Green: the choice liquidates")
    assert f"share of {saved.summary['halves']} halves" in words["Overfitting"]
    assert len(pd.read_parquet(saved.path / "tables" / "overfitting.parquet")) == 70


def test_one_block_that_decides_an_objective_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Who is best on the half with the block is worst on the other, and noise has no part in it."""
    blocks = np.arange("2024-01-01", "2024-01-09", dtype="datetime64[D]").astype("datetime64[us]")
    values = np.zeros((3, 8, len(METRICS)))
    values[:, :, METRICS.index("scored")] = values[:, :, METRICS.index("gross_usd")] = 1_000.0
    values[:, :, METRICS.index("liquidated")] = np.array([[2.0], [1.0], [3.0]])
    values[:, :, METRICS.index("shortfall_usd")] = np.array([[1.0], [2.0], [3.0]])
    values[:, 2, METRICS.index("shortfall_usd")] = 93.0, 92.0, 10.0
    found: Any = overfitting_alone(Series(blocks, values, 86_400.0), ["frequency", "bad_debt"], 2)
    assert found["objective"].tolist() == ["frequency", "bad_debt"]
    assert found["probability"].tolist() == [0.0, 1.0]
    assert found["dearest_block"].iloc[1] == pd.Timestamp("2024-01-03", tz="UTC")
    assert found["dearest_block_frac"].tolist() == pytest.approx([0.125, 0.93])
    saved = searched(tmp_path, monkeypatch)
    saved.tables["overfitting_by_objective"] = found
    words = dict(verdict.points(saved))["Overfitting"].replace("\xa0", " ")
    assert "Each objective alone: accounts liquidated 0 %" in words
    assert words.endswith("One block, 2024-01-03 00:00 UTC, holds 93.0 % of today's bad debt.")
    page = _page_of(saved)
    assert "2024-01-03" in page
    assert "Each objective alone" in page
    del saved.tables["overfitting_by_objective"]  # of a calibration saved before
    assert "alone" not in dict(verdict.points(saved))["Overfitting"]
    assert "Each objective alone" not in _page_of(saved)


def _page_of(saved: Saved) -> str:
    return "".join(f"{t.caption}{t.rows}" for t in search_section(saved).tables)


def frequency(saved: Saved) -> float:
    frame: Any = saved.tables["candidates"]
    return float(frame["frequency"][frame["chosen"]].iloc[0])


def test_a_calibration_of_before_has_no_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved = searched(tmp_path, monkeypatch)
    file = saved.path / "calibration.json"
    content = json.loads(file.read_bytes())
    file.write_text(json.dumps({k: v for k, v in content.items() if k not in ("zone", "halves")}))
    old = Saved(saved.path)
    assert dict(verdict.facts(old))["Zone of the choice"] == "none"
    words = dict(verdict.points(old))
    assert "before it had one" in words["Zone"]
    assert "share of halves" in words["Overfitting"]
