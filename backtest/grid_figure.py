"""Heat maps of the scenario grid of a portfolio: one row a risk unit, now and after the fills."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from backtest.portfolio_answer import Answers
from backtest.report import theme


MOST_UNITS = 12
_STATES = ("up", "same", "down")
_GAIN, _LOSS = "#56b4e9", "#d55e00"
_COLORS = LinearSegmentedColormap.from_list("profit", [_LOSS, theme.PAPER, _GAIN])
_HEIGHT = 1.35
"""Inches of one row."""


def grid_figure(found: Answers) -> Figure:
    """The scenario grid of every unit: losses orange, gains blue, the worst cell framed.

    At most 12 units, those of the largest requirement; both panels of a row share their colours.
    """
    sides = [("now", found.now.kernel["units"])]
    if found.after is not None:
        sides.append((f"after the {found.fills}", found.after.kernel["units"]))
    mmr = {name: unit["mmr"] for _, units in sides for name, unit in units.items()}
    names = sorted(sorted(mmr, key=lambda name: -mmr[name])[:MOST_UNITS])
    if not names:
        return theme.empty_figure("Scenario grid", "There is no risk unit, or a price is missing.")
    title = "Profit in each scenario, USD; the worst cell is framed"
    if len(mmr) > len(names):
        title += f" ({len(names)} largest of {len(mmr)} units)"
    with mpl.rc_context(theme.style()):
        figure, axes = theme.new_figure(title, 0.5 + _HEIGHT * len(names), len(names), len(sides))
        figure.set_figwidth(theme.WIDTH * (1.0 if len(sides) == 1 else 1.8))
        for row, name in enumerate(names):
            grids = [_grid(units[name]) for _, units in sides if name in units]
            most = max((float(np.abs(cells).max()) for _, cells in grids), default=0.0)
            scale = Normalize(-(most or 1.0), most or 1.0)
            for column, (when, units) in enumerate(sides):
                panel = axes[row, column]
                heading = f"{theme.label(name)} {when}" if len(sides) > 1 else theme.label(name)
                if name in units:
                    _panel(panel, heading, units[name], scale)
                else:
                    panel.set_axis_off()
                    panel.set_title(f"{heading}: nothing")
    return figure


def _grid(unit: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Price moves, and PnL by volatility state (rows) and price move."""
    (key,) = (key for key in unit if key.endswith("_cells"))
    cells = {(cell["vol"], cell["price_move"]): cell["pnl"] for cell in unit[key]}
    moves = sorted({move for _, move in cells})
    return np.asarray(moves), np.asarray([[cells[s, m] for m in moves] for s in _STATES])


def _panel(axes: Axes, heading: str, unit: dict[str, Any], scale: Normalize) -> None:
    moves, cells = _grid(unit)
    axes.pcolormesh(cells, cmap=_COLORS, norm=scale, edgecolors=theme.GRID, linewidth=0.5)
    axes.grid(visible=False)
    axes.set_xticks(np.arange(len(moves)) + 0.5, [_percent(move) for move in moves])
    axes.set_yticks(np.arange(len(_STATES)) + 0.5, [f"vol {state}" for state in _STATES])
    axes.invert_yaxis()
    axes.tick_params(length=0)
    worst = _worst(moves, cells)
    for (i, j), pnl in np.ndenumerate(cells):
        weight = "bold" if (i, j) == worst else "normal"
        shown = theme.usd_tick(float(f"{round(pnl, 2) + 0.0:.3g}"))
        axes.text(
            j + 0.5, i + 0.5, shown, ha="center", va="center", fontsize=6.0, fontweight=weight
        )
    lost = -cells[worst]
    if lost > 0.0:
        frame = Rectangle(
            (worst[1], worst[0]), 1, 1, fill=False, edgecolor=theme.INK, linewidth=1.6
        )
        frame.set_clip_on(False)
        axes.add_patch(frame)
    words = f"worst loss {lost:,.2f}" if lost > 0.0 else "no loss"
    axes.set_title(f"{heading}: {words}, requirement {unit['mmr']:,.2f}")


def _percent(move: float) -> str:
    sign = "+" if move > 0.0 else ""
    return f"{sign}{theme.percent_tick(round(move, 6))}"


def _worst(moves: np.ndarray, cells: np.ndarray) -> tuple[int, int]:
    """Cell of the largest loss; among equals unchanged volatility, then the smaller move."""

    def order(cell: tuple[int, int]) -> tuple[float, bool, float]:
        return cells[cell], _STATES[cell[0]] != "same", abs(float(moves[cell[1]]))

    return min(((i, j) for i in range(len(_STATES)) for j in range(len(moves))), key=order)
