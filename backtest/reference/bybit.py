"""Bybit unified account, portfolio margin, of one account at one time: documentation and oracle.

Plain float64, written from the rule text alone, a small function a rule, loops over legs:

* `bybit_legs`: the portfolio file read into legs; equity by currency, settlement;
* `bybit_grid`: spot hedge, the 33 scenarios and the worst loss;
* `bybit_contingency`: the five components that are added to it;
* `bybit_orders`: open orders filled at their limit, order loss;
* here: units, borrowing, equity, margin level, status and the answer.

All margins in USD. The margin level is the inverse of the venue's maintenance margin rate, so that
a low one is bad here as in the other models: 1.0 is liquidation.

Assumed where the rule text is silent: numbers of a unit beside its charges (delta, spot in use) are
those of the binding portfolio as well, profit and loss that of the positions; no borrow fee in the
margin rate; eligibility is on equity before collateral ratios.
"""

import math
from typing import Any

from backtest.reference.breakeven import binding_portfolio
from backtest.reference.bybit_contingency import (
    delta_spread,
    perpetual_futures,
    short_options,
    stablecoin_spread,
    vega_spread,
)
from backtest.reference.bybit_grid import Unit, max_loss, spot_in_use
from backtest.reference.bybit_legs import (
    SECONDS_PER_DAY,
    Book,
    Leg,
    equity_by_currency,
    index_of,
    read_book,
)
from backtest.reference.bybit_orders import CASES, filled, order_rows, outflows
from backtest.reference.okx_charges import Charge, Numbers
from backtest.reference.okx_fees import borrow_rates, discounted


__all__ = [
    "CHARGES",
    "CONTINGENCY",
    "break_even",
    "delta_spread",
    "margin",
    "max_loss",
    "perpetual_futures",
    "short_options",
    "stablecoin_spread",
    "vega_spread",
]

CONTINGENCY = (
    "short_options",
    "vega_spread",
    "stablecoin_spread",
    "delta_spread",
    "perpetual_futures",
)
CHARGES = ("max_loss", *CONTINGENCY, "borrow")
"""All charges in the order of reports; the last one is of the account, the others of its units."""

_RULES = (
    max_loss,
    short_options,
    vega_spread,
    stablecoin_spread,
    delta_spread,
    perpetual_futures,
)
_ACCOUNT_NUMBERS = (
    "equity_usd",
    "adjusted_equity",
    "derivatives_mmr",
    "borrow_mmr",
    "borrow_imr",
    "total_mmr",
    "total_imr",
    "margin_level",
    "mm_rate",
)


def margin(portfolio: dict[str, Any], numbers: Numbers) -> dict[str, Any]:
    """Every charge, the margin level and the status of one account at one time.

    Args:
        portfolio: The portfolio file of `pmstress margin` (see `bybit_legs.read_book`).
        numbers: The plain numbers of a parameter set of the model `bybit`.

    Returns:
        `units`, `account`, and `detail` with every intermediate number. USD unless the name says
        otherwise; `margin_level` and `mm_rate` are None where nothing is required; break-even
        multipliers may be infinite, `mm_rate` is where no equity is left. Where a price is
        missing the status is `unpriced`, every number of the account None, and
        `detail["unpriced"]` lists what is missing.

    Raises:
        ValueError: The portfolio or the numbers are not usable; the message says why.
    """
    if numbers["model"] != "bybit":
        raise ValueError(
            f"parameter set {numbers.get('name')!r} is of the model {numbers['model']!r}; "
            "this reference knows 'bybit' only"
        )
    book = read_book(portfolio, numbers)
    equities = equity_by_currency(book)
    indexes = _indexes(book, equities)
    detail: dict[str, Any] = {
        "model": "bybit",
        "time": book.time.isoformat(),
        "parameter_set": numbers.get("name"),
        "unpriced": book.missing,
        "index_usd": indexes,
        "cash": book.cash,
        "legs": [_leg_detail(leg) for leg in book.positions] if not book.missing else [],
        "settled": [settled.__dict__ for settled in book.settled],
        "lapsed_orders": [order.__dict__ for order in book.lapsed],
    }
    if book.missing:
        empty = {**dict.fromkeys(_ACCOUNT_NUMBERS), "status": "unpriced", "theta": None}
        return {"units": {}, "account": empty, "detail": detail}
    units, unit_detail = _unit_answers(book, equities, indexes, numbers)
    account, account_detail = _account_answer(book, units, equities, indexes, numbers)
    return {
        "units": units,
        "account": account,
        "detail": {**detail, **account_detail, "units": unit_detail},
    }


def risk_units(
    book: Book, equities: dict[str, float], indexes: dict[str, float], numbers: Numbers
) -> dict[str, dict[str, Unit]]:
    """One unit per coin with a position, an order or equity, in alphabetical order.

    All contracts of the coin whatever they settle in, and the spot that hedges them: each coin with
    its three portfolios, `{coin: {"positions", "positions+buys", "positions+sells"}}`. Balances
    in a quote currency belong to the account, not to a unit.
    """
    quotes = set(numbers["quote_currencies"])
    with_spot = set(equities)
    for leg in book.legs.values():
        with_spot |= {leg.coin, leg.settle} if leg.kind == "spot" else set()
    derivatives = {leg.coin for leg in book.legs.values() if leg.kind != "spot"}
    units: dict[str, dict[str, Unit]] = {}
    for coin in sorted(derivatives | (with_spot - quotes)):
        units[coin] = {}
        for case in CASES:
            legs, equity = filled(book, coin, equities.get(coin, 0.0), case)
            equity = 0.0 if coin in quotes else equity
            spot = spot_in_use(legs, coin, equity, book.spot_limits.get(coin), numbers)
            units[coin][case] = Unit(coin, indexes[coin], legs, spot)
    return units


def unit_charges(unit: Unit, numbers: Numbers) -> dict[str, Charge]:
    """Worst loss and contingency of a unit, `MM_u` their sum."""
    return {rule.__name__: rule(unit, numbers) for rule in _RULES}


def borrowing(
    equities: dict[str, float],
    needed: dict[str, float],
    indexes: dict[str, float],
    numbers: Numbers,
) -> Charge:
    """Borrowing margin of the account, USD: `sum tierMMR_c(liab_c) liab_c S_c`.

    `liab_c = max(0, needed_c - equity_c)`, `needed` what open orders would take; the whole
    liability takes the rate of the tier it falls in. The detail holds `imr`.

    Source: account, as OKX MR8 with tiers of its own; BTC [P], others [A].
    Example: 10 BTC owed at 60,000: 4 % = 24,000 USD, IMR 20 % = 120,000 USD.
    """
    tables = {"mr8": {"tiers": numbers["borrowing"]["tiers"]}}
    rows: dict[str, dict[str, Any]] = {}
    for currency in sorted({**equities, **needed}):
        liability = needed.get(currency, 0.0) - equities.get(currency, 0.0)
        if liability > 0.0:
            rates = borrow_rates(liability, indexes[currency], currency, tables)
            usd = liability * indexes[currency]
            rows[currency] = {"liability": liability, "liability_usd": usd, **rates}
    value, imr = (
        float(sum(row[rate] * row["liability_usd"] for row in rows.values()))
        for rate in ("mmr", "imr")
    )
    return Charge(value, {"liabilities": rows, "needed": needed, "imr": imr})


def break_even(charges: dict[str, float], budget: float) -> dict[str, float]:
    """Break-even multiplier of every charge, dimensionless.

    `theta_k = sup{theta >= 0 : budget >= total MM with charge k scaled by theta}`: the total is
    the sum of the charges. 0 if the rest alone is too much, infinite if any multiple is borne.

    Args:
        charges: Charges of the account by name, summed over its units, USD.
        budget: Adjusted equity, USD.

    Example:
        >>> break_even({"max_loss": 50.0, "borrow": 10.0}, 110.0)
        {'max_loss': 2.0, 'borrow': 6.0}
    """
    found = {}
    for name, value in charges.items():
        rest = float(sum(other for key, other in charges.items() if key != name))
        if rest > budget:
            found[name] = 0.0
        else:
            found[name] = (budget - rest) / value if value > 0.0 else math.inf
    return found


def status_of(equity_usd: float, level: float | None, numbers: Numbers) -> str:
    """Status of a priced account; the first that holds of the order below.

    `bankrupt` (equity below 0), `liquidation` (level <= 1, a margin rate of 100 % or more),
    `no_requirement`, `warning`, `ineligible` (equity below 1,000 USD), `ok`.
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


def _indexes(book: Book, equities: dict[str, float]) -> dict[str, float]:
    """Index of every currency that the account has to do with; absent ones are noted."""
    indexes = {"USD": 1.0}
    for leg in book.legs.values():
        indexes |= {leg.coin: leg.index, leg.settle: leg.fx}
    return indexes | {currency: index_of(book, currency) for currency in equities}


def _unit_answers(
    book: Book, equities: dict[str, float], indexes: dict[str, float], numbers: Numbers
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Public numbers and detail of every unit, each of the portfolio that binds it.

    `MM_u = max(MM[C], MM[A+C], MM[B+C])`, the first of equal ones.
    """
    answers, details = {}, {}
    for coin, portfolios in risk_units(book, equities, indexes, numbers).items():
        found = {case: _unit_answer(unit, book, numbers) for case, unit in portfolios.items()}
        mmrs = {case: answer["mmr"] for case, (answer, _) in found.items()}
        binding = binding_portfolio(mmrs)
        answer, detail = found[binding]
        answers[coin] = {**answer, "binding": binding}
        details[coin] = {**detail, "binding": binding, "portfolios": mmrs}
    return answers, details


def _unit_answer(unit: Unit, book: Book, numbers: Numbers) -> tuple[dict[str, Any], dict[str, Any]]:
    """Public numbers and detail of a unit in one portfolio."""
    charges = unit_charges(unit, numbers)
    values = {name: charge.value for name, charge in charges.items()}
    contingency = float(sum(values[name] for name in CONTINGENCY))
    mmr = values["max_loss"] + contingency
    grid = charges["max_loss"].detail
    factor = numbers["aggregation"]["imr_factor"]
    answer = {
        "cells": grid["cells"],
        "all": [price["all"] for price in grid["prices"]],
        **values,
        "contingency": contingency,
        "mmr": mmr,
        "imr": factor * mmr,
        "delta": unit.spot_in_use + sum(leg.delta for leg in unit.legs),
        "cash_delta": unit.spot_in_use * unit.index + sum(leg.cash_delta for leg in unit.legs),
        "spot_in_use": unit.spot_in_use,
        "upl": sum(
            (leg.upl_settle * leg.fx for leg in book.legs.values() if leg.coin == unit.name), 0.0
        ),
    }
    detail = {
        "index": unit.index,
        "imr_factor": factor,
        "legs": [_leg_detail(leg) for leg in unit.legs],
        **{name: charge.detail for name, charge in charges.items()},
    }
    return answer, detail


def _account_answer(
    book: Book,
    units: dict[str, dict[str, Any]],
    equities: dict[str, float],
    indexes: dict[str, float],
    numbers: Numbers,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Public numbers and detail of the account.

    `MM rate = total MM / (equity - haircut loss + order loss)`, order loss <= 0; the margin level
    is its inverse.
    """
    collateral = {
        currency: _collateral(equity, indexes[currency], currency, numbers)
        for currency, equity in equities.items()
    }
    equity_usd = math.fsum(row["usd"] for row in collateral.values())
    haircut = math.fsum(row["haircut"] for row in collateral.values())
    orders = order_rows(book)
    order_loss = -math.fsum(row["loss"] for row in orders)
    adjusted = equity_usd - haircut + order_loss
    borrow = borrowing(equities, outflows(book), indexes, numbers)
    charges = {name: float(sum(unit[name] for unit in units.values())) for name in CHARGES[:-1]} | {
        "borrow": borrow.value
    }
    derivatives = float(sum(unit["mmr"] for unit in units.values()))
    total = derivatives + borrow.value
    level = adjusted / total if total > 0.0 else None
    account = {
        "equity_usd": equity_usd,
        "adjusted_equity": adjusted,
        "derivatives_mmr": derivatives,
        "borrow_mmr": borrow.value,
        "borrow_imr": borrow.detail["imr"],
        "total_mmr": total,
        "total_imr": float(sum(unit["imr"] for unit in units.values())) + borrow.detail["imr"],
        "margin_level": level,
        "mm_rate": _rate(total, adjusted),
        "status": status_of(equity_usd, level, numbers),
        "theta": break_even(charges, adjusted),
    }
    levels = numbers["levels"]
    in_debt = any(equity < 0.0 for equity in equities.values())
    detail = {
        "collateral": collateral,
        "haircut_loss": haircut,
        "orders": orders,
        "order_loss": order_loss,
        "charges": charges,
        "borrow": borrow.detail,
        "levels": levels,
        "repay_due": in_debt and level is not None and level <= levels["repay"],
    }
    return account, detail


def _collateral(equity: float, index: float, currency: str, numbers: Numbers) -> dict[str, Any]:
    """Equity of a currency in USD and what its collateral ratio takes from it, >= 0."""
    usd = equity * index
    valued = discounted(equity, index, currency, numbers)
    return {
        "equity": equity,
        "index": index,
        "usd": usd,
        **valued,
        "haircut": usd - valued["value"],
    }


def _rate(total: float, adjusted: float) -> float | None:
    """Maintenance margin rate, 1.0 = 100 %; None without a requirement, infinite without equity."""
    if total <= 0.0:
        return None
    return total / adjusted if adjusted > 0.0 else math.inf


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
        "days": leg.seconds_left / SECONDS_PER_DAY if leg.expiry else None,
        "delta": leg.delta,
        "vega": leg.vega,
        "cash_delta": leg.cash_delta,
        "upl": leg.upl_settle * leg.fx,
    }
