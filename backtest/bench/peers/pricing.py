"""Pricing one option in one scenario at a time, as loops over a pricing library do."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from backtest.bench.flat import FlatContracts, FlatMarket, FlatRules
from backtest.bench.peers import needed
from kernels.records import OPTION


DAYS_PER_YEAR = 365.0
SECONDS_PER_YEAR = DAYS_PER_YEAR * 86_400.0
Price = Callable[[bool, float, float, float], float]
"""Coins of one option: is it a call, forward, strike, volatility times square root of time."""


@dataclass(frozen=True)
class Evaluations:
    """Every (option, scenario) to price at one time; the first scenario changes nothing.

    Fields:
        option: instrument of each row.
        forward, width, index: [row, scenario]; strike, is_call, multiplier: [row].
    """

    option: np.ndarray
    forward: np.ndarray
    width: np.ndarray
    index: np.ndarray
    strike: np.ndarray
    is_call: np.ndarray
    multiplier: np.ndarray

    @property
    def count(self) -> int:
        """How many prices there are to compute."""
        return self.forward.size

    def priced(self, price: Price) -> np.ndarray:
        """Coins of each row and scenario, one call after the other."""
        out = np.empty(self.forward.shape)
        terms = zip(self.is_call.tolist(), self.strike.tolist(), strict=True)
        for k, (is_call, strike) in enumerate(terms):
            cells = zip(self.forward[k].tolist(), self.width[k].tolist(), strict=True)
            out[k] = [price(is_call, forward, strike, width) for forward, width in cells]
        return out

    def profits(self, coins: np.ndarray) -> np.ndarray:
        """USD profit of one contract in each scenario, as the shared table holds it."""
        usd = self.index * coins
        return self.multiplier[:, None] * (usd[:, 1:] - usd[:, :1])


def evaluations(
    contracts: FlatContracts, market: FlatMarket, rules: FlatRules, t: int
) -> Evaluations:
    """All options of the market at one time in all scenarios of the rules (points or percent)."""
    option = np.flatnonzero(contracts.kind == OPTION)
    coin, forward, vol = contracts.coin[option], market.forward[t, option], market.iv[t, option]
    years = (contracts.expiry_s[option] - market.now_s[t]) / SECONDS_PER_YEAR
    spot, one = market.usd[t, coin], np.ones(len(option))
    days = years * DAYS_PER_YEAR
    points = np.interp(days, rules.points_days, rules.points)
    percent = np.interp(days, rules.percent_days, rules.percent) * vol
    choices = points, percent, np.maximum(points, percent), np.minimum(points, percent)
    shock = choices[rules.combine]
    down, up = (np.maximum(vol + s * shock, rules.vol_floor) for s in (-1, 1))
    root = np.sqrt(years)
    cells = [(forward, vol * root, spot)]

    def moved(move: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, ...]:
        index = spot if rules.pnl_in_coin else spot * (1 + move)
        return forward * (1 + move), sigma * root, index

    for move in rules.price_moves[coin].T:
        cells += [moved(move, sigma) for sigma in (down, vol, up)]
    cells += [moved(side * rules.extreme_move[coin], vol) for side in (1, -1)]
    slope = rules.rate_slope * (1 - 2 * np.minimum(years / rules.rate_slope_span_yr, 1.0))
    p = rules.rate_parallel
    for shift in (p + slope, p - slope, slope - p, -p - slope):
        cells.append((forward * np.exp(shift * years), vol * root, spot))
    tomorrow = np.maximum(years - rules.theta_days / DAYS_PER_YEAR, 0.0)
    cells.append((forward, vol * np.sqrt(tomorrow), spot))
    forwards, widths, index = (
        np.stack([one * x for x in column], axis=1) for column in zip(*cells, strict=True)
    )
    return Evaluations(
        option=option,
        forward=forwards,
        width=widths,
        index=index,
        strike=contracts.strike[option],
        is_call=contracts.sign[option] > 0,
        multiplier=contracts.multiplier[option],
    )


def quantlib_price() -> Price:
    """Black's formula of QuantLib."""
    quantlib: Any = needed("QuantLib")
    call, put, formula = quantlib.Option.Call, quantlib.Option.Put, quantlib.blackFormula

    def price(is_call: bool, forward: float, strike: float, width: float) -> float:
        return formula(call if is_call else put, strike, forward, width) / forward

    return price


def plain_price(is_call: bool, forward: float, strike: float, width: float) -> float:
    """Black's formula in coins with SciPy's normal distribution, on scalars."""
    sign = 1.0 if is_call else -1.0
    if width <= 0.0:
        return max(0.0, sign * (1.0 - strike / forward))
    d1 = math.log(forward / strike) / width + 0.5 * width
    return float(sign * (ndtr(sign * d1) - strike / forward * ndtr(sign * (d1 - width))))
