"""All figures of the report; each takes ``Results`` and returns a ``Figure``."""

from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from .attribution import figure_daily_change as figure_daily_change, figure_shapley, has_units
from .break_even import has_break_even
from .concentration import figure_concentration, has_concentration
from .event_windows import event_windows, figure_window, picture_name
from .figures_accounts import (
    figure_flips as figure_flips,
    figure_frequency as figure_frequency,
    figure_segments as figure_segments,
)
from .figures_liquidation import (
    figure_fund as figure_fund,
    figure_roc as figure_roc,
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
from .impact import figure_impact, has_impact
from .liquidation_calendar import figure_calendar, has_calendar
from .liquidations import has_liquidations
from .paths import sets_with_paths
from .policies import figure_policies, has_policies
from .procyclicality import figure_procyclicality, has_benchmarks
from .profile import figure_profile, has_profile
from .reader import Results
from .reverse import figure_reverse_stress, has_reverse_stress
from .sections import MOST_FLIPS
from .sections_schedule import path_picture
from .survival import figure_survival as figure_survival
from .tipping import figure_tipping, has_tipping


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "frequency": figure_frequency,
    "timeline": figure_timeline,
    "segments": figure_segments,
    "survival": figure_survival,
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
}
"""Those of runs that simulated liquidations."""


_Figure = tuple[Callable[[Results], bool], Callable[[Results], Figure]]
_OF_SOME_RUNS: dict[str, _Figure] = {
    "calendar": (has_calendar, figure_calendar),
    "adl_policies": (has_policies, figure_policies),
    "concentration": (has_concentration, figure_concentration),
    "shapley": (has_units, figure_shapley),
    "liquidation_profile": (has_profile, figure_profile),
    "procyclicality": (has_benchmarks, figure_procyclicality),
    "reverse_stress": (has_reverse_stress, figure_reverse_stress),
}
"""Figures of runs that have something to draw, with the question whether they do."""


def shown(results: Results) -> dict[str, Callable[[Results], Figure]]:
    """Every figure that a run has the data for, by file name."""
    found = {name: figure for name, figure in FIGURES.items() if name not in _without(results)}
    if has_liquidations(results):
        found |= LIQUIDATION_FIGURES | ({"impact": figure_impact} if has_impact(results) else {})
        found |= {"impact_tipping": figure_tipping} if has_tipping(results) else {}
    found |= {name: draw for name, (has, draw) in _OF_SOME_RUNS.items() if has(results)}
    found |= _of_windows(results)
    for i, challenger in enumerate(results.challengers[1:MOST_FLIPS], start=2):
        found[f"flips-{i}"] = partial(figure_flips, challenger=challenger)
    for i, name in enumerate(sets_with_paths(results)):
        found[path_picture(i)] = partial(figure_parameter_paths, parameter_set=name)
    return found


def _of_windows(results: Results) -> dict[str, Callable[[Results], Figure]]:
    """One figure for each of the worst windows."""
    return {
        picture_name(w.number): partial(figure_window, number=w.number)
        for w in event_windows(results)
    }


def _without(results: Results) -> set[str]:
    """Figures of other runs that this one has nothing for."""
    absent: set[str] = set()
    if not results.challengers:
        absent.add("flips")
    if not has_break_even(results):
        absent |= {"break_even", "elasticities"}
    if has_liquidations(results):
        # Of an account that is liquidated nobody knows what it would have done.
        absent.add("roc")
    return absent
