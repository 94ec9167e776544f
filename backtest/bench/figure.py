"""The bars of the benchmark: account-times a second of every way, and what was promised."""

import io

import matplotlib as mpl
from matplotlib.figure import Figure

from backtest.bench.laps import Lap
from backtest.bench.results import Findings
from backtest.bench.text import value_text
from backtest.report import theme


OURS, PEER = theme.SET_COLORS[0], theme.MUTED


def save_figure(found: Findings) -> bytes:
    """PNG of the rates that were measured; the title says how the targets came out."""
    with mpl.rc_context(theme.style()):
        figure = _figure(found)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=theme.DOTS_PER_INCH)
    return buffer.getvalue()


def _figure(found: Findings) -> Figure:
    bars = _bars(found)
    results = ", ".join(f"{m.id} {value_text(m)}" for m in found.measures if m.value is not None)
    title = f"Margin of {found.book['accounts']:,} accounts: {results or 'nothing measured'}"
    if not bars:
        return theme.empty_figure(title, "No rates were measured.")
    figure, axes = theme.new_figure(title, 1.3 + 0.27 * len(bars))
    axis = axes[0, 0]
    names = list(bars)[::-1]
    values = [bars[name].rate / 1e6 for name in names]
    colors = [OURS if name.startswith(("ours", "our ")) else PEER for name in names]
    axis.barh(names, values, color=colors)
    axis.set_xscale("log")
    axis.set_xlim(right=max(values) * 4)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("million a second, log scale (margins: accounts x times; pricing: options)")
    for name, value in zip(names, values, strict=True):
        axis.annotate(
            f"{value:,.3g}", (value, name), xytext=(4, 0), textcoords="offset points", va="center"
        )
    return figure


def _bars(found: Findings) -> dict[str, Lap]:
    """Laps that are rates of margins, scenarios or prices."""
    skipped = ("sgemm", "copy")
    return {
        name: lap
        for name, lap in found.laps.items()
        if lap.work != 1.0 and not name.startswith(skipped)
    }
