"""The comparison of all sets as a table: what the first page shows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from . import frames
from .account_stats import account_stats
from .bootstrap import Estimate
from .compare import pairing
from .decision import MEASURED, SIMULATED
from .frequency import (
    Rates,
    average_margin,
    by_time,
    effective_accounts,
    largest_rise,
    peak_to_trough,
    rate_differences,
    rates,
)
from .liquidations import has_liquidations, ledger, risk
from .reader import Results
from .triggers import trigger_stats


STEP_DAYS = 5
_PAID = (
    *(f"bad_debt_day_q{q}_usd" for q in (50, 95, 99)),
    *("fund_draw_usd", "adl_usd", "adl_account_times", "unfunded_usd"),
)
_PAIRED_COUNTS = ("newly_liquidated", "newly_saved", "both", "neither")


def summary_table(
    results: Results, champion: str | None = None, challengers: Sequence[str] | None = None
) -> pd.DataFrame:
    """The comparison of all sets (or of the sets named), one row each, the champion first.

    ``bad_debt_`` columns are equity below zero where nothing is closed (``liquidation`` =
    ``measured``), and what liquidations wrote off where they were ``simulated``, before fund and
    deleveraging; ``liquidated_never_below_zero`` counts who was liquidated without any.
    Fractions end in ``_frac``, amounts in ``_usd``; ``_low`` and ``_high`` bound the 95 % interval;
    ``difference_`` columns are challenger less champion. Quantiles of bad debt are over the days of
    the window; who paid it is known where liquidations were simulated. NaN (null in counts) where
    there is no such number.
    """
    first = results.champion if champion is None else results.check_set(champion)
    others = [n for n in results.set_names if n != first] if challengers is None else challengers
    names = [first, *(results.check_set(n) for n in others)]
    frame = pd.DataFrame([_summary_row(results, name, first) for name in names])
    return frame.astype(dict.fromkeys(_PAIRED_COUNTS, "Int64"))


def _summary_row(results: Results, name: str, champion: str) -> dict[str, object]:
    stats, trigger, rate = (
        account_stats(results, name),
        trigger_stats(results, name),
        rates(results, name),
    )
    row: dict[str, object] = {
        "parameter_set": name,
        "role": "champion" if name == champion else "challenger",
        "accounts_scored": stats.scored,
        "accounts_liquidated": stats.liquidated,
        **_estimate("per_account_frac", rate.per_account),
        "effective_accounts": effective_accounts(results, name) or np.nan,
        "episodes": stats.episodes,
        **_estimate("per_account_day", rate.per_account_day),
        "liquidated_notional_usd": frames.total(by_time(results, name), "liquidated_notional_usd"),
        **_estimate("per_notional_frac", rate.per_notional),
        "liquidation": SIMULATED if has_liquidations(results) else MEASURED,
        "liquidated_never_below_zero": stats.liquidated_solvent,
        "bad_debt_usd": stats.bad_debt_usd,
        "bad_debt_accounts": stats.bad_debt_accounts,
        "bad_debt_largest_usd": stats.bad_debt_largest_usd,
        "bad_debt_average_usd": stats.bad_debt_usd / (stats.bad_debt_accounts or np.nan),
        **_paid_columns(results, name),
        "interest_usd": stats.interest_usd,
        "converted_usd": stats.converted_usd,
        "converted_accounts": stats.converted_accounts,
        "shortfall_at_trigger_usd": trigger.shortfall_usd,
        "shortfall_at_trigger_accounts": trigger.shortfall_accounts,
        "equity_at_trigger_frac": trigger.cushion_median,
        "lead_to_zero_seconds": trigger.lead_median_seconds,
        "average_mmr_frac": average_margin(results, name),
        "average_imr_frac": average_margin(results, name, "total_imr"),
        "peak_to_trough": peak_to_trough(results, name),
        "largest_5_day_step_frac": largest_rise(results, name, STEP_DAYS),
    }
    return row | _paired_columns(results, champion, name)


def _paid_columns(results: Results, name: str) -> dict[str, object]:
    """Bad debt of a day and who paid it; NaN where nothing is closed."""
    if not has_liquidations(results):
        return dict.fromkeys(_PAID, np.nan)
    days, paid = frames.records(risk(results, name))[0], frames.records(ledger(results, name))[0]
    found = (*(days[f"q{q}_usd"] for q in (50, 95, 99)), paid["from_fund_usd"])
    found += (paid["from_adl_usd"], paid["deleveraged"], paid["unfunded_usd"])
    return dict(zip(_PAID, found, strict=True))


def _paired_columns(results: Results, champion: str, name: str) -> dict[str, object]:
    if name == champion:
        columns = (*_PAIRED_COUNTS, "mcnemar_statistic", "mcnemar_p")
        found: dict[str, object] = dict.fromkeys(columns, np.nan)
        return found | _differences(Rates(*(Estimate(np.nan) for _ in range(3))))
    pair = pairing(results, champion, name)
    difference = rate_differences(results, champion, name)
    return {
        "newly_liquidated": pair.only_challenger,
        "newly_saved": pair.only_champion,
        "both": pair.both,
        "neither": pair.neither,
        "mcnemar_statistic": or_nan(pair.test.statistic),
        "mcnemar_p": or_nan(pair.test.p_value),
        **_differences(difference),
    }


def _differences(difference: Rates) -> dict[str, object]:
    return {
        **_estimate("difference_frac", difference.per_account),
        **_estimate("difference_day", difference.per_account_day),
        **_estimate("difference_notional_frac", difference.per_notional),
    }


def _estimate(name: str, value: Estimate) -> dict[str, object]:
    return {
        name: value.value,
        f"{name}_low": or_nan(value.low),
        f"{name}_high": or_nan(value.high),
    }


def or_nan(value: float | None) -> float:
    """The number, NaN where there is none."""
    return np.nan if value is None else value
