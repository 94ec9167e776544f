"""A made-up data root with the layout of real history, and helpers to read what was built.

Frames come back as ``Any``: what pandas returns from an index is more than its types say.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from backtest.dataset import Dataset
from backtest.market.black import option_coin_price


FIRST: Any = pd.Timestamp("2024-06-01", tz="UTC")
DAYS = 20
START: Any = pd.Timestamp("2024-06-12T00:00Z")
END: Any = pd.Timestamp("2024-06-15T00:00Z")
PRICES = {"BTC": 60_000.0, "ETH": 3_000.0, "SOL": 150.0}
SNAPSHOT_STEP = pd.Timedelta("6h")
CHAIN_OFFSET = pd.Timedelta("9min")


def bars(start: pd.Timestamp, count: int, step: str, price: float, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    moves = rng.standard_normal(count) * 0.004
    close = price * np.exp(np.cumsum(moves))
    before = np.append(price, close[:-1])
    spread = np.abs(rng.standard_normal((2, count))) * 0.001
    return pd.DataFrame(
        {
            "ts": pd.date_range(start, periods=count, freq=step),
            "open": before,
            "high": np.maximum(close, before) * (1 + spread[0]),
            "low": np.minimum(close, before) * (1 - spread[1]),
            "close": close,
            "volume": np.float32(1.0),
        }
    )


def write_root(root: Path) -> Path:
    """Hourly spot of three coins, a perpetual of BTC, funding, stablecoins, index, curve, chain."""
    hours = DAYS * 24
    for seed, (coin, price) in enumerate(PRICES.items()):
        spot = bars(FIRST, hours, "1h", price, seed)
        save(root, f"spot_1h/binance_{coin}USDT_1h", spot)
        if coin != "SOL":
            perp = spot.assign(close=spot["close"] * 1.001)
            for name in ("low", "high", "close"):
                perp[f"mark_{name}"] = spot[name] * 1.0005
            save(root, f"perp_1h/binance_{coin}USDT_perp_1h", perp)
    funding = pd.DataFrame({"ts": pd.date_range(FIRST, periods=DAYS * 3, freq="8h")})
    funding["funding_rate"] = np.linspace(-1e-4, 2e-4, len(funding))
    save(root, "perp_1h/funding_binance_BTCUSDT_8h", funding)
    _write_window(root)
    _write_rates(root)
    _write_chain(root)
    return root


def _write_window(root: Path) -> None:
    count = 5 * 24 * 12
    start: Any = pd.Timestamp("2024-06-11", tz="UTC")
    parts = [
        bars(start, count, "5min", price, 10 + k).assign(venue=venue, symbol=f"{coin}USDT")
        for k, (venue, coin, price) in enumerate(
            [
                ("binance_spot", "BTC", 60_000.0),
                ("binance_spot", "ETH", 3_000.0),
                ("binance_perp", "ETH", 3_001.0),
            ]
        )
    ]
    save(root, "crash_windows/test_5m", pd.concat(parts, ignore_index=True))


def _write_rates(root: Path) -> None:
    days = pd.date_range(FIRST, periods=DAYS, freq="D")
    daily = pd.DataFrame({"ts": days, "venue": "coinmarketcap", "pair": "USDT/USD"})
    daily["close"] = 0.99 + 0.0001 * np.arange(DAYS)
    save(root, "stablecoin/stablecoins_usd_daily", daily)
    hourly = bars(FIRST, 300, "1h", 60.0, 5)
    save(root, "vol_index/deribit_dvol_btc_1h", hourly)
    index = pd.concat(
        pd.DataFrame({"ts": days, "currency": c, "close": level + np.arange(DAYS)})
        for c, level in (("BTC", 55.0), ("ETH", 70.0))
    )
    save(root, "vol_index/deribit_dvol_daily", index)


def _write_chain(root: Path) -> None:
    times = pd.date_range(START - SNAPSHOT_STEP * 2, END, freq=SNAPSHOT_STEP) + CHAIN_OFFSET
    expiries = pd.to_datetime(["2024-06-13T08:00Z", "2024-06-28T08:00Z", "2024-09-27T08:00Z"])
    rows: list[dict[str, object]] = []
    curve: list[dict[str, object]] = []
    for k, time in enumerate(times):
        for coin in ("BTC", "ETH"):
            index = PRICES[coin] * (1 + 0.01 * np.sin(k))
            for expiry in expiries[expiries > time]:
                years = (expiry - time).total_seconds() / 86400 / 365
                forward = index * np.exp(0.06 * years)
                curve.append(
                    {
                        "ts": time,
                        "currency": coin,
                        "expiry": expiry,
                        "forward": forward,
                        "index_price": index,
                        "listed_future": True,
                    }
                )
                strikes = np.round(PRICES[coin] * np.array([0.8, 1.0, 1.2, 1.4][: 3 + (k > 4)]), 0)
                rows += _smile(time, coin, expiry, index, forward, strikes, 0.5 + 0.02 * (k % 3))
    save(root, "options_deribit/btc_eth_chain_2025-12_2026-08", pd.DataFrame(rows))
    save(root, "futures_curve/deribit_forward_curve", pd.DataFrame(curve))


def _smile(
    time: pd.Timestamp,
    coin: str,
    expiry: pd.Timestamp,
    index: float,
    forward: float,
    strikes: np.ndarray,
    iv: float,
) -> list[dict[str, object]]:
    years = (expiry - time).total_seconds() / 86400 / 365
    found: list[dict[str, object]] = []
    for right in ("C", "P"):
        marks = option_coin_price(
            forwards=np.full(len(strikes), forward),
            strikes=strikes,
            volatilities=np.full(len(strikes), iv),
            years=np.full(len(strikes), years),
            is_call=np.full(len(strikes), right == "C"),
        )
        for strike, mark in zip(strikes, marks, strict=True):
            absurd = right == "P" and strike == strikes[0]
            found.append(
                {
                    "ts": time,
                    "currency": coin,
                    "expiry": expiry,
                    "right": right,
                    "strike": np.float32(strike),
                    "index_price": index,
                    "forward": forward,
                    "mark_price": np.float32(mark + 1e-5),
                    "mark_iv": np.float32(0.0 if absurd else iv * 100),
                }
            )
    return found


def save(root: Path, name: str, frame: pd.DataFrame) -> None:
    path = root / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    times = {c: "datetime64[ms, UTC]" for c in ("ts", "expiry") if c in frame.columns}
    frame.astype(times).to_parquet(path, index=False)


def marks_of(dataset: Dataset) -> Any:
    """Marks with plain names, by time and instrument."""
    frame = dataset.marks().astype({"instrument_id": str})
    return frame.set_index(["time", "instrument_id"]).sort_index()


def index_of(dataset: Dataset) -> Any:
    """Index prices, one column a currency."""
    return (
        dataset.index()
        .astype({"currency": str})
        .pivot(index="time", columns="currency", values="usd")
    )


def instruments_of(dataset: Dataset) -> Any:
    return dataset.instruments().astype({"instrument_id": str}).set_index("instrument_id")


def source_of(dataset: Dataset) -> Any:
    """The provenance record."""
    return dataset.meta.source


def read(root: Path, name: str) -> Any:
    """A file of the made-up data."""
    return pd.read_parquet(root / f"{name}.parquet")


def assert_same_until(short: Dataset, long: Dataset, end: pd.Timestamp) -> None:
    """Everything up to ``end`` is the same in both; only later listings differ."""
    index = index_of(long)
    pd.testing.assert_frame_equal(index_of(short), index[index.index <= end])
    marks = marks_of(long)
    pd.testing.assert_frame_equal(
        marks_of(short), marks[marks.index.get_level_values("time") <= end]
    )
    instruments = instruments_of(long)
    known = instruments[instruments["listed"].isna() | (instruments["listed"] <= end)]
    pd.testing.assert_frame_equal(instruments_of(short).sort_index(), known.sort_index())
