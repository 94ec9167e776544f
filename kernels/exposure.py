"""From legs to risk units: sparse products of a position with the shared per-contract table.

This is the hot loop: gather a contract's row, multiply by the position, add. Legs are unrolled so
that everything fuses; gathers promise to be in bounds, which the batching guarantees and tests.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels.features import CASH, COIN_VALUE, DELTA, GROSS, NUM_FEATURES, VALUE
from kernels.models.okx import BASIS_USD, FEE_EVEN_USD, FEE_ODD_USD, MOVE, VEGA_USD
from kernels.records import Exposure, Table


UNROLLED_LEGS = 8
"""Legs unrolled in one block; wider classes loop over blocks (their widths are multiples)."""


def _row(table: Float[Array, "instrument column"], instrument: Int[Array, ""]):
    return table.at[instrument].get(mode="promise_in_bounds")


def scenario_sum(
    scenarios: Float[Array, "instrument column"],
    instruments: Int[Array, " leg"],
    contracts: Float[Array, " leg"],
) -> Float[Array, " column"]:
    """USD profit of the legs in each scenario column (dtype of the table)."""

    def add(total: Float[Array, " column"], leg: Any) -> tuple[Float[Array, " column"], None]:
        instrument, n = leg
        return total + n.astype(scenarios.dtype) * _row(scenarios, instrument), None

    start = jnp.zeros(scenarios.shape[1], scenarios.dtype)
    return _over_legs(add, start, (instruments, contracts))


def _over_legs(add: Callable[[Any, Any], tuple[Any, None]], start: Any, legs: Any) -> Any:
    """Sum over legs, unrolled in blocks (whole up to ``UNROLLED_LEGS``) so that they fuse."""
    return jax.lax.scan(add, start, legs, unroll=UNROLLED_LEGS)[0]


class _Sums(eqx.Module):
    """Running sums over the legs of one unit."""

    features: Float[Array, " feature"]
    gross: Float[Array, ""]
    fee: Float[Array, ""]
    basis: Float[Array, ""]
    vega_net: Float[Array, ""]
    vega_gross: Float[Array, ""]
    bucket_delta: Float[Array, ""]
    bucket_vega: Float[Array, ""]


def _add_legs(
    sums: _Sums,
    table: Table,
    instruments: Int[Array, " leg"],
    contracts: Float[Array, " leg"],
    closes_bucket: Bool[Array, " leg"],
) -> _Sums:
    """Add legs sorted by expiry bucket; a bucket is charged where its last leg stands."""

    def add(s: _Sums, leg: Any) -> tuple[_Sums, None]:
        instrument, n, closes = leg
        size = jnp.abs(n)
        row = _row(table.features, instrument)
        charges = _row(table.charges, instrument)
        delta = s.bucket_delta + n * charges[BASIS_USD]
        vega = s.bucket_vega + n * charges[VEGA_USD]
        return _Sums(
            features=s.features + n * row,
            gross=s.gross + size * row[GROSS],
            fee=s.fee + size * charges[FEE_EVEN_USD] + n * charges[FEE_ODD_USD],
            basis=s.basis + jnp.where(closes, jnp.abs(delta) * charges[MOVE], 0.0),
            vega_net=s.vega_net + n * charges[VEGA_USD],
            vega_gross=s.vega_gross + jnp.where(closes, jnp.abs(vega), 0.0),
            bucket_delta=jnp.where(closes, 0.0, delta),
            bucket_vega=jnp.where(closes, 0.0, vega),
        ), None

    return _over_legs(add, sums, (instruments, contracts, closes_bucket))


def unit_exposure(
    table: Table,
    legs: tuple[Int[Array, " leg"], Float[Array, " leg"], Bool[Array, " leg"]],
    options: tuple[
        Int[Array, " option_leg"], Float[Array, " option_leg"], Bool[Array, " option_leg"]
    ]
    | None = None,
) -> Exposure:
    """Exposure of one risk unit from its legs (instrument, contracts, closes bucket).

    Args:
        table: the shared table at one time under one parameter set.
        legs: legs without optionality.
        options: the expiring legs of a unit that holds options, None for a linear unit.
    """
    zero = jnp.zeros((), table.features.dtype)
    sums = _Sums(jnp.zeros(NUM_FEATURES, zero.dtype), *([zero] * 7))
    sums = _add_legs(sums, table, *legs)
    linear_delta = sums.features[DELTA]
    scenario = None
    if options is not None:
        sums = _add_legs(sums, table, *options)
        scenario = scenario_sum(table.scenarios, options[0], options[1])
    return Exposure(
        quote_value=tuple(sums.features[VALUE]),
        coin_value=sums.features[COIN_VALUE],
        cash_usd=tuple(sums.features[CASH]),
        delta_coin=sums.features[DELTA],
        linear_delta_coin=linear_delta,
        gross_usd=sums.gross,
        fee_usd=sums.fee,
        basis_charge_usd=sums.basis,
        vega_gross_usd=sums.vega_gross,
        vega_net_usd=sums.vega_net,
        scenario_usd=scenario,
    )
