"""How figures look: colour-blind-safe colours, quiet axes, titles that say the finding.

Colours are those of Okabe and Ito; parameter sets, and charges by their position in a set, keep
theirs in every figure.
"""

import io
import re
import warnings
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.transforms import ScaledTranslation

from . import text


INK = "#1d2733"
MUTED = "#5b6773"
GRID = "#dfe4e9"
PAPER = "#fefefe"
ON_DARK_COLOR = "#fffffd"
CHARGE_COLORS = (
    "#0072b2",
    "#56b4e9",
    "#009e73",
    "#e69f00",
    "#e8da28",
    "#d55e00",
    "#999999",
    "#4d4d4d",
    "#cc79a7",
)
"""Colours of charges by their position in a set; a tenth charge would start again."""
_LIGHT = frozenset({"#56b4e9", "#e69f00", "#e8da28", "#999999", "#cc79a7"})
SET_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LineStyle = str | tuple[int, tuple[int | float, ...]]
SET_STYLES: tuple[LineStyle, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (5, 1, 1, 1)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (8, 2)),
)
MOST_SETS = len(SET_COLORS)
WIDTH = 7.6
DOTS_PER_INCH = 150
DARK = {
    INK: "#e6eaef",
    MUTED: "#a3aebb",
    GRID: "#313a45",
    PAPER: "#171c23",
    "#0072b2": "#4ba3e3",
    "#56b4e9": "#97d6ff",
    "#009e73": "#2bc297",
    "#e69f00": "#f0b232",
    "#e8da28": "#f3e85c",
    "#d55e00": "#f4823c",
    "#999999": "#87919d",
    "#4d4d4d": "#cfd6de",
    "#cc79a7": "#e59fc6",
    ON_DARK_COLOR: "#10151b",
}
"""The same colours on a dark page; the light ones are the keys."""

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 6.0,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7.8,
    "ytick.labelsize": 7.8,
    "legend.frameon": False,
    "legend.fontsize": 7.8,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "lines.linewidth": 1.4,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "pm-stress",
}


def style() -> mpl.RcParams:
    """Settings of all figures; ``with rc_context(style()): ...`` applies them."""
    return mpl.RcParams(mpl.rcParams | _RC)


def new_figure(
    title: str, height: float, rows: int = 1, columns: int = 1, **grid: Any
) -> tuple[Figure, np.ndarray]:
    """An empty figure of the house width with a left-aligned title, and its axes (row, column)."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes: Any = figure.subplots(rows, columns, squeeze=False, **grid)
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.06, h_pad=0.06, hspace=0.04, wspace=0.04)
    figure.suptitle(
        wrap(title, 80), x=0.012, ha="left", fontsize=10.5, fontweight="bold", color=INK
    )
    return figure, axes


def empty_figure(title: str, message: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    with mpl.rc_context(style()):
        figure, axes = new_figure(title, 1.5)
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0.5, 0.45, message, ha="center", va="center", color=MUTED, fontsize=9.5)
    return figure


def wrap(words: str, width: int) -> str:
    """Words in as few lines of at most ``width`` characters as they need, of about equal length."""
    needed = -(-len(words) // width)
    for target in range(-(-len(words) // needed) if needed else width, width + 1):
        lines = _fill(words, target)
        if len(lines) <= needed:
            return "\n".join(lines)
    return "\n".join(_fill(words, width))


def _fill(words: str, width: int) -> list[str]:
    lines: list[str] = []
    for word in words.split(" "):
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def quoted(name: str) -> str:
    """A name inside a sentence: sets are called "today", and a sentence must not say so."""
    return f"“{label(name)}”"


def label(name: str, most: int = 28) -> str:
    """A name that is safe in a figure: no formulas, no hidden legend entries, no missing signs."""
    short = text.shorten(name, most)
    drawn = "".join(c if _is_drawable(c) else "□" for c in short)
    drawn = drawn.replace("$", r"\$")
    return f" {drawn}" if drawn.startswith("_") else drawn or "(no name)"


def _is_drawable(sign: str) -> bool:
    return sign == text.SPACE or (sign.isprintable() and ord(sign) in _glyphs())


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap())


def set_color(position: int) -> str:
    """Colour of the n-th set in display order (0 = champion)."""
    return SET_COLORS[position % MOST_SETS]


def set_style(position: int) -> LineStyle:
    """Line style of the n-th set, so that colour is never the only difference."""
    return SET_STYLES[position % MOST_SETS]


def charge_color(position: int) -> str:
    """Colour of the n-th charge of a set."""
    return CHARGE_COLORS[position % len(CHARGE_COLORS)]


def on_charge(position: int) -> str:
    """Colour of a text on the colour of the n-th charge."""
    return "#000000" if charge_color(position) in _LIGHT else ON_DARK_COLOR


def time_axis(axes: Axes, times: np.ndarray, most_ticks: int = 9) -> None:
    """Short UTC dates below the axes, tight to the window."""
    locator = AutoDateLocator(minticks=min(4, most_ticks - 2), maxticks=most_ticks, tz="UTC")
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz="UTC"))
    if len(times) > 1:
        axes.set_xlabel("time, UTC")
        axes.set_xlim(times[0], times[-1])


def legend_above(axes: Axes) -> None:
    """Legend on the line of the title, at its right end, where it covers no data."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 0.99),
        ncols=4,
        borderaxespad=0.0,
        handlelength=1.3,
        handletextpad=0.5,
        columnspacing=1.1,
        fontsize=7.3,
    )


def legend_below(axes: Axes, gap: int, columns: int = 3) -> None:
    """Legend of one panel below it, for panels whose legends differ.

    Args:
        axes: the panel.
        gap: points between panel and legend, for ticks and axis label.
        columns: columns of the legend.
    """
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    figure: Any = axes.get_figure()
    down = ScaledTranslation(0, -gap / 72, figure.dpi_scale_trans)
    axes.legend(
        list(unique.values()),
        list(unique.keys()),
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=axes.transAxes + down,
        ncols=columns,
        borderaxespad=0.0,
        handlelength=1.3,
        columnspacing=1.3,
    )


def percent_axis(axes: Axes, which: str = "y") -> None:
    """Ticks of a fraction as percent."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(lambda v, _: percent_tick(v))


def percent_tick(value: float) -> str:
    """A fraction as a short percent tick."""
    shown = f"{100 * value:,.0f}" if abs(value) >= 10 else f"{100 * value:.4g}"
    return f"{shown}{text.SPACE}%".replace("-", text.MINUS)


def count_axis(axes: Axes, which: str = "y") -> None:
    """Ticks as whole numbers with thousands separators."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(lambda v, _: text.number(v) if float(v).is_integer() else "")


def usd_tick(value: float) -> str:
    """An amount of USD as a short tick."""
    return short_tick(value)


def short_tick(value: float) -> str:
    """A number of any unit as a short tick: in k, m, bn or tn where it is large."""
    for scale, name in ((1e12, "tn"), (1e9, "bn"), (1e6, "m"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:,.4g}{text.SPACE}{name}".replace("-", text.MINUS)
    return f"{value:,.4g}".replace("-", text.MINUS)


def _settle(figure: Figure) -> None:
    """Lays the figure out once; printing would do it again for each format."""
    engine = figure.get_layout_engine()
    if engine is not None:
        FigureCanvasAgg(figure)
        engine.execute(figure)
        figure.set_layout_engine("none")


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG picture on light paper."""
    out = io.BytesIO()
    with mpl.rc_context(style()), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a sign that the font lacks is drawn as a box
        _settle(figure)
        figure.set_dpi(DOTS_PER_INCH)
        FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return out.getvalue()


def to_svg(figure: Figure, prefix: str) -> str:
    """The figure as inline SVG whose colours are variables of the page (light and dark).

    Texts stay texts in the font of the page. ``prefix`` keeps ids apart from other figures'.
    """
    out = io.StringIO()
    with mpl.rc_context(style()), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        _settle(figure)
        figure.patch.set_visible(False)
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
        figure.patch.set_visible(True)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style).*?</\1>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg)
    svg = re.sub(r' d="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m.group()), svg)
    svg = re.sub(r'<svg([^>]*?) width="[^"]*"', r"<svg\1", svg, count=1)
    svg = re.sub(r'<svg([^>]*?) height="[^"]*"', r"<svg\1", svg, count=1)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = svg.replace('href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
    svg = svg.replace("'DejaVu Sans'", "var(--font)")
    for light in DARK:
        svg = re.sub(f"{light}\\b", f"var({variable(light)})", svg, flags=re.IGNORECASE)
    return re.sub(r"\n\s*", "\n", svg)


def variable(color: str) -> str:
    """Name of the page's variable for a colour of the figures."""
    return f"--c{color[1:]}"
