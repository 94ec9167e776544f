"""Command ``pmstress tipping``: the size of the impact at which a cascade tips over."""

from pathlib import Path
from typing import Annotated

import typer

from backtest.progress import RunProgress, style_of


def tipping(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Results folder of a run.")],
    parameter_set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME", help="Parameter set, several times; all."),
    ] = None,
    lowest: Annotated[
        float, typer.Option("--lowest", metavar="X", help="First multiple of the impact.")
    ] = 0.25,
    highest: Annotated[
        float, typer.Option("--highest", metavar="X", help="Largest multiple looked at.")
    ] = 1024.0,
    factor: Annotated[
        float, typer.Option("--factor", metavar="X", help="From one multiple to the next.")
    ] = 4.0,
    amplification: Annotated[
        float, typer.Option("--amplification", metavar="X", help="A cascade tips above it.")
    ] = 2.0,
    unsettled: Annotated[
        float,
        typer.Option("--unsettled", metavar="FRAC", help="It tips where a price changes more."),
    ] = 0.01,
    halvings: Annotated[
        int, typer.Option("--halvings", min=0, max=50, metavar="N", help="Of the gap below it.")
    ] = 4,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=1, metavar="N", help="Most rounds; as the liquidation file."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Buckets at once; as configured."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Find the size of the impact at which liquidations tip into a cascade.

    The run is replayed at multiples of its impact, from the smallest on. A
    multiple tips where liquidations trade more than --amplification times what
    they trade without impact, or where a price still changes by more than
    --unsettled after the last round. Goes into the report of the run; started
    again, it reuses what is finished.

    Example: pmstress tipping build/runs/crash --lowest 1 --highest 256
    """
    from backtest.config import RunConfig  # slow to import
    from backtest.report.build import build_report
    from backtest.report.reader import Results
    from backtest.tipping import Tipping, tipping as search

    config = RunConfig.model_validate(Results(folder).manifest["config"])
    asked = Tipping(lowest, highest, factor, amplification, unsettled, halvings, rounds)
    with RunProgress(style_of(quiet)) as progress:
        rows = search(folder, config, asked, names=parameter_set, workers=workers, say=progress.say)
    for name in dict.fromkeys(row["parameter_set"] for row in rows):
        mine = [row for row in rows if row["parameter_set"] == name]
        point = next((row for row in mine if row["is_tipping_point"]), None)
        if point is None:
            found = f"none up to {mine[-1]['scale']:g} times the impact of the run"
        else:
            found = (
                f"{point['scale']:.4g} times the impact of the run: "
                f"{point['amplification']:.3g} times the notional, "
                f"{point['accounts_amplification']:.3g} times the accounts"
            )
            found += "" if point["stands_still"] else "; prices do not stand still"
        typer.echo(f"{name}: tipping point {found}")
    typer.echo(f"report: {build_report(folder).page}")
