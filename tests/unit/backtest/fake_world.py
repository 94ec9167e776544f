"""Prices and accounts of a made-up crash: the world of fake results.

Accounts of several segments hold made-up books; ``fake_models`` scores them.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd


STATUSES = ("ok", "warning", "liquidation", "bankrupt", "no_requirement", "ineligible")
SEGMENTS = (
    "directional perpetuals",
    "basis hedged",
    "short options",
    "long options",
    "market maker",
)
# share of accounts, net delta, option share, gross notional / equity, loss of options in a crash
PROFILE = {
    "directional perpetuals": (0.35, 0.85, 0.0, 3.0, 0.0),
    "basis hedged": (0.25, 0.04, 0.02, 22.0, 0.0),
    "short options": (0.15, 0.25, 0.8, 3.5, 0.2),
    "long options": (0.10, 0.30, 0.7, 2.5, -0.15),
    "market maker": (0.15, 0.12, 0.35, 9.0, 0.04),
}
PROPOSAL = {"mr1": 0.8, "mr6": 0.7, "mr4": 1.7, "mr7": 0.9}


@dataclass(frozen=True)
class FakeStep:
    """A step of a schedule: from this share of the window on (None: always), with what scales."""

    at: float | None
    name: str
    scale: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """What to make: every edge case of the report is one of these switches."""

    sets: tuple[str, ...] = ("today", "proposal")
    scales: tuple[dict[str, float], ...] = ({}, PROPOSAL)
    accounts: int = 2000
    times: int = 200
    interval_seconds: int = 3600
    seed: int = 7
    crash: float = 0.28
    leverage: float = 1.0
    segments: tuple[str, ...] = SEGMENTS
    buckets: int = 4
    flaws: bool = True
    scored: bool = True
    account_prefix: str = "acct-"
    champion: str | None = None
    models: dict[str, str] = field(default_factory=dict)
    """Margin model of a set; ``okx`` where it is not named."""
    schedules: dict[str, tuple[FakeStep, ...]] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    """Sets that save paths of dynamic parameters."""
    old_manifest: bool = False
    """Without charges and levels, as runs from before they were saved."""
    extra_manifest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    """Prices and accounts shared by all parameter sets (account x time arrays)."""

    times: pd.DatetimeIndex
    prices: dict[str, np.ndarray]
    accounts: pd.DataFrame
    gross: np.ndarray
    equity: np.ndarray
    state: np.ndarray  # 0 scored, 1 unpriced, 2 quarantined
    stress: np.ndarray


def make_world(spec: Spec) -> World:
    rng = np.random.default_rng(spec.seed)
    n, times = spec.accounts, spec.times
    grid = pd.date_range(
        "2024-08-01", periods=times, freq=f"{spec.interval_seconds}s", tz="UTC", unit="us"
    )
    fall = _crash_path(times)
    walk = np.cumsum(rng.normal(0, 0.002, times))
    btc = 64_000 * np.exp(walk - spec.crash * fall)
    eth = 3_200 * np.exp(1.2 * (walk - spec.crash * fall) + np.cumsum(rng.normal(0, 0.001, times)))
    usdt = 1.0 - 0.018 * fall * (spec.crash > 0)
    prices = {
        "BTC": btc,
        "ETH": eth,
        "USDT": usdt,
        "USDC": np.full(times, 1.0001),
        "USD": np.ones(times),
    }
    accounts = _make_accounts(spec, rng)
    ret = btc / btc[0] - 1
    size = accounts["size"].to_numpy()[:, None]
    gross = size * (btc / btc[0])
    noise = rng.normal(0, 0.002, (n, times)).cumsum(axis=1) * 0.3
    loss = (
        accounts["option_loss"].to_numpy()[:, None] * accounts["option"].to_numpy()[:, None] * fall
    )
    pnl = size * (accounts["delta"].to_numpy()[:, None] * ret + noise - loss * (spec.crash > 0))
    equity = accounts["equity"].to_numpy()[:, None] + pnl
    state = np.zeros((n, times), dtype=np.int8)
    if spec.flaws:
        optioned = accounts["option"].to_numpy() > 0.75
        state[optioned, times // 4 : times // 4 + 5] = 1
        state[rng.choice(n, max(1, n // 150), replace=False)] = 2
    if not spec.scored:
        state[:] = 1
    return World(grid, prices, accounts, gross, equity, state, 1 + 0.5 * fall)


def _crash_path(times: int) -> np.ndarray:
    """Share of the fall that has happened: 0, then 1 within 3 % of the window, then half back."""
    x = np.linspace(0, 1, times)
    return np.interp(x, [0, 0.55, 0.58, 0.7, 1], [0, 0.05, 1, 0.55, 0.45])


def _make_accounts(spec: Spec, rng: np.random.Generator) -> pd.DataFrame:
    n = spec.accounts
    known = [PROFILE.get(s, PROFILE["directional perpetuals"]) for s in spec.segments]
    weights = np.array([p[0] for p in known])
    code = rng.choice(len(spec.segments), n, p=weights / weights.sum())
    profile = np.array(known)[code]
    size = np.exp(rng.normal(12.3, 1.5, n)) * (rng.random(n) > 0.02 * spec.flaws)
    delta = np.clip(profile[:, 1] + rng.normal(0, 0.06, n), -1, 1) * np.where(
        rng.random(n) < 0.62, 1, -1
    )
    option = np.clip(profile[:, 2] + rng.normal(0, 0.1, n) * (profile[:, 2] > 0), 0, 1)
    leverage = spec.leverage * profile[:, 3] * np.exp(rng.normal(0, 0.4, n))
    return pd.DataFrame(
        {
            "account_id": [f"{spec.account_prefix}{i:06d}" for i in range(n)],
            "segment": np.array(spec.segments, dtype=object)[code],
            "size": size,
            "delta": delta,
            "option": option,
            "option_loss": profile[:, 4],
            "equity": np.maximum(size / leverage, 10_500.0),
        }
    )
