"""An OKX parameter set as a kernel record."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from backtest.errors import ConfigError
from backtest.model_records import Currencies
from backtest.tier_records import account_rules, floats, marginal_tiers
from kernels.models import okx, okx_contracts


def okx_parameters(numbers: dict[str, Any], currencies: Currencies) -> okx_contracts.OkxParameters:
    """Kernel record of an OKX parameter set (``ParameterSet.numbers()``).

    Every tier table is padded to one fixed width, so that sets share compiled programs.
    """
    group = _groups(numbers["groups"], currencies)
    return okx_contracts.OkxParameters(
        **_scenario_fields(numbers, group),
        **_rate_fields(numbers, group),
        **_fee_fields(numbers["mr7"], group, currencies),
        **_depeg_fields(numbers["mr9"]),
        worst_of={
            name: jnp.asarray(name in numbers["aggregation"]["worst"]) for name in okx.COMPETING
        },
        account=account_rules(
            numbers,
            currencies,
            imr_factor=numbers["aggregation"]["imr_factor"],
            borrow_tiers=numbers["mr8"]["tiers"],
            borrow_fee_rate=numbers["mr8"]["fee_rate"],
            potential_borrowing=True,
        ),
    )


def _scenario_fields(numbers: dict[str, Any], group: list[str]) -> dict[str, Any]:
    """Price moves and volatility shocks: MR1, MR2, MR6."""
    moves = [_mirrored(numbers["mr1"]["price_moves"][g]) for g in group]
    if len(moves[0]) != okx_contracts.NUM_MOVES:
        raise ConfigError(
            f"mr1.price_moves: {len(moves[0])} prices, this version evaluates "
            f"{okx_contracts.NUM_MOVES} (0 and three moves, up and down)"
        )
    volatility = numbers["mr1"]["volatility"]
    return {
        "price_moves": floats(moves),
        "points_days": _nodes(volatility["points_days"]),
        "points": _nodes(volatility["points"]),
        "percent_days": _nodes(volatility["percent_days"]),
        "percent": _nodes(volatility["percent"]),
        "has_points": jnp.asarray(len(volatility["points"]) > 0),
        "has_percent": jnp.asarray(len(volatility["percent"]) > 0),
        "combine": jnp.asarray(okx_contracts.COMBINE.index(volatility["combine"]), jnp.int32),
        "vol_floor": floats(volatility["floor"]),
        "pnl_in_coin": jnp.asarray(numbers["option_pnl"] == "coin"),
        "theta_days": floats(numbers["mr2"]["days"]),
        "extreme_move": floats([numbers["mr6"]["extreme_move"][g] for g in group]),
        "extreme_factor": floats(numbers["mr6"]["factor"]),
    }


def _rate_fields(numbers: dict[str, Any], group: list[str]) -> dict[str, Any]:
    """Vega, basis and interest rates: MR3, MR4, MR5."""
    vega, basis, rate = numbers["mr3"], numbers["mr4"], numbers["mr5"]
    return {
        "vega_rate": floats(vega["rate"]),
        "vega_reference_days": floats(vega["reference_days"]),
        "vega_min_days": floats(vega["min_days"]),
        "basis_near": floats([basis["near"][g] for g in group]),
        "basis_annual": floats([basis["annual"][g] for g in group]),
        "basis_charges_spot": jnp.asarray(basis["charge_spot"]),
        "basis_charges_perpetuals": jnp.asarray(basis["charge_perpetuals"]),
        "basis_charges_options": jnp.asarray(basis["charge_options"]),
        "rate_parallel": floats(rate["parallel"]),
        "rate_slope": floats(rate["slope"]),
        "rate_slope_span_yr": floats(rate["slope_span_years"]),
    }


def _fee_fields(fee: dict[str, Any], group: list[str], currencies: Currencies) -> dict[str, Any]:
    """Minimum charge: MR7."""
    linear = [
        fee["coin_linear_rate"].get(name, fee["linear_rate"][g])
        for name, g in zip(currencies.names, group, strict=True)
    ]
    tiers = [(fee["tiers"][g]["bounds_usd"], fee["tiers"][g]["multipliers"]) for g in group]
    return {
        "fee_linear": floats(linear),
        "fee_short_option": floats(fee["short_option_rate"]),
        "fee_long_option": floats(fee["long_option_rate"]),
        "fee_tiers": marginal_tiers(tiers, 16),
    }


def _depeg_fields(depeg: dict[str, Any]) -> dict[str, Any]:
    """Stablecoin depeg: MR9."""
    bounds = [0.0, *depeg["bounds_usd"]]
    return {
        "depeg_enabled": jnp.asarray(depeg["enabled"]),
        "depeg_floor_usd": floats(bounds),
        "depeg_width_usd": floats([*np.diff(bounds), np.inf]),
        "depeg_calm_index": floats(depeg["calm_index"]),
        "depeg_calm_rate_step": floats(depeg["calm_rate_step"]),
        "depeg_stress_index": floats(depeg["stress_index"]),
        "depeg_base_index": floats(depeg["base_index"]),
        "depeg_base_rate": floats(depeg["base_rate"]),
        "depeg_offset": floats(depeg["size_offset"]),
        "depeg_max_rate": floats(depeg["max_rate"]),
    }


def _groups(groups: dict[str, list[str]], currencies: Currencies) -> list[str]:
    of_coin = {coin: name for name, coins in groups.items() for coin in coins}
    return [of_coin.get(name, "G3") for name in currencies.names]


def _mirrored(moves: list[float]) -> list[float]:
    return [-x for x in reversed(moves[1:])] + list(moves)


def _nodes(values: list[float], width: int = 8) -> Array:
    # Repeating the last node keeps an interpolation table flat after its end.
    if len(values) > width:
        raise ConfigError(f"mr1.volatility: {len(values)} nodes, at most {width} are supported")
    padded = list(values) or [0.0]
    return floats(padded + [padded[-1]] * (width - len(padded)))
