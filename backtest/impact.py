"""The path of prices that a parameter set's liquidations lead to, and the market's volatility.

The move of a time is what decay has left of the move of the time before, and what the net cash
delta that was traded at the time adds (`impact` of the liquidation file). The arithmetic of one
move is that of the readable reference.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from backtest.dataset import Dataset
from backtest.market_window import MICROS, micros, stamp
from backtest.moves import Moves
from backtest.reference.impact import decayed, price_move
from backtest.row_rules import clean_index


MICROS_PER_DAY = 86_400 * MICROS
Traded = dict[int, dict[str, float]]
"""USD of cash delta by time in microseconds and coin, net; positive for buying."""
Volatility = Callable[[int, str], float]
"""Daily volatility of a coin at a time in microseconds, a fraction."""
NEEDS_VOLATILITY = ("square_root", "depth")


def path_of(
    traded: Traded,
    times_us: np.ndarray,
    numbers: dict[str, Any],
    volatility: Volatility,
) -> Moves:
    """Moves of prices by what was traded at each time.

    A move and the sum of all that is left are at most ``max_move``; what is below ``tolerance``
    is none, so that prices are the market's again some time after a cascade.

    Args:
        traded: net cash delta of liquidations.
        times_us: the grid.
        numbers: of the liquidation file; ``impact`` is used.
        volatility: of the coins that were traded.

    Source: backtesting 2.6.
    """
    rule = numbers["impact"]
    most, least = rule["max_move"], rule["tolerance"]
    found: dict[tuple[int, str], float] = {}
    left: dict[str, float] = {}
    pending = np.searchsorted(times_us, sorted(time for time in traded if traded[time]))
    ends = np.append(pending, len(times_us))
    at = int(ends[0])
    while at < len(times_us):
        time_us = int(times_us[at])
        if left:
            days = (time_us - int(times_us[at - 1])) / MICROS_PER_DAY
            left = decayed(left, days, numbers)
        for coin, usd in sorted(traded.get(time_us, {}).items()):
            sigma = volatility(time_us, coin) if rule["model"] in NEEDS_VOLATILITY else 0.0
            left[coin] = left.get(coin, 0.0) + price_move(usd, coin, numbers, sigma)
        left = {c: max(-most, min(most, m)) for c, m in left.items() if abs(m) > least}
        found |= {(time_us, coin): move for coin, move in left.items()}
        at += 1
        if not left:
            at = int(ends[np.searchsorted(ends, at)])
    return Moves.of(found, moves_index=rule["moves_index"])


def standing(old: Moves, new: Moves, tolerance: float) -> tuple[Moves, float]:
    """The new path with the old moves where both agree to a tolerance; the largest change.

    A path that stands still is thereby the very same one, and so are its first times.
    """
    before, after = old.by_key, new.by_key
    kept: dict[tuple[int, str], float] = {}
    largest = 0.0
    for key in {*before, *after}:
        one, other = before.get(key, 0.0), after.get(key, 0.0)
        change = abs(other - one)
        largest = max(largest, change)
        kept[key] = one if change <= tolerance else other
    return Moves.of(kept, moves_index=new.moves_index), largest


class DailyVolatility:
    """Realised volatility of the index over the days before each time, as known at it.

    Root of the sum of squared logarithmic returns between the index rows of the last ``days``
    days, scaled to one day by the time that they cover; the index is that of the market, not moved.

    Args:
        dataset: where the index is.
        coins: whose index.
        first_us, last_us: times of the run.
        days: how far back.
    """

    def __init__(
        self, dataset: Dataset, coins: list[str], first_us: int, last_us: int, days: float
    ) -> None:
        self._back_us = round(days * MICROS_PER_DAY)
        rows = {coin: (list[np.ndarray](), list[np.ndarray]()) for coin in coins}
        start = first_us - self._back_us
        while start <= last_us:
            stop = min(start + MICROS_PER_DAY - 1, last_us)
            frame = dataset.index(stamp(start), stamp(stop), with_source=True)
            frame = clean_index(frame).good
            frame = frame.assign(_us=micros(frame["time"])).sort_values("_us")
            for coin, mine in frame.groupby(frame["currency"].astype(str)):
                if str(coin) in rows:
                    rows[str(coin)][0].append(mine["_us"].to_numpy(np.int64))
                    rows[str(coin)][1].append(mine["usd"].to_numpy(float))
            start = stop + 1
        self._of = {c: _running(*each) for c, each in rows.items() if each[0]}

    def __call__(self, time_us: int, coin: str) -> float:
        """Volatility of a day, a fraction; 0 where less than two rows are known."""
        if coin not in self._of:
            return 0.0
        times, total, _ = self._of[coin]
        last = int(np.searchsorted(times, time_us, "right")) - 1
        first = int(np.searchsorted(times, time_us - self._back_us, "left"))
        if last <= first:
            return 0.0
        covered = (times[last] - times[first]) / MICROS_PER_DAY
        return math.sqrt(max(0.0, total[last] - total[first]) / covered)

    def index_usd(self, time_us: int, coin: str) -> float:
        """The last index price at or before a time, not a number where there is none."""
        if coin not in self._of:
            return math.nan
        times, _, usd = self._of[coin]
        last = int(np.searchsorted(times, time_us, "right")) - 1
        return float(usd[last]) if last >= 0 else math.nan


def _running(
    times: list[np.ndarray], usd: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, squared returns added up to each, prices."""
    prices = np.concatenate(usd)
    squares = np.diff(np.log(prices), prepend=np.log(prices[0])) ** 2
    return np.concatenate(times), np.cumsum(squares), prices
