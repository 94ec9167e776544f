"""Command ``pmstress margin``: the what-if calculator."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console


def margin(
    portfolio: Annotated[
        Path, typer.Argument(metavar="PORTFOLIO.json", help="One account at one time.")
    ],
    params: Annotated[Path, typer.Option("--params", metavar="FILE", help="Parameter set (TOML).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, full precision.")] = False,
) -> None:
    """Margin of one portfolio with every step, before and after its orders.

    The numbers come from the kernels that replay history, checked against
    the readable float64 reference; [A] marks numbers that nobody publishes.

    Example: pmstress margin configs/portfolios/options-and-spot.json
    --params configs/params/okx-merged-2025-01-21.toml
    """
    from backtest.portfolio_answer import answers  # slow to import

    found = answers(portfolio, params)
    if as_json:
        shown = {**found.now.kernel}
        if found.after is not None:
            shown["after"] = found.after.kernel
        typer.echo(json.dumps(plain(shown), indent=2, allow_nan=False))
    else:
        _print(found)
    for text in found.warnings:
        typer.echo(f"warning: {text}", err=True)


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
    if found.after is None:
        out.print(render_margin(found.now.reference, labels=found.labels))
    else:
        after, before = found.after.reference, found.now.reference
        out.print("With every order filled at its price; the steps are those after the fills.")
        out.print(render_margin(after, before=before, labels=found.labels))
    out.print("Checked: every number of kernels and reference agrees to 1e-9.", style="dim")
