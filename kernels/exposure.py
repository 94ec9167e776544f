"""From legs to risk units: sparse products of a position with the shared per-contract table.

This is the hot loop: gather a contract's numbers, multiply by the position, add. Legs are unrolled
so that everything fuses; gathers promise to be in bounds, which the batching guarantees and tests.
Scenarios are gathered by rows, the few other numbers one by one: each sum is then a vector over
accounts from the start, and what a model does not ask for is not gathered. A table of several times
gives every number at all of them, one beside the other, so that a position is read once for all.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels.features import CASH, COIN_VALUE, DELTA, GROSS, NUM_FEATURES, VALUE
from kernels.model import MarginModel
from kernels.records import Exposure, Table


Legs = tuple[Int[Array, " leg"], Float[Array, " leg"], Bool[Array, " leg"]]
"""Instrument, contracts, and whether the leg is the last one of its expiry bucket."""
OptionLegs = tuple[
    Int[Array, " option_leg"], Float[Array, " option_leg"], Bool[Array, " option_leg"]
]
"""The same of the expiring legs of a unit that holds options: another width."""
UNROLLED_LEGS = 8
"""Legs unrolled in one block; wider classes loop over blocks (their widths are multiples)."""


def _numbers(
    table: Float[Array, "instrument column *time"], instrument: Int[Array, ""]
) -> tuple[Float[Array, " *time"], ...]:
    num_columns, *times = table.shape[1:]
    flat = table.reshape(-1, *times)
    start = instrument * num_columns
    return tuple(flat.at[start + k].get(mode="promise_in_bounds") for k in range(num_columns))


def scenario_sum(
    scenarios: Float[Array, "instrument column *time"],
    instruments: Int[Array, " leg"],
    contracts: Float[Array, " leg"],
) -> Float[Array, " column *time"]:
    """USD profit of the legs in each scenario column (dtype of the table)."""

    def add(total: Float[Array, " column *time"], leg: Any) -> Any:
        instrument, n = leg
        row = scenarios.at[instrument].get(mode="promise_in_bounds")
        return total + n.astype(scenarios.dtype) * row, None

    start = jnp.zeros(scenarios.shape[1:], scenarios.dtype)
    return _over_legs(add, start, (instruments, contracts))


def _over_legs(add: Callable[[Any, Any], tuple[Any, None]], start: Any, legs: Any) -> Any:
    """Sum over legs, unrolled in blocks (whole up to ``UNROLLED_LEGS``) so that they fuse."""
    return jax.lax.scan(add, start, legs, unroll=UNROLLED_LEGS)[0]


class _Sums(eqx.Module):
    """Running sums over the legs of one unit; the last three as the margin model asks."""

    features: tuple[Float[Array, " *time"], ...]
    gross: Float[Array, " *time"]
    signed: tuple[Float[Array, " *time"], ...]
    sized: tuple[Float[Array, " *time"], ...]
    bucket: tuple[Float[Array, " *time"], ...]
    folded: tuple[Float[Array, " *time"], ...]


def _add_legs(sums: _Sums, table: Table, legs: Legs, model: MarginModel) -> _Sums:
    """Add legs sorted by expiry bucket; a bucket is folded where its last leg stands."""

    def add(s: _Sums, leg: Any) -> tuple[_Sums, None]:
        instrument, n, closes = leg
        size = jnp.abs(n)
        row = _numbers(table.features, instrument)
        columns = _numbers(table.columns, instrument)
        bucket = tuple(x + n * columns[k] for x, k in zip(s.bucket, model.bucket, strict=True))
        folded = model.fold(s.folded, bucket, columns)
        return _Sums(
            features=tuple(x + n * y for x, y in zip(s.features, row, strict=True)),
            gross=s.gross + size * row[GROSS],
            signed=tuple(x + n * columns[k] for x, k in zip(s.signed, model.signed, strict=True)),
            sized=tuple(x + size * columns[k] for x, k in zip(s.sized, model.sized, strict=True)),
            bucket=tuple(jnp.where(closes, 0.0, x) for x in bucket),
            folded=tuple(
                jnp.where(closes, new, old) for new, old in zip(folded, s.folded, strict=True)
            ),
        ), None

    return _over_legs(add, sums, legs)


def unit_exposure(
    table: Table, model: MarginModel, legs: Legs, options: OptionLegs | None = None
) -> Exposure:
    """Exposure of one risk unit from its legs (instrument, contracts, closes bucket).

    Args:
        table: the shared table under one parameter set, at one time or at several.
        model: says which columns are added up, and how.
        legs: legs without optionality.
        options: the expiring legs of a unit that holds options, None for a linear unit.
    """
    zero = jnp.zeros(table.features.shape[2:], table.features.dtype)

    def zeros(count: int) -> tuple[Float[Array, " *time"], ...]:
        return (zero,) * count

    sums = _Sums(
        features=zeros(NUM_FEATURES),
        gross=zero,
        signed=zeros(len(model.signed)),
        sized=zeros(len(model.sized)),
        bucket=zeros(len(model.bucket)),
        folded=zeros(model.num_folded),
    )
    sums = _add_legs(sums, table, legs, model)
    linear_delta = sums.features[DELTA]
    scenario = None
    if options is not None:
        sums = _add_legs(sums, table, options, model)
        scenario = scenario_sum(table.scenarios, options[0], options[1])
    return Exposure(
        quote_value=sums.features[VALUE],
        coin_value=sums.features[COIN_VALUE],
        cash_usd=sums.features[CASH],
        delta_coin=sums.features[DELTA],
        linear_delta_coin=linear_delta,
        gross_usd=sums.gross,
        signed=sums.signed,
        sized=sums.sized,
        folded=sums.folded,
        scenario_usd=scenario,
    )
