"""Figures of a backtest from its saved tables; each names the backtest in its title.

A study that was saved without a table, or in which nothing exceeded margin, says so in the picture.
"""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backtest.report import frames, text, theme


ABSENT = "Saved before backtests had these numbers: run it again in a new folder"
NO_BREACH = "No loss was above its margin"
MOST_PANELS = 4
"""Parameter sets with a panel of their own."""
GREEN, YELLOW, RED = theme.SET_COLORS[2], theme.SET_COLORS[4], theme.SET_COLORS[1]
_ZONES = (("green", GREEN, 0.10), ("yellow", YELLOW, 0.16), ("red", RED, 0.13))


def figure_paths(table: pd.DataFrame | None, title: str, horizon: str) -> Figure:
    """Margin and worst loss of each benchmark portfolio over time, breaches marked."""
    if table is None or not len(table):
        return theme.empty_figure(f"{title}: margin and worst loss", ABSENT)
    name = str(table["set"].iloc[0])
    mine = frames.rows(table, table["set"] == name)
    accounts = list(dict.fromkeys(mine["account"]))
    short = set(frames.rows(mine, mine["is_breach"])["account"])
    count = text.plural(len(accounts), "benchmark portfolio")
    heading = (
        f"{title}: {text.number(len(short))} of {count} lose more than their margin within "
        f"{horizon} under {theme.quoted(name)}"
    )
    rows = -(-len(accounts) // 2)
    columns = min(len(accounts), 2)
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(heading, 1.0 + 1.75 * rows, rows, columns, sharex=True)
        for axis, account in zip(grid.ravel(), accounts, strict=False):
            _path_panel(axis, frames.rows(mine, mine["account"] == account))
        for axis in grid.ravel()[len(accounts) :]:
            axis.set_axis_off()
        for axis in grid.ravel()[max(len(accounts) - columns, 0) : len(accounts)]:
            times = pd.DatetimeIndex(mine["time"]).to_numpy()
            theme.time_axis(axis, np.array([times.min(), times.max()]), most_ticks=6)
            axis.tick_params(labelbottom=True)
        for axis in grid[:, 0]:
            axis.set_ylabel("USD")
        handles = {}
        for axis in grid.ravel():
            found = axis.get_legend_handles_labels()
            handles |= dict(zip(found[1], found[0], strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return figure


def _path_panel(axis: Axes, rows: pd.DataFrame) -> None:
    times = pd.DatetimeIndex(rows["time"]).to_numpy()
    loss, margin = (frames.numbers(rows, c) for c in ("loss_usd", "margin_usd"))
    hit = rows["is_breach"].to_numpy(bool)
    lost = np.maximum(loss, 0.0)
    axis.fill_between(
        times, lost, step="mid", color=theme.MUTED, alpha=0.35, linewidth=0, label="worst loss"
    )
    axis.plot(times, margin, color=theme.SET_COLORS[0], label="margin")
    if hit.any():
        label = "loss above margin"
        axis.plot(times[hit], lost[hit], "x", color=RED, markersize=4.0, label=label)
    breaches = text.plural(int(hit.sum()), "breach", "breaches")
    unit, account = (theme.label(str(rows[c].iloc[0]), 18) for c in ("unit", "account"))
    unit = {"several": "several coins", "none": "no coin"}.get(unit, unit)
    axis.set_title(f"{unit}: {account}, {breaches}")
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(lambda v, _: theme.usd_tick(v))


def figure_cumulative(
    table: pd.DataFrame | None, zones: dict[str, str], title: str, horizon: str
) -> Figure:
    """Breaches so far against what is expected, over the zones of the traffic light.

    Args:
        table: of ``cumulative_table``.
        zones: zone of each set at the end.
        title: the kind of backtest.
        horizon: margin period of risk.
    """
    if table is None or not len(table):
        return theme.empty_figure(f"{title}: breaches so far", ABSENT)
    names = list(dict.fromkeys(table["set"]))[:MOST_PANELS]
    last = frames.rows(table, table["set"] == names[0]).iloc[-1]
    heading = (
        f"{title}: {text.plural(int(last['breaches']), 'breach', 'breaches')} over {horizon} where "
        f"{text.significant(float(last['expected']))} are expected under "
        f"{theme.quoted(names[0])}: {zones.get(names[0], 'no zone')}"
    )
    rows, columns = -(-len(names) // 2), min(len(names), 2)
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(heading, 1.0 + 2.3 * rows, rows, columns, sharex=True)
        for axis, name in zip(grid.ravel(), names, strict=False):
            mine = frames.rows(table, table["set"] == name)
            _cumulative_panel(axis, mine)
            axis.set_title(f"{theme.label(name)}: {zones.get(name, 'no zone')}")
        for axis in grid.ravel()[len(names) :]:
            axis.set_axis_off()
        for axis in grid.ravel()[max(len(names) - columns, 0) : len(names)]:
            theme.time_axis(axis, pd.DatetimeIndex(table["time"]).to_numpy(), most_ticks=6)
            axis.set_xlim(table["time"].min(), table["time"].max())
            axis.tick_params(labelbottom=True)
        for axis in grid[:, 0]:
            axis.set_ylabel("breaches so far")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _cumulative_panel(axis: Axes, rows: pd.DataFrame) -> None:
    times = pd.DatetimeIndex(rows["time"]).to_numpy()
    seen, expected, green, yellow = (
        frames.numbers(rows, c) for c in ("breaches", "expected", "green_to", "yellow_to")
    )
    top = 1.12 * max(seen[-1], yellow[-1], 1.0)
    edges = (np.zeros_like(green), green, yellow, np.full_like(green, top))
    for (name, color, alpha), low, high in zip(_ZONES, edges, edges[1:], strict=False):
        axis.fill_between(times, low, high, color=color, alpha=alpha, linewidth=0, label=name)
    style = (0, (4, 2))
    axis.plot(times, expected, color=theme.MUTED, linewidth=1.0, linestyle=style, label="expected")
    axis.plot(times, seen, color=theme.INK, label="breaches", drawstyle="steps-post")
    axis.set_ylim(0, top)
    theme.count_axis(axis)


def figure_severity(
    excess: pd.DataFrame | None, shortfalls: pd.DataFrame | None, title: str, horizon: str
) -> Figure:
    """How far losses exceed margin: against an exponential tail, and in USD."""
    heading = f"{title}: how far losses exceed margin within {horizon}"
    if excess is None or shortfalls is None:
        return theme.empty_figure(heading, ABSENT)
    if not len(shortfalls):
        return theme.empty_figure(heading, NO_BREACH)
    names = list(dict.fromkeys(shortfalls["set"]))[: theme.MOST_SETS]
    if len(excess):
        worst = max(frames.records(excess), key=lambda r: r["excess"])
        heading = (
            f"{title}: the worst loss within {horizon} is {_times(worst['excess'])} its margin "
            f"under {theme.quoted(worst['set'])}"
        )
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(heading, 3.3, 1, 2)
        for k, name in enumerate(names):
            _excess_panel(grid[0, 0], frames.rows(excess, excess["set"] == name), k)
            _shortfall_panel(grid[0, 1], frames.rows(shortfalls, shortfalls["set"] == name), k)
        _finish_severity(grid[0], len(excess) > 0)
        figure.legend(*grid[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _times(excess: float) -> str:
    return f"{text.significant(1.0 + excess)}{text.SPACE}{text.TIMES}"


def _excess_panel(axis: Axes, rows: pd.DataFrame, k: int) -> None:
    at = (frames.numbers(rows, c) for c in ("exponential", "excess"))
    axis.plot(*at, "osD^v<"[k], color=theme.set_color(k), markersize=3.2, linestyle="none")


def _shortfall_panel(axis: Axes, rows: pd.DataFrame, k: int) -> None:
    edges = np.append(frames.numbers(rows, "from_usd"), frames.numbers(rows, "to_usd")[-1])
    color, style = theme.set_color(k), theme.set_style(k)
    label = theme.label(str(rows["set"].iloc[0]))
    counts = frames.numbers(rows, "breaches")
    axis.stairs(counts, edges, color=color, linestyle=style, linewidth=1.4, label=label)
    axis.stairs(counts, edges, color=color, alpha=0.12, fill=True)


def _finish_severity(axes: np.ndarray, has_excess: bool) -> None:
    left, right = axes
    if has_excess:
        left.set_xscale("log")
        left.set_yscale("log")
        ends = [*left.get_xlim(), *left.get_ylim()]
        reach = [max(ends[0], ends[2]), min(ends[1], ends[3])]
        left.plot(reach, reach, color=theme.MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
    left.set_title("Excess over margin, quantiles")
    left.set_xlabel("exponential of the same mean, excess / margin")
    left.set_ylabel("observed, excess / margin")
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_formatter(lambda v, _: theme.short_tick(v))
        axis.set_minor_formatter(lambda v, _: "")
    right.set_xscale("log")
    right.set_ylim(bottom=0)
    right.set_title("Breaches by shortfall")
    right.set_xlabel("shortfall, USD")
    right.set_ylabel("breaches")
    right.xaxis.set_major_formatter(lambda v, _: theme.usd_tick(v))
    right.xaxis.set_minor_formatter(lambda v, _: "")
    theme.count_axis(right)
