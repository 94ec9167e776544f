"""Stages of a program that are kept apart from each other."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


STAGE_SCOPE = "stage="
"""Begins the scope in which a stage is compiled, so that profiles can name it."""


def computed_apart(
    is_needed: Bool[Array, ""], stage: Callable[..., Any], *inputs: Any, otherwise: Any = None
) -> Any:
    """What a stage gives, computed once and stored: no later stage computes it again.

    A compiler that fuses stages into one loop repeats a shared intermediate in every number that
    needs it. A branch stops it, also where barriers are dropped before the fusion.

    Args:
        is_needed: must not be known when the program is compiled.
        stage: a function of arrays.
        inputs: what it is called with.
        otherwise: the answer where it is not needed; None = zeros.
    """
    # Compiled inside the program as everything else; only so is it traced once and not twice.
    traced = jax.jit(stage)

    def nothing(*_: Any) -> Any:
        if otherwise is not None:
            return otherwise
        shapes = jax.eval_shape(traced, *inputs)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    named = stage.func if isinstance(stage, partial) else stage
    name = getattr(named, "__name__", "stage").strip("_").removeprefix("batch_")
    with jax.named_scope(f"{STAGE_SCOPE}{name}"):
        return jax.lax.cond(is_needed, traced, nothing, *inputs)
