"""Tables of the report as plain data frames: raw numbers, units in the column names."""

import numpy as np
import pandas as pd

from .account_stats import BREAK_EVEN_POINTS, LEVEL_GRID, THETA_GRID, account_stats
from .accounts import listed
from .attribution import attribution_table, daily_change_table, has_units
from .break_even import elasticity_table, has_break_even, near_flip_table, near_groups
from .classifier import classifier_table
from .compare import Pairing, flip_table, flipped_accounts, pairing
from .concentration import concentration_tables
from .dated import period_table, step_table, switch_table
from .frequency import (
    by_time,
)
from .impact import impact_tables
from .liquidation_calendar import calendar_tables
from .liquidations import has_liquidations, liquidation_tables
from .paths import path_table, sets_with_paths
from .policies import policy_tables
from .procyclicality import (
    has_benchmarks,
    procyclicality_table,
    response_table,
    tool_table,
)
from .profile import profile_tables
from .quality import checks_table, input_table, quarantine_table, unpriced_table
from .reader import Results
from .reverse import has_reverse_stress, nearest_table
from .summary import or_nan, summary_table as summary_table
from .survival import survival_tables
from .triggers import trigger_stats


def pairing_table(results: Results) -> pd.DataFrame:
    """The flip table of all accounts, one row a challenger."""
    rows = [_pairing_row(pairing(results, results.champion, c)) for c in results.challengers]
    columns = ["champion", "challenger", "accounts", "both", "newly_saved", "newly_liquidated"]
    columns += ["neither", "not_paired", "mcnemar_statistic", "mcnemar_p", "exact_p"]
    return pd.DataFrame(rows, columns=columns)


def _pairing_row(pair: Pairing) -> dict[str, object]:
    return {
        "champion": pair.champion,
        "challenger": pair.challenger,
        "accounts": pair.pairs,
        "both": pair.both,
        "newly_saved": pair.only_champion,
        "newly_liquidated": pair.only_challenger,
        "neither": pair.neither,
        "not_paired": pair.not_paired,
        "mcnemar_statistic": or_nan(pair.test.statistic),
        "mcnemar_p": or_nan(pair.test.p_value),
        "exact_p": or_nan(pair.test.exact_p_value),
    }


def segment_table(results: Results) -> pd.DataFrame:
    """Liquidations by segment and set; fractions of the accounts and of the notional scored."""
    parts = []
    for name in results.set_names:
        frame = account_stats(results, name).segments.rename_axis("segment").reset_index()
        frame.insert(0, "parameter_set", name)
        parts.append(frame)
    table = pd.concat(parts, ignore_index=True)
    counts = ["scored", "liquidated", "episodes"]
    table[counts] = table[counts].astype(np.int64)
    table["per_account_frac"] = table["liquidated"] / table["scored"]
    gross = table["start_gross_usd"].astype(float)
    table["notional_frac"] = table["liquidated_gross_usd"].astype(float) / gross.where(gross > 0)
    return table


def episode_table(results: Results) -> pd.DataFrame:
    """Episodes started, their running total, accounts at or below 100 % at each time, per set."""
    parts = []
    for name in results.set_names:
        frame = by_time(results, name)
        kept = ["scored", "episodes_started", "first_liquidations", "at_or_below_100"]
        kept += ["gross_notional_usd", "liquidated_notional_usd"]
        frame = frame[kept].rename_axis("time").reset_index()
        frame.insert(0, "parameter_set", name)
        frame["episodes_cumulative"] = frame["episodes_started"].cumsum()
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def charge_table(results: Results) -> pd.DataFrame:
    """Charges at the worst time of each liquidated account, summed, USD, per set."""
    rows = []
    for name in results.set_names:
        stats = account_stats(results, name)
        total = stats.charges["worst_total_mmr"]
        added = sum(stats.charges[f"worst_{c}"] for c in stats.names)
        for charge in results.charges(name):
            amount = stats.charges[f"worst_{charge.name}"]
            rows.append(
                {
                    "parameter_set": name,
                    "charge": charge.name,
                    "label": charge.label,
                    "usd": amount,
                    "of_total_mmr_frac": amount / total if total else np.nan,
                    "of_all_charges_frac": amount / added if added else np.nan,
                    "liquidated_accounts": stats.liquidated,
                    "total_mmr_usd": total,
                }
            )
    return pd.DataFrame(rows)


def charge_path_table(results: Results) -> pd.DataFrame:
    """Charges and margin of all scored accounts at each time, USD sums, per set.

    A charge is null, never zero, in the rows of a set whose model has none of that name.
    """
    rest = ["derivatives_mmr", "total_mmr", "total_imr", "equity_usd", "adjusted_equity"]
    parts = []
    for name in results.set_names:
        columns = [*account_stats(results, name).names, *rest, "gross_notional_usd"]
        frame = by_time(results, name)[columns].rename_axis("time").reset_index()
        frame.insert(0, "parameter_set", name)
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def level_table(results: Results) -> pd.DataFrame:
    """Distribution of the worst margin level of each scored account, per set."""
    parts = []
    for name in results.set_names:
        stats = account_stats(results, name)
        frame = pd.DataFrame(
            {"margin_level": LEVEL_GRID, "accounts_at_or_below": stats.level_counts}
        )
        frame.insert(0, "parameter_set", name)
        frame["at_or_below_frac"] = frame["accounts_at_or_below"] / (stats.scored or np.nan)
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def break_even_curves(results: Results) -> pd.DataFrame:
    """F(theta) of each charge: share of accounts liquidated if that charge were scaled by theta."""
    parts = []
    for name in results.set_names:
        stats = account_stats(results, name)
        for charge in results.charges(name):
            counts = stats.theta_counts[charge.name]
            frame = pd.DataFrame({"multiplier": THETA_GRID, "accounts_liquidated": counts})
            frame.insert(0, "label", charge.label)
            frame.insert(0, "charge", charge.name)
            frame.insert(0, "parameter_set", name)
            frame["liquidated_frac"] = counts / (stats.scored or np.nan)
            parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def break_even_points(results: Results) -> pd.DataFrame:
    """F(theta) of each charge at a few multipliers, with the elasticity at 1.

    ``elasticity`` is ``d ln F / d ln theta``, by central difference between 0.9 and 1.1.
    """
    rows = []
    for name in results.set_names:
        stats = account_stats(results, name)
        for charge in results.charges(name):
            share = {
                m: _share(stats.liquidated_at(charge.name, m), stats.scored)
                for m in BREAK_EVEN_POINTS
            }
            row = {"parameter_set": name, "charge": charge.name, "label": charge.label}
            row |= {f"at_{m:g}": s for m, s in share.items()}
            slope = (share[1.1] - share[0.9]) / (np.log(1.1) - np.log(0.9))
            row["elasticity"] = slope / share[1.0] if share[1.0] else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def _share(count: int, total: int) -> float:
    return count / total if total else np.nan


def trigger_table(results: Results) -> pd.DataFrame:
    """Liquidation events by the charge, coin and scenario that bound at the trigger, per set."""
    parts = []
    for name in results.set_names:
        frame = trigger_stats(results, name).binding.copy()
        labels = {c.name: c.label for c in results.charges(name)}
        frame.insert(1, "label", [labels.get(c, c) for c in frame["binding_charge"].tolist()])
        frame.insert(0, "parameter_set", name)
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def loss_table(results: Results) -> pd.DataFrame:
    """The accounts with the largest bad debt, per set: equity below zero, or what was written off.

    Equity below zero where a run only measures, else what liquidation wrote off.

    A charge is null, never zero, in the rows of a set whose model has none of that name.
    """
    parts = []
    for name in results.set_names:
        frame = account_stats(results, name).losses
        if len(frame):
            kept = [
                "account_id",
                "segment",
                "bad_debt_usd",
                "start_gross_notional_usd",
                "worst_time",
            ]
            kept += ["first_liquidation_time", "worst_margin_level", "worst_equity_usd"]
            names = account_stats(results, name).names
            kept += ["worst_total_mmr", *(f"worst_{c}" for c in names)]
            frame = frame[kept].copy()
            frame.insert(0, "parameter_set", name)
            parts.append(frame)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def parameter_set_table(results: Results) -> pd.DataFrame:
    """Parameter sets of the run with hash and the number of values by provenance label."""
    rows = []
    for entry in results.manifest["parameter_sets"]:
        counts = entry.get("label_counts") or {}
        labels = {name: int(counts.get(key, 0)) for key, name in LABELS.items()}
        total = sum(int(v) for v in counts.values())
        known = {k: entry.get(k) for k in ("name", "file", "hash", "model", "era", "effective")}
        rows.append({**known, **labels, "numbers": total})
    return pd.DataFrame(rows)


LABELS = {"S": "stated", "P": "published", "D": "derived", "A": "assumed"}
"""Provenance labels of parameter values by their letter."""


def _tables_of_some_runs(results: Results) -> dict[str, pd.DataFrame]:
    """Tables of runs that saved what they need: units, constant portfolios, nearest scenarios."""
    tables = {}
    if has_units(results):
        tables["attribution"] = attribution_table(results)
    if has_benchmarks(results):
        tables["procyclicality"] = procyclicality_table(results)
        tables["procyclicality_tools"] = tool_table(results)
        tables["procyclicality_response"] = response_table(results)
    if has_reverse_stress(results):
        tables["reverse_stress"] = nearest_table(results)
    return tables


def all_tables(results: Results) -> dict[str, pd.DataFrame]:
    """Every table of the report by file name."""
    tables = {
        "decision": summary_table(results),
        "paired": pairing_table(results),
        "segments": segment_table(results),
        "episodes_by_time": episode_table(results),
        "charges_of_liquidated": charge_table(results),
        "charges_by_time": charge_path_table(results),
        "daily_change": daily_change_table(results),
        "worst_margin_levels": level_table(results),
        "triggers": trigger_table(results),
        "largest_losses": loss_table(results),
        "quarantine": quarantine_table(results),
        "input_rows": input_table(results),
        "unpriced_instruments": unpriced_table(results),
        "parameter_sets": parameter_set_table(results),
        "checks": checks_table(results),
    }
    if has_break_even(results):
        tables |= _break_even_tables(results)
    if results.schedules:
        tables["schedule_steps"] = step_table(results)
        tables["schedule_periods"] = period_table(results)
        tables["schedule_switches"] = switch_table(results)
    if sets_with_paths(results):
        tables["parameter_paths"] = path_table(results)
    tables |= _tables_of_some_runs(results)
    tables["largest_triggered"] = listed(results)
    tables |= concentration_tables(results) | profile_tables(results) | policy_tables(results)
    tables |= calendar_tables(results) | liquidation_tables(results) | impact_tables(results)
    tables |= survival_tables(results)
    if not has_liquidations(results):
        tables["classifier"] = classifier_table(results)
    flips, accounts = [], []
    for challenger in results.challengers:
        flips.append(
            _with_sets(flip_table(results, results.champion, challenger), results, challenger)
        )
        flipped = flipped_accounts(results, results.champion, challenger)
        accounts.append(_with_sets(flipped, results, challenger))
    if flips:
        tables["flips"] = pd.concat(flips, ignore_index=True)
        tables["flipped_accounts"] = pd.concat(accounts, ignore_index=True)
    return tables


def _break_even_tables(results: Results) -> dict[str, pd.DataFrame]:
    return {
        "break_even_curves": break_even_curves(results),
        "break_even_points": break_even_points(results),
        "elasticities": elasticity_table(results),
        "about_to_flip": near_flip_table(results),
        "about_to_flip_groups": near_groups(results),
    }


def _with_sets(frame: pd.DataFrame, results: Results, challenger: str) -> pd.DataFrame:
    frame = frame.copy()
    frame.insert(0, "challenger", challenger)
    frame.insert(0, "champion", results.champion)
    return frame
