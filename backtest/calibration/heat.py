"""Liquidation frequency over two parameters, from the candidates that a search evaluated.

The two are those with the largest rank correlation with the frequency (Spearman's, without sign),
of which the first is the axis across. Of a grid the picture is exact: the slice in which other
parameters stand nearest to today's. Other searches are interpolated between their candidates.
"""

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.tri import Triangulation
from scipy.stats import rankdata

from backtest.calibration.saved import TITLES, Saved
from backtest.report import frames, text, theme


TITLE = "Liquidation frequency over two parameters"
LEAST_POINTS = 4
_SHADE = theme.SET_COLORS[1]


@dataclass(frozen=True)
class Heat:
    """What the heat map shows.

    Attributes:
        names: Parameters across and up.
        points: Levels of both, a row a candidate, today's rules first where they are shown.
        frequency: Accounts liquidated per account-day.
        feasible: Whether a candidate holds every constraint.
        target: Frequency of the contour.
        target_words: What the contour is.
        grid: Whether the candidates are every pair of levels.
    """

    names: tuple[str, str]
    points: Float[np.ndarray, "candidate 2"]
    frequency: Float[np.ndarray, " candidate"]
    feasible: np.ndarray
    target: float
    target_words: str
    grid: bool


def target_of(constraints: list[dict[str, Any]], now: float) -> tuple[float, str]:
    """Frequency that the search must stay below, per account-day, and what it is in words.

    That of the first constraint on it; without one, today's.
    """
    for rule in constraints:
        if rule["objective"] == "frequency":
            if rule["most"] is not None:
                return float(rule["most"]), "the limit"
            times = f"{text.TIMES} {text.significant(rule['of_today'])}"
            return float(rule["of_today"]) * now, f"the limit, {times} of today's"
    return now, "today's"


def most_influential(
    points: Float[np.ndarray, "candidate parameter"], frequency: Float[np.ndarray, " candidate"]
) -> list[int]:
    """Parameters by their rank correlation with the frequency, without sign, the largest first."""
    y = rankdata(frequency) - rankdata(frequency).mean()
    found = []
    for column in points.T:
        x = rankdata(column) - rankdata(column).mean()
        size = np.sqrt((x @ x) * (y @ y))
        found.append(abs(float(x @ y)) / size if size > 0 else 0.0)
    return np.argsort(-np.array(found), kind="stable").tolist()


def heat_of(saved: Saved) -> Heat | str:
    """What the heat map shows, or why there is none."""
    frame, names = saved.tables["candidates"], list(saved.summary["levels"])
    if len(names) < 2:
        return "One parameter was searched; a map needs two"
    points = np.column_stack([frames.numbers(frame, name) for name in names])
    frequency = frames.numbers(frame, "frequency")
    known = np.isfinite(frequency)
    if np.count_nonzero(known) < LEAST_POINTS:
        return f"A map needs {LEAST_POINTS} candidates with a frequency"
    if np.ptp(frequency[known]) == 0:
        return "Every candidate liquidates the same number of accounts"
    pair = most_influential(points[known], frequency[known])[:2]
    is_grid = saved.config["search"]["method"] == "grid"
    keep = known.copy()
    if is_grid:
        keep[0] = False  # today's rules need not lie on the grid
        for k in [k for k in range(len(names)) if k not in pair]:
            levels = np.unique(points[1:, k])
            keep &= points[:, k] == levels[np.abs(levels - points[0, k]).argmin()]
    now = float(frequency[0]) if known[0] else float("nan")
    target, words = target_of(saved.config["constraints"], now)
    return Heat(
        (names[pair[0]], names[pair[1]]),
        points[keep][:, pair],
        frequency[keep],
        frame["feasible"].to_numpy(bool)[keep],
        target,
        words,
        is_grid,
    )


def figure_heat(saved: Saved) -> Figure:
    """Heat map of the frequency with the contour at its target, and the candidates behind it."""
    heat = heat_of(saved)
    if isinstance(heat, str):
        return theme.empty_figure(TITLE, heat)
    x, y = heat.names
    title = (
        f"{theme.quoted(x)} and {theme.quoted(y)} decide most on the liquidation frequency: "
        f"{text.significant(heat.frequency.min())} to {text.significant(heat.frequency.max())} "
        "accounts per account-day"
    )
    ticks = MaxNLocator(8).tick_values(heat.frequency.min(), heat.frequency.max())
    levels = np.asarray(ticks, dtype=float)
    opacity = np.linspace(0.04, 0.9, len(levels) - 1)
    shades = ListedColormap([(*to_rgb(_SHADE), float(a)) for a in opacity])
    how: dict[str, Any] = {"cmap": shades, "norm": BoundaryNorm(levels, shades.N)}
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(title, 4.4)
        axis = grid[0, 0]
        axis.grid(visible=False)
        drawn = _cells(axis, heat, how) if heat.grid else _surface(axis, heat, levels, how)
        if not _is_crossed(heat):
            words = f"{heat.target_words} ({text.significant(heat.target)}): not on the map"
            axis.plot([], [], linestyle="none", label=words)
        _marks(axis, heat, saved)
        axis.set_xlabel(f"{theme.label(x, 40)}, level")
        axis.set_ylabel(f"{theme.label(y, 40)}, level")
        if drawn is not None:
            bar = figure.colorbar(drawn, ax=axis, pad=0.02)
            bar.set_label(f"{TITLES['frequency'].lower()}")
        handles = axis.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3)
    return figure


def edges(levels: Float[np.ndarray, " level"]) -> Float[np.ndarray, " edge"]:
    """Borders of cells around levels: half way between them, as far beyond the ends."""
    half = 0.5 * np.diff(levels)
    inner = levels[:-1] + half
    return np.concatenate([[levels[0] - half[0]], inner, [levels[-1] + half[-1]]])


def table_of(heat: Heat) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, "up across"]]:
    """Levels across and up of a grid, and the frequency of each pair; NaN where none was tried."""
    across, up = (np.unique(heat.points[:, k]) for k in (0, 1))
    cells = np.full((len(up), len(across)), np.nan)
    at = [np.searchsorted(axis, heat.points[:, k]) for k, axis in enumerate((across, up))]
    cells[at[1], at[0]] = heat.frequency
    return across, up, cells


def _cells(axis: Axes, heat: Heat, how: dict[str, Any]) -> Any:
    across, up, cells = table_of(heat)
    drawn = axis.pcolormesh(edges(across), edges(up), np.ma.masked_invalid(cells), **how)
    if _is_crossed(heat) and np.isfinite(cells).all():
        axis.contour(across, up, cells, levels=[heat.target], colors=[theme.INK], linewidths=1.3)
        _name_contour(axis, heat)
    return drawn


def _surface(axis: Axes, heat: Heat, levels: np.ndarray, how: dict[str, Any]) -> Any:
    points = heat.points
    scaled = (points - points.mean(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-300)
    if len(np.unique(points, axis=0)) < LEAST_POINTS or np.linalg.matrix_rank(scaled, 1e-6) < 2:
        return None  # on one line there is nothing to interpolate
    x, y = points.T
    axis.use_sticky_edges = False  # marks on the border are seen whole
    axis.margins(0.03)
    net = Triangulation(x, y, Triangulation(scaled[:, 0], scaled[:, 1]).triangles)
    drawn = axis.tricontourf(net, heat.frequency, levels=levels, **how)
    if _is_crossed(heat):
        contour = {"levels": [heat.target], "colors": [theme.INK], "linewidths": 1.3}
        axis.tricontour(net, heat.frequency, **contour)
        _name_contour(axis, heat)
    return drawn


def _is_crossed(heat: Heat) -> bool:
    return bool(heat.frequency.min() < heat.target < heat.frequency.max())


def _name_contour(axis: Axes, heat: Heat) -> None:
    axis.plot([], [], color=theme.INK, linewidth=1.3, label=f"frequency at {heat.target_words}")


def _marks(axis: Axes, heat: Heat, saved: Saved) -> None:
    for keep, style, label in (
        (heat.feasible, "o", "holds every constraint"),
        (~heat.feasible, "x", "breaks a constraint"),
    ):
        if keep.any():
            at = heat.points[keep].T
            axis.plot(*at, style, color=theme.MUTED, markersize=3.6, linestyle="none", label=label)
    levels = {"today": saved.summary["now"], "chosen": saved.summary["levels"]}
    for k, (name, level) in enumerate(levels.items()):
        axis.plot(
            *([level[p]] for p in heat.names),
            "sD"[k],
            markersize=9 - 2 * k,
            markerfacecolor="none",
            markeredgecolor=theme.SET_COLORS[(0, 2)[k]],
            markeredgewidth=1.8,
            linestyle="none",
            label=name,
        )
