"""What one contract is worth and weighs at one time: the part every margin model shares.

Feature columns (all linear in the position, per contract held):

==========  =====================================================  ==============
column      content                                                unit
==========  =====================================================  ==============
VALUE       value settled in USDT, USDC, USD                       that currency
COIN_VALUE  value settled in the coin                              coins
CASH        mark-based cash delta by settlement group              USD
DELTA       delta, options premium adjusted                        coins
GROSS       notional                                               USD
==========  =====================================================  ==============

``value`` is such that equity = cash + entry value + contracts * value, in the settle currency:
linear ``m P``, inverse ``-m / P``, option ``m P``; after expiry the settlement price takes the
place of the mark and all exposures are zero. An unpriced contract has value NaN.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kernels import black76
from kernels.records import FUTURE, NULL, NUM_QUOTES, OPTION, PERPETUAL, SPOT, Contract, Quote


VALUE = slice(0, NUM_QUOTES)
COIN_VALUE = NUM_QUOTES
CASH = slice(NUM_QUOTES + 1, 2 * NUM_QUOTES + 1)
DELTA = 2 * NUM_QUOTES + 1
GROSS = DELTA + 1
NUM_FEATURES = GROSS + 1

USD_GROUP = NUM_QUOTES - 1
SECONDS_PER_YEAR = 365.0 * 86_400.0


def years_left(contract: Contract, now_s: Float[Array, " *time"]) -> Float[Array, " *time"]:
    """Time to expiry in years (ACT/365, by the second), at least 0; inf where none."""
    return jnp.maximum(contract.expiry_s - now_s, 0.0) / SECONDS_PER_YEAR


def is_priced(contract: Contract, quote: Quote) -> Bool[Array, " *time"]:
    """Whether the contract can be valued: a mark, and for options a forward and volatility."""
    option_ok = jnp.isfinite(quote.forward_usd) & jnp.isfinite(quote.iv)
    return jnp.isfinite(quote.mark) & jnp.where(contract.kind == OPTION, option_ok, True)


def is_alive(contract: Contract, now_s: Float[Array, " *time"]) -> Bool[Array, " *time"]:
    """Whether the contract has not expired yet (it settles at the first time >= expiry)."""
    return (contract.kind != NULL) & (now_s < contract.expiry_s)


def settlement_value(contract: Contract, quote: Quote) -> Float[Array, ""]:
    """Value of one expired contract in its settle currency.

    Linear ``m I`` with ``I`` the index in the settle currency, inverse ``-m / S``, option
    ``m max(0, +-(S - K)) / S``; settled in a quote currency ``m max(0, +-(I - K))``, its strike
    being in that currency.
    """
    index = quote.settlement / quote.settlement_fx
    in_quote = contract.settle < NUM_QUOTES
    price = jnp.where(in_quote, index, quote.settlement)
    payoff = jnp.maximum(0.0, contract.call_sign * (price - contract.strike_usd))
    option = contract.multiplier * payoff / jnp.where(in_quote, 1.0, quote.settlement_fx)
    linear = contract.multiplier * index
    inverse = -contract.multiplier / quote.settlement
    is_option = contract.kind == OPTION
    return jnp.where(is_option, option, jnp.where(contract.is_inverse, inverse, linear))


def contract_features(
    contract: Contract,
    quote: Quote,
    now_s: Float[Array, ""],
    currency_usd: Float[Array, " currency"],
) -> Float[Array, " feature"]:
    """Feature columns of one contract (module docstring); NaN value = unpriced.

    References:
        OKX portfolio margin rules, notation table and equity (sections 1 and 7).
    """
    m, price = contract.multiplier, quote.mark
    spot_usd = currency_usd[contract.coin]
    fx = currency_usd[contract.settle]
    is_option = contract.kind == OPTION
    is_linear = ~(is_option | contract.is_inverse)
    vol = quote.iv * jnp.sqrt(years_left(contract, now_s))
    terms = quote.forward_usd, contract.strike_usd, vol, contract.call_sign
    option_delta, option_price = black76.delta(*terms), black76.price_coin(*terms)

    value = jnp.where(contract.is_inverse, -m / price, m * price)
    cash = jnp.where(is_linear, m * price * fx, m)
    cash = jnp.where(is_option, m * option_delta * spot_usd, cash)
    delta = jnp.where(is_linear, m, m / price)
    delta = jnp.where(is_option, m * (option_delta - option_price), delta)
    gross = jnp.where(is_option, m * spot_usd, cash)

    alive = is_alive(contract, now_s)
    priced = is_priced(contract, quote) & jnp.isfinite(spot_usd) & jnp.isfinite(fx)
    exposed = alive & priced & (contract.kind != SPOT)
    value = jnp.where(priced, value, jnp.nan)
    value = jnp.where(alive, value, settlement_value(contract, quote)) - quote.funding
    value = jnp.where(contract.kind == NULL, 0.0, value)
    cash, delta, gross = (jnp.where(exposed, x, 0.0) for x in (cash, delta, gross))

    groups = jnp.arange(NUM_QUOTES, dtype=contract.settle.dtype)
    settles_in = groups == contract.settle
    cash_group = jnp.where(is_linear & (contract.settle < NUM_QUOTES), contract.settle, USD_GROUP)
    in_coin = ~jnp.any(settles_in)
    return jnp.concatenate(
        [
            jnp.where(settles_in, value, 0.0),
            jnp.where(in_coin, value, 0.0)[None],
            jnp.where(groups == cash_group, cash, 0.0),
            delta[None],
            gross[None],
        ]
    )


def is_expiring(contract: Contract) -> Bool[Array, ""]:
    """Whether the contract is an expiry future or an option (not a perpetual)."""
    return (contract.kind == FUTURE) | (contract.kind == OPTION)


def is_perpetual(contract: Contract) -> Bool[Array, ""]:
    """Whether the contract is a perpetual."""
    return contract.kind == PERPETUAL


def order_terms(
    contract: Contract,
    quote: Quote,
    now_s: Float[Array, ""],
    currency_usd: Float[Array, " currency"],
) -> Float[Array, " order_term"]:
    """What an open order in the contract is measured by: (USD per unit of price, value, resting).

    A limit ``x`` costs ``n (x A - B)`` USD against the mark, with ``A = m v``, ``v`` the USD value
    of the settle currency, and ``B = A P``; spot ``B = m S``; inverse ``B = -A / P`` and
    ``x = -1 / limit``. All zero once expired; NaN where unpriced; the last is 1 while it rests.

    References:
        OKX portfolio margin rules, section 9.
    """
    m = contract.multiplier
    spot_usd, fx = currency_usd[contract.coin], currency_usd[contract.settle]
    is_spot = contract.kind == SPOT
    unit = m * fx
    value = jnp.where(contract.is_inverse, -unit / quote.mark, unit * quote.mark)
    value = jnp.where(is_spot, m * spot_usd, value)
    priced = jnp.where(is_spot, True, is_priced(contract, quote)) & jnp.isfinite(spot_usd)
    resting = is_alive(contract, now_s)
    unit, value = (jnp.where(priced, x, jnp.nan) for x in (unit, value))
    terms = jnp.stack([unit, value, jnp.ones_like(unit)])
    return jnp.where(resting, terms, 0.0)
