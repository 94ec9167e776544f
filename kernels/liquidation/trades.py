"""Sizes of slices, what a trade costs, and the book after it.

Every trade is made at the mark (spot: the index) and costs fee and slippage on top, so equity
falls by these and by nothing else.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.liquidation.records import Costs, LiquidationRules, Room, Trade
from kernels.liquidation.slots import Layout, Slots, as_lists, by_holding
from kernels.records import Book


DUST = 1e-9
"""What is left of a leg counts as nothing below this share of what it was."""


def slice_of(
    start: Float[Array, "*axes"],
    left: Float[Array, "*axes"],
    least: Float[Array, "*any"],
    rules: LiquidationRules,
) -> Float[Array, "*axes"]:
    """How much of something a slice takes, all in one unit and positive.

    A share of what there was at first (or is, where that is more), at least the least; all of it
    where no more than the least would be left.

    References:
        OKX portfolio margin rules, section 10; sizes assumed.

    Example: 100 at first, 35 now, at least 1, a tenth: 10.
    """
    amount = jnp.maximum(rules.slice_frac * jnp.maximum(start, left), least)
    return jnp.where(left - amount <= jnp.maximum(least, DUST * start), left, amount)


def costs_of(trade: Trade, slots: Slots, rules: LiquidationRules) -> Costs:
    """Fee and slippage of a trade, USD.

    The fee of an option is at most a share of its value, and selling one never costs more than it
    brings. Spot pays the fee, and the slippage of a contract for each side that is a coin.
    """
    amount = jnp.abs(trade.contracts)
    fee = rules.taker_rate * amount * slots.size_usd
    worth = amount * slots.worth_usd
    fee = jnp.where(slots.is_option, jnp.minimum(fee, rules.option_cap * worth), fee)
    slip = amount * jnp.where(slots.contracts > 0, slots.slip_long_usd, slots.slip_short_usd)
    is_sold_option = slots.is_option & (trade.contracts < 0)
    slip = jnp.where(is_sold_option, jnp.minimum(slip, jnp.maximum(worth - fee, 0.0)), slip)
    is_traded = trade.contracts != 0
    spot_usd = jnp.abs(trade.spot) * slots.usd
    into_slip = jnp.take_along_axis(slots.spot_slip, trade.into[None], axis=0)
    return Costs(
        fee=jnp.where(is_traded, fee, 0.0),
        slippage=jnp.where(is_traded, slip, 0.0),
        spot_fee=rules.spot_rate * spot_usd,
        spot_slippage=(slots.spot_slip + into_slip) * spot_usd,
    )


def total_usd(costs: Costs) -> Float[Array, " account"]:
    """Fee and slippage of a trade altogether, USD."""
    parts = costs.fee + costs.slippage, costs.spot_fee + costs.spot_slippage
    return jnp.sum(parts[0], axis=0) + jnp.sum(parts[1], axis=0)


def traded(room: Room, slots: Slots, trade: Trade, costs: Costs) -> Room:
    """The room after a trade."""
    layout = Layout.of(room.book)
    change, cash, entry = _filled(room, slots, trade)
    cost = jnp.where(trade.contracts != 0, (costs.fee + costs.slippage) / slots.settle_usd, 0.0)
    base = jnp.where(change != 0, -change * slots.value, 0.0)
    spot = _spot_moves(slots, trade, costs)
    in_base = by_holding(base - cost, slots, layout) + spot
    in_cash = by_holding(cash - cost, slots, layout) + spot
    book = _with_contracts(room.book, change, layout)
    units = layout.units
    book = eqx.tree_at(
        lambda b: (b.coin_base, b.quote_base, b.coin_cash, b.quote_cash),
        book,
        (
            book.coin_base + in_base[:units],
            book.quote_base + in_base[units:],
            book.coin_cash + in_cash[:units],
            book.quote_cash + in_cash[units:],
        ),
    )
    return eqx.tree_at(lambda r: (r.book, r.entry), room, (book, entry))


def _filled(room: Room, slots: Slots, trade: Trade) -> tuple[Array, Array, Array]:
    """By slot: change of contracts without dust, cash that comes in, entry value afterwards.

    Closing pays the value of what is closed against its entry, whatever lots it was bought in;
    what is beyond the position is opened at the mark. Options pay their premium.
    """
    held, asked = slots.contracts, trade.contracts
    after = held + asked
    after = jnp.where(jnp.abs(after) <= DUST * jnp.abs(held), 0.0, after)
    change = jnp.where(asked != 0, after - held, 0.0)
    closes = held * change < 0
    share = jnp.where(closes, jnp.abs(change) / jnp.where(closes, jnp.abs(held), 1.0), 0.0)
    share = jnp.minimum(share, 1.0)
    beyond = jnp.where(jnp.abs(change) > jnp.abs(held), change + held, 0.0)
    opened = jnp.where(closes, beyond, change)
    closed_cash = jnp.where(closes, share * (held * slots.value + room.entry), 0.0)
    paid = jnp.where(slots.is_option, -slots.value, slots.funding)
    opened_cash = jnp.where(opened != 0, opened * paid, 0.0)
    at_mark = jnp.where(slots.is_option, 0.0, slots.value + slots.funding)
    entry = room.entry * (1.0 - share) - jnp.where(opened != 0, opened * at_mark, 0.0)
    return change, closed_cash + opened_cash, entry


def _spot_moves(slots: Slots, trade: Trade, costs: Costs) -> Float[Array, "holding account"]:
    """Units that spot trades move in each holding, costs included."""
    cost = costs.spot_fee + costs.spot_slippage
    got_usd = jnp.sum(-trade.spot * slots.usd - cost, axis=0)
    places = jnp.arange(len(slots.usd), dtype=trade.into.dtype)[:, None]
    return trade.spot + jnp.where(places == trade.into[None], got_usd[None] / slots.usd, 0.0)


def _with_contracts(book: Book, change: Float[Array, "slot account"], layout: Layout) -> Book:
    """The book with the positions of every portfolio changed; the first is exact at 0."""
    linear, options = as_lists(change, layout)

    def added(contracts: Array, more: Array) -> Array:
        return contracts + more[None]

    return eqx.tree_at(
        lambda b: (b.leg_contracts, b.option_contracts),
        book,
        (added(book.leg_contracts, linear), added(book.option_contracts, options)),
    )


def without_orders(book: Book) -> Book:
    """The book with its orders cancelled."""
    if not book.order_instrument.shape[0]:
        return book

    def positions(contracts: Array) -> Array:
        return jnp.broadcast_to(contracts[:1], contracts.shape)

    return eqx.tree_at(
        lambda b: (
            b.leg_contracts,
            b.option_contracts,
            b.spot_order_coin,
            b.order_instrument,
            b.order_contracts,
            b.order_out_amount,
        ),
        book,
        (
            positions(book.leg_contracts),
            positions(book.option_contracts),
            jnp.zeros_like(book.spot_order_coin),
            jnp.zeros_like(book.order_instrument),
            jnp.zeros_like(book.order_contracts),
            jnp.zeros_like(book.order_out_amount),
        ),
    )
