"""Builds a market dataset from real bars; options are marked from a fitted volatility surface."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from backtest.dataset import Dataset
from backtest.errors import ConfigError, DataError
from backtest.market.bars import SPOT_HOURLY, Bars, data_root, spot_bars
from backtest.market.black import IntArray
from backtest.market.config import ChainConfig, HistoryConfig, MarketSection
from backtest.market.curves import coin_carry
from backtest.market.derivatives import mark_sources
from backtest.market.options import SurfaceOptionMarks
from backtest.market.perpetuals import perpetual_path
from backtest.market.series import HOUR_US, Known, microseconds_of, timestamps
from backtest.market.stablecoins import stablecoin_usd
from backtest.market.state import CoinState, MarketState
from backtest.market.surface import SurfaceFit, default_surface
from backtest.market.volatility import LevelHistory
from backtest.market.writing import write_market


STABLECOINS = ("USDT", "USDC")
_SHOWN_GAPS = 20


def build_history(config: HistoryConfig, out: Path) -> Dataset:
    """Build the dataset under ``out`` (a folder that does not hold one)."""
    root = data_root(config.source)
    surface = option_surface(config.option_coins, config.coins)
    state, provenance = real_state(root, config, np.zeros(0, np.int64))
    levels: dict[str, object] = {}
    coins = dict(state.coins)
    for coin in config.option_coins:
        history = LevelHistory(
            root,
            coin,
            surface.coins[coin],
            hourly_closes(root, config, coin),
            config.options.assumed_level_ann,
        )
        level, usual, origin = history.on(state.times)
        coins[coin] = replace(coins[coin], level=level, usual_level=usual)
        levels[coin] = origin
    state = replace(state, coins=coins)
    options = [
        SurfaceOptionMarks(state, c, config.options, surface.coins[c]) for c in config.option_coins
    ]
    provenance["options"] = {
        "listing": "assumed: a venue's calendar and strike ladder, from past prices only",
        "marks": "derived: undiscounted Black-76 at the surface's volatility",
        "surface": f"fitted on {surface.provenance['fitted_on']}, "
        f"{surface.provenance['from']} to {surface.provenance['to']}; assumed to hold elsewhere",
        "level": levels,
        "alive_at_once": alive_counts(options),
    }
    return write_market(out, state, [*mark_sources(state, config), *options], provenance)


def option_surface(options: tuple[str, ...], coins: tuple[str, ...]) -> SurfaceFit:
    """The fitted surfaces, once every option coin is known to have one and to be in the market."""
    surface = default_surface()
    for coin in options:
        if coin not in surface.coins or coin not in coins:
            allowed = sorted(set(surface.coins) & set(coins))
            raise ConfigError(f"[market] coins with options: {coin}; allowed here: {allowed}")
    return surface


def alive_counts(options: list[SurfaceOptionMarks]) -> dict[str, dict[str, int]]:
    """Smallest and largest number of options alive at a time by coin."""
    found: dict[str, dict[str, int]] = {}
    for source in options:
        if len(source.instruments):
            alive = source.alive()
            found[str(source.instruments["coin"].iloc[0])] = {
                "min": int(alive.min()),
                "max": int(alive.max()),
            }
    return found


def hourly_closes(root: Path, config: HistoryConfig, coin: str) -> Known:
    """Hourly spot closes by the time they were known; without hourly bars, those at hand."""
    hourly = (root / SPOT_HOURLY).is_dir()
    bars = spot_bars(root, SPOT_HOURLY if hourly else config.bars, config.venue, coin)
    known = bars.known
    on_hour = known.times % HOUR_US == 0
    return Known(known.times[on_hour], known.values[on_hour])


def real_state(
    root: Path, config: HistoryConfig | ChainConfig, extra_times: IntArray
) -> tuple[MarketState, dict[str, object]]:
    """Index, perpetuals, funding and carry of all coins from real bars.

    Args:
        root: data root.
        config: coins, window, bars.
        extra_times: more grid times (microseconds) at which bars are NaN.
    """
    spots = {c: spot_bars(root, config.bars, config.venue, c) for c in config.coins}
    bar_grid, step = _grid(spots, config)
    grid = np.union1d(bar_grid, extra_times)
    cash, cash_origin = stablecoin_usd(root, grid, STABLECOINS)
    cash["USD"] = np.ones(len(grid))
    coins: dict[str, CoinState] = {}
    perpetuals: dict[str, object] = {}
    carries: dict[str, object] = {}
    for coin, bars in spots.items():
        spot = bars.on(grid)
        path, perpetuals[coin] = perpetual_path(
            root, config.venue, config.bars, spot, coin, grid, config.perpetuals.fallback == "spot"
        )
        carry, origin = coin_carry(root, coin, grid, config.futures)
        if coin in config.futures.coins or coin in config.option_coins:
            carries[coin] = origin
        coins[coin] = CoinState(
            coin, spot.close * cash["USDT"], path.mark, path.low, path.high, path.funding, carry
        )
    provenance: dict[str, object] = {
        "kind": config.kind,
        "clock": "a bar's close, low and high are known at its end: time = ts + step",
        "index": {c: f"real: {b.origin} close x USDT/USD" for c, b in spots.items()},
        "stablecoins": cash_origin,
        "perpetuals": perpetuals,
        "perpetual_variants": "derived: USDC- and coin-margined perpetuals have the premium and "
        "the funding rate of the USDT-margined one (assumed equal)",
        "carry": carries,
        "gaps": _gaps(spots, bar_grid, step, config),
    }
    return MarketState(grid, step, coins, cash), provenance


def _grid(spots: dict[str, Bars], config: MarketSection) -> tuple[IntArray, int]:
    steps = {coin: bars.step_us for coin, bars in spots.items()}
    if len(set(steps.values())) > 1:
        shown = {c: f"{s // 60_000_000} min" for c, s in steps.items()}
        raise ConfigError(f"[market] coins: bars of different steps {shown}; choose coins of one")
    first, last = microseconds_of(config.start), microseconds_of(config.end)
    ends = [b.times[(b.times >= first) & (b.times <= last)] for b in spots.values()]
    grid = np.unique(np.concatenate(ends))
    if len(grid) == 0:
        held = {c: [str(t) for t in timestamps(b.times[[0, -1]])] for c, b in spots.items()}
        raise DataError(f"no bars between {config.start} and {config.end}; they cover {held}")
    return grid, next(iter(steps.values()))


def _gaps(
    spots: dict[str, Bars], grid: IntArray, step: int, config: MarketSection
) -> dict[str, object]:
    first = -(-microseconds_of(config.start) // step) * step
    expected = np.arange(first, microseconds_of(config.end) + 1, step)
    absent = np.setdiff1d(expected, grid)
    missing = {
        coin: int(np.isnan(bars.on(grid).close).sum())
        for coin, bars in spots.items()
        if np.isnan(bars.on(grid).close).any()
    }
    return {
        "grid_times_expected": len(expected),
        "grid_times_without_any_bar": len(absent),
        "first_of_them": [t.isoformat() for t in timestamps(absent[:_SHOWN_GAPS])],
        "bars_missing_by_coin": missing,
    }
