"""A book before it has a size: legs and holdings in USD per USD of equity."""

from dataclasses import dataclass, field

import numpy as np

from backtest.population.arrays import Bools, Floats, Ints
from backtest.population.config import PopulationConfig
from backtest.population.draws import Draws
from backtest.population.universe import Universe


_SLOT_WEIGHTS = np.array([70.0, 12.0, 5.0, 13.0])
"""Which perpetual of a coin an account trades: USDT, USDC, other linear, inverse (assumed)."""


@dataclass
class Sketch:
    """Legs and holdings of the accounts of one archetype.

    ``leverage`` and ``coin`` by account. A leg is (account row, instrument, signed USD notional
    per USD of equity), a holding (account row, coin, USD per USD of equity, negative = debt); a
    holding is paid from, or leaves its proceeds in, the home currency.
    """

    draws: Draws
    universe: Universe
    config: PopulationConfig
    coin: Ints
    leverage: Floats
    row: list[Ints] = field(default_factory=list)
    instrument: list[Ints] = field(default_factory=list)
    weight: list[Floats] = field(default_factory=list)
    held_row: list[Ints] = field(default_factory=list)
    held_coin: list[Ints] = field(default_factory=list)
    held_weight: list[Floats] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.coin)

    def add(self, instrument: Ints, weight: Floats, when: Bools | None = None) -> None:
        """One leg for each account (where ``when`` holds); an instrument below 0 adds none."""
        keep = (instrument >= 0) & (weight != 0.0)
        if when is not None:
            keep &= when
        row = np.flatnonzero(keep)
        self.row.append(row)
        self.instrument.append(instrument[row])
        self.weight.append(weight[row])

    def hold(self, coin: Ints, weight: Floats) -> None:
        """A holding of a coin for each account."""
        self.held_row.append(np.arange(len(self), dtype=np.int64))
        self.held_coin.append(coin)
        self.held_weight.append(weight)

    def perp(self, name: str, coin: Ints) -> Ints:
        """A perpetual of each coin by settlement habit, -1 where the coin has none."""
        edges = np.cumsum(np.where(self.universe.perp >= 0, _SLOT_WEIGHTS, 0.0), axis=1)
        point = self.draws.uniform(name) * edges[coin, 3]
        slot = np.minimum((edges[coin] <= point[:, None]).sum(axis=1), 3)
        return self.universe.perp[coin, slot]

    def chain(self, name: str, coin: Ints, skip: int = 0, near: float = 1.6) -> Ints:
        """An option chain of each coin, near expiries more often; ``skip`` leaves out the last."""
        count = np.maximum(self.universe.chains.count[coin] - skip, 1)
        place = (self.draws.uniform(name) ** near * count).astype(np.int64)
        return self.universe.chains.pick(coin, place)

    def delta_of(self, instrument: Ints) -> Floats:
        """USD delta of one USD of notional of each instrument (put below 0)."""
        u = self.universe
        usd = u.delta[instrument] * u.spot[u.market.coin[instrument]]
        notional = u.notional[instrument]
        return usd / np.where(notional > 0.0, notional, 1.0)

    def hedge(self, name: str, net_delta: Floats, when: Bools | None = None) -> None:
        """Trade the account's perpetual against ``net_delta`` (USD per USD of equity)."""
        perp = self.perp(name, self.coin)
        slope = np.where(perp >= 0, self.delta_of(np.maximum(perp, 0)), 1.0)
        self.add(perp, -net_delta / slope, when)


def coin_weights(universe: Universe, config: PopulationConfig, feasible: Bools) -> Floats:
    """Configured weight of each coin, zero where ``feasible`` is not."""
    rest = config.coins.get("default", 0.0)
    weights = np.array([config.coins.get(name, rest) for name in universe.market.coins])
    weights = np.where(feasible, weights, 0.0)
    return weights if weights.any() else feasible.astype(np.float64)
