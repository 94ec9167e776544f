"""What liquidations did in a run that simulated them: tables by stage, fund, risk."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from . import frames
from .frequency import by_time, times
from .reader import Results


SECONDS_PER_DAY = 86_400.0
CONFIDENCES = (0.5, 0.95, 0.99)


def has_liquidations(results: Results) -> bool:
    """Whether the run simulated liquidations."""
    return results.has("liquidation_totals")


def traded(results: Results, name: str) -> pd.DataFrame:
    """One row an account and time with slices; none where nobody was liquidated."""
    key = ("traded", name)
    if key not in results.memo:
        wanted = ["time", "account_id", "notional_usd", "bad_debt_usd"]
        wanted += ["sold_coins", "sold_delta_usd"]
        rows = results.simulated("liquidated", name) if results.has("liquidated") else None
        if rows is None or not len(rows):
            rows = pd.DataFrame({c: [] for c in wanted})
        results.memo[key] = rows.reindex(columns=wanted)
    return results.memo[key]


def usd_by_time(results: Results, name: str) -> np.ndarray:
    """USD liquidated at every replayed time: traded in slices where a run simulates.

    Where it only measures: gross notional of the accounts whose episode starts then.
    """
    if not has_liquidations(results):
        return frames.numbers(by_time(results, name), "liquidated_notional_usd")
    rows = traded(results, name)
    if not len(rows):
        return np.zeros(len(times(results)))
    sums = frames.summed(rows, "time", ["notional_usd"]).reindex(times(results), fill_value=0.0)
    return frames.numbers(sums, "notional_usd")


def what_is_liquidated(results: Results) -> str:
    """What ``usd_by_time`` counts, in words."""
    if has_liquidations(results):
        return "size traded by liquidations"
    return "gross notional of accounts whose episode starts then; nothing is closed"


def over_sets(results: Results, of_set: Callable[[Results, str], pd.DataFrame]) -> pd.DataFrame:
    """One table of all sets, the champion first."""
    names = [results.champion, *results.challengers]
    parts = [of_set(results, name).assign(parameter_set=name) for name in names]
    whole = pd.concat(parts, ignore_index=True)
    columns = [c for c in whole.columns if c != "parameter_set"]
    return whole.reindex(columns=["parameter_set", *columns])


def outcomes(results: Results, name: str) -> pd.DataFrame:
    """One row: accounts liquidated, solvent and bankrupt, repeats, steps and time to safety."""
    rows = results.simulated("liquidation_totals", name)
    bankrupt = frames.numbers(rows, "bankruptcies") > 0
    seconds, steps = (frames.numbers(rows, c) for c in ("seconds_to_safety", "steps"))
    sums = ("notional_usd", "fee_usd", "slippage_usd", "surplus_usd", "bad_debt_usd")
    row: dict[str, Any] = {
        "accounts": len(rows),
        "solvent": int((~bankrupt).sum()),
        "bankrupt": int(bankrupt.sum()),
        "repeats": frames.count(rows, "repeats"),
        **{column: frames.total(rows, column) for column in sums},
        "median_steps": float(np.median(steps)) if len(rows) else None,
        "median_seconds": float(np.median(seconds)) if len(rows) else None,
        "longest_seconds": float(seconds.max()) if len(rows) else None,
    }
    return pd.DataFrame([row])


def stages(results: Results, name: str) -> pd.DataFrame:
    """One row a stage: steps, slices, accounts, size and costs, and liquidations it ended."""
    columns = ["stage", "steps", "slices", "accounts", "notional_usd", "fee_usd", "slippage_usd"]
    columns.append("ended")
    if not results.has("liquidations"):
        return pd.DataFrame(columns=columns)
    steps = results.simulated("liquidations", name)
    last = results.simulated("liquidated", name)
    last = frames.rows(last, ~last["is_active"].to_numpy(bool))
    found = []
    for stage in sorted(set(steps["stage"].tolist()) - {"bankruptcy"}):
        mine = frames.rows(steps, steps["stage"] == stage)
        sums = {c: frames.total(mine, c) for c in ("notional_usd", "fee_usd", "slippage_usd")}
        found.append(
            {
                "stage": stage,
                "steps": len(mine),
                "slices": frames.count(mine, "slices"),
                "accounts": len(set(mine["account_id"].tolist())),
                **sums,
                "ended": int((last["last_stage"] == stage).sum()),
            }
        )
    return pd.DataFrame(found, columns=columns)


def fund_path(results: Results, name: str) -> pd.DataFrame:
    """The waterfall time by time."""
    return frames.ordered(results.simulated("waterfall", name), "time")


def ledger(results: Results, name: str) -> pd.DataFrame:
    """One row: what came into the fund, and who paid the losses of the run."""
    rows = fund_path(results, name)
    columns = ("fee_usd", "surplus_usd", "revenue_usd", "loss_usd", "from_fund_usd")
    columns += ("from_adl_usd", "unfunded_usd", "adl_needed_usd")
    row: dict[str, Any] = {c: frames.total(rows, c) for c in columns}
    before, after = (frames.numbers(rows, f"fund_{side}_usd") for side in ("before", "after"))
    row["fund_start_usd"] = float(before[0]) if len(rows) else None
    row["fund_end_usd"] = float(after[-1]) if len(rows) else None
    row["fund_lowest_usd"] = float(np.minimum(before, after).min()) if len(rows) else None
    row["deleveraged"] = frames.count(rows, "deleveraged")
    needed = row["adl_needed_usd"]
    row["overshoot"] = row["from_adl_usd"] / needed if needed > 0.0 else None
    return pd.DataFrame([row])


def by_day(results: Results, name: str) -> pd.DataFrame:
    """Bad debt and liquidated notional of every day of the window, days without any included."""
    rows = results.simulated("liquidated", name) if results.has("liquidated") else None
    replay = results.manifest["replay"]
    first, last = (pd.Timestamp(replay[k]).tz_convert("UTC").floor("D") for k in ("start", "end"))
    days = pd.date_range(first, last, freq="D")
    columns = ["bad_debt_usd", "notional_usd"]
    if rows is None or not len(rows):
        return pd.DataFrame(0.0, index=range(len(days)), columns=columns).assign(day=days)
    day = pd.DatetimeIndex(rows["time"]).floor("D")
    sums = frames.summed(rows.assign(day=day), "day", columns).reindex(days, fill_value=0.0)
    return sums.rename_axis("day").reset_index()


def risk(results: Results, name: str) -> pd.DataFrame:
    """Quantiles over days: value at risk is of bad debt, liquidations at risk of notional."""
    days = by_day(results, name)
    found = []
    for measure, column in (("VaR, bad debt", "bad_debt_usd"), ("LaR, notional", "notional_usd")):
        values = frames.numbers(days, column)
        row: dict[str, Any] = {"measure": measure, "days": len(values)}
        for level in CONFIDENCES:
            # The smallest day that at least so many days do not exceed.
            row[f"q{round(100 * level)}_usd"] = float(
                np.quantile(values, level, method="inverted_cdf")
            )
        found.append(row | {"worst_usd": float(values.max())})
    return pd.DataFrame(found)


def liquidation_tables(results: Results) -> dict[str, pd.DataFrame]:
    """Every table of liquidations by file name."""
    if not has_liquidations(results):
        return {}
    return {
        "liquidation_outcomes": over_sets(results, outcomes),
        "liquidation_stages": over_sets(results, stages),
        "waterfall": over_sets(results, ledger),
        "fund_path": over_sets(results, fund_path),
        "liquidations_by_day": over_sets(results, by_day),
        "liquidation_risk": over_sets(results, risk),
    }
