"""The change of one account's margin, step by step, closes without a residual."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.cli import call
from backtest.errors import ConfigError
from backtest.explain_change import explain_change
from tests.unit.backtest import tiny_world as world


pytestmark = pytest.mark.slow
STEPS = ["positions", "prices", "volatilities", "time", "parameters", "residual", "total"]
SECOND: Any = world.START + pd.Timedelta("4h")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two snapshots: the second one doubles every position."""
    folder = tmp_path_factory.mktemp("change")
    held: Any = world.positions()
    later = held.assign(time=SECOND, contracts=2.0 * held["contracts"])
    cash: Any = world.balances()
    tables: dict[str, Any] = {
        "positions": pd.concat([held, later], ignore_index=True),
        "balances": pd.concat([cash, cash.assign(time=SECOND)], ignore_index=True),
    }
    dataset = world.write(folder / "data", **tables)
    world.replay(world.config(dataset, mode="actual"), folder / "out")
    return folder / "out"


def change(out: Path, k: int, hours: int) -> dict[str, float]:
    end = world.START + pd.Timedelta(hours=hours)
    found = explain_change(out, world.name_of(k), world.START, end)
    steps = found.steps
    assert steps["step"].tolist()[1:] == STEPS
    return dict(zip(steps["step"].tolist(), steps["change"].tolist(), strict=True))


def test_prices_alone_move_a_perpetual(out: Path):
    found = change(out, 0, 2)
    assert found["positions"] == found["volatilities"] == found["parameters"] == 0.0
    assert found["prices"] < 0.0  # the index fell by a hundredth
    assert found["residual"] == pytest.approx(0.0, abs=1e-6)
    saved = [world.trace(out, world.name_of(0))["total_mmr"].iloc[h] for h in (0, 2)]
    assert found["total"] == pytest.approx(saved[1] - saved[0], rel=1e-9)


def test_twice_the_positions_come_first(out: Path):
    found = change(out, 0, 6)
    saved = world.trace(out, world.name_of(0))["total_mmr"].to_numpy(float)
    assert found["positions"] == pytest.approx(saved[0], rel=1e-6)
    steps = [found[name] for name in STEPS[:-2]]
    assert np.sum(steps) == pytest.approx(saved[6] - saved[0], rel=1e-9)


def test_an_expiry_is_a_matter_of_time(out: Path):
    found = change(out, 4, 5)  # the call that expires after three hours and a half
    assert found["time"] < 0.0
    assert found["residual"] == pytest.approx(0.0, abs=1e-6)


def test_what_cannot_be_explained_is_refused(out: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ConfigError, match="an earlier time first"):
        explain_change(out, world.name_of(0), SECOND, world.START)
    with pytest.raises(ConfigError, match="no account"):
        explain_change(out, "nobody", world.START, SECOND)
    account = f"{world.name_of(0)}@2025-03-01T02:00Z"
    assert call(["explain", str(out), account, "--since", "2025-03-01T00:00Z"]) == 0
    printed = capsys.readouterr().out
    assert "volatilities" in printed
    assert dataclasses.fields(explain_change(out, world.name_of(0), world.START, SECOND))
