"""A reference answer as text that a person can audit: inputs, charges, equity, level, status.

Takes the answer of `backtest.reference.okx.margin` (or of another model with the same keys) and
gives rich renderables; nothing is printed here.
"""

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from backtest.explain_units import (
    TITLES,
    Detail,
    Labels,
    assumed,
    line,
    money,
    number,
    percent,
    plain_table,
    render_unit,
    row,
    table,
)


UNIT_ROWS = ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr9")
UNIT_TOTALS = ("mmr", "imr", "delta", "cash_delta", "spot_in_use", "upl")
ACCOUNT_ROWS = (
    "equity_usd",
    "adjusted_equity",
    "derivatives_mmr",
    "mr8",
    "borrow_imr",
    "total_mmr",
    "total_imr",
    "margin_level",
    "status",
)
STATUS_STYLES = {"ok": "bold green", "no_requirement": "bold green", "warning": "bold yellow"}


def render_margin(
    answer: Detail, *, before: Detail | None = None, labels: Labels | None = None
) -> RenderableType:
    """Every step of one account's margin at one time.

    Args:
        answer: What the reference gave, with its `detail`.
        before: A second answer, shown beside the first as before and after; the steps are those
            of `answer`.
        labels: Label of parameters by path, for example `{"mr3.rate": "A"}`; numbers with the
            label `A` are marked `[A]`, assumed.

    Returns:
        A rich renderable, for example for `rich.console.Console.print`.
    """
    marks, detail = labels or {}, answer["detail"]
    parts: list[RenderableType] = [_headline(answer)]
    if before is not None:
        parts.append(render_change(before, answer))
    if detail["unpriced"]:
        missing = [Text(f"  - {what}") for what in detail["unpriced"]]
        return Group(*parts, line("Not priced. Missing or not usable:"), *missing)
    parts += _inputs(detail)
    for name, unit in answer["units"].items():
        parts.append(render_unit(name, unit, detail["units"][name], marks))
    parts.append(Rule(Text("Account", style="bold"), align="left"))
    parts += [_collateral(detail, marks), _totals(answer, marks), _thetas(answer)]
    if any(label == "A" for label in marks.values()):
        parts.append(line("[A] assumed: the venue does not publish this number.", "dim"))
    return Group(*parts)


def render_change(before: Detail, after: Detail) -> Table:
    """Before, after and change of the account's numbers and of each unit's."""
    shown = table("Before and after, USD", "number", "before", "after", "change")
    for key in ACCOUNT_ROWS:
        _change_row(shown, key, before["account"].get(key), after["account"].get(key))
    for name in sorted({*before["units"], *after["units"]}):
        shown.add_section()
        left, right = before["units"].get(name, {}), after["units"].get(name, {})
        for key in (*UNIT_ROWS, *UNIT_TOTALS):
            _change_row(shown, f"{name} {key}", left.get(key, 0.0), right.get(key, 0.0))
    return shown


def render_stored(answer: Detail, stored: Mapping[str, Any]) -> Table:
    """The reference beside the numbers that a run has stored, with their relative difference.

    Args:
        answer: What the reference gave.
        stored: A row of the traces or events of a run: `mr1` ... `mr9` summed over units (`mr8`
            once), and any of the account's numbers. Keys that the answer lacks are left out.
    """
    shown = table("Reference and stored", "number", "reference", "stored", "relative difference")
    for key, value in account_numbers(answer).items():
        if key not in stored:
            continue
        other = stored[key]
        difference = ""
        if isinstance(value, float) and isinstance(other, float):
            scale = max(abs(value), abs(other))
            difference = f"{abs(value - other) / scale if scale else 0.0:.1e}"
        row(shown, key, _shown(key, value), _shown(key, other), difference)
    return shown


def account_numbers(answer: Detail) -> dict[str, Any]:
    """The numbers of an account under the names of the traces: charges summed over units."""
    account = answer["account"]
    charges: dict[str, Any] = {}
    for key in TITLES:
        if key == "mr8" or account["total_mmr"] is None:
            charges[key] = account["mr8"]
        else:
            charges[key] = float(sum(unit[key] for unit in answer["units"].values()))
    return charges | {key: account[key] for key in ACCOUNT_ROWS if key != "mr8"}


def _headline(answer: Detail) -> Text:
    account, detail = answer["account"], answer["detail"]
    status = account["status"]
    return Text.assemble(
        ("Margin ", "bold"),
        f"at {detail['time']} under {detail['parameter_set'] or 'unnamed parameters'}: ",
        (status, STATUS_STYLES.get(status, "bold red")),
        f", margin level {_level(account['margin_level'])}",
    )


def _inputs(detail: Detail) -> list[RenderableType]:
    """Prices, legs and expired positions as the rules saw them."""
    prices = table("Index prices and balances", "currency", "index USD", "cash")
    for currency, index in sorted(detail["index_usd"].items()):
        row(prices, currency, number(index), number(detail["cash"].get(currency)))
    parts: list[RenderableType] = [prices]
    if detail["legs"]:
        parts.append(_legs(detail["legs"]))
    if any(leg["kind"] == "option" for leg in detail["legs"]):
        parts.append(_option_inputs(detail["legs"]))
    if detail["settled"]:
        settled = table("Expired, settled into equity", "instrument", "value", "currency")
        for position in detail["settled"]:
            row(settled, position["instrument_id"], number(position["value"]), position["currency"])
        parts.append(settled)
    return parts


def _legs(legs: list[dict[str, Any]]) -> Table:
    shown = table(
        "Legs (same instruments netted)",
        *("instrument", "contracts", "multiplier", "mark", "delta coins"),
        *("cash delta USD", "unrealised PnL USD"),
    )
    for leg in legs:
        quantities = [number(leg[key]) for key in ("contracts", "multiplier", "mark", "delta")]
        row(shown, leg["instrument_id"], *quantities, money(leg["cash_delta"]), money(leg["upl"]))
    return shown


def _option_inputs(legs: list[dict[str, Any]]) -> Table:
    columns = ("instrument", "forward USD", "volatility", "days", "model price coins")
    shown = table("Options", *columns)
    for leg in legs:
        if leg["kind"] == "option":
            values = (number(leg["forward"]), percent(leg["sigma"]), number(leg["days"]))
            row(shown, leg["instrument_id"], *values, number(leg["model_price"]))
    return shown


def _collateral(detail: Detail, labels: Labels) -> Table:
    shown = table(
        "Equity and collateral",
        *("currency", "equity", "index USD", "equity USD", "discount tiers", "collateral USD"),
    )
    for currency, value in detail["collateral"].items():
        key = f"collateral.{currency}"
        known = any(path == key or path.startswith(f"{key}.") for path in labels)
        mark = assumed(labels, key if known else "collateral.default") if value["tiers"] else ""
        row(
            shown,
            currency,
            number(value["equity"]),
            number(value["index"]),
            money(value["usd"]),
            f"{_discounts(value)}{mark}",
            money(value["value"]),
        )
    return shown


def _discounts(value: Detail) -> str:
    """Discount tiers written out, the middle ones of a long list left out."""
    if not value["tiers"]:
        return "in full" if value["equity"] < 0.0 else "-"
    if value["usd"] == value["value"]:
        return "1"
    parts = [f"{number(tier['amount'])} x {number(tier['rate'])}" for tier in value["tiers"]]
    if len(parts) > 4:
        parts = [*parts[:2], f"... {len(parts) - 3} more ...", parts[-1]]
    return " + ".join(parts) + (" USD" if value["unit"] == "usd" else "")


def _totals(answer: Detail, labels: Labels) -> Table:
    """Aggregation over units, borrowing, and the margin level, each as a formula."""
    account, detail = answer["account"], answer["detail"]
    sums = " + ".join(f"{name} {money(unit['mmr'])}" for name, unit in answer["units"].items())
    derivatives, adjusted = money(account["derivatives_mmr"]), money(account["adjusted_equity"])
    borrow, factor_mark = money(account["borrow_imr"]), assumed(labels, "aggregation.imr_factor")
    formulas = [
        ("derivatives MMR", sums or "0", derivatives),
        *_borrowing(detail["mr8"], labels),
        (
            "total MMR",
            f"{derivatives} + MR8 {money(account['mr8'])}",
            money(account["total_mmr"]),
        ),
        (
            "total IMR",
            f"{number(detail['imr_factor'])} x {derivatives} + borrow IMR {borrow}{factor_mark}",
            money(account["total_imr"]),
        ),
        ("adjusted equity", "sum of collateral", adjusted),
        (
            "margin level",
            f"{adjusted} / ({money(account['total_mmr'])} + fee {money(detail['borrow_fee'])})",
            _level(account["margin_level"]),
        ),
        ("status", _status_reason(answer), account["status"]),
    ]
    shown = plain_table("Margin")
    shown.add_column("number", no_wrap=True)
    shown.add_column("how", overflow="fold")
    shown.add_column("USD", justify="right", no_wrap=True)
    for cells in formulas:
        strong = cells[0] in ("total MMR", "margin level", "status")
        row(shown, *cells, style="bold" if strong else "")
    return shown


def _borrowing(mr8: Detail, labels: Labels) -> list[tuple[str, str, str]]:
    """MR8, borrow IMR and borrow fee, liability by liability."""
    owed = mr8["liabilities"]
    if not owed:
        return [("MR8 borrowing", "no liabilities", money(0.0))]

    def mark(currency: str) -> str:
        own = f"mr8.tiers.{currency}"
        known = any(path == own or path.startswith(f"{own}.") for path in labels)
        return assumed(labels, own if known else "mr8.tiers.default")

    def total(rate: str) -> str:
        return " + ".join(
            f"{name} {money(debt['liability_usd'])} x {percent(debt[rate])}{mark(name)}"
            for name, debt in owed.items()
        )

    fees = " + ".join(
        f"{money(debt['liability_usd'])} x (1 + {percent(debt['mmr'])})" for debt in owed.values()
    )
    value = sum(debt["liability_usd"] * debt["mmr"] for debt in owed.values())
    return [
        ("MR8 borrowing", total("mmr"), money(value)),
        ("borrow IMR", total("imr"), money(mr8["imr"])),
        ("borrow fee", f"({fees}) x {percent(mr8['fee_rate'])}", money(mr8["fee"])),
    ]


def _status_reason(answer: Detail) -> str:
    account, levels = answer["account"], answer["detail"]["levels"]
    equity = f"equity {money(account['equity_usd'])} USD"
    return {
        "bankrupt": f"{equity} is below 0",
        "liquidation": f"margin level <= {percent(levels['liquidation'])}",
        "no_requirement": "nothing is required",
        "warning": f"margin level < {percent(levels['warning'])}",
        "ineligible": f"{equity} is below {money(levels['min_equity_usd'])}",
    }.get(account["status"], f"margin level >= {percent(levels['warning'])}")


def _thetas(answer: Detail) -> Table:
    """Break-even multipliers: how large each charge may become before liquidation."""
    shown = table(
        "Break-even multipliers (times the charge until liquidation)", "charge", "multiplier"
    )
    for key, theta in answer["account"]["theta"].items():
        text = "unbounded" if math.isinf(theta) else f"{theta:,.6g}"
        row(shown, f"{key.upper()} {TITLES[key]}", text)
    return shown


def _change_row(shown: Table, key: str, left: Any, right: Any) -> None:
    change = ""
    if isinstance(left, float) and isinstance(right, float):
        delta = right - left
        change = f"{100.0 * delta:+,.2f} %" if key == "margin_level" else f"{delta:+,.2f}"
        if key.endswith(("delta", "in_use")) and not key.endswith("cash_delta"):
            change = f"{delta:+,.10g}"
        change = "" if delta == 0.0 else change
    row(shown, key, _shown(key, left), _shown(key, right), change)


def _shown(key: str, value: Any) -> str:
    """A value the way its key asks for."""
    if key == "margin_level":
        return _level(value)
    if key.endswith(("spot_in_use", " delta")):
        return number(value)
    return value if isinstance(value, str) else money(value)


def _level(level: float | None) -> str:
    return "none (nothing is required)" if level is None else f"{100.0 * level:,.2f} %"
