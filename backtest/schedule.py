"""Schedules: which parameter set holds when, so that no later rule enters an earlier day.

A schedule is a TOML file with ``name``, ``description`` and ``[[steps]]`` of a UTC time ``from``
and a parameter-set ``file`` (relative to the schedule); a step holds until the next one.

Example:
    >>> rules = load_rules("configs/params/schedules/okx-history.toml")  # doctest: +SKIP
    >>> rules.at(datetime(2024, 6, 5, 4, tzinfo=UTC)).name  # doctest: +SKIP
    'okx-split-2024-06-05'
"""

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, Field, ValidationError

from backtest.config_errors import explain, read_toml
from backtest.errors import ConfigError
from backtest.params import ParameterSet, load_parameter_set
from backtest.params_base import Name, Strict


BEGINNING = datetime.min.replace(tzinfo=UTC)
"""The start of the one step that a single parameter set is."""


class _Step(Strict):
    # `from` is a keyword of Python, so this field cannot be declared in the usual way
    __annotations__ = {"from": AwareDatetime, "file": Name}


class _ScheduleFile(Strict):
    name: Name
    description: str = ""
    steps: Annotated[list[_Step], Field(min_length=1)]


@dataclass(frozen=True)
class Schedule:
    """Parameter sets of one margin model by the UTC times from which they hold, in order."""

    name: str
    steps: tuple[tuple[datetime, ParameterSet], ...]
    description: str = ""
    file: Path | None = None

    @property
    def model(self) -> str:
        """Margin model of all steps, for instance ``okx``."""
        return self.steps[0][1].model

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the starts of the steps and the hashes of their sets; no name takes part."""
        content = [[start.isoformat(), chosen.hash] for start, chosen in self.steps]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def at(self, time: datetime) -> ParameterSet:
        """The set of the step with the latest start at or before ``time`` (aware).

        Raises:
            ConfigError: ``time`` is before the first step.
        """
        later = bisect_right(self.steps, time, key=lambda step: step[0])
        if later == 0:
            raise ConfigError(
                f"schedule '{self.name}' has no rules for {_utc(time).isoformat()}; "
                f"allowed: {self.steps[0][0].isoformat()} and later"
            )
        return self.steps[later - 1][1]


def load_rules(path: str | Path) -> Schedule:
    """Read a schedule, or a parameter set as a schedule of one step from the beginning of time.

    Raises:
        ConfigError: names the file, the key, the value and what is allowed.
    """
    if "steps" in read_toml(Path(path), "parameter file or schedule"):
        return load_schedule(path)
    chosen = load_parameter_set(path)
    return Schedule(chosen.name, ((BEGINNING, chosen),), chosen.description, chosen.file)


def load_schedule(path: str | Path) -> Schedule:
    """Read a schedule file and the parameter sets of its steps.

    Raises:
        ConfigError: an unknown or missing key, steps out of order, a set that is not there, is of
            another model than the first, or took effect after the start of its step.
    """
    file = Path(path)
    try:
        content = _ScheduleFile.model_validate(read_toml(file, "schedule"))
    except ValidationError as error:
        raise explain(error, _ScheduleFile, str(file)) from error
    steps: list[tuple[datetime, ParameterSet]] = []
    for k, row in enumerate(content.steps):
        step = row.model_dump()
        start, chosen = _utc(step["from"]), _parameter_set(file, k, step["file"])
        _check_step(f"{file}: key 'steps[{k}]", start, chosen, steps)
        steps.append((start, chosen))
    return Schedule(content.name, tuple(steps), content.description, file)


def _parameter_set(schedule: Path, k: int, name: str) -> ParameterSet:
    file = schedule.parent / name
    if not file.is_file():
        raise ConfigError(
            f"{schedule}: key 'steps[{k}].file' names '{name}', which does not exist; "
            "allowed: a parameter file, relative to the schedule"
        )
    return load_parameter_set(file)


def _check_step(
    key: str, start: datetime, chosen: ParameterSet, before: list[tuple[datetime, ParameterSet]]
) -> None:
    """Refuse a step that is out of order, of another model, or earlier than its rules."""
    if before and start <= before[-1][0]:
        raise ConfigError(
            f"{key}.from' is {start.isoformat()}; allowed: later than "
            f"{before[-1][0].isoformat()}, the step before it"
        )
    if before and chosen.model != before[0][1].model:
        raise ConfigError(
            f"{key}.file' is of the model '{chosen.model}' ('{chosen.name}'); allowed: "
            f"'{before[0][1].model}', as the first step"
        )
    if chosen.effective > start:
        raise ConfigError(
            f"{key}.from' is {start.isoformat()}; allowed: not before "
            f"{_utc(chosen.effective).isoformat()}, when '{chosen.name}' took effect"
        )


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC)
