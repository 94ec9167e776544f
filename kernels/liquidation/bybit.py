"""The stages of a Bybit liquidation: repay debts, cancel orders, close positions in part.

At a maintenance margin rate of 85 % and above debts are repaid until there is none; at 100 % all
orders are cancelled and positions are closed until the rate is at most 90 %. Levels here are the
inverse of rates.

References:
    Bybit UTA rules, liquidation: the steps are stated, the order within the last is assumed.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.liquidation.debts import debts_usd, name_rank, repayments
from kernels.liquidation.records import (
    NO_DEBT,
    NO_PLACE,
    NOT_DUE,
    Choice,
    LiquidationModel,
    Origin,
    Target,
    Trade,
)
from kernels.liquidation.searches import Search
from kernels.liquidation.situation import Rulebook, Situation
from kernels.liquidation.stages import cancel, close_best
from kernels.models.bybit_contracts import BybitParameters


NUM_GROUPS = 3
PERPETUALS_AND_FUTURES, SHORT_OPTIONS, LONG_OPTIONS = range(NUM_GROUPS)


def repay(now: Situation, origin: Origin, book: Rulebook) -> Choice:
    """Repay the whole of the largest debt at a rate of 85 % and above.

    Example: 10,000 USDT owed at a rate of 90 %, BTC at 50,000: 0.2 BTC is sold, costs aside.
    """
    owed = debts_usd(now, book)
    units, can = repayments(now, owed, book)
    order = jnp.lexsort((name_rank(now, book), -owed, ~can), axis=0).astype(jnp.int32)
    into = order[0]
    spot = jnp.take_along_axis(units, into[None, None], axis=1)[:, 0]
    is_due = now.account.margin_level <= book.rules.repay_level
    none = jnp.full_like(into, NO_PLACE)
    value = jnp.take_along_axis(owed, into[None], axis=0)[0]
    return Choice(
        found=is_due & jnp.any(can, axis=0),
        why=jnp.where(is_due, NO_DEBT, NOT_DUE).astype(jnp.int32),
        cancels=jnp.zeros_like(is_due),
        trade=Trade(jnp.zeros_like(now.slots.contracts), spot, into),
        target=Target(none, into, none, value),
    )


def partial(now: Situation, origin: Origin, book: Rulebook) -> Search:
    """Partial liquidation: a slice of the position that frees most margin per USD of cost.

    Perpetuals and futures come before short options, long options last.
    """
    slots = now.slots
    option = jnp.where(slots.contracts > 0, LONG_OPTIONS, SHORT_OPTIONS)
    group = jnp.where(slots.is_option, option, PERPETUALS_AND_FUTURES)
    place = jnp.asarray(book.rules.group_place)[group]
    return close_best(now, origin, place, book, with_debts=False)


def no_pairs(
    groups_usd: Float[Array, "quote unit account"],
) -> Float[Array, "pair unit account"]:
    """The model has no stage for stablecoin pairs."""
    return jnp.zeros((1, *groups_usd.shape[1:]))


def no_multiplier(
    raw_usd: Float[Array, "unit account"],
    coin: Int[Array, "unit account"],
    choice: Int[Array, ""],
    params: BybitParameters,
) -> Float[Array, "unit account"]:
    """The model has no minimum charge by tiers."""
    return jnp.ones_like(raw_usd)


MODEL = LiquidationModel(
    name="bybit",
    stages={"repay": repay, "cancel": cancel, "partial": partial},
    always=("repay",),
    safe_at_bound=True,
    minimum_charge=None,
    multiplier=no_multiplier,
    hedged_pairs=no_pairs,
    num_pairs=1,
)
