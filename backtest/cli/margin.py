"""Command ``pmstress margin``: the what-if calculator."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from backtest.errors import ConfigError


def margin(
    portfolio: Annotated[
        Path, typer.Argument(metavar="PORTFOLIO.json", help="One account at one time.")
    ],
    params: Annotated[
        Path,
        typer.Option("--params", metavar="FILE", help="Parameter set or schedule of sets (TOML)."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, full precision.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw the scenario grid of every unit."),
    ] = None,
    position_builder: Annotated[
        bool,
        typer.Option(
            "--position-builder",
            help="Read a request of OKX's position builder, print its response.",
        ),
    ] = False,
    market: Annotated[
        Path | None,
        typer.Option(
            "--market",
            metavar="MARKET.json",
            help="With --position-builder: instruments, index and mark prices.",
        ),
    ] = None,
) -> None:
    """Margin of one portfolio with every step, before and after its trades or orders.

    Open orders are margined by the rules. Trades are filled at their price in
    the second answer, orders still resting; without trades, all orders are.
    The numbers come from the kernels that replay history, checked against
    the readable float64 reference; [A] marks numbers that nobody publishes.

    Example: pmstress margin configs/portfolios/options-and-spot.json
    --params configs/params/okx-merged-2025-01-21.toml
    """
    _check_options(plot, market, position_builder=position_builder)
    if market is not None:
        _respond(portfolio, market, params)
        return
    from backtest.portfolio_answer import answers  # slow to import

    found = answers(portfolio, params)
    if plot is not None:
        _draw(found, plot)
    if as_json:
        shown = {**found.now.kernel}
        if found.after is not None:
            shown["after"] = found.after.kernel
        typer.echo(json.dumps(plain(shown), indent=2, allow_nan=False))
    else:
        _print(found)
    for text in found.warnings:
        typer.echo(f"warning: {text}", err=True)


def _check_options(plot: Path | None, market: Path | None, *, position_builder: bool) -> None:
    """Refuse options that do not go together."""
    if position_builder and market is None:
        raise ConfigError("--position-builder needs --market MARKET.json, the market's prices")
    if market is not None and not position_builder:
        raise ConfigError("--market belongs to --position-builder; a portfolio file has its marks")
    if plot is not None and position_builder:
        raise ConfigError("--plot draws portfolio files; not allowed with --position-builder")
    if plot is not None and plot.suffix.lower() != ".png":
        raise ConfigError(f"--plot is '{plot}'; allowed: a file name that ends in .png")


def plain(value: Any) -> Any:
    """The value with numbers that JSON has: infinities and NaN become null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def console() -> Console:
    """Wide enough for files and pipes; the terminal's own width on a terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(width=140, highlight=False)


def _print(found: Any) -> None:
    from backtest.explain_text import render_margin

    out = console()
    now = found.now.reference
    if found.after is None:
        out.print(render_margin(now, labels=found.labels))
    elif found.fills == "orders":
        out.print("Before: orders resting. After: every order filled at its price.")
        out.print("The steps are those before.")
        out.print(render_margin(now, after=found.after.reference, labels=found.labels))
    else:
        out.print("After: every trade filled at its price, open orders still resting.")
        out.print("The steps are those after.")
        out.print(render_margin(found.after.reference, before=now, labels=found.labels))
    given = [one.reference["detail"] for one in (found.now, found.after) if one is not None]
    if not all(detail["unpriced"] for detail in given):
        out.print("Checked: every number of kernels and reference agrees to 1e-9.", style="dim")


def _draw(found: Any, file: Path) -> None:
    from backtest.grid_figure import grid_figure
    from backtest.report.theme import to_png

    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(to_png(grid_figure(found)))
    typer.echo(f"scenario grid: {file}", err=True)


def _respond(request: Path, market: Path, params: Path) -> None:
    from backtest.portfolio_file import read_json
    from backtest.position_builder import respond

    content = read_json(request, "request"), read_json(market, "market file")
    response, warnings = respond(*content, params, shown=(str(request), str(market)))
    typer.echo(json.dumps(response, indent=2, allow_nan=False))
    for text in warnings:
        typer.echo(f"warning: {text}", err=True)
