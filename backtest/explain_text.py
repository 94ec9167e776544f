"""A reference answer as text that a person can audit: inputs, charges, equity, level, status.

Takes the answer of `backtest.reference.models.margin` and gives rich renderables; nothing is
printed here. What a model says in its own words is in the module of its name beside this one.
"""

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from backtest import explain_bybit, explain_okx
from backtest.explain_parts import (
    Detail,
    Labels,
    ModelText,
    assumed,
    level_text,
    line,
    money,
    number,
    percent,
    plain_table,
    row,
    table,
)


MODELS: dict[str, ModelText] = {"okx": explain_okx.TEXT, "bybit": explain_bybit.TEXT}
"""By the name of the model; another model is another entry here."""
UNIT_TOTALS = ("mmr", "imr", "delta", "cash_delta", "spot_in_use", "upl")
_LEVELS = ("margin_level", "mm_rate")
STATUS_STYLES = {"ok": "bold green", "no_requirement": "bold green", "warning": "bold yellow"}


def account_rows(answer: Detail) -> tuple[str, ...]:
    """Keys of the account's numbers in the order of tables."""
    model = _model(answer)
    return (
        *("equity_usd", "adjusted_equity", "derivatives_mmr", model.borrow, "borrow_imr"),
        *("total_mmr", "total_imr", "margin_level", *model.extra, "status"),
    )


def render_margin(
    answer: Detail,
    *,
    before: Detail | None = None,
    after: Detail | None = None,
    labels: Labels | None = None,
) -> RenderableType:
    """Every step of one account's margin at one time.

    Args:
        answer: What the reference gave, with its `detail`; the steps are those of this answer.
        before: A second answer, shown beside the first as before and after.
        after: The same the other way round.
        labels: Label of parameters by path, for example `{"mr3.rate": "A"}`; numbers with the
            label `A` are marked `[A]`, assumed.

    Returns:
        A rich renderable, for example for `rich.console.Console.print`.
    """
    marks, detail, model = labels or {}, answer["detail"], _model(answer)
    parts: list[RenderableType] = [_headline(answer)]
    if before is not None:
        parts.append(render_change(before, answer))
    if after is not None:
        parts.append(render_change(answer, after))
    if detail["unpriced"]:
        missing = [Text(f"  - {what}") for what in detail["unpriced"]]
        return Group(*parts, line("Not priced. Missing or not usable:"), *missing)
    parts += _inputs(detail)
    for name, unit in answer["units"].items():
        parts.append(model.unit(name, unit, detail["units"][name], marks))
    parts.append(Rule(Text("Account", style="bold"), align="left"))
    parts += [_collateral(detail, marks), _totals(answer, marks), _thetas(answer)]
    if any(label == "A" for label in marks.values()):
        parts.append(line("[A] assumed: the venue does not publish this number.", "dim"))
    return Group(*parts)


def render_change(before: Detail, after: Detail) -> Table:
    """Before, after and change of the account's numbers and of each unit's."""
    shown = table("Before and after, USD", "number", "before", "after", "change")
    for key in account_rows(after):
        _change_row(shown, key, before["account"].get(key), after["account"].get(key))
    charges = _model(after).unit_charges
    for name in sorted({*before["units"], *after["units"]}):
        shown.add_section()
        left, right = before["units"].get(name, {}), after["units"].get(name, {})
        for key in (*charges, *UNIT_TOTALS):
            _change_row(shown, f"{name} {key}", left.get(key, 0.0), right.get(key, 0.0))
    return shown


def render_stored(answer: Detail, stored: Mapping[str, Any]) -> Table:
    """The reference beside the numbers that a run has stored, with their relative difference.

    Args:
        answer: What the reference gave.
        stored: A row of the traces or events of a run: the model's charges summed over units (that
            of debts once), and any of the account's numbers. Keys that the answer lacks are left
            out.
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
    account, model = answer["account"], _model(answer)
    charges: dict[str, Any] = {}
    for key in model.titles:
        if key == model.borrow_charge or account["total_mmr"] is None:
            charges[key] = account[model.borrow]
        else:
            charges[key] = float(sum(unit[key] for unit in answer["units"].values()))
    return charges | {key: account[key] for key in account_rows(answer) if key != model.borrow}


def _model(answer: Detail) -> ModelText:
    return MODELS[answer["detail"]["model"]]


def _headline(answer: Detail) -> Text:
    account, detail = answer["account"], answer["detail"]
    status, level = account["status"], f", margin level {level_text(account['margin_level'])}"
    return Text.assemble(
        ("Margin ", "bold"),
        f"at {detail['time']} under {detail['parameter_set'] or 'unnamed parameters'}: ",
        (status, STATUS_STYLES.get(status, "bold red")),
        "" if detail["unpriced"] else level,
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
    if detail["orders"]:
        parts.append(_orders(detail["orders"]))
    if detail["settled"]:
        settled = table("Expired, settled into equity", "instrument", "value", "currency")
        for position in detail["settled"]:
            row(settled, position["instrument_id"], number(position["value"]), position["currency"])
        parts.append(settled)
    return parts


def _orders(orders: list[dict[str, Any]]) -> Table:
    """Open orders; Bybit counts the premium of a bought option as loss."""
    with_premium = any("premium" in order for order in orders)
    shown = table(
        "Open orders: what a fill at the limit would lose",
        *("instrument", "size" if with_premium else "contracts", "limit", "loss USD"),
        *(("premium USD",) if with_premium else ("side",)),
    )
    for order in orders:
        size = order["size"] if with_premium else order["contracts"]
        limit = order["limit"] if with_premium else order["price"]
        last = money(order["premium"]) if with_premium else order["side"]
        row(shown, order["instrument_id"], number(size), number(limit), money(order["loss"]), last)
    return shown


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
    columns = ["instrument", "forward USD", "volatility", "days"]
    has_model_price = any(leg.get("model_price") is not None for leg in legs)
    shown = table("Options", *columns, *(["model price coins"] if has_model_price else []))
    for leg in legs:
        if leg["kind"] == "option":
            values = [number(leg["forward"]), percent(leg["sigma"]), number(leg["days"])]
            values += [number(leg["model_price"])] if has_model_price else []
            row(shown, leg["instrument_id"], *values)
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
    """How the account's numbers come about, and why its status is what it is."""
    shown = plain_table("Margin")
    shown.add_column("number", no_wrap=True)
    shown.add_column("how", overflow="fold")
    shown.add_column("USD", justify="right", no_wrap=True)
    for step in _model(answer).account(answer, labels):
        strong = step.name in ("total MMR", "margin level")
        row(shown, *step, style="bold" if strong else "")
    row(shown, "status", _status_reason(answer), answer["account"]["status"], style="bold")
    return shown


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
    titles = _model(answer).titles
    for key, theta in answer["account"]["theta"].items():
        text = "unbounded" if math.isinf(theta) else f"{theta:,.6g}"
        row(shown, titles[key], text)
    return shown


def _change_row(shown: Table, key: str, left: Any, right: Any) -> None:
    change = ""
    if isinstance(left, float) and isinstance(right, float):
        delta = right - left
        change = f"{100.0 * delta:+,.2f} %" if key in _LEVELS else f"{delta:+,.2f}"
        if key.endswith(("delta", "in_use")) and not key.endswith("cash_delta"):
            change = f"{delta:+,.10g}"
        change = "" if delta == 0.0 else change
    row(shown, key, _shown(key, left), _shown(key, right), change)


def _shown(key: str, value: Any) -> str:
    """A value the way its key asks for."""
    if key in _LEVELS:
        return level_text(value)
    if key.endswith(("spot_in_use", " delta")):
        return number(value)
    return value if isinstance(value, str) else money(value)
