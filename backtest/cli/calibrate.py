"""Command ``pmstress calibrate``: parameter search."""

from pathlib import Path
from typing import Annotated

import typer


def calibrate(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", help="What is searched, and how it is judged.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder; build/calibrations/NAME if absent."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Buckets at once; as configured."),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh/--resume", help="Start anew, or reuse finished batches."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Tables without report.")] = False,
) -> None:
    """Search parameter levels on history; choose on bounds, try out of sample, report.

    An interrupted calibration goes on where it stopped when it is started again.

    Example: pmstress calibrate configs/calibrate-demo.toml --out build/calibrations/demo
    """
    from backtest.calibration.calibrate import calibrate as search  # slow to import
    from backtest.calibration.config import load_calibration
    from backtest.calibration.page import build_page
    from backtest.cells import safe_name

    settings, base = load_calibration(config)
    folder = out or Path("build") / "calibrations" / safe_name(settings.name)

    def say(line: str) -> None:
        if not quiet:
            typer.echo(line, err=True)

    summary = search(settings, base, folder, workers=workers, fresh=fresh, say=say)
    typer.echo(f"results: {folder}")
    typer.echo(
        f"{summary['candidates']:,} candidates, {summary['feasible']:,} hold every constraint, "
        f"{summary['frontier']:,} on the frontier"
    )
    levels = ", ".join(f"{name} {level:.4g}" for name, level in summary["levels"].items())
    typer.echo(f"chosen: {summary['chosen']} ({levels})")
    if not no_report:
        typer.echo(f"report: {build_page(folder)}")
