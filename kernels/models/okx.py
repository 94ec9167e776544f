"""OKX portfolio margin: MR1 ... MR9 of one risk unit.

Numbers come from :class:`OkxParameters` alone; ``MODEL`` at the end declares the model. What a
contract brings into its unit is in ``okx_contracts``.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.axes import alike_over_accounts, lowest
from kernels.breakeven import Pieces
from kernels.model import MarginModel
from kernels.models.okx_contracts import (
    BASIS_USD,
    FEE_EVEN_USD,
    FEE_ODD_USD,
    MOVE,
    MR1_CELLS,
    MR2_CELL,
    MR5_CELLS,
    MR6_CELLS,
    NUM_COLUMNS,
    NUM_MOVES,
    NUM_SCENARIOS,
    VEGA_USD,
    OkxParameters,
    contract_columns,
    linear_columns,
    mr1_scenarios,
    mr2_scenarios,
    mr5_scenarios,
    mr6_scenarios,
)
from kernels.records import Charges, Exposure
from kernels.tiers import marginal_charge, of_coin


CHARGES = {
    "mr1": "MR1 spot shock",
    "mr2": "MR2 theta",
    "mr3": "MR3 vega term structure",
    "mr4": "MR4 basis",
    "mr5": "MR5 interest rate",
    "mr6": "MR6 extreme move",
    "mr7": "MR7 minimum charge",
    "mr8": "MR8 borrowing",
    "mr9": "MR9 stablecoin depeg",
}
COMPETING = ("mr1", "mr2", "mr6")
"""Charges that may compete for the worst one; a parameter set chooses among them."""
ADDED = ("mr3", "mr4", "mr5", "mr9")


def depeg_rates(
    currency_usd: Float[Array, " currency"], params: OkxParameters
) -> Float[Array, "pair tier"]:
    """Rate of each size tier for the pairs USDT-USD, USDT-USDC, USDC-USD (MR9).

    An index above 1 counts by its inverse. Calm rates from ``calm_index`` up, stressed ones from
    ``stress_index`` down, linear between, never above ``max_rate``. NaN if a currency is unpriced.
    """
    usdt, usdc, usd = currency_usd[0], currency_usd[1], currency_usd[2]
    ratio = jnp.stack([usdt / usd, usdt / usdc, usdc / usd])
    index = jnp.minimum(ratio, 1 / ratio)[:, None]
    tier = jnp.arange(1, params.depeg_offset.shape[0] + 1).astype(index.dtype)
    calm = params.depeg_calm_rate_step * tier[None, :]

    def stressed(i: Array) -> Array:
        return jnp.interp(i, params.depeg_base_index, params.depeg_base_rate) + params.depeg_offset

    at_index = jax.vmap(lambda i: stressed(i[0]))(index)
    at_stress = stressed(params.depeg_stress_index)[None, :]
    span = params.depeg_calm_index - params.depeg_stress_index
    weight = (index - params.depeg_stress_index) / span
    between = at_stress + weight * (calm - at_stress)
    rate = jnp.where(index <= params.depeg_stress_index, at_index, between)
    rate = jnp.where(index >= params.depeg_calm_index, calm, rate)
    return jnp.minimum(rate, params.depeg_max_rate)


def mr1(cells_usd: Float[Array, " scenario *time"]) -> Float[Array, " *time"]:
    """Spot x volatility shock: worst loss over 7 moves x 3 volatilities, >= 0. Source: S."""
    return jnp.maximum(0.0, -lowest(cells_usd[MR1_CELLS]))


def mr2(cells_usd: Float[Array, " scenario *time"]) -> Float[Array, " *time"]:
    """Theta: value lost by one day passing, options only, >= 0. Source: S, floor assumed."""
    return jnp.maximum(0.0, -cells_usd[MR2_CELL])


def mr3(exposure: Exposure, params: OkxParameters) -> Float[Array, " *time"]:
    """Vega term structure: rate on the weighted vega hedged across expiries. Formula assumed."""
    vega_gross_usd, vega_net_usd = exposure.folded[1], exposure.signed[1]
    hedged = 0.5 * (vega_gross_usd - jnp.abs(vega_net_usd))
    return params.vega_rate * jnp.maximum(hedged, 0.0)


def mr4(
    exposure: Exposure,
    spot_usd: Float[Array, " *time"],
    coin: Int[Array, ""],
    params: OkxParameters,
) -> Float[Array, " *time"]:
    """Basis: sum over buckets of |cash delta| * move; spot in use is a bucket. Source: P, D."""
    near = jnp.where(params.basis_charges_spot, of_coin(params.basis_near, coin), 0.0)
    basis_charge_usd = exposure.folded[0]
    return basis_charge_usd + jnp.abs(spot_usd) * near


def mr5(cells_usd: Float[Array, " scenario *time"]) -> Float[Array, " *time"]:
    """Interest rate: worst of parallel and slope moves of the forward curve, >= 0. Assumed."""
    return jnp.maximum(0.0, -lowest(cells_usd[MR5_CELLS]))


def mr6(
    cells_usd: Float[Array, " scenario *time"], params: OkxParameters
) -> Float[Array, " *time"]:
    """Extreme move: half of the worst loss under the two extreme moves, >= 0. Source: D."""
    return params.extreme_factor * jnp.maximum(0.0, -lowest(cells_usd[MR6_CELLS]))


def mr7(exposure: Exposure, coin: Int[Array, ""], params: OkxParameters) -> Float[Array, " *time"]:
    """Minimum charge: fee size, progressively multiplied by size tiers. Source: P."""
    fee_usd = exposure.sized[0] + exposure.signed[0]
    return marginal_charge(fee_usd, params.fee_tiers, coin)


def mr9(
    cash_usd: tuple[Float[Array, " *time"], ...],
    rates: Float[Array, "pair tier *time"],
    params: OkxParameters,
) -> Float[Array, " *time"]:
    """Stablecoin depeg: progressive charge on deltas that offset across settlement groups.

    Pairs in the order USDT-USD, USDT-USDC, USDC-USD; what one pair hedges is gone for the next.
    Source: P.
    """
    usdt, usdc, usd = cash_usd
    first, usdt, usd = _offset(usdt, usd)
    second, usdt, usdc = _offset(usdt, usdc)
    third, usdc, usd = _offset(usdc, usd)
    total = jnp.zeros_like(first)
    for pair, hedged in enumerate((first, second, third)):
        charge = jnp.zeros_like(hedged)
        # Tier by tier over whole vectors of accounts: a stack of pairs would be much slower.
        for tier in range(rates.shape[1]):
            width = params.depeg_width_usd[tier]
            filled = jnp.clip(hedged - params.depeg_floor_usd[tier], 0.0, width)
            charge = charge + filled * rates[pair, tier]
        # An unpriced index must not poison accounts that hedge nothing across that pair.
        total = total + jnp.where(hedged > 0, charge, 0.0)
    return jnp.where(params.depeg_enabled, total, 0.0)


def _offset(a: Float[Array, " *time"], b: Float[Array, " *time"]):
    hedged = jnp.where(a * b < 0, jnp.minimum(jnp.abs(a), jnp.abs(b)), 0.0)
    return hedged, a - jnp.sign(a) * hedged, b - jnp.sign(b) * hedged


def scenario_pnl(
    exposure: Exposure,
    coin: Int[Array, ""],
    coin_usd: Float[Array, " *time"],
    spot_coin: Float[Array, " *time"],
    params: OkxParameters,
) -> Float[Array, " scenario *time"]:
    """USD profit of a whole unit in each column: expiring legs, linear legs, spot in use."""
    linear_usd = (exposure.linear_delta_coin + spot_coin) * coin_usd
    cells = linear_usd[None] * linear_columns(coin, params)
    if exposure.scenario_usd is not None:
        cells = cells + exposure.scenario_usd.astype(cells.dtype)
    return cells


def worst_charge(
    charges: Charges, params: OkxParameters, without: str | None = None
) -> Float[Array, "..."]:
    """Largest of the charges that compete (MR1, MR2, MR6 as published), optionally less one."""
    worst = jnp.zeros_like(charges["mr1"])
    for name in COMPETING:
        if name != without:
            worst = jnp.maximum(worst, competing(charges[name], name, params))
    return worst


def competing(
    charge_usd: Float[Array, "..."], name: str, params: OkxParameters
) -> Float[Array, "..."]:
    """A charge if the set lets it compete for the worst one, else 0."""
    return jnp.where(alike_over_accounts(params.worst_of[name], charge_usd), charge_usd, 0.0)


def added_charges(charges: Charges) -> Float[Array, "..."]:
    """The charges that are added to the worst one."""
    return charges["mr3"] + charges["mr4"] + charges["mr5"] + charges["mr9"]


def aggregate(charges: Charges, params: OkxParameters) -> Float[Array, " *axes"]:
    """MMR of a unit: ``max(max(MR1, MR2, MR6) + MR3 + MR4 + MR5 + MR9, MR7)``. Source: S, D."""
    return jnp.maximum(worst_charge(charges, params) + added_charges(charges), charges["mr7"])


def unit_charges(
    exposure: Exposure,
    coin: Int[Array, ""],
    coin_usd: Float[Array, " *time"],
    spot_coin: Float[Array, " *time"],
    rates: Float[Array, "pair tier *time"],
    params: OkxParameters,
) -> Charges:
    """All charges of one risk unit, USD.

    Args:
        exposure: the unit's derivatives.
        coin: currency index of the unit.
        coin_usd: index price, NaN = unpriced.
        spot_coin: signed spot in use.
        rates: MR9 rates of this time.
        params: the parameter set.
    """
    if exposure.scenario_usd is None:
        # Linear unit: the worst price move is the largest one against the delta.
        linear_usd = jnp.abs((exposure.linear_delta_coin + spot_coin) * coin_usd)
        m2 = m5 = jnp.zeros_like(linear_usd)
        m1 = linear_usd * of_coin(params.price_moves[:, NUM_MOVES - 1], coin)
        m6 = params.extreme_factor * linear_usd * of_coin(params.extreme_move, coin)
    else:
        cells = scenario_pnl(exposure, coin, coin_usd, spot_coin, params)
        m1, m2, m5, m6 = mr1(cells), mr2(cells), mr5(cells), mr6(cells, params)
    zero = jnp.zeros_like(m1)
    return {
        "mr1": m1,
        "mr2": m2,
        "mr3": mr3(exposure, params),
        "mr4": mr4(exposure, spot_coin * coin_usd, coin, params),
        "mr5": m5,
        "mr6": m6,
        "mr7": mr7(exposure, coin, params),
        "mr8": zero,
        "mr9": mr9(exposure.cash_usd, rates, params),
    }


def spot_in_use(
    equity_coin: Float[Array, " *time"],
    delta_coin: Float[Array, " *time"],
    limit_coin: Float[Array, " *time"],
) -> Float[Array, " *time"]:
    """Signed spot (or debt) of the coin that offsets the unit's derivatives, in coins.

    Held coins against a short delta, borrowed coins against a long one, up to the user's limit.

    Example: 10 coins of equity against a delta of -4 put 4 coins in use.
    """
    size = jnp.minimum(jnp.minimum(jnp.abs(equity_coin), jnp.abs(delta_coin)), limit_coin)
    opposed = equity_coin * delta_coin < 0
    return jnp.where(opposed, jnp.sign(equity_coin) * size, 0.0)


def unit_spot(
    equity_coin: Float[Array, " *time"],
    exposure: Exposure,
    limit_coin: Float[Array, " *time"],
    coin: Int[Array, ""],
    params: OkxParameters,
) -> Float[Array, " *time"]:
    """Spot in use of a unit; any coin may be, option deltas count premium adjusted."""
    return spot_in_use(equity_coin, exposure.delta_coin, limit_coin)


def fold_bucket(
    folded: tuple[Array, ...], bucket: tuple[Array, ...], columns: tuple[Array, ...]
) -> tuple[Array, ...]:
    """An expiry bucket is charged for its net delta (MR4) and counts its net vega (MR3)."""
    (basis, vega_gross), (delta, vega) = folded, bucket
    return basis + jnp.abs(delta) * columns[MOVE], vega_gross + jnp.abs(vega)


def pieces(
    units: Charges,
    borrow_mmr: Float[Array, " *axes"],
    available_usd: Float[Array, " *axes"],
    params: OkxParameters,
) -> dict[str, Pieces]:
    """The requirement of many accounts as a function of the multiplier of MR1 ... MR9.

    Args:
        units: MR1 ... MR9 of each unit (axes ``unit account``), USD.
        borrow_mmr: MR8 of the accounts, USD.
        available_usd: adjusted equity less the borrowing fee.
        params: says which charges compete for the worst one.

    References:
        OKX portfolio margin rules, section 7; closed forms for one unit in the backtesting notes.
    """
    worst, added, fee = worst_charge(units, params), added_charges(units), units["mr7"]
    zero = jnp.zeros_like(worst)
    budget = available_usd - borrow_mmr
    found = {}
    for name, charge in units.items():
        if name == "mr7":
            found[name] = Pieces(charge, zero, worst + added, budget)
        elif name in ADDED:
            found[name] = Pieces(charge, worst + added - charge, fee, budget)
        elif name in COMPETING:
            others = worst_charge(units, params, without=name)
            found[name] = Pieces(
                competing(charge, name, params), added, jnp.maximum(others + added, fee), budget
            )
    derivatives_mmr = jnp.sum(jnp.maximum(worst + added, fee), axis=0)
    of_debt = borrow_mmr[None], derivatives_mmr[None], jnp.full_like(borrow_mmr, -jnp.inf)[None]
    return found | {"mr8": Pieces(*of_debt, available_usd)}


def grid(
    exposure: Exposure,
    coin: Int[Array, ""],
    coin_usd: Float[Array, " *time"],
    spot_coin: Float[Array, " *time"],
    params: OkxParameters,
) -> Float[Array, " cell *time"]:
    """USD profit of a unit in the 21 cells of MR1."""
    return scenario_pnl(exposure, coin, coin_usd, spot_coin, params)[MR1_CELLS]


MODEL = MarginModel(
    name="okx",
    charges=CHARGES,
    borrow_charge="mr8",
    how="In each risk unit only the largest of MR1, MR2 and MR6 counts and MR7 is a floor, so the "
    "charges of a unit need not add up to its requirement.",
    num_columns=NUM_COLUMNS,
    contract_columns=contract_columns,
    signed=(FEE_ODD_USD, VEGA_USD),
    sized=(FEE_EVEN_USD,),
    bucket=(BASIS_USD, VEGA_USD),
    num_folded=2,
    fold=fold_bucket,
    num_scenarios=NUM_SCENARIOS,
    scenarios=(mr1_scenarios, mr6_scenarios, mr5_scenarios, mr2_scenarios),
    rates=depeg_rates,
    spot=unit_spot,
    unit_charges=unit_charges,
    aggregate=aggregate,
    pieces=pieces,
    grid=grid,
    grid_moves=lambda params: params.price_moves,
)
