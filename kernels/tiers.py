"""Tier tables: progressive (marginal) charges and whole-amount rates, one lookup each.

All tables of a run lie in one array ``[row, tier]``, padded with infinite bounds to a power of
two, so that a lookup is a short binary search with in-bounds gathers for any number of tiers.
Amounts over time are looked up together: one search finds the tier of the smallest, from which on
tiers are gone through up to that of the largest.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


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
    values: Shaped[Array, " currency *time"], coin: Int[Array, " *axes"]
) -> Shaped[Array, "..."]:
    """The number of each coin, at one time or at several; indexes are valid by batching."""
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


def _in_tier(
    amount: Float[Array, " *time"],
    floor: Float[Array, "row tier"],
    row: Int[Array, ""],
    of_cell: Callable[[Int[Array, ""]], Any],
) -> Any:
    """What ``of_cell`` gives for the tier that each amount falls in.

    Args:
        amount: one, or several along time; NaN falls in the first tier.
        floor: of all tables.
        row: the table.
        of_cell: ``flat cell`` -> numbers, each of one amount or of all.
    """
    if not amount.ndim:
        return of_cell(tier_cell(amount, floor, row))
    known = ~jnp.isnan(amount)
    lowest = tier_cell(jnp.min(amount, where=known, initial=jnp.inf), floor, row)
    lowest = jnp.where(jnp.any(known), lowest, row * floor.shape[1])
    largest = jnp.max(amount, where=known, initial=-jnp.inf)
    last = (row + 1) * floor.shape[1] - 1

    def is_left(state: tuple[Int[Array, ""], Any]) -> Bool[Array, ""]:
        cell = state[0]
        return (cell < last) & (_at(floor, jnp.minimum(cell + 1, last)) < largest)

    def next_tier(state: tuple[Int[Array, ""], Any]) -> tuple[Int[Array, ""], Any]:
        cell, found = state
        cell = jnp.where(is_left(state), cell + 1, cell)
        is_above = _at(floor, cell) < amount
        return cell, jax.tree.map(lambda x, old: jnp.where(is_above, x, old), of_cell(cell), found)

    found = jax.tree.map(lambda x: jnp.broadcast_to(x, amount.shape), of_cell(lowest))
    return jax.lax.while_loop(is_left, next_tier, (lowest, found))[1]


def marginal_charge(
    amount: Float[Array, " *time"], tiers: MarginalTiers, row: Int[Array, ""]
) -> Float[Array, " *time"]:
    """Progressive charge of ``amount`` >= 0, in the unit of the amount.

    Example: rates 1, 2 with floors 0, 10: an amount of 15 is charged 10 * 1 + 5 * 2 = 20.
    """

    def charge(cell: Int[Array, ""]) -> Float[Array, " *time"]:
        return _at(tiers.base, cell) + _at(tiers.rate, cell) * (amount - _at(tiers.floor, cell))

    return _in_tier(amount, tiers.floor, row, charge)


def step_rates(
    amount: Float[Array, " *time"], tiers: StepTiers, row: Int[Array, ""]
) -> tuple[Float[Array, " *time"], Float[Array, " *time"]]:
    """Maintenance and initial rate (fractions) of the tier that the whole amount falls in."""

    def rates(cell: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        return _at(tiers.mmr, cell), _at(tiers.imr, cell)

    mmr, imr = _in_tier(amount, tiers.floor, row, rates)

    step = of_coin(tiers.tail_step, row)
    beyond = jnp.maximum(amount - of_coin(tiers.last, row), 0.0)
    more = jnp.where(step > 0, jnp.ceil(beyond / jnp.where(step > 0, step, 1.0)), 0.0)
    more = more * of_coin(tiers.tail_rate_step, row)
    return mmr + more, imr + more
