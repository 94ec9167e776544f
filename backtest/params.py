"""Parameter sets: TOML files of labelled numbers, validated, resolved along ``extends``, hashed.

Every number is a leaf ``{ value, unit, label, source }``; the label says whether it is stated (S),
published (P), derived (D) or assumed (A). ``extends = "other.toml"`` starts from another file and
replaces whole leaves.

Example:
    >>> today = load_parameter_set("configs/params/okx-merged-2025-01-21.toml")  # doctest: +SKIP
    >>> today.numbers()["mr4"]["near"]["G1"]  # doctest: +SKIP
    0.002
"""

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import ValidationError

from backtest.config_errors import explain, nearest, read_toml, unknown_key
from backtest.errors import ConfigError
from backtest.params_base import LABELS, LeafRow, Rule, plain, walk
from backtest.params_bybit import BybitParameters
from backtest.params_okx import OkxParameters


__all__ = ["LABELS", "LeafRow", "ParameterSet", "load_parameter_set", "parse_parameter_set"]

AnyParameters = OkxParameters | BybitParameters
"""Parameters of any margin model; another model joins this union."""
MODELS: dict[str, type[AnyParameters]] = {"okx": OkxParameters, "bybit": BybitParameters}
"""Margin models by the ``model`` key of a file; another model is another entry here."""


@dataclass(frozen=True)
class ParameterSet:
    """One resolved, validated parameter set."""

    parameters: AnyParameters
    file: Path | None = None
    rule_files: Mapping[str, Path] = field(default_factory=dict)
    """What rules read, by key path: files are relative to the file that states the rule."""

    @property
    def name(self) -> str:
        """Name of the set."""
        return self.parameters.name

    @property
    def model(self) -> str:
        """Margin model, for instance ``okx``."""
        return self.parameters.model

    @property
    def era(self) -> str:
        """Era of the rules, for instance ``merged``."""
        return self.parameters.era

    @property
    def effective(self) -> datetime:
        """UTC time from which the rules held."""
        return self.parameters.effective

    @property
    def description(self) -> str:
        """Free text."""
        return self.parameters.description

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the numbers and rules with model, era and date; the name takes no part."""
        content = self.numbers()
        del content["name"], content["description"]
        if self.rules():
            content["rules"] = {key: rule.model_dump() for key, rule in self.rules().items()}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def numbers(self) -> dict[str, Any]:
        """The tree of the file with every leaf replaced by its value (a new dict each time)."""
        return plain(self.parameters)

    def leaves(self) -> list[LeafRow]:
        """All leaves as (key path, value, unit, label, source)."""
        return list(walk(self.parameters))

    def rules(self) -> dict[str, Rule]:
        """Rules by the key path of the leaf that follows them."""
        return {row.key: row.rule for row in self.leaves() if row.rule is not None}

    def scaled(self, factors: Mapping[str, float]) -> dict[str, Any]:
        """The numbers with some leaves multiplied by a factor."""
        tree = self.numbers()
        for key, factor in factors.items():
            *folders, last = key.split(".")
            place = tree
            for folder in folders:
                place = place[folder]
            value = place[last]
            place[last] = [x * factor for x in value] if isinstance(value, list) else value * factor
        return tree

    def label_counts(self) -> dict[str, int]:
        """How many leaves are stated, published, derived and assumed, by label."""
        found = Counter(row.label for row in self.leaves())
        return {label: found[label] for label in LABELS}

    def replaced(self, name: str, values: Mapping[str, Any], source: str) -> "ParameterSet":
        """A set with other values at some key paths, each labelled assumed with this source.

        Raises:
            ConfigError: a key path is unknown or a value is not allowed.
        """
        tree = self.parameters.model_dump()
        known = {row.key: row.unit for row in self.leaves()}
        for key, value in values.items():
            if key not in known:
                text = unknown_key(key, value, nearest(key, known), "the keys of the set")
                raise ConfigError(f"parameter set '{name}': {text}")
            *folders, last = key.split(".")
            place = tree
            for folder in folders:
                place = place[folder]
            place[last] = {"value": value, "unit": known[key], "label": "A", "source": source}
        tree["name"] = name
        found = parse_parameter_set(tree, f"parameter set '{name}'")
        files = {key: self.rule_files[key] for key in found.rule_files}
        return replace(found, rule_files=files)


def load_parameter_set(path: str | Path) -> ParameterSet:
    """Read a parameter set, follow ``extends`` and validate the result.

    Raises:
        ConfigError: names the file, the full key path, the value and what is allowed.
    """
    file = Path(path)
    tree, origins = _resolve(file, ())
    found = ParameterSet(_validate(tree, str(file), origins), file)
    _check_rules(found, tree)
    return replace(found, rule_files=_rule_files(found, origins))


def parse_parameter_set(tree: Mapping[str, Any], shown: str = "parameter set") -> ParameterSet:
    """Validate a tree in memory; ``shown`` stands for the file name in messages."""
    found = ParameterSet(_validate(dict(tree), shown, {}))
    return replace(found, rule_files=_rule_files(found, {}))


def _rule_files(found: ParameterSet, origins: "_Origins") -> dict[str, Path]:
    """What rules read, each relative to the file that states it; in memory to where one stands."""
    files: dict[str, Path] = {}
    for key, rule in found.rules().items():
        if rule.file is not None:
            stated = origins.get((*key.split("."), "rule", "file"))
            files[key] = Path(rule.file) if stated is None else Path(stated).parent / rule.file
    return files


def _check_rules(found: ParameterSet, tree: dict[str, Any]) -> None:
    """Refuse a rule that can take its number where the number may not be."""
    for key, rule in found.rules().items():
        for factor in (rule.floor, rule.cap):
            scaled = copy.deepcopy(tree)
            *folders, last = key.split(".")
            place = scaled
            for folder in folders:
                place = place[folder]
            value = place[last]["value"]
            moved = [x * factor for x in value] if isinstance(value, list) else value * factor
            place[last]["value"] = moved
            _validate(scaled, f"{found.file}: the rule of '{key}' allows a factor {factor:g}", {})


# -- reading ---------------------------------------------------------------------------------------

_Origins = dict[tuple[str, ...], str]


def _resolve(file: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], _Origins]:
    """The file's tree laid over the trees that it extends, and which file each key came from."""
    here = file.resolve()
    if here in above:
        chain = " -> ".join(path.name for path in (*above[above.index(here) :], here))
        raise ConfigError(f"{above[0]}: key 'extends' runs in a circle: {chain}")
    own = read_toml(file, "parameter file")
    base_name = own.pop("extends", None)
    if base_name is None:
        return own, _origins_of(own, str(file))
    if not isinstance(base_name, str):
        raise ConfigError(f"{file}: key 'extends' is {base_name!r}; allowed: a file name")
    base = file.parent / base_name
    if not base.is_file():
        raise ConfigError(f"{file}: key 'extends' names '{base_name}', which does not exist")
    if "name" not in own:
        raise ConfigError(f"{file}: key 'name' is missing (a name is not inherited)")
    tree, origins = _resolve(base, (*above, here))
    return _merge(tree, own), _origins_over(origins, own, str(file))


def _is_table(node: Any) -> TypeGuard[dict[str, Any]]:
    """Whether the node is a table of keys and not a leaf."""
    return isinstance(node, dict) and "value" not in node


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if _is_table(old) and _is_table(value):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _origins_over(base: _Origins, own: dict[str, Any], shown: str) -> _Origins:
    """Origins of the merged tree; what lay below a replaced leaf is gone."""
    mine = _origins_of(own, shown)
    replaced = {path[:-1] for path in mine if path[-1] == "value"}
    kept = {
        path: file
        for path, file in base.items()
        if not any(path[:depth] in replaced for depth in range(1, len(path)))
    }
    return kept | mine


def _origins_of(tree: dict[str, Any], shown: str, path: tuple[str, ...] = ()) -> _Origins:
    found: _Origins = {}
    for key, value in tree.items():
        found[*path, key] = shown
        if isinstance(value, dict):
            found |= _origins_of(value, shown, (*path, key))
    return found


# -- validating ------------------------------------------------------------------------------------


def _validate(tree: dict[str, Any], shown: str, origins: _Origins) -> AnyParameters:
    model = tree.get("model")
    if not isinstance(model, str) or model not in MODELS:
        what = "is missing" if model is None else f"is {model!r}"
        raise ConfigError(f"{shown}: key 'model' {what}; allowed: {', '.join(MODELS)}")
    try:
        return MODELS[model].model_validate(tree)
    except ValidationError as error:
        raise explain(error, MODELS[model], lambda place: _origin(place, origins, shown)) from error


def _origin(place: Sequence[str | int], origins: _Origins, shown: str) -> str:
    """The file that the deepest known part of the key path came from."""
    names = tuple(map(str, place))
    for depth in range(len(names), 0, -1):
        if names[:depth] in origins:
            return origins[names[:depth]]
    return shown
