"""The whole search on a formula: finds what is known to be best, resumes to the same bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.calibration.calibrate import calibrate
from backtest.calibration.evaluate import candidate_name
from backtest.errors import ConfigError
from backtest.params import load_parameter_set
from tests.unit.calibration import searched_world as world


def table(folder: Path, name: str) -> Any:
    """A saved table; what a cell is, its column says."""
    return pd.read_parquet(folder / "tables" / f"{name}.parquet")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    world.use_formula(monkeypatch)
    out = tmp_path / "out"
    calibrate(world.config(), world.base(tmp_path), out)
    return out


def test_the_choice_is_the_cheapest_that_holds_the_bound(run: Path):
    frame = table(run, "candidates")
    assert frame["candidate"].tolist() == [candidate_name(k) for k in range(13)]
    held = frame[frame["feasible"]]
    (chosen,) = frame["candidate"][frame["chosen"]].tolist()
    assert chosen == held.sort_values("margin")["candidate"].iloc[0]
    assert chosen != "today"
    assert (held["bound_1_frequency"] <= 1.1).all()
    # accounts liquidated follow the moves alone, so the bound cuts off what raises them much
    assert (frame["moves"][~frame["feasible"]] > 1.05).all()
    assert world.summary(run)["chosen"] == chosen


def test_the_frontier_holds_what_nothing_dominates(run: Path):
    frame = table(run, "candidates")
    for _, row in frame.iterrows():
        better = frame[
            (frame["frequency"] <= row["frequency"]) & (frame["margin"] <= row["margin"])
        ]
        strictly = (better["frequency"] < row["frequency"]) | (better["margin"] < row["margin"])
        assert bool(row["on_frontier"]) == (not strictly.any())
    assert frame["knee"].sum() == 1
    assert frame["on_frontier"][frame["knee"]].all()


def test_the_walk_tries_on_what_it_has_not_seen(run: Path):
    walk = table(run, "walk_forward")
    assert len(walk) == 2
    gap = pd.to_datetime(walk["test_from"]) - pd.to_datetime(walk["train_to"])
    assert (gap == pd.Timedelta("2D")).all()  # one block of a day is purged
    pooled = table(run, "out_of_sample").set_index("objective")
    assert pooled.loc["margin", "difference"] < 0
    assert pooled.loc["margin", "difference_high"] < 0
    assert np.isnan(pooled.loc["procyclicality", "difference_low"])


def test_single_moves_stand_beside_the_joint_one(run: Path):
    bundle = table(run, "bundle").set_index("parameter_set")
    assert bundle.index.tolist() == ["today", "chosen", "only moves", "only basis"]
    change = bundle["margin_change"]
    assert change["chosen"] == pytest.approx(change["only moves"] + change["only basis"])


def test_candidates_are_parameter_files(run: Path):
    frame = table(run, "candidates")
    row = frame.iloc[5]
    found = load_parameter_set(run / "sets" / f"{row['candidate']}.toml")
    moves = found.numbers()["mr1"]["price_moves"]["G1"]
    assert moves == [x * row["moves"] for x in (0.0, 0.04, 0.08, 0.12)]
    label = {r.key: r.label for r in found.leaves()}["mr1.price_moves.G1"]
    assert label == "A"


@pytest.mark.parametrize("stop_at", [0, 2, 3])
def test_killed_and_started_again_it_ends_with_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
):
    base, config = world.base(tmp_path), world.config()
    with monkeypatch.context() as patch:
        world.use_formula(patch)
        calibrate(config, base, tmp_path / "a" / "out")
    with monkeypatch.context() as patch:
        world.use_formula(patch, stop_at)
        with pytest.raises(KeyboardInterrupt):
            calibrate(config, base, tmp_path / "b" / "out")
    with monkeypatch.context() as patch:
        seen = world.use_formula(patch)
        calibrate(config, base, tmp_path / "b" / "out")
        assert len(seen) == 4 - stop_at  # three batches and the bundle
    assert world.files(tmp_path / "a" / "out") == world.files(tmp_path / "b" / "out")


def test_a_damaged_batch_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base, out = world.base(tmp_path), tmp_path / "out"
    world.use_formula(monkeypatch)
    calibrate(world.config(), base, out)
    before = world.files(out)
    (out / "batches" / "00001.parquet").write_bytes(b"half")
    seen = world.use_formula(monkeypatch)
    calibrate(world.config(), base, out)
    assert [names[0] for names in seen] == ["c00005", "today"]
    assert world.files(out) == before


def test_the_batch_does_not_matter_without_learning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base = world.base(tmp_path)
    world.use_formula(monkeypatch)
    frames = []
    for batch in (3, 12):
        search = {"candidates": 12, "batch": batch}
        calibrate(world.config(search=search), base, tmp_path / f"{batch}")
        frames.append(table(tmp_path / f"{batch}", "candidates"))
    pd.testing.assert_frame_equal(frames[0], frames[1])


def test_a_folder_of_another_calibration_is_refused(run: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"holds another run \(different: calibration\)"):
        calibrate(world.config(seed=4), world.base(tmp_path), run)


def test_a_trust_region_limits_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world.use_formula(monkeypatch)
    search = {"candidates": 64, "batch": 64}
    config = world.config(search=search, trust_region={"step_frac": 0.1})
    calibrate(config, world.base(tmp_path), tmp_path / "out")
    walk = table(tmp_path / "out", "walk_forward")
    at = np.ones(2)
    for levels in walk[["moves", "basis"]].to_numpy():
        assert (np.abs(levels - at) <= 0.1 * at * (1 + 1e-8)).all()
        at = levels
    assert (walk["candidate"] != "today").any()
    frame = table(tmp_path / "out", "candidates")
    chosen = frame[["moves", "basis"]][frame["chosen"]].to_numpy()[0]
    assert (np.abs(chosen - 1.0) <= 0.1 + 1e-8).all()
    assert 10 <= frame["within_step"].sum() < len(frame)


def test_no_candidate_that_holds_leaves_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world.use_formula(monkeypatch)
    config = world.config(constraints=[{"objective": "frequency", "most": 0.0}])
    summary = calibrate(config, world.base(tmp_path), tmp_path / "out")
    assert (summary["chosen"], summary["any_feasible"]) == ("today", False)


def test_a_grid_holds_every_corner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world.use_formula(monkeypatch)
    config = world.config(search={"method": "grid", "points": 3, "batch": 9})
    calibrate(config, world.base(tmp_path), tmp_path / "out")
    frame = table(tmp_path / "out", "candidates").iloc[1:]
    corners = {(x, y) for x in (0.5, 1.0, 1.5) for y in (0.5, 1.25, 2.0)}
    assert set(zip(frame["moves"], frame["basis"], strict=True)) == corners


@pytest.mark.parametrize("method", ["tpe", "nsga2"])
def test_adaptive_methods_learn_and_resume(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("optuna")
    base, search = world.base(tmp_path), {"method": method, "candidates": 60, "batch": 10}
    config = world.config(search=search)
    with monkeypatch.context() as patch:
        world.use_formula(patch, stop_at=3)
        with pytest.raises(KeyboardInterrupt):
            calibrate(config, base, tmp_path / "b" / "out")
    world.use_formula(monkeypatch)
    for name in ("a", "b"):
        calibrate(config, base, tmp_path / name / "out")
    assert world.files(tmp_path / "a" / "out") == world.files(tmp_path / "b" / "out")
    margin = table(tmp_path / "a" / "out", "candidates")["margin"].to_numpy()[1:]
    assert np.median(margin[-20:]) < np.median(margin[:20])


def test_without_optuna_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    config = world.config(search={"method": "tpe"})
    with pytest.raises(ConfigError, match=r"pm-stress\[calibrate\]"):
        calibrate(config, world.base(tmp_path), tmp_path / "out")
