"""A run without details has what a calibration reads, to the bit, and no more."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.calibration.series import series_of
from backtest.errors import DataError
from backtest.report.build import build_report
from backtest.report.reader import Results
from tests.unit.backtest import generated_world, tiny_world
from tests.unit.backtest.test_simulate import SIMULATE, config
from tests.unit.backtest.test_simulate_crash import falling_world
from tests.unit.backtest.tiny_world import PARAMS


pytestmark = pytest.mark.slow
SETS = {"today": PARAMS, "split": PARAMS.parent / "okx-split-2025-01-15.toml"}
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "actual": {"mode": "actual"},
    "debts": {"interest": True, "conversion": True},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bare") / "data"
    return generated_world.add_accounts(generated_world.market(root), buckets=2)


def replayed(dataset: Path, out: Path, **changes: Any) -> Results:
    """Without multipliers, as candidates of a calibration."""
    chosen = tiny_world.config(dataset, sets=SETS, break_even=False, **changes)
    tiny_world.replay(chosen, out)
    return Results(out)


def same_bits(one: Results, other: Results) -> np.ndarray:
    found = [series_of(r, list(SETS), "2h", 0.02).values for r in (one, other)]
    assert (found[0].view(np.int64) == found[1].view(np.int64)).all()
    return found[0]


@pytest.mark.parametrize("mode", MODES)
def test_what_a_calibration_reads_is_the_same(mode: str, dataset: Path, tmp_path: Path):
    whole = replayed(dataset, tmp_path / "whole", **MODES[mode])
    bare = replayed(dataset, tmp_path / "bare", details=False, **MODES[mode])
    sums = same_bits(whole, bare).sum(axis=(0, 1))
    assert (sums > 0).all(), "a sum that is nothing shows nothing"
    tables = [
        [tiny_world.read(r.path, name) for r in (whole, bare)]
        for name in ("summary", "accounts", "events")
    ]
    for (one, other), columns in zip(tables, (None, 3, 6), strict=True):
        names = list(other.columns)
        assert len(names) == (columns or len(one.columns))
        mine = one[one["event"] == "liquidation"] if "event" in one else one
        mine = mine[names].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, other, check_exact=True)
    assert not bare.has("event_units")


def test_simulated_liquidations_too(tmp_path: Path):
    """Accounts that are liquidated and scored again; who pays is nothing that is read."""
    world = falling_world(tmp_path / "world")
    outs = []
    for details in (True, False):
        outs.append(tmp_path / f"details-{details}")
        chosen = config(world, SIMULATE, break_even=False, details=details)
        tiny_world.replay(chosen, outs[-1])
    found = [series_of(Results(out), ["today"], "1h", 0.02).values for out in outs]
    assert found[0][..., 1].sum() > 0
    assert (found[0].view(np.int64) == found[1].view(np.int64)).all()
    assert [Results(out).has("waterfall") for out in outs] == [True, False]


def test_an_interrupted_run_goes_on(dataset: Path, tmp_path: Path):
    """What a cell leaves out is nothing that the windows after it need."""
    chosen = tiny_world.config(dataset, sets=SETS, break_even=False, details=False)
    tiny_world.replay(chosen, tmp_path / "once")
    for name in ("once", "again"):
        tiny_world.replay(chosen, tmp_path / name)
    last = max(p for p in (tmp_path / "again" / "cells").glob("w*"))
    for file in last.glob("*.cell"):
        file.unlink()
    assert tiny_world.replay(chosen, tmp_path / "again")["cells"]["reused"] > 0
    same_bits(Results(tmp_path / "once"), Results(tmp_path / "again"))


def test_it_has_no_report_and_says_why(dataset: Path, tmp_path: Path):
    bare = replayed(dataset, tmp_path / "bare", details=False)
    with pytest.raises(DataError, match=r"bare: was replayed with replay\.details = false"):
        build_report(bare)
    assert not (bare.path / "report").exists()
