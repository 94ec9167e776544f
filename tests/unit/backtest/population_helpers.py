"""Small populations for the tests: markets, books, tables in the order of their keys."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from backtest.dataset import Dataset
from backtest.dataset_writer import DatasetWriter
from backtest.paths import PROJECT_ROOT
from backtest.population import (
    PopulationConfig,
)
from backtest.population.books import Books, Legs, Maker, draw_equity, make_books
from backtest.population.catalogue import OPTION, Catalogue, make_catalogue
from backtest.population.config import (
    ARCHETYPES,
)
from backtest.population.draws import Draws
from backtest.population.health import HealthModel
from backtest.population.registry import resolve_mix
from backtest.population.universe import Universe, make_universe
from tests.unit.backtest.small_market import SmallMarket, small_market


PARAMETERS = PROJECT_ROOT / "configs/params/okx-merged-2025-01-21.toml"
KEYS = {
    "accounts": ["account_id"],
    "positions": ["time", "account_id", "instrument_id"],
    "balances": ["time", "account_id", "currency"],
}


@cache
def market() -> SmallMarket:
    return small_market(24)


def write_market(root: Path, frames: SmallMarket) -> Path:
    writer = DatasetWriter(root, "small", 3600, 1, "made by hand")
    writer.instruments(frames.instruments)
    writer.index(frames.index)
    writer.marks(frames.marks)
    writer.finish()
    return root


def config(accounts: int, **more: Any) -> PopulationConfig:
    return PopulationConfig.model_validate({"accounts": accounts, "seed": 7, **more})


def every(condition: Any) -> bool:
    return bool(np.all(np.asarray(condition)))


def tables(root: Path) -> dict[str, pd.DataFrame]:
    """Account tables of all buckets and snapshots, in the order of their keys."""
    dataset = Dataset.open(root)
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in KEYS}
    for bucket in dataset.bucket_ids():
        parts["accounts"].append(dataset.accounts(bucket))
        for time in dataset.snapshot_times():
            parts["positions"].append(dataset.positions(time, bucket))
            parts["balances"].append(dataset.balances(time, bucket))
    out: dict[str, pd.DataFrame] = {}
    for name, frames in parts.items():
        frame = pd.concat(
            [f.astype({c: object for c in KEYS[name] if c != "time"}) for f in frames]
        )
        out[name] = frame.astype({c: object for c in frame if frame[c].dtype == "category"})
        out[name] = out[name].sort_values(KEYS[name]).reset_index(drop=True)
    return out


def same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    for name in KEYS:
        pd.testing.assert_frame_equal(one[name], other[name], check_exact=True)


def hour_of(frames: SmallMarket, hour: int) -> pd.Timestamp:
    return frames.times.tolist()[hour]


def universe_of(frames: SmallMarket, hour: int = 0) -> tuple[Catalogue, Universe]:
    catalogue = make_catalogue(frames.instruments, ["USDT", "USDC", "USD", "BTC", "ETH"])
    made = make_universe(catalogue, frames.index, frames.marks, hour_of(frames, hour), 1.0, 1.0)
    return catalogue, made


@cache
def maker_at(hour: int, drop: float = 0.0) -> Maker:
    settings_ = config(1)
    _, universe = universe_of(small_market(24, drop=drop) if drop else market(), hour)
    return Maker(universe, HealthModel(universe, settings_.health), settings_)


def books_of(maker: Maker, count: int, settings_: PopulationConfig | None = None) -> Books:
    settings_ = settings_ or maker.config
    maker = Maker(maker.universe, HealthModel(maker.universe, settings_.health), settings_)
    draws = Draws(settings_.seed, np.arange(count, dtype=np.int64), "start")
    archetype = draws.choice("archetype", resolve_mix(maker.universe, settings_).weights)
    return make_books(maker, draws, archetype, draw_equity(draws, settings_.size, archetype))


def of_kind(books: Books, name: str) -> tuple[np.ndarray, Legs]:
    rows = books.archetype == list(map(str, ARCHETYPES)).index(name)
    return np.flatnonzero(rows), books.legs.keep(rows[books.legs.account])


def portfolio(maker: Maker, books: Books, row: int) -> dict[str, Any]:
    """One account in the shape of a portfolio file."""
    universe, frames = maker.universe, market()
    names = universe.market.currencies
    legs = books.legs.keep(books.legs.account == row)
    known = frames.instruments.astype(object).where(frames.instruments.notna(), None)
    rows = {str(r["instrument_id"]): dict(r) for r in known.to_dict("records")}
    instruments, positions = [], []
    for at, contracts, entry in zip(legs.instrument, legs.contracts, legs.entry, strict=True):
        instrument = rows[str(universe.market.ids[at])]
        if instrument["expiry"] is not None:
            instrument["expiry"] = instrument["expiry"].isoformat()
        instruments.append(instrument)
        option = universe.market.kind[at] == OPTION
        positions.append(
            {
                "instrument_id": universe.market.ids[at],
                "contracts": float(contracts),
                "entry_price": float(entry if np.isfinite(entry) else universe.mark[at]),
                "mark_price": float(universe.mark[at]),
                "mark_iv": float(universe.iv[at]) if option else None,
                "forward": float(universe.forward[at]) if option else None,
            }
        )
    return {
        "time": hour_of(frames, 12).isoformat(),
        "index_usd": {n: float(v) for n, v in zip(names, universe.usd, strict=True)},
        "instruments": instruments,
        "positions": positions,
        "balances": {n: float(v) for n, v in zip(names, books.cash[row], strict=True)},
        "spot_limits": {
            n: float(v) for n, v in zip(names, books.limit[row], strict=True) if np.isfinite(v)
        },
        "borrow_mode": "auto",
        "spot_mode": None,
        "orders": [],
    }
