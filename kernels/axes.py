"""Numbers of accounts beside numbers of times: arrays whose axes are told to fit each other.

Values of several accounts and times have the accounts before the times; either axis may be missing.
"""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def alike_over_times(x: Any, values: Any) -> Any:
    """Numbers of accounts, the same at all times, with as many axes as ``values``."""
    return x.reshape(x.shape + (1,) * (values.ndim - x.ndim))


def alike_over_accounts(x: Any, values: Any) -> Any:
    """Numbers of times, the same for all accounts, with as many axes as ``values``."""
    return x.reshape((1,) * (values.ndim - x.ndim) + x.shape) if x.ndim else x


def interpolated(
    x: Float[Array, " *time"],
    nodes: Float[Array, " node *time"],
    values: Float[Array, " node *time"],
) -> Float[Array, " *time"]:
    """``jnp.interp`` at one time or at several, each with its own nodes."""
    at_times = jax.vmap(jnp.interp, in_axes=-1) if jnp.ndim(x) else jnp.interp
    return at_times(x, nodes, values)


def lowest(cells: Float[Array, " cell *axes"]) -> Float[Array, " *axes"]:
    """Lowest along the first axis, NaN if any is.

    Cell by cell, so that whole vectors of accounts or times are compared in one loop with what the
    cells are made of; a reduction would store them first.
    """
    return reduce(jnp.minimum, [cells[k] for k in range(len(cells))])
