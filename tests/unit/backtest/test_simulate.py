"""Liquidation as it happens in whole runs of the hand-made market of eight hours."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backtest.config import RunConfig
from tests.unit.backtest import tiny_world
from tests.unit.backtest.test_invariances import TABLES, Results, same_bits


pytestmark = pytest.mark.slow
RULES = {"okx": tiny_world.ROOT / "configs" / "liquidation" / "okx-default.toml"}
SIMULATE: dict[str, Any] = {"mode": "simulate", "rules": RULES}
ALL = (*TABLES, "liquidated", "liquidations", "waterfall", "liquidation_totals")
CENT = 0.01


def config(dataset: Path, liquidation: dict[str, Any], **keys: Any) -> RunConfig:
    chosen = tiny_world.config(dataset, **keys)
    return RunConfig.model_validate(chosen.model_dump() | {"liquidation": liquidation})


def results(out: Path) -> Results:
    found = {table: tiny_world.read(out, table) for table in ALL if (out / table).is_dir()}
    for table in ALL[len(TABLES) :]:
        if table in found:
            for name in found[table]:
                if isinstance(found[table][name].iloc[0], np.ndarray):
                    found[table][name] = [str(x.tolist()) for x in found[table][name]]
    # A file without any stage has another type than the others.
    found["events"]["stage"] = [str(x) for x in found["events"]["stage"]]
    return found


def ran(dataset: Path, out: Path, num_devices: int = 1, **keys: Any) -> Results:
    tiny_world.replay(config(dataset, SIMULATE, **keys), out, num_devices)
    return results(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("simulate")


def poor(root: Path, buckets: int = 2) -> Path:
    """The world with a third of the cash."""
    cash = tiny_world.balances()
    cash["cash"] *= 0.3
    return tiny_world.write(root, buckets, balances=cash)


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Path:
    return poor(folder / "world")


@pytest.fixture(scope="module")
def measured(dataset: Path, folder: Path) -> Results:
    tiny_world.replay(config(dataset, {}), folder / "measured")
    return results(folder / "measured")


@pytest.fixture(scope="module")
def base(dataset: Path, folder: Path) -> Results:
    return ran(dataset, folder / "base")


def test_who_comes_to_the_trigger_is_liquidated_and_goes_on(base: Results, measured: Results):
    """What liquidation took is seen from the next time on; some come back a second time."""
    done, events = base["liquidated"], base["events"]
    assert set(done["status"]) == {"safe"}
    assert done["account_id"].duplicated().any()
    assert (done["level_before"] <= 1.0).all()
    assert (done["level_after"] > 1.1).all()
    triggers = events[events["event"] == "liquidation"]
    assert triggers[["account_id", "time"]].to_numpy().tolist() == (
        done[["account_id", "time"]].to_numpy().tolist()
    )
    assert triggers["stage"].tolist() == done["last_stage"].astype(str).tolist()
    first = done.drop_duplicates("account_id")
    before = measured["events"][measured["events"]["event"] == "liquidation"]
    before = before.drop_duplicates("account_id")
    assert first["account_id"].tolist() == before["account_id"].tolist()
    assert first["time"].tolist() == before["time"].tolist()


def test_equity_falls_by_costs_alone(base: Results):
    for rows in (base["liquidated"], base["liquidations"]):
        names = [
            ["equity_before_usd", "equity_usd_before"],
            ["equity_after_usd", "equity_usd_after"],
        ]
        before, after = (next(n for n in pair if n in rows) for pair in names)
        lost = rows[before] - rows[after] - rows["fee_usd"] - rows["slippage_usd"]
        assert np.abs(lost).max() < CENT / 2
    steps = base["liquidations"]
    assert (steps["mmr_usd_after"] < steps["mmr_usd_before"]).all()


def test_others_are_measured_to_the_bit(base: Results, measured: Results):
    changed = set(base["liquidated"]["account_id"])
    assert 0 < len(changed) < tiny_world.NUM_ACCOUNTS
    kept = [
        {
            t: found[t][~found[t]["account_id"].isin(changed)].reset_index(drop=True)
            for t in ("traces", "events", "accounts")
        }
        for found in (base, measured)
    ]
    same_bits(*kept, tables=("traces", "events", "accounts"))


def test_measuring_writes_no_liquidations(measured: Results):
    assert set(measured) == set(TABLES)


def test_any_number_of_buckets(base: Results, folder: Path):
    other = poor(folder / "world-5", buckets=5)
    same_bits(base, ran(other, folder / "out-5"), ALL)


def test_eight_devices_and_small_tiles(base: Results, folder: Path, dataset: Path):
    engine = {"tile_accounts": 64}
    same_bits(base, ran(dataset, folder / "out-devices", 8, engine=engine), ALL)


def test_short_windows_killed_and_run_again(base: Results, folder: Path, dataset: Path):
    """What liquidation left goes from window to window; then without the last two windows."""
    engine, out = {"window_times": 4}, folder / "killed"
    same_bits(base, ran(dataset, out, engine=engine), ALL)
    for window in ("w00001", "w00002"):
        shutil.rmtree(out / "cells" / window)
        for file in out.glob(f"*/*{window}.parquet"):
            file.unlink()
    for name in ("accounts", "waterfall", "liquidation_totals"):
        shutil.rmtree(out / name)
    same_bits(base, ran(dataset, out, engine=engine), ALL)
    assert json.loads((out / "manifest.json").read_text())["cells"]["computed"] == 4
