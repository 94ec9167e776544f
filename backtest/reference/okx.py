"""OKX portfolio margin of one account at one time, in plain float64: documentation and oracle.

Written from the rule text alone, a small function a rule, loops over legs, nothing clever. The
rules live where they are about the same thing:

* `okx_legs`: the portfolio file read into legs; unrealised PnL, settlement of expired contracts;
* `okx_charges`: `mr1` ... `mr6`, moves of price, volatility, time, basis and rates;
* `okx_fees`: `mr7`, `mr8`, `mr9` and the collateral tiers;
* `breakeven`: aggregation and break-even multipliers;
* here: units, equity, margin level, status and the answer.

Merged era (one unit per coin), no open orders. All margins in USD.
"""

import math
from typing import Any

from backtest.reference import breakeven
from backtest.reference.okx_charges import (
    Charge,
    Numbers,
    Unit,
    group_of,
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
    spot_in_use,
)
from backtest.reference.okx_fees import discounted, mr7, mr8, mr9
from backtest.reference.okx_legs import Book, Leg, index_of, read_book


__all__ = ["margin", "mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr8", "mr9"]

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
        None where nothing is required; break-even multipliers may be infinite. Where a price
        is missing the status is `unpriced`, every number of the account None, and
        `detail["unpriced"]` lists what is missing.

    Raises:
        ValueError: The portfolio or the numbers are not usable; the message says why.
        NotImplementedError: Open orders, or a parameter set of the split era.
    """
    if numbers["era"] != "merged":
        raise NotImplementedError(
            f"parameter set {numbers.get('name')!r} is of the era {numbers['era']!r}; "
            "the reference knows 'merged' only"
        )
    numbers = _as_floats(numbers)
    book = read_book(portfolio, numbers["quote_currencies"])
    equities = equity_by_currency(book)
    indexes = {"USD": 1.0}
    for leg in book.legs:
        indexes |= {leg.coin: leg.index, leg.settle: leg.fx}
    indexes |= {currency: index_of(book, currency) for currency in equities}
    detail: dict[str, Any] = {
        "time": book.time.isoformat(),
        "parameter_set": numbers.get("name"),
        "unpriced": book.missing,
        "index_usd": indexes,
        "cash": book.cash,
        "legs": [_leg_detail(leg) for leg in book.legs] if not book.missing else [],
        "settled": [settled.__dict__ for settled in book.settled],
    }
    if book.missing:
        empty = {**dict.fromkeys(_ACCOUNT_NUMBERS), "status": "unpriced", "theta": None}
        return {"units": {}, "account": empty, "detail": detail}
    units = [
        _unit_answer(unit, indexes, numbers)
        for unit in risk_units(book, equities, indexes, numbers)
    ]
    account, account_detail = _account_answer(units, equities, indexes, numbers)
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


def risk_units(
    book: Book, equities: dict[str, float], indexes: dict[str, float], numbers: Numbers
) -> list[Unit]:
    """One unit per coin with a position or equity, in alphabetical order (section 3, merged era).

    All contracts of the coin whatever they settle in, and its spot in use. Balances in a quote
    currency belong to the account, not to a unit.
    """
    quotes = numbers["quote_currencies"]
    coins = {leg.coin for leg in book.legs} | {c for c in equities if c not in quotes}
    units = []
    for coin in sorted(coins):
        legs = [leg for leg in book.legs if leg.coin == coin]
        equity = 0.0 if coin in quotes else equities.get(coin, 0.0)
        spot = spot_in_use(legs, equity, book.spot_limits.get(coin))
        units.append(Unit(coin, group_of(coin, numbers), indexes[coin], legs, spot))
    return units


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


def _as_floats(tree: Any) -> Any:
    """The parameter tree with every whole number as float."""
    if isinstance(tree, dict):
        return {key: _as_floats(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_as_floats(value) for value in tree]
    return float(tree) if isinstance(tree, int) and not isinstance(tree, bool) else tree


def _unit_answer(
    unit: Unit, indexes: dict[str, float], numbers: Numbers
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name, public numbers and detail of a unit."""
    charges = unit_charges(unit, indexes, numbers)
    values = {name: charge.value for name, charge in charges.items()}
    worst = numbers["aggregation"]["worst"]
    mmr = breakeven.unit_mmr(values, worst)
    answer = {
        **values,
        "mr1_cells": charges["mr1"].detail["cells"],
        "mmr": mmr,
        "imr": numbers["aggregation"]["imr_factor"] * mmr,
        "delta": unit.spot_in_use + sum(leg_delta(leg) for leg in unit.legs),
        "cash_delta": unit.spot_in_use * unit.index + sum(leg_cash(leg) for leg in unit.legs),
        "spot_in_use": unit.spot_in_use,
        "upl": float(sum(leg.upl_settle * leg.fx for leg in unit.legs)),
    }
    stress = max(values[name] for name in worst)
    added = sum(values[name] for name in breakeven.ADDED)
    detail = {
        "group": unit.group,
        "index": unit.index,
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
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Public numbers and detail of the account."""
    aggregation = numbers["aggregation"]
    borrow = mr8(equities, indexes, numbers)
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
    adjusted = math.fsum(row["value"] for row in collateral.values())
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
        "mr8": borrow.detail,
        "borrow_fee": fee,
        "imr_factor": aggregation["imr_factor"],
        "levels": numbers["levels"],
    }
    return account, detail


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
