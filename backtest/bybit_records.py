"""A Bybit parameter set as a kernel record."""

from typing import Any

import jax.numpy as jnp

from backtest.errors import ConfigError
from backtest.model_records import Currencies
from backtest.tier_records import account_rules, floats, marginal_tiers
from kernels.models import bybit, bybit_contracts


def bybit_parameters(numbers: dict[str, Any], currencies: Currencies) -> bybit.BybitParameters:
    """Kernel record of a Bybit parameter set (``ParameterSet.numbers()``).

    Debts pay no fee in this model, and what open orders may borrow counts as a debt.
    """
    hedge = numbers["spot_hedge"]
    hedging = [hedge["enabled"] and name in hedge["coins"] for name in currencies.names]
    return bybit.BybitParameters(
        **_grid_fields(numbers["grid"], currencies),
        **_contingency_fields(numbers, currencies),
        pnl_in_coin=jnp.asarray(numbers["option_pnl"] == "coin"),
        hedges=jnp.asarray(hedging),
        account=account_rules(
            numbers,
            currencies,
            imr_factor=numbers["aggregation"]["imr_factor"],
            borrow_tiers=numbers["borrowing"]["tiers"],
            borrow_fee_rate=0.0,
            potential_borrowing=True,
        ),
    )


def _grid_fields(grid: dict[str, Any], currencies: Currencies) -> dict[str, Any]:
    """Price moves and volatility shocks of the stress grid."""
    steps = grid["price_steps"]
    if len(steps) != bybit.NUM_PRICES:
        raise ConfigError(
            f"grid.price_steps: {len(steps)} prices, this version evaluates {bybit.NUM_PRICES}"
        )
    ranges = _by_currency(grid["price_range"], currencies)
    volatility, near_expiry = grid["volatility"], grid["near_expiry"]
    return {
        "price_moves": floats([[size * step for step in steps] for size in ranges]),
        "whole_seconds": jnp.asarray(grid["whole_seconds"]),
        "vol_up": floats(volatility["up"]),
        "vol_down": floats(volatility["down"]),
        "vol_reference_days": floats(volatility["reference_days"]),
        "vol_exponent": floats(volatility["exponent"]),
        "vol_min_days": floats(volatility["min_days"]),
        "expiry_window_s": floats(near_expiry["window"] * bybit_contracts.SECONDS_PER_DAY),
        "expiry_scales_vol": jnp.asarray(near_expiry["scale_volatility"]),
    }


def _contingency_fields(numbers: dict[str, Any], currencies: Currencies) -> dict[str, Any]:
    """Rates of the five components that are added to the worst loss."""
    rates = numbers["contingency"]
    basis, sizes, collateral = (
        rates["spot_basis"],
        rates["perpetual_futures"],
        numbers["collateral"],
    )
    ratios = [collateral.get(n, collateral["default"])["rates"][0] for n in currencies.names]
    tiers = [(sizes["bounds_usd"], sizes["rates"])] * len(currencies.names)
    return {
        "short_option_rate": floats(rates["short_option_rate"]),
        "vega_spread_rate": floats(rates["vega_spread_rate"]),
        "stablecoin_spread_rate": floats(rates["stablecoin_spread_rate"]),
        "calendar_rate": floats(rates["calendar_rate"]),
        "basis_factor": floats(_by_currency(basis["factor"], currencies)),
        "basis_threshold": floats(basis["threshold"]),
        "basis_is_gate": jnp.asarray(basis["threshold_rule"] == "gate"),
        "basis_cap": floats([basis["cap_share"] * ratio for ratio in ratios]),
        "size_tiers": marginal_tiers(tiers, 16),
    }


def _by_currency(table: dict[str, float], currencies: Currencies) -> list[float]:
    return [table.get(name, table["default"]) for name in currencies.names]
