"""Command ``pmstress ingest``: files that people already have, as a canonical dataset."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table


if TYPE_CHECKING:
    from backtest.ingest.build import IngestReport


def ingest(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", help="Configuration; of it, section [ingest].")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DATASET",
            help="Folder of the new dataset; for account sources only, the dataset they join.",
        ),
    ],
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Make a dataset of files: Binance, Tardis, Deribit, OKX accounts, plain CSV.

    Rows that cannot be used are set aside with file, row, column, value and
    reason in DATASET/quarantine.csv; above the share that the configuration
    allows, nothing is made (exit code 3). What each source may say is in
    docs/data-in.md, examples are in configs/ingest.

    Example: pmstress ingest configs/ingest/csv.toml --out build/datasets/mine
    """
    from backtest.ingest.build import ingest as make  # slow to import
    from backtest.ingest.config import load_ingest_config

    settings = load_ingest_config(config)
    report = make(settings, config.resolve().parent, out, None if quiet else _Progress())
    _print(report)


class _Progress:
    """The file that is read, on stderr: one changing line, or a line every few seconds."""

    def __init__(self) -> None:
        self._last = 0.0
        self._live = sys.stderr.isatty()

    def __call__(self, done: int, total: int, name: str) -> None:
        now = time.monotonic()
        if now - self._last < (0.1 if self._live else 5.0):
            return
        self._last = now
        line = f"file {done + 1:,} of {total:,}: {name}"
        typer.echo(f"\r\x1b[K{line}" if self._live else line, err=True, nl=not self._live)


def _print(report: "IngestReport") -> None:
    console = Console() if Console().is_terminal else Console(width=140)
    if sys.stderr.isatty():
        typer.echo("\r\x1b[K", err=True, nl=False)
    table = Table("source", "files", "rows", "from", "to", "quarantined", "left out")
    for name, tally in report.tallies.items():
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in tally.reasons.items()) or "0"
        left = ", ".join(f"{n:,} {why}" for why, n in tally.left_out.items())
        span = [f"{t:%Y-%m-%d %H:%M}" if t is not None else "" for t in (tally.first, tally.last)]
        table.add_row(name, f"{tally.files:,}", f"{tally.read:,}", *span, reasons, left)
    console.print(table, markup=False)
    meta = report.dataset.meta
    written = ", ".join(f"{count:,} {name}" for name, count in report.rows.items())
    span = f"{meta.first_time:%Y-%m-%d %H:%M} to {meta.last_time:%Y-%m-%d %H:%M} UTC"
    lines = [
        f"{report.dataset.root}: {span}, grid of {meta.interval_seconds} s",
        f"written: {written}",
        *report.notes,
    ]
    if report.quarantine:
        lines.append(f"quarantined rows: {report.quarantine}")
    lines.append(f"next: pmstress dataset check {report.dataset.root}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
