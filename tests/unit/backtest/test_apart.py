"""Stages that are computed apart: the same numbers, nothing where they are not needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from backtest.apart import STAGE_SCOPE, computed_apart


def doubled(x: Array, y: Array) -> dict[str, Array]:
    return {"sum": x + y, "is_more": x > y}


@jax.jit
def run(is_needed: Array, x: Array, y: Array) -> dict[str, Array]:
    return computed_apart(is_needed, doubled, x, y)


@pytest.mark.parametrize("size", [5, 16_385, 32_769, 40_000])
def test_the_numbers_are_those_of_the_stage(size: int):
    x, y = jnp.arange(float(size)), jnp.full(size, 3.0)
    found = run(jnp.asarray(True), x, y)
    np.testing.assert_array_equal(found["sum"], np.arange(float(size)) + 3.0)
    np.testing.assert_array_equal(found["is_more"], np.arange(size) > 3)


def test_what_is_not_needed_is_zero_or_as_told():
    x = jnp.asarray([1.0, np.nan])
    found = run(jnp.asarray(False), x, x)
    assert np.asarray(found["sum"]).tolist() == [0.0, 0.0]
    assert found["is_more"].dtype == bool
    kept = jax.jit(lambda need: computed_apart(need, jnp.negative, x, otherwise=x))
    np.testing.assert_array_equal(kept(jnp.asarray(False)), x)


def test_a_stage_is_a_branch_of_the_program_with_its_name():
    text = run.lower(jnp.asarray(True), jnp.ones(3), jnp.ones(3)).compile().as_text()
    assert text is not None
    assert "conditional(" in text
    assert f"{STAGE_SCOPE}doubled" in text
