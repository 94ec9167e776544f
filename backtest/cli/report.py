"""Commands ``pmstress report`` and ``pmstress compare``: read saved results only."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backtest.errors import ConfigError


app = typer.Typer(no_args_is_help=True, help="Report and compare saved results.")

_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Results folder of a run.")]


@app.command()
def report(
    folder: _Folder,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Rebuild the report of a run from its saved results: HTML page, figures, tables.

    Example: pmstress report runs/crash
    """
    from backtest.report.build import build_report  # slow to import

    files = build_report(folder)
    if not quiet:
        typer.echo(f"report: {files.page}")
        typer.echo(f"{len(files.figures)} figures, {len(files.tables)} table files beside it")


@app.command()
def compare(
    folder: _Folder,
    challenger: Annotated[
        str, typer.Option("--challenger", metavar="B", help="Parameter set to judge.")
    ],
    champion: Annotated[
        str | None,
        typer.Option(
            "--champion",
            metavar="A",
            help="Parameter set of today; report.champion of the run if absent.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two parameter sets of a run, account by account.

    Example: pmstress compare runs/crash --challenger proposal
    """
    from backtest.report.comparison import comparison  # slow to import
    from backtest.report.reader import Results

    results = Results(folder)
    champion = champion or results.named_champion
    if champion is None:
        known = ", ".join(repr(n) for n in results.set_names)
        raise ConfigError(
            f"{folder}: the run's configuration names no report.champion; give --champion, one of "
            f"{known}"
        )
    found = comparison(results, champion, challenger)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    """Verdict, numbers side by side, who flips."""
    from backtest.report.terminal import group_rows, summary_rows

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)  # files and pipes have no width of their own
    console.print(f"[bold]{escape(found['verdict']['sentence'])}[/bold]")
    for name, words in found["verdict"]["points"].items():
        console.print(f"{escape(name)}: {escape(words)}")
    sides = (found["champion"], found["challenger"])
    console.print(_table("Side by side", ["", *sides], summary_rows(found["sets"])))
    heads = [
        "Dimension",
        "Group",
        "Accounts",
        "Both",
        "Saved",
        "Newly liquidated",
        "Neither",
        "Net",
    ]
    console.print(_table("Who flips", heads, group_rows(found["groups"])))
    plan = found["bootstrap"]
    console.print(
        f"Intervals: 95 %, stationary bootstrap of {plan['times']:,} times, mean block "
        f"{plan['block']:,}, {plan['resamples']:,} resamples. Accounts are not independent: a "
        "crash takes many at once."
    )


def _table(title: str, heads: list[str], rows: list[list[str]]) -> Table:
    """A terminal table; the first column (two of the flip table) is text, the rest numbers."""
    table = Table(title=escape(title), title_justify="left")
    texts = 2 if heads[0] == "Dimension" else 1
    for i, head in enumerate(heads):
        table.add_column(escape(head), justify="left" if i < texts else "right", overflow="fold")
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        last = texts == 2 and after is not None and after[0] != ""
        table.add_row(*(escape(cell) for cell in row), end_section=last)
    return table


__all__ = ["app", "compare", "report"]
