"""What a run is going to do: snapshots, windows, segments, known currencies."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.dataset import Dataset
from backtest.errors import DataError
from backtest.market_window import micros
from backtest.plan import MAX_SEGMENTS, OTHER_SEGMENT, UNKNOWN_SEGMENT, Plan, make_plan
from tests.unit.backtest import tiny_world as world
from tests.unit.backtest.tiny_world import TIMES


def plan(root: Path, engine: dict[str, object] | None = None, **replay: Any) -> Plan:
    return make_plan(world.config(root, engine=engine, **replay), Dataset.open(root))


def snapshots_at(*hours: int) -> dict[str, Any]:
    def at(table: str) -> pd.DataFrame:
        parts = [world.TABLES[table]().assign(time=TIMES[h]) for h in hours]
        return pd.concat(parts, ignore_index=True)

    return {table: at(table) for table in ("balances", "positions")}


@pytest.mark.parametrize("length", [1, 2, 4, 5, 24])
def test_windows_cover_the_grid_once(length: int, tmp_path: Path):
    found = plan(world.write(tmp_path / "d"), {"window_times": length})
    ids = np.concatenate([np.arange(w.first, w.stop) for w in found.windows])
    np.testing.assert_array_equal(ids, np.arange(len(TIMES)))
    assert [w.number for w in found.windows] == list(range(len(found.windows)))
    assert max(w.stop - w.first for w in found.windows) <= length


def test_actual_mode_cuts_windows_at_snapshots(tmp_path: Path):
    root = world.write(tmp_path / "d", **snapshots_at(0, 3, 5))
    found = plan(root, {"window_times": 2}, mode="actual")
    times = micros(TIMES)
    pieces = [
        (w.first, w.stop, int(np.flatnonzero(times == w.snapshot_us)[0])) for w in found.windows
    ]
    assert pieces == [(0, 2, 0), (2, 3, 0), (3, 5, 3), (5, 7, 5), (7, 9, 5)]
    assert [w.number for w in found.windows] == [0, 1, 2, 3, 4]
    assert len({w.number for w in found.windows}) == len(found.windows)


def test_frozen_mode_takes_the_latest_snapshot_at_or_before_the_start(tmp_path: Path):
    root = world.write(tmp_path / "d", **snapshots_at(0, 3, 5))
    found = plan(root, start=TIMES[4].isoformat())
    assert {w.snapshot_us for w in found.windows} == {int(micros(TIMES)[3])}
    assert list(found.held) == [int(micros(TIMES)[3])]
    exact = plan(root, start=TIMES[5].isoformat())
    assert {w.snapshot_us for w in exact.windows} == {int(micros(TIMES)[5])}


def test_no_snapshot_before_the_start_is_refused(tmp_path: Path):
    root = world.write(tmp_path / "d", **snapshots_at(5))
    with pytest.raises(DataError, match="no snapshot at or before the start"):
        plan(root)


def test_segments_are_the_labels_and_one_for_the_unknown(tmp_path: Path):
    assert plan(world.write(tmp_path / "a")).segments == ["s0", "s1", UNKNOWN_SEGMENT]
    ids = [f"z{k:03d}" for k in range(MAX_SEGMENTS + 10)]
    many = pd.DataFrame(
        {"account_id": ids, "borrow_mode": "auto", "spot_mode": None, "segment": ids}
    )
    found = plan(world.write(tmp_path / "b", accounts=many)).segments
    assert len(found) == MAX_SEGMENTS
    assert found[-2:] == [OTHER_SEGMENT, UNKNOWN_SEGMENT]


def test_the_interval_thins_the_grid(tmp_path: Path):
    root = world.write(tmp_path / "d")
    found = plan(root, interval="2h")
    np.testing.assert_array_equal(found.times_us, micros(TIMES[::2]))
    assert found.interval_seconds == 7200.0
    assert plan(root).interval_seconds == 3600.0


def test_coins_are_those_of_legs_and_balances(tmp_path: Path):
    found = plan(world.write(tmp_path / "d"))
    assert set(found.currencies.coins) == {"BTC", "ETH"}
    assert sorted(found.held[int(micros(TIMES)[0])]) == sorted(world.IDS)


@pytest.mark.parametrize("end", [3, 8])
def test_a_currency_quoted_later_is_known_whatever_the_end(end: int, tmp_path: Path):
    """Whether an account is unpriced or quarantined may not depend on where the window ends."""
    late = pd.DataFrame({"time": TIMES[5:], "currency": "NEW", "usd": 2.0})
    cash = world.balances()
    cash.loc[len(cash)] = [TIMES[0], "a000", "NEW", 5.0, np.nan]
    root = world.write(
        tmp_path / "d",
        index=pd.concat([world.index(), late], ignore_index=True),
        balances=cash,
    )
    found = plan(root, end=TIMES[end].isoformat())
    assert "NEW" in found.currencies_known
    assert found.quarantined == []
