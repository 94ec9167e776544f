"""From one snapshot to the next: contracts expire, some accounts trade, open, close or move cash.

Trades happen at the mark of the new snapshot and without fees; what a trade realises is cash, so
that nothing but a payment changes an account's equity at that time.
"""

from dataclasses import replace

import numpy as np

from backtest.population.arrays import Bools, Floats, Ints, sum_by
from backtest.population.books import (
    Books,
    Legs,
    Maker,
    carried_usd,
    cash_digits,
    estimate_books,
    lots,
    make_books,
    settled,
)
from backtest.population.catalogue import OPTION
from backtest.population.config import ARCHETYPES
from backtest.population.draws import Draws
from backtest.population.registry import KINDS
from backtest.population.universe import Universe


_CLOSE_LEG, _CHANGE_LEG = 0.15, 0.6
_LEG_STRIDE = 1 << 24
_LEAST_EQUITY_USD = 1_000.0


def entries_filled(legs: Legs, universe: Universe) -> Legs:
    """The legs with the mark of ``universe`` where the entry price is null."""
    entry = np.where(np.isfinite(legs.entry), legs.entry, universe.mark[legs.instrument])
    return Legs(legs.account, legs.instrument, legs.contracts, entry)


def next_books(books: Books, before: Universe, after: Maker, settle: Floats, step: int) -> Books:
    """Books at the next snapshot.

    Args:
        books: state at the last snapshot.
        before: market of the last snapshot.
        after: market of the new one.
        settle: by instrument, payoff base of contracts that expired in between: index of the coin
            in the settlement currency (linear), USD (inverse and options); NaN for all others.
        step: number of the snapshot, 1 for the second one.
    """
    universe, trading = after.universe, after.config.trading
    draws = Draws(after.config.seed, books.number, f"snapshot/{step}")
    legs = entries_filled(books.legs, before)
    cash = books.cash.copy()
    expired = universe.market.expiry[legs.instrument] <= universe.time
    rolls = np.bincount(legs.account[expired], minlength=len(cash)) > 0
    rolls &= draws.uniform("roll") < trading.roll_share
    legs = _expire(universe, legs, settle, cash)
    worth = _worth(universe, legs, cash)
    level = estimate_books(after, legs, worth, books.limit).level
    closing = (draws.uniform("close") < trading.close_share) | rolls
    if trading.close_liquidated:
        closing |= level <= 1.0
    legs = _trade(after, draws, legs, cash, closing)
    _pay(after, draws, cash, worth.sum(axis=1), level)
    now = replace(books, legs=legs, cash=cash, shown=settled(universe, legs, len(cash)))
    now = _reopen(after, draws, now, rolls)
    return _finished(after, now)


def _worth(universe: Universe, legs: Legs, cash: Floats) -> Floats:
    usd = np.where(np.isfinite(universe.usd), universe.usd, 0.0)
    return cash * usd[None, :] + carried_usd(universe, legs, len(cash))


def _add_cash(universe: Universe, legs: Legs, amount: Floats, cash: Floats) -> None:
    width = cash.shape[1]
    key = legs.account * width + universe.market.settle[legs.instrument]
    cash += sum_by(key, amount, cash.size).reshape(cash.shape)


def _expire(universe: Universe, legs: Legs, settle: Floats, cash: Floats) -> Legs:
    """Settle expired contracts into cash (units of the settlement currency) and drop them."""
    market, at = universe.market, legs.instrument
    gone = market.expiry[at] <= universe.time
    base = np.where(gone & np.isfinite(settle[at]), settle[at], np.nan)
    known = np.isfinite(base)
    price = np.where(known, base, 1.0)
    entry = np.where(known & (legs.entry > 0.0), legs.entry, price)
    option = market.kind[at] == OPTION
    unit = np.where(market.slot[at] == 3, price, universe.usd[market.settle[at]])
    payoff = np.maximum(market.option_sign[at] * (price - market.strike[at]), 0.0) / unit
    linear = np.where(market.inverse[at], 1.0 / entry - 1.0 / price, price - entry)
    gain = np.where(option, payoff, linear) * legs.contracts * market.multiplier[at]
    _add_cash(universe, legs, np.where(known, gain, 0.0), cash)
    return legs.keep(~gone)


def _trade(after: Maker, draws: Draws, legs: Legs, cash: Floats, closing: Bools) -> Legs:
    """Change, close or keep legs at the mark; realised profits and premiums become cash."""
    universe, at = after.universe, legs.instrument
    own = Draws(after.config.seed, draws.number[legs.account] * _LEG_STRIDE + at, draws.salt)
    action = own.uniform("action")
    factor = np.where(action < _CLOSE_LEG, 0.0, own.between("factor", 0.5, 1.6))
    trades = (draws.uniform("trade") < after.config.trading.trade_share)[legs.account]
    factor = np.where(trades & (action < _CHANGE_LEG), factor, 1.0)
    factor = np.where(closing[legs.account], 0.0, factor)
    changed = universe.priced[at] & (factor != 1.0)
    wanted = lots(legs.contracts * factor, after.config.whole_lots_from)
    new = np.where(changed, wanted, legs.contracts)
    _add_cash(universe, legs, _realised(universe, legs, new), cash)
    moved = Legs(legs.account, at, new, _average_entry(universe, legs, new))
    return moved.keep(new != 0.0)


def _realised(universe: Universe, legs: Legs, new: Floats) -> Floats:
    """Cash that a change of contracts to ``new`` brings, units of the settlement currency."""
    market, at = universe.market, legs.instrument
    mark = np.where(universe.priced[at], universe.mark[at], 1.0)
    entry = np.where(legs.entry > 0.0, legs.entry, mark)
    closed = np.where(np.abs(new) < np.abs(legs.contracts), legs.contracts - new, 0.0)
    safe = np.where(mark > 0.0, mark, 1.0)
    gain = np.where(market.inverse[at], 1.0 / entry - 1.0 / safe, mark - entry) * closed
    premium = -(new - legs.contracts) * mark
    amount = np.where(market.kind[at] == OPTION, premium, gain) * market.multiplier[at]
    return np.where(new != legs.contracts, amount, 0.0)


def _average_entry(universe: Universe, legs: Legs, new: Floats) -> Floats:
    """Entry price after more of a contract was bought or sold at the mark."""
    at, old = legs.instrument, legs.contracts
    mark = universe.mark[at]
    grown = (np.abs(new) > np.abs(old)) & (mark > 0.0) & (legs.entry > 0.0)
    first, last = np.where(grown, legs.entry, 1.0), np.where(grown, mark, 1.0)
    size = np.where(grown, new, 1.0)
    part = np.where(grown, old / size, 1.0)
    linear = part * first + (1.0 - part) * last
    harmonic = 1.0 / (part / first + (1.0 - part) / last)
    return np.where(grown, np.where(universe.market.inverse[at], harmonic, linear), legs.entry)


def _pay(after: Maker, draws: Draws, cash: Floats, equity: Floats, level: Floats) -> None:
    """Cash paid in or taken out in the home currency; only healthy accounts take out."""
    trading, home = after.config.trading, after.home
    pays = (draws.uniform("pay") < trading.cash_share) & (equity > _LEAST_EQUITY_USD)
    part = trading.cash_size * draws.between("pay/size", -1.0, 1.0)
    amount = part * np.maximum(equity, 0.0) / after.universe.usd[home]
    amount = np.where(amount < 0.0, np.maximum(amount, -np.maximum(cash[:, home], 0.0)), amount)
    cash[:, home] += np.where(pays & ((amount > 0.0) | (level > 3.0)), amount, 0.0)


def _reopen(after: Maker, draws: Draws, books: Books, rolls: Bools) -> Books:
    """Some accounts without positions start a new book with the equity that they have."""
    universe = after.universe
    equity = _worth(universe, books.legs, books.cash).sum(axis=1)
    flat = np.bincount(books.legs.account, minlength=len(equity)) == 0
    able = np.array([n != "flat" and KINDS[n].coins(universe).any() for n in ARCHETYPES])
    opens = flat & able[books.archetype] & (equity > _LEAST_EQUITY_USD)
    wants = rolls | (draws.uniform("open") < after.config.trading.open_share)
    rows = np.flatnonzero(opens & wants)
    if len(rows) == 0:
        return books
    fresh = make_books(after, draws.of(rows), books.archetype[rows], equity[rows])
    cash, limit = books.cash.copy(), books.limit.copy()
    cash[rows], limit[rows] = fresh.cash, fresh.limit
    legs = _merged(books.legs, fresh.legs, rows)
    return replace(books, legs=legs, cash=cash, limit=limit)


def _merged(old: Legs, fresh: Legs, rows: Ints) -> Legs:
    account = np.concatenate([old.account, rows[fresh.account]])
    instrument = np.concatenate([old.instrument, fresh.instrument])
    order = np.argsort(account * _LEG_STRIDE + instrument, kind="stable")
    contracts = np.concatenate([old.contracts, fresh.contracts])
    entry = np.concatenate([old.entry, fresh.entry])
    return Legs(account[order], instrument[order], contracts[order], entry[order])


def _finished(after: Maker, books: Books) -> Books:
    universe = after.universe
    places = 10.0 ** cash_digits(universe)
    cash = np.round(books.cash * places) / places
    shown = (cash != 0.0) | settled(universe, books.legs, len(cash))
    shown[:, after.home] = True
    worth = _worth(universe, books.legs, cash)
    estimate = estimate_books(after, books.legs, worth, books.limit)
    equity = worth.sum(axis=1)
    return replace(books, cash=cash, shown=shown, estimate=estimate, equity=equity)
