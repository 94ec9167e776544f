"""The configuration of a run: one TOML file, each command reads its own sections.

The only parser of user input besides parameter sets; every default lives here.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from backtest.config_errors import explain, read_toml
from backtest.errors import ConfigError
from backtest.market.config import MarketConfig
from backtest.population.config import PopulationConfig


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _duration(value: str) -> str:
    try:
        seconds = pd.Timedelta(value).total_seconds()
    except ValueError:
        raise ValueError(f"'{value}' is not a duration such as '5min', '1h', '2D'") from None
    if not seconds > 0:
        raise ValueError(f"'{value}' is not a positive duration")
    return value


class DatasetSection(Section):
    """Where the dataset lies; relative to the configuration file."""

    path: Path


class ReplaySection(Section):
    """What is replayed.

    ``start`` and ``end`` are inclusive; default: the whole dataset. ``interval`` thins the grid.
    """

    mode: Literal["frozen", "actual"] = "frozen"
    start: datetime | None = None
    end: datetime | None = None
    interval: str | None = None
    max_staleness: str = "1h"
    funding: bool = True
    interest: bool = False
    """Debts above their quota pay interest every full hour, at the rates of the parameter set."""
    conversion: bool = False
    """Assets of accounts that may not borrow are sold for their debts above the quota."""
    max_quarantined_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    break_even: bool = True
    """Break-even multipliers of every charge and account: a quarter of the time, and the report's
    curves of how close accounts were."""
    details: bool = True
    """Rows that a report needs and a calibration does not read. Without them a run saves its
    summary, when each account was first liquidated, and equity and notional of liquidation events.
    """
    min_equity_usd: Annotated[float, Field(ge=0)] | None = None
    """Accounts with less undiscounted equity at the start of their snapshot are left out."""

    @field_validator("interval", "max_staleness")
    @classmethod
    def _durations(cls, value: str | None) -> str | None:
        return None if value is None else _duration(value)

    @field_validator("start", "end")
    @classmethod
    def _utc(cls, value: datetime | None) -> datetime | None:
        # A time or a date that names no zone is UTC, as everywhere else.
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value

    @model_validator(mode="after")
    def _order(self) -> "ReplaySection":
        if self.start and self.end and self.end < self.start:
            raise ValueError(f"'end' {self.end} is before 'start' {self.start}")
        return self


class SetSection(Section):
    """One parameter set: a name for results and its file, relative to the configuration file."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    file: Path


class EngineSection(Section):
    """How it is computed; nothing here changes float64 results."""

    precision: Literal["float64", "float32"] = "float64"
    tile_accounts: Annotated[int | None, Field(ge=8, le=1_048_576)] = None
    """Accounts a tile and device; as suits the device if absent."""
    window_times: Annotated[int, Field(ge=1, le=1024)] = 24
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    """Buckets at once; 1 = all in this process."""
    workers_kind: Literal["processes", "threads"] = "processes"
    """What several workers are, where there is no scheduler: threads share priced tables."""
    retries: Annotated[int, Field(ge=0, le=100)] = 2
    """How often a bucket is begun again after its worker was lost."""
    tls_ca_file: Path | None = None
    """Files of the connection to a scheduler at ``tls://``; relative to the configuration file."""
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @model_validator(mode="after")
    def _tls(self) -> "EngineSection":
        files = (self.tls_ca_file, self.tls_cert, self.tls_key)
        if any(files) and not all(files):
            raise ValueError("'tls_ca_file', 'tls_cert' and 'tls_key' are needed together")
        return self

    def at(self, folder: Path) -> "EngineSection":
        """With the paths of files below ``folder``, where they are relative."""
        files = {name: getattr(self, name) for name in TLS_FILES}
        found = {name: folder / file for name, file in files.items() if file is not None}
        return self.model_copy(update=found)


TLS_FILES = ("tls_ca_file", "tls_cert", "tls_key")
_HOW_IT_RUNS = ("workers", "workers_kind", "retries", *TLS_FILES)
"""Keys of the section ``engine`` that cannot change results."""


class TracesSection(Section):
    """Accounts whose full path is saved."""

    accounts: Literal["all"] | list[str] = []


class ReportSection(Section):
    """What the report compares."""

    champion: str | None = None
    horizon: str | None = None
    """How long an untouched account is watched after its trigger; default: to the run's end."""

    @field_validator("horizon")
    @classmethod
    def _is_duration(cls, value: str | None) -> str | None:
        return None if value is None else _duration(value)


class LiquidationSection(Section):
    """Liquidation as it happens.

    ``measure`` scores accounts and leaves them as they are; ``simulate`` works an account at the
    trigger through the stages of its margin model, and it goes on with what is left.
    """

    mode: Literal["measure", "simulate"] = "measure"
    rules: dict[str, Path] = {}
    """Liquidation file of each margin model; relative to the configuration file."""
    fund_usd: Annotated[float, Field(ge=0)] | None = None
    """The insurance fund at the start; that of the file if absent."""
    adl_policy: Literal["none", "queue", "pro_rata", "capped"] | None = None
    """How accounts with profit are deleveraged; as in the file if absent."""
    compare_policies: bool = False
    """Who pays the same losses under every way to deleverage too: a table beside the others."""
    impact_model: Literal["none", "linear", "square_root", "depth"] | None = None
    """How liquidations move prices; as in the file if absent."""
    impact_scale: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Multiple of the impact of the file: of moves a USD, or of one over the depth; 0 = none."""


class RunConfig(Section):
    """A whole run; see the example in ``configs/``."""

    name: Annotated[str, Field(min_length=1)]
    seed: int = 0
    dataset: DatasetSection
    market: MarketConfig | None = None
    population: PopulationConfig | None = None
    replay: ReplaySection = ReplaySection()
    parameter_sets: Annotated[list[SetSection], Field(min_length=1)]
    liquidation: LiquidationSection = LiquidationSection()
    engine: EngineSection = EngineSection()
    traces: TracesSection = TracesSection()
    report: ReportSection = ReportSection()

    @model_validator(mode="after")
    def _names(self) -> "RunConfig":
        names = [s.name for s in self.parameter_sets]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"parameter_sets: the name '{twice[0]}' is given twice")
        champion = self.report.champion
        if champion is not None and champion not in names:
            raise ValueError(f"report.champion '{champion}' is none of {names}")
        return self

    def with_engine(self, changes: dict[str, Any]) -> "RunConfig":
        """The same run with other keys of the section ``engine``.

        Raises:
            ConfigError: these keys do not go together.
        """
        if not changes:
            return self
        try:
            engine = EngineSection.model_validate(self.engine.model_dump() | changes)
        except ValidationError as error:
            raise explain(error, EngineSection, "command line", ("engine",)) from error
        return self.model_copy(update={"engine": engine})

    def resolved(self) -> dict[str, Any]:
        """The configuration with every default, ready for JSON."""
        return self.model_dump(mode="json")

    def hash(self) -> str:
        """SHA-256 of all that can change results (not how many workers there are, or where)."""
        content = self.resolved()
        for key in _HOW_IT_RUNS:
            del content["engine"][key]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def load_config(path: str | Path) -> RunConfig:
    """Read a run's configuration; file paths in it become absolute.

    Raises:
        ConfigError: no such file, broken TOML, an unknown key or a bad value; names the key.
    """
    path = Path(path)
    content = read_toml(path)
    try:
        config = RunConfig.model_validate(content)
    except ValidationError as error:
        raise explain(error, RunConfig, str(path)) from error
    base = path.resolve().parent
    sets = [s.model_copy(update={"file": base / s.file}) for s in config.parameter_sets]
    for chosen in sets:
        if not chosen.file.is_file():
            raise ConfigError(f"{path}: parameter_sets '{chosen.name}': no such file {chosen.file}")
    where = config.dataset.model_copy(update={"path": (base / config.dataset.path).resolve()})
    found: dict[str, Any] = {"dataset": where, "parameter_sets": sets}
    found["engine"] = config.engine.at(base)
    found["liquidation"] = _liquidation_at(config.liquidation, base, path)
    return config.model_copy(update=found)


def _liquidation_at(section: LiquidationSection, base: Path, path: Path) -> LiquidationSection:
    """The section with files below a folder."""
    rules = {model: base / file for model, file in section.rules.items()}
    for model, file in rules.items():
        if not file.is_file():
            raise ConfigError(f"{path}: liquidation.rules.{model}: no such file {file}")
    return section.model_copy(update={"rules": rules})
