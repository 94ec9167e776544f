"""Rows of a tiny market with two accounts, for the tests of datasets."""

from pathlib import Path

import pandas as pd

from backtest.dataset import Dataset, DatasetWriter, utc


START = utc("2024-08-01T22:00:00Z")
SNAPSHOT = START
TIMES = [utc(START + pd.Timedelta(hours=hour)) for hour in range(5)]
CALL = "BTC-USD-240830-70000-C"
OLD_CALL = "BTC-USD-240801-60000-C"
SWAP = "BTC-USDT-SWAP"


def instruments() -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "instrument_id": [SWAP, CALL, OLD_CALL, "BTC-USDT"],
            "kind": ["perpetual", "option", "option", "spot"],
            "coin": "BTC",
            "settle": ["USDT", "BTC", "BTC", "USDT"],
            "style": ["linear", "inverse", "inverse", "linear"],
            "multiplier": [0.01, 0.01, 0.01, 1.0],
            "strike": [None, 70_000.0, 60_000.0, None],
            "option_type": [None, "C", "C", None],
            "listed": pd.NaT,
            "expiry": [None, "2024-08-30T08:00Z", "2024-08-01T08:00Z", None],
        }
    )
    for name in ("listed", "expiry"):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame


def index() -> pd.DataFrame:
    prices = {"BTC": 64_000.0, "USDT": 0.9995, "USD": 1.0}
    return pd.concat(
        [pd.DataFrame({"time": TIMES, "currency": c, "usd": p}) for c, p in prices.items()],
        ignore_index=True,
    )


def marks() -> pd.DataFrame:
    swap = pd.DataFrame({"time": TIMES, "instrument_id": SWAP, "mark_price": 64_010.0})
    call = pd.DataFrame(
        {
            "time": TIMES,
            "instrument_id": CALL,
            "mark_price": 0.02,
            "forward": 64_200.0,
            "mark_iv": [0.5, 0.5, None, 0.5, 0.5],
        }
    )
    frame = pd.concat([swap, call], ignore_index=True)
    return frame.assign(low=frame["mark_price"], high=None, funding_rate=0.0001).astype(
        {"high": "float64"}
    )


def accounts() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "account_id": ["alice", "bob"],
            "segment": "retail",
            "borrow_mode": ["auto", "non_auto"],
            "spot_mode": None,
        }
    )


def balances() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "time": SNAPSHOT,
            "account_id": ["alice", "bob", "bob"],
            "currency": ["USDT", "USDT", "BTC"],
            "cash": [1000.0, -5.0, 2.0],
            "spot_limit": [None, None, 1.0],
        }
    )


def positions() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "time": SNAPSHOT,
            "account_id": ["alice", "bob"],
            "instrument_id": [SWAP, CALL],
            "contracts": [-10.0, 3.0],
            "entry_price": [64_000.0, None],
        }
    )


def orders() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "time": SNAPSHOT,
            "account_id": ["alice", "alice"],
            "instrument_id": ["BTC-USDT", SWAP],
            "contracts": [1.0, -1.0],
            "price": [63_000.0, 65_000.0],
        }
    )


ROWS = {
    "instruments": instruments,
    "index": index,
    "marks": marks,
    "accounts": accounts,
    "balances": balances,
    "positions": positions,
    "orders": orders,
}


ACCOUNT_TABLES = ("accounts", "balances", "positions", "orders")


def at(frame: pd.DataFrame, times: list[pd.Timestamp]) -> pd.DataFrame:
    return pd.DataFrame(frame[frame["time"].isin(times)])


def write(
    root: Path, buckets: int = 4, without: tuple[str, ...] = (), **tables: pd.DataFrame
) -> Dataset:
    """The tiny dataset, with other rows where given, without some tables."""
    writer = DatasetWriter(root, "tiny", 3600, buckets, "made by hand")
    for name, rows in ROWS.items():
        if name not in without:
            getattr(writer, name)(tables.get(name, rows()))
    return writer.finish()
