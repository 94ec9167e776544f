"""All accounts at one time: liquidation, its impact on prices, and who pays the losses.

Rounds: every account is taken at the prices of the round's start, in the order of its name, so the
order of the accounts does not matter. What they trade moves prices; at the new prices all are taken
again, until nobody trades. Then losses go down the waterfall; accounts that are deleveraged give up
profit, are margined again and may be liquidated in their turn, at the same time.

Assumed where the sources are silent: cash delta of a coin is added up over accounts and rounds of a
time, buying against selling; the accounts that are deleveraged hold futures and perpetuals with
profit in the coins that bankrupt accounts traded, on the side that these traded to; they give up
profit by having that share of these positions closed at their entry price.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backtest.reference.impact import moved, price_move
from backtest.reference.liquidation import Liquidation, liquidate
from backtest.reference.liquidation_stages import gross_usd
from backtest.reference.liquidation_trades import Account, Rules, account_of
from backtest.reference.okx_charges import Numbers
from backtest.reference.waterfall import Fund, Outcome, Winner, settle


Portfolios = dict[str, dict[str, Any]]
Sides = dict[str, float]


@dataclass
class Moment:
    """What happened to all accounts at one time.

    Fields:
        portfolios: after it, at the prices that the market gave (not moved).
        events: round, account and liquidation, in their order.
        moves: what liquidations have done to prices, by coin, a fraction.
        traded_usd: net cash delta that they traded, by coin.
        outcomes: of the waterfall, one for every time that there were losses or fees.
    """

    portfolios: Portfolios
    active: set[str]
    fund: Fund
    moves: dict[str, float]
    traded_usd: dict[str, float] = field(default_factory=dict[str, float])
    events: list[tuple[int, str, Liquidation]] = field(
        default_factory=list[tuple[int, str, Liquidation]]
    )
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    rounds: int = 0


def happen(
    portfolios: Portfolios,
    numbers: Numbers,
    rules: Rules,
    *,
    now: datetime,
    fund: Fund,
    active: set[str] | None = None,
    moves: Mapping[str, float] | None = None,
    daily_volatility: Mapping[str, float] | None = None,
) -> Moment:
    """Take all accounts through one time.

    Args:
        portfolios: Portfolio files by account, at the prices of the market.
        numbers: The parameter set.
        rules: The liquidation rules.
        now: The time.
        fund: The insurance fund before.
        active: Accounts whose liquidation goes on from an earlier time.
        moves: What is left of earlier moves, by coin (`impact.decayed`).
        daily_volatility: By coin, for the impact; 0 where it is not given.
    """
    earlier = dict(moves or {})
    moment = Moment(dict(portfolios), set(active or ()), fund, dict(earlier))
    todo = set(portfolios)
    while todo:
        begun = len(moment.events)
        while todo and moment.rounds < rules["impact"]["max_rounds"]:
            todo = _round(moment, todo, numbers, rules, earlier, daily_volatility or {})
        todo = _pay(moment, moment.events[begun:], numbers, rules, now)
        if moment.rounds >= rules["impact"]["max_rounds"]:
            break
    return moment


def _round(
    moment: Moment,
    todo: set[str],
    numbers: Numbers,
    rules: Rules,
    earlier: dict[str, float],
    volatility: Mapping[str, float],
) -> set[str]:
    """Take some accounts at the prices of now; whom the moved prices make necessary to take."""
    moment.rounds += 1
    for name in sorted(todo):
        given = moment.portfolios[name]
        done = liquidate(
            moved(given, moment.moves, rules), numbers, rules, active=name in moment.active
        )
        moment.active -= {name}
        moment.active |= {name} if done.is_active else set()
        if done.status in ("untouched", "unpriced"):
            continue
        moment.events.append((moment.rounds, name, done))
        moment.portfolios[name] = _at_prices_of(done.portfolio_after, given)
        for fill in done.fills:
            traded = moment.traded_usd.get(fill.coin, 0.0)
            moment.traded_usd[fill.coin] = traded + fill.delta_usd
    now = dict(earlier)
    for coin in sorted(moment.traded_usd):
        move = price_move(moment.traded_usd[coin], coin, rules, volatility.get(coin, 0.0))
        now[coin] = now.get(coin, 0.0) + move
    now = {coin: move for coin, move in now.items() if move != 0.0}
    stood = max((abs(now.get(c, 0.0) - moment.moves.get(c, 0.0)) for c in now), default=0.0)
    moment.moves = now
    return set(moment.portfolios) if stood > rules["impact"]["tolerance"] else set()


def _pay(
    moment: Moment,
    events: list[tuple[int, str, Liquidation]],
    numbers: Numbers,
    rules: Rules,
    now: datetime,
) -> set[str]:
    """Put fees, surplus and losses through the waterfall; the accounts that were deleveraged."""
    losses: dict[str, float] = {}
    sides: Sides = {}
    for _, name, done in events:
        if done.bad_debt_usd > 0.0:
            losses[name] = losses.get(name, 0.0) + done.bad_debt_usd
            for fill in done.fills:
                sides[fill.coin] = sides.get(fill.coin, 0.0) + fill.delta_usd
    fees = math.fsum(done.fees_usd for _, _, done in events)
    surplus = math.fsum(done.surplus_usd for _, _, done in events)
    if not events:
        return set()
    legs = _winning_legs(moment, set(losses), sides, numbers, rules) if losses else {}
    winners = [winner for winner, _ in legs.values()]
    outcome = settle(
        moment.fund, sorted(losses.items()), winners, now, rules, fees_usd=fees, surplus_usd=surplus
    )
    moment.fund = outcome.fund
    moment.outcomes.append(outcome)
    for name, haircut in outcome.haircuts_usd.items():
        winner, mine = legs[name]
        share = min(1.0, haircut / winner.profit_usd)
        moment.portfolios[name] = deleveraged(moment.portfolios[name], mine, share)
    return set(outcome.haircuts_usd)


def deleveraged(portfolio: dict[str, Any], legs: set[str], share: float) -> dict[str, Any]:
    """A portfolio of which a share of some legs is closed at the entry price: without its profit.

    Example:
        Half of 10 contracts with a profit of 100 USD: 5 contracts, equity 50 USD lower.
    """
    rows = [
        {**row, "contracts": row["contracts"] * (1.0 - share)}
        if row["instrument_id"] in legs
        else row
        for row in portfolio.get("positions") or []
    ]
    return {**portfolio, "positions": rows}


def _winning_legs(
    moment: Moment, bankrupt: set[str], sides: Sides, numbers: Numbers, rules: Rules
) -> dict[str, tuple[Winner, set[str]]]:
    """Accounts that can be deleveraged, with the legs that hold the profit."""
    found = {}
    for name in sorted(set(moment.portfolios) - bankrupt):
        account = account_of(moved(moment.portfolios[name], moment.moves, rules), numbers)
        if account.is_unpriced:
            continue
        mine = {
            leg: row
            for leg, row in account.legs.items()
            if row["kind"] != "option"
            and row["upl"] > 0.0
            and row["cash_delta"] * sides.get(row["coin"], 0.0) > 0.0
        }
        if mine and account.equity_usd > 0.0:
            found[name] = (_winner(name, account, list(mine.values())), set(mine))
    return found


def _winner(name: str, account: Account, rows: list[dict[str, Any]]) -> Winner:
    profit = math.fsum(row["upl"] for row in rows)
    size = math.fsum(abs(row["cash_delta"]) for row in rows)
    # A long was worth its size less the profit at its entry, a short its size and the profit.
    entry = math.fsum(abs(row["cash_delta"] - row["upl"]) for row in rows)
    leverage = max(gross_usd(account), size) / account.equity_usd
    return Winner(name, profit, entry, leverage, account.equity_usd)


def _at_prices_of(portfolio: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """A portfolio at the prices of another file, of which it was made."""
    rows = [*(given.get("positions") or []), *(given.get("orders") or [])]
    keys = ("mark_price", "mark_iv", "forward")
    quotes: dict[str, dict[str, Any]] = {}
    for row in rows:
        quotes.setdefault(row["instrument_id"], {key: row[key] for key in keys if key in row})
    positions = [
        {**row, **quotes.get(row["instrument_id"], {})} for row in portfolio.get("positions") or []
    ]
    return {**portfolio, "positions": positions, "index_usd": given["index_usd"]}
