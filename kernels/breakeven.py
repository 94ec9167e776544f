"""Break-even multipliers: how far one charge may grow before the account is liquidated.

Scaling charge ``k`` by ``theta`` in every unit turns the requirement into a sum of convex pieces
``max(intercept + slope * theta, floor)``, one a unit. Its last root is found by Newton's method
from the right, which on a convex piecewise-linear function ends exactly after at most one step
per unit. All charges of the units are solved at once (axis ``charge``).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


Steps = tuple[Array | int, Array, Array]
"""Newton steps done, multipliers, whether the last step moved any."""


def last_root(
    slope: Float[Array, "unit charge"],
    intercept: Float[Array, "unit charge"],
    floor: Float[Array, "unit charge"],
    budget: Float[Array, ""],
) -> Float[Array, " charge"]:
    """Largest ``theta >= 0`` with ``sum max(intercept + slope * theta, floor) <= budget``.

    0 if there is none, inf if there is no largest; slopes are >= 0.
    """
    # A piece without slope is a constant.
    floor = jnp.where(slope > 0, floor, jnp.maximum(intercept, floor))
    at_zero = jnp.sum(jnp.maximum(intercept, floor), axis=0)

    def solve(is_active: Array, otherwise: Array | float) -> Array:
        slopes = jnp.sum(jnp.where(is_active, slope, 0.0), axis=0)
        fixed = jnp.sum(jnp.where(is_active, intercept, floor), axis=0)
        return jnp.where(slopes > 0, (budget - fixed) / slopes, otherwise)

    def newton(state: Steps) -> Steps:
        steps, theta, _ = state
        # No active piece: the requirement is flat at this theta, which is the root or beyond it.
        reached = intercept + slope * theta[None, :] > floor
        better = jnp.where(jnp.isinf(theta), theta, solve((slope > 0) & reached, theta))
        return steps + 1, better, jnp.any(better < theta)

    def unfinished(state: Steps) -> Array:
        steps, _, moved = state
        return moved & (steps < slope.shape[0])

    theta = solve(slope > 0, jnp.inf)
    if slope.shape[0] > 1:
        _, theta, _ = jax.lax.while_loop(unfinished, newton, (0, theta, jnp.asarray(True)))
    return jnp.where(at_zero > budget, 0.0, jnp.maximum(theta, 0.0))
