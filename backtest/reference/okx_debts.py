"""What debts move between two times of a replay (section 8): interest, then conversion.

Cash here is that of the snapshot and what debts have moved since: neither unrealised profit, nor
option value, nor funding, nor what an expiry has paid can be sold (assumed).
"""

import math
from dataclasses import dataclass, field
from typing import Any

from backtest.reference.okx import equity_by_currency
from backtest.reference.okx_borrowing import Conversion, convert, hourly_interest
from backtest.reference.okx_charges import Numbers
from backtest.reference.okx_legs import index_of, read_book


@dataclass
class Step:
    """What debts move at one time: interest by currency in its units, and forced sales."""

    interest: dict[str, float]
    conversion: Conversion = field(default_factory=Conversion)

    @property
    def changes(self) -> dict[str, float]:
        """Change of each currency in its units."""
        found = {currency: -paid for currency, paid in self.interest.items()}
        for currency, change in self.conversion.changes.items():
            found[currency] = found.get(currency, 0.0) + change
        return found


def debt_step(
    portfolio: dict[str, Any],
    numbers: Numbers,
    cash: dict[str, float],
    *,
    hours: float,
    converts: bool,
) -> Step:
    """Interest of the full hours before a time, then the conversion that is due at it.

    A currency that is unpriced pays no interest; an account that holds one is not converted.

    Args:
        portfolio: The portfolio file as of the time; its balances hold what debts moved before.
        numbers: The numbers then; a set without quotas asks nothing.
        cash: Units of each currency that could be sold, before the interest.
        hours: Full hours since the time before.
        converts: Whether assets are sold for the debts of accounts that may not borrow.
    """
    rule = numbers["borrowing"]
    if "quotas" not in rule:
        return Step({})
    book = read_book(portfolio, numbers["quote_currencies"])
    equities = equity_by_currency(book)
    indexes = {currency: index_of(book, currency) for currency in equities}
    priced = {c for c in equities if math.isfinite(equities[c] * indexes[c])}
    debts = {c: -equities[c] for c in priced if equities[c] < 0.0}
    step = Step(hourly_interest(debts, rule["quotas"], rule["daily_rates"], hours))
    if not converts or book.auto_borrow or priced != set(equities):
        return step
    left = {c: equity - step.interest.get(c, 0.0) for c, equity in equities.items()}
    sellable = {c: cash.get(c, 0.0) - step.interest.get(c, 0.0) for c in equities}
    step.conversion = convert(left, indexes, numbers, sellable=sellable)
    return step
