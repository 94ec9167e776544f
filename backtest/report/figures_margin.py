"""Figures of margin: what it consists of, how far levels fall, how close the rest were."""

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from . import text, theme
from .account_stats import LEVEL_GRID, THETA_GRID, account_stats
from .figures_time import shown_sets
from .reader import CHARGES, Results


_MARKS = ((3.0, "warning\n300 %"), (1.1, "safe\n110 %"), (1.0, "liquidation\n100 %"))
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))


def figure_charges_of_liquidated(results: Results) -> Figure:
    """Charges of liquidated accounts at their worst time, summed and stacked, one bar a set."""
    sets = [s for s in shown_sets(results) if account_stats(results, s).liquidated]
    title = _charge_title(results)
    if not sets:
        return theme.empty_figure(title, "No account is liquidated")
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(title, 1.75 + 0.5 * len(sets))
        axis = grid[0, 0]
        for y, name in enumerate(sets):
            _draw_stack(axis, y, account_stats(results, name).charges)
        _label_stacks(axis, [account_stats(results, name).charges for name in sets])
        axis.set_yticks(range(len(sets)), [theme.label(s, 18) for s in sets])
        axis.set_ylim(len(sets) - 0.4, -0.6)
        axis.grid(visible=False, axis="y")
        axis.set_title(
            "Sum over liquidated accounts at their worst time, USD; tall mark: total MMR"
        )
        axis.xaxis.set_major_formatter(lambda v, _: theme.usd_tick(v))
        handles, names = axis.get_legend_handles_labels()
        unique = dict(zip(names, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=3)
    return figure


def _draw_stack(axis: Axes, y: int, charges: dict[str, float]) -> None:
    amounts = {c: charges[f"worst_{c}"] for c in CHARGES}
    left = 0.0
    for charge, amount in amounts.items():
        color = theme.CHARGE_COLORS[charge]
        axis.barh(y, amount, left=left, color=color, height=0.62, label=theme.CHARGE_NAMES[charge])
        left += amount
    total = charges["worst_total_mmr"]
    axis.plot([total, total], [y - 0.4, y + 0.4], color=theme.INK, linewidth=2.4)


def _label_stacks(axis: Axes, stacks: list[dict[str, float]]) -> None:
    """Names the charges of each bar that are wide enough to be written on."""
    wholes = [sum(charges[f"worst_{c}"] for c in CHARGES) for charges in stacks]
    for y, (charges, whole) in enumerate(zip(stacks, wholes, strict=True)):
        left = 0.0
        for charge in CHARGES:
            amount = charges[f"worst_{charge}"]
            if amount > 0.09 * max(wholes):
                words = f"{charge.upper()} {100 * amount / whole:.0f}{text.SPACE}%"
                at, color = left + amount / 2, _on(charge)
                axis.text(at, y, words, ha="center", va="center", fontsize=7.5, color=color)
            left += amount


def _on(charge: str) -> str:
    """Colour of a text on the charge's own colour."""
    return "#000000" if charge in ("mr2", "mr4", "mr5", "mr7", "mr9") else theme.ON_DARK_COLOR


def _charge_title(results: Results) -> str:
    champion = theme.label(results.champion)
    charges = account_stats(results, results.champion).charges
    amounts = {c: charges[f"worst_{c}"] for c in CHARGES}
    whole = sum(amounts.values())
    if not whole > 0:
        return f"No account is liquidated under {champion}"
    largest = max(amounts, key=lambda c: amounts[c])
    return (
        f"{theme.CHARGE_NAMES[largest]} is the largest charge of accounts liquidated under "
        f"{champion}: {text.percent(amounts[largest] / whole)} of the nine"
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
            for level, _ in _MARKS:
                axis.axvline(level, color=theme.MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
        _mark_levels(top)
        bottom.xaxis.set_major_formatter(lambda v, _: theme.percent_tick(v))
        bottom.set_xlabel(
            "worst margin level of the window (adjusted equity / maintenance margin), log scale"
        )
        top.legend(loc="lower right")
    return figure


def _mark_levels(axis: Axes) -> None:
    axis.set_ylim(0, max(axis.get_ylim()[1], 0.05) * 1.02)
    for level, name in _MARKS:
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
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(
            title, 1.1 + 2.9 * rows, rows, columns, sharex=True, sharey=True
        )
        for axis, name in zip(grid.flat, sets, strict=False):
            _draw_curves(axis, results, name)
        grid[0, 0].set_ylim(bottom=0)
        for axis in grid.flat[len(sets) :]:
            axis.set_axis_off()
        handles, names = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def _draw_curves(axis: Axes, results: Results, name: str) -> None:
    stats = account_stats(results, name)
    for i, charge in enumerate(CHARGES):
        axis.plot(
            THETA_GRID,
            stats.theta_counts[charge] / stats.scored,
            color=theme.CHARGE_COLORS[charge],
            linestyle=_LINES[i % len(_LINES)],
            label=theme.CHARGE_NAMES[charge],
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
