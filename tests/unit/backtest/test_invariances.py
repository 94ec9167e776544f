"""What must not change results, bit for bit: layout, devices, interruption, the future."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.dataset import Dataset, DatasetWriter
from backtest.errors import ConfigError
from tests.unit.backtest import generated_world, tiny_world
from tests.unit.backtest.generated_world import HOURS, NUM_ACCOUNTS, SECOND_SNAPSHOT, START


pytestmark = pytest.mark.slow
TABLES = ("traces", "events", "accounts", "summary")
Results = dict[str, Any]


def same_bits(one: Results, other: Results, tables: tuple[str, ...] = TABLES):
    for table in tables:
        pd.testing.assert_frame_equal(one[table], other[table], check_exact=True, obj=table)
        for name in one[table].select_dtypes("float"):
            bits = [x[table][name].to_numpy().view(np.int64) for x in (one, other)]
            nan = one[table][name].isna().to_numpy()
            assert (bits[0] == bits[1])[~nan].all(), (table, name)


def replayed(dataset: Path, out: Path, num_devices: int = 1, **keys: Any) -> Results:
    manifest = tiny_world.replay(tiny_world.config(dataset, **keys), out, num_devices)
    rows = manifest["rows"]
    assert rows["in"] == rows["scored"] + rows["unpriced"] + rows["quarantined"]
    return results(out)


def results(out: Path) -> Results:
    return {table: tiny_world.read(out, table) for table in TABLES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("invariances")


@pytest.fixture(scope="module")
def market(folder: Path) -> Path:
    return generated_world.market(folder / "market")


@pytest.fixture(scope="module")
def dataset(folder: Path, market: Path) -> Path:
    shutil.copytree(market, folder / "five")
    return generated_world.add_accounts(folder / "five", buckets=5)


@pytest.fixture(scope="module")
def base(folder: Path, dataset: Path) -> Results:
    """Five buckets, default tiles and windows, one device."""
    return replayed(dataset, folder / "base")


def until(found: Results, end: Any) -> Results:
    return {
        t: found[t][found[t]["time"] <= end].reset_index(drop=True) for t in ("traces", "events")
    }


def test_the_base_run_is_worth_comparing(base: Results):
    assert len(base["traces"]) == NUM_ACCOUNTS * (HOURS + 1)
    assert set(base["events"]["event"]) == {"warning", "liquidation", "recovered", "bankrupt"}
    assert (base["accounts"]["episodes"] > 0).sum() > 20
    assert (base["traces"]["status"] == "unpriced").sum() == 0
    assert np.isfinite(base["accounts"]["theta_mr1"]).any()


def test_some_accounts_have_orders(dataset: Path):
    found = Dataset.open(dataset)
    (first, *_) = found.snapshot_times()
    orders: Any = pd.concat([found.orders(first, b) for b in found.bucket_ids()])
    assert orders["account_id"].nunique() == NUM_ACCOUNTS // generated_world.ORDERING
    assert len(orders) > orders["account_id"].nunique()


def test_one_bucket_is_five(base: Results, folder: Path, market: Path):
    shutil.copytree(market, folder / "one")
    other = generated_world.add_accounts(folder / "one", buckets=1)
    assert Dataset.open(other).bucket_ids() == [0]
    same_bits(base, replayed(other, folder / "out-one"))


def test_order_of_rows(base: Results, folder: Path, market: Path):
    """Accounts and market in another order, market rows split over several files."""
    rows = Dataset.open(market)
    end = START + pd.Timedelta(hours=HOURS)
    writer = DatasetWriter(folder / "shuffled", "other order", 3600, 1, "shuffled")
    writer.instruments(rows.instruments().sample(frac=1.0, random_state=1))
    for seed, table in enumerate(("index", "marks")):
        frame = getattr(rows, table)(START, end).sample(frac=1.0, random_state=seed)
        getattr(writer, table)(frame.iloc[::2])
        getattr(writer, table)(frame.iloc[1::2])
    writer.finish()
    other = generated_world.add_accounts(folder / "shuffled", buckets=5, shuffle=9)
    same_bits(base, replayed(other, folder / "out-shuffled"))


@pytest.mark.parametrize("engine", [{"tile_accounts": 128}, {"window_times": 10}])
def test_tile_and_window_size(engine: dict[str, Any], base: Results, folder: Path, dataset: Path):
    out = folder / f"out-{next(iter(engine))}"
    same_bits(base, replayed(dataset, out, engine=engine))


def test_eight_devices_are_one(base: Results, folder: Path, dataset: Path):
    engine = {"tile_accounts": 64}
    same_bits(base, replayed(dataset, folder / "out-devices", 8, engine=engine))


@pytest.mark.parametrize("hours", [9, 14, 25])
def test_an_earlier_end_never_changes_earlier_results(
    hours: int, base: Results, folder: Path, dataset: Path
):
    end = START + pd.Timedelta(hours=hours)
    short = replayed(dataset, folder / f"out-end-{hours}", end=end.isoformat())
    same_bits(until(base, end), until(short, end), ("traces", "events"))
    assert short["traces"]["time"].max() == end


def test_an_earlier_end_of_the_data_never_changes_earlier_results(
    base: Results, folder: Path, market: Path
):
    """The files themselves end earlier: no later row was looked at."""
    rows, end = Dataset.open(market), START + pd.Timedelta(hours=16)
    writer = DatasetWriter(folder / "cut", "cut", 3600, 1, "cut")
    writer.instruments(rows.instruments())
    writer.index(rows.index(START, end))
    writer.marks(rows.marks(START, end))
    writer.finish()
    cut = replayed(generated_world.add_accounts(folder / "cut", 5), folder / "out-cut")
    same_bits(until(base, end), until(cut, end), ("traces", "events"))


FOLLOWS = """
extends = "{base}"
name = "follows"
description = "moves that follow the volatility of the last hours"

[mr1.price_moves.G1]
value = [0.0, 0.04, 0.08, 0.12]
unit = "fraction"
label = "A"
source = "example"
rule = {{ driver = "realised_volatility", currency = "BTC", lookback = "10h", reference = 0.3, \
floor = 0.2, cap = 5.0 }}
"""


def test_parameters_that_follow_the_market_see_no_future(folder: Path, dataset: Path):
    file = folder / "follows.toml"
    file.write_text(FOLLOWS.replace("\\\n", "").format(base=tiny_world.PARAMS))
    end, sets = START + pd.Timedelta(hours=17), {"follows": file}
    whole = replayed(dataset, folder / "follows", sets=sets)
    short = replayed(dataset, folder / "follows-short", sets=sets, end=end.isoformat())
    same_bits(until(whole, end), until(short, end), ("traces", "events"))
    paths = [
        pd.read_parquet(folder / name / "report_data" / "parameter_paths.parquet")
        for name in ("follows", "follows-short")
    ]
    before = np.flatnonzero(pd.DatetimeIndex(paths[0]["time"]) <= end)
    seen = paths[0].take(before).reset_index(drop=True)
    pd.testing.assert_frame_equal(seen, paths[1], check_exact=True)
    assert len(np.unique(paths[0]["value"].to_numpy())) > 3


def test_actual_is_frozen_until_the_next_snapshot(base: Results, folder: Path, dataset: Path):
    actual = replayed(dataset, folder / "out-actual", mode="actual")
    before = SECOND_SNAPSHOT - pd.Timedelta(hours=1)
    same_bits(until(base, before), until(actual, before), ("traces", "events"))
    after = [
        x["traces"][x["traces"]["time"] > before].reset_index(drop=True) for x in (base, actual)
    ]
    assert len(after[0]) == len(after[1])
    assert not after[0]["total_mmr"].equals(after[1]["total_mmr"])


@pytest.fixture
def finished(base: Results, folder: Path, tmp_path: Path) -> Path:
    """A copy of the base run's folder, to be damaged."""
    assert base
    return shutil.copytree(folder / "base", tmp_path / "run")


def cells(out: Path) -> list[Path]:
    return sorted((out / "cells").rglob("*.cell"))


def drop_last_window(out: Path) -> int:
    """As if killed between windows: nothing of the end is there."""
    gone = sorted((out / "cells" / "w00001").glob("*.cell"))
    for path in gone:
        path.unlink()
    for name in ("manifest.json", "summary", "accounts"):
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return len(gone)


def drop_one_in_the_middle(out: Path) -> int:
    cells(out)[2].unlink()
    return 1


def drop_a_file_of_results(out: Path) -> int:
    """A cell whose traces are gone is not finished."""
    sorted((out / "traces").glob("*.parquet"))[0].unlink()
    return 1


def leave_half_written_files(out: Path) -> int:
    for path in (cells(out)[0], sorted((out / "traces").glob("*.parquet"))[0]):
        path.with_name(f".{path.name}.123.tmp").write_bytes(b"half")
    (out / "manifest.json").unlink()
    return 0


def drop_nothing(out: Path) -> int:
    return 0


@pytest.mark.parametrize(
    "damage",
    [
        drop_last_window,
        drop_one_in_the_middle,
        drop_a_file_of_results,
        leave_half_written_files,
        drop_nothing,
    ],
)
def test_killed_and_run_again(
    damage: Callable[[Path], int], finished: Path, base: Results, dataset: Path
):
    total, missing = len(cells(finished)), damage(finished)
    manifest = tiny_world.replay(tiny_world.config(dataset), finished)
    assert manifest["cells"]["computed"] == missing
    assert manifest["cells"]["reused"] == total - missing
    assert manifest["rows"]["in"] == NUM_ACCOUNTS * (HOURS + 1)
    same_bits(base, results(finished))
    assert json.loads((finished / "manifest.json").read_text())["run_id"] == manifest["run_id"]


def test_a_folder_of_another_run_is_refused(finished: Path, dataset: Path):
    other = tiny_world.config(dataset, interval="2h")
    with pytest.raises(ConfigError, match="holds another run") as caught:
        tiny_world.replay(other, finished)
    assert "config" in str(caught.value)
    with pytest.raises(ConfigError, match=r"holds another run \(different: code\)"):
        tiny_world.replay(tiny_world.config(dataset), finished, code="another")
    with pytest.raises(ConfigError, match="holds another run"):
        tiny_world.replay(tiny_world.config(dataset, engine={"tile_accounts": 256}), finished)


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, dataset: Path):
    keep = tmp_path / "letters" / "dear.txt"
    keep.parent.mkdir()
    keep.write_text("dear")
    with pytest.raises(ConfigError, match="not empty and no results folder"):
        tiny_world.replay(tiny_world.config(dataset), keep.parent)
    assert keep.read_text() == "dear"
