"""The next bucket is read while the present one is computed, and nothing else changes."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import backtest.loading
from backtest import cluster
from backtest.dataset import Dataset
from backtest.plan import make_plan
from backtest.replay import BucketReplay, ReplayContext
from backtest.stages import STAGES
from tests.unit.backtest import tiny_world as world


pytestmark = pytest.mark.slow
BUCKETS = 3
SECOND = world.START + pd.Timedelta(hours=4)


def two_snapshots() -> dict[str, Any]:
    tables = {"balances": world.balances(), "positions": world.positions()}
    return {n: pd.concat([t, t.assign(time=SECOND)], ignore_index=True) for n, t in tables.items()}


@pytest.mark.parametrize("mode", ["frozen", "actual"])
def test_buckets_are_read_ahead_once(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[tuple[int, int]] = []
    plain = backtest.loading.read_portfolios

    def counted(dataset: Any, plan: Any, snapshot: int, bucket: int, *rest: Any) -> Any:
        read.append((bucket, snapshot))
        return plain(dataset, plan, snapshot, bucket, *rest)

    monkeypatch.setattr(backtest.loading, "read_portfolios", counted)
    dataset = world.write(tmp_path / "data", BUCKETS, **two_snapshots())
    config = world.config(dataset, mode=mode, engine={"window_times": 3})
    plan = make_plan(config, Dataset.open(dataset))
    with world.devices(1):
        together = ReplayContext(config, plan, tmp_path / "together")
        reports = cluster.replay_group(together, plan.buckets)
        once = len(read)
        alone = ReplayContext(config, plan, tmp_path / "alone")
        for bucket in plan.buckets:
            BucketReplay(alone, bucket).run()
    assert read[:once] == sorted(read[:once])
    assert once == len(set(read)) == BUCKETS * (1 if mode == "frozen" else 2)
    for table in ("traces", "events", "accounts"):
        files = sorted(path.name for path in (tmp_path / "together" / table).iterdir())
        assert files == sorted(path.name for path in (tmp_path / "alone" / table).iterdir())
        for name in files:
            one, other = (tmp_path / run / table / name for run in ("together", "alone"))
            assert one.read_bytes() == other.read_bytes()
    seconds = reports[-1]["stages"]
    assert set(seconds) == set(STAGES)
    assert all(value > 0.0 for value in seconds.values())
