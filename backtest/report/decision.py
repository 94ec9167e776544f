"""The first page: sets side by side, metric by metric."""

from collections.abc import Callable, Mapping

import pandas as pd

from . import frames, text
from .cells import Cell, PageTable


SIMULATED, MEASURED = "simulated", "measured"
"""Values of ``liquidation`` in the summary table: what the bad debt of a row is."""
_WHICH = {SIMULATED: "after liquidation", MEASURED: "if nothing is closed"}
ELSEWHERE = (
    "A run does not know coverage and zone of a set (pmstress backtest) or the probability of "
    "overfitting of a choice (pmstress calibrate): they are on the pages of these commands."
)
_Row = dict[str, float]
_Draw = Callable[[_Row], tuple[str, str]]
_Metric = tuple[str, str, _Draw]


def _plain(key: str, show: Callable[[float], str]) -> _Draw:
    return lambda row: (show(row[key]), "")


def _with_interval(
    key: str, show: Callable[[float], str], kind: str
) -> Callable[[_Row], tuple[str, str]]:
    def draw(row: _Row) -> tuple[str, str]:
        span = text.interval(row[f"{key}_low"], row[f"{key}_high"], kind)
        return show(row[key]), "" if span == text.NONE else span

    return draw


def _amount(key: str, accounts: str) -> _Draw:
    def draw(row: _Row) -> tuple[str, str]:
        return text.usd(row[key]), text.plural(int(row[accounts]), "account")

    return draw


def _none_below(row: _Row) -> tuple[str, str]:
    """Bad debt of a day that one in a hundred exceeds, with the quantiles below it."""
    if text.is_missing(row["bad_debt_day_q99_usd"]):
        return text.NONE, ""
    lower = ", ".join(
        f"{q}{text.SPACE}%: {text.usd(row[f'bad_debt_day_q{q}_usd'])}" for q in (95, 50)
    )
    return text.usd(row["bad_debt_day_q99_usd"]), lower


def _deleveraged(row: _Row) -> tuple[str, str]:
    return text.usd(row["adl_usd"]), text.plural(row["adl_account_times"], "account-time")


def _rise(row: _Row) -> tuple[str, str]:
    value = row["largest_5_day_step_frac"]
    if text.is_missing(value):
        return text.NONE, "window too short"
    return f"{'+' if value > 0 else ''}{text.percent(value)}", ""


def _times(value: float) -> str:
    return text.NONE if text.is_missing(value) else f"{text.TIMES} {text.significant(value)}"


def _mcnemar(row: _Row) -> tuple[str, str]:
    if text.is_missing(row["mcnemar_statistic"]):
        return text.NONE, ""
    p = text.p_value(row["mcnemar_p"])
    return text.number(row["mcnemar_statistic"], 1), f"p {p if p.startswith('<') else '= ' + p}"


def _liquidated(row: _Row) -> tuple[str, str]:
    return text.number(
        row["accounts_liquidated"]
    ), f"of {text.number(row['accounts_scored'])} scored"


def _solvent(row: _Row) -> tuple[str, str]:
    count, total = row["liquidated_never_below_zero"], row["accounts_liquidated"]
    return text.number(count), f"{text.percent(count / total)} of those liquidated" if total else ""


_UNTOUCHED: tuple[_Metric, ...] = (
    (
        "Bad debt if nothing is closed",
        "equity below zero at its lowest, summed",
        _amount("bad_debt_usd", "bad_debt_accounts"),
    ),
    ("Largest of one account", "if nothing is closed", _plain("bad_debt_largest_usd", text.usd)),
    ("Average of one account", "of those that owe", _plain("bad_debt_average_usd", text.usd)),
    ("Liquidated, never below zero", "equity stays positive if left alone", _solvent),
)
"""Where a run only measures: what accounts owe that are left as they are."""
_SIMULATED: tuple[_Metric, ...] = (
    (
        "Bad debt after liquidation",
        "before fund and deleveraging pay for it",
        _amount("bad_debt_usd", "bad_debt_accounts"),
    ),
    ("Largest of one account", "after liquidation", _plain("bad_debt_largest_usd", text.usd)),
    ("Average of one account", "of those that owe", _plain("bad_debt_average_usd", text.usd)),
    ("Bad debt of a day, 99 %", "quantiles over the days of the window", _none_below),
    ("Paid by the fund", "of that bad debt", _plain("fund_draw_usd", text.usd)),
    ("Deleveraging", "profit that accounts gave up for it", _deleveraged),
    ("Unfunded", "paid by nobody", _plain("unfunded_usd", text.usd)),
    ("Liquidated, nothing owed", "closing them was paid for by their equity", _solvent),
)
"""Where liquidation happens: what it left behind."""
_LOSSES, _PAIRED = "Losses", "Against the champion, account by account"
_DEBTS = "Debts over time"
_METRICS: dict[str, tuple[_Metric, ...]] = {
    "Liquidation frequency": (
        ("Accounts liquidated", "scored accounts with one episode or more", _liquidated),
        (
            "Per account",
            "share of scored accounts; 95 % interval",
            _with_interval("per_account_frac", text.percent, "percent"),
        ),
        (
            "Per account-day",
            "episodes / scored account-days; 95 % interval",
            _with_interval("per_account_day", text.significant, "number"),
        ),
        (
            "Per notional",
            "notional of episodes / average gross notional; 95 % interval",
            _with_interval("per_notional_frac", text.percent, "percent"),
        ),
        (
            "Episodes",
            "an account that hovers at 100 % counts once",
            _plain("episodes", text.number),
        ),
    ),
    _PAIRED: (
        (
            "Difference per account",
            "percentage points; paired 95 % interval",
            _with_interval("difference_frac", text.points, "points"),
        ),
        (
            "Difference per account-day",
            "in episodes; paired 95 % interval",
            _with_interval("difference_day", text.significant, "number"),
        ),
        (
            "Difference per notional",
            "percentage points; paired 95 % interval",
            _with_interval("difference_notional_frac", text.points, "points"),
        ),
        (
            "Newly liquidated",
            "only this set liquidates them",
            _plain("newly_liquidated", text.number),
        ),
        ("Newly saved", "only the champion does", _plain("newly_saved", text.number)),
        ("Both", "both sets liquidate them", _plain("both", text.number)),
        ("Neither", "no set liquidates them", _plain("neither", text.number)),
        ("McNemar chi-square", "takes accounts as independent, which they are not", _mcnemar),
    ),
    _LOSSES: (
        (
            "Below zero at the trigger",
            "what no liquidation could have saved",
            _amount("shortfall_at_trigger_usd", "shortfall_at_trigger_accounts"),
        ),
        (
            "Equity left at the trigger",
            "median, share of gross notional",
            _plain("equity_at_trigger_frac", text.percent),
        ),
        (
            "Time from trigger to zero",
            "median, of accounts that go below zero later",
            _plain("lead_to_zero_seconds", text.duration),
        ),
    ),
    _DEBTS: (
        (
            "Interest paid",
            "debts above their quota, every full hour",
            _plain("interest_usd", text.usd),
        ),
        (
            "Assets converted",
            "sold for the debts of accounts that may not borrow",
            _amount("converted_usd", "converted_accounts"),
        ),
    ),
    "Cost to traders": (
        (
            "Average maintenance margin",
            "total MMR / gross notional, all times",
            _plain("average_mmr_frac", text.percent),
        ),
        (
            "Average initial margin",
            "total IMR / gross notional, all times",
            _plain("average_imr_frac", text.percent),
        ),
        (
            "Margin rate, peak to trough",
            "largest / smallest MMR / gross notional",
            _plain("peak_to_trough", _times),
        ),
        (
            "Margin rate, largest 5-day rise",
            "of MMR / gross notional, over exactly 5 days",
            _rise,
        ),
    ),
}


def decision_table(summary: pd.DataFrame) -> PageTable:
    """The sets of a summary table side by side; rows are grouped by question."""
    raw = frames.records(summary)
    records = [_numbers(r) for r in raw]
    headings = [("", "", False)]
    headings += [(text.shorten(str(r["parameter_set"]), 24), str(r["role"]), True) for r in raw]
    debt = _SIMULATED if any(r["liquidation"] == SIMULATED for r in raw) else _UNTOUCHED
    rows: list[list[Cell]] = []
    groups: list[str] = []
    for group, metrics in _METRICS.items():
        if group == _PAIRED and len(records) < 2:
            continue
        if group == _DEBTS and not any(r["interest_usd"] or r["converted_usd"] for r in records):
            continue
        for name, note, draw in (*(debt if group == _LOSSES else ()), *metrics):
            drawn = [draw(r) for r in records]
            rows.append(
                [Cell(name, note=note), *(Cell(s, note=n, role="number") for s, n in drawn)]
            )
            groups.append(group)
    return PageTable(
        "All sets side by side", headings, rows, ELSEWHERE, sortable=False, groups=groups
    )


def _numbers(record: Mapping[str, object]) -> _Row:
    """The columns of a summary row that are no names; NaN where there is no number."""
    names = ("parameter_set", "role", "liquidation")
    return {
        k: float(v) if isinstance(v, int | float) else float("nan")
        for k, v in record.items()
        if k not in names
    }


def tiles(summary: pd.DataFrame) -> list[dict[str, str]]:
    """The three numbers of each set that a reader wants first."""
    shown = []
    for record in frames.records(summary):
        row = _numbers(record)
        span = text.interval(row["per_account_frac_low"], row["per_account_frac_high"])
        shown.append(
            {
                "name": str(record["parameter_set"]),
                "role": str(record["role"]),
                "share": text.percent(row["per_account_frac"]),
                "counts": " ".join(_liquidated(row)),
                "interval": "" if span == text.NONE else f"95{text.SPACE}% interval {span}",
                "margin": text.percent(row["average_mmr_frac"]),
                "debt": text.usd(row["bad_debt_usd"]),
                "debt_is": f"bad debt {_WHICH[str(record['liquidation'])]}",
            }
        )
    return shown
