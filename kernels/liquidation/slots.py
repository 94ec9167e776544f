"""The contracts of an account as one list of slots, with what trading each of them means."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from kernels.features import CASH, COIN_VALUE, DELTA, GROSS, VALUE
from kernels.liquidation.records import (
    LiquidationModel,
    LiquidationRules,
    Listing,
    Room,
)
from kernels.records import NULL_CURRENCY, NUM_QUOTES, OPTION, PERPETUAL, Book, Table
from kernels.tiers import of_coin


class Layout(NamedTuple):
    """Where the slots of a book lie."""

    units: int
    legs: int
    option_units: int
    option_legs: int

    @staticmethod
    def of(book: Book) -> "Layout":
        """The layout of a book."""
        return Layout(*book.leg_instrument.shape[1:3], *book.option_instrument.shape[1:3])

    @property
    def linear(self) -> int:
        """Number of slots in the lists without optionality, which come first."""
        return self.units * self.legs

    @property
    def slots(self) -> int:
        """Number of slots."""
        return self.linear + self.option_units * self.option_legs

    @property
    def unit(self) -> np.ndarray:
        """Unit of each slot."""
        linear = np.repeat(np.arange(self.units), self.legs)
        return np.concatenate([linear, np.repeat(np.arange(self.option_units), self.option_legs)])


class Slots(eqx.Module):
    """Each slot of each account at one time; per contract where it is not said otherwise.

    Fields:
        instrument, contracts: what is held (positions alone).
        bound_contracts: in the portfolio that binds the unit, orders included.
        is_leg: a live contract is held; is_tradable: live and priced.
        is_option, is_perpetual: kinds; name_rank: place by name; hedge_place: see ``Listing``.
        settle: currency; settle_usd: its index; group: settlement group of its cash delta.
        size_usd: size; cash_usd: cash delta; delta_coin: delta (options: not premium adjusted).
        value: what it adds to equity, settle units; funding: paid since the snapshot, likewise.
        worth_usd: value of an option; mark: price.
        slip_long_usd, slip_short_usd: slippage while held long or short (perpetuals opened: long).
        usd, spot_slip: of each holding: index, and slippage of spot as a fraction.
        owner: of each unit, the unit that its coin's equity is counted in.
    """

    instrument: Int[Array, "slot account"]
    contracts: Float[Array, "slot account"]
    bound_contracts: Float[Array, "slot account"]
    is_leg: Bool[Array, "slot account"]
    is_tradable: Bool[Array, "slot account"]
    is_option: Bool[Array, "slot account"]
    is_perpetual: Bool[Array, "slot account"]
    name_rank: Int[Array, "slot account"]
    hedge_place: Int[Array, "slot account"]
    settle: Int[Array, "slot account"]
    settle_usd: Float[Array, "slot account"]
    group: Int[Array, "slot account"]
    size_usd: Float[Array, "slot account"]
    cash_usd: Float[Array, "slot account"]
    delta_coin: Float[Array, "slot account"]
    value: Float[Array, "slot account"]
    funding: Float[Array, "slot account"]
    worth_usd: Float[Array, "slot account"]
    mark: Float[Array, "slot account"]
    slip_long_usd: Float[Array, "slot account"]
    slip_short_usd: Float[Array, "slot account"]
    usd: Float[Array, "holding account"]
    spot_slip: Float[Array, "holding account"]
    owner: Int[Array, "unit account"]


def slot_list(
    linear: Shaped[Array, "unit leg account"], options: Shaped[Array, "unit2 leg2 account"]
) -> Shaped[Array, "slot account"]:
    """The legs of a book as one list."""
    accounts = linear.shape[-1]
    return jnp.concatenate([linear.reshape(-1, accounts), options.reshape(-1, accounts)])


def as_lists(values: Shaped[Array, "slot account"], layout: Layout) -> tuple[Array, Array]:
    """The reverse of ``slot_list``."""
    linear, options = values[: layout.linear], values[layout.linear :]
    return (
        linear.reshape(layout.units, layout.legs, values.shape[-1]),
        options.reshape(layout.option_units, layout.option_legs, values.shape[-1]),
    )


def by_unit(values: Float[Array, "slot account"], layout: Layout) -> Float[Array, "unit account"]:
    """Sum over the slots of each unit."""
    linear, options = as_lists(values, layout)
    total = jnp.sum(linear, axis=1)
    if not layout.option_units:
        return total
    return total.at[: layout.option_units].add(jnp.sum(options, axis=1))


def largest_by_unit(
    values: Float[Array, "slot account"], layout: Layout
) -> Float[Array, "unit account"]:
    """Largest of the slots of each unit, at least 0."""
    linear, options = as_lists(values, layout)
    found = jnp.max(linear, axis=1, initial=0.0)
    if not layout.option_units:
        return found
    return found.at[: layout.option_units].max(jnp.max(options, axis=1, initial=0.0))


def of_unit(values: Shaped[Array, "unit account"], layout: Layout) -> Shaped[Array, "slot account"]:
    """What each slot's unit has."""
    return values[layout.unit]


def by_maturity(
    values: Float[Array, "slot account"], room: Room
) -> Float[Array, "maturity unit account"]:
    """Sum over the slots of each unit and bucket."""
    layout, buckets = Layout.of(room.book), jnp.arange(room.num_maturities, dtype=jnp.int32)
    of_bucket = jax.vmap(lambda b: by_unit(jnp.where(room.maturity == b, values, 0.0), layout))
    return of_bucket(buckets)


def by_holding(
    values: Float[Array, "slot account"], slots: Slots, layout: Layout
) -> Float[Array, "holding account"]:
    """Sum over the slots that settle in each holding."""
    quotes = [jnp.sum(jnp.where(slots.settle == q, values, 0.0), axis=0) for q in range(NUM_QUOTES)]
    coins = by_unit(jnp.where(slots.settle > NULL_CURRENCY, values, 0.0), layout)
    return jnp.concatenate([of_owner(coins, slots.owner), jnp.stack(quotes)])


def of_owner(
    values: Float[Array, "unit account"], owner: Int[Array, "unit account"]
) -> Float[Array, "unit account"]:
    """What units do to their coins, counted in the units that own these."""
    places = jnp.arange(len(owner), dtype=owner.dtype)
    mine = owner[None] == places[:, None, None]
    return jnp.sum(jnp.where(mine, values[None], 0.0), axis=1)


def coin_owner(book: Book) -> Int[Array, "unit account"]:
    """Of each unit the unit that owns its coin."""
    if not book.shares_coins:
        units, accounts = book.unit_coin.shape
        place = jnp.arange(units, dtype=jnp.int32)[:, None]
        return jnp.broadcast_to(place, (units, accounts))
    owns = book.owns_coin & (book.unit_coin != NULL_CURRENCY)
    same = (book.unit_coin[:, None] == book.unit_coin[None]) & owns[None]
    return jnp.argmax(same, axis=1).astype(jnp.int32)


def without_unpriced(room: Room, table: Table) -> Room:
    """The room without instruments that nobody holds or orders and that have no price."""
    book = room.book
    value = jnp.sum(table.features[:, VALUE], axis=1) + table.features[:, COIN_VALUE]

    def kept(instrument: Array, contracts: Array) -> Array:
        is_held = jnp.any(contracts != 0, axis=0, keepdims=True)
        unknown = jnp.isnan(value.at[instrument].get(mode="promise_in_bounds"))
        return jnp.where(~is_held & unknown, 0, instrument)

    legs = kept(book.leg_instrument, book.leg_contracts)
    options = kept(book.option_instrument, book.option_contracts)
    book = eqx.tree_at(lambda b: (b.leg_instrument, b.option_instrument), book, (legs, options))
    return eqx.tree_at(lambda r: r.book, room, book)


class _Contracts(eqx.Module):
    """One contract of each instrument at one time; fields as in ``Slots``."""

    is_live: Bool[Array, " instrument"]
    is_option: Bool[Array, " instrument"]
    settle_usd: Float[Array, " instrument"]
    group: Int[Array, " instrument"]
    size_usd: Float[Array, " instrument"]
    cash_usd: Float[Array, " instrument"]
    delta_coin: Float[Array, " instrument"]
    value: Float[Array, " instrument"]
    funding: Float[Array, " instrument"]
    worth_usd: Float[Array, " instrument"]
    mark: Float[Array, " instrument"]


def _contracts(listing: Listing, table: Table) -> _Contracts:
    """What one contract of each instrument is, from the shared table.

    The terms of an order hold the value without funding, the features with it.
    """
    terms, features = listing.terms, table.features
    is_option = jnp.asarray(terms.kind) == OPTION
    settle = jnp.asarray(terms.settle)
    settle_usd = table.currency_usd[settle]
    cash = jnp.sum(features[:, CASH], axis=1)
    value = jnp.sum(features[:, VALUE], axis=1) + features[:, COIN_VALUE]
    unit, worth, resting = table.order_terms.T
    in_usd = is_option | (settle >= NUM_QUOTES)
    coin_usd = table.currency_usd[jnp.asarray(terms.coin)]
    inverse = jnp.asarray(terms.is_inverse)
    return _Contracts(
        is_live=resting > 0,
        is_option=is_option,
        settle_usd=settle_usd,
        group=jnp.where(in_usd, NUM_QUOTES - 1, settle),
        size_usd=features[:, GROSS],
        cash_usd=cash,
        delta_coin=jnp.where(is_option, cash / coin_usd, features[:, DELTA]),
        value=value,
        funding=jnp.where(resting > 0, worth / settle_usd - value, 0.0),
        worth_usd=worth,
        mark=jnp.where(inverse, -unit / worth, worth / unit),
    )


def slots_of(
    room: Room,
    binding: Int[Array, "unit account"],
    listing: Listing,
    table: Table,
    params: Any,
    rules: LiquidationRules,
    model: LiquidationModel,
) -> Slots:
    """The slots of accounts at one time; ``binding`` is the portfolio that binds each unit."""
    book = room.book
    instrument = slot_list(book.leg_instrument[0], book.option_instrument[0])
    held = slot_list(book.leg_contracts[0], book.option_contracts[0])
    bound = _bound(book, binding)

    def at(values: Any) -> Array:
        return jnp.asarray(values).at[instrument].get(mode="promise_in_bounds")

    contracts = _contracts(listing, table)
    mine = {name: at(getattr(contracts, name)) for name in _Contracts.__dataclass_fields__}
    is_live = mine.pop("is_live")
    long_usd, short_usd, spot_rate = _slippage(
        bound, contracts, at, book, listing, table, params, rules, model
    )
    count = book.unit_coin.shape[1]
    quotes = jnp.arange(NUM_QUOTES, dtype=book.unit_coin.dtype)[:, None]
    currency = jnp.concatenate([book.unit_coin, jnp.broadcast_to(quotes, (NUM_QUOTES, count))])
    usd = of_coin(table.currency_usd, currency)
    return Slots(
        instrument=instrument,
        contracts=held,
        bound_contracts=bound,
        is_leg=is_live & (held != 0),
        is_tradable=is_live & jnp.isfinite(mine["value"]) & jnp.isfinite(mine["settle_usd"]),
        is_perpetual=at(listing.terms.kind) == PERPETUAL,
        name_rank=at(listing.name_rank),
        hedge_place=at(listing.hedge_place),
        settle=at(listing.terms.settle),
        slip_long_usd=long_usd,
        slip_short_usd=short_usd,
        # What is unpriced and not held must not make numbers of an account unknown.
        usd=jnp.where(jnp.isnan(usd), 1.0, usd),
        spot_slip=jnp.where(currency > NULL_CURRENCY, of_coin(spot_rate, currency), 0.0),
        owner=coin_owner(book),
        **mine,
    )


def _bound(book: Book, binding: Int[Array, "unit account"]) -> Float[Array, "slot account"]:
    """Contracts in the portfolio that binds each unit."""

    def of(contracts: Array, binding: Array) -> Array:
        if len(contracts) == 1 or not contracts.shape[1]:
            return contracts[0]
        return jnp.take_along_axis(contracts, binding[None, :, None], axis=0)[0]

    option_units = book.option_contracts.shape[1]
    options = of(book.option_contracts, binding[:option_units])
    return slot_list(of(book.leg_contracts, binding), options)


def _slippage(
    bound: Float[Array, "slot account"],
    contracts: _Contracts,
    at: Callable[[Any], Array],
    book: Book,
    listing: Listing,
    table: Table,
    params: Any,
    rules: LiquidationRules,
    model: LiquidationModel,
) -> tuple[Array, Array, Float[Array, " currency"]]:
    """Slippage of one contract held long and held short, USD, by slot; of spot, by currency.

    A long option takes no more than its value.
    """
    size = contracts.size_usd
    of_linear = size * of_coin(rules.linear_rates, jnp.asarray(listing.terms.coin))
    of_option = rules.option_rate * size
    long = at(
        jnp.where(contracts.is_option, jnp.minimum(of_option, contracts.worth_usd), of_linear)
    )
    short = at(jnp.where(contracts.is_option, of_option, of_linear))
    if model.minimum_charge is None:
        return long, short, rules.linear_rates
    charged_long, charged_short, spot = model.minimum_charge(table, params)
    layout = Layout.of(book)
    raw = jnp.abs(bound) * jnp.where(bound > 0, at(charged_long), at(charged_short))
    raw_usd = by_unit(jnp.where(bound == 0, 0.0, raw), layout)
    factor = model.multiplier(raw_usd, book.unit_coin, rules.multiplier, params)
    share = rules.minimum_charge_share * of_unit(factor, layout)
    is_used = rules.uses_minimum_charge
    return (
        jnp.where(is_used, share * at(charged_long), long),
        jnp.where(is_used, share * at(charged_short), short),
        jnp.where(is_used, rules.minimum_charge_share * spot, rules.linear_rates),
    )
