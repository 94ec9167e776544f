"""Command ``pmstress backtest``: was margin enough, and is its core model right?"""

from pathlib import Path
from typing import Annotated

import typer


def backtest(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", help="Run whose accounts are tested.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder; build/backtests/NAME if absent."),
    ] = None,
    horizon: Annotated[
        list[str] | None,
        typer.Option(
            "--horizon",
            metavar="TIME",
            help="Margin period of risk, several times; 1h, 4h, 12h, 1D, 3D.",
        ),
    ] = None,
    probability: Annotated[
        float,
        typer.Option("--probability", min=1e-6, max=0.5, help="Target probability of a breach."),
    ] = 0.01,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Buckets at once; as configured."),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh/--resume", help="Start anew, or reuse finished cells."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Compare margin with what frozen portfolios then lose, over several horizons.

    Two replays, never mixed: the whole requirement (margin adequacy), and the
    stress charges alone (core model). Liquidation outcomes are not counted here.
    Exceptions by risk unit, segment, size and regime; intervals from blocks of
    time; "insufficient data" where the window allows no verdict.

    Example: pmstress backtest configs/smoke.toml --horizon 1h --horizon 1D
    """
    from backtest.calibration.coverage_page import (
        build_coverage_page,  # slow to import
        totals,
    )
    from backtest.calibration.coverage_study import CoverageStudy, coverage_study
    from backtest.cells import safe_name
    from backtest.config import load_config
    from backtest.report import frames

    settings = load_config(config)
    folder = out or Path("build") / "backtests" / safe_name(settings.name)
    asked = CoverageStudy(probability=probability)
    if horizon:
        asked = CoverageStudy(tuple(horizon), probability)

    def say(line: str) -> None:
        if not quiet:
            typer.echo(line, err=True)

    tables = coverage_study(settings, asked, folder, workers=workers, fresh=fresh, say=say)
    for frame in tables.values():
        for row in frames.records(totals(frame)):
            typer.echo(
                f"{row['backtest']}: {row['set']}: {row['horizon']} {row['point']}: "
                f"{row['breaches']:,} of {row['observations']:,} losses above margin: "
                f"{row['verdict']}"
            )
    typer.echo(f"report: {build_coverage_page(folder)}")
