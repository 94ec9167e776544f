"""One picture of a population, drawn from its saved report."""

from collections.abc import Callable

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from backtest.population.arrays import Floats
from backtest.population.config import ARCHETYPES, Archetype
from backtest.population.report import PopulationReport, Summary
from backtest.report import theme


FAMILIES: dict[str, tuple[str, tuple[Archetype, ...]]] = {
    "one-way": ("#d55e00", ("directional", "leveraged_altcoin", "borrower")),
    "hedged linear": ("#0072b2", ("spot_basis", "inverse_calendar", "cross_stable")),
    "options": (
        "#009e73",
        ("short_strangle", "covered_call", "hedged_volatility", "option_calendar"),
    ),
    "market makers": ("#cc79a7", ("market_maker",)),
    "flat": ("#999999", ("flat",)),
}
_COLOR = {kind: color for color, kinds in FAMILIES.values() for kind in kinds}
_LINEAR_COLOR, _OPTION_COLOR = "#56b4e9", "#e69f00"


def population_figure(report: PopulationReport) -> Figure:
    """Counts, equity, sizes, leverage, option share and net delta of a population.

    Example:
        >>> figure = population_figure(PopulationReport.load(root))  # doctest: +SKIP
    """
    with mpl.rc_context(theme.style()):
        figure, axes = theme.new_figure(_title(report), 9.0, rows=3, columns=2)
        _by_kind(axes[0, 0], report, lambda s: s.accounts, "Accounts by archetype", _count)
        _by_kind(axes[0, 1], report, lambda s: s.equity_usd, "Equity by archetype, USD", _usd)
        _sizes(axes[1, 0], report)
        _leverage(axes[1, 1], report)
        _option_share(axes[2, 0], report)
        _delta(axes[2, 1], report)
        handles, names = axes[1, 1].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def save_figure(report: PopulationReport) -> bytes:
    """The picture as PNG bytes."""
    return theme.to_png(population_figure(report))


def near_liquidation(report: PopulationReport, level: float = 1.5) -> float:
    """Part of the accounts whose estimated margin level at the start is below ``level``."""
    edges = [edge for edge in report.level_edges if edge is not None]
    below = [i for i, edge in enumerate(edges) if edge < level]
    return sum(s.level_counts[i] for s in report.archetypes.values() for i in below) / (
        report.accounts
    )


def _title(report: PopulationReport) -> str:
    with_options = sum(s.accounts for s in report.archetypes.values() if s.option_notional_usd > 0)
    share = with_options / report.accounts
    return (
        f"{report.accounts:,} synthetic accounts, {_usd(report.equity_usd)} USD: "
        f"{100 * share:.0f} % in option archetypes, "
        f"{100 * near_liquidation(report):.1f} % start below a margin level of 150 % (estimate)"
    )


def _shown(report: PopulationReport) -> list[Archetype]:
    return [kind for kind in ARCHETYPES if kind in report.archetypes]


def _label(kind: str) -> str:
    return kind.replace("_", " ")


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _usd(value: float) -> str:
    return theme.usd_tick(float(f"{value:.3g}"))


def _rows(axes: Axes, kinds: list[Archetype]) -> Floats:
    place = np.arange(len(kinds), dtype=np.float64)
    axes.set_yticks(place, [_label(kind) for kind in kinds])
    axes.set_ylim(len(kinds) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    return place


def _by_kind(
    axes: Axes,
    report: PopulationReport,
    value: Callable[[Summary], float],
    title: str,
    text: Callable[[float], str],
) -> None:
    kinds = _shown(report)
    values = np.array([value(report.archetypes[kind]) for kind in kinds], np.float64)
    place = _rows(axes, kinds)
    axes.barh(place, values, height=0.72, color=[_COLOR[kind] for kind in kinds])
    for y, x in zip(place.tolist(), values.tolist(), strict=True):
        axes.annotate(
            f"{text(x)}  ({100 * x / values.sum():.1f} %)",
            (x, y),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.8,
            color=theme.MUTED,
        )
    axes.set_xlim(0.0, values.max() * 1.42)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: text(v)))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_title(title)


def _stack(axes: Axes, report: PopulationReport, edges: Floats, counts: str) -> Floats:
    """Stacked bars by family; the total of every class."""
    total = np.zeros(len(edges) - 1)
    for name, (color, kinds) in FAMILIES.items():
        mine = [report.archetypes[kind] for kind in kinds if kind in report.archetypes]
        if not mine:
            continue
        here = np.sum([getattr(summary, counts) for summary in mine], axis=0)
        axes.bar(
            edges[:-1],
            here,
            np.diff(edges),
            bottom=total,
            align="edge",
            color=color,
            edgecolor=theme.PAPER,
            linewidth=0.2,
            label=name,
        )
        total = total + here
    return total


def _used(edges: Floats, total: Floats) -> tuple[float, float]:
    filled = np.flatnonzero(total)
    return float(edges[filled[0]]), float(edges[filled[-1] + 1])


def _counts_axis(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1 else ""))
    axes.set_ylabel("accounts")


def _sizes(axes: Axes, report: PopulationReport) -> None:
    """Equity on two log axes: lines, since stacked bars mislead on a log scale."""
    edges = np.array(report.equity_edges_usd)
    all_counts = np.zeros(len(edges) - 1)
    for color, kinds in FAMILIES.values():
        mine = [report.archetypes[kind] for kind in kinds if kind in report.archetypes]
        if mine:
            here = np.sum([summary.equity_counts for summary in mine], axis=0)
            axes.stairs(np.where(here > 0, here, np.nan), edges, color=color, linewidth=1.3)
            all_counts += here
    axes.stairs(np.where(all_counts > 0, all_counts, np.nan), edges, color=theme.INK, linewidth=1.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = _used(edges, all_counts)
    axes.set_xlim(low / 1.3, high * 1.3)
    axes.set_ylim(0.7, all_counts.max() * 2.0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: theme.usd_tick(v)))
    axes.set_xlabel("equity, USD (black: all accounts)")
    axes.set_title("Size: log-normal body, Pareto whales")
    _counts_axis(axes)


def _leverage(axes: Axes, report: PopulationReport) -> None:
    edges = np.array(report.leverage_edges)
    edges = np.concatenate([[edges[1] ** 2 / edges[2]], edges[1:]])
    total = _stack(axes, report, edges, "leverage_counts")
    axes.set_xscale("log")
    axes.set_xlim(edges[0], _used(edges, total)[1] * 1.15)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g} x"))
    axes.set_xlabel("gross notional / equity (first bar: none)")
    axes.set_title("Leverage at the start")
    _counts_axis(axes)


def _option_share(axes: Axes, report: PopulationReport) -> None:
    kinds: list[Archetype] = [
        k for k in _shown(report) if report.archetypes[k].gross_notional_usd > 0
    ]
    place = _rows(axes, kinds)
    gross = np.array([report.archetypes[k].gross_notional_usd for k in kinds])
    option = np.array([report.archetypes[k].option_notional_usd for k in kinds]) / gross
    axes.barh(place, option, height=0.72, color=_OPTION_COLOR, label="options")
    axes.barh(
        place,
        1.0 - option,
        left=option,
        height=0.72,
        color=_LINEAR_COLOR,
        label="perpetuals and futures",
    )
    for y, x, usd in zip(place.tolist(), option.tolist(), gross.tolist(), strict=True):
        note = f"{100 * x:.0f} % of {_usd(usd)}" if x > 0 else _usd(usd)
        axes.annotate(note, (0.985, y), va="center", ha="right", fontsize=6.8, color=theme.INK)
    axes.set_xlim(0.0, 1.0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: theme.percent_tick(v)))
    axes.set_xlabel("orange: options, light blue: perpetuals and futures")
    axes.set_title("Option share of gross notional, USD")


def _delta(axes: Axes, report: PopulationReport) -> None:
    edges = np.array(report.delta_edges)
    all_counts = np.zeros(len(edges) - 1)
    for color, kinds in FAMILIES.values():
        mine = [report.archetypes[kind] for kind in kinds if kind in report.archetypes]
        if mine:
            here = np.sum([summary.delta_counts for summary in mine], axis=0)
            axes.stairs(np.where(here > 0, here, np.nan), edges, color=color, linewidth=1.3)
            all_counts += here
    axes.set_yscale("log")
    low, high = _used(edges, all_counts)
    axes.set_xlim(low - 0.2, high + 0.2)
    axes.set_ylim(0.7, all_counts.max() * 2.0)
    axes.axvline(0.0, color=theme.MUTED, linewidth=0.7, linestyle=":")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g} x"))
    axes.set_xlabel("net delta of derivatives / equity (ends: beyond)")
    axes.set_title("Net delta at the start")
    _counts_axis(axes)
