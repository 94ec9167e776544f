"""Figures of margin: what it consists of, how far levels fall, how close the rest were."""

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from . import text, theme
from .account_stats import LEVEL_GRID, THETA_GRID, AccountStats, account_stats
from .break_even import curves
from .figures_time import shown_sets
from .reader import Results


_LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))


def figure_charges_of_liquidated(results: Results) -> Figure:
    """Charges of liquidated accounts at their worst time, summed and stacked, one bar a set.

    Sets with other charges stand in a panel of their own, on the same scale.
    """
    sets = [s for s in shown_sets(results) if account_stats(results, s).liquidated]
    title = _charge_title(results)
    if not sets:
        return theme.empty_figure(title, "No account is liquidated")
    groups = results.alike(sets)
    most = max(_reach(account_stats(results, s)) for s in sets)
    height = 0.55 + 1.2 * len(groups) + 0.5 * len(sets)
    ratios = [0.6 + len(g) for g in groups]
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(
            title, height, len(groups), sharex=True, height_ratios=ratios
        )
        for axis, names in zip(grid[:, 0], groups, strict=True):
            _draw_stacks(axis, results, names, most)
            axis.set_title(
                "Sum over liquidated accounts at their worst time, USD; tall mark: total MMR"
            )
        grid[-1, 0].xaxis.set_major_formatter(lambda v, _: theme.usd_tick(v))
        _legends(figure, grid[:, 0].tolist(), 3)
    return figure


def _legends(figure: Figure, panels: list[Axes], columns: int) -> None:
    """One legend of the figure, or one below each panel where their charges differ."""
    if len(panels) > 1:
        for axis in panels:
            theme.legend_below(axis, 20 if axis is panels[-1] else 8, columns)
        return
    handles, names = panels[0].get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=columns)


def _reach(stats: AccountStats) -> float:
    """Length of a set's bar: the sum of its charges, or total MMR where that is larger."""
    whole = sum(stats.charges[f"worst_{c}"] for c in stats.names)
    return max(whole, stats.charges["worst_total_mmr"])


def _draw_stacks(axis: Axes, results: Results, names: list[str], most: float) -> None:
    """Bars of sets with equal charges; ``most`` is the longest bar of the whole figure, USD."""
    for y, name in enumerate(names):
        stats, left = account_stats(results, name), 0.0
        whole = sum(stats.charges[f"worst_{c}"] for c in stats.names)
        total = stats.charges["worst_total_mmr"]
        for i, charge in enumerate(results.charges(name)):
            amount = stats.charges[f"worst_{charge.name}"]
            color = theme.charge_color(i)
            axis.barh(y, amount, left=left, color=color, height=0.62, label=charge.label)
            words = f"{charge.short} {100 * amount / whole:.0f}{text.SPACE}%" if whole > 0 else ""
            at = _room(left, amount, total, 0.011 * len(words) * most)
            if at is not None:
                ink = theme.on_charge(i)
                axis.text(at, y, words, ha="center", va="center", fontsize=7.5, color=ink)
            left += amount
        axis.plot([total, total], [y - 0.4, y + 0.4], color=theme.INK, linewidth=2.4)
    axis.set_yticks(range(len(names)), [theme.label(s, 18) for s in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")


def _room(left: float, amount: float, mark: float, needed: float) -> float | None:
    """Where words of a length stand on a part of a bar, beside the mark; None without room."""
    parts = [(left, left + amount)]
    if abs(left + amount / 2 - mark) < needed / 2:
        parts = [(left, mark), (mark, left + amount)]
    start, stop = max(parts, key=lambda p: p[1] - p[0])
    return (start + stop) / 2 if stop - start > needed else None


def _charge_title(results: Results) -> str:
    champion = theme.quoted(results.champion)
    charges = account_stats(results, results.champion).charges
    amounts = {c: charges[f"worst_{c.name}"] for c in results.charges(results.champion)}
    whole = sum(amounts.values())
    if not whole > 0:
        return f"No account is liquidated under {champion}"
    largest = max(amounts, key=lambda c: amounts[c])
    return (
        f"{theme.label(largest.label, 40)} is the largest charge of accounts liquidated under "
        f"{champion}: {text.percent(amounts[largest] / whole)} of all charges"
    )


def figure_levels(results: Results) -> Figure:
    """Worst margin level of each account: cumulative share and histogram on a log scale."""
    sets = [s for s in shown_sets(results) if account_stats(results, s).scored]
    title = _level_title(results)
    if not sets:
        return theme.empty_figure(title, "No account was scored")
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(title, 4.6, 2, sharex=True, height_ratios=[1.4, 1])
        top, bottom = grid[:, 0]
        for i, name in enumerate(sets):
            stats = account_stats(results, name)
            color = theme.set_color(i)
            share = stats.level_counts / stats.scored
            top.plot(
                LEVEL_GRID,
                share,
                label=theme.label(name),
                color=color,
                linestyle=theme.set_style(i),
            )
            edges = np.logspace(-1, 2, 46)
            at = np.searchsorted(LEVEL_GRID, edges * (1 + 1e-9), side="right") - 1
            counts = np.diff(stats.level_counts[at]) / stats.scored
            outline = "-" if i < 2 else theme.set_style(i)
            bottom.stairs(
                counts,
                edges,
                fill=i == 0,
                alpha=0.45 if i == 0 else 1.0,
                linewidth=1.3,
                color=color,
                linestyle=outline,
            )
        top.set_title("Accounts with a worst level at or below, share of scored accounts")
        bottom.set_title("Share of scored accounts by worst level")
        for axis in (top, bottom):
            axis.set_xscale("log")
            axis.set_xlim(0.1, 100)
            axis.set_ylim(bottom=0)
            theme.percent_axis(axis)
            for level in _marks(results):
                axis.axvline(level, color=theme.MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
        _mark_levels(top, _marks(results))
        bottom.xaxis.set_major_formatter(lambda v, _: theme.percent_tick(v))
        bottom.set_xlabel(
            "worst margin level of the window (adjusted equity / maintenance margin), log scale"
        )
        top.legend(loc="lower right")
    return figure


def _marks(results: Results) -> dict[float, str]:
    """Levels to mark with their names: those of the champion, as far as the run saved them."""
    levels = results.levels(results.champion)
    found = {levels.warning: "warning", levels.safe: "safe", 1.0: "liquidation"}
    return {
        level: f"{name}\n{theme.percent_tick(round(level, 3))}"
        for level, name in found.items()
        if level is not None
    }


def _mark_levels(axis: Axes, marks: dict[float, str]) -> None:
    axis.set_ylim(0, max(axis.get_ylim()[1], 0.05) * 1.02)
    for level, name in marks.items():
        left, top = level <= 1.0, level < 2.0
        axis.annotate(
            name,
            (level, 0.97 if top else 0.04),
            (-4 if left else 4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top" if top else "bottom",
            fontsize=7.3,
            color=theme.MUTED,
        )


def _level_title(results: Results) -> str:
    stats = account_stats(results, results.champion)
    if not stats.scored:
        return "Worst margin level of each account"
    warned = stats.level_counts[np.searchsorted(LEVEL_GRID, 3.0)] / stats.scored
    return (
        f"Under {theme.label(results.champion)} {text.percent(float(warned))} of accounts fall to "
        f"300 % or below, {text.percent(stats.share)} to 100 % or below"
    )


def figure_break_even(results: Results) -> Figure:
    """Share liquidated if one charge were scaled, for each charge; exact, from one replay."""
    sets = [s for s in shown_sets(results) if account_stats(results, s).scored][:4]
    title = "Share of accounts liquidated if one charge were scaled and all else stayed"
    if not sets:
        return theme.empty_figure(title, "No account was scored")
    columns = min(2, len(sets))
    rows = -(-len(sets) // columns)
    apart = len(results.alike(sets)) > 1
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(
            title, 1.1 + (3.6 if apart else 2.9) * rows, rows, columns, sharex=True, sharey=True
        )
        panels = grid.flat[: len(sets)].tolist()
        for axis, name in zip(panels, sets, strict=True):
            _draw_curves(axis, results, name)
            axis.tick_params(labelbottom=True)
        grid[0, 0].set_ylim(bottom=0)
        for axis in grid.flat[len(sets) :]:
            axis.set_axis_off()
        if apart:
            for axis in panels:
                theme.legend_below(axis, 34, 2)
        else:
            _legends(figure, panels[:1], 3)
    return figure


def _draw_curves(axis: Axes, results: Results, name: str) -> None:
    stats = account_stats(results, name)
    for i, charge in enumerate(results.charges(name)):
        axis.plot(
            THETA_GRID,
            stats.theta_counts[charge.name] / stats.scored,
            color=theme.charge_color(i),
            linestyle=_LINES[i % len(_LINES)],
            label=charge.label,
            linewidth=1.5,
        )
    axis.set_xscale("log")
    axis.set_xlim(THETA_GRID[0], THETA_GRID[-1])
    ticks = [0.2, 0.5, 1, 2, 5]
    axis.set_xticks(ticks, [f"{text.TIMES} {t:g}" for t in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    theme.percent_axis(axis)
    axis.axvline(1, color=theme.MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
    axis.plot(
        1, stats.share, "o", color=theme.INK, markersize=6, markeredgecolor=theme.PAPER, zorder=5
    )
    axis.annotate(
        f"as run: {text.percent(stats.share)}",
        (1, stats.share),
        (-6, 8),
        textcoords="offset points",
        ha="right",
        fontsize=7.5,
        color=theme.INK,
    )
    axis.set_title(theme.label(name))
    axis.set_xlabel("multiplier of the charge, log scale")


def figure_elasticities(results: Results) -> Figure:
    """Accounts that flip if one charge changes by a tenth: a tornado for each set."""
    sets = [s for s in shown_sets(results) if account_stats(results, s).scored][:4]
    title = "Accounts that flip if one charge is a tenth smaller or larger"
    if not sets:
        return theme.empty_figure(title, "No account was scored")
    found = {name: _flips(results, name) for name in sets}
    rows = [max(len(flips), 1) for flips in found.values()]
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(
            title, 1.1 + 0.26 * sum(rows) + 0.35 * len(rows), len(rows), height_ratios=rows
        )
        for axis, name in zip(grid[:, 0], sets, strict=True):
            _draw_tornado(axis, found[name])
            axis.set_title(theme.label(name))
        handles, names = grid[0, 0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure


def _flips(results: Results, name: str) -> list[tuple[str, int, int]]:
    """Charge, accounts saved by a smaller one, newly liquidated by a larger one; most first."""
    found = curves(results, name)
    flips = [
        (c.short, found[c.name].saved, found[c.name].newly_liquidated)
        for c in results.charges(name)
    ]
    return sorted((f for f in flips if f[1] + f[2]), key=lambda f: -(f[1] + f[2]))


def _draw_tornado(axis: Axes, flips: list[tuple[str, int, int]]) -> None:
    if not flips:
        axis.set_axis_off()
        axis.text(0.5, 0.5, "No account flips", ha="center", va="center", color=theme.MUTED)
        return
    y = np.arange(len(flips))
    saved, new = (np.array([f[k] for f in flips], float) for k in (1, 2))
    axis.barh(
        y, -saved, color=theme.SET_COLORS[0], height=0.7, label="saved: charge a tenth smaller"
    )
    axis.barh(
        y,
        new,
        color=theme.SET_COLORS[1],
        height=0.7,
        hatch="////",
        edgecolor=theme.PAPER,
        label="newly liquidated: charge a tenth larger",
    )
    axis.axvline(0, color=theme.MUTED, linewidth=0.8)
    axis.set_yticks(y, [theme.label(f[0], 24) for f in flips])
    axis.set_ylim(len(flips) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.xaxis.set_major_formatter(
        lambda v, _: text.number(abs(v)) if float(v).is_integer() else ""
    )
    axis.set_xlabel("accounts")
