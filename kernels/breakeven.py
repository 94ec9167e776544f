"""Break-even multipliers: how far one charge may grow before the account is liquidated.

Scaling charge ``k`` by ``theta`` in every unit turns the requirement into a sum of convex pieces
``max(intercept + slope * theta, floor)``, one a unit. Its last root is found by Newton's method
from the right, which on a convex piecewise-linear function ends exactly after at most one step
per unit. All units of an account are given as lists, so that every number stays a scalar.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.models.okx import OkxParameters, added_charges, worst_charge
from kernels.records import Charges


UNROLLED_UNITS = 4
"""Up to here Newton steps are unrolled, beyond they loop (short programs compile faster)."""

Piece = tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]
"""Slope (>= 0), intercept and floor of one unit's requirement."""


def last_root(pieces: list[Piece], budget: Float[Array, ""]) -> Float[Array, ""]:
    """Largest ``theta >= 0`` with ``sum max(intercept + slope * theta, floor) <= budget``.

    0 if there is none, inf if there is no largest.
    """
    # A piece without slope is a constant.
    pieces = [
        (slope, intercept, jnp.where(slope > 0, floor, jnp.maximum(intercept, floor)))
        for slope, intercept, floor in pieces
    ]
    zero = jnp.zeros_like(budget)

    def newton(theta: Float[Array, ""] | None) -> Float[Array, ""]:
        slopes, fixed = zero, zero
        for slope, intercept, floor in pieces:
            active = slope > 0
            if theta is not None:
                active &= intercept + slope * theta > floor
            slopes = slopes + jnp.where(active, slope, 0.0)
            fixed = fixed + jnp.where(active, intercept, floor)
        if theta is None:
            return jnp.where(slopes > 0, (budget - fixed) / slopes, jnp.inf)
        # No active piece: the requirement is flat at this theta, which is the root or beyond it.
        return jnp.where(slopes > 0, (budget - fixed) / slopes, theta)

    def step(_: int, theta: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.where(jnp.isinf(theta), theta, newton(theta))

    theta = newton(None)
    if len(pieces) > UNROLLED_UNITS:
        theta = jax.lax.fori_loop(0, len(pieces), step, theta)
    elif len(pieces) > 1:
        for k in range(len(pieces)):
            theta = step(k, theta)
    at_zero = sum((jnp.maximum(i, f) for _, i, f in pieces), start=zero)
    return jnp.where(at_zero > budget, 0.0, jnp.maximum(theta, 0.0))


def multipliers(
    units: list[Charges],
    borrow_mmr: Float[Array, ""],
    available_usd: Float[Array, ""],
    params: OkxParameters,
) -> Charges:
    """Break-even multiplier of MR1 ... MR9 for one account.

    Args:
        units: MR1 ... MR9 of each unit, USD.
        borrow_mmr: MR8 of the account, USD.
        available_usd: adjusted equity less the borrowing fee.
        params: says which charges compete for the worst one.

    References:
        OKX portfolio margin rules, section 7; closed forms for one unit in the backtesting notes.
    """
    budget = available_usd - borrow_mmr
    names = list(Charges.__dataclass_fields__)
    thetas = {}
    for k, name in enumerate(names):
        if name == "mr8":
            fixed = sum((_mmr(u, params) for u in units), start=jnp.zeros_like(borrow_mmr))
            thetas[name] = last_root([(borrow_mmr, fixed, -jnp.inf * jnp.ones_like(fixed))], available_usd)
        else:
            thetas[name] = last_root([_piece(k, name, u, params) for u in units], budget)
    return Charges(**thetas)


def _mmr(unit: Charges, params: OkxParameters) -> Float[Array, ""]:
    return jnp.maximum(worst_charge(unit, params) + added_charges(unit), unit.mr7)


def _piece(k: int, name: str, unit: Charges, params: OkxParameters) -> Piece:
    charge = getattr(unit, name)
    worst, added = worst_charge(unit, params), added_charges(unit)
    if name == "mr7":
        return charge, jnp.zeros_like(charge), worst + added
    if name in ("mr3", "mr4", "mr5", "mr9"):
        return charge, worst + added - charge, unit.mr7
    others = jnp.zeros_like(charge)
    for j, other in enumerate(jax.tree.leaves(unit)):
        if j != k:
            others = jnp.maximum(others, jnp.where(params.worst_of[j], other, 0.0))
    slope = jnp.where(params.worst_of[k], charge, 0.0)
    return slope, added, jnp.maximum(others + added, unit.mr7)
