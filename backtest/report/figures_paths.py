"""Figure of the parameters that a rule sets from the market, one small panel each."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from . import text, theme
from .figures_time import mark_switches
from .paths import MOST_PATHS, moving, paths
from .reader import Results


_COLUMNS = 3


def figure_parameter_paths(results: Results, parameter_set: str) -> Figure:
    """Steps of each parameter of a set that changes over the window, small multiples."""
    name = theme.label(results.check_set(parameter_set))
    keys = moving(results, parameter_set)
    if not keys:
        title = f"No parameter of {name} that follows the market changes in this window"
        return theme.empty_figure(title, "All stay at their first value")
    shown, found = sorted(keys[:MOST_PATHS]), paths(results, parameter_set)
    title = f"{text.plural(len(keys), 'parameter')} of {name} {_follow(len(keys))} the market"
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    with mpl.rc_context(theme.style()):
        figure, grid = theme.new_figure(title, 0.9 + 1.45 * rows, rows, columns, sharex=True)
        panels: list[Axes] = grid.flat[: len(shown)].tolist()
        for axis, key in zip(panels, shown, strict=True):
            _draw_path(axis, *found[key])
            axis.set_title(theme.label(key, 30), fontsize=7.6)
        for axis in grid.flat[len(shown) :]:
            axis.set_axis_off()
        mark_switches(panels, results, parameter_set, named=False)
        clock = [t.tz_convert(None).to_numpy() for t, _ in (found[k] for k in shown)]
        span = np.array([min(c[0] for c in clock), max(c[-1] for c in clock)])
        for axis in panels[-columns:]:
            axis.tick_params(labelbottom=True)
            theme.time_axis(axis, span, most_ticks=5)
    return figure


def _follow(count: int) -> str:
    return "follows" if count == 1 else "follow"


def _draw_path(axis: Axes, times: pd.DatetimeIndex, values: np.ndarray) -> None:
    """Only the times at which the value changes, so that long windows stay small."""
    keep = np.flatnonzero(np.concatenate([[True], np.diff(values) != 0]))
    keep = np.unique(np.append(keep, len(values) - 1))
    clock = times.tz_convert(None).to_numpy()
    color = theme.set_color(0)
    axis.step(clock[keep], values[keep], where="post", color=color, linewidth=1.3)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axis.yaxis.set_major_formatter(lambda v, _: theme.short_tick(v))
