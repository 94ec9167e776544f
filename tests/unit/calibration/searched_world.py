"""A calibration whose replays are a formula: quick, with a known best set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backtest.calibration import calibrate as whole, evaluate
from backtest.calibration.config import CalibrationConfig
from backtest.calibration.series import METRICS, Series
from backtest.config import RunConfig
from tests.unit.backtest import tiny_world as world


BLOCKS, ACCOUNT_TIMES = 40, 24_000.0
MOVES = [f"mr1.price_moves.G{k}" for k in (1, 2, 3)]
BASIS = [f"mr4.{part}.G{k}" for part in ("near", "annual") for k in (1, 2, 3)]


def base(root: Path) -> RunConfig:
    """The run of the tiny world."""
    dataset = root / "data"
    if not dataset.is_dir():
        world.write(dataset)
    return world.config(dataset)


def config(**changes: Any) -> CalibrationConfig:
    """A search over two parameters."""
    content: dict[str, Any] = {
        "name": "searched",
        "seed": 3,
        "base": "tiny.toml",
        "today": "today",
        "parameters": [
            {"name": "moves", "leaves": MOVES, "low": 0.5, "high": 1.5},
            {"name": "basis", "leaves": BASIS, "low": 0.5, "high": 2.0},
        ],
        "search": {"candidates": 12, "batch": 4},
        "constraints": [{"objective": "frequency", "of_today": 1.1}],
        "walk_forward": {"folds": 2, "purge": "1D"},
        "bootstrap": {"resamples": 100, "mean_block": 2},
    }
    return CalibrationConfig.model_validate(content | changes)


def series(points: np.ndarray) -> Series:
    """Margin grows with both parameters; accounts liquidated with the moves alone, in storms."""
    rng = np.random.default_rng(0)
    storm = rng.poisson(6.0, BLOCKS)  # the same market for every candidate
    values = np.zeros((len(points), BLOCKS, len(METRICS)))
    for k, (moves, basis) in enumerate(points.tolist()):
        gross = np.full(BLOCKS, 1e6)
        columns = {
            "scored": np.full(BLOCKS, ACCOUNT_TIMES),
            "liquidated": np.floor(storm * moves),
            "episodes": np.floor(storm * moves) + 1.0,
            "gross_usd": gross,
            "mmr_usd": gross * (0.08 * moves + 0.02 * basis) * (1.0 + 0.01 * storm),
            "shortfall_usd": storm * 10.0 * max(1.2 - moves, 0.0),
        }
        values[k] = np.stack([columns[name] for name in METRICS], axis=-1)
    start = np.datetime64("2025-03-01", "us")
    return Series(start + np.arange(BLOCKS) * np.timedelta64(1, "D"), values, 3600.0)


class FakeResults:
    """What a fake replay returns: the names and points of its sets."""

    def __init__(self, folder: Path, sets: dict[str, np.ndarray]) -> None:
        self.folder, self.sets, self.set_names = folder, sets, list(sets)


def use_formula(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[list[str]]:
    """Replace replays by the formula; the names of the sets of every replay, as they come.

    ``stop_at``: the replay that is interrupted.
    """
    seen: list[list[str]] = []

    def replay(
        self: Any, folder: Path, sets: dict[str, np.ndarray], *, details: bool = True
    ) -> FakeResults:
        assert details == (folder.name == whole.BUNDLE)
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        for name, point in sets.items():
            self.space.write(self.out / "sets" / f"{name}.toml", name, point)
        seen.append(list(sets))
        return FakeResults(folder, sets)

    def series_of(results: FakeResults, names: list[str], block: str, cost: float) -> Series:
        return series(np.stack([results.sets[name] for name in names]))

    monkeypatch.setattr(evaluate.Evaluator, "replay", replay)
    for module in (evaluate, whole):
        monkeypatch.setattr(module, "series_of", series_of)
    return seen


def files(folder: Path) -> dict[str, bytes]:
    """Content of all that a calibration saved."""
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items()}


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "calibration.json").read_bytes())
