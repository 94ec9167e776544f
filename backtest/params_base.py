"""What every parameter set is made of: labelled leaves and the checks on their values."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import pandas as pd
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator


T = TypeVar("T")

Label = Literal["S", "P", "D", "A"]
LABELS: dict[str, str] = {"S": "stated", "P": "published", "D": "derived", "A": "assumed"}
"""Provenance of a number: stated by a source document, published by the venue, derived from
published numbers, assumed because nobody publishes it."""

Unit = Literal[
    "fraction",
    "fraction a year",
    "volatility points",
    "USD",
    "coins",
    "coins or USD",
    "currency units",
    "fraction a day",
    "USD per unit",
    "days",
    "years",
    "multiple",
    "names",
    "choice",
    "switch",
]

Name = Annotated[str, Field(min_length=1)]
Rate = Annotated[float, Field(ge=0.0, le=1.5)]
"""A rate as a fraction, at most 150 %."""
Move = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A relative price move; below 100 %, since prices stay positive."""
Multiplier = Annotated[float, Field(ge=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]


class Strict(BaseModel):
    """Base of every table of a parameter set: frozen, no unknown keys, no NaN, no silent casts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


Driver = Literal["realised_volatility", "depeg", "series"]
"""What a rule follows: volatility of an index, distance of an index from 1 USD, or a file."""


class Rule(Strict):
    """How a number follows the market: it is multiplied by a factor, known as of each time.

    ``factor = driver / reference``, held within ``floor`` and ``cap``. It moves only when the
    target is further than ``band`` (a fraction) from where it stands, at most by the fraction
    ``max_change_per_hour`` of itself, and in whole ``step`` of 1. Without a driver (too little
    history) it stays, at first at 1.

    Fields:
        driver: ``realised_volatility``: of log returns of the index of ``currency`` over
            ``lookback``, a fraction a year; ``depeg``: ``|1 - index|`` of ``currency`` or its
            inverse above 1, the largest over ``lookback``; ``series``: the last ``column`` of
            ``file`` (Parquet with a column ``ts``, UTC) that is at least ``delay`` old.
        reference: driver at which the factor is 1.
    """

    driver: Driver
    reference: Positive
    floor: Positive = 1.0
    cap: Positive = 3.0
    band: NotNegative = 0.0
    max_change_per_hour: Positive | None = None
    step: Positive = 0.01
    currency: Name | None = None
    lookback: Name = "1D"
    file: Name | None = None
    column: Name | None = None
    delay: Name = "0s"

    @model_validator(mode="after")
    def _complete(self) -> "Rule":
        needed = ("file", "column") if self.driver == "series" else ("currency",)
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"'{name}' is missing; driver '{self.driver}' needs it")
        if self.floor > self.cap:
            raise ValueError(f"'floor' {self.floor:g} is above 'cap' {self.cap:g}")
        for name in ("lookback", "delay"):
            try:
                pd.Timedelta(getattr(self, name))
            except ValueError:
                shown = getattr(self, name)
                raise ValueError(f"'{name}' is '{shown}'; allowed: such as '1h', '7D'") from None
        return self


class Leaf(Strict, Generic[T]):
    """One number, list of numbers or choice with its unit and provenance.

    A number or a list of numbers may follow the market by a ``rule``.
    """

    value: T
    unit: Unit
    label: Label
    source: Name
    rule: Rule | None = None

    @model_validator(mode="after")
    def _rule_scales_numbers(self) -> "Leaf[T]":
        if self.rule is not None and not _is_numeric(self.value):
            raise ValueError(f"'rule' scales numbers, and 'value' is {self.value!r}")
        return self


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_numeric(x) for x in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


class ByGroup(Strict, Generic[T]):
    """One leaf an asset group."""

    G1: Leaf[T]
    G2: Leaf[T]
    G3: Leaf[T]

    def leaves(self) -> dict[str, T]:
        """Values by group."""
        return {"G1": self.G1.value, "G2": self.G2.value, "G3": self.G3.value}


class ParameterModel(Strict):
    """What the sets of all margin models share; each adds ``model`` and ``era`` literals."""

    name: Name
    effective: AwareDatetime
    description: str = ""


class LeafRow(NamedTuple):
    """One leaf of a parameter set, with its dotted key path."""

    key: str
    value: Any
    unit: str
    label: str
    source: str
    rule: Rule | None = None


def walk(node: Any, path: str = "") -> Iterator[LeafRow]:
    """All leaves below ``node`` in the order of the model."""
    if isinstance(node, Leaf):
        yield LeafRow(path, node.value, node.unit, node.label, node.source, node.rule)
        return
    children: Iterator[tuple[str, Any]] = iter(())
    if isinstance(node, BaseModel):
        children = ((name, getattr(node, name)) for name in type(node).model_fields)
    elif isinstance(node, dict):
        children = iter(node.items())
    for name, child in children:
        yield from walk(child, f"{path}.{name}" if path else str(name))


def plain(node: Any) -> Any:
    """The same tree with leaves replaced by their values: dicts, lists, numbers, strings."""
    if isinstance(node, Leaf):
        return plain(node.value)
    if isinstance(node, BaseModel):
        return {name: plain(getattr(node, name)) for name in type(node).model_fields}
    if isinstance(node, dict):
        return {str(name): plain(child) for name, child in node.items()}
    if isinstance(node, list | tuple):
        return [plain(child) for child in node]
    if isinstance(node, datetime):
        return node.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return node


def check_ascending(key: str, values: Sequence[float]) -> None:
    """Refuse values that do not rise strictly."""
    for low, high in pairwise(values):
        if not low < high:
            raise ValueError(f"'{key}' must rise strictly, but {high:g} follows {low:g}")


def check_not_falling(key: str, values: Sequence[float]) -> None:
    """Refuse values that fall."""
    for low, high in pairwise(values):
        if low > high:
            raise ValueError(f"'{key}' must not fall, but {high:g} follows {low:g}")


def check_length(key: str, values: Sequence[object], count: int, why: str) -> None:
    """Refuse a list of another length than ``count``."""
    if len(values) != count:
        raise ValueError(f"'{key}' has {len(values)} values, must have {count} ({why})")
