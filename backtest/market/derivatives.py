"""Perpetuals and expiry futures marked from the state of the market; spot rows for orders."""

import numpy as np

from backtest.market.black import FloatArray
from backtest.market.config import INVERSE_MULTIPLIERS, MarketSection
from backtest.market.expiries import expiry_calendar, expiry_code
from backtest.market.series import instant, times_of
from backtest.market.state import CoinState, MarkBlock, MarketState, instrument_table


SPOT_QUOTES = ("USDT", "USDC")


class SpotRows:
    """Spot pairs: instruments for resting orders, never marked."""

    def __init__(self, config: MarketSection) -> None:
        self.instruments = instrument_table(
            [
                {
                    "instrument_id": f"{coin}-{quote}",
                    "kind": "spot",
                    "coin": coin,
                    "settle": quote,
                    "style": "linear",
                    "multiplier": 1.0,
                }
                for coin in config.coins
                for quote in SPOT_QUOTES
            ]
        )

    def block(self, first: int, last: int) -> MarkBlock:
        """No rows."""
        del first, last
        none = np.zeros(0, np.int64)
        return MarkBlock(none, none, np.zeros(0))


class PerpetualMarks:
    """USDT-, USDC- and coin-margined perpetuals of every coin.

    All three have the relative premium to the index of the USDT one and its funding rate; the USDC
    one is quoted in USDC, the coin-margined one in USD.
    """

    def __init__(self, state: MarketState, config: MarketSection) -> None:
        self._state = state
        self._legs = [(c, q) for c in state.coins for q in config.perpetuals.settle]
        self.instruments = instrument_table(
            [
                _contract(coin, quote, f"{coin}-{quote}-SWAP", "perpetual", config)
                for coin, quote in self._legs
            ]
        )

    def block(self, first: int, last: int) -> MarkBlock:
        """Mark, low, high and funding rate of grid rows ``first`` to ``last`` (exclusive)."""
        rows = slice(first, last)
        shape = (last - first, len(self._legs))
        mark, low, high, funding = (np.full(shape, np.nan) for _ in range(4))
        for column, (coin, quote) in enumerate(self._legs):
            own: CoinState = self._state.coins[coin]
            cross = self._state.cash_usd["USDT"][rows] / self._state.cash_usd[quote][rows]
            mark[:, column] = own.perp_usdt[rows] * cross
            low[:, column] = own.perp_low[rows] * cross
            high[:, column] = own.perp_high[rows] * cross
            funding[:, column] = own.funding[rows]
        row, column = np.nonzero(np.isfinite(mark))
        at = (row, column)
        return MarkBlock(row + first, column, mark[at], low[at], high[at], funding=funding[at])


class FutureMarks:
    """Expiry futures: the index times the carry, in the quote currency; no bars: no low or high."""

    def __init__(self, state: MarketState, config: MarketSection) -> None:
        self._state = state
        rows: list[dict[str, object]] = []
        chosen = config.futures
        dates = expiry_calendar(
            instant(state.times[0]),
            instant(state.times[-1]),
            daily=chosen.daily,
            weekly=chosen.weekly,
            monthly=chosen.monthly,
            quarterly=chosen.quarterly,
        )
        self._expiry = times_of(dates, "expiry")
        self._listed = times_of(dates, "listed")
        self._legs = [(c, q) for c in chosen.coins if c in state.coins for q in chosen.settle]
        for coin, quote in self._legs:
            for expiry, listed in zip(dates["expiry"], dates["listed"], strict=True):
                name = f"{coin}-{quote}-{expiry_code(expiry)}"
                row = _contract(coin, quote, name, "future", config)
                rows.append(row | {"listed": listed, "expiry": expiry})
        self.instruments = instrument_table(rows)

    def block(self, first: int, last: int) -> MarkBlock:
        """Marks of grid rows ``first`` to ``last`` (exclusive)."""
        grid = np.arange(first, last)
        times = self._state.times[first:last]
        alive = (self._listed <= times[:, None]) & (times[:, None] < self._expiry)
        parts: list[FloatArray] = []
        for coin, quote in self._legs:
            own = self._state.coins[coin]
            usd = own.index_usd[grid, None] * np.exp(own.carry.log_forward(grid, self._expiry))
            parts.append(np.where(alive, usd / self._state.cash_usd[quote][grid, None], np.nan))
        if not parts:
            none = np.zeros(0, np.int64)
            return MarkBlock(none, none, np.zeros(0))
        mark = np.hstack(parts)
        row, column = np.nonzero(np.isfinite(mark))
        return MarkBlock(row + first, column, mark[row, column])


def _contract(
    coin: str, quote: str, name: str, kind: str, config: MarketSection
) -> dict[str, object]:
    inverse = quote == "USD"
    return {
        "instrument_id": name,
        "kind": kind,
        "coin": coin,
        "settle": coin if inverse else quote,
        "style": "inverse" if inverse else "linear",
        "multiplier": INVERSE_MULTIPLIERS.get(coin, 10.0)
        if inverse
        else config.linear_multiplier(coin),
    }


def mark_sources(
    state: MarketState, config: MarketSection
) -> list[SpotRows | PerpetualMarks | FutureMarks]:
    """Sources of everything but options."""
    return [SpotRows(config), PerpetualMarks(state, config), FutureMarks(state, config)]
