"""Pages of the documentation that are made of the code: commands, parameters, columns, names."""

import contextlib
import inspect
import io
import json
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import backtest
from backtest.calibration.config import CalibrationConfig
from backtest.cli import COMMANDS, app, load_command
from backtest.config import RunConfig
from backtest.fetch.config import FetchConfig
from backtest.ingest.config import IngestConfig
from backtest.market.config import ChainConfig, GeneratedConfig, HistoryConfig
from backtest.params import LABELS, load_parameter_set
from backtest.params_base import Leaf
from backtest.params_bybit import BybitParameters
from backtest.params_okx import OkxParameters
from backtest.population.config import PopulationConfig
from backtest.schema import TABLES


CONFIGS = backtest.PROJECT_ROOT / "configs"
SETS = {
    "okx": CONFIGS / "params" / "okx-merged-2025-01-21.toml",
    "bybit": CONFIGS / "params" / "bybit-2025-01-10.toml",
}
Row = tuple[str, ...]


def table(heads: Row, rows: Iterable[Row]) -> str:
    """A Markdown table."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(_cell(c) for c in row)} |" for row in lines) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


# -- commands --------------------------------------------------------------------------------------


def cli_page() -> str:
    """Every command's ``--help``, as the program prints it."""
    parts = ["# Commands\n", "What `--help` prints. Exit codes: 0 done, 2 bad request or "]
    parts[-1] += "configuration, 3 bad data, 4 finished with failed cells, 130 interrupted.\n"
    parts.append(f"## pmstress\n\n```text\n{help_text(())}\n```\n")
    for name in COMMANDS:
        parts.append(f"## pmstress {name}\n\n```text\n{help_text((name,))}\n```\n")
        for below in getattr(load_command(name), "commands", {}):
            text = help_text((name, below))
            parts.append(f"### pmstress {name} {below}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def help_text(words: Row) -> str:
    """Help of a command or of a command in a group; no words: of the program."""
    command: Any = load_command(words[0]) if words else typer.main.get_command(app)
    for word in words[1:]:
        command = command.commands[word]
    return printed_help(command, " ".join(("pmstress", *words)))


def printed_help(command: Any, name: str) -> str:
    """What a command prints for ``--help``: usage, texts, arguments and options."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        returned = command.get_help(command.context_class(command, info_name=name))
    lines = (printed.getvalue() + returned).rstrip().splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


# -- configuration and parameters ------------------------------------------------------------------


def parameter_page() -> str:
    """Sections of configurations and tables of parameter sets, from their models."""
    parts = ["# Parameters\n", "## Configuration of a run\n", _sections(RunConfig)]
    below: dict[str, str] = {}
    for kind in (GeneratedConfig, HistoryConfig, ChainConfig):
        (name,) = typing.get_args(kind.model_fields["kind"].annotation)
        parts.append(f'### [market], kind = "{name}"\n\n{doc(kind)}\n\n{_fields(kind)}')
        below |= _below(kind, "market")
    parts += below.values()
    parts += ["### [population]\n", doc(PopulationConfig) + "\n", _fields(PopulationConfig)]
    parts += _below(PopulationConfig, "population").values()
    for title, kind in (
        ("Configuration of a calibration", CalibrationConfig),
        ("[ingest]", IngestConfig),
        ("[fetch]", FetchConfig),
    ):
        parts += [f"## {title}\n", doc(kind) + "\n", _fields(kind)]
    for name, kind in (("okx", OkxParameters), ("bybit", BybitParameters)):
        parts.append(_set_reference(name, kind))
    return "\n".join(parts)


def _sections(kind: type[BaseModel]) -> str:
    """Every section of a configuration that is a model of its own."""
    parts = [_fields(kind)]
    for name, field in kind.model_fields.items():
        model = _model_of(field)
        if model is not None and name != "population":
            parts += [f"### [{name}]\n", doc(model) + "\n", _fields(model)]
    return "\n".join(parts)


def _below(kind: type[BaseModel], path: str) -> dict[str, str]:
    """Sections inside of a section, by name."""
    found: dict[str, str] = {}
    for name, field in kind.model_fields.items():
        model = _model_of(field)
        if model is not None:
            found[name] = f"#### [{path}.{name}]\n\n{doc(model)}\n\n{_fields(model)}"
    return found


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model that a key holds, one or a list of them; None for plain values and choices."""
    found = [t for t in _leaves(field.annotation) if isinstance(t, type)]
    models = [t for t in found if issubclass(t, BaseModel)]
    return models[0] if len(models) == 1 else None


def _leaves(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, list, tuple, typing.Annotated):
        return [leaf for a in typing.get_args(annotation) for leaf in _leaves(a)]
    return [annotation]


def _fields(kind: type[BaseModel]) -> str:
    notes = attribute_notes(kind)
    rows = [
        (f"`{name}`", allowed(kind, name), _default(field), notes.get(name) or _first_line(field))
        for name, field in kind.model_fields.items()
    ]
    return table(("key", "allowed", "default", "meaning"), rows)


def _first_line(field: FieldInfo) -> str:
    """What the section that a key holds is for."""
    model = _model_of(field)
    return "" if model is None else doc(model).partition("\n")[0]


def attribute_notes(kind: type[BaseModel]) -> dict[str, str]:
    """The string below each field in the source of a model and of those it extends."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if issubclass(one, BaseModel) and one is not BaseModel:
            text = inspect.getsource(one)
            pairs = re.findall(
                r'\n    (\w+):[^\n]*(?:\n        [^\n]*)*\n    """(.*?)"""', text, re.S
            )
            found |= {name: note.replace("``", "`") for name, note in pairs}
    return found


def allowed(kind: type[BaseModel], name: str) -> str:
    """Type and bounds of a key in words, from the model's schema."""
    schema = kind.model_json_schema(mode="validation")
    return _words(schema["properties"][name], schema.get("$defs", {}))


_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minItems": "at least {}",
    "pattern": "matching `{}`",
}


def _words(node: dict[str, Any], known: dict[str, Any]) -> str:
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return _words(known[name], known) if "enum" in known[name] else "section"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    for key in ("anyOf", "oneOf"):
        if key in node:
            words = [_words(one, known) for one in node[key] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(words))
    bounds = [text.format(node[key]) for key, text in _BOUNDS.items() if key in node]
    return " ".join([_type(node, known), *bounds])


def _type(node: dict[str, Any], known: dict[str, Any]) -> str:
    form = node.get("format")
    if form in ("date-time", "duration", "path"):
        return {"date-time": "time", "duration": 'duration ("1h")', "path": "path"}[form]
    kind = node.get("type", "any")
    if kind == "array":
        items = node.get("items") or {}
        return f"list of {_words(items, known)}" if items else "list"
    if kind == "object":
        values = node.get("additionalProperties")
        return f"table of {_words(values, known)}" if isinstance(values, dict) else "table"
    names = {"string": "text", "boolean": "`true`, `false`", "integer": "whole number"}
    return names.get(str(kind), str(kind))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "absent"
    if isinstance(value, BaseModel) or (isinstance(value, dict) and value):
        return "as below" if isinstance(value, BaseModel) else "built in"
    text = str(value) if not isinstance(value, str | list | tuple | bool) else json.dumps(value)
    return f"`{text}`"


def doc(kind: Any) -> str:
    """Docstring of a class or function as Markdown."""
    text = inspect.cleandoc(kind.__doc__ or "").replace("``", "`")
    is_model = inspect.isclass(kind) and issubclass(kind, BaseModel)
    return text.partition("\nExample:")[0].strip() if is_model else text


def _set_reference(name: str, kind: type[BaseModel]) -> str:
    """Every number of the shipped set of a model, table by table."""
    found = load_parameter_set(SETS[name])
    parts = [f"## Parameter sets, model `{name}`\n", doc(kind) + "\n"]
    parts.append(f"Values are those of `{found.name}`; each has its provenance.\n")
    groups: dict[str, list[Row]] = {}
    for leaf in found.leaves():
        row = (f"`{leaf.key}`", _value(leaf.value), leaf.unit, LABELS[leaf.label], leaf.source)
        groups.setdefault(leaf.key.split(".")[0] if "." in leaf.key else "", []).append(row)
    for section, rows in groups.items():
        title = section or "top level"
        parts.append(f"### {name}: {title}\n\n{_section_doc(kind, section)}\n")
        parts.append(table(("key", "value", "unit", "provenance", "source"), rows))
    return "\n".join(parts)


def _section_doc(kind: type[BaseModel], section: str) -> str:
    model = kind.model_fields[section].annotation if section in kind.model_fields else None
    models = [model, *typing.get_args(model)]
    found = [m for m in models if isinstance(m, type) and issubclass(m, BaseModel)]
    return doc(found[0]) + "\n" if found and not issubclass(found[0], Leaf) else ""


def _value(value: Any) -> str:
    if isinstance(value, list):
        shown = [_value(one) for one in value[:8]]
        return ", ".join(shown) + (f" ... ({len(value)})" if len(value) > len(shown) else "")
    if isinstance(value, float):
        return f"{value:,.10g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def provenance(section: str) -> str:
    """Numbers of one section of OKX's set of today, for the page about the charges."""
    leaves = [
        x for x in load_parameter_set(SETS["okx"]).leaves() if x.key.startswith(f"{section}.")
    ]
    if not leaves:
        raise ValueError(f"no parameters below '{section}'")
    rows = [(f"`{x.key}`", _value(x.value), x.unit, LABELS[x.label]) for x in leaves]
    return table(("key", "value today", "unit", "provenance"), rows)


# -- data and names --------------------------------------------------------------------------------


def dataset_page() -> str:
    """`data/README.md` and every column with its type and unit."""
    prose = (backtest.PROJECT_ROOT / "data" / "README.md").read_text(encoding="utf-8")
    parts = [prose.replace("# Data\n", "# Dataset reference\n", 1), "## Columns\n"]
    for one in TABLES.values():
        facts = [f"key: {', '.join(f'`{k}`' for k in one.key)}"]
        facts += [f"folders: {', '.join(f'`{p}=`' for p in one.partitions)}"] * bool(one.partitions)
        parts.append(f"### {one.name}{' (optional)' * one.optional}\n\n{'; '.join(facts)}\n")
        rows = [
            (
                f"`{c.name}`",
                _arrow(str(c.type)),
                c.unit,
                "yes" if c.nullable else "no",
                ", ".join(f"`{a}`" for a in c.allowed),
            )
            for c in one.columns
        ]
        parts.append(table(("column", "type", "unit", "null", "allowed"), rows))
    return "\n".join(parts)


def _arrow(name: str) -> str:
    return "text" if name.startswith("dictionary") else {"double": "float64"}.get(name, name)


def python_page() -> str:
    """Signatures and docstrings of the public names."""
    parts = [f"# Python\n\n{_body(backtest)}\n"]
    for name in backtest.__all__:
        found = getattr(backtest, name)
        if callable(found):
            parts.append(
                f"## {name}\n\n```text\n{_signature(name, found)}\n```\n\n{_body(found)}\n"
            )
            parts += _methods(found)
    return "\n".join(parts)


def _methods(found: Any) -> list[str]:
    if not inspect.isclass(found) or issubclass(found, BaseException | BaseModel):
        return []
    parts: list[str] = []
    for name, member in inspect.getmembers(found):
        target = member.fget if isinstance(member, property) else getattr(member, "func", member)
        if name.startswith("_") or not callable(target) or not target.__doc__:
            continue
        is_plain = target is member or inspect.ismethod(member)
        shown = _signature(name, target) if is_plain else name
        parts.append(f"### {found.__name__}.{name}\n\n```text\n{shown}\n```\n\n{_body(target)}\n")
    return parts


def _signature(name: str, found: Any) -> str:
    text = f"{name}{inspect.signature(found)}" if not issubclass_safe(found) else name
    return re.sub(r"(\w+\.)+(\w+)", r"\2", text).replace("'", "")


def issubclass_safe(found: Any) -> bool:
    """Whether it is an exception or a model, whose signature says little."""
    return inspect.isclass(found) and issubclass(found, BaseException | BaseModel)


def _body(found: Any) -> str:
    """A docstring with its sections as literal text."""
    text, *sections = re.split(
        r"\n(?=(?:Args|Raises|Returns|Example|Fields|Attributes):)", doc(found)
    )
    parts = [text.strip()]
    parts += [f"```text\n{section.strip()}\n```" for section in sections]
    return "\n\n".join(parts)


PAGES = {
    "cli.md": cli_page,
    "dataset.md": dataset_page,
    "parameters.md": parameter_page,
    "python.md": python_page,
}
"""Generated pages by file."""
