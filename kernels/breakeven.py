"""Break-even multipliers: how far one charge may grow before the account is liquidated.

Scaling charge ``k`` by ``theta`` in every unit turns the requirement into a sum of convex pieces
``max(intercept + slope * theta, floor)``, one a unit. Its last root is found by Newton's method
from the right, which on a convex piecewise-linear function ends exactly after at most one step
per unit. Through time only the lowest multiplier counts: the search begins at the lowest so far,
and a time that does not lower it costs one evaluation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.stages import Apart, together


class Pieces(NamedTuple):
    """The requirement as a function of the multiplier of one charge, and what there is for it.

    Fields:
        slope, intercept, floor: of each unit's piece, USD; slopes are >= 0.
        budget: what the pieces may add up to, USD.

    They may have times as one more axis, the last one.
    """

    slope: Float[Array, " unit *axes"]
    intercept: Float[Array, " unit *axes"]
    floor: Float[Array, " unit *axes"]
    budget: Float[Array, " *axes"]


Multipliers = dict[str, Float[Array, " *axes"]]
"""By charge."""
Search = tuple[Multipliers, Array]
"""Multipliers, and whether the last step moved any."""


def last_roots(
    pieces: dict[str, Pieces], highest: Multipliers, apart: Apart = together
) -> Multipliers:
    """Largest ``theta >= 0`` of each charge that all budgets allow, none above ``highest``.

    0 if there is none, inf if there is no largest. A budget that is unknown (NaN) moves nothing.

    Args:
        pieces: of every charge.
        highest: where the search begins: inf, or the lowest multipliers of earlier times.
        apart: the roots of all times are stored before the lowest is looked for, because loops
            that end in a minimum over times go number by number.
    """

    def newton(state: Search) -> Search:
        theta, _ = state
        roots = apart(_steps, pieces, theta)
        better = {name: jnp.minimum(x, _lowest(roots[name], x)) for name, x in theta.items()}
        moved = [jnp.any(better[name] < theta[name]) for name in pieces]
        return better, jnp.any(jnp.stack(moved))

    return jax.lax.while_loop(lambda state: state[1], newton, (highest, jnp.asarray(True)))[0]


def _steps(pieces: dict[str, Pieces], theta: Multipliers) -> dict[str, Array]:
    """A step of every charge at all times, each beside the multiplier it began at."""
    return {name: _step(of_charge, theta[name]) for name, of_charge in pieces.items()}


def _lowest(roots: Float[Array, " *axes"], theta: Float[Array, " *account"]) -> Array:
    """Of several times the lowest: the first to stop the multiplier from growing."""
    return roots if roots.ndim == theta.ndim else jnp.min(roots, axis=-1)


def _step(pieces: Pieces, theta: Float[Array, " *account"]) -> Float[Array, " *axes"]:
    """One step, only ever to the left: a root does not depend on how long others take."""
    slopes = fixed = jnp.zeros_like(pieces.budget)
    theta = theta.reshape(theta.shape + (1,) * (slopes.ndim - theta.ndim))
    # The largest number stands for inf: a charge of nothing times inf would be unknown.
    now = jnp.minimum(theta, jnp.finfo(theta.dtype).max)
    # Unit by unit, so that every step runs over whole vectors of accounts.
    for slope, intercept, floor in zip(*pieces[:3], strict=True):
        is_active = intercept + slope * now > floor
        slopes = slopes + jnp.where(is_active, slope, 0.0)
        fixed = fixed + jnp.where(is_active, intercept, floor)
    # Where nothing grows, the requirement is too much for every multiplier or for none up to here.
    flat = jnp.where(fixed > pieces.budget, 0.0, jnp.inf)
    root = jnp.where(slopes > 0, (pieces.budget - fixed) / slopes, flat)
    root = jnp.maximum(root, 0.0)
    return jnp.where(root < theta, root, theta)
