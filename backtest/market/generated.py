"""Builds a market dataset from a seed alone: no external file, the same bytes every time."""

from pathlib import Path

import numpy as np

from backtest.dataset import Dataset
from backtest.errors import ConfigError
from backtest.market.black import FloatArray, IntArray
from backtest.market.config import GeneratedConfig
from backtest.market.derivatives import mark_sources
from backtest.market.history import alive_counts, option_surface
from backtest.market.options import SurfaceOptionMarks
from backtest.market.series import HOUR_US, microseconds_of
from backtest.market.simulate import (
    RandomMarket,
    coin_config,
    depeg_path,
    simulate,
    volatility_level,
)
from backtest.market.state import CoinState, MarketState, RateCarry
from backtest.market.writing import write_market


FUNDING_US = 8 * HOUR_US
_INTEREST = 0.0001
_CLAMP = 0.0005
_MAX_FUNDING = 0.0075


def build_generated(config: GeneratedConfig, out: Path) -> Dataset:
    """Build the dataset under ``out`` (a folder that does not hold one)."""
    surface = option_surface(config.option_coins, config.coins)
    state = generated_state(config)
    options = [
        SurfaceOptionMarks(state, c, config.options, surface.coins[c]) for c in config.option_coins
    ]
    provenance: dict[str, object] = {
        "kind": "generated",
        "everything": "assumed: drawn at random, no market data",
        "seed": config.seed,
        "config": config.model_dump(mode="json", exclude={"kind"}),
        "options": {
            "surface": f"shape fitted on {surface.provenance['fitted_on']}; level generated",
            "alive_at_once": alive_counts(options),
        },
    }
    return write_market(out, state, [*mark_sources(state, config), *options], provenance)


def generated_state(config: GeneratedConfig) -> MarketState:
    """The random market on its grid."""
    step = int(config.interval.total_seconds() * 1_000_000)
    first, last = microseconds_of(config.start), microseconds_of(config.end)
    grid = np.arange(first, last + 1, step, dtype=np.int64)
    if len(grid) < 2:
        raise ConfigError(f"[market] interval = {config.interval}: longer than the window")
    drawn = simulate(config, grid)
    cash = {c: depeg_path(config.depeg, c, grid) for c in ("USDT", "USDC")}
    cash["USD"] = np.ones(len(grid))
    carry = RateCarry(grid, drawn.basis_ann)
    coins: dict[str, CoinState] = {}
    for column, coin in enumerate(config.coins):
        index = drawn.price_usd[:, column]
        perp = index * (1.0 + drawn.premium[:, column]) / cash["USDT"]
        before = np.append(perp[:1], perp[:-1])
        level = _level(config, drawn, coin, step) if coin in config.option_coins else None
        usual = None if level is None else np.full(len(grid), _usual(config, coin))
        coins[coin] = CoinState(
            coin,
            index,
            perp,
            np.minimum(perp, before) * drawn.low_share[:, column],
            np.maximum(perp, before) * drawn.high_share[:, column],
            funding_path(grid, drawn.premium[:, column]),
            carry,
            level,
            usual,
        )
    return MarketState(grid, step, coins, cash)


def funding_path(grid: IntArray, premium: FloatArray) -> FloatArray:
    """Funding rate (fraction, 8 hours) at 00, 08 and 16 UTC from the mean premium since the last.

    ``rate = p + clamp(0.01 % - p, +-0.05 %)``, capped at 0.75 %; NaN at other times.
    """
    slot = -(-grid // FUNDING_US)
    starts = np.append(0, np.flatnonzero(np.diff(slot)) + 1)
    count = np.diff(np.append(starts, len(grid)))
    mean = np.repeat(np.add.reduceat(premium, starts) / count, count)
    rate = mean + np.clip(_INTEREST - mean, -_CLAMP, _CLAMP)
    due = grid % FUNDING_US == 0
    return np.where(due, np.clip(rate, -_MAX_FUNDING, _MAX_FUNDING), np.nan)


def _level(config: GeneratedConfig, drawn: RandomMarket, coin: str, step: int) -> FloatArray:
    longrun = coin_config(config, coin).volatility_ann
    return volatility_level(drawn, longrun, step / (24 * HOUR_US))


def _usual(config: GeneratedConfig, coin: str) -> float:
    return 1.05 * coin_config(config, coin).volatility_ann
