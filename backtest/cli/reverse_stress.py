"""Command ``pmstress reverse-stress``: the nearest move that liquidates much."""

from pathlib import Path
from typing import Annotated

import typer

from backtest.calibration.nearest import MOST_DISTANCE, OPEN_INTEREST_FRAC, Norm
from backtest.cli.explain import utc_time


def reverse_stress(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Results folder of a run.")],
    time: Annotated[
        str | None,
        typer.Option(
            "--time", metavar="TIME", help="Accounts as they stand then, UTC; the first time."
        ),
    ] = None,
    open_interest: Annotated[
        list[float] | None,
        typer.Option(
            "--open-interest", metavar="FRAC", help="Share liquidated, several times; 0.05, 0.25."
        ),
    ] = None,
    fund_usd: Annotated[
        float | None, typer.Option("--fund-usd", min=0.0, metavar="USD", help="Fund to be emptied.")
    ] = None,
    closing_cost: Annotated[
        float,
        typer.Option(
            "--closing-cost", min=0.0, metavar="FRAC", help="Of closing, of gross notional."
        ),
    ] = 0.0,
    price_sigma: Annotated[
        float, typer.Option("--price-sigma", min=1e-6, metavar="FRAC", help="A typical price move.")
    ] = Norm.price_sigma_frac,
    vol_sigma: Annotated[
        float,
        typer.Option(
            "--vol-sigma", min=1e-6, metavar="FRAC", help="A typical relative volatility move."
        ),
    ] = Norm.vol_sigma_frac,
    correlation: Annotated[
        float, typer.Option("--correlation", min=-0.99, max=0.99, help="Between the two.")
    ] = Norm.correlation,
    most: Annotated[
        float, typer.Option("--most", min=0.1, metavar="N", help="Furthest distance looked at.")
    ] = MOST_DISTANCE,
    accounts: Annotated[
        int | None, typer.Option("--accounts", min=1, metavar="N", help="About so many; all.")
    ] = None,
) -> None:
    """Find the nearest move that liquidates much; add it to the report of the run.

    Moves are of prices and volatilities. Distance counts typical moves,
    sqrt((a2 - 2 r a b + b2) / (1 - r2)) with a and b the moves over their
    typical sizes and r their correlation. Also what price moves of -50 % to
    +50 % liquidate, volatilities unchanged. Nothing reacts to the move: this
    is the first round only.

    Example: pmstress reverse-stress build/runs/demo --open-interest 0.1
    """
    from backtest.calibration.liquidation_profile import liquidation_profile, save_profile
    from backtest.calibration.reverse_stress import (  # slow to import
        ReverseStress,
        reverse_stress as search,
        save,
    )
    from backtest.config import RunConfig
    from backtest.report import text
    from backtest.report.build import build_report
    from backtest.report.reader import Results

    config = RunConfig.model_validate(Results(folder).manifest["config"])
    shares = tuple(open_interest) if open_interest else OPEN_INTEREST_FRAC
    norm = Norm(price_sigma, vol_sigma, correlation)
    asked = ReverseStress(
        shares, fund_usd, closing_cost, norm, most_distance=most, accounts=accounts
    )
    when = None if time is None else utc_time(time, "--time")
    found = search(config, asked, when)
    save(folder, found)
    save_profile(
        folder,
        liquidation_profile(config, when, closing_cost_frac=closing_cost, accounts=accounts),
    )
    for row in found[0].to_dict("records"):
        where = "not within reach"
        if not text.is_missing(row["distance"]):
            where = (
                f"{row['distance']:.3g} typical moves: price {row['price_move_frac']:+.1%}, "
                f"volatility {row['vol_move_frac']:+.1%}"
            )
        typer.echo(f"{row['parameter_set']}: {row['number']} {row['level']:g}: {where}")
    typer.echo(f"report: {build_report(folder).page}")
