"""What liquidations have moved prices by, through time; and a market that is moved by it.

A move is a fraction of the price of a coin. It moves the marks of the coin's contracts and pairs
and the forwards of its options, which are revalued at their volatility; entries, funding and
settlements stay, and the index unless told. What does not move keeps its bits.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from backtest.market.black import YEAR_US, option_coin_price
from backtest.market_window import MarketWindow, micros
from backtest.model_records import Currencies


@dataclass(frozen=True)
class Moves:
    """Moves of one parameter set: rows by time and coin, those that are 0 left out.

    Fields:
        times_us: time of each row, ascending, microseconds since the epoch.
        coins: coin of each row, ascending within a time.
        frac: move, a fraction of the price.
        moves_index: whether the index moves with the marks.
    """

    times_us: np.ndarray
    coins: np.ndarray
    frac: np.ndarray
    moves_index: bool = False

    @classmethod
    def of(cls, moves: dict[tuple[int, str], float], *, moves_index: bool = False) -> "Moves":
        """From moves by time in microseconds and coin."""
        rows = sorted((key, move) for key, move in moves.items() if move != 0.0)
        return cls(
            np.asarray([time for (time, _), _ in rows], np.int64),
            np.asarray([coin for (_, coin), _ in rows], dtype=str),
            np.asarray([move for _, move in rows], float),
            moves_index,
        )

    @cached_property
    def by_key(self) -> dict[tuple[int, str], float]:
        """The moves by time and coin."""
        keys = zip(self.times_us.tolist(), self.coins.tolist(), strict=True)
        return dict(zip(keys, self.frac.tolist(), strict=True))

    def name(self, until_us: int) -> str:
        """Hash of all moves at or before a time; empty where nothing has moved.

        What is replayed up to that time depends on no other move.
        """
        count = int(np.searchsorted(self.times_us, until_us, "right"))
        if not count:
            return ""
        text = "\n".join(self.coins[:count].tolist()).encode()
        parts = self.times_us[:count].tobytes(), text, self.frac[:count].astype(float).tobytes()
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def at(self, times_us: np.ndarray, coins: Sequence[str]) -> np.ndarray:
        """Moves [time, coin] at some ascending times, 0 where nothing moves."""
        out = np.zeros((len(times_us), len(coins)))
        first = int(np.searchsorted(self.times_us, times_us[0], "left"))
        stop = int(np.searchsorted(self.times_us, times_us[-1], "right"))
        place = {coin: k for k, coin in enumerate(coins)}
        for k in range(first, stop):
            time, coin = self.times_us[k], str(self.coins[k])
            if coin in place:
                out[times_us == time, place[coin]] = self.frac[k]
        return out


NOTHING = Moves(np.zeros(0, np.int64), np.zeros(0, dtype=str), np.zeros(0))
"""No move at any time."""


def moved_market(
    market: MarketWindow, moves: Moves, instruments: pd.DataFrame, currencies: Currencies
) -> MarketWindow:
    """A market at moved prices; the very same object where nothing moves in it.

    Args:
        market: as it was without liquidations.
        moves: what they have done.
        instruments: its instrument axis without the null contract.
        currencies: its currency axis.
    """
    of_currency = moves.at(market.times_us, currencies.names)
    if not of_currency.any():
        return market
    coins = [currencies.position[str(coin)] for coin in instruments["coin"]]
    move = np.concatenate([np.zeros((len(of_currency), 1)), of_currency[:, coins]], axis=1)
    is_option = np.append(False, instruments["kind"].astype(str).to_numpy() == "option")
    mark = np.where((move != 0.0) & ~is_option, market.mark * (1.0 + move), market.mark)
    forward = market.forward_usd.copy()
    where = np.flatnonzero(is_option & (move != 0.0).any(axis=0))
    if len(where):
        each = instruments.take(where - 1)
        revalued = _revalued(market, move[:, where], where, each)
        mark[:, where], forward[:, where] = revalued
    usd = market.currency_usd
    if moves.moves_index:
        usd = np.where(of_currency != 0.0, usd * (1.0 + of_currency), usd)
    return replace(market, mark=mark, forward_usd=forward, currency_usd=usd)


def _revalued(
    market: MarketWindow, move: np.ndarray, where: np.ndarray, options: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Marks and forwards [time, option] at moved forwards: the change of the model price is added.

    A mark stays at 0 or above. What has no forward, no volatility or no time left stays as it is.
    """
    mark, forward, sigma = (x[:, where] for x in (market.mark, market.forward_usd, market.iv))
    expiry_us = micros(pd.to_datetime(options["expiry"], utc=True))
    years = (expiry_us[None] - market.times_us[:, None]) / YEAR_US
    known = (move != 0.0) & np.isfinite(mark) & np.isfinite(forward) & np.isfinite(sigma)
    known &= years > 0.0
    strike = np.broadcast_to(options["strike"].to_numpy(float), forward.shape)
    is_call = np.broadcast_to(options["option_type"].astype(str).to_numpy() == "C", forward.shape)
    settle, coin = (options[c].astype(str).to_numpy() for c in ("settle", "coin"))
    new = np.where(known, forward * (1.0 + move), forward)

    def worth(forwards: np.ndarray) -> np.ndarray:
        price = option_coin_price(
            forwards=np.where(known, forwards, 1.0),
            strikes=strike,
            volatilities=np.where(known, sigma, 0.0),
            years=np.maximum(years, 0.0),
            is_call=is_call,
        )
        return price * np.where(settle == coin, 1.0, forwards)

    change = worth(new) - worth(forward)
    return np.where(known, np.maximum(0.0, mark + change), mark), new
