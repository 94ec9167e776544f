"""Figures of a calibration; each takes what was saved and returns a ``Figure``."""

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backtest.calibration.config import Objective
from backtest.calibration.heat import figure_heat
from backtest.calibration.saved import SENSITIVITIES, TITLES, Saved
from backtest.report import text, theme
from backtest.report.figures_margin import figure_break_even, figure_elasticities
from backtest.report.reverse import figure_reverse_stress, has_reverse_stress


MOST_BARS = 14
"""Parameters of a tornado."""


def figure_frontier(saved: Saved) -> Figure:
    """Candidates by the first two objectives of the frontier: dominated, chosen, knee."""
    x = saved.frontier_objectives[0]
    others = saved.frontier_objectives[1:]
    y: Objective = "margin" if "margin" in others else others[0]
    frame = saved.tables["candidates"]
    on = frame["on_frontier"].to_numpy(bool)
    feasible = frame["feasible"].to_numpy(bool)
    title = (
        f"{text.number(int(on.sum()))} of {text.number(len(on))} sets are dominated by none; "
        f"{text.number(int(feasible.sum()))} hold every constraint"
    )
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(title, 4.4)
        axis = grid[0, 0]
        at = {name: frame[name].to_numpy(float) for name in (x, y)}
        for keep, color, size, label in (
            (~on & ~feasible, theme.GRID, 14, "dominated, breaks a constraint"),
            (~on & feasible, theme.MUTED, 18, "dominated"),
            (on & ~feasible, theme.SET_COLORS[4], 30, "frontier, breaks a constraint"),
            (on & feasible, theme.SET_COLORS[2], 34, "frontier"),
        ):
            if keep.any():
                axis.scatter(at[x][keep], at[y][keep], s=size, color=color, label=label)
        order = np.flatnonzero(on)[np.argsort(at[x][on])]
        if len(saved.frontier_objectives) == 2:
            axis.plot(
                at[x][order], at[y][order], color=theme.SET_COLORS[2], linewidth=0.9, zorder=0
            )
        marks = {"today": frame["candidate"].to_numpy() == "today"}
        marks |= {name: frame[name].to_numpy(bool) for name in ("knee", "chosen")}
        for k, (name, keep) in enumerate(marks.items()):
            if keep.any():
                _mark(axis, name, at[x][keep][0], at[y][keep][0], k)
        axis.set_xlabel(TITLES[x])
        axis.set_ylabel(TITLES[y])
        for name, which in ((x, "x"), (y, "y")):
            if name == "margin":
                theme.percent_axis(axis, which)
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _mark(axis: Axes, name: str, x: float, y: float, k: int) -> None:
    axis.plot(
        x,
        y,
        "osD"[k],
        markersize=11 - 2 * k,
        markerfacecolor="none",
        markeredgecolor=theme.SET_COLORS[k if k < 2 else 3],
        markeredgewidth=1.8,
        linestyle="none",
    )
    axis.annotate(
        name, (x, y), (8, 8 - 10 * k), textcoords="offset points", fontsize=8, color=theme.INK
    )


def figure_walk(saved: Saved) -> Figure:
    """Levels that the walk chose, and what they gave beside today's rules."""
    walk = saved.tables["walk_forward"]
    names = list(saved.summary["levels"])
    shown: list[Objective] = saved.frontier_objectives
    title = "Levels chosen on each stretch, and what they gave on the next one"
    fold = np.concatenate([[0], walk["fold"].to_numpy(int)])
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(title, 1.6 + 1.5 * (1 + len(shown)), 1 + len(shown))
        top = grid[0, 0]
        for k, name in enumerate(names):
            now = saved.summary["now"][name]
            levels = np.concatenate([[now], walk[name].to_numpy(float)]) / (now or 1.0)
            color, style = theme.charge_color(k), theme.set_style(k % theme.MOST_SETS)
            label = theme.label(name)
            top.plot(fold, levels, color=color, linestyle=style, marker="o", label=label)
        top.set_title("Level / today's level")
        theme.legend_above(top)
        for axis, name in zip(grid[1:, 0], shown, strict=True):
            for k, column in enumerate((f"{name}_today_test", f"{name}_test")):
                values = walk[column].to_numpy(float)
                label = ("today", "chosen on the stretch before")[k]
                color, style = theme.set_color(k), theme.set_style(k)
                axis.plot(
                    fold[1:], values, color=color, linestyle=style, marker="os"[k], label=label
                )
            axis.set_title(f"{TITLES[name]}, out of sample")
            if name == "margin":
                theme.percent_axis(axis)
        for axis in grid[:, 0]:
            axis.set_xlim(-0.2, fold[-1] + 0.2)
            axis.set_xticks(fold, ["today", *(f"fold {k}" for k in fold[1:])])
        figure.legend(*grid[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def figure_overfitting(saved: Saved) -> Figure:
    """Ranks, on the half not looked at, of the set that was best on the other."""
    logits = saved.tables["overfitting"]["logit"].to_numpy(float)
    if not len(logits):
        return theme.empty_figure("Overfitting", "Too few sets or blocks of time for the meter")
    probability = saved.summary["overfitting"]
    title = f"Probability of overfitting: {text.percent(probability)} of halves of the window"
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(title, 2.6)
        axis = grid[0, 0]
        reach = max(float(np.abs(logits).max()), 1.0)
        axis.hist(logits, bins=np.linspace(-reach, reach, 25), color=theme.SET_COLORS[0])
        axis.axvline(0, color=theme.MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
        axis.set_xlabel(
            "logit of the rank of the chosen set on the other half; right of 0: above the middle"
        )
        axis.set_title("Halves")
        theme.count_axis(axis)
    return figure


def figure_slopes(saved: Saved) -> Figure:
    """Tornado: what each parameter moves, by finite changes and by its gradient."""
    table = saved.tables[SENSITIVITIES]
    step = float(table["step_frac"].iloc[0])
    names, sizes = table["parameter"].to_numpy(), {}
    for objective in ("margin", "shortfall"):
        base = float(table[f"{objective}_usd"].iloc[0]) or 1.0
        columns = [f"{objective}_{k}_usd" for k in ("down", "up", "slope")]
        sizes[objective] = table[columns].to_numpy(float) / base
    most = np.max([np.abs(x[:, :2]).max(axis=1) for x in sizes.values()], axis=0)
    shown = [k for k in np.argsort(-np.nan_to_num(most)) if most[k] > 0.0][:MOST_BARS]
    if not shown:
        return theme.empty_figure("Slopes at today's rules", "No parameter moves anything")
    title = (
        f"Margin and shortfall move most with {theme.label(str(names[shown[0]]), 40)}: changes for "
        f"{text.MINUS}{text.percent(step)} and +{text.percent(step)}"
    )
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(title, 1.3 + 0.26 * len(shown), 1, 2, sharey=True)
        rows = np.arange(len(shown))
        words = ("Margin, change / today's", "Smoothed shortfall, change / today's")
        for axis, values, heading in zip(grid[0], sizes.values(), words, strict=True):
            down, up, slope = values[shown].T
            for side, change in enumerate((down, up)):
                color = theme.SET_COLORS[side]
                label = f"{(text.MINUS, '+')[side]}{text.percent(step)}"
                place = rows + 0.19 * (2 * side - 1)
                axis.barh(place, change, height=0.36, color=color, label=label)
                at = (2 * side - 1) * step * slope
                label = "by the gradient" if side else None
                axis.plot(at, place, "D", color=theme.INK, markersize=3.4, label=label)
            axis.axvline(0.0, color=theme.MUTED, linewidth=0.9)
            axis.set_title(heading)
            axis.grid(visible=False, axis="y")
            theme.percent_axis(axis, "x")
        grid[0, 0].set_yticks(rows, [theme.label(str(names[k]), 30) for k in shown])
        grid[0, 0].set_ylim(len(shown) - 0.4, -0.6)
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


FIGURES: dict[str, Callable[[Saved], Any]] = {
    "frontier": figure_frontier,
    "heat": figure_heat,
    "walk": figure_walk,
    "overfitting": figure_overfitting,
    "break_even": lambda saved: figure_break_even(saved.bundle),
    "elasticities": lambda saved: figure_elasticities(saved.bundle),
}
"""Figures of every page by file name."""

TABLE_FIGURES: dict[str, Callable[[Saved], Any]] = {SENSITIVITIES: figure_slopes}
"""Figures of what a calibration was asked for, by the table that they draw."""


def figures_of(saved: Saved) -> dict[str, Callable[[Saved], Any]]:
    """Figures of the page of a calibration by file name."""
    found = FIGURES | {k: draw for k, draw in TABLE_FIGURES.items() if k in saved.tables}
    if saved.is_verified and has_reverse_stress(saved.bundle):
        found["reverse_stress"] = lambda saved: figure_reverse_stress(saved.bundle)
    return found
