"""Break-even multipliers: how far one charge may grow before the account is liquidated.

Scaling charge ``k`` by ``theta`` in every unit turns the requirement into a sum of convex pieces
``max(intercept + slope * theta, floor)``, one a unit. Its last root is found by Newton's method
from the right, which on a convex piecewise-linear function ends exactly after at most one step
per unit. All charges of all accounts are solved at once: axes ``unit charge account``, units
added one by one so that every step runs over whole vectors of accounts.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


Steps = tuple[Array | int, Array, Array]
"""Newton steps done, multipliers, whether the last step moved any."""


def last_root(
    slope: Float[Array, " unit *axes"],
    intercept: Float[Array, " unit *axes"],
    floor: Float[Array, " unit *axes"],
    budget: Float[Array, " *#axes"],
) -> Float[Array, " *axes"]:
    """Largest ``theta >= 0`` with ``sum max(intercept + slope * theta, floor) <= budget``.

    0 if there is none, inf if there is no largest; slopes are >= 0.
    """
    # A piece without slope is a constant.
    floor = jnp.where(slope > 0, floor, jnp.maximum(intercept, floor))
    num_units = slope.shape[0]

    def total(values: Array) -> Array:
        return sum((values[u] for u in range(1, num_units)), start=values[0])

    def solve(is_active: Array, otherwise: Array | float) -> Array:
        slopes = total(jnp.where(is_active, slope, 0.0))
        fixed = total(jnp.where(is_active, intercept, floor))
        return jnp.where(slopes > 0, (budget - fixed) / slopes, otherwise)

    def newton(state: Steps) -> Steps:
        steps, theta, _ = state
        # No active piece: the requirement is flat at this theta, which is the root or beyond it.
        reached = intercept + slope * theta[None] > floor
        better = solve((slope > 0) & reached, theta)
        # Only ever to the left, so that a root does not depend on how long others take.
        better = jnp.where(better < theta, better, theta)
        return steps + 1, better, jnp.any(better < theta)

    def unfinished(state: Steps) -> Array:
        steps, _, moved = state
        return moved & (steps < num_units)

    at_zero = total(jnp.maximum(intercept, floor))
    theta = solve(slope > 0, jnp.inf)
    if num_units > 1:
        _, theta, _ = jax.lax.while_loop(unfinished, newton, (0, theta, jnp.asarray(True)))
    return jnp.where(at_zero > budget, 0.0, jnp.maximum(theta, 0.0))
