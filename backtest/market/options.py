"""Options of a coin marked from a fitted volatility surface."""

import numpy as np
import pandas as pd

from backtest.market.black import YEAR_US, FloatArray, IntArray, option_coin_price
from backtest.market.config import OptionsConfig
from backtest.market.listing import OptionList, list_options
from backtest.market.state import CoinState, MarkBlock, MarketState
from backtest.market.surface import CoinSurface


class SurfaceOptionMarks:
    """Listed options of one coin; every mark is Black-76 at the surface's volatility."""

    def __init__(
        self, state: MarketState, coin: str, config: OptionsConfig, surface: CoinSurface
    ) -> None:
        own = state.coins[coin]
        assert own.level is not None
        assert own.usual_level is not None
        self._times = state.times
        self._own: CoinState = own
        self._level: FloatArray = own.level * config.level_ratio
        self._usual: FloatArray = own.usual_level * config.level_ratio
        self._surface = surface
        self._list: OptionList = list_options(coin, state.times, own.index_usd, config)
        self._expiries, self._slot = np.unique(self._list.expiry, return_inverse=True)

    @property
    def instruments(self) -> pd.DataFrame:
        """Option rows of the table ``instruments``."""
        return self._list.instruments

    def alive(self) -> IntArray:
        """Number of options alive at each grid time."""
        moved = np.searchsorted(self._times, np.concatenate([self._list.listed, self._list.expiry]))
        count = np.zeros(len(self._times) + 1, np.int64)
        half = len(moved) // 2
        np.add.at(count, moved[:half], 1)
        np.add.at(count, moved[half:], -1)
        return np.cumsum(count)[:-1]

    def block(self, first: int, last: int) -> MarkBlock:
        """Marks, forwards and volatilities of grid rows ``first`` to ``last`` (exclusive)."""
        times = self._times[first:last]
        near = np.flatnonzero((self._list.listed <= times[-1]) & (self._list.expiry > times[0]))
        alive = self._list.listed[near] <= times[:, None]
        alive &= times[:, None] < self._list.expiry[near]
        alive &= np.isfinite(self._own.index_usd[first:last])[:, None]
        row, place = np.nonzero(alive)
        column = near[place]
        logs = self._own.carry.log_forward(np.arange(first, last), self._expiries)
        forwards = self._own.index_usd[first:last, None] * np.exp(logs)
        forward = forwards[row, self._slot[column]]
        strike = self._list.strike[column]
        years = (self._list.expiry[column] - times[row]) / YEAR_US
        iv = self._surface.implied(
            level=self._level[first:last][row],
            reference=self._usual[first:last][row],
            years=years,
            log_moneyness=np.log(strike / forward),
        )
        mark = option_coin_price(
            forwards=forward,
            strikes=strike,
            volatilities=iv,
            years=years,
            is_call=self._list.is_call[column],
        )
        return MarkBlock(row + first, column, mark, forward=forward, iv=iv)
