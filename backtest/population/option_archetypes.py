"""The option archetypes: strangle, covered call, hedged volatility, calendar, market maker.

As in the linear archetypes, chances and ranges written here are assumed.
"""

import numpy as np

from backtest.population.arrays import Bools, Floats, Ints
from backtest.population.sketch import Sketch, coin_weights
from backtest.population.universe import Ragged, Universe


CALL, PUT = 0, 1
MOST = 4


def coins_with_options(universe: Universe) -> Bools:
    """Coins with calls and puts of one expiry."""
    return universe.chains.count >= 1


def coins_with_options_and_perp(universe: Universe) -> Bools:
    """Coins with options and a perpetual to hedge them."""
    return coins_with_options(universe) & np.any(universe.perp >= 0, axis=1)


def coins_with_two_expiries(universe: Universe) -> Bools:
    """Coins with options of two expiries."""
    return universe.chains.count >= 2


def short_strangle(sketch: Sketch) -> None:
    """One to four short strangles; a third of the accounts hedge the delta with a perpetual.

    Leverage = notional of the short calls / equity (the puts weigh as much).
    """
    draws = sketch.draws
    net = np.zeros(len(sketch))
    count = 1 + draws.below("count", MOST)
    for pair in range(MOST):
        active = pair < count
        chain = sketch.chain(f"chain/{pair}", sketch.coin)
        size = -sketch.leverage / count
        for side, low, high in ((CALL, 0.06, 0.35), (PUT, 0.06, 0.32)):
            delta = draws.between(f"delta/{pair}/{side}", low, high)
            option = sketch.universe.option_near(chain, side, delta)
            sketch.add(option, size, active)
            net += np.where(active, size * sketch.delta_of(option), 0.0)
    sketch.hedge("hedge", net, draws.uniform("hedged") < 0.35)


def covered_call(sketch: Sketch) -> None:
    """Coins held, calls sold against them, one in four with a bought put (collar).

    Leverage = value of the coins / equity.
    """
    draws = sketch.draws
    sketch.hold(sketch.coin, sketch.leverage)
    cover = draws.between("cover", 0.35, 1.0)
    count = 1 + draws.below("count", MOST)
    for leg in range(MOST):
        chain = sketch.chain(f"chain/{leg}", sketch.coin)
        delta = draws.between(f"delta/{leg}", 0.08, 0.45)
        call = sketch.universe.option_near(chain, CALL, delta)
        sketch.add(call, -sketch.leverage * cover / count, leg < count)
    put = sketch.universe.option_near(
        sketch.chain("put", sketch.coin), PUT, draws.between("strike", 0.08, 0.3)
    )
    sketch.add(put, sketch.leverage * cover, draws.uniform("collar") < 0.25)


def hedged_volatility(sketch: Sketch) -> None:
    """One to four straddles, long or short (55 %), the delta hedged with a perpetual.

    Leverage = notional of the calls / equity.
    """
    draws = sketch.draws
    net = np.zeros(len(sketch))
    count = 1 + draws.below("count", MOST)
    size = sketch.leverage * draws.sign("side", 0.45) / count
    for pair in range(MOST):
        active = pair < count
        chain = sketch.chain(f"chain/{pair}", sketch.coin)
        for side in (CALL, PUT):
            delta = draws.between(f"delta/{pair}/{side}", 0.38, 0.56)
            option = sketch.universe.option_near(chain, side, delta)
            sketch.add(option, size, active)
            net += np.where(active, size * sketch.delta_of(option), 0.0)
    sketch.hedge("hedge", net * draws.between("slack", 0.8, 1.1))


def option_calendar(sketch: Sketch) -> None:
    """One to four calendars: near option sold, later one bought at a like delta, or reversed.

    Leverage = notional of the near options / equity.
    """
    draws, universe = sketch.draws, sketch.universe
    net = np.zeros(len(sketch))
    count = 1 + draws.below("count", MOST)
    size = sketch.leverage * draws.sign("side", 0.7) / count
    for pair in range(MOST):
        active = pair < count
        near = sketch.chain(f"near/{pair}", sketch.coin, skip=1)
        behind = universe.chains.start[sketch.coin] + universe.chains.count[sketch.coin] - 1 - near
        far = near + 1 + draws.below(f"far/{pair}", np.maximum(behind, 1))
        far = np.minimum(far, near + np.maximum(behind, 0))
        put = (draws.uniform(f"put/{pair}") < 0.45).astype(np.int64)
        delta = draws.between(f"delta/{pair}", 0.25, 0.6)
        for chain, sign in ((near, -1.0), (far, 1.0)):
            option = universe.option_near(chain, put, delta)
            sketch.add(option, sign * size, active)
            net += np.where(active, sign * size * sketch.delta_of(option), 0.0)
    sketch.hedge("hedge", net, draws.uniform("hedged") < 0.4)


def market_maker(sketch: Sketch) -> None:
    """Many small legs over options, futures and perpetuals of up to three coins, delta hedged.

    Leverage = gross notional / equity.
    """
    draws, universe, most = sketch.draws, sketch.universe, sketch.config.max_legs - 3
    tradable = coins_with_options_and_perp(universe)
    if not tradable.any():
        tradable = np.any(universe.perp >= 0, axis=1)
    weights = coin_weights(universe, sketch.config, tradable)
    others = [draws.choice(f"coin/{i}", weights) for i in (1, 2)]
    coins = np.stack([sketch.coin, *others], axis=1)
    count = 6 + ((most - 6) * draws.uniform("count")).astype(np.int64)
    which = np.minimum((draws.matrix("which", most) ** 1.5 * 3).astype(np.int64), 2)
    coin = np.take_along_axis(coins, which, axis=1)
    instrument = _quoted(sketch, coin)
    size = -np.log(draws.matrix("size", most)) * np.sign(draws.matrix("side", most) - 0.5)
    size = np.where((np.arange(most)[None, :] < count[:, None]) & (instrument >= 0), size, 0.0)
    gross = np.abs(size).sum(axis=1, keepdims=True)
    size = size * sketch.leverage[:, None] / np.where(gross > 0, gross, 1.0)
    delta = size * np.where(instrument >= 0, sketch.delta_of(np.maximum(instrument, 0)), 0.0)
    for leg in range(most):
        sketch.add(instrument[:, leg], size[:, leg])
    slack = 1.0 + 0.15 * draws.normal("slack")
    for place in range(3):
        net = np.where(which == place, delta, 0.0).sum(axis=1) * slack
        perp = sketch.perp(f"hedge/{place}", coins[:, place])
        slope = np.where(perp >= 0, sketch.delta_of(np.maximum(perp, 0)), 1.0)
        sketch.add(perp, -net / slope)


def _quoted(sketch: Sketch, coin: Ints) -> Ints:
    """An option, perpetual or future for every (account, leg); -1 where the coin has none."""
    universe, draws = sketch.universe, sketch.draws
    legs = coin.shape[1]
    kind, pick = draws.matrix("kind", legs), draws.matrix("pick", legs)
    delta = 0.05 + 0.55 * draws.matrix("delta", legs)
    put = (draws.matrix("put", legs) < 0.5).astype(np.int64)
    options = universe.chains.count[coin] > 0
    instrument = _perps_of(universe, coin, pick)
    at = np.nonzero(options & (kind < 0.62))
    if len(at[0]):
        chain = _place(universe.chains, coin[at], pick[at] ** 1.4)
        instrument[at] = universe.option_near(chain, put[at], delta[at])
    for pool, low, high in (
        (universe.linear_futures, 0.62, 0.72),
        (universe.inverse_futures, 0.72, 0.82),
    ):
        at = np.nonzero((pool.count[coin] > 0) & (kind >= low) & (kind < high))
        instrument[at] = _place(pool, coin[at], pick[at])
    return instrument


def _place(pool: Ragged, coin: Ints, point: Floats) -> Ints:
    return pool.pick(coin, (point * pool.count[coin]).astype(np.int64))


def _perps_of(universe: Universe, coin: Ints, point: Floats) -> Ints:
    """A perpetual of each coin, every settlement alike; -1 where the coin has none."""
    perps = np.sort(universe.perp, axis=1)[:, ::-1]
    count = (perps >= 0).sum(axis=1)
    return perps[coin, (point * count[coin]).astype(np.int64)]
