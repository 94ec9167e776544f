"""Actual mode through the main job: accounts come and go, states go on, rows are all counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.dataset import Dataset
from backtest.plan import make_plan
from backtest.replay import BucketReplay, ReplayContext
from tests.unit.backtest import tiny_world as world
from tests.unit.backtest.tiny_world import ETH, IDS, NUM_ACCOUNTS, TIMES, name_of


pytestmark = pytest.mark.slow
LEAVES, COMES = "a001", "a007"


def snapshots() -> dict[str, Any]:
    """At hour 4 one account of ETH is gone, another has arrived; the rest stay as they were."""
    tables = {}
    for name in ("balances", "positions"):
        rows = world.TABLES[name]()
        first = rows[rows["account_id"] != COMES]
        second = rows[rows["account_id"] != LEAVES].assign(time=TIMES[4])
        tables[name] = pd.concat([first, second], ignore_index=True)
    return tables


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("actual")
    dataset = world.write(folder / "data", **snapshots())
    manifest = world.replay(world.config(dataset, mode="actual"), folder / "out")
    return folder / "out", manifest


def test_rows_in_are_those_of_each_snapshot(run: tuple[Path, dict[str, Any]]):
    out, manifest = run
    rows = manifest["rows"]
    assert rows["in"] == (NUM_ACCOUNTS - 1) * len(TIMES)
    assert rows["in"] == rows["scored"] + rows["unpriced"] + rows["quarantined"]
    assert len(world.read(out, "traces")) == rows["in"]
    assert world.read(out, "summary")["accounts"].sum() == rows["in"]


def test_an_account_that_left_keeps_its_record(run: tuple[Path, dict[str, Any]]):
    out, _ = run
    accounts = world.read(out, "accounts").set_index("account_id")
    assert accounts.loc[LEAVES, "scored"] == 4
    assert accounts.loc[COMES, "scored"] == len(TIMES) - 4
    assert len(world.trace(out, LEAVES)) == 4
    assert world.trace(out, COMES)["time"].min() == TIMES[4]
    assert np.isfinite(accounts.loc[[LEAVES, COMES], "start_equity_usd"].astype(float)).all()


def test_start_values_are_those_of_the_first_time(run: tuple[Path, dict[str, Any]]):
    out, _ = run
    accounts = world.read(out, "accounts").set_index("account_id")
    k = int(COMES[1:])
    assert IDS[k % 6] == ETH
    cash, size = 20_000.0 + 1_000.0 * k, (-1.0) ** (k // 6)
    mark = world.ETH_USD[4] + 1
    start = accounts.loc[COMES]
    assert start["start_gross_notional_usd"] == pytest.approx(mark)
    assert start["start_net_delta_usd"] == pytest.approx(size * mark)
    assert start["start_equity_usd"] == pytest.approx(cash + size * (mark - 2_990.0))
    assert start["start_option_notional_usd"] == 0.0


def test_the_worst_time_is_that_of_the_trace(run: tuple[Path, dict[str, Any]]):
    out, _ = run
    accounts = world.read(out, "accounts").set_index("account_id")
    for k in range(0, NUM_ACCOUNTS, 5):
        path = world.trace(out, name_of(k))
        level = path["margin_level"]
        if level.notna().any():
            worst = accounts.loc[name_of(k)]
            assert worst["worst_margin_level"] == level.min()
            assert worst["worst_time"] == path.loc[level.idxmin(), "time"]
            assert worst["worst_mr1"] == path.loc[level.idxmin(), "mr1"]


def test_cells_are_computed_once_and_then_reused(tmp_path: Path):

    dataset = world.write(tmp_path / "data")
    config = world.config(dataset)
    plan = make_plan(config, Dataset.open(dataset))
    with world.devices(1):
        context = ReplayContext(config, plan, tmp_path / "out")
        first = [BucketReplay(context, b).run() for b in plan.buckets]
        again = [BucketReplay(context, b).run() for b in plan.buckets]
    assert [r["computed"] for r in first] == [len(plan.windows)] * len(plan.buckets)
    assert [(r["computed"], r["reused"]) for r in again] == [(0, r["computed"]) for r in first]
    assert [r["rows"] for r in again] == [r["rows"] for r in first]


def test_padded_window_times_are_minus_one(tmp_path: Path):

    config = world.config(world.write(tmp_path / "data"), engine={"window_times": 6})
    plan = make_plan(config, Dataset.open(tmp_path / "data"))
    with world.devices(1):
        context = ReplayContext(config, plan, tmp_path / "out")
    ids = [context.time_ids(w).tolist() for w in plan.windows]
    assert ids == [[0, 1, 2, 3, 4, 5], [6, 7, 8, -1, -1, -1]]
