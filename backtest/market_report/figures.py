"""Pictures of a dataset's quality."""

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from backtest.market.series import timestamps
from backtest.market_report.scan import MOST_ROWS, Coverage, MarketFindings
from backtest.report import theme


def coverage_figure(coverage: Coverage) -> Figure:
    """Which part of the expected rows is there, by line and time; hatched: nothing is expected."""
    share = coverage.share[:MOST_ROWS]
    names = coverage.lines[:MOST_ROWS]
    known = np.isfinite(coverage.share)
    whole = float(np.mean(coverage.share[known])) if known.any() else 0.0
    gaps = int(np.count_nonzero(np.nanmin(np.where(known, coverage.share, np.nan), 1) < 0.999))
    title = (
        f"{100 * whole:.2f} % of the expected rows are there; {gaps} of {len(coverage.lines)} "
        "lines have gaps"
    )
    colors = LinearSegmentedColormap.from_list("coverage", ["#d55e00", "#e69f00", "#0072b2"])
    with mpl.rc_context(theme.style()):
        figure, axes = theme.new_figure(title, 1.3 + 0.19 * len(names))
        panel = axes[0, 0]
        times = timestamps(coverage.edges).tz_localize(None).to_numpy()
        panel.patch.set_facecolor(theme.GRID)
        panel.patch.set_hatch("////")
        panel.patch.set_edgecolor(theme.PAPER)
        edges = np.arange(len(names) + 1) - 0.5
        mesh = panel.pcolormesh(
            times, edges, np.ma.masked_invalid(share), cmap=colors, vmin=0.0, vmax=1.0,
            rasterized=True,
        )  # fmt: skip
        panel.set_yticks(np.arange(len(names)), [theme.label(name, 30) for name in names])
        panel.invert_yaxis()
        panel.grid(visible=False)
        theme.time_axis(panel, times)
        bar = figure.colorbar(mesh, ax=panel, shrink=min(1.0, 3.0 / (0.19 * len(names) + 0.2)))
        bar.ax.yaxis.set_major_formatter(lambda v, _: theme.percent_tick(v))
        bar.set_label("rows there, of those expected")
    return figure


def findings_figure(found: MarketFindings) -> Figure:
    """How many findings there are of each check over time."""
    names = [name for name, rows in found.found.items() if len(rows)]
    if not names:
        return theme.empty_figure("No findings in the market", "every check passed")
    edges = found.coverage.edges
    with mpl.rc_context(theme.style()):
        total = sum(len(found.found[name]) for name in names)
        figure, axes = theme.new_figure(
            f"{total:,} findings in {len(names)} of {len(found.found)} checks",
            0.7 + 0.85 * len(names),
            rows=len(names),
            sharex=True,
        )
        times = timestamps(edges).tz_localize(None).to_numpy()
        for place, name in enumerate(names):
            panel = axes[place, 0]
            micros = found.found[name]["time"].dt.as_unit("us").astype("int64").to_numpy()
            counts = np.histogram(micros, edges)[0]
            panel.stairs(counts, times, fill=True, color=theme.set_color(place))
            panel.set_title(f"{name}: {len(micros):,}")
            panel.set_ylim(0, None)
            theme.count_axis(panel)
        theme.time_axis(axes[-1, 0], times)
    return figure
