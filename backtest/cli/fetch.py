"""Command ``pmstress fetch``: public history of venues, kept in pages."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table


if TYPE_CHECKING:
    from backtest.fetch.run import FetchReport


def fetch(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", help="Configuration; of it, section [fetch].")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the pages and their journal.")
    ],
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Fetch marks, index prices, funding rates and option chains of OKX, Bybit, Deribit, Binance.

    Pages that are in the folder already are not asked for again: start the same
    command after an interruption, or with a later end. pmstress ingest makes a
    dataset of them (kind = "fetched"). Needs the extra: pip install 'pm-stress[fetch]'.

    Example: pmstress fetch configs/fetch/okx.toml --out build/downloads/fetched
    """
    from backtest.fetch.config import load_fetch_config  # slow to import
    from backtest.fetch.run import Surroundings, fetch as get

    say = (lambda text: None) if quiet else (lambda text: typer.echo(text, err=True))
    _print(get(load_fetch_config(config), out, Surroundings(say=say)))


def _print(report: "FetchReport") -> None:
    console = Console() if Console().is_terminal else Console(width=120)
    table = Table("series", "pages fetched", "pages reused", "rows", "bars missing", "other times")
    for name, found in report.series.items():
        counts = (found.fetched, found.reused, found.rows, found.missing, found.outside)
        table.add_row(name, *(f"{count:,}" for count in counts))
    console.print(table, markup=False)
    console.print(f"journal: {report.folder}/journal.jsonl", highlight=False, soft_wrap=True)
