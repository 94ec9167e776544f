"""Reading TOML and saying what is wrong with it: file, full key path, value, what is allowed."""

import copy
import difflib
import tomllib
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from backtest.errors import ConfigError


Place = tuple[str | int, ...]
_MAX_SHOWN = 10


def read_toml(path: Path, what: str = "configuration file") -> dict[str, Any]:
    """Content of a TOML file.

    Raises:
        ConfigError: no such file, not readable, or not TOML (with line and column).
    """
    try:
        return copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {what}") from None
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


@lru_cache(maxsize=64)
def _parsed(text: str) -> dict[str, Any]:
    """A run reads its parameter files several times, and parsing one takes a while."""
    return tomllib.loads(text)


def read_section(path: Path, name: str, kind: Any, hint: str = "") -> Any:
    """One section of a TOML file as ``kind``: a model, or a discriminated union of models.

    Raises:
        ConfigError: no such file or section (``hint`` ends that message), broken TOML, an unknown
            key or a bad value.
    """
    section = read_toml(path).get(name)
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: section [{name}] is missing{hint}")
    try:
        return TypeAdapter[Any](kind).validate_python(section)
    except ValidationError as error:
        raise explain(error, kind, str(path), (name,)) from error


def explain(
    error: ValidationError,
    kind: Any,
    file: str | Callable[[Place], str],
    prefix: Place = (),
) -> ConfigError:
    """One line for each problem that pydantic found in ``kind``.

    Args:
        error: what pydantic raised.
        kind: the model, or a discriminated union of models, that was validated.
        file: name of the file, or a function from the place of a problem to it.
        prefix: where the validated part stands in the file, for instance ``("market",)``.
    """
    found = error.errors(include_url=False)
    lines: list[str] = []
    for one in found[:_MAX_SHOWN]:
        shown = file if isinstance(file, str) else file(one["loc"])
        lines.append(f"{shown}: {_explain_one(one, kind, prefix)}")
    if len(found) > _MAX_SHOWN:
        lines.append(f"and {len(found) - _MAX_SHOWN} more")
    return ConfigError("\n".join(lines))


def unknown_key(key: str, value: Any, nearest: str | None, allowed: str) -> str:
    """Text about a key that does not exist."""
    text = f"unknown key '{key}' (value {_short(value)})"
    return (
        f"{text}; did you mean '{nearest}'? Allowed: {allowed}"
        if nearest
        else (f"{text}; allowed: {allowed}")
    )


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name most like ``word``, none where no name is like it."""
    return next(iter(difflib.get_close_matches(word, names, n=1)), None)


def _explain_one(error: ErrorDetails, kind: Any, prefix: Place) -> str:
    place, found = _follow(kind, error["loc"])
    place = (*prefix, *place)
    key, value, what = _key_text(place), error["input"], error["type"]
    if what == "extra_forbidden":
        allowed = _fields(_follow(kind, error["loc"][:-1])[1])
        near = nearest(str(place[-1]), allowed)
        full = None if near is None else _key_text((*place[:-1], near))
        return unknown_key(key, value, full, ", ".join(allowed))
    if what == "missing":
        return f"key '{key}' is missing"
    if what in ("union_tag_invalid", "union_tag_not_found"):
        return _explain_tag(error, place, found)
    if what in ("model_type", "dict_type", "model_attributes_type"):
        fields = _fields(found)
        text = f"a table with the keys {', '.join(fields)}" if fields else "a table"
        return f"key '{key}' is {_short(value)}; allowed: {text}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if what == "value_error":
        return _join(key, message)
    return f"key '{key}' is {_short(value)}; allowed: {message}"


def _join(key: str, message: str) -> str:
    """A message that starts with a quoted key below ``key`` gets the full key path."""
    if not key:
        return message
    return f"key '{key}.{message[1:]}" if message.startswith("'") else f"key '{key}': {message}"


def _explain_tag(error: ErrorDetails, place: Place, kind: Any) -> str:
    name = str(error.get("ctx", {}).get("discriminator", "'kind'")).strip("'")
    allowed = ", ".join(tag for member in _members(kind) for tag in _literals(member, name))
    value = error["input"].get(name) if isinstance(error["input"], dict) else None
    what = "is missing" if value is None else f"is {_short(value)}"
    return f"key '{_key_text((*place, name))}' {what}; allowed: {allowed}"


def _follow(kind: Any, place: Sequence[str | int]) -> tuple[Place, Any]:
    """The place without the tags of unions, and the type that stands there (None: unknown)."""
    kept: list[str | int] = []
    for step in place:
        members = _members(kind)
        if len(members) > 1 and (tagged := [m for m in members if _has_tag(m, step)]):
            kind = tagged[0]
            continue
        kept.append(step)
        kind = _below(members[0] if members else kind, step)
    return tuple(kept), kind


def _below(kind: Any, step: str | int) -> Any:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(step))
        return None if field is None else field.annotation
    arguments = get_args(kind)
    if get_origin(kind) is dict and len(arguments) == 2:
        return arguments[1]
    return arguments[0] if get_origin(kind) in (list, tuple) and arguments else None


def _members(kind: Any) -> list[type[BaseModel]]:
    """The models of a type: itself, or the members of a union."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [model for part in get_args(kind) for model in _members(part)]
    return [kind] if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _has_tag(model: type[BaseModel], step: str | int) -> bool:
    return any(step in _literals(model, name) for name in model.model_fields)


def _literals(model: type[BaseModel], name: str) -> list[str]:
    field = model.model_fields.get(name)
    if field is None or get_origin(field.annotation) is not Literal:
        return []
    return [str(value) for value in get_args(field.annotation)]


def _fields(kind: Any) -> list[str]:
    return [name for model in _members(kind) for name in model.model_fields]


def _key_text(place: Sequence[str | int]) -> str:
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
