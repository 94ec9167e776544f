"""What the benchmark answers with: one record a target, and all that was measured on the way."""

from dataclasses import asdict, dataclass, field
from typing import Any

from backtest.bench.checks import Agreement
from backtest.bench.laps import Lap


SCHEMA = 1


@dataclass(frozen=True)
class Target:
    """A speed that the project promises.

    Fields:
        what: the ratio that is measured.
        text: the promise in words.
        low, high: the value must lie between them.
        runs: whether whole ``pmstress run``s are needed to measure it.
        unit: of the value; "x" multiples.
    """

    what: str
    text: str
    low: float = float("-inf")
    high: float = float("inf")
    runs: bool = False
    unit: str = "x"


TARGETS = {
    "P1": Target("full margin against Numba repricing each account", ">= 500 x", low=500.0),
    "P2": Target("full margin against Numba sharing the table", ">= 5 x", low=5.0),
    "P3": Target("scenario stage against sgemm", ">= 40 %", low=0.4, unit="fraction"),
    "P4": Target("eight parameter sets against one", "<= 3 x", high=3.0),
    "P5": Target("peak memory, 240 hours against 24", "<= 1.1 x, <= 4 GB", high=1.1, runs=True),
    "P6": Target(
        "share of a run outside the kernels", "<= 50 %", high=0.5, runs=True, unit="fraction"
    ),
    "P7": Target("two workers against one", ">= 1.7 x", low=1.7, runs=True),
    "P8": Target("growth with accounts and times", "1.0 +- 0.05", 0.95, 1.05, unit="exponent"),
    "P9": Target("simulate against measure", "<= 1.5 x calm, <= 4 x crash", high=1.5, runs=True),
    "P10": Target("demo from a warm cache", "<= 5 s", high=5.0, runs=True, unit="s"),
}
QUICK = tuple(name for name, target in TARGETS.items() if not target.runs)
"""Targets measured unless others are asked for: those without whole runs."""


@dataclass(frozen=True)
class Measure:
    """What came out for one target.

    Fields:
        value: in the unit of the target; None = not measured.
        spread: interquartile range over median of the laps behind it, the larger one.
        note: anything a reader must know beside the number.
        more: further numbers of the same kind, by name.
    """

    id: str
    value: float | None
    spread: float = 0.0
    note: str = ""
    more: dict[str, float] = field(default_factory=dict[str, float])
    also_met: bool = True

    @property
    def target(self) -> Target:
        """The promise."""
        return TARGETS[self.id]

    @property
    def met(self) -> bool | None:
        """Whether the promise is kept; None = not measured."""
        if self.value is None:
            return None
        return self.target.low <= self.value <= self.target.high and self.also_met

    def record(self) -> dict[str, Any]:
        """As in ``bench.json``."""
        return {
            "id": self.id,
            "what": self.target.what,
            "value": self.value,
            "unit": self.target.unit,
            "target": self.target.text,
            "met": self.met,
            "spread_frac": self.spread,
            "note": self.note,
            "more": self.more,
        }


@dataclass
class Findings:
    """Everything of one run of the benchmark."""

    machine: dict[str, Any]
    book: dict[str, Any]
    checks: list[Agreement] = field(default_factory=list[Agreement])
    laps: dict[str, Lap] = field(default_factory=dict[str, Lap])
    measures: list[Measure] = field(default_factory=list[Measure])
    profile: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    classes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    pricing: dict[str, float] = field(default_factory=dict[str, float])

    def record(self) -> dict[str, Any]:
        """Content of ``bench.json``."""
        return {
            "schema": SCHEMA,
            "machine": self.machine,
            "book": self.book,
            "checks": [check.record() for check in self.checks],
            "laps": {name: lap.record() for name, lap in self.laps.items()},
            "measures": [measure.record() for measure in self.measures],
            "profile_seconds": self.profile,
            "shape_classes": self.classes,
            "pricing_options_per_s": self.pricing,
            "targets": {name: asdict(target) | _finite(target) for name, target in TARGETS.items()},
        }


def _finite(target: Target) -> dict[str, float | None]:
    """Bounds without infinities, which JSON does not know."""
    bounds = {"low": target.low, "high": target.high}
    return {k: None if abs(v) == float("inf") else v for k, v in bounds.items()}
