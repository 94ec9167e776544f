"""The market at one snapshot time: prices, deltas and what may be opened, as arrays.

Only rows at or before the snapshot time are looked at.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr

from backtest.errors import DataError
from backtest.population.arrays import (
    DAY_US,
    HOUR_US,
    YEAR_US,
    Bools,
    Floats,
    Ints,
    floats,
    micros_of,
    microseconds,
    places,
)
from backtest.population.catalogue import FUTURE, NEVER, OPTION, PERPETUAL, Catalogue


DELTA_STEPS = 50


@dataclass(frozen=True)
class Ragged:
    """Instruments of each coin, in order of expiry: ``items[start[c] : start[c] + count[c]]``."""

    start: Ints
    count: Ints
    items: Ints

    def pick(self, coin: Ints, place: Ints) -> Ints:
        """Instrument number ``place`` of each coin (0-based)."""
        return self.items[self.start[coin] + place]


@dataclass(frozen=True)
class Universe:
    """Prices at ``time`` (UTC microseconds) by instrument, currency, coin and option chain.

    ``usd`` USD per unit by currency, ``spot`` USD per coin by coin, ``mark`` as in the table marks,
    ``forward`` USD per coin, ``iv`` per year, ``years`` to expiry (0 for perpetuals), ``delta``
    coins a contract, ``notional`` USD a contract, ``value_usd`` of one contract that is an option.
    ``priced``: has a fresh mark; ``open``: priced and with enough time to expiry. ``trail``:
    marks at past times, rows oldest first, the last row is ``mark``. ``perp[c, slot]``: instrument
    or -1. ``chain_*``: (coin, expiry) pairs with calls and puts; ``by_delta[chain, call 0 or put 1,
    step]``: the option whose absolute delta is nearest to ``(step + 0.5) / DELTA_STEPS``.
    """

    market: Catalogue
    time: int
    usd: Floats
    spot: Floats
    mark: Floats
    forward: Floats
    iv: Floats
    years: Floats
    delta: Floats
    notional: Floats
    value_usd: Floats
    priced: Bools
    open: Bools
    trail: Floats
    perp: Ints
    inverse_futures: Ragged
    linear_futures: Ragged
    chains: Ragged
    by_delta: Ints

    def option_near(self, chain: Ints, put: Ints | int, delta: Floats) -> Ints:
        """The option of each chain whose absolute delta is nearest to ``delta``."""
        step = np.clip((delta * DELTA_STEPS).astype(np.int64), 0, DELTA_STEPS - 1)
        return self.by_delta[chain, put, step]


def make_universe(
    market: Catalogue,
    index: pd.DataFrame,
    marks: pd.DataFrame,
    time: pd.Timestamp,
    min_days: float,
    max_staleness_hours: float,
) -> Universe:
    """Market at ``time`` from index and mark rows up to it; later rows are ignored.

    Args:
        market: instruments.
        index: rows of the table index.
        marks: rows of the table marks (columns time, instrument_id, mark_price, forward, mark_iv).
        time: snapshot time.
        min_days: least time to expiry of an instrument that may be opened, days.
        max_staleness_hours: oldest row that still gives a price, hours.

    Raises:
        DataError: no currency or no derivative has a price at that time.
    """
    now = micros_of(time)
    oldest = now - int(max_staleness_hours * HOUR_US)
    usd = _last_index(market, index, now, oldest)
    rows = _recent_marks(market, marks, now)
    last = _last_marks(market, rows, oldest)
    spot = usd[market.coin_currency]
    if not np.isfinite(spot).any():
        raise DataError(f"index: no coin has a price at {time.isoformat()}")
    prices = _prices(market, usd, spot, last, now)
    priced = _priced(market, prices["mark"], spot[market.coin], usd[market.settle], now)
    ready = priced & (market.expiry > now + int(min_days * DAY_US))
    ready &= (market.kind != OPTION) | (np.isfinite(prices["iv"]) & (prices["mark"] > 0))
    if not ready.any():
        raise DataError(f"marks: no derivative can be opened at {time.isoformat()}")
    chains, by_delta = _chains(market, prices["delta"], ready)
    return Universe(
        market=market,
        time=now,
        usd=usd,
        spot=spot,
        **prices,
        priced=priced,
        open=ready,
        trail=_trail(market, rows, prices["mark"]),
        perp=_perps(market, ready),
        inverse_futures=_ragged(market, ready & (market.kind == FUTURE) & market.inverse),
        linear_futures=_ragged(market, ready & (market.kind == FUTURE) & ~market.inverse),
        chains=chains,
        by_delta=by_delta,
    )


def _last_index(market: Catalogue, index: pd.DataFrame, now: int, oldest: int) -> Floats:
    when, price = microseconds(index, "time", NEVER), floats(index, "usd")
    where = places(index, "currency", {name: i for i, name in enumerate(market.currencies)})
    rows = np.flatnonzero((when <= now) & (when >= oldest) & (price > 0) & (where >= 0))
    rows = rows[np.argsort(when[rows], kind="stable")]
    usd = np.full(len(market.currencies), np.nan)
    usd[where[rows]] = price[rows]
    if market.currency("USD") >= 0:
        usd[market.currency("USD")] = 1.0
    return usd


@dataclass(frozen=True)
class _Marks:
    """Mark rows of known instruments up to the snapshot, ordered by time."""

    when: Ints
    row: Ints
    mark: Floats
    forward: Floats
    iv: Floats


def _recent_marks(market: Catalogue, marks: pd.DataFrame, now: int) -> _Marks:
    when, price = microseconds(marks, "time", NEVER), floats(marks, "mark_price")
    row = places(marks, "instrument_id", market.position)
    keep = np.flatnonzero((when <= now) & (row >= 0) & (price >= 0) & np.isfinite(price))
    keep = keep[np.argsort(when[keep], kind="stable")]
    forward, iv = floats(marks, "forward")[keep], floats(marks, "mark_iv")[keep]
    return _Marks(when[keep], row[keep], price[keep], forward, iv)


def _last_marks(market: Catalogue, marks: _Marks, oldest: int) -> dict[str, Floats]:
    fresh = marks.when >= oldest
    out: dict[str, Floats] = {}
    for name, column in (("mark", marks.mark), ("forward", marks.forward), ("iv", marks.iv)):
        values = np.full(len(market.ids), np.nan)
        values[marks.row[fresh]] = column[fresh]
        out[name] = values
    return out


def _prices(
    market: Catalogue, usd: Floats, spot: Floats, last: dict[str, Floats], now: int
) -> dict[str, Floats]:
    option = market.kind == OPTION
    here = spot[market.coin]
    fx = usd[market.settle]
    mark = last["mark"]
    forward = np.where(np.isfinite(last["forward"]), last["forward"], here)
    iv = np.where(option & (last["iv"] > 0), last["iv"], np.nan)
    left = np.where(market.expiry == NEVER, 0, market.expiry - now)
    years = np.maximum(left, 0) / YEAR_US
    priced = _priced(market, mark, here, fx, now)
    size = market.multiplier
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = market.inverse
        notional = np.where(option, size * here, np.where(inverse, size, size * mark * fx))
        width = iv * np.sqrt(years)
        d1 = np.log(forward / np.where(option, market.strike, 1.0)) / width + 0.5 * width
        slope = ndtr(d1) - (market.option_sign < 0)
        delta = np.where(option, size * slope, np.where(inverse, size / mark, size))
        value = np.where(option, size * mark * fx, 0.0)
    return {
        "mark": mark,
        "forward": forward,
        "iv": iv,
        "years": years,
        "delta": np.where(priced & np.isfinite(delta), delta, 0.0),
        "notional": np.where(priced, notional, 0.0),
        "value_usd": np.where(priced, value, 0.0),
    }


def _priced(market: Catalogue, mark: Floats, spot: Floats, fx: Floats, now: int) -> Bools:
    """Instruments that live and have a mark, an index and a settlement currency with a price."""
    priced = np.isfinite(mark) & np.isfinite(spot) & np.isfinite(fx)
    priced &= (market.kind == OPTION) | (mark > 0)
    return priced & (market.listed <= now) & (market.expiry > now)


def _trail(market: Catalogue, rows: _Marks, mark: Floats) -> Floats:
    """Marks by past time and instrument; a missing one is the snapshot's own mark."""
    times, line = np.unique(rows.when, return_inverse=True)
    trail = np.full((len(times) + 1, len(market.ids)), np.nan)
    trail[line, rows.row] = rows.mark
    trail[-1] = mark
    usable = np.isfinite(trail) & (trail > 0)
    return np.where(usable, trail, mark[None, :])


def _perps(market: Catalogue, ready: Bools) -> Ints:
    perp = np.full((len(market.coins), 4), -1, np.int64)
    rows = np.flatnonzero(ready & (market.kind == PERPETUAL))[::-1]
    perp[market.coin[rows], market.slot[rows]] = rows
    return perp


def _ragged(market: Catalogue, wanted: Bools) -> Ragged:
    rows = np.flatnonzero(wanted)
    rows = rows[np.lexsort((rows, market.expiry[rows], market.coin[rows]))]
    count = np.bincount(market.coin[rows], minlength=len(market.coins)).astype(np.int64)
    return Ragged(np.cumsum(count) - count, count, rows)


def _chains(market: Catalogue, delta: Floats, ready: Bools) -> tuple[Ragged, Ints]:
    rows = np.flatnonzero(ready & (market.kind == OPTION))
    size = np.abs(delta[rows]) / market.multiplier[rows]
    rows = rows[(size > 0.01) & (size < 0.99)]
    groups: list[tuple[int, Ints]] = []
    for coin, expiry in sorted({(market.coin[r], market.expiry[r]) for r in rows.tolist()}):
        here = rows[(market.coin[rows] == coin) & (market.expiry[rows] == expiry)]
        sides = [here[market.option_sign[here] == side] for side in (1.0, -1.0)]
        if all(len(side) for side in sides):
            nearest = [_nearest(np.abs(delta[s]) / market.multiplier[s], s) for s in sides]
            groups.append((int(coin), np.stack(nearest)))
    owner = np.array([coin for coin, _ in groups], np.int64)
    count = np.bincount(owner, minlength=len(market.coins)).astype(np.int64)
    table = np.stack([t for _, t in groups]) if groups else np.zeros((0, 2, DELTA_STEPS), np.int64)
    place = np.arange(len(groups), dtype=np.int64)
    return Ragged(np.cumsum(count) - count, count, place), table


def _nearest(size: Floats, rows: Ints) -> Ints:
    target = (np.arange(DELTA_STEPS) + 0.5) / DELTA_STEPS
    return rows[np.argmin(np.abs(size[None, :] - target[:, None]), axis=1)]
