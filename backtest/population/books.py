"""Books of many accounts at one time: legs with entry prices, cash by currency, limits."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from backtest.population.arrays import Bools, Floats, Ints, sum_by
from backtest.population.catalogue import OPTION, STABLE
from backtest.population.config import ARCHETYPES, Archetype, PopulationConfig, Size
from backtest.population.draws import Draws
from backtest.population.health import Estimate, HealthModel, group_units
from backtest.population.registry import KINDS
from backtest.population.sketch import Sketch, coin_weights
from backtest.population.universe import Universe


_LEG_STRIDE = 1 << 24
_LOT = 100.0
_MAX_OPEN_PROFIT = 0.5


@dataclass
class Legs:
    """Positions sorted by account row and instrument; ``entry`` is NaN where it is null."""

    account: Ints
    instrument: Ints
    contracts: Floats
    entry: Floats

    def keep(self, mask: Bools) -> "Legs":
        """The legs where ``mask`` holds."""
        return Legs(
            self.account[mask], self.instrument[mask], self.contracts[mask], self.entry[mask]
        )


@dataclass
class Books:
    """State of some accounts: ``number``, archetype code, legs, cash and limits by currency.

    ``cash`` in units by account and currency, ``shown`` which of them have a balances row,
    ``limit`` most coins of spot in use (infinite = none). ``estimate``: rough margin at the time
    the book was made; ``equity`` USD.
    """

    number: Ints
    archetype: Ints
    equity: Floats
    legs: Legs
    cash: Floats
    shown: Bools
    limit: Floats
    estimate: Estimate


@dataclass(frozen=True)
class Maker:
    """Everything that books are made from at one snapshot time."""

    universe: Universe
    model: HealthModel
    config: PopulationConfig

    @property
    def home(self) -> int:
        """Currency that pays for holdings: the first stablecoin that has a price."""
        market, usd = self.universe.market, self.universe.usd
        places = [market.currency(name) for name in STABLE]
        priced = [p for p in places if p >= 0 and np.isfinite(usd[p])]
        return priced[0] if priced else int(np.flatnonzero(np.isfinite(usd))[0])


def draw_equity(draws: Draws, size: Size, archetype: Ints) -> Floats:
    """Equity of each account in USD, cents: log-normal body, Pareto whales."""
    u = draws.uniform("equity")
    lowest = ndtr(np.log(size.min_usd / size.median_usd) / size.sigma)
    body = size.median_usd * np.exp(size.sigma * ndtri(lowest + (1.0 - lowest) * u))
    beyond = (size.whale_min_usd / size.max_usd) ** size.whale_alpha
    tail = size.whale_min_usd * (1.0 - u * (1.0 - beyond)) ** (-1.0 / size.whale_alpha)
    equity = np.where(draws.uniform("whale") < size.whale_share, tail, body)
    scale = np.array([size.scale.get(name, 1.0) for name in ARCHETYPES])
    return np.round(np.clip(equity * scale[archetype], size.min_usd, size.max_usd), 2)


def make_books(maker: Maker, draws: Draws, archetype: Ints, equity: Floats) -> Books:
    """Books of accounts with the given archetype codes and equities (USD).

    A book is drawn at full size, then scaled down (legs and the coins held against them alike)
    until the rough margin estimate says that it starts healthy, then rounded to lots.
    """
    legs, held = _sketch_all(maker, draws, archetype, equity)
    limit = _limits(maker, draws, equity)
    base = _base_shares(maker, draws, legs, held, archetype) * equity[:, None]
    _cap_collateral(maker, base)
    scale = _healthy_scale(maker, draws, legs, base, held, limit)
    legs.contracts = lots(legs.contracts * scale[legs.account], maker.config.whole_lots_from)
    legs = legs.keep(legs.contracts != 0.0)
    worth = base + scale[:, None] * held
    legs.entry = _entries(maker, draws, legs)
    open_profit = profit_usd(maker.universe, legs)
    wild = np.abs(sum_by(legs.account, open_profit, len(equity))) > _MAX_OPEN_PROFIT * equity
    legs.entry[wild[legs.account]] = np.nan
    estimate = estimate_books(maker, legs, worth, limit)
    cash, shown = _cash(maker, legs, worth)
    return Books(draws.number, archetype, equity, legs, cash, shown, limit, estimate)


def estimate_books(maker: Maker, legs: Legs, worth: Floats, limit: Floats) -> Estimate:
    """Rough margin of books; ``worth`` is the equity in USD by account and currency."""
    units = group_units(maker.universe, legs.account, legs.instrument, legs.contracts)
    return maker.model.estimate(units, worth, limit)


def profit_usd(universe: Universe, legs: Legs) -> Floats:
    """Unrealised profit of each leg in USD; 0 for options and where the entry price is null."""
    market, at = universe.market, legs.instrument
    mark, entry = universe.mark[at], legs.entry
    size = legs.contracts * market.multiplier[at]
    usd = universe.usd[market.settle[at]]
    known = np.isfinite(entry) & np.isfinite(mark) & (market.kind[at] != OPTION)
    first, last = np.where(known, entry, 1.0), np.where(known, mark, 1.0)
    gain = np.where(market.inverse[at], 1.0 / first - 1.0 / last, last - first)
    return np.where(known & np.isfinite(usd), size * gain * usd, 0.0)


def _sketch_all(maker: Maker, draws: Draws, archetype: Ints, equity: Floats) -> tuple[Legs, Floats]:
    """Legs in contracts (not rounded) and holdings in USD, the home currency paying for them."""
    universe, config = maker.universe, maker.config
    account, instrument, usd = [], [], []
    held = np.zeros((len(equity), len(universe.market.currencies)))
    for code in np.unique(archetype).tolist():
        name: Archetype = ARCHETYPES[code]
        rows = np.flatnonzero(archetype == code)
        mine = draws.of(rows)
        coin = mine.choice("coin", coin_weights(universe, config, KINDS[name].coins(universe)))
        leverage = mine.leverage("leverage", config.leverage_of(name))
        sketch = Sketch(mine, universe, config, coin, leverage)
        KINDS[name].make(sketch)
        for row, leg, weight in zip(sketch.row, sketch.instrument, sketch.weight, strict=True):
            account.append(rows[row])
            instrument.append(leg)
            usd.append(weight * equity[rows[row]])
        for row, what, weight in zip(
            sketch.held_row, sketch.held_coin, sketch.held_weight, strict=True
        ):
            where = universe.market.coin_currency[what]
            held[rows[row], where] += weight * equity[rows[row]]
    held[:, maker.home] -= held.sum(axis=1)
    return _merge(universe, account, instrument, usd), held


def _merge(
    universe: Universe, account: list[Ints], instrument: list[Ints], usd: list[Floats]
) -> Legs:
    """One leg for each (account, instrument), sorted."""
    none = np.zeros(0, np.int64)
    rows, legs = np.concatenate([none, *account]), np.concatenate([none, *instrument])
    size = np.concatenate([np.zeros(0), *usd]) / universe.notional[legs]
    key = rows * _LEG_STRIDE + legs
    order = np.argsort(key, kind="stable")
    key, size = key[order], size[order]
    first = np.diff(key, prepend=-1) != 0
    contracts = sum_by(np.cumsum(first) - 1, size, int(first.sum()))
    key = key[first]
    return Legs(key // _LEG_STRIDE, key % _LEG_STRIDE, contracts, np.full(len(key), np.nan))


def _limits(maker: Maker, draws: Draws, equity: Floats) -> Floats:
    """Most coins of spot in use by account and currency: mostly none, sometimes 0 or a part."""
    universe, config = maker.universe, maker.config
    limit = np.full((len(equity), len(universe.market.currencies)), np.inf)
    priced = np.isfinite(universe.spot)
    coin = draws.choice("limit/coin", coin_weights(universe, config, priced))
    rows = np.flatnonzero(draws.uniform("limit") < config.spot_limit_share)
    amount = 2.0 * draws.uniform("limit/amount")[rows] * equity[rows] / universe.spot[coin[rows]]
    amount = np.where(draws.uniform("limit/zero")[rows] < 0.3, 0.0, amount)
    limit[rows, universe.market.coin_currency[coin[rows]]] = round_figures(amount, 4)
    return limit


def settled(universe: Universe, legs: Legs, count: int) -> Bools:
    """Which currencies the legs of each account settle in."""
    width = len(universe.market.currencies)
    shown = np.zeros((count, width), np.bool_)
    shown[legs.account, universe.market.settle[legs.instrument]] = True
    return shown


def _base_shares(maker: Maker, draws: Draws, legs: Legs, held: Floats, archetype: Ints) -> Floats:
    """Parts of the equity by currency before holdings; each row adds up to 1."""
    universe, law, home = maker.universe, maker.config.collateral, maker.home
    names, count = universe.market.currencies, len(archetype)
    weights = np.array([law.weights.get(name, 0.0) for name in names])
    weights = np.where(np.isfinite(universe.usd), weights, 0.0)
    weights[home] += 0.0 if weights.any() else 1.0
    tied = np.array([KINDS[name].tied for name in ARCHETYPES])[archetype]
    main = np.where(tied, home, draws.choice("collateral", weights))
    part = draws.between("collateral/part", *law.main_share)
    shares = np.zeros((count, len(names)))
    shares[:, home] = 1.0 - part
    shares[np.arange(count), main] += part
    stable = np.isin(np.array(names, object), STABLE)
    wanted = settled(universe, legs, count)
    coins = wanted & ~stable[None, :] & (held == 0.0)
    number = np.maximum(coins.sum(axis=1), 1)
    each = draws.between("collateral/coin", *law.inverse_share) / number
    least = np.where(
        coins, each[:, None], np.where(wanted & stable[None, :], law.settle_share, 0.0)
    )
    least = np.where(shares >= least, 0.0, least)
    total = np.maximum(least.sum(axis=1, keepdims=True), 1e-300)
    least *= np.minimum(1.0, 0.98 / total)
    return shares * (1.0 - least.sum(axis=1, keepdims=True)) + least


def _most_coin_usd(maker: Maker) -> Floats:
    """Most USD of each currency as collateral; no bound for stablecoins."""
    caps = maker.config.collateral.max_coin_usd
    rest = caps.get("default", np.inf)
    names = maker.universe.market.currencies
    return np.array([np.inf if n in STABLE else caps.get(n, rest) for n in names])


def _cap_collateral(maker: Maker, base: Floats) -> None:
    """Move collateral in coins beyond the cap to the home currency."""
    beyond = np.maximum(base - _most_coin_usd(maker)[None, :], 0.0)
    beyond[:, maker.home] = 0.0
    base -= beyond
    base[:, maker.home] += beyond.sum(axis=1)


def _healthy_scale(
    maker: Maker, draws: Draws, legs: Legs, base: Floats, held: Floats, limit: Floats
) -> Floats:
    """Factor in [0, 1] on legs and holdings with which each account starts healthy.

    With requirement R and adjusted equity A at full size and A0 without holdings, the level is at
    least L at ``A0 / (L R + A0 - A)``, because the requirement never falls slower than the size.
    """
    coins = np.arange(held.shape[1]) != maker.home
    ratio = _most_coin_usd(maker)[None, :] / np.maximum(np.abs(held), 1e-9)
    scale = np.minimum(np.where(coins[None, :], ratio, np.inf).min(axis=1), 1.0)
    sized = Legs(legs.account, legs.instrument, legs.contracts * scale[legs.account], legs.entry)
    full = estimate_books(maker, sized, base + scale[:, None] * held, limit)
    bare = maker.model.adjusted(base)
    law = maker.config.health
    target = law.min_level * (1.0 + law.spread * draws.uniform("level"))
    room = np.maximum(target * full.requirement + bare - full.adjusted, 1e-9)
    return np.where(full.level < law.min_level, scale * np.clip(bare / room, 0.0, 1.0), scale)


def lots(contracts: Floats, whole_from: float) -> Floats:
    """Contracts rounded to whole numbers, small positions to multiples of 0.01."""
    fine = np.round(contracts * _LOT) / _LOT
    return np.where(np.abs(contracts) >= whole_from, np.round(contracts), fine)


def round_figures(values: Floats, figures: int) -> Floats:
    """Values rounded to so many significant figures."""
    size = np.floor(np.log10(np.where(values > 0.0, values, 1.0)))
    digits = figures - 1 - size
    up, down = 10.0 ** np.maximum(digits, 0.0), 10.0 ** np.maximum(-digits, 0.0)
    return np.round(values / down * up) / up * down


def _entries(maker: Maker, draws: Draws, legs: Legs) -> Floats:
    """Entry prices: null for some legs, else near the mark at one past time of the account."""
    law, trail = maker.config.entry, maker.universe.trail
    line = draws.below("entry/time", len(trail))
    leg_number = draws.number[legs.account] * _LEG_STRIDE + legs.instrument
    own = Draws(maker.config.seed, leg_number, "leg")
    price = trail[line[legs.account], legs.instrument] * np.exp(law.noise * own.normal("entry"))
    known = (own.uniform("null") >= law.null_share) & (price > 0.0)
    return np.where(known, round_figures(price, 7), np.nan)


def carried_usd(universe: Universe, legs: Legs, count: int) -> Floats:
    """Unrealised profit and option value in USD by account and settlement currency."""
    width = len(universe.market.currencies)
    value = profit_usd(universe, legs) + legs.contracts * universe.value_usd[legs.instrument]
    key = legs.account * width + universe.market.settle[legs.instrument]
    return sum_by(key, value, count * width).reshape(count, width)


def cash_digits(universe: Universe) -> Floats:
    """Decimal places of cash by currency: about a tenth of a cent, 2 to 8 places."""
    usd = np.where(np.isfinite(universe.usd), universe.usd, 1.0)
    return np.clip(np.ceil(np.log10(usd)) + 3.0, 2.0, 8.0)


def _cash(maker: Maker, legs: Legs, worth: Floats) -> tuple[Floats, Bools]:
    """Cash by account and currency such that cash, profits and options are worth ``worth``."""
    universe = maker.universe
    count = len(worth)
    carried = carried_usd(universe, legs, count)
    usd = np.where(np.isfinite(universe.usd), universe.usd, 1.0)
    places = 10.0 ** cash_digits(universe)
    cash = np.round((worth - carried) / usd * places) / places
    shown = (cash != 0.0) | settled(universe, legs, count)
    shown[:, maker.home] = True
    return cash, shown
