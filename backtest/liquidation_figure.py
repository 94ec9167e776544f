"""The liquidation of one account as a picture: equity, requirement and charges by step."""

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from backtest.reference.liquidation import Liquidation
from backtest.report import theme


def liquidation_figure(done: Liquidation) -> Figure:
    """Equity against the maintenance margin and its charges, at first and after every step."""
    if not done.steps:
        return theme.empty_figure("Liquidation", "Nothing was done.")
    sides = [done.steps[0].charges_before, *(step.charges_after for step in done.steps)]
    mmr = [done.steps[0].mmr_before_usd, *(step.mmr_after_usd for step in done.steps)]
    equity = [done.steps[0].equity_before_usd, *(step.equity_after_usd for step in done.steps)]
    places = np.arange(len(sides))
    names = ["before", *(f"{step.number} {step.stage}" for step in done.steps)]
    with mpl.rc_context(theme.style()):
        figure, axes = theme.new_figure(f"Liquidation, ends {done.status}", 4.2, 2, 1)
        top, bottom = axes[0, 0], axes[1, 0]
        top.step(places, equity, where="mid", label="equity", color=theme.INK)
        top.step(places, mmr, where="mid", label="maintenance margin", color="#d55e00")
        top.set_ylabel("USD")
        top.legend(loc="best")
        base = np.zeros(len(sides))
        for k, name in enumerate(sides[0]):
            values = np.asarray([side[name] for side in sides])
            if values.any():
                bottom.bar(places, values, 0.7, base, label=name.upper(), color=f"C{k}")
                base = base + values
        bottom.set_ylabel("charges, USD")
        bottom.legend(loc="best", ncols=3)
        for panel in (top, bottom):
            panel.set_xticks(places, names, rotation=30, ha="right")
            panel.yaxis.set_major_formatter(lambda value, _: theme.usd_tick(value))
    return figure
