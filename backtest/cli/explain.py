"""Command ``pmstress explain``: every step of one account's margin at one time of a run."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from backtest.cli.margin import console, plain
from backtest.errors import ConfigError, DataError


def explain(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Results folder of a run.")],
    what: Annotated[
        str,
        typer.Argument(
            metavar="ACCOUNT@TIME", help="Account id and a time of the run's grid, UTC."
        ),
    ],
    set_name: Annotated[
        str | None,
        typer.Option("--set", metavar="NAME", help="Parameter set; the first one if absent."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, full precision.")] = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="Explain the change of margin since then instead."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw the liquidation of that time."),
    ] = None,
) -> None:
    """Every step of one account's margin at one time, beside the stored numbers.

    The steps come from the readable float64 reference, on the portfolio and
    prices as the run knew them; [A] marks numbers that nobody publishes.
    Stored are the accounts that section [traces] of the configuration names.
    Where the run liquidated the account at that time, its steps follow.
    With --since: what positions, prices, volatilities, time and parameters,
    in this order, moved of its margin.

    Example: pmstress explain build/runs/demo A0000042@2025-03-09T12:00Z
    """
    account, time = parse_account_time(what)
    if plot is not None and plot.suffix.lower() != ".png":
        raise ConfigError(f"--plot is '{plot}'; allowed: a file name that ends in .png")
    from backtest.explain import explain_portfolio  # slow to import
    from backtest.report.reader import Results

    Results(folder)
    if since is not None:
        _print_change(folder, account, utc_time(since, "--since"), time, set_name)
        return
    found = explain_portfolio(folder, account, time, set_name)
    if as_json:
        typer.echo(json.dumps(_as_dict(account, found), indent=2, allow_nan=False, default=str))
    else:
        _print(account, found)
    if plot is not None:
        _draw(found, plot)


def _print_change(
    folder: Path, account: str, since: pd.Timestamp, time: pd.Timestamp, set_name: str | None
) -> None:
    """Steps of a change of margin, one a line."""
    from backtest.explain_change import explain_change  # slow to import

    found = explain_change(folder, account, since, time, set_name)
    typer.echo(f"{account}: total MMR from {since:%Y-%m-%d %H:%M} to {time:%Y-%m-%d %H:%M} UTC")
    typer.echo(f"parameter set: {found.parameter_set}")
    for row in found.steps.to_dict("records"):
        typer.echo(f"{row['step']:<18}{row['value']:>20,.2f}{row['change']:>+20,.2f}  USD")


def _draw(found: Any, plot: Path) -> None:
    """Write the picture of a liquidation."""
    from backtest.liquidation_figure import liquidation_figure
    from backtest.report.theme import to_png

    if found.liquidation is None:
        raise ConfigError(f"--plot {plot}: the run did not liquidate the account at that time")
    plot.parent.mkdir(parents=True, exist_ok=True)
    plot.write_bytes(to_png(liquidation_figure(found.liquidation)))
    typer.echo(f"liquidation: {plot}", err=True)


def parse_account_time(text: str) -> tuple[str, pd.Timestamp]:
    """Account id and UTC time of `ACCOUNT@TIME`; a time without an offset is UTC.

    Raises:
        ConfigError: no account, no time, or not a time.

    Example:
        >>> parse_account_time("A7@2025-03-09T12:00Z")
        ('A7', Timestamp('2025-03-09 12:00:00+0000', tz='UTC'))
    """
    account, at, written = text.rpartition("@")
    allowed = "allowed: ACCOUNT@TIME, for example A0000042@2025-03-09T12:00Z"
    if not (account and at and written):
        raise ConfigError(f"'{text}' has no account and time; {allowed}")
    return account, utc_time(written, f"'{text}'", allowed)


def utc_time(
    written: str, named: str, allowed: str = "allowed: a time such as 2025-03-09T12:00Z"
) -> pd.Timestamp:
    """A UTC time; one without an offset is UTC.

    Raises:
        ConfigError: it is none; says where it stands (``named``) and what is allowed.
    """
    from backtest.dataset import utc  # slow to import

    try:
        return utc(written)
    except (ValueError, DataError):
        raise ConfigError(f"'{written}' in {named} is no time; {allowed}") from None


def _as_dict(account: str, found: Any) -> dict[str, Any]:
    return plain(
        {
            "account_id": account,
            "parameter_set": found.parameter_set,
            "portfolio": found.portfolio,
            **found.answer,
            "stored": found.stored,
            "moved_by_debts": found.moved,
            **({} if found.liquidation is None else {"liquidation": _liquidation(found)}),
        }
    )


def _liquidation(found: Any) -> dict[str, Any]:
    content = dataclasses.asdict(found.liquidation)
    del content["fills"], content["portfolio_after"]
    return content


def _print(account: str, found: Any) -> None:
    from backtest.explain_text import render_margin, render_stored

    out = console()
    out.print(f"Account {account}, parameter set {found.parameter_set}", markup=False)
    if found.moved:
        each = ", ".join(f"{change:+,.10g} {name}" for name, change in sorted(found.moved.items()))
        out.print(f"Moved by debts since the snapshot: {each}", markup=False)
    out.print(render_margin(found.answer, labels=found.labels))
    if found.stored is None:
        out.print(
            "Nothing stored to compare with: the run did not trace this account "
            "(section [traces] of its configuration).",
            markup=False,
        )
    else:
        out.print(render_stored(found.answer, found.stored))
    if found.liquidation is not None:
        from backtest.explain_liquidation import render_liquidation

        out.print(render_liquidation(found.liquidation))
