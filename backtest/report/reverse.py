"""Reverse stress: the nearest moves that liquidate a share of open interest or empty the fund."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from . import cells, frames, text, theme
from .cells import Cell, PageTable
from .figures_time import shown_sets
from .reader import Results
from .section import Picture, Section, head, number_cell


TABLE, NET_TABLE = "reverse_stress", "reverse_stress_net"
SHARE, DRAW = "open_interest_frac", "fund_draw_usd"


def has_reverse_stress(results: Results) -> bool:
    """Whether somebody has looked for the nearest scenarios of this run."""
    return results.has(TABLE) and results.has(NET_TABLE)


def nearest_table(results: Results) -> pd.DataFrame:
    """Nearest scenario of each set and level; NaN where none within reach gets there."""
    return results.single(TABLE)


def reverse_section(results: Results) -> Section:
    """How far the market is from a move that liquidates much of it."""
    frame = nearest_table(results)
    known = set(frame["parameter_set"].tolist())
    names = [n for n in (results.champion, *results.challengers) if n in known]
    headings = [("What is reached", "", False)]
    headings += [(head(n), "typical moves away; price, volatility", True) for n in names]
    rows = []
    found: dict[tuple[str, float], dict[str, dict[str, Any]]] = {}
    for record in frames.records(frame):
        of_level = found.setdefault((record["number"], record["level"]), {})
        of_level[record["parameter_set"]] = record
    for (number, level), by_set in found.items():
        rows.append([Cell(_words(number, level)), *(_cell(by_set[n]) for n in names)])
    when = text.time(frame["time"].iloc[0])
    return Section(
        "reverse-stress",
        "Reverse stress: the nearest move that does it",
        f"All accounts as they stand on {when}, after prices of all coins and volatilities of all "
        "options have moved at once; stablecoins stay. First round only: no price reacts.",
        [
            Picture(
                "reverse_stress",
                "Shaded: share of gross notional liquidated under the champion. Lines: where a "
                "level is reached; marks: the nearest such move. Dotted: equal distance from no "
                "move, in typical moves.",
            )
        ],
        [PageTable("Nearest scenarios", headings, rows, sortable=False)],
    )


def _words(number: str, level: float) -> str:
    if number == SHARE:
        return f"{text.percent(level)} of open interest liquidated"
    return f"Fund of {text.usd(level)} emptied"


def _cell(record: dict[str, float]) -> Cell:
    if text.is_missing(record["distance"]):
        return Cell("not within reach", None, "", "number")
    moves = (text.percent(record[f"{k}_move_frac"]) for k in ("price", "vol"))
    return number_cell(cells.ratio, record["distance"], ", ".join(moves))


def figure_reverse_stress(results: Results) -> Figure:
    """The plane of price and volatility moves: what is liquidated where, and what is nearest."""
    frame, net = nearest_table(results), results.single(NET_TABLE)
    known = set(frame["parameter_set"].tolist())
    names = [n for n in shown_sets(results) if n in known]
    mine = _of(net, names[0])
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(_title(frame, names[0]), 4.3)
        axis = grid[0, 0]
        x, v = (frames.numbers(mine, f"{k}_move_frac") for k in ("price", "vol"))
        whole = np.isfinite(frames.numbers(mine, SHARE))
        shades = LinearSegmentedColormap.from_list("shares", [theme.PAPER, theme.CHARGE_COLORS[1]])
        drawn = axis.tricontourf(
            x[whole],
            v[whole],
            np.clip(frames.numbers(mine, SHARE)[whole], 0.0, 1.0),
            levels=np.linspace(0.0, 1.0, 11),
            cmap=shades,
        )
        bar = figure.colorbar(drawn, ax=axis, format=lambda s, _: theme.percent_tick(s), pad=0.01)
        bar.set_label("open interest liquidated", fontsize=8)
        _rings(axis, mine)
        for k, name in enumerate(names):
            _levels(axis, _of(net, name), _of(frame, name), k, theme.label(name))
        axis.plot(0.0, 0.0, "+", color=theme.INK, markersize=9)
        axis.set_xlabel("price move of all coins")
        axis.set_ylabel("move of all volatilities, relative")
        for which in "xy":
            theme.percent_axis(axis, which)
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _of(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    return frames.rows(frame, frame["parameter_set"] == name)


def _rings(axis: Axes, net: pd.DataFrame) -> None:
    """Scenarios of equal distance, a few of them."""
    distances = np.unique(frames.numbers(net, "distance"))[1:]
    for distance in distances[:: max(1, len(distances) // 4)]:
        ring = frames.rows(net, net["distance"] == distance)
        x, v = (frames.numbers(ring, f"{k}_move_frac") for k in ("price", "vol"))
        kept = np.isfinite(frames.numbers(ring, SHARE))
        order = np.argsort(np.arctan2(v / np.abs(v).max(), x / np.abs(x).max()))
        closed = np.append(order, order[:1])
        x, v = np.where(kept, x, np.nan), np.where(kept, v, np.nan)  # a gap where nothing can be
        axis.plot(x[closed], v[closed], color=theme.MUTED, linewidth=0.7, linestyle=(0, (1, 2)))
        top = int(np.nanargmax(v))
        words = text.significant(float(distance))
        axis.annotate(words, (x[top], v[top]), fontsize=7, color=theme.MUTED, ha="center")


def _levels(axis: Axes, net: pd.DataFrame, found: pd.DataFrame, k: int, label: str) -> None:
    """Where each level is reached under a set, and the nearest such move."""
    x, v = (frames.numbers(net, f"{c}_move_frac") for c in ("price", "vol"))
    color, style = theme.set_color(k), theme.set_style(k)
    for m, record in enumerate(frames.records(found)):
        values = frames.numbers(net, record["number"])
        whole = np.isfinite(values)
        low, high = values[whole].min(), values[whole].max()
        if low < record["level"] <= high:
            lines = {"colors": color, "linestyles": [style], "linewidths": 1.3}
            axis.tricontour(x[whole], v[whole], values[whole], levels=[record["level"]], **lines)
        if not text.is_missing(record["distance"]):
            at = record["price_move_frac"], record["vol_move_frac"]
            word = f"{label}: {_words(record['number'], record['level'])}"
            mark = "osD^v"[m % 5]
            axis.plot(*at, mark, color=color, markersize=6.5 - k, linestyle=style, label=word)


def _title(frame: pd.DataFrame, name: str) -> str:
    mine = [r for r in frames.records(_of(frame, name)) if not text.is_missing(r["distance"])]
    if not mine:
        return f"No move within reach gets there under {theme.quoted(name)}"
    moved = [r for r in mine if r["distance"] > 0.0]
    if not moved:
        return f"No move is needed: every level is reached already under {theme.quoted(name)}"
    first = moved[0]
    what = _words(first["number"], first["level"])
    what = what[0].lower() + what[1:]
    return (
        f"A price move of {text.percent(first['price_move_frac'])} with volatilities moving by "
        f"{text.percent(first['vol_move_frac'])} is the nearest with {what} under "
        f"{theme.label(name)}"
    )
