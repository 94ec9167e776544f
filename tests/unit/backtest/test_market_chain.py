from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import QuantLib as ql

from backtest.dataset import Dataset
from backtest.errors import ConfigError, DataError
from backtest.market.build import build_market
from backtest.market.config import ChainConfig
from tests.unit.backtest.market_files import (
    CHAIN_OFFSET,
    END,
    START,
    assert_same_until,
    index_of,
    instruments_of,
    marks_of,
    save,
    source_of,
    write_root,
)


HOUR: Any = pd.Timedelta("1h")
CHAIN = "options_deribit/btc_eth_chain_2025-12_2026-08.parquet"
SNAPSHOT = START + 6 * HOUR + CHAIN_OFFSET


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_root(tmp_path_factory.mktemp("real"))


def config(root: Path, **keys: object) -> ChainConfig:
    base = {"kind": "chain", "source": root, "start": START, "end": END}
    return ChainConfig.model_validate(base | {"coins": ["BTC", "ETH", "SOL"]} | keys)


@pytest.fixture(scope="module")
def dataset(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_market(config(root), tmp_path_factory.mktemp("chain") / "market")


def recorded(root: Path, time: pd.Timestamp, coin: str) -> Any:
    chain: Any = pd.read_parquet(root / CHAIN)
    own = chain[(chain["ts"] == time) & (chain["currency"] == coin)].copy()
    own["instrument_id"] = [
        f"{coin}-USD-{e:%y%m%d}-{k:.0f}-{r}"
        for e, k, r in zip(own["expiry"], own["strike"], own["right"], strict=True)
    ]
    return own.set_index("instrument_id").sort_index()


def options_at(dataset: Dataset, time: pd.Timestamp, coin: str) -> Any:
    found = marks_of(dataset).loc[time]
    return found[found.index.str.match(rf"{coin}-USD-\d{{6}}-")]


def test_snapshots_are_reproduced_exactly(root: Path, dataset: Dataset) -> None:
    for coin in ("BTC", "ETH"):
        real, built = recorded(root, SNAPSHOT, coin), options_at(dataset, SNAPSHOT, coin)
        assert list(built.index) == list(real.index)
        np.testing.assert_array_equal(built["mark_price"], real["mark_price"].astype(float))
        np.testing.assert_array_equal(built["forward"], real["forward"])
        absurd = (real["mark_iv"] == 0).to_numpy()
        assert absurd.any()
        np.testing.assert_array_equal(built["mark_iv"].isna(), absurd)
        np.testing.assert_allclose(
            built["mark_iv"][~absurd], real["mark_iv"][~absurd].astype(float) / 100, rtol=1e-15
        )
        assert index_of(dataset).loc[SNAPSHOT, coin] == real["index_price"].median()


def test_between_snapshots_volatility_stays_and_the_forward_moves(
    root: Path, dataset: Dataset
) -> None:
    time = (SNAPSHOT + 3 * HOUR).floor("h")
    real, built = recorded(root, SNAPSHOT, "BTC"), options_at(dataset, time, "BTC")
    moved = index_of(dataset).loc[time, "BTC"] / real["index_price"].median()
    assert moved != 1.0
    known = real[real["mark_iv"] > 0]
    assert list(built.index) == list(known.index)  # those without a volatility are not carried
    np.testing.assert_allclose(built["forward"], known["forward"] * moved, rtol=1e-14)
    np.testing.assert_allclose(built["mark_iv"], known["mark_iv"].astype(float) / 100, rtol=1e-14)
    for name, row in built.iterrows():
        source = known.loc[name]
        years = (source["expiry"] - time).total_seconds() / 86400 / 365
        kind = ql.Option.Call if source["right"] == "C" else ql.Option.Put
        expected = ql.blackFormula(
            kind, float(source["strike"]), row["forward"], row["mark_iv"] * np.sqrt(years)
        )
        assert row["mark_price"] == pytest.approx(expected / row["forward"], rel=1e-9, abs=1e-14)


def test_options_appear_with_the_first_snapshot_that_has_them(dataset: Dataset) -> None:
    table = instruments_of(dataset)
    new = table[table.index.str.match(r"BTC-USD-240628-84000")]
    since = START - 12 * HOUR + 5 * 6 * HOUR + CHAIN_OFFSET
    assert (new["listed"] == since).all()
    assert len(new) == 2
    marks = marks_of(dataset).reset_index()
    first = marks[marks["instrument_id"].isin(new.index)].groupby("instrument_id")["time"].min()
    assert (first == since).all()


def test_expired_options_are_gone(dataset: Dataset) -> None:
    expiry = pd.Timestamp("2024-06-13T08:00Z")
    marks = marks_of(dataset).reset_index()
    last = marks[marks["instrument_id"].str.startswith("BTC-USD-240613-")]["time"].max()
    assert last == expiry - HOUR


def test_perpetuals_and_futures_at_a_snapshot(root: Path, dataset: Dataset) -> None:
    """The perpetual keeps its last premium on the new index, the future is on the curve."""
    index, marks = index_of(dataset), marks_of(dataset)["mark_price"]
    before = SNAPSHOT.floor("h")
    usd = {t: marks[(t, "BTC-USD-SWAP")] / index.loc[t, "BTC"] for t in (before, SNAPSHOT)}
    assert usd[SNAPSHOT] == pytest.approx(usd[before], rel=1e-14)
    real = recorded(root, SNAPSHOT, "BTC")
    real = real[real["expiry"] == pd.Timestamp("2024-06-28T08:00Z")]
    future = marks[(SNAPSHOT, "BTC-USD-240628")]
    assert future == pytest.approx(real["forward"].iloc[0], rel=1e-12)
    assert (SNAPSHOT, "SOL-USDT-SWAP") not in marks.index
    assert np.isnan(index.loc[SNAPSHOT, "SOL"])


def test_the_future_does_not_matter(root: Path, dataset: Dataset, tmp_path: Path) -> None:
    end = SNAPSHOT + 9 * HOUR
    changed = tmp_path / "root"
    for path in root.rglob("*.parquet"):
        frame: Any = pd.read_parquet(path)
        if path.parent.name in ("options_deribit", "futures_curve"):
            later = (frame["ts"] > end).to_numpy()
            numbers = [c for c in ("index_price", "forward", "mark_price", "mark_iv") if c in frame]
            frame.loc[later, numbers] *= 1.3
        save(changed, path.relative_to(root).with_suffix("").as_posix(), frame)
    assert_same_until(build_market(config(changed, end=end), tmp_path / "out"), dataset, end)


def test_without_snapshot_times_the_next_hour_takes_effect(root: Path, tmp_path: Path) -> None:
    built = build_market(config(root, include_snapshot_times=False), tmp_path / "hourly")
    assert (index_of(built).index.minute == 0).all()
    hour = SNAPSHOT.ceil("h")
    real, found = recorded(root, SNAPSHOT, "BTC"), options_at(built, hour, "BTC")
    moved = index_of(built).loc[hour, "BTC"] / real["index_price"].median()
    known = real[real["mark_iv"] > 0]
    np.testing.assert_allclose(found["forward"], known["forward"] * moved, rtol=1e-14)
    old = recorded(root, SNAPSHOT - 6 * HOUR, "BTC").query("mark_iv > 0")
    before = options_at(built, SNAPSHOT.floor("h"), "BTC")
    np.testing.assert_allclose(before["mark_iv"], old["mark_iv"].astype(float) / 100, rtol=1e-14)


def test_old_snapshots_price_nothing(root: Path, tmp_path: Path) -> None:
    built = build_market(config(root, max_age="2h"), tmp_path / "young")
    assert len(options_at(built, SNAPSHOT, "BTC"))
    assert len(options_at(built, (SNAPSHOT + 2 * HOUR).floor("h"), "BTC"))
    assert options_at(built, (SNAPSHOT + 3 * HOUR).floor("h"), "BTC").empty


def test_drift_is_measured_and_reported(root: Path, dataset: Dataset) -> None:
    drift: Any = pd.read_parquet(dataset.root / "drift.parquet").set_index(
        ["time", "instrument_id"]
    )
    own = drift.xs(SNAPSHOT, level="time")
    own = own[own["coin"] == "BTC"]
    before = recorded(root, SNAPSHOT - 6 * HOUR, "BTC").query("mark_iv > 0")
    now = recorded(root, SNAPSHOT, "BTC")
    assert set(own.index) == set(before.index)
    name = "BTC-USD-240628-60000-C"
    years = (before.loc[name, "expiry"] - SNAPSHOT).total_seconds() / 86400 / 365
    forward = (
        before.loc[name, "forward"] * now["index_price"].median() / before["index_price"].median()
    )
    deviation = float(before.loc[name, "mark_iv"]) / 100 * np.sqrt(years)
    carried = ql.blackFormula(ql.Option.Call, 60_000.0, forward, deviation) / forward
    assert own.loc[name, "carried_mark"] == pytest.approx(carried, rel=1e-9)
    assert own.loc[name, "drift_coin"] == pytest.approx(
        carried - float(now.loc[name, "mark_price"]), rel=1e-6
    )
    shown = source_of(dataset)["options"]["BTC"]["drift_coin"]
    sizes = drift[drift["coin"] == "BTC"]["drift_coin"].abs()
    assert shown["median"] == pytest.approx(sizes.median(), abs=1e-6)
    assert shown["max"] == pytest.approx(sizes.max(), abs=1e-6)


def test_window_without_snapshots_is_refused(root: Path, tmp_path: Path) -> None:
    keys = {"start": "2024-06-18T00:00Z", "end": "2024-06-19T00:00Z"}
    with pytest.raises(DataError, match=r"no BTC snapshot between .* the file covers 2024-06-11"):
        build_market(config(root, **keys), tmp_path / "out")
    with pytest.raises(ConfigError, match="one or more of"):
        build_market(config(root, coins=["SOL"]), tmp_path / "out")
