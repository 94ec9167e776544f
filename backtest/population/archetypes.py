"""The linear archetypes: directional, basis, calendar, cross-stable, altcoin, borrower, flat.

Each function adds legs and holdings of one archetype to a sketch; chances and ranges written here
are the shape of an archetype and assumed, sizes come from the configured leverage.
"""

import numpy as np

from backtest.population.arrays import Bools, Ints
from backtest.population.sketch import Sketch, coin_weights
from backtest.population.universe import Universe


MAJORS = ("BTC", "ETH")


def coins_with_spot(universe: Universe) -> Bools:
    """Coins that have an index price."""
    return np.isfinite(universe.spot)


def coins_with_perp(universe: Universe) -> Bools:
    """Coins with any perpetual that can be opened."""
    return np.any(universe.perp >= 0, axis=1)


def altcoins_with_perp(universe: Universe) -> Bools:
    """Coins other than BTC and ETH with a perpetual."""
    alt = np.array([name not in MAJORS for name in universe.market.coins], np.bool_)
    return coins_with_perp(universe) & alt


def coins_with_inverse_calendar(universe: Universe) -> Bools:
    """Coins with an inverse perpetual and an inverse future."""
    return (universe.perp[:, 3] >= 0) & (universe.inverse_futures.count >= 1)


def coins_with_two_families(universe: Universe) -> Bools:
    """Coins with a USDT-margined perpetual and one margined in USDC or USD."""
    return (universe.perp[:, 0] >= 0) & np.any(universe.perp[:, 1:] >= 0, axis=1)


def directional(sketch: Sketch) -> None:
    """One to four perpetuals (or futures), mostly one way; leverage = gross notional / equity."""
    _one_way(sketch, coins_with_perp(sketch.universe), most=4, long=0.6)


def leveraged_altcoin(sketch: Sketch) -> None:
    """One to five altcoin perpetuals, mostly long; leverage = gross notional / equity."""
    _one_way(sketch, altcoins_with_perp(sketch.universe), most=5, long=0.75)


def _one_way(sketch: Sketch, feasible: Bools, most: int, long: float) -> None:
    draws = sketch.draws
    weights = coin_weights(sketch.universe, sketch.config, feasible)
    count = 1 + (draws.uniform("legs") ** 1.2 * most).astype(np.int64)
    side = draws.sign("side", long)
    part = -np.log(draws.matrix("part", most))
    part = np.where(np.arange(most)[None, :] < count[:, None], part, 0.0)
    part /= part.sum(axis=1, keepdims=True)
    for leg in range(most):
        coin = sketch.coin if leg == 0 else draws.choice(f"coin/{leg}", weights)
        instrument = _perp_or_future(sketch, f"leg/{leg}", coin, 0.12)
        turn = draws.sign(f"turn/{leg}", 0.88)
        sketch.add(instrument, sketch.leverage * side * turn * part[:, leg])


def _perp_or_future(sketch: Sketch, name: str, coin: Ints, chance: float) -> Ints:
    """A perpetual, or with some chance a future where the coin has one."""
    instrument = sketch.perp(name, coin)
    linear, inverse = sketch.universe.linear_futures, sketch.universe.inverse_futures
    total = linear.count[coin] + inverse.count[coin]
    rows = np.flatnonzero((sketch.draws.uniform(f"{name}/future") < chance) & (total > 0))
    place = sketch.draws.below(f"{name}/expiry", total)[rows]
    chosen = coin[rows]
    is_linear = place < linear.count[chosen]
    for pool, mine, shift in ((linear, is_linear, 0), (inverse, ~is_linear, linear.count)):
        at = np.flatnonzero(mine)
        gap = 0 if isinstance(shift, int) else shift[chosen[at]]
        instrument[rows[at]] = pool.pick(chosen[at], place[at] - gap)
    return instrument


def spot_basis(sketch: Sketch) -> None:
    """Long spot against a short perpetual or future, one in ten the other way round.

    Leverage = spot value / equity; above 1 the spot is bought with borrowed stablecoins.
    """
    side = sketch.draws.sign("side", 0.9)
    size = sketch.leverage * side
    sketch.hold(sketch.coin, size)
    instrument = _perp_or_future(sketch, "short", sketch.coin, 0.25)
    cover = sketch.draws.between("cover", 0.9, 1.02)
    slope = np.where(instrument >= 0, sketch.delta_of(np.maximum(instrument, 0)), 1.0)
    sketch.add(instrument, -size * cover / slope)


def inverse_calendar(sketch: Sketch) -> None:
    """Inverse perpetual against an inverse future; leverage = notional of one side / equity."""
    universe, draws, coin = sketch.universe, sketch.draws, sketch.coin
    size = sketch.leverage * draws.sign("side", 0.6)
    futures = universe.inverse_futures
    far = futures.pick(coin, draws.below("expiry", futures.count[coin]))
    sketch.add(universe.perp[coin, 3], size)
    sketch.add(far, -size * draws.between("ratio", 0.93, 1.05))


def cross_stable(sketch: Sketch) -> None:
    """Long USDT-margined against short USDC- or USD-margined perpetuals of a coin, or reversed.

    Leverage = notional of one side / equity.
    """
    universe, draws, coin = sketch.universe, sketch.draws, sketch.coin
    size = sketch.leverage * draws.sign("side", 0.7)
    edges = np.cumsum(np.where(universe.perp[:, 1:] >= 0, [50.0, 15.0, 35.0], 0.0), axis=1)
    point = draws.uniform("family") * edges[coin, 2]
    slot = np.minimum((edges[coin] <= point[:, None]).sum(axis=1), 2) + 1
    other = universe.perp[coin, slot]
    sketch.add(universe.perp[coin, 0], size)
    sketch.add(other, -size * draws.between("ratio", 0.95, 1.05))


def borrower(sketch: Sketch) -> None:
    """A negative balance: coins bought with borrowed stablecoins, or coins sold short.

    Leverage = debt / equity. Half of them also hold a perpetual of the coin.
    """
    draws = sketch.draws
    buyer = draws.uniform("kind") < 0.7
    debt = sketch.leverage
    sketch.hold(sketch.coin, np.where(buyer, 1.0 + debt, -debt))
    perp = sketch.perp("perp", sketch.coin)
    size = 0.4 * debt * draws.uniform("size") * draws.sign("side", 0.5)
    sketch.add(perp, size, draws.uniform("has") < 0.5)


def flat(sketch: Sketch) -> None:
    """Collateral only."""
    del sketch
