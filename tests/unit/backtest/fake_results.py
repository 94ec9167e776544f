"""A small, seeded, internally consistent results folder: what the report is built and tested on.

Prices crash and partly recover; accounts of several segments are scored under every parameter set with
the closed-form rules for one risk unit, so counts, episodes, charges and break-even multipliers of the
tables agree with each other as those of a real run do.
"""

import datetime as dt
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


CHARGES = tuple(f"mr{k}" for k in range(1, 10))
STATUSES = ("ok", "warning", "liquidation", "bankrupt", "no_requirement", "ineligible")
SEGMENTS = (
    "directional perpetuals",
    "basis hedged",
    "short options",
    "long options",
    "market maker",
)
# share of accounts, net delta, option share, gross notional / equity, loss in a crash per option notional
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


def write_results(root: Path, spec: Spec | None = None) -> Path:
    """Writes the results folder and returns its path."""
    spec = spec or Spec()
    root.mkdir(parents=True, exist_ok=True)
    world = _world(spec)
    rows = {"in": 0, "scored": 0, "unpriced": 0, "quarantined": 0}
    for name, scale in zip(spec.sets, spec.scales, strict=True):
        score = _score(world, scale)
        stem = str(spec.sets.index(name))
        bucket = np.arange(spec.accounts) % spec.buckets
        for b in range(spec.buckets):
            keep = np.flatnonzero(bucket == b)
            _write(root / "accounts" / f"{stem}-{b}.parquet", _accounts(world, score, name, keep))
            _write(root / "summary" / f"{stem}-{b}.parquet", _summary(world, score, name, keep))
            _write(root / "events" / f"{stem}-{b}.parquet", _events(world, score, name, keep))
        rows["in"] += world.state.size
        for code, key in enumerate(("scored", "unpriced", "quarantined")):
            rows[key] += int((world.state == code).sum())
    _write_index(root, world)
    _write_manifest(root, spec, rows)
    return root


def _world(spec: Spec) -> World:
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
        state[
            np.ix_(
                accounts["option"].to_numpy() > 0.75, range(times // 4, min(times, times // 4 + 5))
            )
        ] = 1
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
    leverage = profile[:, 3] * np.exp(rng.normal(0, 0.4, n))
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


def _score(world: World, scale: dict[str, float]) -> dict[str, np.ndarray]:
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


def _accounts(
    world: World, score: dict[str, np.ndarray], name: str, keep: np.ndarray
) -> pd.DataFrame:
    level, state = score["margin_level"][keep], world.state[keep]
    has = np.isfinite(level).any(axis=1)
    at = np.where(has, np.nanargmin(np.where(np.isfinite(level), level, np.inf), axis=1), 0)
    row = np.arange(len(keep))
    pick = lambda values: np.where(has, values[keep][row, at], np.nan)
    starts = score["starts"][keep]
    first = pd.Series(world.times[starts.argmax(axis=1)]).where(pd.Series(starts.any(axis=1)))
    scored = state == 0
    info = world.accounts.iloc[keep].reset_index(drop=True)
    lowest = np.where(scored, world.equity[keep], np.inf).min(axis=1)
    frame = {
        "parameter_set": name,
        "account_id": info["account_id"],
        "segment": info["segment"],
        **{
            k: (state == i).sum(axis=1) for i, k in enumerate(("scored", "unpriced", "quarantined"))
        },
        "episodes": starts.sum(axis=1).astype(np.int32),
        "first_liquidation_time": first,
        "liquidation_times": (level <= 1).sum(axis=1),
        "worst_time": pd.Series(world.times[at]).where(pd.Series(has)),
        "worst_margin_level": pick(score["margin_level"]),
        "worst_adjusted_equity": pick(score["adjusted_equity"]),
        "worst_equity_usd": pick(world.equity),
        "worst_total_mmr": pick(score["total_mmr"]),
        **{f"worst_{k}": pick(score[k]) for k in CHARGES},
        **{f"theta_{k}": score[f"theta_{k}"][keep] for k in CHARGES},
        "bad_debt_usd": np.maximum(0.0, -lowest),
        "start_equity_usd": world.equity[keep, 0],
        "start_gross_notional_usd": world.gross[keep, 0],
        "start_option_notional_usd": world.gross[keep, 0] * info["option"],
        "start_net_delta_usd": world.gross[keep, 0] * info["delta"],
    }
    return pd.DataFrame(frame)


def _summary(
    world: World, score: dict[str, np.ndarray], name: str, keep: np.ndarray
) -> pd.DataFrame:
    status, scored = score["status"][keep], world.state[keep] == 0
    masked = lambda values: np.where(scored, values[keep], 0.0)
    parts = {"accounts": np.ones(scored.shape, dtype=np.int64), "scored": scored.astype(np.int64)}
    parts |= {k: (status == k).astype(np.int64) for k in ("unpriced", "quarantined", *STATUSES)}
    parts["episodes_started"] = score["starts"][keep].astype(np.int64)
    parts["equity_usd"], parts["adjusted_equity"] = (
        masked(world.equity),
        masked(score["adjusted_equity"]),
    )
    parts["gross_notional_usd"] = masked(world.gross)
    parts["liquidated_notional_usd"] = masked(world.gross) * score["starts"][keep]
    parts |= {k: masked(score[k]) for k in (*CHARGES, "derivatives_mmr", "total_mmr", "total_imr")}
    segment = world.accounts["segment"].to_numpy()[keep]
    frames = []
    for name_ in sorted(set(segment)):
        rows = segment == name_
        sums = {k: v[rows].sum(axis=0) for k, v in parts.items()}
        frames.append(
            pd.DataFrame({"parameter_set": name, "segment": name_, "time": world.times, **sums})
        )
    return pd.concat(frames, ignore_index=True)


def _events(
    world: World, score: dict[str, np.ndarray], name: str, keep: np.ndarray
) -> pd.DataFrame:
    bankrupt = score["status"][keep] == "bankrupt"
    warning = score["status"][keep] == "warning"
    first = lambda flag: flag & ~np.roll(flag, 1, axis=1) | (np.arange(flag.shape[1]) == 0) & flag
    kinds = {
        "warning": first(warning),
        "liquidation": score["starts"][keep],
        "recovered": score["ends"][keep],
        "bankrupt": first(bankrupt),
    }
    number = score["starts"][keep].cumsum(axis=1)
    frames = []
    for kind, flag in kinds.items():
        i, t = np.nonzero(flag)
        at = (keep[i], t)
        values = {
            "parameter_set": name,
            "account_id": world.accounts["account_id"].to_numpy()[keep[i]],
            "segment": world.accounts["segment"].to_numpy()[keep[i]],
            "time": world.times[t],
            "event": kind,
            "episode": number[i, t].astype(np.int32),
            "margin_level": score["margin_level"][at],
            "equity_usd": world.equity[at],
            "adjusted_equity": score["adjusted_equity"][at],
            "gross_notional_usd": world.gross[at],
            **{k: score[k][at] for k in (*CHARGES, "derivatives_mmr", "total_mmr", "total_imr")},
            "binding_unit": "BTC",
            "binding_charge": np.where(score["mr6"][at] > score["mr1"][at], "mr6", "mr1"),
            "binding_price_move": np.where(
                world.accounts["delta"].to_numpy()[keep[i]] > 0, -0.12, 0.12
            ),
            "binding_vol": "up",
            "stage": None,
        }
        frames.append(pd.DataFrame(values))
    return pd.concat(frames, ignore_index=True)


NAMES = {
    "parameter_set",
    "account_id",
    "segment",
    "event",
    "binding_unit",
    "binding_charge",
    "binding_vol",
    "stage",
}
NAMES |= {"currency"}
DATES = {"time", "worst_time", "first_liquidation_time"}


def _write(path: Path, frame: pd.DataFrame) -> None:
    """Writes one file with the column types of a real run (dictionary-encoded names, nulls for NaN)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nullable = {"worst_margin_level", "margin_level"}
    columns = []
    for name in frame:
        if name in NAMES:
            column = pa.array(list(frame[name]), pa.string()).dictionary_encode()
        elif name in DATES:
            column = pa.Array.from_pandas(frame[name], type=pa.timestamp("us", tz="UTC"))
        else:
            column = pa.array(frame[name].to_numpy(), from_pandas=name in nullable)
        columns.append(column)
    pq.write_table(pa.table(columns, names=list(frame)), path, compression="zstd")


def _write_index(root: Path, world: World) -> None:
    frames = [
        pd.DataFrame({"time": world.times, "currency": c, "usd": p})
        for c, p in world.prices.items()
    ]
    _write(root / "report_data" / "index.parquet", pd.concat(frames, ignore_index=True))


def _write_manifest(root: Path, spec: Spec, rows: dict[str, int]) -> None:
    start = dt.datetime(2024, 8, 1, tzinfo=dt.UTC)
    end = start + dt.timedelta(seconds=spec.interval_seconds * (spec.times - 1))
    quarantined = [
        {"table": "positions", "file": "positions/date=2024-08-01/bucket=0/a.parquet", "row": 17,
         "key": "acct-000017, ABC-USDT-SWAP", "reason": "unknown instrument"},
        {"table": "marks", "file": "marks/date=2024-08-02/a.parquet", "row": 3,
         "key": "2024-08-02T00:00:00Z, BTC-USD-240927-60000-C", "reason": "negative volatility"},
    ]  # fmt: skip
    labels = {"S": 31, "P": 22, "D": 9, "A": 40}
    manifest = {
        "name": "crash-2024-08",
        "run_id": "5f0c" * 8,
        "created_utc": "2024-09-01T10:00:00Z",
        "config": {"name": "crash-2024-08"} | ({"champion": spec.champion} if spec.champion else {}),
        "config_hash": "ab" * 32,
        "parameter_sets": [
            {"name": name, "file": f"params/{i}.toml", "hash": f"{i:02x}" * 32, "model": "okx",
             "era": "merged", "effective": "2025-01-21T08:00:00Z", "label_counts": labels}
            for i, name in enumerate(spec.sets)
        ],
        "dataset": {"path": "datasets/crash", "name": "crash", "fingerprint": "cd" * 32,
                    "source": "generated", "interval_seconds": spec.interval_seconds},
        "code": {"version": "0.1.0", "source_hash": "ef" * 32},
        "versions": {"python": "3.11.7", "jax": "0.10.1", "numpy": "2.4.6", "pyarrow": "26.0.1"},
        "device": "cpu",
        "seed": spec.seed,
        "replay": {"mode": "frozen", "start": start.isoformat(), "end": end.isoformat(),
                   "interval_seconds": spec.interval_seconds, "times": spec.times},
        "accounts": spec.accounts,
        "rows": rows,
        "quarantined": quarantined if spec.flaws else [],
        "unpriced_instruments": [{"instrument_id": "BTC-USD-240927-60000-C", "times": 5}] if spec.flaws else [],
        "timings_seconds": {"read": 1.2, "kernels": 14.5, "write": 2.1, "total": 17.9},
        "peak_memory_mb": 812.0,
        "cells": {"computed": 6, "reused": 2, "failed": 0},
        **spec.extra_manifest,
    }  # fmt: skip
    (root / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
