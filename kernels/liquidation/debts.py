"""Repaying a debt in a liquidation: assets are sold for it, at the index.

An asset is exchanged straight into the currency of the debt; only cash can be sold (neither
unrealised profit nor option value), and no more of it than the equity of its currency.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels.account import discounted_usd
from kernels.liquidation.records import Origin
from kernels.liquidation.situation import Rulebook, Situation
from kernels.liquidation.trades import slice_of
from kernels.tiers import of_coin


RATE_DIGITS = 9
"""Discount rates that are equal in so many digits are the same."""
LEAST_USD = 0.01
"""Assets below a cent are none."""


def debts_usd(now: Situation, book: Rulebook) -> Float[Array, "holding account"]:
    """Debts large enough to be repaid, USD, 0 where there is none."""
    owed = jnp.where(now.equity < 0, -now.equity * now.slots.usd, 0.0)
    return jnp.where(owed >= book.rules.min_debt_usd, owed, 0.0)


def assets_usd(now: Situation) -> Float[Array, "holding account"]:
    """What can be sold of each holding, USD."""
    usd = jnp.minimum(now.equity, now.cash) * now.slots.usd
    return jnp.where(usd > LEAST_USD, usd, 0.0)


def name_rank(now: Situation, book: Rulebook) -> Int[Array, "holding account"]:
    """Place of each holding's currency by name."""
    return of_coin(book.params.account.debts.name_rank, now.currency)


def asset_order(now: Situation, book: Rulebook) -> Int[Array, "holding account"]:
    """Holdings in the order in which they are sold: by discount rate, then by name."""
    each = jax.vmap(jax.vmap(discounted_usd, in_axes=(0, 0, 0, None)), in_axes=(0, 0, 0, None))
    worth = each(now.equity, now.slots.usd, now.currency, book.params.account)
    equity_usd = now.equity * now.slots.usd
    is_asset = assets_usd(now) > 0
    rate = jnp.round(worth / jnp.where(is_asset, equity_usd, 1.0), RATE_DIGITS)
    sign = jnp.where(book.rules.lowest_rate_first, 1.0, -1.0)
    key = jnp.where(is_asset, sign * rate, jnp.inf)
    return jnp.lexsort((name_rank(now, book), key), axis=0).astype(jnp.int32)


def due_usd(now: Situation, origin: Origin, book: Rulebook) -> Float[Array, "holding account"]:
    """USD of each debt that a slice repays."""
    begun = -origin.equity * now.slots.usd
    owed = debts_usd(now, book)
    least = jnp.broadcast_to(book.rules.min_usd, owed.shape)
    return jnp.where(owed > 0, slice_of(begun, owed, least, book.rules), 0.0)


def repayments(
    now: Situation, due: Float[Array, "debt account"], book: Rulebook
) -> tuple[Float[Array, "holding debt account"], Bool[Array, "debt account"]]:
    """Units of each holding that are sold (negative) for each debt alone; whether anything is.

    The costs leave the currency of the debt, so a little more than the debt is sold for them.

    Example: 10,000 USDT due, BTC at 50,000 USD, no costs: 0.2 BTC is sold.
    """
    order, can_sell = asset_order(now, book), assets_usd(now)
    places = jnp.arange(len(can_sell), dtype=jnp.int32)[:, None]

    def sell(left: Array, asset: Array) -> tuple[Array, Array]:
        def of_asset(x: Array) -> Array:
            return jnp.take_along_axis(x, asset[None], axis=0)[0]

        usd, index, cash = of_asset(can_sell), of_asset(now.slots.usd), of_asset(now.cash)
        cost = book.rules.spot_rate + now.slots.spot_slip + of_asset(now.slots.spot_slip)[None]
        sold = jnp.where(left > LEAST_USD, jnp.minimum(usd[None], left / (1.0 - cost)), 0.0)
        sold = jnp.where(usd[None] > 0, sold, 0.0)
        units = jnp.where(sold > 0, jnp.minimum(sold / index[None], cash[None]), 0.0)
        is_asset = places == asset[None]
        return left - sold * (1.0 - cost), jnp.where(is_asset[:, None], -units[None], 0.0)

    def one(state: tuple[Array, Array], asset: Array) -> tuple[tuple[Array, Array], None]:
        left, units = state
        left, sale = sell(left, asset)
        return (left, units + sale), None

    start = due, jnp.zeros((len(can_sell), *due.shape))
    (_, units), _ = jax.lax.scan(one, start, order)
    return units, jnp.any(units != 0, axis=0) & (due > 0)
