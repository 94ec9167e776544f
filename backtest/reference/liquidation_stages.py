"""What the stages of every margin model share: the state, a chosen slice, ranking, pro rata.

A stage is a function of the state. It gives a `Choice`, or a sentence that says why it has nothing
to do. Ties are broken by name, and two numbers that differ by rounding alone count as equal.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from backtest.reference.liquidation_trades import (
    Account,
    Fill,
    Row,
    Rules,
    account_of,
    after_fills,
    cancelled,
    closing_slice,
    contract_usd,
    fill_of,
    slice_of,
)
from backtest.reference.okx_charges import Numbers


K = TypeVar("K", str, tuple[str, str])

TIE = 1e-9
"""Numbers this near each other, as a fraction, count as equal."""

SAFE = "the account is safe"
LIMIT = "the slices of one time are used up"
NOTHING_LEFT = "nothing is left to close"
OTHER_STAGE = "an earlier stage has something to do"
NOT_LARGEST = "its charge is not the largest of any unit"
NO_GAIN = "a further slice would not lower the maintenance margin"
NO_ORDERS = "no orders are open"
NO_OPPOSITE = "no opposite legs of different maturities"
NO_DEBT = "no debt, or nothing to repay it with"
NOT_DUE = "the margin level is above the trigger"
NO_STABLE_PAIRS = "split units have no charge for stablecoins"
EVERY_LEG = "every leg"
"""Target of a slice of all legs; its costs may raise the charge of a debt, nothing else rises."""
BANKRUPT_ELSEWHERE = "the insurance fund and the other accounts take the loss"


@dataclass(frozen=True)
class Choice:
    """The next slice: what is traded, the account after it, why this stage.

    `passed_over` holds what the earlier stages, and the step that runs, had to say.
    """

    stage: str
    target: str
    reason: str
    fills: list[Fill]
    after: Account
    passed_over: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class State:
    """An account in the middle of its liquidation.

    `begun` holds the account when each stage first had a slice at this time; a stage that comes
    back goes on with slices of the same size.
    """

    account: Account
    numbers: Numbers
    rules: Rules
    active: bool
    begun: dict[str, Account] = field(default_factory=dict[str, Account])

    def origin(self, stage: str) -> Account:
        """The account that the slices of a stage are shares of."""
        return self.begun.get(stage, self.account)

    def following(self, choice: Choice, *, active: bool) -> "State":
        """The state after a slice."""
        begun = {choice.stage: self.account, **self.begun}
        return replace(self, account=choice.after, active=active, begun=begun)

    def after(self, fills: Iterable[Fill]) -> Account:
        """The account after some trades."""
        return account_of(after_fills(self.account, fills), self.numbers)

    def fill(self, row: Row, contracts: float) -> Fill:
        """The trade of so many contracts of a leg."""
        return fill_of(row, contracts, self.account, self.numbers, self.rules)

    def falls(self, after: Account) -> bool:
        """Whether the maintenance margin of the account is lower than now."""
        return after.mmr < self.account.mmr * (1.0 - TIE)


Stage = Callable[[State], Choice | str]


class Candidate(NamedTuple):
    """Something that could be closed: what it frees and what it costs, USD."""

    name: str
    fills: list[Fill]
    after: Account
    freed_usd: float
    cost_usd: float

    @property
    def score(self) -> float:
        """Maintenance margin freed per USD of cost; what costs nothing comes first."""
        return self.freed_usd / self.cost_usd if self.cost_usd > 0.0 else float("inf")


def first_of(stages: Iterable[tuple[str, Stage]], state: State) -> Choice | dict[str, str]:
    """The slice of the first stage that has one; else what each had to say."""
    passed: dict[str, str] = {}
    for name, stage in stages:
        found = stage(state)
        if isinstance(found, Choice):
            return replace(found, passed_over=passed)
        passed[name] = found
    return passed


def cancel(state: State) -> Choice | str:
    """Cancel all orders at once."""
    orders = state.account.portfolio.get("orders") or []
    if not orders:
        return NO_ORDERS
    after = account_of(cancelled(state.account.portfolio), state.numbers)
    return Choice("cancel", "", f"{len(orders)} orders are open", [], after)


def leg_fills(row: Row, state: State, stage: str) -> list[Fill]:
    """The trade that closes a slice of a leg."""
    begun = state.origin(stage).legs.get(row["instrument_id"], row)
    amount = closing_slice(row, begun["contracts"], state.account.indexes, state.rules)
    return [state.fill(row, -amount if row["contracts"] > 0.0 else amount)]


def candidate(name: str, fills: list[Fill], state: State) -> Candidate:
    """Trades with what they free and cost."""
    after = state.after(fills)
    cost = float(sum(fill.cost_usd for fill in fills))
    return Candidate(name, fills, after, state.account.mmr - after.mmr, cost)


def best(candidates: Iterable[Candidate], state: State) -> Candidate | None:
    """The one that lowers the maintenance margin most per USD of cost; None if none lowers it.

    Scores that are equal but for rounding: what frees more, then the first by name.
    """
    left = [each for each in candidates if state.falls(each.after)]
    if not left:
        return None
    top = max(each.score for each in left)
    left = [each for each in left if each.score >= top * (1.0 - TIE)]
    freed = max(each.freed_usd for each in left)
    left = [each for each in left if each.freed_usd >= freed * (1.0 - TIE)]
    return min(left, key=lambda each: each.name)


def slice_of_all(state: State, stage: str) -> Choice | str:
    """The same share of every leg, where closing a slice of any single one would raise the margin.

    The share is that of a slice in the gross size of all legs, so hedges stay whole.
    """
    account, legs = state.account, state.account.legs
    if not legs:
        return NOTHING_LEFT
    start, now = gross_usd(state.origin(stage)), gross_usd(account)
    share = slice_of(start, now, state.rules["slices"]["min_usd"], state.rules) / now
    fills = [state.fill(row, -row["contracts"] * share) for row in legs.values()]
    reason = f"no single one of {len(legs)} legs lowers the maintenance margin: a slice of each"
    return Choice(stage, EVERY_LEG, reason, fills, state.after(fills))


def gross_usd(account: Account) -> float:
    """Gross size of all positions, USD, options by their coins."""
    return math.fsum(
        abs(row["contracts"]) * contract_usd(row, account.indexes) for row in account.legs.values()
    )


def best_reason(found: Candidate) -> str:
    """Why a candidate is the one."""
    cost = f"{found.cost_usd:,.2f} USD of cost"
    return f"{found.name} frees {found.freed_usd:,.2f} USD of maintenance margin for {cost}"


def largest_first(rows: Mapping[K, Any], key: Callable[[Any], float]) -> list[K]:
    """Names in falling order of a number, equal ones by name."""
    return sorted(rows, key=lambda name: (-key(rows[name]), name))
