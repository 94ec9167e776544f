"""All figures of the report; each takes ``Results`` and returns a ``Figure``."""

from collections.abc import Callable

from matplotlib.figure import Figure

from .attribution import figure_daily_change as figure_daily_change
from .figures_accounts import (
    figure_flips as figure_flips,
    figure_frequency as figure_frequency,
    figure_segments as figure_segments,
)
from .figures_liquidation import (
    figure_fund as figure_fund,
    figure_roc as figure_roc,
    figure_survival as figure_survival,
)
from .figures_margin import (
    figure_break_even as figure_break_even,
    figure_charges_of_liquidated as figure_charges_of_liquidated,
    figure_elasticities as figure_elasticities,
    figure_levels as figure_levels,
)
from .figures_paths import figure_parameter_paths as figure_parameter_paths
from .figures_time import (
    figure_charges_by_time as figure_charges_by_time,
    figure_timeline as figure_timeline,
)
from .reader import Results


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "frequency": figure_frequency,
    "timeline": figure_timeline,
    "segments": figure_segments,
    "flips": figure_flips,
    "roc": figure_roc,
    "charges_of_liquidated": figure_charges_of_liquidated,
    "charges_by_time": figure_charges_by_time,
    "worst_margin_levels": figure_levels,
    "daily_change": figure_daily_change,
    "break_even": figure_break_even,
    "elasticities": figure_elasticities,
}
"""Figures of every report by file name."""

LIQUIDATION_FIGURES: dict[str, Callable[[Results], Figure]] = {
    "fund": figure_fund,
    "survival": figure_survival,
}
"""Those of runs that simulated liquidations."""
