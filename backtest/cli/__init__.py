"""Command line: parse, call one function, print.

Each command lives in a module of its own, imported when it is called: `pmstress --help` needs
neither JAX nor pandas.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from rich.markup import escape
from typer.core import TyperGroup

from backtest import __version__
from backtest.errors import ConfigError, DataError, PmStressError


INTERRUPTED = 130
DEBUG = "PMSTRESS_DEBUG"


class Entry(NamedTuple):
    """Where a command is, and what the list of commands says about it."""

    module: str
    attribute: str
    summary: str
    example: str = ""


COMMANDS = {
    "run": Entry("run", "run", "Replay history under every parameter set, save, report."),
    "report": Entry("report", "report", "Rebuild the report of a run from its saved results."),
    "compare": Entry("report", "compare", "Compare two parameter sets of a run."),
    "calibrate": Entry(
        "calibrate", "calibrate", "Search parameter levels, choose on bounds, walk forward."
    ),
    "backtest": Entry("backtest", "backtest", "Margin against the losses of frozen portfolios."),
    "reverse-stress": Entry(
        "reverse_stress", "reverse_stress", "The nearest move of the market that liquidates much."
    ),
    "tipping": Entry("tipping", "tipping", "The size of the impact at which a cascade tips over."),
    "explain": Entry("explain", "explain", "Every step of one account's margin at one time."),
    "margin": Entry("margin", "margin", "What-if calculator: every charge of one portfolio file."),
    "population": Entry("population", "population", "Add synthetic accounts to a market dataset."),
    "fetch": Entry("fetch", "fetch", "Fetch public history of OKX, Bybit, Deribit, Binance."),
    "ingest": Entry("ingest", "ingest", "Make a dataset of files: downloads, CSV, accounts."),
    "dataset": Entry(
        "dataset",
        "app",
        "Make, validate, summarise a canonical dataset.",
        "pmstress dataset check build/datasets/demo",
    ),
    "params": Entry(
        "params",
        "app",
        "Parameter sets: validate, compare, show their provenance.",
        "pmstress params show configs/params/okx-merged-2025-01-21.toml",
    ),
    "bench": Entry("bench", "bench", "Speed of the engine beside its peers, and the targets."),
}


class _LazyGroup(TyperGroup):
    """Lists light stand-ins; imports a command when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:  # pyright: ignore[reportImplicitOverride] (typing.override needs Python 3.12)
        name, command, rest = super().resolve_command(ctx, args)
        return name, (command and name and load_command(name)) or command, rest


app = typer.Typer(
    cls=_LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    epilog="Example: pmstress run configs/demo.toml --out build/runs/demo",
)


def _show_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"pmstress {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = None,
) -> None:
    """Portfolio margin under stress: replay history under any parameter set."""


def _add(name: str, summary: str) -> None:
    def stand_in() -> None:
        raise AssertionError(f"command '{name}' was not loaded")

    app.command(name, help=escape(summary))(stand_in)


for _name, _entry in COMMANDS.items():
    _add(_name, _entry.summary)


def load_command(name: str) -> Any:
    """The real command (or group of commands) of a name; its help texts appear as written."""
    entry = COMMANDS[name]
    found = getattr(importlib.import_module(f"backtest.cli.{entry.module}"), entry.attribute)
    holder = typer.Typer(add_completion=False)
    if isinstance(found, typer.Typer):
        holder.add_typer(found, name=name, epilog=f"Example: {entry.example}")
    else:
        holder.command(name)(found)
    command = typer.main.get_group(holder).commands[name]
    _escape_help(command)
    return command


def _escape_help(command: Any) -> None:
    """Square brackets in help texts are text, not markup."""
    command.help = command.help and escape(command.help)
    for parameter in command.params:
        if getattr(parameter, "help", None):
            parameter.help = escape(parameter.help)
    for below in getattr(command, "commands", {}).values():
        _escape_help(below)


def call(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; errors become one message on stderr and an exit code.

    Example:
        >>> call(["--version"])                                       # doctest: +SKIP
        0
    """
    try:
        command = typer.main.get_command(app)
        code = command.main(arguments, prog_name="pmstress", standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except typer.Abort:
        code = INTERRUPTED
    except typer.TyperException as error:
        return _usage_error(error)
    except Exception as error:
        return _failed(error)
    if code == INTERRUPTED:
        typer.echo("interrupted; what is finished stays, run again to go on", err=True)
    return code if isinstance(code, int) else 0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry of the program `pmstress`."""
    code = call(arguments)
    if code == INTERRUPTED:
        # Threads that still compute are not waited for: files are renamed when they are whole.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _usage_error(error: Any) -> int:
    """A bad command line: what is wrong, and where to look."""
    context = getattr(error, "ctx", None)
    text = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(text, err=True)
        return error.exit_code
    typer.echo(f"error: {text}", err=True)
    if context is not None:
        typer.echo(f"see {context.command_path} --help", err=True)
    return error.exit_code


def _failed(error: Exception) -> int:
    """Message and exit code of an error; the traceback is shown where PMSTRESS_DEBUG is set."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    if isinstance(error, PmStressError):
        text, code = str(error), error.exit_code
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        text, code = f"{where}{error.strerror or error}", ConfigError.exit_code
    elif type(error).__module__.partition(".")[0] == "pyarrow":
        text, code = f"not readable as Parquet: {error}", DataError.exit_code
    else:
        text = f"internal: {type(error).__name__}: {error} (set {DEBUG}=1 to see where)"
        code = PmStressError.exit_code
    typer.echo(f"error: {text}", err=True)
    return code
