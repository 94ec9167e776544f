"""Prices and accounts of a made-up crash, scored by closed-form rules: the world of fake results.

Accounts of several segments are scored under a parameter set with the rules for one risk unit, so
that counts, episodes, charges and break-even multipliers agree as those of a real run do.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd


CHARGES = tuple(f"mr{k}" for k in range(1, 10))
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
RATES = {  # charge / gross notional, by driver: delta, option, gross
    "mr1": (0.12, 0.06, 0.004),
    "mr2": (0.0, 0.004, 0.0),
    "mr3": (0.0, 0.002, 0.0),
    "mr4": (0.0, 0.0, 0.006),
    "mr5": (0.0, 0.001, 0.0),
    "mr6": (0.12, 0.09, 0.003),
    "mr7": (0.0, 0.008, 0.005),
    "mr8": (0.0, 0.0, 0.001),
    "mr9": (0.0, 0.0, 0.0015),
}
PROPOSAL = {"mr1": 0.8, "mr6": 0.7, "mr4": 1.7, "mr7": 0.9}


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


def score_world(world: World, scale: dict[str, float]) -> dict[str, np.ndarray]:
    delta = np.abs(world.accounts["delta"].to_numpy())[:, None]
    option = world.accounts["option"].to_numpy()[:, None]
    mr = {}
    for k, (by_delta, by_option, by_gross) in RATES.items():
        driver = by_delta * delta + by_option * option + by_gross * np.ones_like(delta)
        stress = world.stress if k in ("mr1", "mr6", "mr9") else 1.0
        mr[k] = scale.get(k, 1.0) * driver * world.gross * stress
    worst = np.maximum(np.maximum(mr["mr1"], mr["mr2"]), mr["mr6"])
    extra = mr["mr3"] + mr["mr4"] + mr["mr5"] + mr["mr9"]
    derivatives = np.maximum(worst + extra, mr["mr7"])
    total = derivatives + mr["mr8"]
    adjusted = world.equity - 0.02 * np.abs(world.equity)
    level = np.divide(adjusted, total, out=np.full_like(total, np.nan), where=total > 0)
    scored = world.state == 0
    level[~scored] = np.nan
    theta = _theta(mr, worst, extra, adjusted)
    theta = {k: np.where(scored, v, np.inf).min(axis=1) for k, v in theta.items()}
    return {
        **mr,
        **{f"theta_{k}": v for k, v in theta.items()},
        "derivatives_mmr": derivatives,
        "total_mmr": total,
        "total_imr": 1.3 * derivatives + 2 * mr["mr8"],
        "adjusted_equity": adjusted,
        "margin_level": level,
        "status": _status(world, level, total),
    } | _episodes(level)


def _theta(
    mr: dict[str, np.ndarray], worst: np.ndarray, extra: np.ndarray, adjusted: np.ndarray
) -> dict[str, np.ndarray]:
    """Closed-form break-even multiplier of each charge at each time, one risk unit."""
    q = adjusted - mr["mr8"]
    room = {}
    for k in ("mr1", "mr2", "mr6"):
        others = np.max([mr[j] for j in ("mr1", "mr2", "mr6") if j != k], axis=0)
        room[k] = np.where((others + extra <= q) & (mr["mr7"] <= q), q - extra, -1.0)
    for k in ("mr3", "mr4", "mr5", "mr9"):
        room[k] = np.where(mr["mr7"] <= q, q - worst - extra + mr[k], -1.0)
    room["mr7"] = np.where(worst + extra <= q, q, -1.0)
    room["mr8"] = adjusted - np.maximum(worst + extra, mr["mr7"])
    out = {}
    for k, v in room.items():
        ratio = np.divide(v, mr[k], out=np.where(v >= 0, np.inf, 0.0), where=mr[k] > 0)
        out[k] = np.maximum(ratio, 0.0)
    return out


def _status(world: World, level: np.ndarray, total: np.ndarray) -> np.ndarray:
    status = np.select(
        [total <= 0, world.equity < 0, level <= 1, world.equity < 10_000, level < 3],
        ["no_requirement", "bankrupt", "liquidation", "ineligible", "warning"],
        "ok",
    ).astype(object)
    status[world.state == 1] = "unpriced"
    status[world.state == 2] = "quarantined"
    return status


def _episodes(level: np.ndarray) -> dict[str, np.ndarray]:
    """Hysteresis: an episode starts at 100 % or below and ends above 110 %."""
    active = np.zeros(level.shape[0], dtype=bool)
    starts = np.zeros(level.shape, dtype=bool)
    ends = np.zeros(level.shape, dtype=bool)
    for t in range(level.shape[1]):
        starts[:, t] = ~active & (level[:, t] <= 1)
        ends[:, t] = active & (level[:, t] > 1.1)
        active = (active | starts[:, t]) & ~ends[:, t]
    return {"starts": starts, "ends": ends}
