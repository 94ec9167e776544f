"""At which size of the impact a cascade tips over: amplification by scale, from a saved search."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from . import cells, frames, text, theme
from .cells import Column, PageTable, page_table
from .reader import Results


TABLE = "impact_tipping"
TIPPING_CAPTION = (
    "Liquidated notional with impact over without, by the size of the impact as a multiple of the "
    "run's. A cross: prices did not stand still. Dotted: the tipping point, the smallest multiple "
    "tried that passes the dashed threshold, or at which prices still change by much."
)


def has_tipping(results: Results) -> bool:
    """Whether somebody has looked for the tipping point of this run."""
    return results.has(TABLE)


def tipping_table(results: Results) -> pd.DataFrame:
    """One row a set and scale."""
    return results.single(TABLE)


def tipping_points(results: Results) -> PageTable:
    """One row a set: its tipping point, and the scale below it that did not tip."""
    rows = []
    for name in _names(results):
        mine = _of(results, name)
        point = next((r for r in frames.records(mine) if r["is_tipping_point"]), None)
        calm = frames.rows(mine, ~mine["tips"].to_numpy(bool))
        row = {"parameter_set": name, "largest_calm": frames.numbers(calm, "scale").max()}
        if point is None:
            rows.append(row | {"why": "no multiple that was tried"})
            continue
        over = point["amplification"] > point["threshold"]
        why = "amplification" if over else "prices still change"
        rows.append(row | {k: point[k] for k in _OF_POINT} | {"why": why})
    return page_table(
        pd.DataFrame(rows, columns=["parameter_set", "largest_calm", "why", *_OF_POINT]),
        _POINTS,
        "Tipping point",
        note="Multiples of the run's impact; the truth lies between the two. A population that "
        "stands for k times as many accounts has k times the impact.",
    )


def figure_tipping(results: Results) -> Figure:
    """Amplification against scale, the tipping point of each set marked."""
    names = _names(results)
    points = {n: p for n in names if (p := _point(results, n)) is not None}
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(_title(names[0], points.get(names[0])), 3.2)
        axis = grid[0, 0]
        for k, name in enumerate(names):
            mine = _of(results, name)
            scale, over = (frames.numbers(mine, c) for c in ("scale", "amplification"))
            settled = mine["stands_still"].to_numpy(bool)
            color, shown = theme.set_color(k), scale > 0.0
            lines = {"color": color, "linestyle": theme.set_style(k), "linewidth": 1.2}
            axis.plot(scale[shown], over[shown], label=theme.label(name), **lines)
            for kind, chosen in (("o", settled), ("X", ~settled)):
                marks = shown & chosen
                axis.plot(scale[marks], over[marks], kind, color=color, markersize=5)
            if name in points:
                axis.axvline(points[name], color=color, linewidth=0.9, linestyle=(0, (1, 2)))
                words = f"tips at {text.significant(points[name])} "
                place = {"xy": (points[name], 0.03 + 0.08 * k), "ha": "right", "color": color}
                axis.annotate(words, xycoords=("data", "axes fraction"), fontsize=8, **place)
        threshold = float(frames.numbers(_of(results, names[0]), "threshold")[0])
        axis.axhline(threshold, color=theme.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        place = {"xycoords": ("axes fraction", "data"), "va": "bottom", "color": theme.MUTED}
        axis.annotate(f" threshold {threshold:g}", (0.0, threshold), fontsize=8, **place)
        axis.set_xscale("log")
        axis.set_yscale("log")
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            side.set_minor_formatter(FuncFormatter(_at_two_and_five))
        axis.set_xlabel("size of the impact, multiple of the run's")
        axis.set_ylabel("notional, with / without")
        theme.legend_above(axis)
    return figure


def _at_two_and_five(value: float, _: object) -> str:
    """Labels between powers of ten, where there is room for them."""
    lead = value / 10.0 ** np.floor(np.log10(value))
    return f"{value:g}" if round(lead, 6) in (2.0, 5.0) else ""


def _title(name: str, point: float | None) -> str:
    if point is None:
        return f"No size of the impact that was tried tips over under {theme.quoted(name)}"
    return (
        f"Liquidations tip into a cascade at {text.significant(point)} times the impact under "
        f"{theme.label(name)}"
    )


def _names(results: Results) -> list[str]:
    known = set(tipping_table(results)["parameter_set"].tolist())
    return [n for n in (results.champion, *results.challengers) if n in known]


def _of(results: Results, name: str) -> pd.DataFrame:
    frame = tipping_table(results)
    return frames.ordered(frames.rows(frame, frame["parameter_set"] == name), "scale")


def _point(results: Results, name: str) -> float | None:
    mine = _of(results, name)
    at = frames.numbers(mine, "scale")[mine["is_tipping_point"].to_numpy(bool)]
    return float(at[0]) if len(at) else None


_OF_POINT = ("scale", "amplification", "accounts_amplification", "rounds", "largest_move_frac")
_POINTS = (
    Column("parameter_set", "Set"),
    Column("scale", "Tips at", cells.ratio, "times the impact"),
    Column("largest_calm", "Holds at", cells.ratio, "times the impact"),
    Column("why", "Because of"),
    Column("amplification", "Amplification", cells.ratio, "of the size"),
    Column("accounts_amplification", "Amplification", cells.ratio, "of the accounts"),
    Column("rounds", "Rounds", cells.count),
    Column("largest_move_frac", "Largest move", cells.share),
)
