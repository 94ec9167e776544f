"""Simulated liquidations and full paths for a fake results folder, made of its own events."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from backtest.liquidation_rows import LEG_COLUMNS, TIME_SCHEMA, step_schema
from backtest.report.reader import Results


FUND_USD = 1e7
FEE, SLIPPAGE = 0.0005, 0.002


def simulate(
    folder: Path, steps: int = 2, legs: int = 2, instrument: str = "BTC-USDT-SWAP"
) -> Path:
    """Adds the tables of a run that liquidated: every trigger is worked off in some steps.

    A step trades a share of the account in ``legs`` equal trades and halves every charge.
    """
    results = Results(folder)
    for k, name in enumerate(results.set_names):
        charges = tuple(c.name for c in results.charges(name))
        events = results.events(None, name, "liquidation").to_dict("records")
        done = [_steps(e, charges, steps, legs, instrument) for e in events]
        rows = [_at_time(e, of) for e, of in zip(events, done, strict=True)]
        _write(folder / "liquidations" / f"{k}.parquet", list(chain(*done)), step_schema(charges))
        _write(folder / "liquidated" / f"{k}.parquet", rows, TIME_SCHEMA)
        _write(folder / "liquidation_totals" / f"{k}.parquet", _totals(rows))
        _write(folder / "waterfall" / f"{k}.parquet", _waterfall(rows, name))
    return folder


def by_hand(
    folder: Path,
    name: str,
    rows: list[dict[str, Any]],
    funds: list[dict[str, Any]] | None = None,
) -> Path:
    """Adds liquidations of one set that are spelled out; other sets have none.

    Args:
        folder: results without liquidations.
        name: parameter set.
        rows: of ``liquidated``; what is not given is nothing (amounts 0, no coins).
        funds: rows of ``waterfall``; those that follow from ``rows`` if absent.
    """
    whole = [_NOTHING | {"parameter_set": name} | row for row in rows]
    _write(folder / "liquidated" / "0.parquet", whole, TIME_SCHEMA)
    _write(folder / "liquidation_totals" / "0.parquet", _totals(whole))
    _write(folder / "waterfall" / "0.parquet", funds or _waterfall(whole, name))
    return folder


_NOTHING: dict[str, Any] = {
    "segment": "s",
    "status": "safe",
    "is_active": False,
    "last_stage": "reduction",
    "steps": 1,
    "slices": 1,
    **dict.fromkeys(("level_before", "level_after"), 1.0),
    **dict.fromkeys(("equity_before_usd", "equity_after_usd", "notional_usd"), 0.0),
    **dict.fromkeys(("fee_usd", "slippage_usd", "surplus_usd", "bad_debt_usd"), 0.0),
    "sold_coins": [],
    "sold_delta_usd": [],
}


def trace(folder: Path, accounts: list[str]) -> Path:
    """Adds full paths of some accounts: a wave around twice the trigger at every time."""
    results = Results(folder)
    replay = results.manifest["replay"]
    times = pd.date_range(replay["start"], replay["end"], periods=replay["times"])
    for k, name in enumerate(results.set_names):
        levels = 2.0 + np.cos(np.arange(len(times)) / 5.0)
        parts = [
            pd.DataFrame(
                {"parameter_set": name, "account_id": a, "time": times, "margin_level": levels}
            )
            for a in accounts
        ]
        _write(folder / "traces" / f"{k}.parquet", pd.concat(parts).to_dict("records"))
    return folder


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def _who(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("parameter_set", "account_id", "segment", "time")}


def _steps(
    event: dict[str, Any], charges: tuple[str, ...], steps: int, legs: int, instrument: str
) -> list[dict[str, Any]]:
    size = event["gross_notional_usd"] / (2 * steps)
    rows = []
    for n in range(steps):
        cost = n * size * (FEE + SLIPPAGE)
        leg = [size / legs] * legs
        values = ([-1.0] * legs, [60_000.0] * legs, [59_880.0] * legs, leg)
        legs_of = dict(zip(LEG_COLUMNS[:4], values, strict=True))
        row: dict[str, Any] = {
            **_who(event),
            "step": n + 1,
            "stage": ("ddh2", "reduction")[n % 2],
            "target": "BTC",
            "target_usd": event["total_mmr"] / (n + 1),
            "ended": "safe" if n == steps - 1 else "no_gain",
            "slices": 3,
            "instruments": [instrument] * legs,
            **legs_of,
            "leg_fee_usd": [FEE * v for v in leg],
            "leg_slippage_usd": [SLIPPAGE * v for v in leg],
            "notional_usd": size,
            "fee_usd": FEE * size,
            "slippage_usd": SLIPPAGE * size,
            "equity_usd_before": event["equity_usd"] - cost,
            "equity_usd_after": event["equity_usd"] - cost - size * (FEE + SLIPPAGE),
        }
        for name in ("mmr_usd", *charges):
            first = event["total_mmr" if name == "mmr_usd" else name]
            row |= {f"{name}_before": first / 2**n, f"{name}_after": first / 2 ** (n + 1)}
        for side in ("before", "after"):
            row[f"level_{side}"] = row[f"equity_usd_{side}"] / max(row[f"mmr_usd_{side}"], 1.0)
        rows.append(row)
    return rows


def _at_time(event: dict[str, Any], steps: list[dict[str, Any]]) -> dict[str, Any]:
    row = {key: sum(s[key] for s in steps) for key in ("notional_usd", "fee_usd", "slippage_usd")}
    return {
        **_who(event),
        **row,
        "status": "safe",
        "is_active": False,
        "last_stage": steps[-1]["stage"],
        "steps": len(steps),
        "slices": 3 * len(steps),
        "level_before": steps[0]["level_before"],
        "level_after": steps[-1]["level_after"],
        "equity_before_usd": steps[0]["equity_usd_before"],
        "equity_after_usd": steps[-1]["equity_usd_after"],
        "surplus_usd": 0.0,
        "bad_debt_usd": 0.0,
        "sold_coins": ["BTC"],
        "sold_delta_usd": [-row["notional_usd"]],
    }


def _totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    summed = ("steps", "slices", "notional_usd", "fee_usd", "slippage_usd", "bad_debt_usd")
    for row in sorted(rows, key=lambda r: r["time"]):
        total = found.setdefault(
            row["account_id"],
            {
                **{key: row[key] for key in ("parameter_set", "account_id", "segment")},
                **dict.fromkeys(("times", *summed), 0),
                **dict.fromkeys(("surplus_usd", "seconds_to_safety"), 0.0),
                "bankruptcies": 0,
                "first_time": row["time"],
            },
        )
        total |= {key: total[key] + row[key] for key in summed}
        total |= {"times": total["times"] + 1, "last_time": row["time"]}
        total |= {"last_stage": row["last_stage"], "last_status": row["status"]}
    return [row | {"repeats": row["times"] - 1} for row in found.values()]


def _waterfall(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    fund, found = FUND_USD, []
    for time in sorted({row["time"] for row in rows}):
        fees = sum(row["fee_usd"] for row in rows if row["time"] == time)
        zero = ("surplus_usd", "loss_usd", "from_fund_usd", "from_adl_usd", "unfunded_usd")
        found.append(
            {
                "parameter_set": name,
                "time": time,
                "liquidated": sum(row["time"] == time for row in rows),
                "bankrupt": 0,
                "deleveraged": 0,
                "fund_before_usd": fund,
                "fee_usd": fees,
                "revenue_usd": fees,
                **dict.fromkeys((*zero, "adl_needed_usd"), 0.0),
                "fund_after_usd": fund + fees,
            }
        )
        fund += fees
    return found
