"""Figures across accounts: how many are liquidated, and who."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import frames, text, theme
from .account_stats import account_stats
from .bootstrap import Estimate
from .compare import flip_table, pairing
from .figures_time import shown_sets
from .frequency import rates
from .reader import Results


_MOST_SEGMENTS = 20
NEW, SAVED = "#d55e00", "#0072b2"


def figure_frequency(results: Results) -> Figure:
    """Liquidation frequency of each set under three denominators, with 95 % intervals."""
    sets = shown_sets(results)
    title = "Liquidation frequency under three denominators, with 95 % intervals"
    if not any(account_stats(results, s).scored for s in sets):
        return theme.empty_figure(title, "No account was scored")
    panels = (
        ("per_account", "Accounts liquidated,\nshare of scored accounts"),
        ("per_account_day", "Episodes per\nscored account-day"),
        ("per_notional", "Liquidated notional,\nshare of average gross notional"),
    )
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(title, 1.35 + 0.34 * len(sets), 1, 3, sharey=True)
        for axis, (key, name) in zip(grid[0], panels, strict=True):
            for i, s in enumerate(sets):
                _draw_estimate(axis, i, getattr(rates(results, s), key))
            axis.set_title(name)
            axis.grid(visible=False, axis="y")
            axis.set_xlim(left=0)
            axis.locator_params(axis="x", nbins=5)
            if key == "per_account_day":
                axis.xaxis.set_major_formatter(lambda v, _: f"{v:.4g}")
            else:
                theme.percent_axis(axis, "x")
        grid[0, 0].set_yticks(range(len(sets)), [theme.label(s, 18) for s in sets])
        grid[0, 0].set_ylim(len(sets) - 0.4, -0.6)
    return figure


def _draw_estimate(axis: Axes, row: int, value: Estimate) -> None:
    color = theme.set_color(row)
    if value.low is not None and value.high is not None:
        axis.plot(
            [value.low, value.high], [row, row], color=color, linewidth=2.2, solid_capstyle="butt"
        )
        for end in (value.low, value.high):
            axis.plot([end, end], [row - 0.12, row + 0.12], color=color, linewidth=1.4)
    if not np.isnan(value.value):
        axis.plot(value.value, row, "o", color=color, markersize=6, markeredgecolor=theme.PAPER)


def figure_segments(results: Results) -> Figure:
    """Share of accounts liquidated by segment, one mark a set."""
    sets = shown_sets(results)
    stats = {name: account_stats(results, name).segments for name in sets}
    segments = _hardest_hit(stats[results.champion])[:_MOST_SEGMENTS]
    title = _segment_title(results, segments)
    if not segments:
        return theme.empty_figure(title, "No account was scored")
    shares = np.array([[_segment_share(stats[n], s) for n in sets] for s in segments])
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(title, 1.35 + 0.32 * len(segments))
        axis = grid[0, 0]
        rows = np.arange(len(segments))
        low, high = np.nanmin(shares, axis=1), np.nanmax(shares, axis=1)
        axis.hlines(rows, low, high, color=theme.MUTED, linewidth=1.2, zorder=1)
        for i, name in enumerate(sets):
            axis.plot(
                shares[:, i],
                rows,
                "osD^vP"[i],
                color=theme.set_color(i),
                label=theme.label(name),
                markersize=10 if i == 0 else 6,
                markeredgecolor=theme.PAPER,
                linestyle="none",
            )
        scored = stats[results.champion]["scored"].to_dict()
        names = [f"{theme.label(s, 30)}  (n {text.number(float(scored[s]))})" for s in segments]
        axis.set_yticks(rows, names)
        axis.set_ylim(len(segments) - 0.4, -0.6)
        axis.grid(visible=False, axis="y")
        axis.set_title("Accounts liquidated, share of the scored accounts of the segment")
        axis.set_xlim(left=-0.01 * max(float(np.nanmax(shares)), 0.01))
        theme.percent_axis(axis, "x")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _segment_share(segments: pd.DataFrame, name: str) -> float:
    """Share of a segment's scored accounts that are liquidated; NaN where none was scored."""
    if name not in segments.index:
        return float("nan")
    row = segments.loc[name].to_dict()
    return float(row["liquidated"]) / float(row["scored"])


def _hardest_hit(segments: pd.DataFrame) -> list[str]:
    return sorted((str(s) for s in segments.index), key=lambda s: -_segment_share(segments, s))


def _segment_title(results: Results, segments: list[str]) -> str:
    champion = theme.quoted(results.champion)
    table = account_stats(results, results.champion).segments
    share = _segment_share(table, segments[0]) if segments else 0.0
    if not share > 0:
        return f"No segment has liquidations under {champion}"
    name = theme.label(segments[0])
    return f"Hit hardest under {champion}: {name}, {text.percent(share)} of accounts liquidated"


def figure_flips(results: Results, challenger: str | None = None) -> Figure:
    """Accounts newly liquidated and saved by a challenger, by who they are."""
    name = challenger or (results.challengers[0] if results.challengers else None)
    if name is None:
        return theme.empty_figure("Who flips", "The run has one parameter set: nothing to compare")
    pair = pairing(results, results.champion, results.check_set(name))
    sets = f"from {theme.label(results.champion)} to {theme.label(name)}"
    saved, new = text.number(pair.only_champion), text.number(pair.only_challenger)
    title = f"{saved} saved, {new} newly liquidated {sets}"
    if not pair.only_champion + pair.only_challenger:
        return theme.empty_figure(title, "No account flips")
    table = flip_table(results, results.champion, name)
    dimensions = list(table["dimension"].unique())
    sizes = [min(_MOST_SEGMENTS, int((table["dimension"] == d).sum())) for d in dimensions]
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(
            title,
            1.4 + 0.21 * sum(sizes) + 0.3 * len(sizes),
            len(sizes),
            sharex=True,
            height_ratios=sizes,
        )
        for axis, dimension in zip(grid[:, 0], dimensions, strict=True):
            mine = frames.rows(table, table["dimension"] == dimension)
            _draw_flips(axis, mine.head(_MOST_SEGMENTS))
            axis.set_title(f"By {dimension}")
        low, high = grid[0, 0].get_xlim()
        reach = max(-low, high) * 1.12
        grid[0, 0].set_xlim(
            -reach if pair.only_champion else low, reach if pair.only_challenger else high
        )
        grid[-1, 0].xaxis.set_major_formatter(
            lambda v, _: text.number(abs(v)) if float(v).is_integer() else ""
        )
        grid[-1, 0].set_xlabel("accounts")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _draw_flips(axis: Axes, rows: pd.DataFrame) -> None:
    y = np.arange(len(rows))
    saved = frames.numbers(rows, "only_champion")
    new = frames.numbers(rows, "only_challenger")
    axis.barh(y, -saved, color=SAVED, height=0.72, label="saved (left)")
    axis.barh(
        y,
        new,
        color=NEW,
        height=0.72,
        label="newly liquidated (right)",
        hatch="////",
        edgecolor=theme.PAPER,
    )
    for i, (s, n) in enumerate(zip(saved, new, strict=True)):
        if s:
            _note(axis, text.number(s), (-s, i), -3)
        if n:
            _note(axis, text.number(n), (n, i), 3)
    axis.axvline(0, color=theme.MUTED, linewidth=0.8)
    axis.set_yticks(y, [theme.label(str(g), 34) for g in rows["group"]])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")


def _note(axis: Axes, words: str, at: tuple[float, int], offset: int) -> None:
    side = "left" if offset > 0 else "right"
    axis.annotate(
        words, at, (offset, 0), textcoords="offset points", ha=side, va="center", fontsize=7.5
    )
