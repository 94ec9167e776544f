"""Command ``pmstress bench``: the engine's speed beside its peers, and the project's targets."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table


ACCOUNTS = {"reference": 1_000_000, "small": 1_500}
REPEATS = {"reference": 5, "small": 2}
TIMES = {"reference": 24, "small": 6}


class Size(StrEnum):
    """Sizes of the benchmark."""

    REFERENCE = "reference"
    SMALL = "small"


def bench(
    accounts: Annotated[
        int | None,
        typer.Option("--accounts", min=64, metavar="N", help="Accounts; as the size says."),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option("--repeats", min=1, metavar="N", help="Laps of each side.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="P1,P2,...",
            help="Targets to measure; those without whole runs if absent.",
        ),
    ] = None,
    size: Annotated[
        Size, typer.Option("--size", help="The reference book, or a small one as a check.")
    ] = Size.REFERENCE,
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where results and runs go.")
    ] = Path("build") / "bench",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Measure the engine beside its peers on a seeded book of a million accounts.

    Every side is checked before it is timed, they take turns, and results are
    ratios within this run. Writes bench.json and bench.png. P5, P6, P7, P9 and P10
    start whole runs and are measured only where they are asked for. Needs
    pip install "pm-stress[bench]".

    Example: pmstress bench --accounts 100000 --only P1,P2
    """
    from backtest.bench.results import QUICK  # slow to import

    names = chosen(only) if only is not None else QUICK

    from backtest.bench.bench import Settings
    from backtest.bench.figure import save_figure
    from backtest.bench.run import run_bench
    from backtest.durable import write_bytes

    settings = Settings(
        accounts=accounts or ACCOUNTS[size],
        repeats=repeats or REPEATS[size],
        only=names,
        num_times=TIMES[size],
        small=size is Size.SMALL,
    )
    found = run_bench(settings, out, (lambda text: None) if quiet else _say)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found.record(), indent=2, allow_nan=False)
    write_bytes(out / "bench.json", text.encode())
    write_bytes(out / "bench.png", save_figure(found))
    _print(found)
    typer.echo(f"results: {out / 'bench.json'}, {out / 'bench.png'}")


def chosen(only: str) -> tuple[str, ...]:
    """Ids of targets from a list with commas.

    Raises:
        ConfigError: an id that there is not.
    """
    from backtest.bench.results import TARGETS
    from backtest.errors import ConfigError

    names = tuple(dict.fromkeys(name.strip().upper() for name in only.split(",") if name.strip()))
    unknown = [name for name in names if name not in TARGETS]
    if unknown or not names:
        raise ConfigError(
            f"--only: {', '.join(unknown) or 'no target'} is not known; "
            f"allowed: {', '.join(TARGETS)}"
        )
    return names


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _print(found: Any) -> None:
    from backtest.bench.text import machine_line, sheets

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=180)  # files and pipes have no width of their own
    console.print(escape(machine_line(found)))
    for sheet in sheets(found):
        table = Table(title=escape(sheet.title), title_justify="left")
        for k, head in enumerate(sheet.heads):
            table.add_column(escape(head), justify="left" if k == 0 else "right", overflow="fold")
        for row in sheet.rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)
