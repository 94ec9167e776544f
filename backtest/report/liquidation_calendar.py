"""When accounts are liquidated: hour of day by date, or by weekday where a run is long."""

from typing import cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path

from . import frames, text, theme
from .cells import page_table
from .event_windows import WINDOW_RULE, event_windows, picture_name, window_columns, window_table
from .figures_time import shown_sets
from .frequency import times
from .liquidations import over_sets, usd_by_time, what_is_liquidated
from .reader import Results
from .section import Picture, Section


MOST_DAYS = 62
"""Days that stand side by side; a longer run is folded into weekdays."""
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
CLASSES = 6
COARSE_SHARE = 0.1
"""Classes are whole decades where so many cells lie below the finer ones."""
_OPACITY = (0.16, 0.3, 0.46, 0.63, 0.81, 1.0)
"""One hue from faint to full, so that it grows on light and on dark paper and for every eye."""
_HOURS = 24


def calendar(results: Results, name: str) -> pd.DataFrame:
    """One row an hour of the run: day, hour (UTC), times replayed in it, USD liquidated."""
    when = times(results)
    rows = pd.DataFrame(
        {
            "day": when.floor("D"),
            "hour": when.hour.to_numpy(int),
            "times": np.ones(len(when), int),
            "liquidated_usd": usd_by_time(results, name),
        }
    )
    return cast("pd.DataFrame", rows.groupby(["day", "hour"], as_index=False, sort=True).sum())


def has_calendar(results: Results) -> bool:
    """Whether anybody is liquidated under any set."""
    return any(usd_by_time(results, name).any() for name in results.set_names)


def calendar_grid(results: Results, name: str) -> np.ndarray:
    """USD liquidated by hour of day, NaN where nothing was replayed: [hour, day of the run].

    [hour, weekday] from Monday, summed over the weeks, where the run is longer than ``MOST_DAYS``.
    """
    rows = calendar(results, name)
    days = pd.DatetimeIndex(rows["day"])
    since = np.asarray((days - days[0]) / pd.Timedelta(days=1), int)
    column = days.day_of_week.to_numpy() if _is_folded(results) else since
    grid = np.zeros((_HOURS, 7 if _is_folded(results) else int(column.max()) + 1))
    known = np.zeros(grid.shape, bool)
    at = rows["hour"].to_numpy(int), np.asarray(column, int)
    np.add.at(grid, at, frames.numbers(rows, "liquidated_usd"))
    known[at] = True
    return np.where(known, grid, np.nan)


def _is_folded(results: Results) -> bool:
    return len(_days(results)) > MOST_DAYS


def _days(results: Results) -> pd.DatetimeIndex:
    """Every day of the run."""
    when = times(results)
    return pd.date_range(when[0].floor("D"), when[-1].floor("D"), freq="D")


def class_bounds(amounts: np.ndarray) -> np.ndarray:
    """Lower bounds of classes of amounts above 0, USD: 1, 3, 10, 30 ... up to the largest.

    Whole decades where a tenth of the amounts or more lie below the first bound otherwise.

    Example:
        >>> class_bounds(np.array([4e3, 2e6]))
        array([   3000.,   10000.,   30000.,  100000.,  300000., 1000000.])
    """
    decades = 10.0 ** (np.floor(np.log10(amounts.max())) - np.arange(CLASSES)[::-1])
    steps = np.sort(np.outer(decades, [1.0, 3.0]).ravel())
    fine = steps[steps <= amounts.max() * (1.0 + 1e-9)][-CLASSES:]
    return fine if np.mean(amounts < fine[0]) < COARSE_SHARE else decades


def calendar_section(results: Results) -> Section:
    """Hours in which accounts are liquidated, and the worst windows one by one."""
    title = "When: calendar and worst windows"
    if not has_calendar(results):
        return Section("calendar", title, "Nothing is liquidated under any parameter set.")
    folded = _is_folded(results)
    across = (
        "Hour of day (UTC) by weekday, summed over the weeks of the run."
        if folded
        else "Hour of day (UTC) by date."
    )
    pictures = [
        Picture(
            "calendar",
            f"{across} The stronger the colour, the more USD are liquidated "
            f"({what_is_liquidated(results)}).",
        )
    ]
    pictures += [
        Picture(picture_name(w.number), _window_caption(results, w.number))
        for w in event_windows(results)
    ]
    table = page_table(
        window_table(results), window_columns(results), "Worst windows", note=WINDOW_RULE
    )
    intro = f"USD liquidated: {what_is_liquidated(results)}."
    return Section("calendar", title, intro, pictures, [table])


def _window_caption(results: Results, number: int) -> str:
    fund = results.has("waterfall")
    return (
        f"Worst window {number}: index price of the coin that is liquidated most, USD liquidated "
        "at each time"
        + (", and the fund after it" if fund else "")
        + ". Dotted: where the window begins and ends. The depth of order books is no part of a "
        "run."
    )


def calendar_tables(results: Results) -> dict[str, pd.DataFrame]:
    """Tables of when accounts are liquidated, by file name."""
    found = {"liquidation_calendar": over_sets(results, calendar)} if len(times(results)) else {}
    if found and has_calendar(results):
        found["worst_windows"] = window_table(results)
    return found


def figure_calendar(results: Results) -> Figure:
    """Hours in which accounts are liquidated, one panel a set."""
    names, folded = shown_sets(results), _is_folded(results)
    grids = {name: calendar_grid(results, name) for name in names}
    every = np.concatenate([grid[grid > 0.0] for grid in grids.values()])
    bounds = class_bounds(every) if len(every) else np.zeros(0)
    with mpl.rc_context(theme.style()):
        height = 1.0 + (1.55 if folded else 1.95) * len(names)
        figure, axes = theme.new_figure(_title(results), height, len(names), sharex=True)
        for axis, (name, grid) in zip(axes[:, 0].tolist(), grids.items(), strict=True):
            _draw(axis, grid.T if folded else grid, bounds)
            axis.set_title(f"{theme.label(name)}: {text.usd(float(np.nansum(grid)))}")
            _label_axes(axis, results, folded)
        axes[-1, 0].set_xlabel("hour of day, UTC" if folded else "date, UTC")
        some_missing = any(np.isnan(grid).any() for grid in grids.values())
        figure.legend(handles=_keys(bounds, some_missing), loc="outside lower center", ncols=4)
    return figure


def _draw(axis: Axes, grid: np.ndarray, bounds: np.ndarray) -> None:
    """Every class of cells as one shape; cells without a time hatched."""
    axis.grid(visible=False)
    axis.set_xlim(0, grid.shape[1])
    axis.set_ylim(grid.shape[0], 0)
    missing = np.isnan(grid)
    if missing.any():
        axis.add_patch(_unknown(_squares(missing)))
    amounts = np.where(missing, 0.0, grid)
    level = np.searchsorted(bounds, amounts * (1.0 + 1e-9), side="right")
    level = np.where(amounts > 0.0, np.maximum(level, 1), 0)
    for k in range(1, len(bounds) + 1):
        if (level == k).any():
            axis.add_patch(
                PathPatch(
                    _squares(level == k),
                    facecolor=theme.SET_COLORS[0],
                    alpha=_shade(k - 1, len(bounds)),
                    linewidth=0,
                )
            )


def _unknown(path: Path) -> PathPatch:
    return PathPatch(path, facecolor="none", edgecolor=theme.MUTED, hatch="////", linewidth=0)


def _shade(k: int, count: int) -> float:
    return _OPACITY[len(_OPACITY) - count + k]


def _squares(chosen: np.ndarray) -> Path:
    """The chosen cells as one path of unit squares, rows downwards."""
    row, column = np.nonzero(chosen)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], float)
    points = np.stack([column, row], axis=1)[:, None, :] + corners
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(points.reshape(-1, 2), codes * len(row))


def _label_axes(axis: Axes, results: Results, folded: bool) -> None:
    hours = range(0, _HOURS + 1, 6)
    if folded:
        axis.set_yticks(np.arange(7) + 0.5, WEEKDAYS)
        axis.set_xticks(list(hours), [f"{h:02d}:00" for h in hours])
        return
    axis.set_yticks(list(hours), [f"{h:02d}:00" for h in hours])
    axis.set_ylabel("hour of day, UTC")
    days = _days(results)
    step = -(-len(days) // 10)
    axis.set_xticks(np.arange(0, len(days), step) + 0.5, [f"{d.day} {d:%b}" for d in days[::step]])


def _keys(bounds: np.ndarray, some_missing: bool) -> list[Patch]:
    """What the colours say, and what no colour says."""
    keys = []
    for k in range(len(bounds)):
        words = (
            f"below {theme.usd_tick(bounds[1])}"
            if k == 0 and len(bounds) > 1
            else f"from {theme.usd_tick(bounds[k])}"
        )
        shade = _shade(k, len(bounds))
        keys.append(Patch(facecolor=theme.SET_COLORS[0], alpha=shade, label=f"{words} USD"))
    keys.append(Patch(facecolor="none", edgecolor=theme.MUTED, linewidth=0.7, label="nothing"))
    if some_missing:
        unknown = Patch(facecolor="none", edgecolor=theme.MUTED, hatch="////", linewidth=0)
        unknown.set_label("not replayed")
        keys.append(unknown)
    return keys


def _title(results: Results) -> str:
    name = results.champion
    rows = calendar(results, name)
    amounts = np.sort(frames.numbers(rows, "liquidated_usd"))[::-1]
    if not amounts.any():
        return f"Nothing is liquidated under {theme.quoted(name)}"
    half = int(np.searchsorted(np.cumsum(amounts), 0.5 * amounts.sum() * (1.0 - 1e-12))) + 1
    return (
        f"Half of the USD liquidated under {theme.quoted(name)} falls into "
        f"{text.number(half)} of {text.plural(len(rows), 'hour')}"
    )
