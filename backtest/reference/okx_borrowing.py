"""Debts over time (section 8): hourly interest, and forced conversion in the non-auto mode.

What a replay does to the balances between two times; pure functions of plain numbers. Tables by
currency hold a `default` for every currency that they do not name.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from backtest.reference.okx_charges import Numbers
from backtest.reference.okx_fees import discounted


HOURS_PER_DAY = 24.0
ORDERS = ("lowest_discount_first", "highest_discount_first")


@dataclass
class Conversion:
    """Forced sales: change of every currency in its units, and each sale in its order.

    A sale is `{"sold", "amount", "bought", "received", "debt"}`, amounts positive and in units.
    """

    changes: dict[str, float] = field(default_factory=dict[str, float])
    sales: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def table_value(table: dict[str, float], currency: str) -> float:
    """Value of a currency in a table, or its `default`."""
    return table.get(currency, table["default"])


def hourly_interest(
    liabilities: dict[str, float],
    quotas: dict[str, float],
    daily_rates: dict[str, float],
    hours: float,
) -> dict[str, float]:
    """Interest that debts accrue, by currency in its units, positive; free ones are left out.

    `max(0, liability - quota) * daily rate / 24 * hours`: only the part above the quota pays, and
    nothing compounds within the span (assumed).

    Args:
        liabilities: Debts by currency, positive, in units.
        quotas: Interest-free part of a debt, units.
        daily_rates: Fraction a day.
        hours: Full hours of the span, not negative.

    Source: section 8, hourly accrual [S], quotas and rates [P].
    Example: 44,000 USDT owed, quota 20,000, 0.0069 % a day, 2 hours: 0.138 USDT.
    """
    if hours < 0.0:
        raise ValueError(f"hours is {hours:g}; allowed: 0 or more")
    found: dict[str, float] = {}
    for currency, liability in sorted(liabilities.items()):
        charged = max(0.0, liability - table_value(quotas, currency))
        interest = charged * table_value(daily_rates, currency) / HOURS_PER_DAY * hours
        if interest > 0.0:
            found[currency] = interest
    return found


def convert(
    equities: dict[str, float],
    indexes: dict[str, float],
    numbers: Numbers,
    *,
    sellable: dict[str, float] | None = None,
) -> Conversion:
    """Forced conversion of an account in the non-auto mode: assets pay debts above their quota.

    Every debt above its quota is paid down to zero, or until nothing is left to sell, the largest
    in USD first. Assets are sold one after the other in the order of their discount rate into the
    currency `conversion_through` (USDT) and that into the debt's currency; every step loses the
    share `conversion_cost`. No more of an asset is sold than the debt needs.

    Args:
        equities: Equity by currency, in its units, negative for a debt.
        indexes: USD per unit of every currency in `equities` and of `conversion_through`.
        numbers: The parameter set; its tables `borrowing` and `collateral` are used.
        sellable: Units of an asset that can be sold at most, for instance its cash, where equity
            holds unrealised profit too; without it the whole equity.

    Source: section 8; sequence [S], lowest discount rate first [P, disputed]; the largest debt
        first, the rate being that of the whole holding, costs, ties by name [A].
    Example: 30,000 USDT owed above the quota of 20,000 and 1 BTC at 60,000 USD: half a BTC is
        sold for 30,000 USDT and the debt is gone.
    """
    rule = numbers["borrowing"]
    left = {currency: equity for currency, equity in equities.items() if equity > 0.0}
    if sellable is not None:
        left = {c: max(0.0, min(equity, sellable.get(c, 0.0))) for c, equity in left.items()}
    assets = _selling_order(left, equities, indexes, numbers)
    found = Conversion()
    debts = sorted(
        (currency for currency, equity in equities.items() if equity < 0.0),
        key=lambda currency: (equities[currency] * indexes[currency], currency),
    )
    for debt in debts:
        owed = -equities[debt]
        if owed <= table_value(rule["quotas"], debt):
            continue
        for asset in assets:
            if owed > 0.0 and left[asset] > 0.0:
                owed -= _sell(found, left, asset, debt, owed, indexes, rule)
        repaid = -equities[debt] - owed
        if repaid > 0.0:
            found.changes[debt] = repaid
    return found


def _selling_order(
    left: dict[str, float], equities: dict[str, float], indexes: dict[str, float], numbers: Numbers
) -> list[str]:
    """Assets in the order in which they are sold; among equal rates by name."""
    choice = numbers["borrowing"]["conversion_order"]
    if choice not in ORDERS:
        raise ValueError(f"conversion_order is {choice!r}; allowed: {', '.join(ORDERS)}")
    sign = 1.0 if choice == "lowest_discount_first" else -1.0

    def rate(currency: str) -> float:
        value = discounted(equities[currency], indexes[currency], currency, numbers)["value"]
        return value / (equities[currency] * indexes[currency])

    return sorted(left, key=lambda currency: (sign * rate(currency), currency))


def _sell(
    found: Conversion,
    left: dict[str, float],
    asset: str,
    debt: str,
    owed: float,
    indexes: dict[str, float],
    rule: dict[str, Any],
) -> float:
    """Sell an asset for a debt; returns how much of the debt that pays, units of its currency."""
    through = rule["conversion_through"]
    steps = [asset, debt] if through in (asset, debt) else [asset, through, debt]
    kept = 1.0 - rule["conversion_cost"]
    price = indexes[asset] / indexes[debt] * kept ** (len(steps) - 1)
    amount, paid = owed / price, owed
    if amount > left[asset]:
        amount, paid = left[asset], left[asset] * price
    left[asset] -= amount
    found.changes[asset] = found.changes.get(asset, 0.0) - amount
    sold = amount
    for one, other in pairwise(steps):
        received = paid if other == debt else sold * indexes[one] / indexes[other] * kept
        sale = {"sold": one, "amount": sold, "bought": other, "received": received, "debt": debt}
        found.sales.append(sale)
        sold = received
    return paid
