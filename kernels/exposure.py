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

    def add(k: int, total: Float[Array, " column"]) -> Float[Array, " column"]:
        n = contracts[k].astype(scenarios.dtype)
        return total + n * _row(scenarios, instruments[k])

    return _over_legs(instruments.shape[0], add, jnp.zeros(scenarios.shape[1], scenarios.dtype))


def _over_legs(num_legs: int, add: Callable, sums: Any) -> Any:
    """Apply ``add(k, sums)`` to each leg: unrolled while short, then in unrolled blocks."""
    block = min(num_legs, UNROLLED_LEGS)

    def add_block(b: Any, sums: Any) -> Any:
        for k in range(block):
            sums = add(b * block + k, sums)
        return sums

    if num_legs <= UNROLLED_LEGS:
        return add_block(0, sums)
    return jax.lax.fori_loop(0, num_legs // block, add_block, sums)


class _Sums(eqx.Module):
    """Running sums over the legs of one unit."""

    features: tuple[Float[Array, ""], ...]
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

    def add(k: int, s: _Sums) -> _Sums:
        n, closes = contracts[k], closes_bucket[k]
        size = jnp.abs(n)
        row = _row(table.features, instruments[k])
        charges = _row(table.charges, instruments[k])
        delta = s.bucket_delta + n * charges[BASIS_USD]
        vega = s.bucket_vega + n * charges[VEGA_USD]
        return _Sums(
            features=tuple(f + n * row[j] for j, f in enumerate(s.features)),
            gross=s.gross + size * row[GROSS],
            fee=s.fee + size * charges[FEE_EVEN_USD] + n * charges[FEE_ODD_USD],
            basis=s.basis + jnp.where(closes, jnp.abs(delta) * charges[MOVE], 0.0),
            vega_net=s.vega_net + n * charges[VEGA_USD],
            vega_gross=s.vega_gross + jnp.where(closes, jnp.abs(vega), 0.0),
            bucket_delta=jnp.where(closes, 0.0, delta),
            bucket_vega=jnp.where(closes, 0.0, vega),
        )

    return _over_legs(instruments.shape[0], add, sums)


def unit_exposure(
    table: Table,
    legs: tuple[Int[Array, " leg"], Float[Array, " leg"], Bool[Array, " leg"]],
    options: tuple[Int[Array, " leg"], Float[Array, " leg"], Bool[Array, " leg"]] | None = None,
) -> Exposure:
    """Exposure of one risk unit from its legs (instrument, contracts, closes bucket).

    Args:
        table: the shared table at one time under one parameter set.
        legs: legs without optionality.
        options: the expiring legs of a unit that holds options, None for a linear unit.
    """
    zero = jnp.zeros((), table.features.dtype)
    sums = _Sums((zero,) * NUM_FEATURES, *([zero] * 7))
    sums = _add_legs(sums, table, *legs)
    linear_delta = sums.features[DELTA]
    scenario = None
    if options is not None:
        sums = _add_legs(sums, table, *options)
        scenario = scenario_sum(table.scenarios, options[0], options[1])
    return Exposure(
        quote_value=sums.features[VALUE],
        coin_value=sums.features[COIN_VALUE],
        cash_usd=sums.features[CASH],
        delta_coin=sums.features[DELTA],
        linear_delta_coin=linear_delta,
        gross_usd=sums.gross,
        fee_usd=sums.fee,
        basis_charge_usd=sums.basis,
        vega_gross_usd=sums.vega_gross,
        vega_net_usd=sums.vega_net,
        scenario_usd=scenario,
    )
