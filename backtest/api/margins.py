"""Margin of one account as tables: charges, scenarios, totals; now, and after its trades."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console, RenderableType

from backtest.explain_text import render_margin
from backtest.grid_figure import grid_figure
from backtest.portfolio_answer import Answer, Answers, answers
from backtest.reference import models as reference


@dataclass(frozen=True)
class Margin:
    """Margin of one account at one time.

    Fields:
        answer: ``units`` by name and ``account``, as `pmstress margin --json` prints them.
        labels: provenance of the parameters by key, for instance ``{"mr3.rate": "A"}``.
    """

    answer: dict[str, Any]
    labels: dict[str, str]

    def charges(self) -> pd.DataFrame:
        """Charges, maintenance and initial margin of every risk unit, USD; a row a unit.

        The borrowing charge belongs to the account, not to a unit: see ``account``.
        """
        units = self.answer["units"]
        rows = {u: {k: v for k, v in unit.items() if _is_usd(k, v)} for u, unit in units.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("unit")

    def scenarios(self) -> pd.DataFrame:
        """The stress grid: unit, price_move (fraction), vol (down, same, up), pnl_usd."""
        rows = [
            {"unit": name, **cell}
            for name, unit in self.answer["units"].items()
            for cell in unit[_cells(unit)]
        ]
        columns = ["unit", "price_move", "vol", "pnl"]
        return pd.DataFrame(rows, columns=columns).rename(columns={"pnl": "pnl_usd"})

    def account(self) -> pd.Series:
        """Equity, requirements (USD), margin level (1.0 = 100 %) and status of the account."""
        found = {k: v for k, v in self.answer["account"].items() if not isinstance(v, dict)}
        return pd.Series(found, name="account", dtype=object)

    def multipliers(self) -> pd.Series:
        """By how much each charge may grow before the account is liquidated; below 1: it is."""
        found = self.answer["account"].get("theta", {})
        return pd.Series(found, name="multiplier", dtype=float).rename_axis("charge")

    def figure(self) -> Figure:
        """Heat map of the stress grid of every unit (at most 12), the worst cell framed."""
        side = Answer(self.answer, self.answer)
        return grid_figure(Answers(side, None, "", self.labels, []))


@dataclass(frozen=True)
class WhatIf:
    """One portfolio now, and after its trades or orders (None where it has none).

    Fields:
        now: with open orders resting.
        after: after the trades, orders still resting; without trades, after all orders.
        fills: what was filled, ``trades`` or ``orders``.
        warnings: what the reader should know, a sentence each.
    """

    now: Margin
    after: Margin | None
    fills: str
    warnings: list[str]
    found: Answers

    def change(self) -> pd.DataFrame:
        """The account's numbers now, after, and their change; without fills only now."""
        sides = {"now": self.now.account()}
        if self.after is not None:
            sides["after"] = self.after.account()
        table = pd.DataFrame(sides).drop(index="status").astype(float)
        return table if self.after is None else table.assign(change=table["after"] - table["now"])

    def figure(self) -> Figure:
        """Heat maps of the stress grid now and after the fills, side by side."""
        return grid_figure(self.found)

    def text(self) -> str:
        """Every step of the margin from the float64 reference, as `pmstress margin` prints it."""
        after = None if self.found.after is None else self.found.after.reference
        return as_text(render_margin(self.found.now.reference, after=after, labels=self.now.labels))


def margin(portfolio: str | Path | dict[str, Any], params: str | Path) -> WhatIf:
    """Every charge of one portfolio under a parameter set; what `pmstress margin` computes.

    Kernels and float64 reference are both asked, and must agree to 1e-9.

    Args:
        portfolio: a portfolio file (JSON), or its content.
        params: a parameter file, or a schedule: the set in force at the portfolio's time.

    Raises:
        ConfigError: something in them is not usable. RunError: kernels and reference disagree.

    Example:
        >>> found = margin("configs/portfolios/options-and-spot.json",
        ...                "configs/params/okx-merged-2025-01-21.toml")  # doctest: +SKIP
        >>> found.now.charges().loc["BTC", "mr1"]                        # doctest: +SKIP
        8553.055059226981
    """
    found = answers(portfolio, params)
    after = None if found.after is None else Margin(found.after.kernel, found.labels)
    now = Margin(found.now.kernel, found.labels)
    return WhatIf(now, after, found.fills, found.warnings, found)


def reference_margin(portfolio: dict[str, Any], numbers: dict[str, Any]) -> Margin:
    """Margin from the readable float64 reference alone: no compiling, milliseconds an account.

    Args:
        portfolio: content of a portfolio file, such as ``Explanation.portfolio``.
        numbers: ``load_params(file).numbers()``; change them to try other parameters.

    Raises:
        ValueError: the portfolio or the numbers are not usable; the message says why.
    """
    return Margin(reference.margin(portfolio, numbers), {})


def as_text(shown: RenderableType) -> str:
    """A rich renderable as plain text, 140 columns wide."""
    console = Console(file=io.StringIO(), width=140, highlight=False, no_color=True)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def _is_usd(key: str, value: Any) -> bool:
    return isinstance(value, float) and key not in ("delta", "spot_in_use")


def _cells(unit: dict[str, Any]) -> str:
    return next(key for key in unit if key.endswith("_cells"))
