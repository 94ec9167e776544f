"""How few accounts hold what is liquidated, and what is lost."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import cells, frames, text, theme
from .cells import Column, page_table
from .figures_time import shown_sets
from .liquidations import has_liquidations, over_sets
from .reader import Results
from .section import Picture, Section


LARGEST = (1, 10, 100)
MARKED = 10
"""Accounts whose share the figure marks."""
LIQUIDATED, LOST = "liquidated notional", "bad debt"
_POINTS = 200


def amounts(results: Results, name: str) -> dict[str, np.ndarray]:
    """USD liquidated and bad debt by account, descending, accounts with none left out.

    Traded in slices and written off where liquidations are simulated; else gross notional at the
    start of episodes, and equity below zero at its lowest.
    """
    key = ("amounts_by_account", name)
    if key not in results.memo:
        if has_liquidations(results):
            rows = results.simulated("liquidation_totals", name)
            found = {
                LIQUIDATED: frames.numbers(rows, "notional_usd"),
                LOST: frames.numbers(rows, "bad_debt_usd"),
            }
        else:
            found = {LIQUIDATED: _triggered(results, name), LOST: _below_zero(results, name)}
        results.memo[key] = {what: np.sort(x[x > 0.0])[::-1] for what, x in found.items()}
    return results.memo[key]


def _triggered(results: Results, name: str) -> np.ndarray:
    """Gross notional at the start of all episodes of each account, USD."""
    if not results.has("events"):
        return np.zeros(0)
    rows = results.events(["account_id", "gross_notional_usd"], name, "liquidation")
    sums = frames.summed(rows, "account_id", ["gross_notional_usd"])
    return frames.numbers(sums, "gross_notional_usd")


def _below_zero(results: Results, name: str) -> np.ndarray:
    """Equity below zero at its lowest of each account that has any, USD."""
    found = [np.zeros(0)]
    for batch in results.account_batches(["bad_debt_usd"], name):
        debt = np.asarray(batch.column("bad_debt_usd").to_numpy(zero_copy_only=False), float)
        found.append(debt[debt > 0.0])
    return np.concatenate(found)


def share_of_largest(values: np.ndarray, count: int) -> float | None:
    """Share of the largest ``count`` of descending amounts in their sum; None where that is 0.

    Example:
        >>> share_of_largest(np.array([6.0, 3.0, 1.0]), 2)
        0.9
    """
    total = float(values.sum())
    return float(values[:count].sum()) / total if total > 0.0 else None


def concentration(results: Results, name: str) -> pd.DataFrame:
    """Share of the largest accounts in liquidated notional and in bad debt."""
    rows = []
    for what, values in amounts(results, name).items():
        shares = {f"top_{n}": share_of_largest(values, n) for n in LARGEST}
        total = float(values.sum())
        rows.append({"of": what, "accounts": len(values), "total_usd": total, **shares})
    return pd.DataFrame(rows)


def concentration_tables(results: Results) -> dict[str, pd.DataFrame]:
    """Tables of concentration by file name."""
    return {"liquidation_concentration": over_sets(results, concentration)}


def has_concentration(results: Results) -> bool:
    """Whether an account is liquidated, or owes something, under any set."""
    return any(len(x) for n in results.set_names for x in amounts(results, n).values())


def concentration_section(results: Results) -> Section:
    """How much of it all the largest accounts are."""
    title = "Concentration: the largest accounts"
    if not has_concentration(results):
        intro = "Nobody is liquidated and nobody owes anything under any parameter set."
        return Section("concentration", title, intro)
    measured = "gross notional at the trigger, and equity below zero at its lowest"
    happened = "what was traded in liquidations, and what they wrote off"
    intro = (
        "How much of what is liquidated, and of bad debt, belongs to few accounts "
        f"({happened if has_liquidations(results) else measured})."
    )
    caption = (
        "Accounts from the largest on (logarithmic), and their share of the whole; the mark is at "
        f"{MARKED} accounts. The further to the upper left, the fewer accounts matter."
    )
    table = page_table(over_sets(results, concentration), _COLUMNS, "Concentration")
    return Section("concentration", title, intro, [Picture("concentration", caption)], [table])


_COLUMNS = (
    Column("parameter_set", "Set"),
    Column("of", "Of"),
    Column("accounts", "Accounts", cells.count, "with any"),
    Column("total_usd", "Whole", cells.money),
    Column("top_1", "Largest", cells.share),
    Column("top_10", "10 largest", cells.share),
    Column("top_100", "100 largest", cells.share),
)


def figure_concentration(results: Results) -> Figure:
    """Cumulative shares of the largest accounts, one panel a measure, one curve a set."""
    with mpl.rc_context(theme.style()):
        figure, axes = theme.new_figure(_title(results), 3.3, 1, 2, sharey=True)
        for axis, what in zip(axes[0].tolist(), (LIQUIDATED, LOST), strict=True):
            _draw(axis, results, what)
            axis.set_title(f"Share of {what}")
        axes[0, 0].set_ylim(0.0, 1.05)
        theme.percent_axis(axes[0, 0])
        handles = {
            name: line for axis in axes[0] for line, name in zip(*_legend(axis), strict=True)
        }
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3)
    return figure


def _legend(axis: Axes) -> tuple[list[Any], list[str]]:
    return axis.get_legend_handles_labels()


def _draw(axis: Axes, results: Results, what: str) -> None:
    most = 1
    for k, name in enumerate(shown_sets(results)):
        values = amounts(results, name)[what]
        if not len(values):
            continue
        most = max(most, len(values))
        shares = np.cumsum(values) / values.sum()
        ranks = np.unique(np.geomspace(1, len(values), _POINTS).round().astype(int))
        color = theme.set_color(k)
        axis.plot(
            ranks,
            shares[ranks - 1],
            color=color,
            linestyle=theme.set_style(k),
            label=theme.label(name),
            # A curve of one account is a point.
            marker="o" if len(values) == 1 else None,
            markersize=4,
        )
        at = min(MARKED, len(values))
        axis.plot([at], [shares[at - 1]], "o", color=color, markersize=4)
    if most == 1 and not axis.lines:
        word = "Nobody is liquidated." if what == LIQUIDATED else "Nobody owes anything."
        axis.text(0.5, 0.5, word, transform=axis.transAxes, ha="center", color=theme.MUTED)
    axis.set_xscale("log")
    axis.set_xlim(0.9, max(1.15 * most, 1.15 * MARKED))
    axis.xaxis.set_major_formatter(lambda v, _: theme.short_tick(v))
    axis.xaxis.set_minor_formatter(lambda v, _: "")
    axis.set_xlabel("accounts, the largest first")


def _title(results: Results) -> str:
    name = results.champion
    found = amounts(results, name)
    parts = [
        f"{text.percent(share_of_largest(values, MARKED))} of {what}"
        for what, values in found.items()
        if len(values)
    ]
    if not parts:
        return f"Nobody is liquidated under {theme.quoted(name)}"
    whole = " and ".join(parts)
    return f"The {MARKED} largest accounts are {whole} under {theme.quoted(name)}"
