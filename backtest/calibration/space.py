"""Parameters searched: from points in the unit cube to parameter files, and back to words."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from backtest.calibration.config import ParameterSection
from backtest.config_errors import nearest, unknown_key
from backtest.durable import write_bytes
from backtest.errors import ConfigError
from backtest.params import ParameterSet
from backtest.params_base import LeafRow
from backtest.schedule import load_rules


@dataclass(frozen=True)
class Space:
    """The box that is searched, around one parameter set.

    Attributes:
        parameters: Its directions.
        today: The set that the search starts from; ``file`` is where it lies.
    """

    parameters: tuple[ParameterSection, ...]
    today: ParameterSet
    file: Path

    @classmethod
    def of(cls, parameters: Sequence[ParameterSection], file: Path) -> "Space":
        """The space, checked: leaves exist, are numbers, and may take the ends of the box.

        Raises:
            ConfigError: names the parameter, the leaf and what is allowed.
        """
        schedule = load_rules(file)
        if len(schedule.steps) > 1:
            raise ConfigError(
                f"{file}: is a schedule; a calibration starts from one parameter set, the rules of "
                "today"
            )
        (today,) = [chosen for _, chosen in schedule.steps]
        space = cls(tuple(parameters), today, file)
        space._check()
        return space

    @property
    def names(self) -> list[str]:
        """Names of the parameters."""
        return [p.name for p in self.parameters]

    @property
    def low(self) -> Float[np.ndarray, " parameter"]:
        """Lower ends of the box."""
        return np.array([p.low for p in self.parameters])

    @property
    def high(self) -> Float[np.ndarray, " parameter"]:
        """Upper ends of the box."""
        return np.array([p.high for p in self.parameters])

    @cached_property
    def now(self) -> Float[np.ndarray, " parameter"]:
        """Where today's rules stand: 1 for factors, the value itself for absolute levels."""
        at = [
            1.0 if p.scale == "relative" else float(self._rows[p.leaves[0]].value)
            for p in self.parameters
        ]
        return np.array(at)

    @cached_property
    def _rows(self) -> dict[str, LeafRow]:
        return {row.key: row for row in self.today.leaves()}

    def leaves_at(self, point: Float[np.ndarray, " parameter"]) -> dict[str, Any]:
        """Values of the leaves that a point moves, by key path; today's where it stands still."""
        found: dict[str, Any] = {}
        for parameter, level in zip(self.parameters, point.tolist(), strict=True):
            for leaf in parameter.leaves:
                value = self._rows[leaf].value
                if parameter.scale == "absolute":
                    found[leaf] = level
                elif level == 1.0:
                    found[leaf] = value
                elif isinstance(value, list):
                    found[leaf] = [x * level for x in value]
                else:
                    found[leaf] = value * level
        return found

    def write(self, file: Path, name: str, point: Float[np.ndarray, " parameter"]) -> None:
        """Save a point as a parameter file that extends today's."""
        source = f"calibration of {self.today.name}: " + ", ".join(
            f"{n} {level:.6g}" for n, level in zip(self.names, point.tolist(), strict=True)
        )
        write_set(file, name, self.file, self.today, self.leaves_at(point), source)

    def _check(self) -> None:
        for parameter in self.parameters:
            where = f"parameters '{parameter.name}'"
            for leaf in parameter.leaves:
                if leaf not in self._rows:
                    near = nearest(leaf, self._rows)
                    text = unknown_key(leaf, parameter.name, near, "the keys of the set")
                    raise ConfigError(f"{where}: {text} {self.today.name}")
                _check_numeric(where, leaf, self._rows[leaf].value, parameter.scale)
            if parameter.scale == "absolute":
                levels = {float(self._rows[leaf].value) for leaf in parameter.leaves}
                if len(levels) > 1:
                    raise ConfigError(
                        f"{where}: its leaves stand at {sorted(levels)}; leaves that move together "
                        "by 'absolute' values start from one value"
                    )
        self._check_ends()

    def _check_ends(self) -> None:
        """Refuse a box with an end that the parameter file would refuse."""
        for k, parameter in enumerate(self.parameters):
            if not parameter.low <= self.now[k] <= parameter.high:
                raise ConfigError(
                    f"parameters '{parameter.name}': today's {self.now[k]:g} is outside "
                    f"{parameter.low:g} to {parameter.high:g}"
                )
            for end in (parameter.low, parameter.high):
                point = self.now.copy()
                point[k] = end
                name = f"{parameter.name} at {end:g}"
                self.today.replaced(name, self.leaves_at(point), "calibration")


def write_set(
    file: Path,
    name: str,
    base: Path,
    chosen: ParameterSet,
    values: Mapping[str, Any],
    source: str,
    *,
    keep_rules: bool = True,
) -> None:
    """Save other values of some leaves as a parameter file that extends another one.

    Args:
        file: where it goes.
        name: of the new set.
        base: the file that it extends.
        chosen: the set of that file.
        values: by key path; each is labelled assumed, units stay.
        source: says where the values come from.
        keep_rules: let these leaves follow the market as they did.
    """
    rows = {row.key: row for row in chosen.leaves()}
    text = f"extends = {json.dumps(_relative(base, file))}\nname = {json.dumps(name)}\n"
    for key, value in values.items():
        row = rows[key]
        leaf: dict[str, Any] = {"value": value, "unit": row.unit, "label": "A", "source": source}
        if keep_rules and row.rule is not None:
            leaf["rule"] = row.rule.model_dump(exclude_none=True)
            if key in chosen.rule_files:
                leaf["rule"]["file"] = _relative(chosen.rule_files[key], file)
        text += f"\n[{key}]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in leaf.items())
    write_bytes(file, text.encode())


def _relative(other: Path, file: Path) -> str:
    """Where another file lies from the folder of a file."""
    return os.path.relpath(other.resolve(), file.resolve().parent)


def _check_numeric(where: str, leaf: str, value: Any, scale: str) -> None:
    values = value if isinstance(value, list) and scale == "relative" else [value]
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in values):
        allowed = "a number" if scale == "absolute" else "a number or a list of numbers"
        raise ConfigError(f"{where}: leaf '{leaf}' is {value!r}; allowed: {allowed}")


def _toml(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
