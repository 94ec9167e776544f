"""Which archetypes a market can hold, and the sketch of each."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from backtest.errors import ConfigError
from backtest.population import archetypes as linear, option_archetypes as optional
from backtest.population.arrays import Bools, Floats
from backtest.population.config import ARCHETYPES, Archetype, PopulationConfig
from backtest.population.sketch import Sketch
from backtest.population.universe import Universe


@dataclass(frozen=True)
class Kind:
    """How one archetype is made and which coins allow it; ``tied`` books own coins by design."""

    make: Callable[[Sketch], None]
    coins: Callable[[Universe], Bools]
    tied: bool = False


def _makers(universe: Universe) -> Bools:
    both = optional.coins_with_options_and_perp(universe)
    return both if both.any() else linear.coins_with_perp(universe)


def _spot_and_perp(universe: Universe) -> Bools:
    return linear.coins_with_perp(universe) & linear.coins_with_spot(universe)


KINDS: dict[Archetype, Kind] = {
    "directional": Kind(linear.directional, linear.coins_with_perp),
    "spot_basis": Kind(linear.spot_basis, _spot_and_perp, tied=True),
    "inverse_calendar": Kind(linear.inverse_calendar, linear.coins_with_inverse_calendar),
    "short_strangle": Kind(optional.short_strangle, optional.coins_with_options),
    "covered_call": Kind(optional.covered_call, optional.coins_with_options, tied=True),
    "hedged_volatility": Kind(optional.hedged_volatility, optional.coins_with_options_and_perp),
    "option_calendar": Kind(optional.option_calendar, optional.coins_with_two_expiries),
    "cross_stable": Kind(linear.cross_stable, linear.coins_with_two_families),
    "leveraged_altcoin": Kind(linear.leveraged_altcoin, linear.altcoins_with_perp),
    "borrower": Kind(linear.borrower, linear.coins_with_spot, tied=True),
    "market_maker": Kind(optional.market_maker, _makers),
    "flat": Kind(linear.flat, lambda u: np.ones(len(u.market.coins), np.bool_)),
}


@dataclass(frozen=True)
class Mix:
    """Weights of the archetypes on a market, in the order of ``ARCHETYPES``.

    ``left_out``: weights of archetypes that the market cannot hold; they are spread over the
    others in proportion.
    """

    weights: Floats
    left_out: dict[Archetype, float]


def resolve_mix(universe: Universe, config: PopulationConfig) -> Mix:
    """Configured weights without the archetypes that no coin of the market allows.

    Raises:
        ConfigError: nothing is left.
    """
    weights = np.array([config.mix.get(name, 0.0) for name in ARCHETYPES])
    possible = np.array([KINDS[name].coins(universe).any() for name in ARCHETYPES])
    left_out: dict[Archetype, float] = {
        name: float(weight)
        for name, weight, here in zip(ARCHETYPES, weights, possible, strict=True)
        if weight > 0.0 and not here
    }
    weights = np.where(possible, weights, 0.0)
    if not weights.any():
        raise ConfigError(
            f"population.mix: the market allows none of {sorted(left_out)}; "
            "name an archetype that it can hold, for example flat"
        )
    return Mix(weights, left_out)
