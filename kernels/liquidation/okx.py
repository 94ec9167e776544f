"""The stages of an OKX liquidation: cancel, DDH1, DDH2, basis hedge, position reduction.

A charge is the largest of its unit when none of the others is larger. A slice is traded only if it
lowers the maintenance margin of the account, borrowing included, costs paid; where that holds for
no leg at all, the same share of all is closed.

References:
    OKX portfolio margin rules, section 10: the sequence is stated, sizes are assumed.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels.liquidation.records import (
    AVERAGE,
    NO_GAIN,
    NO_MULTIPLIER,
    NO_OPPOSITE,
    NO_PLACE,
    NO_STABLE_PAIRS,
    NOT_LARGEST,
    OF_TIER,
    TOO_SMALL,
    Choice,
    LiquidationModel,
    Origin,
    Target,
    Trade,
)
from kernels.liquidation.searches import Search, first_largest, turns_of
from kernels.liquidation.situation import Rulebook, Situation
from kernels.liquidation.slots import by_maturity, largest_by_unit, of_unit
from kernels.liquidation.stages import cancel, close_best, close_side
from kernels.liquidation.trades import slice_of
from kernels.models.okx import FEE_EVEN_USD, FEE_ODD_USD, MOVE, OkxParameters
from kernels.records import NUM_QUOTES, Table
from kernels.tiers import marginal_charge, of_coin, tier_cell


UNIT_CHARGES = ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr9")
PAIRS = ((0, 2), (0, 1), (1, 2))
"""USDT-USD, USDT-USDC, USDC-USD: places among the quote currencies."""


def hedged_pairs(
    groups_usd: Float[Array, "quote unit account"],
) -> Float[Array, "pair unit account"]:
    """USD that each stablecoin pair hedges; what one pair hedges is gone for the next (MR9)."""
    left = list(groups_usd)
    found = []
    for one, other in PAIRS:
        opposed = left[one] * left[other] < 0
        hedged = jnp.where(opposed, jnp.minimum(jnp.abs(left[one]), jnp.abs(left[other])), 0.0)
        for k in (one, other):
            left[k] = left[k] - jnp.sign(left[k]) * hedged
        found.append(hedged)
    return jnp.stack(found)


def pair_charges(
    hedged_usd: Float[Array, "pair unit account"], table: Table, params: OkxParameters
) -> Float[Array, "pair unit account"]:
    """Charge of each pair, USD (MR9)."""
    floor, width = (x[None, None, None] for x in (params.depeg_floor_usd, params.depeg_width_usd))
    filled = jnp.clip(hedged_usd[..., None] - floor, 0.0, width)
    charge = jnp.sum(filled * table.rates[:, None, None, :], axis=-1)
    return jnp.where(hedged_usd > 0, charge, 0.0)


def minimum_charge(table: Table, params: OkxParameters) -> tuple[Array, Array, Array]:
    """Minimum charge (MR7) of a contract held long and short, USD, and of a USD of each coin."""
    even, odd = table.columns[:, FEE_EVEN_USD], table.columns[:, FEE_ODD_USD]
    return even + odd, even - odd, params.fee_linear


def multiplier(
    raw_usd: Float[Array, "unit account"],
    coin: Int[Array, "unit account"],
    choice: Int[Array, ""],
    params: OkxParameters,
) -> Float[Array, "unit account"]:
    """Multiplier of MR7 that a unit trades at: of its highest tier, its average, or 1."""

    def tier(raw: Array, coin: Array) -> tuple[Array, Array]:
        cell = tier_cell(raw, params.fee_tiers.floor, coin)
        rate = params.fee_tiers.rate.reshape(-1).at[cell].get(mode="promise_in_bounds")
        return rate, marginal_charge(raw, params.fee_tiers, coin)

    of_tier, charge = jax.vmap(jax.vmap(tier))(raw_usd, coin)
    average = charge / jnp.where(raw_usd > 0, raw_usd, 1.0)
    found = jnp.select([choice == OF_TIER, choice == AVERAGE], [of_tier, average], 1.0)
    return jnp.where((raw_usd > 0) & (choice != NO_MULTIPLIER), found, 1.0)


def unit_rank(now: Situation) -> Int[Array, "unit account"]:
    """Place of units by name: by coin, and split units USD, USDC, USDT."""
    book = now.room.book
    family = book.unit_family if book.shares_coins else jnp.zeros_like(book.unit_family)
    # Their names in alphabetical order are the reverse of their places.
    return book.unit_coin * NUM_QUOTES + (NUM_QUOTES - 1 - family)


def leading(now: Situation, names: tuple[str, ...]) -> Float[Array, "unit account"]:
    """The largest of some charges where it is the largest of its unit, else 0; USD."""
    charges = now.units.charges
    mine = jnp.stack([charges[name] for name in names]).max(axis=0)
    largest = jnp.stack([charges[name] for name in UNIT_CHARGES]).max(axis=0)
    return jnp.where(mine >= largest, mine, 0.0)


def _in_unit_order(
    now: Situation, value: Float[Array, "unit account"]
) -> tuple[Array, Array, Array]:
    """Turn of each unit in falling order of a number, equal ones by name; no size, and the name."""
    names = unit_rank(now)
    return turns_of(value, names), jnp.zeros_like(value), names


def _at(values: Array, which: Int[Array, " account"]) -> Array:
    return jnp.take_along_axis(values, which[None], axis=0)[0]


def _in_unit(now: Situation, unit: Int[Array, " account"]) -> Bool[Array, "slot account"]:
    return jnp.asarray(now.layout.unit, jnp.int32)[:, None] == unit[None]


def ddh1(now: Situation, origin: Origin, book: Rulebook) -> Search | Choice:
    """DDH1, while MR9 is the largest charge of its unit: close both sides of the worst pair.

    Example: 1,000,000 USD long in USDT against as much short in USDC: 100,000 USD of each.
    """
    if now.room.book.shares_coins:
        return now.no_choice(NO_STABLE_PAIRS)
    slots, layout = now.slots, now.layout
    charge = leading(now, ("mr9",))
    is_one = charge > 0
    charges = pair_charges(now.hedged_usd, book.table, book.params)
    pair = jnp.argmax(charges, axis=0).astype(jnp.int32)
    hedged, begun = (
        jnp.take_along_axis(x, pair[None], axis=0)[0] for x in (now.hedged_usd, origin.hedged_usd)
    )
    least = jnp.broadcast_to(book.rules.min_usd, hedged.shape)
    amount = slice_of(begun, hedged, least, book.rules)
    change = jnp.zeros_like(slots.contracts)
    sides = jnp.asarray(PAIRS, jnp.int32)[pair]
    for k in range(2):
        group = of_unit(sides[..., k], layout)
        net = of_unit(jnp.take_along_axis(now.groups_usd, sides[..., k][None], axis=0)[0], layout)
        cash = jnp.where(slots.is_leg, slots.contracts * slots.cash_usd, 0.0)
        change = change + close_side(now, (slots.group == group) & (cash * net > 0), amount)

    def trade_of(unit: Array) -> Trade:
        mine = jnp.where(_in_unit(now, unit), change, 0.0)
        return eqx.tree_at(lambda t: t.contracts, now.no_trade(), mine)

    def target_of(unit: Array, freed: Array) -> Target:
        none = jnp.full_like(unit, NO_PLACE)
        return Target(unit, _at(pair, unit), none, _at(charge, unit))

    why = jnp.where(jnp.any(is_one, axis=0), NO_GAIN, NOT_LARGEST).astype(jnp.int32)
    return Search(is_one, *_in_unit_order(now, charge), why, trade_of, target_of)


def ddh2(now: Situation, origin: Origin, book: Rulebook) -> Search:
    """DDH2, while MR1 or MR6 is the largest: trade futures and perpetuals against the net delta.

    Legs that add to the net delta are reduced first, the largest first; then a perpetual is
    opened, the most liquid first.

    Example: 10 BTC net long of which a perpetual is 6: 0.6 BTC of it is sold.
    """
    slots, layout, rules = now.slots, now.layout, book.rules
    charge = leading(now, ("mr1", "mr6"))
    index = of_coin(book.table.currency_usd, now.room.book.unit_coin)
    is_large = jnp.abs(now.delta_coin) * index >= rules.min_usd
    is_led = charge > 0
    net = of_unit(now.delta_coin, layout)
    reducing, opening = _against(now, origin, book)
    reduces = slots.is_leg & ~slots.is_option & (slots.contracts * slots.delta_coin * net > 0)
    opens = slots.is_perpetual & slots.is_tradable & (slots.hedge_place >= 0) & rules.may_open
    cash = jnp.abs(slots.contracts * slots.cash_usd)
    in_led = of_unit(is_led & is_large, layout)
    is_one = jnp.concatenate([reduces & in_led, opens & in_led])
    first = jnp.concatenate([jnp.where(reduces, -cash, 0.0), slots.hedge_place.astype(cash.dtype)])
    kind = jnp.repeat(jnp.arange(2, dtype=jnp.int32), layout.slots)[:, None]
    turns, _, _ = _in_unit_order(now, charge)
    turn, name = (jnp.concatenate([x, x]) for x in (of_unit(turns, layout), slots.name_rank))

    def trade_of(which: Array) -> Trade:
        places = jnp.arange(layout.slots, dtype=jnp.int32)[:, None]
        mine = places == (which % layout.slots)[None]
        amount = jnp.where((which < layout.slots)[None], reducing, opening)
        return eqx.tree_at(lambda t: t.contracts, now.no_trade(), jnp.where(mine, amount, 0.0))

    last = jnp.argmax(jnp.where(is_led, turns, -1), axis=0).astype(jnp.int32)
    why = jnp.where(_at(is_large, last), NO_GAIN, TOO_SMALL)
    why = jnp.where(jnp.any(is_led, axis=0), why, NOT_LARGEST).astype(jnp.int32)

    def target_of(which: Array, freed: Array) -> Target:
        slot = which % layout.slots
        unit = jnp.asarray(layout.unit, jnp.int32)[slot]
        return Target(unit, slot, jnp.full_like(unit, NO_PLACE), _at(charge, unit))

    return Search(is_one, 2 * turn + kind, first, name, why, trade_of, target_of)


def _against(
    now: Situation, origin: Origin, book: Rulebook
) -> tuple[Float[Array, "slot account"], Float[Array, "slot account"]]:
    """Trade of each slot against the net delta of its unit: reducing it, and opening it."""
    slots, layout, rules = now.slots, now.layout, book.rules
    index = of_unit(of_coin(book.table.currency_usd, now.room.book.unit_coin), layout)
    net, first = (of_unit(x, layout) for x in (now.delta_coin, origin.delta))
    each = jnp.where(slots.delta_coin != 0, jnp.abs(slots.delta_coin), 1.0)
    held = jnp.abs(slots.contracts)
    begun = jnp.where(origin.contracts == 0, held, jnp.abs(origin.contracts))
    least = rules.min_usd / jnp.where(slots.size_usd > 0, slots.size_usd, 1.0)
    amount = jnp.minimum(slice_of(begun, held, least, rules), jnp.abs(net) / each)
    reducing = -jnp.sign(slots.contracts) * amount
    coins = slice_of(jnp.abs(first), jnp.abs(net), rules.min_usd / index, rules)
    return reducing, -jnp.sign(net) * coins / each


def basis(now: Situation, origin: Origin, book: Rulebook) -> Search:
    """Basis hedge, in the unit with the highest MR4: close opposite maturities together.

    Of all pairs of a long and a short bucket the one that would free most of MR4; a slice is a
    share of what they hedged at first.

    Example: 100 BTC of a future long, 60 BTC of perpetual short: 6 BTC of each.
    """
    least, count = book.rules.min_usd, now.room.num_maturities
    buckets = _buckets(now, now.slots.contracts, now.units.spot_coin, book)
    moves = _moves(now, book)
    hedged = jnp.minimum(buckets[:, None], -buckets[None])
    is_pair = (buckets[:, None] > 0) & (buckets[None] < 0) & (hedged >= least)
    freed = jnp.where(is_pair, hedged * (moves[:, None] + moves[None]), -1.0)
    freed = freed.reshape(count * count, *freed.shape[2:])
    pair = first_largest(freed)
    long, short = pair // count, pair % count
    charge = now.units.charges["mr4"]
    is_one = (charge > 0) & jnp.any(freed >= 0, axis=0)
    at_first = _buckets(now, origin.contracts, origin.spot, book)
    amount = slice_of(
        _both(at_first, long, short),
        _both(buckets, long, short),
        jnp.broadcast_to(least, charge.shape),
        book.rules,
    )
    change, spot = _closing(now, long, short, amount, book)

    def trade_of(unit: Array) -> Trade:
        trade = now.no_trade()
        places = jnp.arange(len(trade.spot), dtype=unit.dtype)[:, None]
        holding = _at(now.slots.owner, unit)
        quote = _spot_quote(now, book)
        return Trade(
            jnp.where(_in_unit(now, unit), change, 0.0),
            jnp.where(places == holding[None], _at(spot, unit)[None], 0.0),
            jnp.broadcast_to(quote, unit.shape),
        )

    def target_of(unit: Array, freed: Array) -> Target:
        first, second = (_at(x, unit) for x in (long, short))
        return Target(unit, first, second, _at(charge, unit))

    why = jnp.where(jnp.any(is_one, axis=0), NO_GAIN, NO_OPPOSITE).astype(jnp.int32)
    return Search(is_one, *_in_unit_order(now, charge), why, trade_of, target_of)


def _spot_quote(now: Situation, book: Rulebook) -> Int[Array, ""]:
    """Holding that spot is exchanged for: a quote currency, USD where it is unpriced."""
    usd = book.table.currency_usd
    quote = book.rules.spot_quote
    known = jnp.where(jnp.isnan(usd[quote]), NUM_QUOTES - 1, quote)
    return (now.layout.units + known).astype(jnp.int32)


def _charged(now: Situation, book: Rulebook) -> Bool[Array, "slot account"]:
    """Slots that belong to a bucket: options where MR4 charges them."""
    return now.slots.is_tradable & (~now.slots.is_option | book.params.basis_charges_options)


def _buckets(
    now: Situation,
    contracts: Float[Array, "slot account"],
    spot_coin: Float[Array, "unit account"],
    book: Rulebook,
) -> Float[Array, "maturity unit account"]:
    """Net cash delta of each bucket, USD; the last one is spot in use, where it is charged."""
    is_held = (contracts != 0) & _charged(now, book)
    cash = by_maturity(jnp.where(is_held, contracts * now.slots.cash_usd, 0.0), now.room)
    usd = of_coin(book.table.currency_usd, now.room.book.unit_coin)
    spot = jnp.where(spot_coin != 0, spot_coin * usd, 0.0)
    return cash.at[-1].set(jnp.where(book.params.basis_charges_spot, spot, 0.0))


def _moves(now: Situation, book: Rulebook) -> Float[Array, "maturity unit account"]:
    """What MR4 charges of a USD in each bucket."""
    table, params = book.table, book.params
    of_slot = table.columns[:, MOVE].at[now.slots.instrument].get(mode="promise_in_bounds")
    room = now.room
    dated = jax.vmap(
        lambda b: largest_by_unit(jnp.where(room.maturity == b, of_slot, 0.0), now.layout)
    )(jnp.arange(room.num_maturities - 2, dtype=jnp.int32))
    near = of_coin(params.basis_near, room.book.unit_coin)
    perpetual = jnp.where(params.basis_charges_perpetuals, near, 0.0)
    return jnp.concatenate([dated, perpetual[None], near[None]])


def _both(buckets: Array, long: Array, short: Array) -> Float[Array, "unit account"]:
    """The smaller of two buckets, whatever their signs, USD."""
    pick = (jnp.take_along_axis(buckets, x[None], axis=0)[0] for x in (long, short))
    return jnp.minimum(*(jnp.abs(x) for x in pick))


def _closing(
    now: Situation, long: Array, short: Array, amount: Float[Array, "unit account"], book: Rulebook
) -> tuple[Float[Array, "slot account"], Float[Array, "unit account"]]:
    """Change of contracts, and of spot in coins, that closes so much of two buckets."""
    slots, layout, room = now.slots, now.layout, now.room
    change = jnp.zeros_like(slots.contracts)
    cash = jnp.where(slots.is_leg & _charged(now, book), slots.contracts * slots.cash_usd, 0.0)
    usd = of_coin(book.table.currency_usd, room.book.unit_coin)
    coins = jnp.zeros_like(amount)
    for bucket, sign in ((long, 1.0), (short, -1.0)):
        mine = room.maturity == of_unit(bucket, layout)
        change = change + close_side(now, mine & (cash * sign > 0), amount)
        is_spot = bucket == room.num_maturities - 1
        coins = coins + jnp.where(is_spot, -sign * amount / usd, 0.0)
    return change, coins


def reduction(now: Situation, origin: Origin, book: Rulebook) -> Search:
    """Position reduction: a slice of the leg or debt that lowers the margin most per USD."""
    group = jnp.zeros_like(now.slots.instrument)
    return close_best(now, origin, group, book, with_debts=True)


MODEL = LiquidationModel(
    name="okx",
    stages={"cancel": cancel, "ddh1": ddh1, "ddh2": ddh2, "basis": basis, "reduction": reduction},
    always=(),
    safe_at_bound=False,
    minimum_charge=minimum_charge,
    multiplier=multiplier,
    hedged_pairs=hedged_pairs,
    num_pairs=len(PAIRS),
)
