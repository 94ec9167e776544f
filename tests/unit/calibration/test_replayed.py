"""A small calibration through the real replay, and its page."""

import re
from pathlib import Path

import numpy as np
import pytest

from backtest.calibration.calibrate import calibrate
from backtest.calibration.config import CalibrationConfig
from backtest.calibration.figures import FIGURES
from backtest.calibration.page import build_page
from backtest.calibration.saved import Saved
from backtest.calibration.series import Series, series_of
from backtest.calibration.verdict import sentence
from backtest.config import RunConfig
from backtest.errors import DataError
from tests.unit.backtest import test_break_even_runs as near, tiny_world as world
from tests.unit.calibration import searched_world


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("calibration")
    return world.config(world.write(folder / "data", buckets=1, **near.tables()))


@pytest.fixture(scope="module")
def config() -> CalibrationConfig:
    return searched_world.config(
        search={"candidates": 3, "batch": 2},
        objectives={"block": "1h", "frontier": ["frequency", "margin"]},
        constraints=[{"objective": "frequency", "of_today": 3.0}],
        walk_forward={"folds": 1, "purge": "1h"},
        overfitting={"splits": 4},
    )


@pytest.fixture(scope="module")
def out(
    base: RunConfig, config: CalibrationConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("out")
    with world.devices(1):
        calibrate(config, base, folder, workers=1)
    return folder


def test_batches_hold_what_a_run_of_their_own_gives(out: Path):
    first = Series.read(out / "batches" / "00000.parquet")
    bundle = Saved(out).bundle
    again = series_of(bundle, ["today"], "1h", 0.0)
    assert np.array_equal(again.values[0], first.values[0])
    assert first.of("liquidated")[0].sum() > 0
    assert first.of("scored")[0].sum() == len(near.NAMES) * len(world.TIMES)
    assert len(first.blocks) == len(world.TIMES)
    margins = first.of("mmr_usd").sum(axis=1)
    assert len(np.unique(margins)) == len(margins), "candidates do not differ"


def test_a_lost_batch_comes_back_bit_for_bit(out: Path, base: RunConfig, config: CalibrationConfig):
    before = searched_world.files(out / "batches") | searched_world.files(out / "tables")
    (out / "batches" / "00001.json").unlink()
    with world.devices(1):
        calibrate(config, base, out, workers=1)
    assert searched_world.files(out / "batches") | searched_world.files(out / "tables") == before


def test_the_page_says_what_was_found(out: Path):
    page = build_page(out)
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") >= len(FIGURES)
    saved = Saved(out)
    assert saved.summary["chosen"] in sentence(saved) or "oday" in sentence(saved)
    for words in ("What this does not show", "Out of sample", "Frontier", "exactly"):
        assert words in text
    words = re.sub(r"<(style|script|svg).*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"\bnan\b", words)
    assert "http:" not in words
    assert "https:" not in words
    for name in (*(f"{n}.png" for n in FIGURES), "tables/candidates.csv"):
        assert (page.parent / name).is_file()


def test_an_unfinished_calibration_has_no_page(tmp_path: Path):
    with pytest.raises(DataError, match=r"calibration\.json is missing"):
        build_page(tmp_path)
