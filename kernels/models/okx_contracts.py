"""OKX portfolio margin: numbers of a parameter set, and what one contract brings into its unit.

Scenarios: 21 cells of MR1 (7 price moves, each with volatility down, same, up), the two extreme
moves of MR6, the four rate shocks of MR5, one day of MR2.
Columns: expiry-bucket delta and move (MR4), weighted vega (MR3), fee size (MR7).
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels import black76
from kernels.axes import alike_over_accounts, interpolated
from kernels.features import (
    CASH,
    DELTA,
    is_alive,
    is_expiring,
    is_perpetual,
    is_priced,
    years_left,
)
from kernels.model import AccountRules
from kernels.records import OPTION, Contract, Quote
from kernels.tiers import MarginalTiers


NUM_MOVES = 7
VOL_STATES = ("down", "same", "up")
MR1_CELLS = slice(0, 3 * NUM_MOVES)
MR6_CELLS = slice(21, 23)
MR5_CELLS = slice(23, 27)
MR2_CELL = 27
NUM_SCENARIOS = 28

BASIS_USD, MOVE, VEGA_USD, FEE_EVEN_USD, FEE_ODD_USD = range(5)
NUM_COLUMNS = 5
"""Columns of a contract."""

COMBINE = ("points", "percent", "max", "min")
DAYS_PER_YEAR = 365.0


class OkxParameters(eqx.Module):
    """Numbers of one OKX parameter set; ``currency`` rows hold the values of the coin's group.

    Fractions unless the name says otherwise; provenance of each number is in the set's file.
    """

    price_moves: Float[Array, "currency move"]
    points_days: Float[Array, " node"]
    points: Float[Array, " node"]
    percent_days: Float[Array, " percent_node"]
    percent: Float[Array, " percent_node"]
    has_points: Bool[Array, ""]
    has_percent: Bool[Array, ""]
    combine: Int[Array, ""]
    vol_floor: Float[Array, ""]
    pnl_in_coin: Bool[Array, ""]
    theta_days: Float[Array, ""]
    vega_rate: Float[Array, ""]
    vega_reference_days: Float[Array, ""]
    vega_min_days: Float[Array, ""]
    basis_near: Float[Array, " currency"]
    basis_annual: Float[Array, " currency"]
    basis_charges_spot: Bool[Array, ""]
    basis_charges_perpetuals: Bool[Array, ""]
    basis_charges_options: Bool[Array, ""]
    rate_parallel: Float[Array, ""]
    rate_slope: Float[Array, ""]
    rate_slope_span_yr: Float[Array, ""]
    extreme_move: Float[Array, " currency"]
    extreme_factor: Float[Array, ""]
    fee_linear: Float[Array, " currency"]
    fee_short_option: Float[Array, ""]
    fee_long_option: Float[Array, ""]
    fee_tiers: MarginalTiers
    worst_of: dict[str, Bool[Array, ""]]
    depeg_enabled: Bool[Array, ""]
    depeg_floor_usd: Float[Array, " tier"]
    depeg_width_usd: Float[Array, " tier"]
    depeg_calm_index: Float[Array, ""]
    depeg_calm_rate_step: Float[Array, ""]
    depeg_stress_index: Float[Array, ""]
    depeg_base_index: Float[Array, " depeg_node"]
    depeg_base_rate: Float[Array, " depeg_node"]
    depeg_offset: Float[Array, " tier"]
    depeg_max_rate: Float[Array, ""]
    account: AccountRules


def vol_shock(
    params: OkxParameters, days: Float[Array, " *time"], vol: Float[Array, " *time"]
) -> Float[Array, " *time"]:
    """Upward volatility shock of an option with ``days`` left, as a fraction a year (MR1)."""
    points = interpolated(days, params.points_days, params.points)
    percent = interpolated(days, params.percent_days, params.percent) * vol
    # An empty table does not take part in the combination.
    points, percent = (
        jnp.where(params.has_points, points, percent),
        jnp.where(params.has_percent, percent, points),
    )
    options = jnp.stack(
        [points, percent, jnp.maximum(points, percent), jnp.minimum(points, percent)]
    )
    return jnp.take_along_axis(options, params.combine[None], axis=0)[0]


def option_usd(
    contract: Contract,
    forward_usd: Float[Array, "..."],
    vol: Float[Array, "..."],
    years: Float[Array, "..."],
    spot_usd: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Value of an option on one coin: ``c S`` with ``c = Black76(F, K, sigma, T) / F``."""
    total_vol = vol * jnp.sqrt(years)
    coins = black76.price_coin(forward_usd, contract.strike_usd, total_vol, contract.call_sign)
    return spot_usd * coins


def option_under_move(
    contract: Contract,
    quote: Quote,
    now_s: Float[Array, " *time"],
    spot_usd: Float[Array, " *time"],
    move: Float[Array, "..."],
    vol: Float[Array, "..."],
    params: OkxParameters,
) -> Float[Array, "..."]:
    """Value of an option on one coin after a price move: forward and index move together.

    References:
        OKX portfolio margin rules, section 6: repricing.
    """
    now = spot_usd, quote.forward_usd, years_left(contract, now_s), params.pnl_in_coin
    spot_usd, forward_usd, years, in_coin = (alike_over_accounts(x, move) for x in now)
    moved_usd = jnp.where(in_coin, spot_usd, spot_usd * (1 + move))
    return option_usd(contract, forward_usd * (1 + move), vol, years, moved_usd)


def profit_usd(
    cells: slice,
    moved_usd: Float[Array, " cell *time"],
    contract: Contract,
    quote: Quote,
    now_s: Float[Array, " *time"],
    currency_usd: Float[Array, " currency *time"],
    features: Float[Array, " feature *time"],
    params: OkxParameters,
) -> Float[Array, " cell *time"]:
    """USD profit of one contract in some scenarios, of all but options from the delta.

    ``moved_usd`` is what an option on one coin is worth in each of them.
    """
    spot_usd = currency_usd[contract.coin]
    now_usd = option_usd(
        contract, quote.forward_usd, quote.iv, years_left(contract, now_s), spot_usd
    )
    option = contract.multiplier * (moved_usd - now_usd[None])
    linear_usd = features[DELTA] * spot_usd
    linear = linear_usd[None] * linear_columns(contract.coin, params)[cells]
    pnl = jnp.where(contract.kind == OPTION, option, linear)
    exposed = is_alive(contract, now_s) & is_priced(contract, quote) & jnp.isfinite(spot_usd)
    return jnp.where(exposed[None], pnl, 0.0)


def mr1_scenarios(
    contract: Contract,
    quote: Quote,
    now_s: Float[Array, " *time"],
    currency_usd: Float[Array, " currency *time"],
    features: Float[Array, " feature *time"],
    params: OkxParameters,
) -> Float[Array, " scenario *time"]:
    """USD profit of one contract in the cells of MR1, price moves outside."""
    vol, spot_usd = quote.iv, currency_usd[contract.coin]
    shock = vol_shock(params, years_left(contract, now_s) * DAYS_PER_YEAR, vol)
    down, up = (jnp.maximum(x, params.vol_floor) for x in (vol - shock, vol + shock))
    vols = jnp.stack([down, vol, up])
    moves = params.price_moves[contract.coin]
    moved = option_under_move(contract, quote, now_s, spot_usd, moves[:, None], vols[None], params)
    moved = moved.reshape(-1, *moved.shape[2:])
    return profit_usd(MR1_CELLS, moved, contract, quote, now_s, currency_usd, features, params)


def mr6_scenarios(
    contract: Contract,
    quote: Quote,
    now_s: Float[Array, " *time"],
    currency_usd: Float[Array, " currency *time"],
    features: Float[Array, " feature *time"],
    params: OkxParameters,
) -> Float[Array, " scenario *time"]:
    """USD profit of one contract under the extreme moves up and down."""
    extreme = params.extreme_move[contract.coin]
    moves = jnp.stack([extreme, -extreme])
    spot_usd = currency_usd[contract.coin]
    moved = option_under_move(contract, quote, now_s, spot_usd, moves, quote.iv[None], params)
    return profit_usd(MR6_CELLS, moved, contract, quote, now_s, currency_usd, features, params)


def mr5_scenarios(
    contract: Contract,
    quote: Quote,
    now_s: Float[Array, " *time"],
    currency_usd: Float[Array, " currency *time"],
    features: Float[Array, " feature *time"],
    params: OkxParameters,
) -> Float[Array, " scenario *time"]:
    """USD profit of one option under the four shocks of the rate curve; 0 for all others."""
    years, spot_usd = years_left(contract, now_s), currency_usd[contract.coin]
    slope = params.rate_slope * (1 - 2 * jnp.minimum(years / params.rate_slope_span_yr, 1.0))
    p = params.rate_parallel
    shifts = jnp.stack([p + slope, p - slope, slope - p, -p - slope])
    forward_usd = quote.forward_usd[None] * jnp.exp(shifts * years[None])
    moved = option_usd(contract, forward_usd, quote.iv[None], years[None], spot_usd[None])
    return profit_usd(MR5_CELLS, moved, contract, quote, now_s, currency_usd, features, params)


def mr2_scenarios(
    contract: Contract,
    quote: Quote,
    now_s: Float[Array, " *time"],
    currency_usd: Float[Array, " currency *time"],
    features: Float[Array, " feature *time"],
    params: OkxParameters,
) -> Float[Array, " scenario *time"]:
    """USD profit of one option by time passing; 0 for all others."""
    spot_usd = currency_usd[contract.coin]
    later_yr = years_left(contract, now_s) - params.theta_days / DAYS_PER_YEAR
    later_yr = jnp.maximum(later_yr, 0.0)
    moved = option_usd(contract, quote.forward_usd, quote.iv, later_yr, spot_usd)[None]
    cells = slice(MR2_CELL, MR2_CELL + 1)
    return profit_usd(cells, moved, contract, quote, now_s, currency_usd, features, params)


def linear_columns(coin: Int[Array, ""], params: OkxParameters) -> Float[Array, " scenario *time"]:
    """Price move of each scenario column: what one USD of linear delta gains there."""
    moves = jnp.repeat(params.price_moves[coin], len(VOL_STATES), axis=0)
    extreme = params.extreme_move[coin]
    none = jnp.zeros((NUM_SCENARIOS - MR6_CELLS.stop, *extreme.shape), moves.dtype)
    return jnp.concatenate([moves, jnp.stack([extreme, -extreme]), none])


def contract_columns(
    contract: Contract,
    quote: Quote,
    now_s: Float[Array, " *time"],
    currency_usd: Float[Array, " currency *time"],
    features: Float[Array, " feature *time"],
    params: OkxParameters,
) -> Float[Array, " model_column *time"]:
    """Per-contract inputs of MR3, MR4 and MR7 (module docstring), USD but for the move.

    The fee size is ``|n| * even + n * odd``, which holds long and short options at one rate each.
    """
    cash_usd = jnp.sum(features[CASH], axis=0)
    spot_usd = currency_usd[contract.coin]
    years = years_left(contract, now_s)
    is_option = contract.kind == OPTION
    exposed = is_alive(contract, now_s) & is_priced(contract, quote) & jnp.isfinite(spot_usd)
    annual_move = jnp.where(is_expiring(contract), params.basis_annual[contract.coin] * years, 0.0)
    move = jnp.maximum(params.basis_near[contract.coin], annual_move)
    in_basis = jnp.where(is_option, params.basis_charges_options, True)
    in_basis &= jnp.where(is_perpetual(contract), params.basis_charges_perpetuals, True)

    vol_time = quote.iv * jnp.sqrt(years)
    terms = quote.forward_usd, contract.strike_usd
    model_usd = spot_usd * black76.price_coin(*terms, vol_time, contract.call_sign)
    vega = contract.multiplier * spot_usd * black76.vega_per_forward(*terms, quote.iv, years)
    days = jnp.maximum(years * DAYS_PER_YEAR, params.vega_min_days)
    vega = jnp.where(is_option, vega * jnp.sqrt(params.vega_reference_days / days), 0.0)

    linear_fee = params.fee_linear[contract.coin] * jnp.abs(cash_usd)
    short = contract.multiplier * spot_usd * params.fee_short_option
    long = contract.multiplier * spot_usd * params.fee_long_option
    long = jnp.minimum(long, contract.multiplier * model_usd)
    even = jnp.where(is_option, 0.5 * (long + short), linear_fee)
    odd = jnp.where(is_option, 0.5 * (long - short), 0.0)
    columns = jnp.stack([jnp.where(in_basis, cash_usd, 0.0), move, vega, even, odd])
    return jnp.where(exposed[None], columns, 0.0)
