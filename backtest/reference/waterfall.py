"""Who pays what a bankrupt account cannot: insurance fund, other accounts, nobody.

The fund earns the fees of liquidations (its share) and what is left of accounts that were closed
altogether. It pays the losses of bankrupt accounts until it is empty or auto-deleveraging is due;
then the accounts with profit give some of it up; what they do not give stays unfunded. Money in
USD; amounts in the ledger are not negative.

Assumed where the sources are silent:

* losses are settled in the order given, account by account, revenues before all losses;
* whether deleveraging is due is asked before every loss. Once due, the loss goes to the accounts
  first and to the fund last (`adl.fund_last`);
* a winner gives up at most its unrealised profit.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from backtest.reference.liquidation_trades import Rules


POLICIES = ("none", "queue", "pro_rata", "capped")


@dataclass(frozen=True)
class Fund:
    """The insurance fund: its balance, and the balances of the last hours with their times."""

    balance_usd: float
    history: tuple[tuple[datetime, float], ...] = ()

    def peak(self, now: datetime, rules: Rules) -> float:
        """Largest balance within `adl.window_days` before a time, that of now included."""
        since = now - timedelta(days=rules["adl"]["window_days"])
        return max([self.balance_usd, *(usd for time, usd in self.history if time >= since)])

    def at(self, now: datetime, balance_usd: float, rules: Rules) -> "Fund":
        """The fund with another balance; what the window has passed is forgotten."""
        since = now - timedelta(days=rules["adl"]["window_days"])
        kept = [(time, usd) for time, usd in self.history if time >= since]
        return Fund(balance_usd, (*kept, (now, balance_usd)))


@dataclass(frozen=True)
class Winner:
    """An account that can be deleveraged.

    `profit_usd > 0` is its unrealised profit in the contracts in question, `entry_usd` what they
    were worth at their entry, `leverage` the gross size of the account over its equity.
    """

    account_id: str
    profit_usd: float
    entry_usd: float
    leverage: float
    equity_usd: float


@dataclass(frozen=True)
class Outcome:
    """How the losses of one time were paid. `loss = fund + adl + unfunded` for every account."""

    fund: Fund
    revenue_usd: float
    losses_usd: dict[str, float]
    from_fund_usd: dict[str, float]
    from_adl_usd: dict[str, float]
    unfunded_usd: dict[str, float]
    haircuts_usd: dict[str, float]
    needed_usd: float

    @property
    def overshoot(self) -> float:
        """Haircut taken over haircut needed; 1 where none was needed."""
        taken = math.fsum(self.haircuts_usd.values())
        return taken / self.needed_usd if self.needed_usd > 0.0 else 1.0


@dataclass
class _Open:
    """Accounts that can still give, and what they have given."""

    winners: list[Winner]
    given: dict[str, float] = field(default_factory=dict[str, float])

    def take(self, need: float, rules: Rules) -> float:
        """Take a need from the winners by the policy; how much of it they gave."""
        left = [
            replace(
                each,
                profit_usd=each.profit_usd - self.given.get(each.account_id, 0.0),
                equity_usd=each.equity_usd - self.given.get(each.account_id, 0.0),
            )
            for each in self.winners
        ]
        found = deleverage(need, left, rules)
        for name, amount in found.items():
            self.given[name] = self.given.get(name, 0.0) + amount
        return math.fsum(found.values())


def is_adl_due(fund: Fund, now: datetime, rules: Rules) -> bool:
    """Whether deleveraging is due: the fund is empty, or far below its peak of the last hours.

    `fund <= 0` or `fund <= (1 - drop) * peak`, drop 30 % and 8 hours by default.

    Source: OKX, backtesting 2.6.
    Example: a peak of 100 within 8 hours: due at 70, not at 71.
    """
    if math.isinf(fund.balance_usd):
        return False
    trigger = (1.0 - rules["adl"]["drop"]) * fund.peak(now, rules)
    return fund.balance_usd <= max(trigger, 0.0)


def deleverage(need: float, winners: Iterable[Winner], rules: Rules) -> dict[str, float]:
    """What each winner gives up, USD, by account; at most the need altogether.

    `queue`: by return times leverage, `profit / entry value * leverage`, the highest first, each
    its whole profit until the need is met. `pro_rata`: all alike, `need * profit / sum of profits`.
    `capped`: as pro rata, none more than the share `adl.cap_share` of its equity; what the capped
    do not give, the others do. `none`: nobody. Ties by account.

    Source: backtesting 2.6, queue and pro rata; the cap [A].
    Example: a need of 30 from profits of 10, 20 and 70: pro rata 3, 6 and 21.
    """
    policy = rules["adl"]["policy"]
    if policy not in POLICIES:
        raise ValueError(f"adl.policy is {policy!r}; allowed: {', '.join(POLICIES)}")
    able = sorted((w for w in winners if w.profit_usd > 0.0), key=lambda w: w.account_id)
    if policy == "none" or need <= 0.0 or not able:
        return {}
    if policy == "queue":
        return _queue(need, sorted(able, key=lambda w: -_rank(w)))
    limits = {w.account_id: w.profit_usd for w in able}
    if policy == "capped":
        share = rules["adl"]["cap_share"]
        limits = {w.account_id: min(w.profit_usd, share * max(w.equity_usd, 0.0)) for w in able}
    return _filled(need, {w.account_id: w.profit_usd for w in able}, limits)


def settle(
    fund: Fund,
    losses: Sequence[tuple[str, float]],
    winners: Iterable[Winner],
    now: datetime,
    rules: Rules,
    *,
    fees_usd: float = 0.0,
    surplus_usd: float = 0.0,
) -> Outcome:
    """Pay the losses of one time.

    Args:
        fund: The fund before.
        losses: Account and loss in USD, in the order in which they are settled.
        winners: Who can be deleveraged.
        now: Time, for the peak of the fund.
        rules: The liquidation rules; `fund` and `adl` are used.
        fees_usd: Fees of all liquidations of the time, of which the fund gets `fund.fee_share`.
        surplus_usd: What was left of accounts that were closed altogether.
    """
    revenue = rules["fund"]["fee_share"] * fees_usd + surplus_usd
    fund = fund.at(now, fund.balance_usd + revenue, rules)
    pool = _Open(sorted(winners, key=lambda each: each.account_id))
    paid, adl, unfunded = dict[str, float](), dict[str, float](), dict[str, float]()
    needed = 0.0
    for name, loss in losses:
        is_due = is_adl_due(fund, now, rules)
        first = 0.0 if is_due else min(loss, max(0.0, fund.balance_usd))
        need = loss - first
        needed += need
        adl[name] = pool.take(need, rules)
        left = max(0.0, need - adl[name])
        last = 0.0
        if is_due and rules["adl"]["fund_last"]:
            last = min(left, max(0.0, fund.balance_usd))
        paid[name], unfunded[name] = first + last, left - last
        fund = fund.at(now, fund.balance_usd - paid[name], rules)
    given = {name: amount for name, amount in pool.given.items() if amount > 0.0}
    return Outcome(fund, revenue, dict(losses), paid, adl, unfunded, given, needed)


def imbalance_usd(before: Fund, outcome: Outcome, fees_usd: float, surplus_usd: float) -> float:
    """What is not accounted for, USD; 0 but for rounding, and tests hold it below half a cent.

    Losses, less what fund, winners and nobody bore; plus the change of the fund, less its income.
    """
    borne = math.fsum(
        amount
        for part in (outcome.from_fund_usd, outcome.from_adl_usd, outcome.unfunded_usd)
        for amount in part.values()
    )
    losses = math.fsum(outcome.losses_usd.values()) - borne
    haircuts = math.fsum(outcome.haircuts_usd.values())
    haircuts -= math.fsum(outcome.from_adl_usd.values())
    fund = 0.0
    if math.isfinite(before.balance_usd):
        fund = outcome.fund.balance_usd - before.balance_usd - outcome.revenue_usd
        fund += math.fsum(outcome.from_fund_usd.values())
    income = max(0.0, outcome.revenue_usd - fees_usd - surplus_usd)
    return abs(losses) + abs(haircuts) + abs(fund) + income


def _rank(winner: Winner) -> float:
    """Return times leverage; without an entry value it comes first."""
    if winner.entry_usd <= 0.0:
        return math.inf
    return winner.profit_usd / winner.entry_usd * winner.leverage


def _queue(need: float, winners: list[Winner]) -> dict[str, float]:
    found: dict[str, float] = {}
    for winner in winners:
        if need <= 0.0:
            break
        found[winner.account_id] = min(need, winner.profit_usd)
        need -= found[winner.account_id]
    return found


def _filled(need: float, weights: dict[str, float], limits: dict[str, float]) -> dict[str, float]:
    """A need shared by weights, none beyond its limit; who is at the limit stays there."""
    found = dict.fromkeys(weights, 0.0)
    free = {name for name in weights if limits[name] > 0.0}
    left = min(need, math.fsum(limits.values()))
    while free and left > 0.0:
        total = math.fsum(weights[name] for name in sorted(free))
        shares = {name: left * weights[name] / total for name in sorted(free)}
        full = {name for name in shares if shares[name] >= limits[name]}
        for name in sorted(full or free):
            found[name] = limits[name] if full else shares[name]
        left = 0.0 if not full else left - math.fsum(limits[name] for name in full)
        free -= full
    return found
