"""What a run's manifest says of the rules of a parameter set: charges, levels, dated steps.

The report knows no margin model; everything that differs between models comes from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from backtest.errors import DataError


@dataclass(frozen=True)
class Charge:
    """One charge of a margin model: its column in the results, and how people call it."""

    name: str
    label: str

    @property
    def short(self) -> str:
        """The name in capitals where the label starts with it, else the whole label."""
        first = self.label.split(" ")[0]
        return first if first.lower() == self.name else self.label


@dataclass(frozen=True)
class Levels:
    """Margin levels (ratio, 1 = 100 %) of a set, None where the run did not save them."""

    warning: float | None = None
    safe: float | None = None


@dataclass(frozen=True)
class Step:
    """Rules of a schedule from a UTC time on, until those of the next step."""

    start: pd.Timestamp | None
    """None: from the beginning of time."""
    name: str
    era: str
    hash: str


NINE_CHARGES = tuple(
    Charge(f"mr{k}", f"MR{k} {words}")
    for k, words in enumerate(
        (
            "spot shock",
            "theta",
            "vega term structure",
            "basis",
            "interest rate",
            "extreme move",
            "minimum charge",
            "borrowing",
            "stablecoin depeg",
        ),
        start=1,
    )
)
"""Charges of runs from before manifests named them; all those runs have the same model."""
OLD_LEVELS = Levels(warning=3.0, safe=1.1)
"""Levels of those runs."""


def read_charges(entry: Mapping[str, Any], where: str) -> tuple[Charge, ...]:
    """Charges of a parameter set's manifest entry, in the order in which they add up."""
    listed = entry.get("charges")
    if listed is None:
        return NINE_CHARGES
    try:
        found = tuple(Charge(str(c["name"]), str(c.get("label") or c["name"])) for c in listed)
    except (TypeError, KeyError, AttributeError) as e:
        raise DataError(f"{where}: key 'charges' must list names and labels") from e
    if not found or len({c.name for c in found}) != len(found):
        raise DataError(f"{where}: key 'charges' must name one charge or more, each once")
    return found


def read_levels(entry: Mapping[str, Any]) -> Levels:
    """Margin levels of a parameter set's manifest entry."""
    listed = entry.get("levels")
    if listed is None:
        return Levels() if "charges" in entry else OLD_LEVELS
    return Levels(*(None if listed.get(k) is None else float(listed[k]) for k in _LEVELS))


_LEVELS = ("warning", "safe")


def read_steps(entry: Mapping[str, Any], where: str) -> tuple[Step, ...]:
    """Dated steps of a schedule in order; none for a set whose rules never change."""
    listed = entry.get("schedule") or []
    if len(listed) < 2:
        return ()
    try:
        steps = tuple(
            Step(_utc(s["from"]), str(s["set"]), str(s.get("era") or ""), str(s.get("hash") or ""))
            for s in listed
        )
    except (TypeError, KeyError, ValueError, AttributeError) as e:
        raise DataError(f"{where}: key 'schedule' must list steps with 'from' and 'set'") from e
    starts = [s.start for s in steps]
    later = [s for s in starts[1:] if s is not None]
    before = [s for s in starts if s is not None]
    if len(later) != len(steps) - 1 or sorted(set(before)) != before:
        raise DataError(f"{where}: the steps of key 'schedule' must be in order of time")
    return steps


def _utc(value: object) -> pd.Timestamp | None:
    if value is None:
        return None
    time = pd.Timestamp(str(value))
    if not isinstance(time, pd.Timestamp):
        raise ValueError(f"{value!r} is no time")
    time = time.tz_localize("UTC") if time.tzinfo is None else time.tz_convert("UTC")
    return cast("pd.Timestamp", time.as_unit("us"))
