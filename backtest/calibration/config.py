"""The configuration of a calibration: one TOML file beside the run that it starts from."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field, ValidationError, field_validator, model_validator

from backtest.calibration.nearest import MOST_DISTANCE, OPEN_INTEREST_FRAC, Norm
from backtest.config import RunConfig, Section, load_config
from backtest.config_errors import explain, read_toml
from backtest.errors import ConfigError


Objective = Literal["frequency", "episodes", "bad_debt", "margin", "procyclicality"]
OBJECTIVES: tuple[Objective, ...] = (
    "frequency",
    "episodes",
    "bad_debt",
    "margin",
    "procyclicality",
)
Method = Literal["grid", "sobol", "tpe", "nsga2"]
ADAPTIVE = ("tpe", "nsga2")
"""Methods whose next points depend on what the last ones gave."""


class ParameterSection(Section):
    """One direction of the search: leaves of the parameter file that move together.

    ``relative``: every leaf (a number or a list) times a factor between ``low`` and ``high``;
    ``absolute``: every leaf (a number) takes the value.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    leaves: Annotated[list[str], Field(min_length=1)]
    low: Annotated[float, Field(ge=0.0)]
    high: Annotated[float, Field(gt=0.0)]
    scale: Literal["relative", "absolute"] = "relative"

    @model_validator(mode="after")
    def _order(self) -> "ParameterSection":
        if not self.low < self.high:
            raise ValueError(f"'low' {self.low:g} is not below 'high' {self.high:g}")
        return self


class SearchSection(Section):
    """How points are chosen; ``batch`` candidates go through one replay together."""

    method: Method = "sobol"
    candidates: Annotated[int, Field(ge=1, le=100_000)] = 64
    batch: Annotated[int, Field(ge=1, le=256)] = 8
    points: Annotated[int | None, Field(ge=2)] = None
    """Points a parameter of a grid; ``candidates`` is not used then."""

    @model_validator(mode="after")
    def _grid(self) -> "SearchSection":
        if (self.method == "grid") != (self.points is not None):
            raise ValueError("'points' is needed by method 'grid', and by no other")
        return self


class ObjectiveSection(Section):
    """What is weighed.

    ``minimise`` chooses among the candidates that hold every constraint; ``frontier`` are the
    objectives of the Pareto frontier. ``block`` is the stretch of time over which results are kept.
    """

    minimise: Objective = "margin"
    frontier: Annotated[tuple[Objective, ...], Field(min_length=2)] = ("frequency", "margin")
    block: str = "1D"
    closing_cost_frac: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Assumed cost of closing an account at its trigger, of gross notional: bad debt begins where
    equity does not cover it."""

    @field_validator("block")
    @classmethod
    def _duration(cls, value: str) -> str:
        return _duration(value)


class ConstraintSection(Section):
    """An upper limit that the confidence bound of an objective must hold, not its point.

    ``most``: in the objective's unit; ``of_today``: as a multiple of what today's rules give, the
    bound then being that of the paired ratio.
    """

    objective: Objective
    most: Annotated[float, Field(ge=0.0)] | None = None
    of_today: Annotated[float, Field(gt=0.0)] | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95

    @model_validator(mode="after")
    def _one(self) -> "ConstraintSection":
        if (self.most is None) == (self.of_today is None):
            raise ValueError("exactly one of 'most' and 'of_today' is needed")
        return self


class WalkForwardSection(Section):
    """Choose on one stretch, try on the next, roll.

    The window is cut into ``folds + 1`` equal stretches; ``purge`` is left out after each training
    stretch: at least the margin period of risk.
    """

    folds: Annotated[int, Field(ge=1, le=100)] = 3
    anchored: bool = False
    purge: str = "1D"

    @field_validator("purge")
    @classmethod
    def _duration(cls, value: str) -> str:
        return _duration(value)


class TrustRegionSection(Section):
    """Most that one step may move a parameter, as a fraction of where it stands."""

    step_frac: Annotated[float, Field(gt=0.0, lt=1.0)]


class BootstrapSection(Section):
    """Resampling of time blocks; ``mean_block`` in stretches, by Politis and White if absent."""

    resamples: Annotated[int, Field(ge=100)] = 500
    mean_block: Annotated[int | None, Field(ge=1)] = None


class OverfittingSection(Section):
    """Meters of the search: stretches of CSCV, size of the model confidence set."""

    splits: Annotated[int, Field(ge=2, le=16)] = 8
    size: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1

    @field_validator("splits")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"'splits' is {value}; allowed: an even number")
        return value


class GradientSection(Section):
    """Slopes of margin and of a smoothed shortfall at today's rules; the search starts along them.

    ``accounts`` drawn, at ``times`` of the first training stretch; the loss is that of ``horizon``.
    """

    accounts: Annotated[int, Field(ge=1)] = 512
    times: Annotated[int, Field(ge=1, le=1_000)] = 4
    horizon: str = "1D"
    smoothing_frac: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    """Width over which the shortfall is smoothed, of gross notional."""
    step_frac: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Finite change that stands beside each slope."""
    starts: Annotated[int, Field(ge=0, le=64)] = 2
    """Candidates along the gradient, besides those of the method."""

    @field_validator("horizon")
    @classmethod
    def _duration(cls, value: str) -> str:
        return _duration(value)


class ReverseStressSection(Section):
    """The nearest move that liquidates a share of open interest or empties the fund.

    Today's rules and the choice; accounts as they stand at the first time of the run. The distance
    counts typical moves of prices and, relative, of volatilities.
    """

    open_interest_frac: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = OPEN_INTEREST_FRAC
    fund_usd: Annotated[float, Field(ge=0.0)] | None = None
    price_sigma_frac: Annotated[float, Field(gt=0.0)] = Norm.price_sigma_frac
    vol_sigma_frac: Annotated[float, Field(gt=0.0)] = Norm.vol_sigma_frac
    correlation: Annotated[float, Field(gt=-1.0, lt=1.0)] = Norm.correlation
    most_distance: Annotated[float, Field(gt=0.0)] = MOST_DISTANCE
    accounts: Annotated[int, Field(ge=1)] | None = None


class CalibrationConfig(Section):
    """A whole calibration; see the examples in ``configs/``."""

    name: Annotated[str, Field(min_length=1)]
    seed: Annotated[int, Field(ge=0)] = 0
    base: Path
    """Configuration of the run whose data, accounts and replay are used."""
    today: str | None = None
    """Parameter set of ``base`` that the search starts from; its champion if absent."""
    parameters: Annotated[list[ParameterSection], Field(min_length=1)]
    search: SearchSection = SearchSection()
    objectives: ObjectiveSection = ObjectiveSection()
    constraints: tuple[ConstraintSection, ...] = ()
    walk_forward: WalkForwardSection = WalkForwardSection()
    trust_region: TrustRegionSection | None = None
    bootstrap: BootstrapSection = BootstrapSection()
    overfitting: OverfittingSection = OverfittingSection()
    gradients: GradientSection | None = None
    reverse_stress: ReverseStressSection | None = None

    @model_validator(mode="after")
    def _apart(self) -> "CalibrationConfig":
        names = [p.name for p in self.parameters]
        leaves = [leaf for p in self.parameters for leaf in p.leaves]
        for what, values in (("name", names), ("leaf", leaves)):
            twice = sorted({v for v in values if values.count(v) > 1})
            if twice:
                raise ValueError(f"parameters: the {what} '{twice[0]}' is given twice")
        return self

    def hash(self) -> str:
        """SHA-256 of all that can change results; how many candidates go together cannot.

        Of adaptive methods it can: a batch is what they learn from at once.
        """
        content = self.model_dump(mode="json")
        del content["base"]
        if self.search.method not in ADAPTIVE:
            del content["search"]["batch"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _duration(value: str) -> str:
    try:
        seconds = pd.Timedelta(value).total_seconds()
    except ValueError:
        raise ValueError(f"'{value}' is not a duration such as '1h', '1D', '7D'") from None
    if not seconds > 0:
        raise ValueError(f"'{value}' is not a positive duration")
    return value


def load_calibration(path: str | Path) -> tuple[CalibrationConfig, RunConfig]:
    """Read a calibration and the run that it starts from.

    Raises:
        ConfigError: no such file, an unknown key or a bad value; names the key.
    """
    path = Path(path)
    try:
        config = CalibrationConfig.model_validate(read_toml(path))
    except ValidationError as error:
        raise explain(error, CalibrationConfig, str(path)) from error
    file = (path.resolve().parent / config.base).resolve()
    base = load_config(file)
    names = [s.name for s in base.parameter_sets]
    today = config.today or base.report.champion or names[0]
    if today not in names:
        raise ConfigError(f"{path}: key 'today' is '{today}'; allowed: {', '.join(names)} ({file})")
    return config.model_copy(update={"base": file, "today": today}), base


def today_file(config: CalibrationConfig, base: RunConfig) -> Any:
    """The parameter file that the search starts from."""
    return next(s.file for s in base.parameter_sets if s.name == config.today)
