"""Small windows of the real history, where it is at hand."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter

from backtest.market.bars import data_root
from backtest.market.build import build_market
from backtest.market.config import MarketConfig
from backtest.market.surface import SURFACE_FILE, default_surface
from backtest.market.surface_fit import refit
from backtest.paths import PROJECT_ROOT, real_data_root
from tests.unit.backtest.market_files import index_of, marks_of, source_of


ROOT = real_data_root()
needs_data = pytest.mark.skipif(ROOT is None, reason="no real market history (PMSTRESS_DATA)")
CONFIGS = ("usdc-2023-03", "crash-2024-08", "crash-2025-10", "feb-2026-chain", "demo")


def section(name: str, **keys: object) -> Any:
    text = (PROJECT_ROOT / "configs" / f"{name}.toml").read_text()
    return TypeAdapter(MarketConfig).validate_python(tomllib.loads(text)["market"] | keys)


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configurations_are_valid(name: str) -> None:
    found = section(name)
    assert found == section(name)


@needs_data
def test_crash_of_august_2024(tmp_path: Path) -> None:
    keys = {"start": "2024-08-05T00:00Z", "end": "2024-08-05T03:00Z"}
    built = build_market(section("crash-2024-08", **keys), tmp_path / "market")
    index, marks = index_of(built), marks_of(built)
    assert built.meta.interval_seconds == 300
    assert 49_000 < index["BTC"].min() < 56_000
    perp = marks["mark_price"].unstack()["BTC-USDT-SWAP"] * index["USDT"] / index["BTC"] - 1
    assert perp.abs().max() < 0.003
    iv = marks["mark_iv"].dropna()
    assert iv.between(0.2, 3.5).all()
    assert not marks["mark_price"].isna().any()
    assert (source_of(built)["gaps"]["grid_times_without_any_bar"]) == 0


@needs_data
def test_chain_of_february_2026(tmp_path: Path) -> None:
    keys = {"start": "2026-02-05T15:00Z", "end": "2026-02-05T17:00Z", "coins": ["BTC", "ETH"]}
    built = build_market(section("feb-2026-chain", **keys), tmp_path / "market")
    snapshot = pd.Timestamp("2026-02-05T15:51:32Z")
    index, marks = index_of(built), marks_of(built)
    assert index.loc[snapshot, "BTC"] == pytest.approx(67_984.99)
    options = marks.loc[snapshot].dropna(subset=["mark_iv"])
    assert len(options) == 864 + 918
    coins = options.index.str[:3]
    for coin, count in (("BTC", 864), ("ETH", 918)):
        assert (coins == coin).sum() == count
    hour = marks.loc[pd.Timestamp("2026-02-05T16:00Z")].dropna(subset=["mark_iv"])
    assert list(hour.index) == list(options.index)
    drift = np.abs(hour["mark_price"] - options["mark_price"])
    assert drift.median() < 0.01


@needs_data
@pytest.mark.slow
def test_refit_reproduces_the_shipped_surface(tmp_path: Path) -> None:
    fit = refit(data_root(None), tmp_path / "surface.json")
    assert fit == default_surface()
    assert (tmp_path / "surface.json").read_text() == SURFACE_FILE.read_text()
