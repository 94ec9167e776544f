"""A generated market with a crash, and accounts that fall into three shape classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from backtest.dataset import Dataset, DatasetWriter
from backtest.market.build import build_market
from backtest.market.config import MarketConfig


START: Any = pd.Timestamp("2025-03-03T00:00:00Z")
HOURS = 30
SECOND_SNAPSHOT: Any = START + pd.Timedelta(hours=13)
NUM_ACCOUNTS = 220
ORDERING = 11
"""Every so many accounts have open orders."""
MARKET: dict[str, Any] = {
    "kind": "generated",
    "seed": 3,
    "start": START.isoformat(),
    "end": (START + pd.Timedelta(hours=HOURS)).isoformat(),
    "interval": "1h",
    "coins": ["BTC", "ETH"],
    "crash": {"after": "10h", "duration": "6h", "depth": 0.25},
    "depeg": {"currency": "USDC", "after": "20h", "duration": "5h", "depth": 0.1},
}


def market(root: Path) -> Path:
    """The market alone, without accounts."""
    build_market(TypeAdapter(MarketConfig).validate_python(MARKET), root)
    return root


def add_accounts(root: Path, buckets: int, *, shuffle: int | None = None) -> Path:
    """The same accounts in any number of buckets, their rows in any order and many files."""
    dataset = Dataset.open(root)
    tables = account_tables(dataset)
    writer = DatasetWriter.reopen(root, buckets=buckets)
    for name, frame in tables.items():
        if shuffle is not None:
            frame = frame.sample(frac=1.0, random_state=shuffle).reset_index(drop=True)
        getattr(writer, name)(frame)
    writer.finish()
    return root


def account_tables(dataset: Dataset) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(17)
    contracts: Any = dataset.instruments().astype({"instrument_id": str, "kind": str, "coin": str})
    contracts = contracts.sort_values("instrument_id", ignore_index=True)
    marks: Any = dataset.marks(START, START).set_index("instrument_id")["mark_price"]
    marks.index = marks.index.astype(str)
    listed = contracts[contracts["instrument_id"].isin(list(marks.index))]
    positions: list[dict[str, Any]] = []
    balances: list[dict[str, Any]] = []
    for k in range(NUM_ACCOUNTS):
        name = f"acc{k:05d}"
        for time in (START, SECOND_SNAPSHOT):
            book = _linear(rng, listed) if k % 2 else _options(rng, listed)
            base = {"time": time, "account_id": name}
            for instrument, usd in book:
                row = contracts.loc[contracts["instrument_id"] == instrument].iloc[0]
                entry = marks[instrument] if k % 3 else np.nan
                size = _contracts(row, float(marks[instrument]), usd)
                kind = {"instrument_id": instrument, "contracts": size, "entry_price": entry}
                positions.append(base | kind)
            gross = sum(abs(usd) for _, usd in book)
            cash = gross * rng.uniform(0.1, 0.6)
            balances.append(base | {"currency": "USDT", "cash": cash, "spot_limit": np.nan})
    ids = [f"acc{k:05d}" for k in range(NUM_ACCOUNTS)]
    people = pd.DataFrame({"account_id": ids, "borrow_mode": "auto", "spot_mode": None})
    people["segment"] = [("retail", "maker", "fund")[k % 3] for k in range(NUM_ACCOUNTS)]
    return {
        "accounts": people,
        "balances": pd.DataFrame(balances),
        "positions": pd.DataFrame(positions),
        "orders": _orders(pd.DataFrame(positions), marks),
    }


def _orders(positions: Any, marks: Any) -> pd.DataFrame:
    """Half of a position closed or as much added, near the mark, in its first two contracts."""
    rng = np.random.default_rng(18)
    mine = positions[positions["account_id"].str.slice(3).astype(int) % ORDERING == 0]
    mine = mine.groupby(["account_id", "time"]).head(2)
    size = mine["contracts"] * rng.choice([-0.5, 1.0], len(mine))
    price = marks.loc[mine["instrument_id"]].to_numpy() * rng.uniform(0.98, 1.02, len(mine))
    names = ["time", "account_id", "instrument_id"]
    return mine[names].assign(contracts=size, price=price)


def _contracts(row: Any, mark: float, usd: float) -> float:
    if row["kind"] == "option":
        return float(np.round(usd / (row["multiplier"] * 80_000.0)) or 1.0)
    one = row["multiplier"] if row["style"] == "inverse" else row["multiplier"] * mark
    return float(np.round(usd / one) or 1.0)


def _pick(rng: np.random.Generator, rows: pd.DataFrame, count: int) -> list[tuple[str, float]]:
    names = rng.choice(rows["instrument_id"].to_numpy(str), count, replace=False)
    signs = rng.choice([-1.0, 1.0], count)
    return [
        (str(n), float(s * 10 ** rng.uniform(4.0, 6.5))) for n, s in zip(names, signs, strict=True)
    ]


def _linear(rng: np.random.Generator, rows: Any) -> list[tuple[str, float]]:
    coin = str(rng.choice(["BTC", "ETH"]))
    mine = rows[(rows["coin"] == coin) & rows["kind"].isin(["perpetual", "future"])]
    return _pick(rng, mine, 2)


def _options(rng: np.random.Generator, rows: Any) -> list[tuple[str, float]]:
    book = []
    for coin in ("BTC", "ETH"):
        mine = rows[rows["coin"] == coin]
        book += _pick(rng, mine[mine["kind"] == "option"], int(rng.integers(1, 7)))
        book += _pick(rng, mine[mine["kind"] == "perpetual"], 1)
    return book
