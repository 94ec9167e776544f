"""Spot modes and resting orders of a synthetic population."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backtest.dataset import Dataset
from backtest.population import build_population
from backtest.quality import check
from tests.unit.backtest.population_helpers import config, every, market, tables, write_market


ORDERS = {"share": 0.5, "most": 3, "distance": 0.02}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("market") / "bare", market())


def orders_of(root: Path) -> pd.DataFrame:
    dataset = Dataset.open(root)
    rows = [
        dataset.orders(time, bucket)
        for time in dataset.snapshot_times()
        for bucket in dataset.bucket_ids()
    ]
    names = ["account_id", "instrument_id", "price"]
    frame = pd.concat(rows, ignore_index=True)
    frame = frame.astype({"account_id": str, "instrument_id": str})
    return frame.sort_values(names, ignore_index=True)


def built(bare: Path, root: Path, buckets: int, **more: object) -> Path:
    shutil.copytree(bare, root)
    build_population(root, config(600, buckets=buckets, **more))
    return root


def test_orders_are_valid_rows_near_the_mark_and_do_not_depend_on_buckets(
    bare: Path, tmp_path: Path
):
    one = built(bare, tmp_path / "one", 1, orders=ORDERS)
    many = built(bare, tmp_path / "many", 5, orders=ORDERS)
    assert check(Dataset.open(one)).quarantined == 0
    found = orders_of(one)
    pd.testing.assert_frame_equal(found, orders_of(many), check_exact=True)

    orders_each = Counter(found["account_id"].tolist())
    positions = tables(one)["positions"]
    holders = set(positions["account_id"].astype(str))
    assert max(orders_each.values()) <= ORDERS["most"]
    assert 0.3 < len(orders_each) / len(holders) < 0.7
    time = Dataset.open(one).snapshot_times()[0]
    marks = Dataset.open(one).marks(time, time)
    mark = marks.set_index(marks["instrument_id"].astype(str))["mark_price"]
    ratio = found["price"].to_numpy() / mark.loc[found["instrument_id"]].to_numpy()
    assert every(np.sign(1 - ratio) == np.sign(found["contracts"].to_numpy()))
    assert every(np.abs(ratio - 1) <= ORDERS["distance"])
    held = set(zip(positions["account_id"].astype(str), positions["instrument_id"], strict=True))
    assert set(zip(found["account_id"], found["instrument_id"], strict=True)) <= held


def test_without_a_share_there_are_no_orders(bare: Path, tmp_path: Path):
    assert not Dataset.open(built(bare, tmp_path / "none", 1)).has("orders")


def test_spot_goes_where_most_of_the_notional_settles(bare: Path, tmp_path: Path):
    found = tables(built(bare, tmp_path / "modes", 1))
    dataset = Dataset.open(tmp_path / "modes")
    instruments = dataset.instruments().set_index("instrument_id")
    positions = found["positions"]
    settle = instruments["settle"].astype(str).loc[positions["instrument_id"].astype(str)]
    family = settle.where(settle.isin(["USDT", "USDC"]), "USD").to_numpy()
    families: dict[str, set[str]] = {}
    for name, chosen in zip(positions["account_id"].astype(str), family, strict=True):
        families.setdefault(name, set()).add(str(chosen))
    of_one = {name: next(iter(chosen)) for name, chosen in families.items() if len(chosen) == 1}
    accounts = found["accounts"].set_index("account_id")["spot_mode"]
    assert len(of_one) > 100
    assert accounts.loc[list(of_one)].tolist() == list(of_one.values())
    without = set(accounts.index.astype(str)) - set(positions["account_id"].astype(str))
    assert without
    assert every(accounts.loc[sorted(without)].isna())
