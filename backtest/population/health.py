"""Rough margin estimate of many books at once: is an account healthy when it starts?

In the spirit of OKX portfolio margin, on the high side, from one table of charges by instrument
(label A throughout, see ``config.Health``). It is no margin engine: no netting between expiries,
a few price and volatility states, one borrowing rate.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.special import ndtr

from backtest.population.arrays import Floats, Ints, sum_by
from backtest.population.catalogue import OPTION, STABLE
from backtest.population.config import Health
from backtest.population.universe import Universe


_MOVES = np.array([-1.0, -1.0, -0.5, -0.5, 0.0, 0.0, 0.5, 0.5, 1.0, 1.0, -2.0, 2.0])
_VOLS = np.array([1.0, -1.0] * 5 + [0.0, 0.0])
_SCENARIOS = 10
_EXTREMES = 12
_DELTA, _VEGA, _FAMILY, _SKEW = 12, 13, 14, 17
_BASIS, _RATE, _VEGA_GROSS, _MINIMUM = 0, 1, 2, 3
_MULTIPLIERS = np.array([1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0])
_TIER_BOUNDS = np.array([1.0, 2.0, 4.0, 8.0, 12.0, 16.0])
_STABLE_BOUNDS = np.array([0.0, 1e6, 5e6, 10e6, 20e6, 40e6, 80e6, 120e6, 1e12])
_STABLE_STEP = 0.005
_PAIRS = ((0, 2), (0, 1), (1, 2))


@dataclass(frozen=True)
class Units:
    """Legs of many accounts grouped into (account, coin) units.

    ``start`` delimits the legs of each unit; legs are sorted by account, then by instrument, and
    instruments are sorted by coin.
    """

    account: Ints
    coin: Ints
    start: Ints
    instrument: Ints
    contracts: Floats


@dataclass(frozen=True)
class Estimate:
    """By account, USD: margin requirement, adjusted equity, and net USD delta of derivatives."""

    requirement: Floats
    adjusted: Floats
    delta: Floats

    @property
    def level(self) -> Floats:
        """Adjusted equity over requirement; infinite where nothing is required."""
        needed = self.requirement > 0.0
        return np.where(needed, self.adjusted / np.where(needed, self.requirement, 1.0), np.inf)


def group_units(universe: Universe, account: Ints, instrument: Ints, contracts: Floats) -> Units:
    """Units of legs that are sorted by account and instrument."""
    key = account * len(universe.market.coins) + universe.market.coin[instrument]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    start = np.append(first, len(key))
    coin = universe.market.coin[instrument[first]]
    return Units(account[first], coin, start, instrument, contracts)


class HealthModel:
    """Charges of one contract of every instrument at one time, and how accounts add them up."""

    def __init__(self, universe: Universe, health: Health) -> None:
        self._universe = universe
        self._health = health
        coins = universe.market.coins
        group = [0 if c in health.majors else 1 if c in health.second else 2 for c in coins]
        self._group = np.array(group, np.int64)
        self._move = np.array(health.price_move)[self._group]
        self._near = np.array(health.basis_move)[self._group]
        self._signed, self._gross = self._tables()
        rest = health.collateral_rate.get("default", 0.0)
        names = universe.market.currencies
        self._rate = np.array([health.collateral_rate.get(c, rest) for c in names])

    def _tables(self) -> tuple[Floats, Floats]:
        u, h = self._universe, self._health
        coin = u.market.coin
        spot = np.where(np.isfinite(u.spot[coin]), u.spot[coin], 0.0)
        option = (u.market.kind == OPTION) & u.priced & np.isfinite(u.iv)
        cash = u.delta * spot
        pnl = cash[:, None] * self._move[coin][:, None] * _MOVES[None, :]
        pnl[option] = self._option_pnl(np.flatnonzero(option))
        days = np.maximum(u.years * 365.0, 1.0)
        vega = np.where(option, self._vega(spot), 0.0) * np.sqrt(30.0 / days)
        family = np.minimum(u.market.slot, 2)[:, None] == np.arange(3)[None, :]
        short = np.where(option, h.short_option_rate * u.notional, 0.0)
        long = np.where(option, np.minimum(short, u.value_usd), 0.0)
        rate = np.array(h.minimum_rate)[self._group][coin]
        linear = np.where(u.market.kind == OPTION, 0.0, rate * np.abs(cash))
        skew = 0.5 * (long - short)
        signed = np.column_stack([pnl, cash, vega, cash[:, None] * family, skew])
        annual = np.array(h.basis_annual)[self._group][coin]
        basis = np.abs(cash) * np.maximum(self._near[coin], annual * u.years)
        interest = np.where(option, np.abs(cash) * h.rate_move * u.years, 0.0)
        minimum = linear + 0.5 * (long + short)
        return signed, np.column_stack([basis, interest, np.abs(vega), minimum])

    def _option_pnl(self, rows: Ints) -> Floats:
        """PnL of one contract in USD, by option and scenario."""
        u, h = self._universe, self._health
        coin = u.market.coin[rows]
        days = u.years[rows] * 365.0
        shock = np.interp(days, [0.0, 30.0, 60.0], h.volatility_points)
        forward = u.forward[rows, None] * (1.0 + self._move[coin][:, None] * _MOVES[None, :])
        iv = np.maximum(u.iv[rows, None] + shock[:, None] * _VOLS[None, :], 0.01)
        after = self._black(rows, forward, iv)
        before = self._black(rows, u.forward[rows, None], u.iv[rows, None])
        size = u.market.multiplier[rows] * u.spot[coin] / u.forward[rows]
        return (after - before) * size[:, None]

    def _black(self, rows: Ints, forward: Floats, iv: Floats) -> Floats:
        u = self._universe
        strike, sign = u.market.strike[rows, None], u.market.option_sign[rows, None]
        width = iv * np.sqrt(u.years[rows, None])
        d1 = np.log(forward / strike) / width + 0.5 * width
        return sign * (forward * ndtr(sign * d1) - strike * ndtr(sign * (d1 - width)))

    def _vega(self, spot: Floats) -> Floats:
        u = self._universe
        with np.errstate(divide="ignore", invalid="ignore"):
            width = u.iv * np.sqrt(u.years)
            d1 = np.log(u.forward / u.market.strike) / width + 0.5 * width
            density = np.exp(-0.5 * d1**2) / np.sqrt(2.0 * np.pi)
            return u.market.multiplier * spot * density * np.sqrt(u.years)

    def estimate(self, units: Units, equity: Floats, limit: Floats) -> Estimate:
        """Requirement and adjusted equity of every account.

        Args:
            units: legs by (account, coin).
            equity: USD by account and currency, negative = debt.
            limit: most coins of spot in use by account and currency (infinite = no limit), coins.
        """
        shape = (len(units.account), self._signed.shape[0])
        book = csr_array((units.contracts, units.instrument, units.start), shape=shape)
        signed = book @ self._signed
        gross = abs(book) @ self._gross
        per_unit = self._charges(units, signed, gross, equity, limit)
        count = len(equity)
        charge = sum_by(units.account, per_unit, count) * self._health.safety
        delta = sum_by(units.account, signed[:, _DELTA], count)
        debt = np.maximum(-equity, 0.0)
        steps = np.ceil(np.log2(np.maximum(debt, 1e6) / 1e6))
        borrowed = (debt * (self._health.borrow_rate + 0.01 * steps)).sum(axis=1)
        return Estimate(charge + borrowed, self.adjusted(equity), delta)

    def adjusted(self, equity: Floats) -> Floats:
        """Adjusted equity in USD of equities in USD by account and currency."""
        debt = np.minimum(equity, 0.0)
        return (np.maximum(equity, 0.0) * self._rate[None, :] + debt).sum(axis=1)

    def _charges(
        self, units: Units, signed: Floats, gross: Floats, equity: Floats, limit: Floats
    ) -> Floats:
        currency = self._universe.market.coin_currency[units.coin]
        price = self._universe.spot[units.coin]
        held = equity[units.account, currency]
        cap = limit[units.account, currency] * np.where(np.isfinite(price), price, 0.0)
        delta = signed[:, _DELTA]
        usable = np.minimum(np.minimum(np.abs(held), np.abs(delta)), cap)
        spot = np.where(held * delta < 0.0, np.sign(held) * usable, 0.0)
        moves = self._move[units.coin][:, None] * _MOVES[None, :]
        loss = -(signed[:, :_EXTREMES] + spot[:, None] * moves)
        worst = loss[:, :_SCENARIOS].max(axis=1)
        worst = np.maximum(worst, 0.5 * loss[:, _SCENARIOS:].max(axis=1))
        vega = 0.5 * (gross[:, _VEGA_GROSS] - np.abs(signed[:, _VEGA])) * self._health.vega_rate
        basis = gross[:, _BASIS] + np.abs(spot) * self._near[units.coin]
        total = np.maximum(worst, 0.0) + np.maximum(vega, 0.0) + basis + gross[:, _RATE]
        total += _stable_charge(signed[:, _FAMILY : _FAMILY + len(STABLE)])
        return np.maximum(total, self._minimum(gross[:, _MINIMUM] + signed[:, _SKEW], units.coin))

    def _minimum(self, raw: Floats, coin: Ints) -> Floats:
        """Minimum charge with the marginal size multiplier, USD."""
        first = np.array(self._health.minimum_tier_usd)[self._group[coin]]
        size = raw / first
        edges = np.concatenate([[0.0], _TIER_BOUNDS, [1e9]])
        paid = np.concatenate([[0.0], np.cumsum(np.diff(edges) * _MULTIPLIERS)])
        return np.interp(size, edges, paid) * first


def _stable_charge(family: Floats) -> Floats:
    """Charge on amounts hedged between USDT-, USDC- and USD-settled legs, USD."""
    rates = _STABLE_STEP * np.arange(1, len(_STABLE_BOUNDS))
    paid = np.concatenate([[0.0], np.cumsum(np.diff(_STABLE_BOUNDS) * rates)])
    left = family.copy()
    total = np.zeros(len(family))
    for one, other in _PAIRS:
        a, b = left[:, one].copy(), left[:, other].copy()
        hedged = np.where(a * b < 0.0, np.minimum(np.abs(a), np.abs(b)), 0.0)
        left[:, one] -= np.sign(a) * hedged
        left[:, other] -= np.sign(b) * hedged
        total += np.interp(hedged, _STABLE_BOUNDS, paid)
    return total
