"""The margin level of one account through the window, as a small picture of the page.

Drawn by hand, because a report holds many: colours are variables of the page, texts its font.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from . import text, theme
from .rules import Levels


MOST_POINTS = 240
"""Points of a line; of more, the lowest and the highest of each stretch are kept."""
LOWEST, HIGHEST = 0.1, 10.0
"""Levels (1 = 100 %) at the edges of the picture; what is beyond is drawn at the edge."""
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 250, 56, 116, 30, 34
_MARKS = ("m0 -4v8m-4 -4h8", "m-3 -3l6 6m0 -6l-6 6", "m0 -4l4 4l-4 4l-4 -4z", "m-3 -3h6v6h-6z")
_MARKS += ("m0 -4l4 7h-8z", "m0 4l4 -7h-8z")
"""Marks of the sets, so that colour is never the only difference."""
_DASHES = ("", "7 2.5", "2 2", "7 2 2 2", "4 2 1.5 2", "11 3")
_TICKS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
_DAY = 86_400
_STEPS = (300, 900, *(3_600 * h for h in (1, 3, 6, 12)), *(_DAY * d for d in (1, 2, 4, 7, 14, 30)))
_STEPS += tuple(_DAY * d for d in (60, 120, 240, 365, 730, 1_460))
_MOST_TICKS = 7


@dataclass(frozen=True)
class LevelPath:
    """Margin levels (1 = 100 %) of one account under one set.

    Fields:
        name: the parameter set.
        position: its place among the sets that are drawn, for colour and style.
        seconds, levels: since the start of the run, in order, and the level then (NaN: none).
        is_whole: every time of the run; else events alone, of which marks are drawn.
        fixed: of liquidations seconds since the start, level before and after.
    """

    name: str
    position: int
    seconds: np.ndarray
    levels: np.ndarray
    is_whole: bool
    fixed: Sequence[tuple[float, float, float]] = ()


def level_picture(
    paths: Sequence[LevelPath], start: pd.Timestamp, length_seconds: float, levels: Levels
) -> Markup:
    """The picture as inline SVG: a line or marks a set, and the levels of a set across it.

    Args:
        paths: what is drawn.
        start: of the run, UTC.
        length_seconds: of the run.
        levels: at which a set warns and an account is safe again.
    """
    drawn = _Frame(start, max(length_seconds, 1.0))
    parts = [_axes(drawn), _levels(drawn, levels)]
    for k, path in enumerate(paths):
        color, dash = theme.set_color(path.position), _DASHES[path.position % len(_DASHES)]
        style = f"stroke:var({theme.variable(color)});fill:none;stroke-width:1.6"
        parts.append(f'<g style="{style}">{_line(drawn, path, dash)}{_fixed(drawn, path)}</g>')
        parts.append(_legend(path, k, color, dash))
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" class="path"'
    return Markup(f"<svg {size}>{''.join(parts)}</svg>")  # every text in it is escaped


@dataclass(frozen=True)
class _Frame:
    """Where a time and a level are in the picture."""

    start: pd.Timestamp
    length_seconds: float

    def x(self, seconds: float) -> float:
        share = seconds / self.length_seconds
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, level: float) -> float:
        share = math.log(min(max(level, LOWEST), HIGHEST) / LOWEST) / math.log(HIGHEST / LOWEST)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def _axes(drawn: _Frame) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = ['<g style="stroke:var(--line)">']
    parts += [f'<path d="M{_LEFT} {drawn.y(v)}H{right}"/>' for v in _TICKS]
    parts.append('</g><g style="stroke:var(--muted);fill:none">')
    parts.append(f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
    times = _times(drawn)
    parts += [f'<path d="M{x} {bottom}v4"/>' for x, _ in times]
    parts.append("</g>")
    parts += [
        f'<text x="{_LEFT - 6}" y="{drawn.y(v) + 4}" text-anchor="end">{_percent(v)}</text>'
        for v in _TICKS
    ]
    parts += [
        f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{words}</text>' for x, words in times
    ]
    parts.append(f'<text x="{right}" y="{bottom + 30}" text-anchor="end">time, UTC</text>')
    return "".join(parts)


def _times(drawn: _Frame) -> list[tuple[float, str]]:
    """Where the marks of the time axis are, and their words: whole steps of a day or of days."""
    step = next((s for s in _STEPS if drawn.length_seconds / s <= _MOST_TICKS), _STEPS[-1])
    whole = min(step, _DAY)
    # Seconds since midnight before the start, so that marks fall on full hours and days.
    late = (drawn.start - drawn.start.normalize()).total_seconds()
    first = -(-late // whole) * whole - late
    found = []
    for seconds in np.arange(first, drawn.length_seconds + 1.0, step).tolist():
        time = drawn.start + pd.Timedelta(seconds=seconds)
        is_day = (late + seconds) % _DAY == 0
        found.append((drawn.x(seconds), f"{time:%Y-%m-%d}" if is_day else f"{time:%H:%M}"))
    return found


def _levels(drawn: _Frame, levels: Levels) -> str:
    right = _WIDTH - _RIGHT
    known = [("warning", levels.warning), ("safe", levels.safe), ("liquidation", 1.0)]
    parts = []
    for name, value in known:
        if value is None:
            continue
        y = drawn.y(value)
        dash = ' stroke-dasharray="4 3"' if name != "liquidation" else ""
        parts.append(f'<path d="M{_LEFT} {y}H{right}" style="stroke:var(--ink)"{dash}/>')
        # Safe lies just above the trigger: its words go up, those of the trigger down.
        shift = {"safe": -2, "liquidation": 11}.get(name, 4)
        parts.append(f'<text x="{right + 5}" y="{y + shift}">{name} {_percent(value)}</text>')
    return "".join(parts)


def _line(drawn: _Frame, path: LevelPath, dash: str) -> str:
    keep = _kept(path.levels) if path.is_whole else np.arange(len(path.levels))
    points, pen = [], "M"
    marks = []
    for k in keep.tolist():
        value = float(path.levels[k])
        if math.isnan(value):
            pen = "M"
            continue
        x, y = drawn.x(float(path.seconds[k])), drawn.y(value)
        points.append(f"{pen}{x:g} {y:g}")
        pen = "L"
        marks.append(f"M{x:g} {y:g}{_MARKS[path.position % len(_MARKS)]}")
    if path.is_whole:
        return f'<path d="{"".join(points)}" stroke-dasharray="{dash}"/>' if points else ""
    return f'<path d="{"".join(marks)}"/>' if marks else ""


def _fixed(drawn: _Frame, path: LevelPath) -> str:
    """An upright line with a head for each liquidation, from the level before to that after."""
    parts = []
    for seconds, before, after in path.fixed:
        ends = [drawn.y(v) for v in (before, after) if not math.isnan(v)]
        if len(ends) == 2:
            x, (low, high) = drawn.x(seconds) + 3 * path.position, ends  # side by side
            head = 4 if high <= low else -4
            parts.append(f"M{x:g} {low:g}V{high:g}m-3 {head}l3 {-head}l3 {head}")
    return f'<path d="{"".join(parts)}"/>' if parts else ""


def _legend(path: LevelPath, k: int, color: str, dash: str) -> str:
    x = _LEFT + 150 * (k % 4)
    y = 10 + 12 * (k // 4)
    line = f'stroke="var({theme.variable(color)})" stroke-width="1.6" fill="none"'
    cross = f"M{x + 12} {y - 3}{_MARKS[path.position % len(_MARKS)]}"
    mark = f'd="M{x} {y - 3}h24" stroke-dasharray="{dash}"' if path.is_whole else f'd="{cross}"'
    name = escape(text.shorten(path.name, 18))
    return f'<path {mark} {line}/><text x="{x + 29}" y="{y + 1}">{name}</text>'


def _kept(levels: np.ndarray) -> np.ndarray:
    """Places of the lowest and the highest level of each stretch, in order."""
    if len(levels) <= MOST_POINTS:
        return np.arange(len(levels))
    found = {0, len(levels) - 1}
    for part in np.array_split(np.arange(len(levels)), MOST_POINTS // 2):
        known = part[np.isfinite(levels[part])]
        if len(known) < len(part):
            found.add(int(part[~np.isfinite(levels[part])][0]))
        if len(known):
            found |= {int(known[np.argmin(levels[known])]), int(known[np.argmax(levels[known])])}
    return np.asarray(sorted(found))


def _percent(value: float) -> str:
    return theme.percent_tick(round(value, 3))
