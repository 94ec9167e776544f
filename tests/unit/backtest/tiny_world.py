"""A hand-made market of eight hours with six contracts, and runs of it through the main job."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pandas as pd

from backtest.config import RunConfig
from backtest.dataset import DatasetWriter
from backtest.run import run


ROOT = Path(__file__).parents[3]
PARAMS = ROOT / "configs" / "params" / "okx-merged-2025-01-21.toml"
START: Any = pd.Timestamp("2025-03-01T00:00:00Z")
HOURS = 8
TIMES: Any = pd.date_range(START, periods=HOURS + 1, freq="h")
SOON, LATE = START + pd.Timedelta(hours=3, minutes=30), START + pd.Timedelta(days=90)
SWAP, ETH, FUTURE, INVERSE, OLD_CALL, CALL = (
    "BTC-USDT-SWAP",
    "ETH-USDT-SWAP",
    "BTC-USDT-SOON",
    "BTC-USD-SOON",
    "BTC-USD-SOON-60000-C",
    "BTC-USD-LATE-70000-C",
)
IDS = [SWAP, ETH, FUTURE, INVERSE, OLD_CALL, CALL]
SPOT = "BTC-USDT"
BTC = 64_000.0 * (1 + 0.01 * np.asarray([0, 1, -1, 2, -3, -2, 0, 1, 2]))
ETH_USD = np.linspace(3_000.0, 2_800.0, HOURS + 1)
NUM_ACCOUNTS = 24


def instruments() -> pd.DataFrame:
    linear = {"style": "linear", "settle": "USDT", "multiplier": 1.0}
    inverse = {"style": "inverse", "settle": "BTC", "multiplier": 100.0}
    call = {"kind": "option", **inverse, "multiplier": 1.0, "option_type": "C"}
    rows = [
        {"instrument_id": SWAP, "kind": "perpetual", **linear},
        {"instrument_id": ETH, "kind": "perpetual", **linear, "coin": "ETH"},
        {"instrument_id": FUTURE, "kind": "future", **linear, "expiry": SOON},
        {"instrument_id": INVERSE, "kind": "future", **inverse, "expiry": SOON},
        {"instrument_id": OLD_CALL, **call, "expiry": SOON, "strike": 60_000.0},
        {"instrument_id": CALL, **call, "expiry": LATE, "strike": 70_000.0},
    ]
    base = {"coin": "BTC", "strike": np.nan, "option_type": None, "listed": None, "expiry": None}
    frame = pd.DataFrame([base | row for row in rows])
    for name in ("listed", "expiry"):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame


def index() -> pd.DataFrame:
    prices = {"BTC": BTC, "ETH": ETH_USD, "USDT": 1.0, "USD": 1.0}
    parts = [pd.DataFrame({"time": TIMES, "currency": c, "usd": p}) for c, p in prices.items()]
    return pd.concat(parts, ignore_index=True)


def marks() -> pd.DataFrame:
    prices = {SWAP: BTC + 5, ETH: ETH_USD + 1, FUTURE: BTC + 9, INVERSE: BTC + 8}
    options = {OLD_CALL: 0.08, CALL: 0.05}
    parts = []
    for name in IDS:
        is_option = name in options
        frame = pd.DataFrame(
            {
                "time": TIMES,
                "instrument_id": name,
                "mark_price": options[name] if is_option else prices[name],
                "low": np.nan,
                "high": np.nan,
                "forward": BTC + 50 if is_option else np.nan,
                "mark_iv": 0.6 if is_option else np.nan,
                "funding_rate": np.nan,
            }
        )
        gone = name in (FUTURE, INVERSE, OLD_CALL)
        parts.append(frame[frame["time"] < SOON] if gone else frame)
    return pd.concat(parts, ignore_index=True)


def name_of(k: int) -> str:
    return f"a{k:03d}"


def accounts() -> pd.DataFrame:
    ids = [name_of(k) for k in range(NUM_ACCOUNTS)]
    frame = pd.DataFrame({"account_id": ids, "borrow_mode": "auto", "spot_mode": None})
    return frame.assign(segment=[f"s{k % 2}" for k in range(NUM_ACCOUNTS)])


def balances() -> pd.DataFrame:
    rows = []
    for k in range(NUM_ACCOUNTS):
        in_coin = IDS[k % 6] in (INVERSE, OLD_CALL, CALL)
        cash = (1.0 + k / 10) if in_coin else 20_000.0 + 1_000.0 * k
        rows.append((START, name_of(k), "BTC" if in_coin else "USDT", cash, np.nan))
    return pd.DataFrame(rows, columns=["time", "account_id", "currency", "cash", "spot_limit"])


def positions() -> pd.DataFrame:
    """Account k holds contract ``k mod 6``, every second one short."""
    entry = {SWAP: 64_500.0, ETH: 2_990.0, FUTURE: 64_300.0, INVERSE: 63_900.0}
    rows = []
    for k in range(NUM_ACCOUNTS):
        size = (100.0 if IDS[k % 6] == INVERSE else 1.0) * (-1) ** (k // 6)
        rows.append((START, name_of(k), IDS[k % 6], size, entry.get(IDS[k % 6], np.nan)))
    names = ["time", "account_id", "instrument_id", "contracts", "entry_price"]
    return pd.DataFrame(rows, columns=names)


TABLES: dict[str, Any] = {
    "instruments": instruments,
    "index": index,
    "marks": marks,
    "accounts": accounts,
    "balances": balances,
    "positions": positions,
}


def with_orders(*rows: tuple[str, str, float, float]) -> dict[str, Any]:
    """Tables with a spot pair and with orders: account, instrument, contracts, price."""
    pair = {"instrument_id": SPOT, "kind": "spot", "style": "linear", "settle": "USDT"}
    known = instruments()
    spot = pd.DataFrame([{**pair, "coin": "BTC", "multiplier": 1.0, "strike": np.nan}])
    spot = spot.reindex(columns=known.columns).astype(known.dtypes.to_dict())
    columns = ["account_id", "instrument_id", "contracts", "price"]
    orders = pd.DataFrame(list(rows), columns=columns).assign(time=START)
    return {"instruments": pd.concat([known, spot], ignore_index=True), "orders": orders}


def write(root: Path, buckets: int = 2, **tables: Any) -> Path:
    """The world as a dataset, with other rows where given."""
    writer = DatasetWriter(root, "tiny world", 3600, buckets, "made by hand")
    for name, rows in TABLES.items():
        getattr(writer, name)(tables.get(name, rows()))
    if "orders" in tables:
        writer.orders(tables["orders"])
    writer.finish()
    return root


def config(
    dataset: Path,
    *,
    engine: dict[str, Any] | None = None,
    sets: dict[str, Path] | None = None,
    **replay: Any,
) -> RunConfig:
    """A run of the world under some parameter files by name, today's rules by default."""
    files = {"today": PARAMS} if sets is None else sets
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "dataset": {"path": dataset},
            "replay": {"max_quarantined_share": 1.0, **replay},
            "parameter_sets": [{"name": n, "file": file} for n, file in files.items()],
            "traces": {"accounts": "all"},
            "engine": {"workers": 1, **(engine or {})},
        }
    )


@contextmanager
def devices(count: int) -> Iterator[None]:
    """The engine sees the first virtual devices only; programs are kept under ``build/``."""
    os.environ.setdefault("PMSTRESS_CACHE", str(ROOT / "build" / "cache"))
    some = jax.local_devices()[:count]
    with mock.patch.object(jax, "local_devices", return_value=some):
        yield


def cash_rows(held: dict[str, dict[str, float]]) -> list[tuple[Any, ...]]:
    """Rows of balances at the start: cash by account and currency, without spot limits."""
    return [
        (START, account, currency, cash, np.nan)
        for account, cash_of in held.items()
        for currency, cash in cash_of.items()
    ]


def replay(
    chosen: RunConfig, out: Path, num_devices: int = 1, code: str = "as it was"
) -> dict[str, Any]:
    """The manifest of a run on some virtual devices; ``code`` stands for the program's hash."""
    with devices(num_devices), mock.patch("backtest.run.source_hash", return_value=code):
        return run(chosen, out, workers=1)


def read(out: Path, table: str) -> Any:
    """All files of a result table, rows in the order of what identifies them."""
    files = sorted((out / table).glob("*.parquet"))
    frame = pd.concat([pd.read_parquet(f) for f in files], ignore_index=True)
    names = ("parameter_set", "account_id", "segment", "time", "event", "step")
    for name in frame.columns:
        if isinstance(frame[name].dtype, pd.CategoricalDtype):
            frame[name] = frame[name].astype(str)
    return frame.sort_values([n for n in names if n in frame], ignore_index=True)


def trace(out: Path, account: str) -> Any:
    """Path of one account, in time order."""
    rows = read(out, "traces")
    return rows[rows["account_id"] == account].sort_values("time", ignore_index=True)
