"""Accounts that a run leaves out because they begin with too little equity."""

from pathlib import Path

import pandas as pd
import pytest

from tests.unit.backtest import tiny_world as world


pytestmark = pytest.mark.slow
LEAST_USD = 40_000.0


def test_accounts_below_the_least_equity_are_left_out_and_counted(tmp_path: Path):
    dataset = world.write(tmp_path / "world")
    manifest = world.replay(world.config(dataset), tmp_path / "all")
    everyone = world.read(tmp_path / "all", "accounts")
    chosen = world.config(dataset, min_equity_usd=LEAST_USD)
    filtered = world.replay(chosen, tmp_path / "some")
    rest = world.read(tmp_path / "some", "accounts")

    eligible = everyone["start_equity_usd"] >= LEAST_USD
    assert 0 < eligible.sum() < len(everyone)
    columns = [c for c in everyone.columns if c != "parameter_set"]
    expected = everyone.loc[eligible, columns].sort_values("account_id", ignore_index=True)
    found = rest[columns].sort_values("account_id", ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    left_out = int((~eligible).sum())
    assert filtered["accounts_left_out"] == left_out
    assert filtered["accounts"] == manifest["accounts"] - left_out
    assert filtered["rows"]["in"] == filtered["rows"]["scored"]
    assert manifest["accounts_left_out"] == 0
