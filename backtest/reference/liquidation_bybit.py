"""The stages of a Bybit liquidation: repay debts, cancel orders, close positions in part.

At a maintenance margin rate of 85 % and above, debts are repaid automatically until there is none;
at 100 % all orders are cancelled and positions are closed until the rate is at most 90 %. Levels
here are the inverse of rates: 1 / 0.85, 1.0 and 1 / 0.9.

Assumed where the rule text is silent:

* a debt is repaid in one slice, the largest in USD first, by selling assets for it;
* repaying comes first during the whole liquidation, so the losses that it realises are repaid;
* of the groups of `liquidation.order` the first one that has a position whose slice lowers the
  margin gives the slice. Where no position does, the same share of all is closed.
"""

from backtest.reference.liquidation_debts import debts, repayment
from backtest.reference.liquidation_stages import (
    NO_DEBT,
    NOT_DUE,
    NOTHING_LEFT,
    Choice,
    Stage,
    State,
    best,
    best_reason,
    cancel,
    candidate,
    first_of,
    largest_first,
    leg_fills,
    slice_of_all,
)
from backtest.reference.liquidation_trades import Row
from backtest.reference.okx_charges import Numbers


__all__ = ["STAGES", "choose", "is_safe", "partial", "repay"]


def is_safe(level: float, numbers: Numbers) -> bool:
    """A rate of 90 % or less, the bound included."""
    return level >= numbers["levels"]["safe"]


def choose(state: State) -> Choice | dict[str, str]:
    """The next slice of an account, else why no stage has one.

    Debts are repaid whether or not the account is being liquidated.
    """
    stages = [
        (name, STAGES[name])
        for name in state.rules["stages"]["order"]
        if state.active or name == "repay"
    ]
    return first_of(stages, state)


def repay(state: State) -> Choice | str:
    """Repay the largest debt at a rate of 85 % and above.

    Source: liquidation, [S]; whole debts, the order of assets [A].
    Example: 10,000 USDT owed at a rate of 90 %, BTC at 50,000: 0.2 BTC is sold, costs aside.
    """
    level, due = state.account.level, state.numbers["levels"]["repay"]
    if level > due:
        return NOT_DUE
    owed = debts(state)
    for currency in largest_first(owed, lambda usd: usd):
        fills = repayment(currency, "repay", state, whole=True)
        if fills:
            rate = 1.0 / level if level > 0.0 else float("inf")
            reason = f"margin rate {rate:.2%}, {owed[currency]:,.2f} USD owed in {currency}"
            return Choice("repay", currency, reason, fills, state.after(fills))
    return NO_DEBT


def partial(state: State) -> Choice | str:
    """Partial liquidation: a slice of the position that frees most margin per USD of cost.

    Perpetuals and futures come before short options, long options last.

    Source: liquidation, [S]; the order within it [A].
    """
    legs = state.account.legs
    for group in state.numbers["liquidation"]["order"]:
        found = [
            candidate(name, leg_fills(row, state, "partial"), state)
            for name, row in legs.items()
            if group_of_leg(row) == group
        ]
        top = best(found, state)
        if top is not None:
            return Choice("partial", "", best_reason(top), top.fills, top.after)
    return slice_of_all(state, "partial") if legs else NOTHING_LEFT


def group_of_leg(row: Row) -> str:
    """Group of a position in the order of liquidation."""
    if row["kind"] != "option":
        return "perpetuals_and_futures"
    return "long_options" if row["contracts"] > 0.0 else "short_options"


STAGES: dict[str, Stage] = {"repay": repay, "cancel": cancel, "partial": partial}
