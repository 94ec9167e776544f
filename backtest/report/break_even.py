"""How close accounts are to the trigger: curves by charge, and the accounts about to flip."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from backtest.statistics.frequency_curve import STEP, FrequencyCurve

from . import frames
from .account_stats import account_stats
from .compare import bands
from .reader import Results


MOST_ACCOUNTS = 200
LIQUIDATED, SAVED = "newly liquidated", "saved"
_WHO = (
    "account_id",
    "segment",
    "start_equity_usd",
    "start_gross_notional_usd",
    "start_option_notional_usd",
    "start_net_delta_usd",
    "worst_time",
    "worst_margin_level",
)
_GROUPS = ("segment", "option share of gross notional", "|net delta| / gross notional")


def has_break_even(results: Results) -> bool:
    """Whether the run looked for break-even multipliers."""
    replay: dict[str, Any] = results.manifest.get("config", {}).get("replay", {})
    return bool(replay.get("break_even", True))


def curves(results: Results, parameter_set: str) -> dict[str, FrequencyCurve]:
    """The liquidation-frequency curve of every charge of a set, by the charge's name."""
    stats = account_stats(results, parameter_set)
    return {name: FrequencyCurve(stats.scored, stats.theta_counts[name]) for name in stats.names}


def elasticity_table(results: Results) -> pd.DataFrame:
    """What a change of one charge by a tenth does, the charge that moves most first, per set.

    Columns: parameter_set, charge, label, at_0.9, at_1, at_1.1 (fractions of scored accounts),
    slope (``dF / d ln theta`` at 1), elasticity (``d ln F / d ln theta``), newly_liquidated (a
    charge a tenth larger), saved (a tenth smaller): accounts.
    """
    parts = []
    for name in results.set_names:
        found = curves(results, name)
        rows = [
            {
                "parameter_set": name,
                "charge": charge.name,
                "label": charge.label,
                **{f"at_{m:g}": found[charge.name].at(m) for m in (1.0 - STEP, 1.0, 1.0 + STEP)},
                "slope": found[charge.name].slope,
                "elasticity": found[charge.name].elasticity,
                "newly_liquidated": found[charge.name].newly_liquidated,
                "saved": found[charge.name].saved,
            }
            for charge in results.charges(name)
        ]
        parts.append(frames.ordered(pd.DataFrame(rows), "slope", ascending=False))
    return pd.concat(parts, ignore_index=True)


def near_flips(results: Results, parameter_set: str) -> pd.DataFrame:
    """Accounts that a change of one charge by at most a tenth flips, the nearest first.

    Columns: those of the start, worst_time, worst_margin_level, ``charge`` (the one whose
    multiplier is nearest to 1), ``multiplier``, ``direction``: newly liquidated from that
    multiplier on, or saved below it.
    """
    key = ("near_flips", parameter_set)
    if key not in results.memo:
        names = account_stats(results, parameter_set).names
        columns = [*_WHO, "scored", *(f"theta_{name}" for name in names)]
        parts = [
            _near(pa.Table.from_batches([batch]).to_pandas(), names)
            for batch in results.account_batches(columns, parameter_set)
        ]
        filled = [part for part in parts if len(part)]
        empty = pd.DataFrame(columns=[*_WHO, "charge", "multiplier", "direction", "distance"])
        found = pd.concat(filled, ignore_index=True) if filled else empty
        results.memo[key] = frames.ordered(found, ["distance", "account_id"])
    return results.memo[key]


def _near(batch: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    theta = np.stack([frames.numbers(batch, f"theta_{name}") for name in names], axis=1)
    is_near = (theta > 1.0 - STEP) & (theta <= 1.0 + STEP)
    keep = is_near.any(axis=1) & (batch["scored"].to_numpy() > 0)
    theta, is_near = theta[keep], is_near[keep]
    distance = np.abs(np.log(np.where(is_near, theta, np.inf)))
    at = distance.argmin(axis=1)
    row = np.arange(len(at))
    multiplier = theta[row, at]
    found = frames.rows(batch, keep)[list(_WHO)]
    return found.assign(
        charge=np.asarray(names)[at],
        multiplier=multiplier,
        direction=np.where(multiplier > 1.0, LIQUIDATED, SAVED),
        distance=distance[row, at],
    )


def near_flip_table(results: Results) -> pd.DataFrame:
    """The nearest accounts of every set (``near_flips``), at most ``MOST_ACCOUNTS`` of each."""
    return _of_all(results, lambda name: near_flips(results, name).head(MOST_ACCOUNTS))


def near_groups(results: Results) -> pd.DataFrame:
    """Who the accounts about to flip are: counts by group and direction, per set."""
    return _of_all(results, lambda name: _grouped(near_flips(results, name)))


def _of_all(results: Results, table: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    parts = []
    for name in results.set_names:
        frame = table(name).drop(columns="distance", errors="ignore")
        frame.insert(0, "parameter_set", name)
        parts.append(frame)
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else parts[0]


def _grouped(found: pd.DataFrame) -> pd.DataFrame:
    rows = []
    up = found["direction"].to_numpy() == LIQUIDATED
    groups = bands(found) if len(found) else {}
    for dimension in (d for d in _GROUPS if d in groups):
        codes, names = groups[dimension].codes, groups[dimension].categories
        for k, name in enumerate(names):
            here = codes == k
            if here.any():
                count = {
                    "newly_liquidated": int((here & up).sum()),
                    "saved": int((here & ~up).sum()),
                }
                rows.append({"dimension": dimension, "group": str(name)} | count)
    return pd.DataFrame(rows, columns=["dimension", "group", "newly_liquidated", "saved"])
