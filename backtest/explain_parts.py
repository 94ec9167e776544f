"""Words, numbers and tables that the explanations of all margin models are made of.

Texts carry the formula of the rule with the numbers put in, so that each step can be checked with
a calculator. Numbers that nobody publishes are followed by `[A]` (assumed).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text


Labels = Mapping[str, str]
Detail = Mapping[str, Any]


class Step(NamedTuple):
    """One line of the account's table: a number, how it comes about, what it is."""

    name: str
    how: str
    value: str


class ModelText(NamedTuple):
    """What the explanation of a margin model says in its own words.

    Fields:
        titles: every charge with what people call it, that of the account's debts included.
        borrow: key of the margin of debts in the answer's account.
        borrow_charge: the same among the charges.
        extra: numbers of the account that only this model has.
        unit: charges and steps of one unit, `(name, answer, detail, labels)`.
        account: how the account's numbers come about, `(answer, labels)`.
    """

    titles: Mapping[str, str]
    borrow: str
    borrow_charge: str
    extra: tuple[str, ...]
    unit: Callable[[str, Detail, Detail, Labels], RenderableType]
    account: Callable[[Detail, Labels], list[Step]]

    @property
    def unit_charges(self) -> tuple[str, ...]:
        """The charges that units have."""
        return tuple(name for name in self.titles if name != self.borrow_charge)


def money(value: float | None) -> str:
    """An amount in USD with cents; `-` where there is none."""
    return "-" if value is None else f"{value + 0.0:,.2f}"


def percent(value: float, *, sign: bool = False) -> str:
    """A fraction as percent with as many digits as it needs, at most six.

    Example:
        >>> percent(0.0045)
        '0.45 %'
    """
    return f"{100.0 * value:{'+' if sign and value else ''}.6g} %"


def number(value: float | None) -> str:
    """A price or quantity with up to ten significant digits; `-` where there is none."""
    return "-" if value is None else f"{value + 0.0:,.10g}"


def assumed(labels: Labels, *paths: str) -> str:
    """The mark ` [A]` if a number at one of the paths, or below it, is labelled assumed.

    Example:
        >>> assumed({"mr3.rate": "A"}, "mr3")
        ' [A]'
    """
    for path in paths:
        steps = path.split(".")
        if any(labels.get(".".join(steps[:k])) == "A" for k in range(1, len(steps) + 1)):
            return " [A]"
        if any(label == "A" for name, label in labels.items() if name.startswith(f"{path}.")):
            return " [A]"
    return ""


def table(title: str, *columns: str, left: int = 1) -> Table:
    """An empty table: the first `left` columns to the left, numbers to the right."""
    empty = plain_table(title)
    for position, name in enumerate(columns):
        empty.add_column(name, justify="left" if position < left else "right", no_wrap=True)
    return empty


def plain_table(title: str = "") -> Table:
    """An empty table without columns, as wide as its title at least."""
    return Table(
        title=Text(title) if title else None,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=box.SIMPLE_HEAD,
        min_width=min(len(title), 90) + 2,
    )


def row(target: Table, *cells: str, style: str = "") -> None:
    """Add a row of plain texts; brackets stay what they are."""
    target.add_row(*(Text(cell) for cell in cells), style=style)


def line(text: str, style: str = "") -> Text:
    """A line of plain text, indented under its heading when it wraps."""
    return Text(text, style=style, overflow="fold")


def marginal(slices: list[dict[str, Any]], *, rates_in_percent: bool) -> str:
    """Marginal tiers written out: `1,000,000.00 x 0.75 % + ...`."""
    shown = percent if rates_in_percent else number
    parts = [f"{money(part['amount'])} x {shown(part['rate'])}" for part in slices]
    return " + ".join(parts) or "0"


def level_text(level: float | None) -> str:
    """A margin level or rate as percent."""
    if level is None:
        return "none (nothing is required)"
    return "no equity is left" if level == math.inf else f"{100.0 * level:,.2f} %"


def charge_table(formulas: Mapping[str, str], names: Mapping[str, str], answer: Detail) -> Table:
    """The charges of a unit, each with its formula and the numbers in it."""
    shown = plain_table()
    shown.add_column("charge", no_wrap=True)
    shown.add_column("how", overflow="fold")
    shown.add_column("USD", justify="right", no_wrap=True)
    for charge, formula in formulas.items():
        row(shown, names[charge], formula, money(answer[charge]))
    return shown


def grid_table(title: str, rows: Mapping[float, Mapping[str, float]], marked: set[Any]) -> Table:
    """PnL by price move (rows) and column; the cells `(move, column)` in `marked` get a `<`."""
    columns = list(next(iter(rows.values()), {}))
    shown = table(title, "price", *columns)
    for move in sorted(rows):
        texts = [Text(percent(move, sign=True))]
        for column in columns:
            mark, style = (" <", "bold red") if (move, column) in marked else ("  ", "")
            texts.append(Text(money(rows[move][column]) + mark, style=style))
        shown.add_row(*texts)
    return shown


def portfolios_line(detail: Detail) -> Text | None:
    """Which portfolio of a unit with open orders is charged; None without orders that matter."""
    mmrs = detail["portfolios"]
    if len(mmrs) == 1 or (len(set(mmrs.values())) == 1 and detail["binding"] == "positions"):
        return None
    listed = ", ".join(f"{name} {money(value)}" for name, value in mmrs.items())
    return line(
        f"open orders: MMR of {listed}; the largest is charged, below are the steps of "
        f"{detail['binding']}",
        "bold",
    )


def liabilities(borrow: Detail, labels: Labels, tiers: str, rate: str) -> str:
    """Margin of the debts, one by one: `USDT 78,553.22 x 2 %`."""

    def mark(currency: str) -> str:
        own = f"{tiers}.{currency}"
        known = any(path == own or path.startswith(f"{own}.") for path in labels)
        return assumed(labels, own if known else f"{tiers}.default")

    return " + ".join(
        f"{name} {money(debt['liability_usd'])} x {percent(debt[rate])}{mark(name)}"
        for name, debt in borrow["liabilities"].items()
    )


def potential_borrowing(taken: Mapping[str, float], borrow: Detail) -> list[Step]:
    """What open orders may take out of each currency, and what of it would be a debt."""
    if not taken:
        return []
    owed = borrow["liabilities"]
    parts = [
        f"{name} {number(amount)}"
        + (f" (debt {number(owed[name]['liability'])})" if name in owed else " (covered)")
        for name, amount in taken.items()
    ]
    return [Step("potential borrowing", f"orders may take {', '.join(parts)}", "")]


def unit_sum(units: Mapping[str, Detail], key: str) -> str:
    """The sum of a number over units, written out."""
    return " + ".join(f"{name} {money(unit[key])}" for name, unit in units.items()) or "0"


def signed_terms(terms: Mapping[str, float]) -> str:
    """Amounts in coins by name: `USDT +1, USDC -0.4`."""
    return ", ".join(f"{name} {value:+,.6g}" for name, value in terms.items() if value)
