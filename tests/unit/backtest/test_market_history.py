from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.dataset import Dataset
from backtest.errors import ConfigError, DataError
from backtest.market.build import build_market
from backtest.market.config import HistoryConfig
from backtest.market.series import times_of
from backtest.market.stablecoins import stablecoin_usd
from tests.unit.backtest.market_files import (
    END,
    FIRST,
    START,
    assert_same_until,
    index_of,
    instruments_of,
    marks_of,
    read,
    save,
    source_of,
    write_root,
)


HOUR: Any = pd.Timedelta("1h")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_root(tmp_path_factory.mktemp("real"))


def config(root: Path, **keys: object) -> HistoryConfig:
    base = {"kind": "history", "source": root, "start": START, "end": END}
    return HistoryConfig.model_validate(base | {"coins": ["BTC", "ETH", "SOL"]} | keys)


@pytest.fixture(scope="module")
def dataset(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_market(config(root), tmp_path_factory.mktemp("history") / "market")


def bars(root: Path, name: str) -> Any:
    return read(root, name).set_index("ts")


def test_a_close_is_known_when_its_bar_has_ended(root: Path, dataset: Dataset) -> None:
    index, marks = index_of(dataset), marks_of(dataset)
    spot = bars(root, "spot_1h/binance_BTCUSDT_1h")
    perp = bars(root, "perp_1h/binance_BTCUSDT_perp_1h")
    assert (index.index[0], index.index[-1]) == (START, END)
    for time in (START, START + 7 * HOUR, END):
        assert index.loc[time, "BTC"] == pytest.approx(
            spot.loc[time - HOUR, "close"] * index.loc[time, "USDT"], rel=1e-14
        )
        row = marks.loc[(time, "BTC-USDT-SWAP")]
        ended = perp.loc[time - HOUR]
        assert row["mark_price"] == ended["mark_close"]
        assert (row["low"], row["high"]) == (ended["mark_low"], ended["mark_high"])


def test_the_future_does_not_matter(root: Path, dataset: Dataset, tmp_path: Path) -> None:
    """Bars, indices and rates that end after a time are changed; rows up to it stay."""
    end = START + 30 * HOUR
    steps = {"spot_1h": "1h", "perp_1h": "1h", "stablecoin": "1D", "vol_index": "1D"}
    for path in root.rglob("*.parquet"):
        folder = path.parent.name
        frame: Any = pd.read_parquet(path)
        if folder in steps:
            step = pd.Timedelta("1h" if path.stem.endswith("_1h") else steps[folder])
            late = frame["ts"] + (0 * HOUR if "funding" in path.stem else step) > end
            numbers = frame.select_dtypes("number").columns
            frame.loc[late, numbers] *= 1.7
        save(tmp_path / "changed", path.relative_to(root).with_suffix("").as_posix(), frame)
    short = build_market(config(tmp_path / "changed", end=end), tmp_path / "short")
    assert_same_until(short, dataset, end)


def test_ending_earlier_changes_nothing_before(
    root: Path, dataset: Dataset, tmp_path: Path
) -> None:
    end = START + 41 * HOUR
    assert_same_until(build_market(config(root, end=end), tmp_path / "short"), dataset, end)


def test_three_perpetuals_of_a_coin(dataset: Dataset) -> None:
    index, marks = index_of(dataset), marks_of(dataset)["mark_price"].unstack()
    usd = marks["BTC-USDT-SWAP"] * index["USDT"]
    np.testing.assert_allclose(marks["BTC-USD-SWAP"], usd, rtol=1e-14)
    np.testing.assert_allclose(marks["BTC-USDC-SWAP"] * index["USDC"], usd, rtol=1e-14)
    table = instruments_of(dataset)
    assert table.loc["BTC-USDT-SWAP", "multiplier"] == 0.01
    assert tuple(table.loc["BTC-USD-SWAP", ["settle", "style", "multiplier"]]) == (
        "BTC",
        "inverse",
        100.0,
    )
    assert table.loc["SOL-USD-SWAP", "multiplier"] == 10.0
    assert table.loc["SOL-USDT", "kind"] == "spot"


def test_spot_stands_in_for_a_perpetual_and_says_so(
    root: Path, dataset: Dataset, tmp_path: Path
) -> None:
    spot = bars(root, "spot_1h/binance_SOLUSDT_1h")
    marks = marks_of(dataset)
    assert marks.loc[(END, "SOL-USDT-SWAP"), "mark_price"] == spot.loc[END - HOUR, "close"]
    assert any(k.startswith("derived: spot") for k in source_of(dataset)["perpetuals"]["SOL"])
    without = config(root, perpetuals={"fallback": "none"})
    names = marks_of(build_market(without, tmp_path / "none")).index.get_level_values(1)
    assert "SOL-USDT-SWAP" not in names
    assert "BTC-USDT-SWAP" in names


def test_funding_at_its_payment_time_only(root: Path, dataset: Dataset) -> None:
    rates = bars(root, "perp_1h/funding_binance_BTCUSDT_8h")["funding_rate"]
    paid = marks_of(dataset)["funding_rate"].dropna()
    btc = paid.xs("BTC-USDT-SWAP", level="instrument_id")
    pd.testing.assert_series_equal(
        btc, rates[START:END], check_index_type=False, check_names=False, check_freq=False
    )
    assert set(paid.index.get_level_values(1)) == {f"BTC-{q}-SWAP" for q in ("USDT", "USDC", "USD")}
    assert source_of(dataset)["perpetuals"]["BTC"]["funding"]["payments"] == 10


def test_a_daily_close_is_known_the_day_after(root: Path, dataset: Dataset) -> None:
    index = index_of(dataset)
    daily: Any = pd.read_parquet(root / "stablecoin/stablecoins_usd_daily.parquet").set_index("ts")
    for time in (START, START + 23 * HOUR, START + 24 * HOUR):
        day = time.floor("D") - pd.Timedelta("1D")
        assert index.loc[time, "USDT"] == daily.loc[day, "close"]
    assert (index["USDC"] == 1.0).all()
    assert list(source_of(dataset)["stablecoins"]["USDC"]) == ["assumed: 1.0"]


def test_volatility_index_as_known(root: Path, dataset: Dataset) -> None:
    """Hourly index while it lasts (BTC), yesterday's daily one afterwards."""
    levels = source_of(dataset)["options"]["level"]
    hourly_end = FIRST + 300 * HOUR
    real = levels["BTC"]["real: hourly vol_index"]
    assert pd.Timestamp(real["from"]) == START
    assert pd.Timestamp(real["to"]) == hourly_end + pd.Timedelta("1D")
    marks = marks_of(dataset)
    one = marks.loc[(START, slice(None)), :]
    later = marks.loc[(END, slice(None)), :]
    assert one["mark_iv"].dropna().between(0.2, 3.0).all()
    assert later["mark_iv"].dropna().between(0.2, 3.0).all()


def test_index_level_moves_options_only_when_it_is_known(root: Path, tmp_path: Path) -> None:
    """A jump of the daily index on one day shows from the next midnight on."""
    changed = tmp_path / "root"
    for path in root.rglob("*.parquet"):
        name = path.relative_to(root).with_suffix("").as_posix()
        if "dvol_btc_1h" not in name:
            save(changed, name, pd.read_parquet(path))
    daily: Any = pd.read_parquet(changed / "vol_index/deribit_dvol_daily.parquet")
    daily.loc[daily["ts"] == START, "close"] = 200.0
    save(changed, "vol_index/deribit_dvol_daily", daily)
    built = build_market(config(changed, coins=["BTC", "ETH"]), tmp_path / "out")
    iv = marks_of(built)["mark_iv"].dropna().groupby("time").median()
    assert iv[: START + 23 * HOUR].max() < 1.2
    assert iv[START + 24 * HOUR] > 1.5


def test_realised_volatility_where_there_is_no_index(root: Path, tmp_path: Path) -> None:
    plain = tmp_path / "root"
    for path in (root / "spot_1h").glob("*.parquet"):
        save(plain, f"spot_1h/{path.stem}", pd.read_parquet(path))
    built = build_market(config(plain), tmp_path / "out")
    (label,) = source_of(built)["options"]["level"]["BTC"]
    assert label.startswith("derived: trailing realised volatility")
    # 0.4 % an hour is 37 % a year
    iv = marks_of(built)["mark_iv"].dropna()
    assert 0.3 < iv.median() < 0.8
    assert source_of(built)["perpetuals"]["BTC"]["funding"]["payments"] == 0


def test_missing_bars_stay_missing_and_are_counted(root: Path, tmp_path: Path) -> None:
    changed = tmp_path / "root"
    hole, both = START + 5 * HOUR, START + 9 * HOUR
    for path in root.rglob("*.parquet"):
        frame: Any = pd.read_parquet(path)
        if path.parent.name == "spot_1h":
            gone = [both, hole] if "BTC" in path.stem else [both]
            frame = frame[~(frame["ts"] + HOUR).isin(gone)]
        save(changed, path.relative_to(root).with_suffix("").as_posix(), frame)
    built = build_market(config(changed), tmp_path / "out")
    index, marks = index_of(built), marks_of(built)
    assert both not in index.index
    assert np.isnan(index.loc[hole, "BTC"])
    assert index.loc[hole, "ETH"] > 0
    ids = marks.loc[hole].index
    assert not ids.str.match(r"BTC-USD-\d{6}").any()
    assert ids.str.match(r"ETH-USD-\d{6}").any()
    gaps = source_of(built)["gaps"]
    assert gaps["grid_times_without_any_bar"] == 1
    assert gaps["bars_missing_by_coin"] == {"BTC": 1}


def test_five_minute_window(root: Path, tmp_path: Path) -> None:
    keys = {"bars": "crash_windows/test_5m", "coins": ["BTC", "ETH"], "end": START + 6 * HOUR}
    built = build_market(config(root, **keys), tmp_path / "out")
    assert built.meta.interval_seconds == 300
    index, marks = index_of(built), marks_of(built)
    assert len(index) == 73
    window: Any = pd.read_parquet(root / "crash_windows/test_5m.parquet")
    eth = window[(window["venue"] == "binance_perp")].set_index("ts")
    time = START + pd.Timedelta("65min")
    row = marks.loc[(time, "ETH-USDT-SWAP")]
    assert row["mark_price"] == eth.loc[time - pd.Timedelta("5min"), "close"]
    # no 5-minute perpetual of BTC: spot at the last hour's premium of the mark (0.05 %)
    btc = marks.loc[(time, "BTC-USDT-SWAP"), "mark_price"] * index.loc[time, "USDT"]
    assert btc / index.loc[time, "BTC"] == pytest.approx(1.0005, rel=1e-12)
    with pytest.raises(ConfigError, match="no binance_spot bars of SOL"):
        build_market(config(root, bars="crash_windows/test_5m"), tmp_path / "bad")


def test_futures_on_the_recorded_curve_or_the_assumed_basis(root: Path, tmp_path: Path) -> None:
    start = START + 10 * HOUR
    built = build_market(config(root, start=start), tmp_path / "real")
    index, marks = index_of(built), marks_of(built)
    expiry = pd.Timestamp("2024-06-28T08:00Z")
    price = marks.loc[(END, "BTC-USD-240628"), "mark_price"]
    years = (expiry - END).total_seconds() / 86400 / 365
    assert np.log(price / index.loc[END, "BTC"]) / years == pytest.approx(0.06, abs=2e-4)
    linear = marks.loc[(END, "BTC-USDT-240628"), "mark_price"]
    assert linear * index.loc[END, "USDT"] == pytest.approx(price, rel=1e-14)
    keys = {"futures": {"basis": "assumed", "assumed_basis_ann": 0.10}, "start": start}
    assumed = marks_of(build_market(config(root, **keys), tmp_path / "assumed"))
    price = assumed.loc[(END, "BTC-USD-240628"), "mark_price"]
    assert np.log(price / index.loc[END, "BTC"]) / years == pytest.approx(0.10, rel=1e-9)
    option = assumed.loc[END].filter(like="BTC-USD-240628-", axis=0)["forward"]
    np.testing.assert_allclose(option, price, rtol=1e-14)


def test_finest_stablecoin_source_first(tmp_path: Path) -> None:
    start = pd.Timestamp("2023-03-10T00:00Z")
    day = pd.DataFrame({"ts": [start - pd.Timedelta("1D")], "close": [0.9]})
    daily = [day.assign(venue="coinmarketcap", pair=f"{c}/USD") for c in ("USDT", "USDC")]
    save(tmp_path, "stablecoin/stablecoins_usd_daily", pd.concat(daily))
    minutes = pd.DataFrame({"ts": pd.date_range(start + 2 * HOUR, periods=30, freq="min")})
    minutes = minutes.assign(venue="kraken", pair="USDC/USD", close=0.95)
    save(tmp_path, "stablecoin/2023-03_depeg_1m", minutes)
    hours = pd.DataFrame({"ts": pd.date_range(start, periods=10, freq="h"), "close": 1.01})
    hours.loc[7, "close"] = 3.99  # a wick: clipped to 20 % over the usual
    save(tmp_path, "stablecoin/binance_USDCUSDT_1h", hours)
    at = start + pd.to_timedelta([0, 60, 121, 149, 210, 480, 1440], unit="min")
    grid = times_of(pd.DataFrame({"ts": at}), "ts")
    values, origin = stablecoin_usd(tmp_path, grid, ("USDT", "USDC"))
    assert values["USDT"].tolist() == [0.9] * 7  # known until 25 h after its day's end
    np.testing.assert_allclose(values["USDC"], [0.9, 0.909, 0.95, 0.95, 0.95, 1.0908, 0.9])
    assert len(origin["USDC"]) == 3


def test_clear_errors(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        build_market(config(tmp_path / "nowhere"), tmp_path / "out")
    with pytest.raises(ConfigError, match="no bars of DOGE"):
        build_market(config(root, coins=["BTC", "ETH", "DOGE"]), tmp_path / "out")
    with pytest.raises(ConfigError, match="SOL; allowed here"):
        build_market(config(root, options={"coins": ["SOL"]}), tmp_path / "out")
    with pytest.raises(DataError, match="they cover"):
        build_market(config(root, start="2020-01-01T00:00Z", end="2020-02-01T00:00Z"), tmp_path)
    broken = tmp_path / "broken"
    save(broken, "spot_1h/binance_BTCUSDT_1h", pd.DataFrame({"ts": [START], "close": [1.0]}))
    with pytest.raises(DataError, match="column 'low' is missing"):
        build_market(config(broken, coins=["BTC"], options={"coins": ["BTC"]}), tmp_path / "out")
