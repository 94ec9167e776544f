"""Commands ``pmstress params check / show / diff``: parameter sets."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backtest.errors import ConfigError
from backtest.params import LABELS, LeafRow, ParameterSet, load_parameter_set
from backtest.params_compare import differences, rule_text


app = typer.Typer(
    no_args_is_help=True,
    help="Parameter sets: validate, compare, print with the provenance of every number.",
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_File = Annotated[Path, typer.Argument(metavar="FILE", help="Parameter file (TOML).")]


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Parameter files (TOML).")],
) -> None:
    """Validate parameter files; all of them, even after a bad one.

    Example: pmstress params check configs/params/*.toml
    """
    problems: list[str] = []
    for file in files:
        try:
            found = load_parameter_set(file)
        except ConfigError as error:
            problems.append(str(error))
        else:
            typer.echo(f"{file}: ok, {_summary(found)}")
    if problems:
        raise ConfigError("\n".join(problems))


@app.command()
def show(file: _File, as_json: _Json = False) -> None:
    """Print every number with unit, provenance and source.

    Stated: by a source document. Published: by the venue.
    Derived: from published numbers. Assumed: nobody publishes it.

    Example: pmstress params show configs/params/okx-merged-2025-01-21.toml
    """
    found = load_parameter_set(file)
    if as_json:
        typer.echo(json.dumps(_as_dict(found), indent=2))
        return
    console = _console()
    console.print(f"{found.name}: {_summary(found)}", highlight=False, markup=False)
    if found.description:
        console.print(found.description, highlight=False, markup=False)
    table = Table("key", "value", "unit", "provenance", "source")
    for row in found.leaves():
        table.add_row(row.key, _value(row), row.unit, LABELS[row.label], row.source)
    console.print(table, markup=False)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="Parameter file (TOML).")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Parameter file (TOML).")],
    as_json: _Json = False,
) -> None:
    """Print what differs between two parameter sets: numbers, provenance and dates.

    Example: pmstress params diff configs/params/today.toml configs/params/proposal.toml
    """
    one, two = load_parameter_set(first), load_parameter_set(second)
    found = differences(one, two)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = _console()
    if not found:
        console.print(f"{one.name} and {two.name}: no difference", highlight=False)
        return
    table = Table("key", "what", one.name, two.name)
    for entry in found:
        table.add_row(entry["key"], entry["what"], _text(entry["a"]), _text(entry["b"]))
    console.print(table, markup=False)


def _as_dict(found: ParameterSet) -> dict[str, Any]:
    head = found.numbers()
    return {
        **{key: head[key] for key in ("name", "model", "era", "effective", "description")},
        "hash": found.hash,
        "numbers": [
            {
                **row._asdict(),
                "provenance": LABELS[row.label],
                "rule": None if row.rule is None else row.rule.model_dump(),
            }
            for row in found.leaves()
        ],
    }


def _value(row: LeafRow) -> str:
    """The value, and how it follows the market where it does."""
    return _text(row.value) + (f" x {rule_text(row)}" if row.rule is not None else "")


def _summary(found: ParameterSet) -> str:
    counts = ", ".join(f"{n} {LABELS[label]}" for label, n in found.label_counts().items() if n)
    date = found.numbers()["effective"]
    return f"{found.model}, {found.era}, effective {date}, {counts}, hash {found.hash[:12]}"


def _console() -> Console:
    """Wide enough for files and pipes; the terminal's own width on a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _text(value: Any) -> str:
    if value is None:
        return "(absent)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.10g}"
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value) or "(none)"
    return str(value)
