"""Liquidation of one account at one time, slice by slice: documentation and oracle.

An account at the trigger goes through the stages of its margin model. After every slice it is
margined again, and the stages are asked again in their order: the first that has something to do
does the next slice. Slices in a row of the same stage are one *step*, which is what is recorded.
It ends when the account is safe, when nothing is left to close, or when the number of slices of
one time is used up; the rest is for the next time.

* `liquidation_trades`: what a slice trades, its costs, the portfolio after it;
* `liquidation_okx`, `liquidation_bybit`: the stages of each margin model;
* `liquidation_debts`: repaying a debt by selling assets;
* `waterfall`: who pays what a bankrupt account cannot; `impact`: what the sales do to prices;
* here: the loop and its record.

Levels of warning, trigger and safety are those of the parameter set (`levels`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from backtest.reference import liquidation_bybit, liquidation_okx
from backtest.reference.liquidation_stages import (
    BANKRUPT_ELSEWHERE,
    LIMIT,
    NOTHING_LEFT,
    OTHER_STAGE,
    SAFE,
    Choice,
    State,
)
from backtest.reference.liquidation_trades import Account, Fill, Rules, account_of
from backtest.reference.okx_charges import Numbers


__all__ = ["STATUSES", "Liquidation", "Step", "Traded", "liquidate"]

STATUSES = ("unpriced", "untouched", "safe", "flat", "bankrupt", "unfinished")
"""What became of an account, see `Liquidation`."""


@dataclass(frozen=True)
class Traded:
    """All fills of a step in one instrument: `contracts` signed, `price` their average."""

    instrument_id: str
    kind: str
    settle: str
    contracts: float
    mark: float
    price: float
    notional_usd: float
    fee_usd: float
    slippage_usd: float


@dataclass(frozen=True)
class Step:
    """One step of a liquidation; money in USD, levels 1.0 = 100 % and infinite without margin.

    `target` names the units (with pair or maturities) that were worked on, in the order of the
    first slice of each. `chosen` says why the first slice was chosen, `ended` why the step ended.
    Charges are summed over units.
    """

    number: int
    stage: str
    target: str
    chosen: str
    ended: str
    slices: int
    traded: list[Traded]
    fee_usd: float
    slippage_usd: float
    level_before: float
    level_after: float
    mmr_before_usd: float
    mmr_after_usd: float
    equity_before_usd: float
    equity_after_usd: float
    charges_before: dict[str, float]
    charges_after: dict[str, float]


@dataclass(frozen=True)
class Liquidation:
    """What liquidation did to an account at one time; money in USD and not negative.

    Fields:
        status: `unpriced` (left alone: a price is missing), `untouched` (no slice), `safe`
            (back above the safe level, or debts repaid), `flat` (nothing left to close, still
            not safe, equity not negative), `bankrupt` (nothing left, equity was below zero: its
            balances are gone and `bad_debt_usd` is what is missing), `unfinished` (the slices of
            this time are used up).
        is_active: whether the liquidation goes on at the next time; hand it to `liquidate` then.
        is_warned: whether the level was below the warning at first.
        surplus_usd: what the insurance fund takes of an account that was closed altogether.

    `equity before - fees - slippage - surplus + bad debt = equity after`.
    """

    status: str
    is_active: bool
    is_warned: bool
    steps: list[Step]
    portfolio_after: dict[str, Any]
    level_before: float
    level_after: float
    equity_before_usd: float
    equity_after_usd: float
    fees_usd: float = 0.0
    slippage_usd: float = 0.0
    notional_usd: float = 0.0
    bad_debt_usd: float = 0.0
    surplus_usd: float = 0.0
    slices: int = 0
    fills: list[Fill] = field(default_factory=list[Fill])


class Venue(NamedTuple):
    """The rules of a margin model: is a level safe; the next slice, or why no stage has one."""

    is_safe: Callable[[float, Numbers], bool]
    choose: Callable[[State], Choice | dict[str, str]]


VENUES = {
    "okx": Venue(liquidation_okx.is_safe, liquidation_okx.choose),
    "bybit": Venue(liquidation_bybit.is_safe, liquidation_bybit.choose),
}


def liquidate(
    portfolio: dict[str, Any], numbers: Numbers, rules: Rules, *, active: bool = False
) -> Liquidation:
    """Put one account through the stages of its margin model at one time.

    Args:
        portfolio: The portfolio file of `pmstress margin`. Rows of 0 contracts among the
            positions are prices of instruments in which a hedge may be opened.
        numbers: The plain numbers of a parameter set.
        rules: The plain numbers of a liquidation file.
        active: Whether a liquidation that began earlier has not reached the safe level yet.

    Raises:
        ValueError: The rules are of another margin model, or the portfolio is not usable.
    """
    if rules["model"] != numbers["model"]:
        raise ValueError(
            f"liquidation rules {rules['name']!r} are of the model {rules['model']!r}, the "
            f"parameter set is of {numbers['model']!r}"
        )
    first = account_of(portfolio, numbers)
    if first.is_unpriced:
        nothing = float("nan")
        return Liquidation(
            "unpriced", active, False, [], portfolio, nothing, nothing, nothing, nothing
        )
    venue = VENUES[numbers["model"]]
    state = State(first, numbers, rules, _goes_on(first, active, venue, numbers))
    run = _Run(rules)
    ended = None
    while ended is None:
        choice = venue.choose(state)
        if not isinstance(choice, Choice):
            ended = choice
            continue
        if run.is_full(choice):
            ended = dict.fromkeys(rules["stages"]["order"], LIMIT)
            continue
        run.add(choice, state)
        goes_on = _goes_on(choice.after, state.active, venue, numbers)
        state = state.following(choice, active=goes_on)
    return _result(first, state, run, ended, numbers)


def _goes_on(account: Account, active: bool, venue: Venue, numbers: Numbers) -> bool:
    """Active from the trigger on until the safe level, so an account at 105 % may be either."""
    reached = account.level <= numbers["levels"]["liquidation"]
    return (active or reached) and not venue.is_safe(account.level, numbers)


class _Run:
    """Slices put together into steps."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.steps: list[Step] = []
        self.fills: list[Fill] = []
        self.slices = 0
        self._start: Account | None = None
        self._open: list[Choice] = []

    def is_full(self, choice: Choice) -> bool:
        """Whether a slice would be one too many, or begin a step too many."""
        limits = self.rules["slices"]
        steps = len(self.steps) + bool(self._open)
        begins = not self._continues(choice)
        too_many_steps = begins and steps >= limits["max_steps"]
        return self.slices >= limits["max_slices"] or too_many_steps

    def add(self, choice: Choice, state: State) -> None:
        """Put a slice into the step that runs, or begin another."""
        if not self._continues(choice):
            if self._open:
                self.close(choice.passed_over.get(self._open[0].stage, OTHER_STAGE))
            self._open, self._start = [], state.account
        self._open.append(choice)
        self.fills += choice.fills
        self.slices += 1

    def close(self, ended: str) -> None:
        """End the step that runs."""
        if self._open and self._start is not None:
            self.steps.append(_step(len(self.steps) + 1, self._start, self._open, ended))
        self._open = []

    def stage(self) -> str:
        """Stage of the step that runs."""
        return self._open[0].stage if self._open else ""

    def _continues(self, choice: Choice) -> bool:
        return self.stage() == choice.stage


def _step(number: int, start: Account, choices: list[Choice], ended: str) -> Step:
    fills = [fill for choice in choices for fill in choice.fills]
    after = choices[-1].after
    return Step(
        number=number,
        stage=choices[0].stage,
        target=", ".join(dict.fromkeys(each.target for each in choices if each.target)),
        chosen=choices[0].reason,
        ended=ended,
        slices=len(choices),
        traded=_traded(fills),
        fee_usd=float(sum(fill.fee_usd for fill in fills)),
        slippage_usd=float(sum(fill.slippage_usd for fill in fills)),
        level_before=start.level,
        level_after=after.level,
        mmr_before_usd=start.mmr,
        mmr_after_usd=after.mmr,
        equity_before_usd=start.equity_usd,
        equity_after_usd=after.equity_usd,
        charges_before=start.charges(),
        charges_after=after.charges(),
    )


def _traded(fills: list[Fill]) -> list[Traded]:
    """Fills by instrument, in the order of the first of each."""
    names = list(dict.fromkeys(fill.instrument_id for fill in fills))
    found = []
    for name in names:
        mine = [fill for fill in fills if fill.instrument_id == name]
        size = sum(abs(fill.contracts) for fill in mine)
        found.append(
            Traded(
                instrument_id=name,
                kind=mine[0].kind,
                settle=mine[0].settle,
                contracts=float(sum(fill.contracts for fill in mine)),
                mark=mine[0].mark,
                price=sum(abs(f.contracts) * f.price for f in mine) / size if size else 0.0,
                notional_usd=float(sum(fill.notional_usd for fill in mine)),
                fee_usd=float(sum(fill.fee_usd for fill in mine)),
                slippage_usd=float(sum(fill.slippage_usd for fill in mine)),
            )
        )
    return found


def _result(
    first: Account, state: State, run: _Run, why_not: dict[str, str], numbers: Numbers
) -> Liquidation:
    """Close the last step, write off what is missing, pay out what is left over."""
    last, full = state.account, LIMIT in why_not.values()
    stage = run.stage()
    ended = why_not.get(stage, NOTHING_LEFT) if state.active or stage == "repay" else SAFE
    run.close(ended)
    status = "untouched" if not run.slices else "safe"
    if state.active or full:
        status = "unfinished" if full or last.legs else "flat"
    closed_all = bool(run.fills) and not last.legs and status != "unfinished"
    bad_debt = surplus = 0.0
    after = last
    if status == "flat" and last.equity_usd < 0.0:
        status, bad_debt = "bankrupt", -last.equity_usd
        after = _left_with(0.0, last, numbers)
        run.steps.append(_written_off(len(run.steps) + 1, last, after))
    elif closed_all and last.equity_usd > 0.0 and state.rules["fund"]["surplus_share"] > 0.0:
        surplus = state.rules["fund"]["surplus_share"] * last.equity_usd
        after = _left_with(1.0 - state.rules["fund"]["surplus_share"], last, numbers)
    return Liquidation(
        status=status,
        is_active=status == "unfinished" and state.active,
        is_warned=first.level < numbers["levels"]["warning"],
        steps=run.steps,
        portfolio_after=after.portfolio,
        level_before=first.level,
        level_after=after.level,
        equity_before_usd=first.equity_usd,
        equity_after_usd=after.equity_usd,
        fees_usd=float(sum(fill.fee_usd for fill in run.fills)),
        slippage_usd=float(sum(fill.slippage_usd for fill in run.fills)),
        notional_usd=float(sum(fill.notional_usd for fill in run.fills)),
        bad_debt_usd=bad_debt,
        surplus_usd=surplus,
        slices=run.slices,
        fills=run.fills,
    )


def _left_with(share: float, account: Account, numbers: Numbers) -> Account:
    """An account without positions that keeps a share of every balance."""
    cash = {name: amount * share for name, amount in account.equities.items() if share}
    # Expired positions are worth their settlement, which the balances now hold.
    flat = [row for row in account.portfolio.get("positions") or [] if row["contracts"] == 0.0]
    portfolio = {**account.portfolio, "balances": cash, "positions": flat}
    return account_of(portfolio, numbers)


def _written_off(number: int, last: Account, after: Account) -> Step:
    return Step(
        number=number,
        stage="bankruptcy",
        target="",
        chosen=f"everything is closed and {-last.equity_usd:,.2f} USD are missing",
        ended=BANKRUPT_ELSEWHERE,
        slices=0,
        traded=[],
        fee_usd=0.0,
        slippage_usd=0.0,
        level_before=last.level,
        level_after=after.level,
        mmr_before_usd=last.mmr,
        mmr_after_usd=after.mmr,
        equity_before_usd=last.equity_usd,
        equity_after_usd=after.equity_usd,
        charges_before=last.charges(),
        charges_after=after.charges(),
    )
