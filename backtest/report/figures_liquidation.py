"""Figures of liquidations: the fund where they happen, their rates where not."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import frames, theme
from .classifier import classified
from .figures_time import shown_sets
from .frequency import times
from .fund import adl_trigger, corners, fund_balances
from .liquidations import fund_path
from .reader import Results


_PAID = {"from_fund_usd": "fund", "from_adl_usd": "deleveraging", "unfunded_usd": "unfunded"}
_DUE = "deleveraging due"
_HATCHES = ("", "///", "xxx")


def figure_fund(results: Results) -> Figure:
    """The fund of every set, when deleveraging is due, and who paid the losses of the champion."""
    title = "Insurance fund, and who paid the losses"
    names = [n for n in shown_sets(results) if len(fund_path(results, n))]
    if not names:
        return theme.empty_figure(title, "Nobody was liquidated.")
    with mpl.rc_context(theme.style()):
        figure, axes = theme.new_figure(title, 5.0, 2, 1, sharex=True, height_ratios=[1.3, 1.0])
        top, bottom = axes[0, 0], axes[1, 0]
        for name in names:
            _draw_fund(top, results, name, theme.set_color(shown_sets(results).index(name)))
        top.set_ylim(bottom=min(0.0, top.get_ylim()[0]))
        top.set_ylabel("fund, USD")
        top.set_title("Fund after every time")
        theme.legend_above(top)
        _draw_payers(bottom, results, names[0])
        bottom.set_ylabel("losses, USD")
        bottom.set_title(f"Who paid the losses under {theme.quoted(names[0])}")
        theme.legend_above(bottom)
        for panel in (top, bottom):
            panel.yaxis.set_major_formatter(lambda v, _: theme.usd_tick(v))
        theme.time_axis(bottom, times(results).tz_convert(None).to_numpy())
    return figure


def _draw_fund(axis: Axes, results: Results, name: str, color: str) -> None:
    """Balance of a set, and dotted the one at which deleveraging is due."""
    clock = times(results).tz_convert(None).to_numpy()
    k = theme.SET_COLORS.index(color)
    # One legend entry says what dotted lines are; their colour says whose.
    is_said = any(line.get_label() == _DUE for line in axis.lines)
    for values, look, label in (
        (fund_balances(results, name), theme.set_style(k), theme.label(name)),
        (adl_trigger(results, name), (0, (1, 2)), "_" if is_said else _DUE),
    ):
        if np.isfinite(values).all():
            at = corners(values)
            axis.step(
                clock[at],
                values[at],
                where="post",
                color=color,
                linestyle=look,
                label=label,
            )


def _draw_payers(axis: Axes, results: Results, name: str) -> None:
    """Losses of each time by who paid them, stacked."""
    rows = fund_path(results, name)
    clock = pd.DatetimeIndex(rows["time"]).tz_convert(None).to_numpy()
    width, base = np.timedelta64(max(1, round(results.interval_seconds)), "s"), np.zeros(len(rows))
    for k, (column, label) in enumerate(_PAID.items()):
        values = frames.numbers(rows, column)
        axis.bar(
            clock,
            values,
            width,
            base,
            label=label,
            color=theme.charge_color(k),
            hatch=_HATCHES[k],
        )
        base = base + values
    axis.set_ylim(0.0, max(1.08 * float(base.max()), 1e-3))


def figure_roc(results: Results) -> Figure:
    """Right triggers against false alarms, one point a set."""
    title = "Triggers: right ones against false alarms"
    names = shown_sets(results)
    points = [(n, classified(results, n)) for n in names]
    known = [
        (n, c.false_positive_rate, c.true_positive_rate)
        for n, c in points
        if np.isfinite([c.false_positive_rate, c.true_positive_rate]).all()
    ]
    if not known:
        return theme.empty_figure(title, "No account went below zero.")
    with mpl.rc_context(theme.style()):
        figure, axes = theme.new_figure(title, 3.2)
        panel = axes[0, 0]
        path = sorted((x, y) for _, x, y in known)
        across, up = zip((0.0, 0.0), *path, (1.0, 1.0), strict=True)
        panel.plot(across, up, color=theme.MUTED, linewidth=0.7, zorder=1)
        for name, x, y in known:
            color = theme.set_color(names.index(name))
            panel.plot([x], [y], "o", color=color, label=theme.label(name), zorder=2)
        panel.set_xlim(0.0, min(1.0, 1.3 * max(max(x for _, x, _ in known), 1e-3)))
        panel.set_ylim(0.0, 1.05)
        panel.set_xlabel("false alarms, share of accounts that did not fail")
        panel.set_ylabel("right triggers, share of\naccounts that failed")
        theme.percent_axis(panel)
        theme.percent_axis(panel, "x")
        theme.legend_above(panel)
    return figure
