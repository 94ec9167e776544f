"""What the liquidation events say: how late the trigger came and which rule set it off."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from . import frames
from .reader import Results


_BINDING = ("binding_charge", "binding_unit", "binding_price_move", "binding_vol")
_COLUMNS = ("account_id", "time", "equity_usd", "gross_notional_usd", *_BINDING)


@dataclass(frozen=True)
class TriggerStats:
    """The first trigger of each liquidated account of one set.

    ``shortfall`` is what is below zero already at the trigger: the least that a fund pays even if
    the whole account is closed at once at the mark. ``lead`` is the time from the trigger to equity
    below zero, of the accounts that get there if nothing is closed.
    """

    accounts: int
    shortfall_accounts: int
    shortfall_usd: float
    cushion_median: float
    """Median of equity / gross notional at the trigger, a fraction; NaN where there is none."""
    bankrupt: int
    lead_median_seconds: float
    no_lead: int
    """Bankrupt accounts whose trigger came at the same time or later, or never."""
    binding: pd.DataFrame
    """Liquidation events by binding charge, coin and scenario."""


def trigger_stats(results: Results, parameter_set: str) -> TriggerStats:
    """Trigger statistics of one set, computed once per ``Results``."""
    key = ("trigger_stats", parameter_set)
    if key not in results.memo:
        results.memo[key] = _compute(results, parameter_set)
    return results.memo[key]


def _compute(results: Results, parameter_set: str) -> TriggerStats:
    if not results.has("events"):  # a run without any event may write no file
        empty = pd.DataFrame({"account_id": [], "time": pd.DatetimeIndex([], tz="UTC")})
        liquidations = empty.reindex(columns=list(_COLUMNS))
        bankruptcies = empty
    else:
        liquidations = results.events(_COLUMNS, parameter_set, "liquidation")
        bankruptcies = results.events(["account_id", "time"], parameter_set, "bankrupt")
    first = _first(liquidations)
    equity = frames.numbers(first, "equity_usd")
    gross = frames.numbers(first, "gross_notional_usd")
    cushion = equity[gross > 0] / gross[gross > 0]
    lead = _lead_seconds(first, _first(bankruptcies))
    warned = lead[lead > 0]
    return TriggerStats(
        accounts=len(first),
        shortfall_accounts=int((equity < 0).sum()),
        shortfall_usd=float(np.abs(equity[equity < 0]).sum()),
        cushion_median=float(np.median(cushion)) if len(cushion) else float("nan"),
        bankrupt=len(lead),
        lead_median_seconds=float(np.median(warned)) if len(warned) else float("nan"),
        no_lead=len(lead) - len(warned),
        binding=_binding(liquidations),
    )


def _first(events: pd.DataFrame) -> pd.DataFrame:
    return frames.ordered(events, "time").drop_duplicates("account_id")


def _lead_seconds(triggers: pd.DataFrame, ruins: pd.DataFrame) -> np.ndarray:
    """Seconds from the first trigger to the first time below zero, NaN where never triggered."""
    both = ruins.merge(
        triggers[["account_id", "time"]], on="account_id", how="left", suffixes=("", "_trigger")
    )
    if not len(both):
        return np.zeros(0)
    return (both["time"] - both["time_trigger"]).to_numpy() / np.timedelta64(1, "s")


def _binding(liquidations: pd.DataFrame) -> pd.DataFrame:
    groups = liquidations.groupby(list(_BINDING), dropna=False, sort=True)
    counts = groups.agg(
        events=("account_id", "size"), gross_notional_usd=("gross_notional_usd", "sum")
    ).reset_index()
    return frames.ordered(counts, "events", ascending=False)
