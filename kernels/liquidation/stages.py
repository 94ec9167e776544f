"""Stages and parts of stages that margin models share; each is a function of the situation."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels.liquidation.debts import debts_usd, due_usd, name_rank, repayments
from kernels.liquidation.records import (
    NO_ORDERS,
    NO_PLACE,
    NOTHING_LEFT,
    Choice,
    Origin,
    Target,
    Trade,
)
from kernels.liquidation.searches import Ranking, Search
from kernels.liquidation.situation import Rulebook, Situation
from kernels.liquidation.slots import Layout, by_unit, of_unit
from kernels.liquidation.trades import slice_of


AFTER_NAMES = 1 << 24
"""Debts come after every instrument among equals."""


def cancel(now: Situation, origin: Origin, book: Rulebook) -> Choice:
    """Cancel all orders at once."""
    nothing = now.no_choice(NO_ORDERS)
    if not now.room.book.order_instrument.shape[0]:
        return nothing
    found = jnp.any(now.room.book.order_contracts != 0, axis=0)
    return eqx.tree_at(lambda c: (c.found, c.cancels), nothing, (found, found))


def closing_slices(now: Situation, origin: Origin, book: Rulebook) -> Float[Array, "slot account"]:
    """Change of contracts that closes a slice of each leg."""
    slots = now.slots
    held = jnp.abs(slots.contracts)
    begun = jnp.where(origin.contracts == 0, held, jnp.abs(origin.contracts))
    least = book.rules.min_usd / jnp.where(slots.size_usd > 0, slots.size_usd, 1.0)
    amount = slice_of(begun, held, least, book.rules)
    return jnp.where(slots.is_leg, -jnp.sign(slots.contracts) * amount, 0.0)


def slice_of_all(now: Situation, origin: Origin, book: Rulebook) -> Choice:
    """The same share of every leg: that of a slice in the gross size of all, so hedges stay."""
    slots = now.slots

    def gross(contracts: Array) -> Array:
        usd = jnp.where(contracts != 0, jnp.abs(contracts) * slots.size_usd, 0.0)
        return jnp.sum(usd, axis=0)

    start, left = gross(origin.contracts), gross(slots.contracts)
    least = jnp.broadcast_to(book.rules.min_usd, left.shape)
    share = slice_of(start, left, least, book.rules) / jnp.where(left > 0, left, 1.0)
    change = jnp.where(slots.is_leg, -slots.contracts * share[None], 0.0)
    found = jnp.any(slots.is_leg, axis=0)
    nothing = now.no_choice(NOTHING_LEFT)
    return eqx.tree_at(lambda c: (c.found, c.trade.contracts), nothing, (found, change))


def close_best(
    now: Situation,
    origin: Origin,
    group: Int[Array, "slot account"],
    book: Rulebook,
    *,
    with_debts: bool,
) -> Search:
    """A slice of the leg or debt that lowers the margin most per USD of cost.

    Of the groups of legs the first counts that has such a leg; where no leg lowers the margin, the
    same share of all is closed. Debts are of the group 0.
    """
    slots, num_slots = now.slots, now.layout.slots
    change = closing_slices(now, origin, book)
    is_one, name = slots.is_leg, slots.name_rank
    sales = jnp.zeros((len(now.equity), 1, now.num_accounts))
    if with_debts:
        sales, has_assets = repayments(now, due_usd(now, origin, book), book)
        is_debt = has_assets & (debts_usd(now, book) > 0) & book.rules.reduces_debts
        is_one = jnp.concatenate([is_one, is_debt])
        name = jnp.concatenate([name, AFTER_NAMES + name_rank(now, book)])
        group = jnp.concatenate([group, jnp.zeros_like(is_debt, group.dtype)])
    none = jnp.full(now.num_accounts, NO_PLACE, jnp.int32)
    place = jnp.broadcast_to(jnp.arange(len(is_one), dtype=jnp.int32)[:, None], is_one.shape)

    def trade_of(which: Array) -> Trade:
        mine = jnp.arange(num_slots, dtype=jnp.int32)[:, None] == which[None]
        holding = jnp.clip(which - num_slots, 0, sales.shape[1] - 1).astype(jnp.int32)
        sold = jnp.take_along_axis(sales, holding[None, None], axis=1)[:, 0]
        is_sale = which >= num_slots
        return Trade(
            jnp.where(mine, change, 0.0),
            jnp.where(is_sale[None], sold, 0.0),
            jnp.where(is_sale, holding, 0),
        )

    def target_of(which: Array, freed: Array) -> Target:
        unit = jnp.asarray(now.layout.unit, jnp.int32)[jnp.minimum(which, num_slots - 1)]
        unit = jnp.where(which < num_slots, unit, none)
        return Target(unit, which.astype(jnp.int32), none, freed)

    return Search(
        exists=is_one,
        turn=jnp.zeros_like(place),
        size=jnp.zeros(place.shape),
        name=place,
        why=jnp.full_like(none, NOTHING_LEFT),
        trade_of=trade_of,
        target_of=target_of,
        ranking=Ranking(group, name, slice_of_all(now, origin, book)),
    )


def close_side(
    now: Situation, on_side: Bool[Array, "slot account"], amount_usd: Float[Array, "unit account"]
) -> Float[Array, "slot account"]:
    """Change of contracts that closes so much cash delta of some legs, the same share of each."""
    slots = now.slots
    layout: Layout = now.layout
    cash = jnp.where(on_side, jnp.abs(slots.contracts * slots.cash_usd), 0.0)
    total = by_unit(cash, layout)
    share = jnp.where(total > 0, amount_usd / jnp.where(total > 0, total, 1.0), 0.0)
    share = of_unit(jnp.minimum(share, 1.0), layout)
    return jnp.where(on_side, -slots.contracts * share, 0.0)
