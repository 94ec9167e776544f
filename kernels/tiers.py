"""Tier tables: progressive (marginal) charges and whole-amount rates, one lookup each.

All tables of a run lie in one array ``[row, tier]``, padded with infinite bounds to a power of
two, so that a lookup is a short binary search with in-bounds gathers for any number of tiers.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped


class MarginalTiers(eqx.Module):
    """Progressive tiers: tier ``k`` covers amounts from ``floor[k]`` on at ``rate[k]``.

    Fields (one row a currency or group):
        floor: lower bound of each tier, ascending from 0, inf pads.
        rate: rate within the tier.
        base: charge of everything below the tier.
    """

    floor: Float[Array, "row tier"]
    rate: Float[Array, "row tier"]
    base: Float[Array, "row tier"]


class StepTiers(eqx.Module):
    """Whole-amount tiers: the whole amount takes the rates of the tier it falls in.

    Fields (one row a currency):
        floor: amount above which tier ``k`` applies (an exact bound belongs to the lower tier).
        mmr, imr: rates of the tier.
        last: bound of the last listed tier ...
        tail_step: ... beyond which one more tier begins each ``tail_step`` units (0 = none) ...
        tail_rate_step: ... adding this to both rates.
    """

    floor: Float[Array, "row tier"]
    mmr: Float[Array, "row tier"]
    imr: Float[Array, "row tier"]
    last: Float[Array, " row"]
    tail_step: Float[Array, " row"]
    tail_rate_step: Float[Array, " row"]


def of_coin(
    values: Shaped[Array, " currency"], coin: Int[Array, " *axes"]
) -> Shaped[Array, " *axes"]:
    """The number of each coin; currency indexes are valid by batching."""
    return values.at[coin].get(mode="promise_in_bounds")


def _at(table: Float[Array, "row tier"], cell: Int[Array, ""]) -> Float[Array, ""]:
    # Flat gathers that promise to be in bounds: the batching keeps row numbers valid.
    return table.reshape(-1).at[cell].get(mode="promise_in_bounds")


def tier_cell(
    amount: Float[Array, ""], floor: Float[Array, "row tier"], row: Int[Array, ""]
) -> Int[Array, ""]:
    """Flat cell of the last tier of ``row`` whose floor lies strictly below ``amount``."""
    num_tiers = floor.shape[1]

    def halve(k: Int[Array, ""], cell: Int[Array, ""]) -> Int[Array, ""]:
        step = num_tiers >> (k + 1)
        return cell + jnp.where(_at(floor, cell + step) < amount, step, 0)

    # A loop, because an unrolled search is fused into its consumers and done over and over.
    return jax.lax.fori_loop(0, num_tiers.bit_length() - 1, halve, row * num_tiers)


def marginal_charge(
    amount: Float[Array, ""], tiers: MarginalTiers, row: Int[Array, ""]
) -> Float[Array, ""]:
    """Progressive charge of ``amount`` >= 0, in the unit of the amount.

    Example: rates 1, 2 with floors 0, 10: an amount of 15 is charged 10 * 1 + 5 * 2 = 20.
    """
    cell = tier_cell(amount, tiers.floor, row)
    excess = amount - _at(tiers.floor, cell)
    return _at(tiers.base, cell) + _at(tiers.rate, cell) * excess


def step_rates(
    amount: Float[Array, ""], tiers: StepTiers, row: Int[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Maintenance and initial rate (fractions) of the tier that the whole amount falls in."""
    cell = tier_cell(amount, tiers.floor, row)

    def of_row(values: Float[Array, " row"]) -> Float[Array, ""]:
        return values.at[row].get(mode="promise_in_bounds")

    step = of_row(tiers.tail_step)
    beyond = jnp.maximum(amount - of_row(tiers.last), 0.0)
    more = jnp.where(step > 0, jnp.ceil(beyond / jnp.where(step > 0, step, 1.0)), 0.0)
    more = more * of_row(tiers.tail_rate_step)
    return _at(tiers.mmr, cell) + more, _at(tiers.imr, cell) + more
