"""Bybit unified account, portfolio margin: stress grid and contingency of one risk unit.

Numbers come from :class:`BybitParameters` alone; ``MODEL`` at the end declares the model. What a
contract brings into its unit is in ``bybit_contracts``. Long and short sides of a sum over legs
come from its even part ``sum |n| |x|`` and its odd part ``sum n x``: ``(even +- odd) / 2``.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.axes import lowest
from kernels.breakeven import Pieces
from kernels.model import MarginModel
from kernels.models.bybit_contracts import (
    ABS_BASIS,
    ABS_DELTA,
    CALLS,
    DAYS,
    DELTA,
    DELTA_BASIS,
    DELTA_USD,
    DELTA_USDC,
    DELTA_USDT,
    LINEAR_USD,
    NUM_COLUMNS,
    NUM_PRICES,
    NUM_SCENARIOS,
    PUTS,
    SIZE,
    VEGA,
    VOL_STATES,
    BybitParameters,
    contract_columns,
    scenario_columns,
)
from kernels.records import Charges, Exposure
from kernels.tiers import marginal_charge, of_coin


CHARGES = {
    "max_loss": "Stress grid loss",
    "short_options": "Short options",
    "vega_spread": "Vega spread",
    "stablecoin_spread": "USDT-USDC-USD spread",
    "delta_spread": "Delta spread",
    "perpetual_futures": "Perpetuals and futures",
    "borrow": "Borrowing",
}
BORROW = "borrow"

SIGNED = (LINEAR_USD, CALLS, PUTS, DELTA_BASIS, DELTA_USDT, DELTA_USDC, DELTA_USD)
LINEAR, NET_CALLS, NET_PUTS, BASIS_ODD = range(4)
FAMILIES = slice(4, 7)
"""Places in the signed sums; ``FAMILIES`` are deltas by settlement family."""

SIZED = (ABS_DELTA, ABS_BASIS, SIZE)
DELTA_EVEN, BASIS_EVEN, GROSS_SIZE = range(3)
"""Places in the sums weighted by size."""

NUM_FOLDED = 8
DELTA_SIDES, VEGA_SIDES = slice(0, 4), slice(4, 8)
"""Calendar sides of delta and of vega over expiry buckets."""

Sides = tuple[Float[Array, " *time"], ...]
"""Long, long days, short, short days: amounts in coins, and amounts times days."""


def added_bucket(
    sides: Sides, amount: Float[Array, " *time"], days: Float[Array, " *time"]
) -> Sides:
    """Calendar sides with one more bucket of a net amount in coins."""
    long, long_days, short, short_days = sides
    more, less = jnp.maximum(amount, 0.0), jnp.maximum(-amount, 0.0)
    return long + more, long_days + more * days, short + less, short_days + less * days


def fold_bucket(
    folded: tuple[Array, ...], bucket: tuple[Array, ...], columns: tuple[Array, ...]
) -> tuple[Array, ...]:
    """An expiry bucket goes to the side of its net delta and to that of its net vega."""
    days = columns[DAYS]
    sides = folded[DELTA_SIDES], folded[VEGA_SIDES]
    delta, vega = (added_bucket(s, x, days) for s, x in zip(sides, bucket, strict=True))
    return delta + vega


def hedged_days(sides: Sides) -> Float[Array, " *time"]:
    """Hedged amount (the smaller side) times the difference of average days, coins x days.

    References:
        Bybit UTA rules, contingency: vega spread, delta spread.

    Example: 2 coins long at 30 days, 1 short at 10: 1 x 20.
    """
    long, long_days, short, short_days = sides
    apart = _average(long_days, long) - _average(short_days, short)
    return jnp.minimum(long, short) * jnp.abs(apart)


def _average(
    total: Float[Array, " *time"], weight: Float[Array, " *time"]
) -> Float[Array, " *time"]:
    """Weighted average, 0 without any weight."""
    return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1.0), 0.0)


def net_delta(exposure: Exposure) -> Float[Array, " *time"]:
    """Delta of the derivatives of a unit, coins, options not premium adjusted."""
    return sum(exposure.signed[FAMILIES], jnp.zeros_like(exposure.delta_coin))


def unit_spot(
    equity_coin: Float[Array, " *time"],
    exposure: Exposure,
    limit_coin: Float[Array, " *time"],
    coin: Int[Array, ""],
    params: BybitParameters,
) -> Float[Array, " *time"]:
    """Spot (or debt) of an eligible coin that hedges its unit: coins, signed as the equity.

    References:
        Bybit UTA rules, stress grid: spot hedge quantity.

    Example: a debt of 0.001 BTC against a delta of 0.0443: -0.001 (B1).
    """
    delta = net_delta(exposure)
    size = jnp.minimum(jnp.minimum(jnp.abs(equity_coin), jnp.abs(delta)), limit_coin)
    hedges = (equity_coin * delta < 0) & of_coin(params.hedges, coin)
    return jnp.where(hedges, jnp.sign(equity_coin) * size, 0.0)


def without_options(
    exposure: Exposure, spot_usd: Float[Array, " *time"], moves: Float[Array, " price *time"]
) -> Float[Array, " price *time"]:
    """USD profit of perpetuals, futures and spot under price moves; spot counts only as a gain."""
    return exposure.signed[LINEAR][None] * moves + jnp.maximum(spot_usd[None] * moves, 0.0)


def _moves(coin: Int[Array, ""], params: BybitParameters) -> Float[Array, " price *time"]:
    return params.price_moves.at[coin].get(mode="promise_in_bounds")


def max_loss(
    exposure: Exposure,
    spot_usd: Float[Array, " *time"],
    coin: Int[Array, ""],
    params: BybitParameters,
) -> Float[Array, " *time"]:
    """Worst loss over prices, each with the volatility state that is worst for all options.

    References:
        Bybit UTA rules, stress grid.
    """
    moves = _moves(coin, params)
    if exposure.scenario_usd is None:
        # Linear on either side of the current price: the worst price is an end of the range.
        worst = without_options(exposure, spot_usd, jnp.stack([moves[0], moves[-1]]))
    else:
        worst = without_options(exposure, spot_usd, moves)
        states = exposure.scenario_usd.astype(worst.dtype)
        states = states.reshape(NUM_PRICES, len(VOL_STATES), *states.shape[1:])
        worst = worst + lowest(jnp.moveaxis(states, 1, 0))
    return jnp.maximum(0.0, -lowest(worst))


def stablecoin_spread(exposure: Exposure) -> Float[Array, " *time"]:
    """Coins long in one settlement family and short in another, >= 0.

    References:
        Bybit UTA rules, contingency: USDT-USDC-USD spread.

    Example: 1 coin long in USDT, 0.4 short in USDC: 0.4.
    """
    families = jnp.stack(exposure.signed[FAMILIES])
    hedged = 0.5 * (jnp.sum(jnp.abs(families), axis=0) - jnp.abs(jnp.sum(families, axis=0)))
    return jnp.maximum(hedged, 0.0)


def spot_basis(
    exposure: Exposure,
    spot_coin: Float[Array, " *time"],
    coin: Int[Array, ""],
    params: BybitParameters,
) -> Float[Array, " *time"]:
    """Cost of spot that hedges, a fraction of it: the average basis of the legs opposite to it.

    References:
        Bybit UTA rules, contingency: delta spread.

    Example: a basis of 2 % under a threshold of 5 %, factor 0.45: 2.25 % with the rule "floor".
    """
    toward = -jnp.sign(spot_coin)
    weight = 0.5 * (exposure.sized[DELTA_EVEN] + toward * net_delta(exposure))
    total = 0.5 * (exposure.sized[BASIS_EVEN] + toward * exposure.signed[BASIS_ODD])
    basis = _average(total, weight)
    above = jnp.where(basis > params.basis_threshold, basis, 0.0)
    used = jnp.where(params.basis_is_gate, above, jnp.maximum(basis, params.basis_threshold))
    return jnp.minimum(used * of_coin(params.basis_factor, coin), of_coin(params.basis_cap, coin))


def unit_charges(
    exposure: Exposure,
    coin: Int[Array, ""],
    coin_usd: Float[Array, " *time"],
    spot_coin: Float[Array, " *time"],
    rates: Float[Array, "rate_row rate_column *time"],
    params: BybitParameters,
) -> Charges:
    """All charges of one risk unit, USD: the worst loss and the five components added to it.

    Args:
        exposure: the unit's derivatives.
        coin: currency index of the unit.
        coin_usd: index price, NaN = unpriced.
        spot_coin: signed spot in use.
        rates: nothing; no number of this model depends on the time only.
        params: the parameter set.
    """
    short_coin = sum(jnp.maximum(0.0, -exposure.signed[k]) for k in (NET_CALLS, NET_PUTS))
    # Spot is a bucket of its own at 0 days, apart from perpetuals.
    delta_sides = added_bucket(exposure.folded[DELTA_SIDES], spot_coin, jnp.zeros_like(spot_coin))
    calendar_usd = params.calendar_rate * hedged_days(delta_sides) * coin_usd
    basis_usd = jnp.abs(spot_coin) * coin_usd * spot_basis(exposure, spot_coin, coin, params)
    vega_usd = params.vega_spread_rate * hedged_days(exposure.folded[VEGA_SIDES]) * coin_usd
    return {
        "max_loss": max_loss(exposure, spot_coin * coin_usd, coin, params),
        "short_options": params.short_option_rate * short_coin * coin_usd,
        "vega_spread": vega_usd,
        "stablecoin_spread": params.stablecoin_spread_rate * stablecoin_spread(exposure) * coin_usd,
        "delta_spread": calendar_usd + basis_usd,
        "perpetual_futures": marginal_charge(
            exposure.sized[GROSS_SIZE] * coin_usd, params.size_tiers, coin
        ),
        BORROW: jnp.zeros_like(coin_usd),
    }


def aggregate(charges: Charges, params: BybitParameters) -> Float[Array, " *axes"]:
    """Maintenance margin of a unit, USD: the sum of its charges."""
    return sum(charges.values(), jnp.zeros_like(charges["max_loss"]))


def pieces(
    units: Charges,
    borrow_mmr: Float[Array, " *axes"],
    available_usd: Float[Array, " *axes"],
    params: BybitParameters,
) -> dict[str, Pieces]:
    """The requirement of many accounts as a function of the multiplier of every charge.

    Charges add up, so that each has one piece: ``all other charges + theta * charge``.

    Args:
        units: charges of each unit (axes ``unit account``), USD.
        borrow_mmr: borrowing margin of the accounts, USD.
        available_usd: adjusted equity.
        params: the parameter set.
    """
    totals = {name: jnp.sum(units[name], axis=0) for name in CHARGES} | {BORROW: borrow_mmr}
    no_floor = jnp.full_like(borrow_mmr, -jnp.inf)[None]
    found = {}
    for name, value in totals.items():
        others = [other for key, other in totals.items() if key != name]
        rest = sum(others, jnp.zeros_like(value))
        found[name] = Pieces(value[None], rest[None], no_floor, available_usd)
    return found


def grid(
    exposure: Exposure,
    coin: Int[Array, ""],
    coin_usd: Float[Array, " *time"],
    spot_coin: Float[Array, " *time"],
    params: BybitParameters,
) -> Float[Array, " cell *time"]:
    """USD profit of a unit in the 33 cells: perpetuals and futures, options, gains of spot."""
    rows = without_options(exposure, spot_coin * coin_usd, _moves(coin, params))
    cells = jnp.repeat(rows, len(VOL_STATES), axis=0)
    if exposure.scenario_usd is not None:
        cells = cells + exposure.scenario_usd.astype(cells.dtype)
    return cells


MODEL = MarginModel(
    name="bybit",
    charges=CHARGES,
    borrow_charge=BORROW,
    how="The charges of a risk unit add up to its requirement: the worst loss of the stress grid "
    "plus five contingency components.",
    num_columns=NUM_COLUMNS,
    contract_columns=contract_columns,
    signed=SIGNED,
    sized=SIZED,
    bucket=(DELTA, VEGA),
    num_folded=NUM_FOLDED,
    fold=fold_bucket,
    num_scenarios=NUM_SCENARIOS,
    scenarios=(scenario_columns,),
    rates=lambda currency_usd, params: jnp.zeros((1, 1), currency_usd.dtype),
    spot=unit_spot,
    unit_charges=unit_charges,
    aggregate=aggregate,
    pieces=pieces,
    grid=grid,
    grid_moves=lambda params: params.price_moves,
)
