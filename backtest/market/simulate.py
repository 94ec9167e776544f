"""A seeded random market: volatility regimes, correlated jump diffusions, a crash and a depeg.

Every random number belongs to one stream and one step, drawn in time order, so a longer market
starts with the shorter one: ending earlier never changes what came before.
"""

from dataclasses import dataclass

import numpy as np

from backtest.market.black import FloatArray, IntArray
from backtest.market.config import (
    CoinConfig,
    CrashConfig,
    DepegConfig,
    GeneratedConfig,
    VolatilityStepConfig,
)
from backtest.market.series import HOUR_US, SECOND_US


COINS = {
    "BTC": CoinConfig(price_usd=85_000.0, volatility_ann=0.50, correlation=0.92),
    "ETH": CoinConfig(price_usd=2_200.0, volatility_ann=0.65, correlation=0.88),
    "SOL": CoinConfig(price_usd=140.0, volatility_ann=0.90, correlation=0.80),
    "XRP": CoinConfig(price_usd=2.4, volatility_ann=0.85, correlation=0.70),
    "DOGE": CoinConfig(price_usd=0.20, volatility_ann=0.95, correlation=0.78),
}
"""Built-in coins of a generated market; others need a ``[market.coin.X]`` table."""
DEFAULT_COIN = CoinConfig(price_usd=10.0, volatility_ann=0.9, correlation=0.75)
REGIMES = np.array([0.65, 1.0, 1.8])
"""Volatility of the calm, the normal and the stressed regime, in units of the long-run one."""
_LEAVE_A_DAY = np.array([[0.0, 0.15, 0.01], [0.12, 0.0, 0.05], [0.02, 0.28, 0.0]])
_MARKET_VOLATILITY = 0.5
_REVERSION_A_DAY = 2.0
_NOISE_A_DAY = 0.25
_LEVEL_MEMORY_DAYS = 7.0
_STREAMS = (
    "regime",
    "variance",
    "market",
    "own",
    "jumps",
    "jump_size",
    "range",
    "premium",
    "basis",
)
_YEAR_HOURS = 8760.0


@dataclass(frozen=True)
class RandomMarket:
    """Paths on the grid: the first row is the start. One column a coin."""

    regime: IntArray
    price_usd: FloatArray
    volatility: FloatArray
    """Instantaneous volatility by long-run volatility, one number a time."""
    premium: FloatArray
    """Perpetual by index less one."""
    basis_ann: FloatArray
    low_share: FloatArray
    high_share: FloatArray
    """Low and high of the step by its lower and higher end."""


def simulate(config: GeneratedConfig, grid: IntArray) -> RandomMarket:
    """Draw the market on the grid (microseconds, equal steps)."""
    coins = [coin_config(config, c) for c in config.coins]
    streams = dict(
        zip(_STREAMS, np.random.SeedSequence(config.seed).spawn(len(_STREAMS)), strict=True)
    )
    draw = {name: np.random.Generator(np.random.PCG64(s)) for name, s in streams.items()}
    steps, width = len(grid) - 1, len(coins)
    days = float(grid[1] - grid[0]) / (24 * HOUR_US)
    fall = crash_path(config.crash, grid)
    crashing = np.append(False, np.diff(fall) < 0)
    regime = _regimes(draw["regime"].random(steps), days, crashing)
    volatility = _volatility(draw["variance"].standard_normal(steps), days, regime)
    volatility = volatility * volatility_factor(config.volatility_step, grid)
    correlation = np.array([c.correlation for c in coins])
    longrun = np.array([c.volatility_ann for c in coins])
    common = draw["market"].standard_normal(steps)[:, None] * correlation
    own = draw["own"].standard_normal((steps, width)) * np.sqrt(1.0 - correlation**2)
    sigma = volatility[:-1, None] * longrun * np.sqrt(days / 365.0)
    beta = longrun / _MARKET_VOLATILITY
    returns = sigma * (common + own) - 0.5 * sigma**2
    returns += _jumps(draw, config, days, steps)[:, None] * beta
    returns += np.diff(fall)[:, None] * beta**0.5
    logs = np.vstack([np.zeros(width), np.cumsum(returns, axis=0)])
    price = np.array([c.price_usd for c in coins]) * np.exp(logs)
    spread = np.abs(draw["range"].standard_normal((steps, 2, width))) * 0.4 * sigma[:, None, :]
    spread = np.concatenate([np.zeros((1, 2, width)), spread])
    stress = np.minimum(np.append(0.0, _pressure(returns[:, 0], days)), 0.0)
    return RandomMarket(
        regime=regime,
        price_usd=price,
        volatility=volatility,
        premium=_premium(draw["premium"].standard_normal((steps, width)), days, stress),
        basis_ann=_basis(draw["basis"].standard_normal(steps), days, stress, config),
        low_share=np.exp(-spread[:, 0]),
        high_share=np.exp(spread[:, 1]),
    )


def coin_config(config: GeneratedConfig, coin: str) -> CoinConfig:
    """Price, volatility and correlation of a coin of a generated market."""
    return config.coin.get(coin, COINS.get(coin, DEFAULT_COIN))


def volatility_level(market: RandomMarket, longrun: float, days: float) -> FloatArray:
    """30-day implied level (fraction a year): the expected mean variance, a little above it.

    The instantaneous variance is taken to revert to the long-run one over ``_LEVEL_MEMORY_DAYS``.
    """
    weight = (_LEVEL_MEMORY_DAYS / 30.0) * (1.0 - np.exp(-30.0 / _LEVEL_MEMORY_DAYS))
    variance = 1.0 + weight * (_smooth(market.volatility**2, days, 0.25) - 1.0)
    return 1.05 * longrun * np.sqrt(variance)


def crash_path(crash: CrashConfig | None, grid: IntArray) -> FloatArray:
    """Log move of the market factor that the crash adds at each time: down, then partly back."""
    if crash is None:
        return np.zeros(len(grid))
    hours = (grid - grid[0]) / HOUR_US - crash.after.total_seconds() / 3600
    length = crash.duration.total_seconds() / 3600
    bottom = np.log1p(-crash.depth)
    down = np.clip(hours / length, 0.0, 1.0) ** 1.5
    back = np.clip((hours - length) / (5.0 * length), 0.0, 1.0) ** 0.5
    return bottom * (down - crash.rebound * back)


def volatility_factor(step: VolatilityStepConfig | None, grid: IntArray) -> FloatArray:
    """Volatility at each time by what it would be without the step; no random number differs."""
    if step is None:
        return np.ones(len(grid))
    since_s = (grid - grid[0]) / SECOND_US - step.after.total_seconds()
    lasts_s = np.inf if step.duration is None else step.duration.total_seconds()
    return np.where((since_s >= 0.0) & (since_s < lasts_s), step.factor, 1.0)


def depeg_path(depeg: DepegConfig | None, currency: str, grid: IntArray) -> FloatArray:
    """USD per unit of a stablecoin: one, but for a fall in a quarter of the time and a way back."""
    if depeg is None or depeg.currency != currency:
        return np.ones(len(grid))
    length = depeg.duration.total_seconds() * SECOND_US
    share = (grid - grid[0] - depeg.after.total_seconds() * SECOND_US) / length
    down = np.clip(share / 0.25, 0.0, 1.0)
    back = np.clip((share - 0.25) / 0.75, 0.0, 1.0)
    return 1.0 - depeg.depth * (down - back)


def _regimes(uniform: FloatArray, days: float, crashing: np.ndarray) -> IntArray:
    leave = 1.0 - np.exp(-_LEAVE_A_DAY * days)
    bounds = np.cumsum(leave, axis=1)
    found = np.empty(len(uniform) + 1, np.int64)
    found[0] = 1
    for step, u in enumerate(uniform):
        old = found[step]
        to = int(np.searchsorted(bounds[old], u, side="right"))
        found[step + 1] = 2 if crashing[step + 1] else (to if to < len(REGIMES) else old)
    return found


def _volatility(noise: FloatArray, days: float, regime: IntArray) -> FloatArray:
    keep = np.exp(-_REVERSION_A_DAY * days)
    scale = _NOISE_A_DAY * np.sqrt(days)
    target = np.log(REGIMES[regime])
    logs = np.empty(len(regime))
    logs[0] = target[0]
    for step, e in enumerate(noise):
        logs[step + 1] = target[step + 1] + keep * (logs[step] - target[step + 1]) + scale * e
    return np.exp(np.minimum(logs, np.log(4.0)))


def _jumps(
    draw: dict[str, np.random.Generator], config: GeneratedConfig, days: float, steps: int
) -> FloatArray:
    hit = draw["jumps"].random(steps) < config.jumps_a_year * days / 365.0
    size = draw["jump_size"].standard_normal(steps) * config.jump_size - config.jump_size / 4.0
    return np.where(hit, size, 0.0)


def _pressure(returns: FloatArray, days: float) -> FloatArray:
    """Recent return of the first coin, over about half a day."""
    return _decayed(returns, np.exp(-2.0 * days))


def _premium(noise: FloatArray, days: float, stress: FloatArray) -> FloatArray:
    keep = np.exp(-6.0 * days)
    moves = noise * 0.0004 * np.sqrt(1.0 - keep**2)
    wander = np.vstack([np.zeros(noise.shape[1]), _decayed(moves, keep)])
    return wander - 0.0002 + 0.03 * stress[:, None]


def _basis(
    noise: FloatArray, days: float, stress: FloatArray, config: GeneratedConfig
) -> FloatArray:
    keep = np.exp(-0.5 * days)
    wander = np.append(0.0, _decayed(noise * 0.015 * np.sqrt(1.0 - keep**2), keep))
    return config.futures.assumed_basis_ann + wander + 0.4 * stress


def _decayed(values: FloatArray, keep: float) -> FloatArray:
    """``y_t = keep y_(t-1) + x_t``."""
    out = np.empty_like(values)
    last = np.zeros(values.shape[1:])
    for step, value in enumerate(values):
        last = keep * last + value
        out[step] = last
    return out


def _smooth(values: FloatArray, days: float, memory_days: float) -> FloatArray:
    """Exponential mean of the values so far, starting at the first."""
    keep = np.exp(-days / memory_days)
    moves = np.append(0.0, values[1:] - values[0]) * (1.0 - keep)
    return values[0] + _decayed(moves, keep)
