"""Who pays the same losses under every way to deleverage."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import cells, frames, text, theme
from .cells import Column
from .figures_time import shown_sets
from .liquidations import over_sets
from .reader import Results


TABLE = "adl_policies"
PAYERS = {"from_fund_usd": "fund", "from_adl_usd": "deleveraging", "unfunded_usd": "unfunded"}
WORDS = {"none": "nobody", "queue": "queue", "pro_rata": "pro rata", "capped": "capped"}
"""Ways to deleverage in the order in which they stand."""
NOT_COMPARED = (
    "Not compared with other ways to deleverage: compare_policies = true in the section "
    "[liquidation] of a run saves them."
)
CAPTION = (
    "The same losses, paid under every way to deleverage: nobody, a queue by profit and leverage, "
    "in proportion to profit, in proportion up to a share of equity."
)
_HATCHES = ("", "///", "xxx")


def has_policies(results: Results) -> bool:
    """Whether the run saved the waterfall under every policy, and anything was lost."""
    if not results.has(TABLE):
        return False
    return any(len(policies(results, name)) for name in results.set_names)


def policies(results: Results, name: str) -> pd.DataFrame:
    """One row a policy: who paid, the fund, and what hit one account hardest."""
    rows, found = frames.ordered(results.simulated(TABLE, name), "time"), []
    for policy, words in WORDS.items():
        mine = frames.rows(rows, rows["policy"].astype(str) == policy)
        if not frames.total(mine, "loss_usd"):
            continue
        row: dict[str, Any] = {"policy": words, "loss_usd": frames.total(mine, "loss_usd")}
        row |= {column: frames.total(mine, column) for column in PAYERS}
        needed = frames.total(mine, "adl_needed_usd")
        row |= {
            "deleveraged": frames.count(mine, "deleveraged"),
            "overshoot": row["from_adl_usd"] / needed if needed > 0.0 else None,
            "largest_haircut_usd": float(frames.numbers(mine, "largest_haircut_usd").max()),
            "largest_closed_frac": float(frames.numbers(mine, "largest_closed_frac").max()),
            "fund_lowest_usd": float(frames.numbers(mine, "fund_after_usd").min()),
            "fund_end_usd": float(frames.numbers(mine, "fund_after_usd")[-1]),
        }
        found.append(row)
    return pd.DataFrame(found)


def policy_tables(results: Results) -> dict[str, pd.DataFrame]:
    """The comparison by file name."""
    return {TABLE: over_sets(results, policies)} if has_policies(results) else {}


COLUMNS = (
    Column("parameter_set", "Set"),
    Column("policy", "Who is deleveraged"),
    Column("from_fund_usd", "Paid by the fund", cells.money),
    Column("from_adl_usd", "Deleveraging", cells.money),
    Column("unfunded_usd", "Unfunded", cells.money),
    Column("deleveraged", "Deleveraged", cells.count, "account-times"),
    Column("largest_haircut_usd", "Largest of one", cells.money, "given up at a time"),
    Column("largest_closed_frac", "Largest of one", cells.share, "of its position closed"),
    Column("fund_lowest_usd", "Fund", cells.money, "lowest"),
    Column("fund_end_usd", "Fund", cells.money, "at the end"),
)


def figure_policies(results: Results) -> Figure:
    """Losses by who pays them, one bar a policy, one panel a set."""
    names = [n for n in shown_sets(results) if len(policies(results, n))]
    count = len(names)
    with mpl.rc_context(theme.style()):
        title = "Who pays the same losses, by who is deleveraged"
        figure, axes = theme.new_figure(title, 1.1 + 1.45 * count, count, sharex=True)
        for axis, name in zip(axes[:, 0].tolist(), names, strict=True):
            _draw(axis, policies(results, name))
            axis.set_title(theme.label(name))
        axes[-1, 0].set_xlabel("losses, USD")
        axes[-1, 0].xaxis.set_major_formatter(lambda v, _: theme.usd_tick(v))
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _draw(axis: Axes, rows: pd.DataFrame) -> None:
    places, base = np.arange(len(rows)), np.zeros(len(rows))
    for k, (column, label) in enumerate(PAYERS.items()):
        values = frames.numbers(rows, column)
        color = theme.charge_color(k)
        axis.barh(places, values, 0.65, base, color=color, hatch=_HATCHES[k], label=label)
        base = base + values
    largest = frames.numbers(rows, "largest_closed_frac")
    for place, end, share in zip(*(x.tolist() for x in (places, base, largest)), strict=True):
        if share > 0.0:
            words = f" at most {text.percent(share)} of a position"
            axis.text(end, place, words, va="center", fontsize=7.5, color=theme.MUTED)
    axis.set_yticks(places, rows["policy"].tolist())
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(0.0, 1.35 * float(base.max()))
    axis.grid(visible=False, axis="y")
