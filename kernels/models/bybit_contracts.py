"""Bybit unified account: numbers of a parameter set, and what one contract brings into its unit.

Scenarios: 33 cells (11 prices, each with volatility down, same, up) of options alone; perpetuals
and futures gain in proportion to the move and are one column.

Strike, forward and mark of an option settled in a quote currency are in that currency.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kernels import black76
from kernels.axes import alike_over_accounts
from kernels.features import SECONDS_PER_YEAR, USD_GROUP, is_alive, is_expiring, is_priced
from kernels.model import AccountRules
from kernels.records import NUM_QUOTES, OPTION, SPOT, Contract, Quote
from kernels.tiers import MarginalTiers


NUM_PRICES = 11
VOL_STATES = ("down", "same", "up")
NUM_SCENARIOS = NUM_PRICES * len(VOL_STATES)

LINEAR_USD, CALLS, PUTS, DELTA_USDT, DELTA_USDC, DELTA_USD, DELTA_BASIS = range(7)
DELTA, ABS_DELTA, ABS_BASIS, SIZE, VEGA, DAYS = range(7, 13)
NUM_COLUMNS = 13
"""Columns of a contract, per contract held: coins but for ``LINEAR_USD`` (USD for a move of 1.00)
and ``DAYS`` (floored); ``*_BASIS`` are delta times ``|price / index - 1|``, ``SIZE`` is that of
perpetuals and futures, ``VEGA`` is for 1.00 of volatility."""

SECONDS_PER_DAY = 86_400.0


class BybitParameters(eqx.Module):
    """Numbers of one Bybit parameter set; ``currency`` rows hold the values of the coin.

    Fractions unless the name says otherwise; provenance of each number is in the set's file.

    Fields:
        price_moves: moves of the grid, ascending, 0 among them.
        whole_seconds: whether time to expiry is counted from a clock in whole seconds.
        expiry_window_s: price shocks shrink in this many last seconds of an option, and
            volatility shocks too where ``expiry_scales_vol``.
        pnl_in_coin: whether options settled in a coin are revalued at the current index.
        hedges: whether spot of the coin hedges its unit.
        basis_is_gate: a basis up to the threshold costs nothing (otherwise it is raised to it).
        basis_cap: most that the spot basis costs, a fraction of the hedged spot.
        size_tiers: rates of perpetuals and futures by gross USD.
    """

    price_moves: Float[Array, "currency price"]
    whole_seconds: Bool[Array, ""]
    vol_up: Float[Array, ""]
    vol_down: Float[Array, ""]
    vol_reference_days: Float[Array, ""]
    vol_exponent: Float[Array, ""]
    vol_min_days: Float[Array, ""]
    expiry_window_s: Float[Array, ""]
    expiry_scales_vol: Bool[Array, ""]
    pnl_in_coin: Bool[Array, ""]
    hedges: Bool[Array, " currency"]
    short_option_rate: Float[Array, ""]
    vega_spread_rate: Float[Array, ""]
    stablecoin_spread_rate: Float[Array, ""]
    calendar_rate: Float[Array, ""]
    basis_factor: Float[Array, " currency"]
    basis_threshold: Float[Array, ""]
    basis_is_gate: Bool[Array, ""]
    basis_cap: Float[Array, " currency"]
    size_tiers: MarginalTiers
    account: AccountRules


def seconds_left(
    contract: Contract, now_s: Float[Array, " *time"], params: BybitParameters
) -> Float[Array, " *time"]:
    """Seconds to expiry on the clock of the set, at least 0; 0 for perpetuals."""
    clock_s = jnp.where(params.whole_seconds, jnp.floor(now_s), now_s)
    left = jnp.maximum(contract.expiry_s - clock_s, 0.0)
    return jnp.where(is_expiring(contract), left, 0.0)


def expiry_share(left_s: Float[Array, " *time"], params: BybitParameters) -> Float[Array, " *time"]:
    """Share of the price shock that an option still takes.

    References:
        Bybit UTA rules, stress grid.

    Example: 900 seconds before expiry, in a window of 1,800: 0.5.
    """
    window = params.expiry_window_s
    share = jnp.minimum(1.0, left_s / jnp.where(window > 0, window, 1.0))
    return jnp.where(window > 0, share, 1.0)


def shocked_vols(
    vol: Float[Array, " *time"], left_s: Float[Array, " *time"], params: BybitParameters
) -> Float[Array, " state *time"]:
    """Volatility down, same and up: ``IV (1 - down (30/D)^e)``, ``IV``, ``IV (1 + up (30/D)^e)``.

    ``D`` is the number of days left, rounded up, at least the set's least.

    References:
        Bybit UTA rules, stress grid.
    """
    # A floor division is exact where a quotient may round across a whole day.
    days = jnp.maximum(-(-left_s // SECONDS_PER_DAY), params.vol_min_days)
    size = (params.vol_reference_days / days) ** params.vol_exponent
    size = size * jnp.where(params.expiry_scales_vol, expiry_share(left_s, params), 1.0)
    factors = jnp.stack([1 - params.vol_down * size, jnp.ones_like(size), 1 + params.vol_up * size])
    return jnp.maximum(vol[None] * factors, 0.0)


def option_scenarios(
    contract: Contract,
    quote: Quote,
    now_s: Float[Array, " *time"],
    fx: Float[Array, " *time"],
    params: BybitParameters,
) -> Float[Array, " scenario *time"]:
    """USD profit of one option contract against its published mark in every cell.

    ``m (Black76(F (1 + x), K, IV', T) - P) fx``; settled in the coin ``m (c' (1 + x) - P) S``,
    ``c'`` the model price over the forward.

    Args:
        contract: the option.
        quote: its mark, forward and volatility.
        now_s: seconds since the epoch.
        fx: USD per unit of the settle currency (the index, where that is the coin).
        params: the parameter set.

    References:
        Bybit UTA rules, stress grid.
    """
    left_s = seconds_left(contract, now_s, params)
    years = left_s / SECONDS_PER_YEAR
    in_quote = contract.settle < NUM_QUOTES
    moves = params.price_moves[contract.coin] * expiry_share(left_s, params)[None]
    vols = shocked_vols(quote.iv, left_s, params) * jnp.sqrt(years)[None]

    def price(move: Array, vol_time: Array) -> Array:
        forward = alike_over_accounts(quote.forward_usd, move) * (1 + move)
        coins = black76.price_coin(forward, contract.strike_usd, vol_time, contract.call_sign)
        in_coin = alike_over_accounts(params.pnl_in_coin, move)
        index_factor = jnp.where(in_coin, 1.0, 1 + move)
        return coins * jnp.where(in_quote, forward, index_factor)

    cells = price(moves[:, None], vols[None])
    cells = cells.reshape(-1, *cells.shape[2:])
    return contract.multiplier * (cells - quote.mark[None]) * fx[None]


def scenario_columns(
    contract: Contract,
    quote: Quote,
    now_s: Float[Array, " *time"],
    currency_usd: Float[Array, " currency *time"],
    features: Float[Array, " feature *time"],
    params: BybitParameters,
) -> Float[Array, " scenario *time"]:
    """USD profit of one contract in each column; zero for all but options (``LINEAR_USD``)."""
    pnl = option_scenarios(contract, quote, now_s, currency_usd[contract.settle], params)
    exposed = is_exposed(contract, quote, now_s, currency_usd)
    return jnp.where((exposed & (contract.kind == OPTION))[None], pnl, 0.0)


def is_exposed(
    contract: Contract,
    quote: Quote,
    now_s: Float[Array, " *time"],
    currency_usd: Float[Array, " currency *time"],
) -> Bool[Array, " *time"]:
    """Whether the contract is a live derivative with every price that it needs."""
    usd = currency_usd[contract.coin] * currency_usd[contract.settle]
    priced = is_priced(contract, quote) & jnp.isfinite(usd)
    return is_alive(contract, now_s) & priced & (contract.kind != SPOT)


def contract_columns(
    contract: Contract,
    quote: Quote,
    now_s: Float[Array, " *time"],
    currency_usd: Float[Array, " currency *time"],
    features: Float[Array, " feature *time"],
    params: BybitParameters,
) -> Float[Array, " model_column *time"]:
    """Columns of one contract (``NUM_COLUMNS``).

    Deltas are ``m``, inverse ``m / P``, options ``m N(d1)`` (not premium adjusted); the family of
    everything settled in the coin is USD. The price in the basis is the mark, of options the
    forward, in USD.
    """
    m, mark = contract.multiplier, quote.mark
    spot_usd, fx = currency_usd[contract.coin], currency_usd[contract.settle]
    is_option = contract.kind == OPTION
    in_quote = contract.settle < NUM_QUOTES
    left_s = seconds_left(contract, now_s, params)
    years = left_s / SECONDS_PER_YEAR
    terms = quote.forward_usd, contract.strike_usd

    of_option = m * black76.delta(*terms, quote.iv * jnp.sqrt(years), contract.call_sign)
    delta = jnp.where(is_option, of_option, jnp.where(contract.is_inverse, m / mark, m))
    linear_usd = jnp.where(contract.is_inverse, m * spot_usd / mark, m * mark * fx)
    vega = m * black76.vega_per_forward(*terms, quote.iv, years)
    price_usd = jnp.where(is_option, quote.forward_usd, mark) * jnp.where(in_quote, fx, 1.0)
    basis = jnp.abs(price_usd / spot_usd - 1)
    is_call = contract.call_sign > 0
    family = jnp.where(in_quote, contract.settle, USD_GROUP)
    columns = {
        LINEAR_USD: jnp.where(is_option, 0.0, linear_usd),
        CALLS: jnp.where(is_option & is_call, m, 0.0),
        PUTS: jnp.where(is_option & ~is_call, m, 0.0),
        DELTA_USDT: jnp.where(family == 0, delta, 0.0),
        DELTA_USDC: jnp.where(family == 1, delta, 0.0),
        DELTA_USD: jnp.where(family == USD_GROUP, delta, 0.0),
        DELTA_BASIS: delta * basis,
        DELTA: delta,
        ABS_DELTA: jnp.abs(delta),
        ABS_BASIS: jnp.abs(delta) * basis,
        SIZE: jnp.where(is_option, 0.0, jnp.abs(delta)),
        VEGA: jnp.where(is_option, vega, 0.0),
        DAYS: left_s // SECONDS_PER_DAY,
    }
    exposed = is_exposed(contract, quote, now_s, currency_usd)
    at_times = [jnp.broadcast_to(columns[k], exposed.shape) for k in range(NUM_COLUMNS)]
    return jnp.where(exposed[None], jnp.stack(at_times), 0.0)
