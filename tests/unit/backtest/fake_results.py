"""A small, seeded, internally consistent results folder: what the report is built and tested on."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tests.unit.backtest.fake_models import MODELS, FakeModel, scale_by_time, score_world
from tests.unit.backtest.fake_world import (
    STATUSES,
    FakeStep as FakeStep,
    Spec as Spec,
    World,
    make_world,
)


MARGINS = ("derivatives_mmr", "total_mmr", "total_imr")


def write_results(root: Path, spec: Spec | None = None) -> Path:
    """Writes the results folder and returns its path."""
    spec = spec or Spec()
    root.mkdir(parents=True, exist_ok=True)
    world = make_world(spec)
    rows = {"in": 0, "scored": 0, "unpriced": 0, "quarantined": 0}
    for name, scale in zip(spec.sets, spec.scales, strict=True):
        model = model_of(spec, name)
        steps = spec.schedules.get(name, ())
        score = score_world(world, scale_by_time(world, steps) if steps else scale, model)
        stem = str(spec.sets.index(name))
        bucket = np.arange(spec.accounts) % spec.buckets
        for b in range(spec.buckets):
            keep = np.flatnonzero(bucket == b)
            for table, rows_of in _TABLES.items():
                frame = rows_of(world, score, name, keep, model)
                _write(root / table / f"{stem}-{b}.parquet", frame)
        rows["in"] += world.state.size
        for code, key in enumerate(("scored", "unpriced", "quarantined")):
            rows[key] += int((world.state == code).sum())
    _write_index(root, world)
    if spec.paths:
        _write_paths(root, spec, world)
    _write_manifest(root, spec, rows)
    return root


def _accounts(
    world: World, score: dict[str, np.ndarray], name: str, keep: np.ndarray, model: FakeModel
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
        **{f"worst_{k}": pick(score[k]) for k in model.charges},
        **{f"theta_{k}": score[f"theta_{k}"][keep] for k in model.charges},
        "bad_debt_usd": np.maximum(0.0, -lowest),
        # Debts move something under proposals only.
        "interest_usd": np.where(scored.any(axis=1) & (name != "today"), 0.25, 0.0),
        "converted_usd": np.where(scored.any(axis=1) & (name != "today"), 1_000.0, 0.0),
        "conversions": np.full(len(keep), int(name != "today"), np.int32),
        "start_equity_usd": world.equity[keep, 0],
        "start_gross_notional_usd": world.gross[keep, 0],
        "start_option_notional_usd": world.gross[keep, 0] * info["option"],
        "start_net_delta_usd": world.gross[keep, 0] * info["delta"],
    }
    return pd.DataFrame(frame)


def _summary(
    world: World, score: dict[str, np.ndarray], name: str, keep: np.ndarray, model: FakeModel
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
    parts |= {k: masked(score[k]) for k in (*model.charges, *MARGINS)}
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
    world: World, score: dict[str, np.ndarray], name: str, keep: np.ndarray, model: FakeModel
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
            **{k: score[k][at] for k in (*model.charges, *MARGINS)},
            "binding_unit": "BTC",
            "binding_charge": _largest(score, at, model),
            "binding_price_move": np.where(
                world.accounts["delta"].to_numpy()[keep[i]] > 0, -0.12, 0.12
            ),
            "binding_vol": "up",
            "stage": None,
        }
        frames.append(pd.DataFrame(values))
    return pd.concat(frames, ignore_index=True)


_TABLES = {"accounts": _accounts, "summary": _summary, "events": _events}


def _largest(
    score: dict[str, np.ndarray], at: tuple[np.ndarray, np.ndarray], model: FakeModel
) -> np.ndarray:
    names = model.worst_of or model.charges
    return np.array(names)[np.argmax([score[k][at] for k in names], axis=0)]


NAMES = {
    "key",
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
    """Writes one file with the column types of a real run: encoded names, nulls for no level."""
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


def _write_paths(root: Path, spec: Spec, world: World) -> None:
    """A shock that follows the past high of realised moves, a limit, and one that stays."""
    move = np.abs(np.diff(np.log(world.prices["BTC"]), prepend=np.log(world.prices["BTC"][0])))
    high = np.maximum.accumulate(np.round(0.12 + 2 * move, 3))
    values = {
        "mr1.price_moves.BTC": high,
        "mr1.price_moves.ETH": np.round(1.2 * high, 3),
        "borrow_limit.USDT": np.where(world.prices["USDT"] < 0.99, 5e6, 2e7),
        "mr4.annual.BTC": np.full(len(high), 0.05),
    }
    frames = [
        pd.DataFrame({"parameter_set": s, "time": world.times, "key": k, "value": v})
        for s in spec.paths
        for k, v in values.items()
    ]
    table = pd.concat(frames, ignore_index=True)
    _write(root / "report_data" / "parameter_paths.parquet", table)


def model_of(spec: Spec, name: str) -> FakeModel:
    return MODELS[spec.models.get(name, "okx")]


def _entry(spec: Spec, i: int, name: str) -> dict[str, Any]:
    """A parameter set as the manifest describes it."""
    known = spec.models.get(name, "okx")
    entry: dict[str, Any] = {
        "name": name,
        "file": f"params/{i}.toml",
        "hash": f"{i:02x}" * 32,
        "model": known,
        "era": "merged" if known == "okx" else "unified",
        "effective": "2025-01-21T08:00:00Z",
        "label_counts": {"S": 31, "P": 22, "D": 9, "A": 40},
    }
    if spec.old_manifest:
        return entry
    model = MODELS[known]
    entry["charges"] = [{"name": k, "label": v} for k, v in model.labels.items()]
    entry["levels"] = model.levels
    if model.how:
        entry["how"] = model.how
    if name in spec.schedules:
        entry["schedule"] = [
            {"from": _moment(spec, s.at), "set": s.name, "era": "merged", "hash": f"{k:02x}" * 32}
            for k, s in enumerate(spec.schedules[name])
        ]
    return entry


def _moment(spec: Spec, at: float | None) -> str | None:
    """The time at a share of the window."""
    if at is None:
        return None
    seconds = spec.interval_seconds * (spec.times - 1) * at
    return (dt.datetime(2024, 8, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)).isoformat()


def _write_manifest(root: Path, spec: Spec, rows: dict[str, int]) -> None:
    start = dt.datetime(2024, 8, 1, tzinfo=dt.UTC)
    end = start + dt.timedelta(seconds=spec.interval_seconds * (spec.times - 1))
    quarantined = [
        {"table": "positions", "file": "positions/date=2024-08-01/bucket=0/a.parquet", "row": 17,
         "key": "acct-000017, ABC-USDT-SWAP", "reason": "unknown instrument"},
        {"table": "marks", "file": "marks/date=2024-08-02/a.parquet", "row": 3,
         "key": "2024-08-02T00:00:00Z, BTC-USD-240927-60000-C", "reason": "negative volatility"},
    ]  # fmt: skip
    unpriced = [{"instrument_id": "BTC-USD-240927-60000-C", "times": 5}]
    manifest = {
        "name": "crash-2024-08",
        "run_id": "5f0c" * 8,
        "created_utc": "2024-09-01T10:00:00Z",
        "config": {"name": "crash-2024-08", "report": {"champion": spec.champion}},
        "config_hash": "ab" * 32,
        "parameter_sets": [
            _entry(spec, i, name) for i, name in enumerate(spec.sets)
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
        "unpriced_instruments": unpriced if spec.flaws else [],
        "timings_seconds": {"read": 1.2, "kernels": 14.5, "write": 2.1, "total": 17.9},
        "peak_memory_mb": 812.0,
        "cells": {"computed": 6, "reused": 2, "failed": 0},
        **spec.extra_manifest,
    }  # fmt: skip
    (root / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
