"""OKX portfolio margin of one account at one time, in plain float64: documentation and oracle.

Written from the rule text alone, a small function a rule, loops over legs, nothing clever. The
rules live where they are about the same thing:

* `okx_legs`: the portfolio file read into legs; unrealised PnL, settlement of expired contracts;
* `okx_charges`: `mr1` ... `mr6`, moves of price, volatility, time, basis and rates;
* `okx_fees`: `mr7`, `mr8`, `mr9` and the collateral tiers;
* `okx_orders`: open orders, what they cost at once and would borrow;
* `okx_units`: merged and split risk units, each with and without its orders;
* `okx_borrowing`: interest and forced conversion of debts, matters of a replay over time;
* `breakeven`: aggregation and break-even multipliers;
* here: equity, margin level, status and the answer.

All margins in USD.
"""

import math
from typing import Any

from backtest.reference import breakeven
from backtest.reference.okx_charges import (
    Charge,
    Numbers,
    Unit,
    leg_cash,
    leg_delta,
    leg_delta_pa,
    model_price,
    mr1,
    mr2,
    mr3,
    mr4,
    mr5,
    mr6,
)
from backtest.reference.okx_fees import discounted, mr7, mr8, mr9
from backtest.reference.okx_legs import Book, Leg, index_of, read_book
from backtest.reference.okx_orders import Order, order_loss, outgoing, premium, read_orders
from backtest.reference.okx_units import POSITIONS, risk_units


__all__ = ["margin", "mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr8", "mr9"]

ERAS = ("merged", "split")
_ACCOUNT_NUMBERS = (
    "equity_usd",
    "adjusted_equity",
    "derivatives_mmr",
    "mr8",
    "borrow_imr",
    "total_mmr",
    "total_imr",
    "margin_level",
)


def margin(portfolio: dict[str, Any], numbers: Numbers) -> dict[str, Any]:
    """Every charge, the margin level and the status of one account at one time.

    Args:
        portfolio: The portfolio file of `pmstress margin` (see `okx_legs.read_book`).
        numbers: The plain numbers of a parameter set of the model `okx`.

    Returns:
        The answer of `pmstress margin --json`: `units`, `account`; and `detail` with every
        intermediate number for `explain`. USD unless the name says otherwise; `margin_level` is
        None where nothing is required; break-even multipliers may be infinite. With orders in
        the file every unit says in `binding` which portfolio its numbers are of: `positions`,
        `positions+buys` or `positions+sells`. Where a price is missing the status is `unpriced`,
        every number of the account None, and `detail["unpriced"]` lists what is missing.

    Raises:
        ValueError: The portfolio or the numbers are not usable; the message says why.
    """
    if numbers["era"] not in ERAS:
        raise ValueError(
            f"parameter set {numbers.get('name')!r} is of the era {numbers['era']!r}; "
            f"allowed: {', '.join(ERAS)}"
        )
    numbers = _as_floats(numbers)
    quotes = numbers["quote_currencies"]
    book = read_book(portfolio, quotes)
    orders = read_orders(portfolio, book, quotes)
    equities = equity_by_currency(book)
    indexes = _indexes(book, orders, equities)
    detail: dict[str, Any] = {
        "model": "okx",
        "time": book.time.isoformat(),
        "parameter_set": numbers.get("name"),
        "unpriced": book.missing,
        "index_usd": indexes,
        "cash": book.cash,
        "legs": [_leg_detail(leg) for leg in book.legs] if not book.missing else [],
        "orders": [_order_detail(order) for order in orders] if not book.missing else [],
        "settled": [settled.__dict__ for settled in book.settled],
    }
    if book.missing:
        empty = {**dict.fromkeys(_ACCOUNT_NUMBERS), "status": "unpriced", "theta": None}
        return {"units": {}, "account": empty, "detail": detail}
    units = [
        _unit_answer(portfolios, indexes, numbers)
        for portfolios in risk_units(book, orders, equities, indexes, numbers)
    ]
    if portfolio.get("orders"):
        for _, answer, unit_detail in units:
            answer["binding"] = unit_detail["binding"]
    account, account_detail = _account_answer(
        units, equities, indexes, numbers, orders=orders, auto_borrow=book.auto_borrow
    )
    return {
        "units": {name: answer for name, answer, _ in units},
        "account": account,
        "detail": detail
        | account_detail
        | {"units": {name: unit_detail for name, _, unit_detail in units}},
    }


def equity_by_currency(book: Book) -> dict[str, float]:
    """Equity of each currency in its own units (section 7), currencies in alphabetical order.

    `cash + unrealised PnL of contracts settled in it + option value n m P + settled contracts`;
    interest is taken to have left the cash already. A zero cash row is no equity.

    Example:
        100 USDT and PnL of 290.63 and -78,980 USDT: -78,589.37 USDT (V1).
    """
    found = {currency: cash for currency, cash in book.cash.items() if cash != 0.0}
    for leg in book.legs:
        value = leg.size * leg.mark if leg.is_option else leg.upl_settle
        found[leg.settle] = found.get(leg.settle, 0.0) + value
    for settled in book.settled:
        found[settled.currency] = found.get(settled.currency, 0.0) + settled.value
    return dict(sorted(found.items()))


def unit_charges(unit: Unit, indexes: dict[str, float], numbers: Numbers) -> dict[str, Charge]:
    """The eight charges of a unit, MR8 being one of the account."""
    charges = {rule.__name__: rule(unit, numbers) for rule in (mr1, mr2, mr3, mr4, mr5, mr6, mr7)}
    return {**charges, "mr9": mr9(unit, indexes, numbers)}


def margin_level(adjusted_equity: float, total_mmr: float, borrow_fee: float) -> float | None:
    """`adjusted equity / (total MMR + borrow fee)`, 1.0 = 100 %; None where nothing is required.

    Source: section 7, [D: V1 to 15 digits].
    Example: -78,553.22 / (2,946.55 + 80.12) = -25.95 (V1).
    """
    required = total_mmr + borrow_fee
    return adjusted_equity / required if required > 0.0 else None


def status_of(equity_usd: float, level: float | None, numbers: Numbers) -> str:
    """Status of a priced account; the first that holds of the order below.

    `bankrupt` (equity below 0), `liquidation` (level <= 100 %), `no_requirement`, `warning`
    (level < 300 %), `ineligible` (undiscounted equity below 10,000 USD), `ok`.
    """
    levels = numbers["levels"]
    if equity_usd < 0.0:
        return "bankrupt"
    if level is None:
        return "no_requirement"
    if level <= levels["liquidation"]:
        return "liquidation"
    if level < levels["warning"]:
        return "warning"
    return "ineligible" if equity_usd < levels["min_equity_usd"] else "ok"


def _indexes(book: Book, orders: list[Order], equities: dict[str, float]) -> dict[str, float]:
    """USD per unit of every currency of the account."""
    found = {"USD": 1.0}
    for part in (*book.legs, *orders):
        found |= {part.coin: part.index, part.settle: part.fx}
    return found | {currency: index_of(book, currency) for currency in equities}


def _as_floats(tree: Any) -> Any:
    """The parameter tree with every whole number as float."""
    if isinstance(tree, dict):
        return {key: _as_floats(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_as_floats(value) for value in tree]
    return float(tree) if isinstance(tree, int) and not isinstance(tree, bool) else tree


def _binding(
    portfolios: dict[str, Unit], indexes: dict[str, float], numbers: Numbers
) -> tuple[str, dict[str, Charge], dict[str, float]]:
    """The portfolio of a unit with the largest MMR (the first of equals), its charges, all MMRs."""
    worst = numbers["aggregation"]["worst"]
    found = {name: unit_charges(unit, indexes, numbers) for name, unit in portfolios.items()}
    mmrs = {
        name: breakeven.unit_mmr({key: charge.value for key, charge in charges.items()}, worst)
        for name, charges in found.items()
    }
    binding = breakeven.binding_portfolio(mmrs)
    return binding, found[binding], mmrs


def _unit_answer(
    portfolios: dict[str, Unit], indexes: dict[str, float], numbers: Numbers
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name, public numbers and detail of a unit: those of its binding portfolio.

    `upl` is that of the positions whatever binds, since orders leave equity as it is.
    """
    binding, charges, mmrs = _binding(portfolios, indexes, numbers)
    unit, mmr = portfolios[binding], mmrs[binding]
    values = {name: charge.value for name, charge in charges.items()}
    worst = numbers["aggregation"]["worst"]
    answer = {
        **values,
        "mr1_cells": charges["mr1"].detail["cells"],
        "mmr": mmr,
        "imr": numbers["aggregation"]["imr_factor"] * mmr,
        "delta": unit.spot_in_use + sum(leg_delta(leg) for leg in unit.legs),
        "cash_delta": unit.spot_in_use * unit.index + sum(leg_cash(leg) for leg in unit.legs),
        "spot_in_use": unit.spot_in_use,
        "upl": float(sum(leg.upl_settle * leg.fx for leg in portfolios[POSITIONS].legs)),
    }
    stress = max(values[name] for name in worst)
    added = sum(values[name] for name in breakeven.ADDED)
    detail = {
        "group": unit.group,
        "index": unit.index,
        "binding": binding,
        "portfolios": mmrs,
        "delta_premium_adjusted": float(sum(leg_delta_pa(leg) for leg in unit.legs)),
        "aggregation": {
            "worst": list(worst),
            "imr_factor": numbers["aggregation"]["imr_factor"],
            "stress": stress,
            "added": added,
            "binding": "mr7" if values["mr7"] > stress + added else "stress",
        },
        **{name: charge.detail for name, charge in charges.items()},
    }
    return unit.name, answer, detail


def _account_answer(
    units: list[tuple[str, dict[str, Any], dict[str, Any]]],
    equities: dict[str, float],
    indexes: dict[str, float],
    numbers: Numbers,
    *,
    orders: list[Order],
    auto_borrow: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Public numbers and detail of the account.

    Break-even multipliers scale the charges of the binding portfolios.
    """
    aggregation = numbers["aggregation"]
    borrow = mr8(equities, indexes, numbers, outgoing(orders) if auto_borrow else None)
    collateral = {
        currency: {
            "equity": equity,
            "index": indexes[currency],
            "usd": equity * indexes[currency],
            **discounted(equity, indexes[currency], currency, numbers),
        }
        for currency, equity in equities.items()
    }
    equity_usd = math.fsum(row["usd"] for row in collateral.values())
    loss = math.fsum(map(order_loss, orders))
    premiums = math.fsum(map(premium, orders))
    adjusted = math.fsum(row["value"] for row in collateral.values()) - loss - premiums
    derivatives = float(sum(answer["mmr"] for _, answer, _ in units))
    total, fee = derivatives + borrow.value, borrow.detail["fee"]
    level = margin_level(adjusted, total, fee)
    account = {
        "equity_usd": equity_usd,
        "adjusted_equity": adjusted,
        "derivatives_mmr": derivatives,
        "mr8": borrow.value,
        "borrow_imr": borrow.detail["imr"],
        "total_mmr": total,
        "total_imr": aggregation["imr_factor"] * derivatives + borrow.detail["imr"],
        "margin_level": level,
        "status": status_of(equity_usd, level, numbers),
        "theta": breakeven.break_even(
            [answer for _, answer, _ in units], borrow.value, adjusted - fee, aggregation["worst"]
        ),
    }
    detail = {
        "collateral": collateral,
        "order_loss": loss,
        "premium": premiums,
        "mr8": borrow.detail,
        "borrow_fee": fee,
        "imr_factor": aggregation["imr_factor"],
        "levels": numbers["levels"],
    }
    return account, detail


def _order_detail(order: Order) -> dict[str, Any]:
    """An order as `explain` prints it."""
    return {
        "instrument_id": order.instrument_id,
        "kind": order.kind,
        "coin": order.coin,
        "settle": order.settle,
        "size": order.size,
        "limit": order.limit,
        "mark": order.index / order.fx if order.leg is None else order.leg.mark,
        "loss": order_loss(order),
        "premium": premium(order),
    }


def _leg_detail(leg: Leg) -> dict[str, Any]:
    """A leg as `explain` prints it."""
    return {
        "instrument_id": leg.instrument_id,
        "kind": leg.kind,
        "style": leg.style,
        "coin": leg.coin,
        "settle": leg.settle,
        "contracts": leg.contracts,
        "multiplier": leg.multiplier,
        "mark": leg.mark,
        "forward": leg.forward if leg.is_option else None,
        "sigma": leg.sigma if leg.is_option else None,
        "days": leg.days if leg.expiry else None,
        "model_price": model_price(leg) if leg.is_option else None,
        "delta": leg_delta(leg),
        "cash_delta": leg_cash(leg),
        "upl": leg.upl_settle * leg.fx,
    }
