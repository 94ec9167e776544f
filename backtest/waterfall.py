"""Who pays what bankrupt accounts cannot, on arrays: fund, deleveraging, nobody.

The rules are those of ``backtest.reference.waterfall``: revenues before all losses; losses in the
order of their accounts; whether deleveraging is due is asked before every loss; a winner gives up
at most its unrealised profit. Money in USD, amounts of the outcome not negative, times in
microseconds since the epoch.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


POLICIES = ("none", "queue", "pro_rata", "capped")
MICROS_PER_DAY = 86_400 * 1_000_000


@dataclass(frozen=True)
class Fund:
    """The insurance fund: its balance, and the balances of the last hours with their times."""

    balance_usd: float
    times_us: np.ndarray
    balances_usd: np.ndarray

    @staticmethod
    def of(balance_usd: float) -> "Fund":
        """A fund without a history."""
        return Fund(balance_usd, np.zeros(0, np.int64), np.zeros(0))

    def peak_usd(self, now_us: int, rules: dict[str, Any]) -> float:
        """Largest balance within ``adl.window_days`` before a time, that of now included."""
        recent = self.balances_usd[self.times_us >= _since(now_us, rules)]
        return float(recent.max(initial=self.balance_usd))

    def at(self, now_us: int, balance_usd: float, rules: dict[str, Any]) -> "Fund":
        """The fund with another balance; what the window has passed is forgotten."""
        kept = self.times_us >= _since(now_us, rules)
        return Fund(
            balance_usd,
            np.append(self.times_us[kept], now_us),
            np.append(self.balances_usd[kept], balance_usd),
        )


@dataclass(frozen=True)
class Winners:
    """Accounts that can be deleveraged, in the order of their names.

    ``profit_usd`` is unrealised in the contracts in question, ``entry_usd`` what these were worth
    at their entry, ``leverage`` the gross size of the account over its equity.
    """

    profit_usd: np.ndarray
    entry_usd: np.ndarray
    leverage: np.ndarray
    equity_usd: np.ndarray

    def less(self, given_usd: np.ndarray) -> "Winners":
        """The winners after they gave something up."""
        return replace(
            self, profit_usd=self.profit_usd - given_usd, equity_usd=self.equity_usd - given_usd
        )

    def rank(self) -> np.ndarray:
        """Return times leverage; without an entry value it comes first."""
        known = self.entry_usd > 0.0
        share = np.divide(
            self.profit_usd, self.entry_usd, out=np.full(len(known), np.inf), where=known
        )
        return np.where(known, share * self.leverage, np.inf)


@dataclass(frozen=True)
class Outcome:
    """How the losses of one time were paid; arrays by loss, ``haircut_usd`` by winner.

    ``loss = fund + adl + unfunded`` for every account.
    """

    fund: Fund
    revenue_usd: float
    loss_usd: np.ndarray
    from_fund_usd: np.ndarray
    from_adl_usd: np.ndarray
    unfunded_usd: np.ndarray
    haircut_usd: np.ndarray
    needed_usd: float

    @property
    def overshoot(self) -> float:
        """Haircut taken over haircut needed; 1 where none was needed."""
        return math.fsum(self.haircut_usd) / self.needed_usd if self.needed_usd > 0.0 else 1.0


def is_adl_due(fund: Fund, now_us: int, rules: dict[str, Any]) -> bool:
    """Whether deleveraging is due: the fund is empty, or far below its peak of the last hours.

    Example: a peak of 100 within 8 hours: due at 70, not at 71.
    """
    if math.isinf(fund.balance_usd):
        return False
    trigger = (1.0 - rules["adl"]["drop"]) * fund.peak_usd(now_us, rules)
    return fund.balance_usd <= max(trigger, 0.0)


def deleverage(need_usd: float, winners: Winners, rules: dict[str, Any]) -> np.ndarray:
    """What each winner gives up, USD; at most the need altogether.

    Example: a need of 30 from profits of 10, 20 and 70, pro rata: 3, 6 and 21.
    """
    policy = rules["adl"]["policy"]
    if policy not in POLICIES:
        raise ValueError(f"adl.policy is {policy!r}; allowed: {', '.join(POLICIES)}")
    profit = np.maximum(winners.profit_usd, 0.0)
    if policy == "none" or need_usd <= 0.0:
        return np.zeros(len(profit))
    if policy == "queue":
        order = np.lexsort((np.arange(len(profit)), -winners.rank()))
        ahead = np.cumsum(profit[order]) - profit[order]
        given = np.zeros(len(profit))
        given[order] = np.clip(need_usd - ahead, 0.0, profit[order])
        return given
    limit = profit
    if policy == "capped":
        share = rules["adl"]["cap_share"] * np.maximum(winners.equity_usd, 0.0)
        limit = np.minimum(profit, share)
    return _filled(need_usd, profit, limit)


def settle(
    fund: Fund,
    loss_usd: np.ndarray,
    winners: Winners,
    now_us: int,
    rules: dict[str, Any],
    *,
    fees_usd: float = 0.0,
    surplus_usd: float = 0.0,
) -> Outcome:
    """Pay the losses of one time.

    Args:
        fund: the fund before.
        loss_usd: losses in the order in which they are settled.
        winners: who can be deleveraged.
        now_us: the time, for the peak of the fund.
        rules: plain numbers of a liquidation file; ``fund`` and ``adl`` are used.
        fees_usd: fees of all liquidations of the time.
        surplus_usd: what the fund takes of accounts that were closed altogether.
    """
    revenue = rules["fund"]["fee_share"] * fees_usd + surplus_usd
    fund = fund.at(now_us, fund.balance_usd + revenue, rules)
    count = len(loss_usd)
    paid, adl, unfunded = np.zeros(count), np.zeros(count), np.zeros(count)
    given = np.zeros(len(winners.profit_usd))
    needed = 0.0
    for k, loss in enumerate(loss_usd.tolist()):
        is_due = is_adl_due(fund, now_us, rules)
        first = 0.0 if is_due else min(loss, max(0.0, fund.balance_usd))
        need = loss - first
        needed += need
        cuts = deleverage(need, winners.less(given), rules)
        given = given + cuts
        adl[k] = math.fsum(cuts)
        left = max(0.0, need - adl[k])
        last = 0.0
        if is_due and rules["adl"]["fund_last"]:
            last = min(left, max(0.0, fund.balance_usd))
        paid[k], unfunded[k] = first + last, left - last
        fund = fund.at(now_us, fund.balance_usd - float(paid[k]), rules)
    return Outcome(fund, revenue, loss_usd, paid, adl, unfunded, given, needed)


def imbalance_usd(before: Fund, outcome: Outcome, fees_usd: float, surplus_usd: float) -> float:
    """What is not accounted for, USD; 0 but for rounding, and tests hold it below half a cent."""
    borne = outcome.from_fund_usd, outcome.from_adl_usd, outcome.unfunded_usd
    losses = math.fsum(outcome.loss_usd) - math.fsum(math.fsum(part) for part in borne)
    haircuts = math.fsum(outcome.haircut_usd) - math.fsum(outcome.from_adl_usd)
    fund = 0.0
    if math.isfinite(before.balance_usd):
        fund = outcome.fund.balance_usd - before.balance_usd - outcome.revenue_usd
        fund += math.fsum(outcome.from_fund_usd)
    income = max(0.0, outcome.revenue_usd - fees_usd - surplus_usd)
    return abs(losses) + abs(haircuts) + abs(fund) + income


def _since(now_us: int, rules: dict[str, Any]) -> int:
    return now_us - round(rules["adl"]["window_days"] * MICROS_PER_DAY)


def _filled(need: float, weights: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """A need shared by weights, none beyond its limit; who is at the limit stays there."""
    found = np.zeros(len(weights))
    free = (limits > 0.0) & (weights > 0.0)
    left = min(need, math.fsum(limits[free]))
    while free.any() and left > 0.0:
        shares = np.where(free, left * weights / math.fsum(weights[free]), 0.0)
        full = free & (shares >= limits)
        if not full.any():
            return np.where(free, shares, found)
        found = np.where(full, limits, found)
        left -= math.fsum(limits[full])
        free &= ~full
    return found
