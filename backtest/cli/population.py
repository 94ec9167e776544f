"""Command ``pmstress population``: synthetic accounts on a market dataset."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from backtest.durable import write_bytes
from backtest.population import PopulationReport, build_population
from backtest.population.config_file import load_population_config
from backtest.population.figure import near_liquidation, save_figure


def population(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG.toml", help="Configuration; of it, section population."),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DATASET", help="Market dataset to add accounts to.")
    ],
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure",
            metavar="PNG",
            help="Where the picture goes; DATASET/population.png if absent.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Add seeded synthetic accounts to a market dataset.

    Books are drawn by archetype (directional, basis, strangles, ...) and sized so
    that they start healthy; every parameter is assumed. The same seed gives the
    same accounts, whatever the number of buckets or accounts.

    Example: pmstress population configs/demo.toml --out build/datasets/demo
    """
    settings = load_population_config(config)
    report = build_population(out, settings, None if quiet else _Progress())
    picture = figure or out / "population.png"
    write_bytes(picture, save_figure(report))
    for line in _lines(report):
        typer.echo(line)
    typer.echo(f"picture: {picture}")


class _Progress:
    """Progress on stderr: one changing line on a terminal, else a line every few seconds."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._last = 0.0
        self._live = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._last < (0.2 if self._live else 5.0):
            return
        self._last = now
        rate = done / max(now - self._start, 1e-9)
        left = (total - done) / rate
        line = f"{done:,} of {total:,} accounts, {rate:,.0f} a second, {left:.0f} s left"
        end = "\n" if done == total or not self._live else ""
        typer.echo(("\r\x1b[K" if self._live else "") + line + end, err=True, nl=False)


def _lines(report: PopulationReport) -> list[str]:
    rows = report.rows
    lines = [f"{'archetype':<20}{'accounts':>12}{'legs':>12}{'equity USD':>18}{'gross USD':>18}"]
    lines += [
        f"{name:<20}{s.accounts:>12,}{s.legs:>12,}{s.equity_usd:>18,.0f}{s.gross_notional_usd:>18,.0f}"
        for name, s in report.archetypes.items()
    ]
    lines.append(
        f"{report.accounts:,} accounts in {report.buckets} buckets, {len(report.snapshots)} "
        f"snapshot(s), {rows['positions']:,} position and {rows['balances']:,} balance rows, "
        f"{report.seconds:.1f} s"
    )
    lines.append(
        f"{100 * near_liquidation(report):.1f} % start below a margin level of 150 % (estimate)"
    )
    if report.left_out:
        names = ", ".join(report.left_out)
        lines.append(f"not possible on this market, spread over the others: {names}")
    return lines
