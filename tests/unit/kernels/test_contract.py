"""What every kernel keeps: right at any size, jit = eager, dtype of the inputs, one compilation."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.unit.kernels import random_books
from tests.unit.kernels.kernel_cases import CASES, Case, leg_inputs, numpy_scenarios, scenario_scale


pytestmark = pytest.mark.usefixtures("compilation_cache")

SIZES = (16_385, 32_769, 40_000)
RELATIVE = 1e-12


@pytest.fixture(scope="module")
def compilation_cache() -> None:
    random_books.use_cache()


def assert_close(found: Any, expected: Any, scale: Any):
    """Leaf by leaf, ``RELATIVE`` of the expected number and of the scale."""
    leaves = jax.tree.leaves(expected)
    scales = jax.tree.leaves(scale)
    scales = (
        scales if len(scales) == len(leaves) else [0.0 if scale is None else scale] * len(leaves)
    )
    for value, wanted, size in zip(jax.tree.leaves(found), leaves, scales, strict=True):
        value, wanted = np.asarray(value), np.asarray(wanted)
        assert value.shape == wanted.shape
        same = value == wanted
        with np.errstate(invalid="ignore"):
            near = np.abs(value - wanted) <= RELATIVE * (np.abs(wanted) + size)
        assert (same | near).all(), f"{(~(same | near)).sum()} of {value.size} are off"


def as_dtype(tree: Any, dtype: Any) -> Any:
    def cast(x: Any) -> Any:
        x = jnp.asarray(x)
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)


def keyed(answer: Any) -> Any:
    """Tuples of a record as arrays, so that kernel and NumPy answers have the same leaves."""
    if isinstance(answer, dict):
        return {k: np.stack(v) if isinstance(v, tuple) else v for k, v in answer.items()}
    return answer


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_float64_is_numpy_at_scale(name: str, size: int):
    case = CASES[name]
    args = case.inputs(np.random.default_rng(size), size)
    found = jax.jit(case.run)(*as_dtype(args, jnp.float64))
    scale = None if case.scale is None else case.scale(*args)
    assert_close(keyed(found), case.oracle(*args), scale)


@pytest.mark.parametrize("size", SIZES)
def test_float32_scenarios_within_the_error_bound(size: int):
    """``|error| <= (legs + 2) eps sum |n pnl|``: rounding of the table and of n, products, sums.

    To first order each term carries one rounding of the table, one of the contracts and one of
    the product, and at most ``legs - 1`` of the additions, each half of eps: the bound has room.
    """
    table, instrument, contracts = leg_inputs(np.random.default_rng(size), size)
    args = as_dtype((table, instrument, contracts), jnp.float32)
    found = jax.jit(CASES["exposure.scenario_sum"].run)(*args)
    assert found.dtype == jnp.float32
    error = np.abs(np.asarray(found, np.float64) - numpy_scenarios(table, instrument, contracts))
    bound = (contracts.shape[1] + 2) * np.finfo(np.float32).eps
    assert (error <= bound * scenario_scale(table, instrument, contracts)).all()


@pytest.mark.parametrize("name", CASES)
def test_float32_stays_float32_and_near(name: str):
    case = CASES[name]
    args = case.inputs(np.random.default_rng(2), 16_385)
    found = jax.jit(case.run)(*as_dtype(args, jnp.float32))
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", CASES)
def test_jit_is_eager(name: str):
    case = CASES[name]
    args = as_dtype(case.inputs(np.random.default_rng(3), 257), jnp.float64)
    scale = None if case.scale is None else case.scale(*case.inputs(np.random.default_rng(3), 257))
    eager = jax.tree.map(np.asarray, case.run(*args))
    assert_close(keyed(jax.jit(case.run)(*args)), keyed(eager), scale)


@pytest.mark.parametrize("name", CASES)
def test_vmap_is_loop(name: str):
    case = CASES[name]
    args = as_dtype(case.inputs(np.random.default_rng(4), 5), jnp.float64)
    together = jax.jit(case.run)(*args)
    for k in (0, 4):
        pick = partial(jax.tree.map, lambda x, k=k: x[k])
        one = [pick(a) if b else a for a, b in zip(args, case.batched, strict=True)]
        alone = jax.tree.map(np.asarray, case.kernel(*one))
        assert_close(pick(together), alone, 1e3 if case.scale is not None else None)


def traced_once(case: Case) -> Any:
    return jax.jit(eqx.debug.assert_max_traces(case.run, max_traces=1))


@pytest.mark.parametrize("name", CASES)
def test_one_compilation_a_shape(name: str):
    case = CASES[name]
    run = traced_once(case)
    for seed in range(3):
        run(*as_dtype(case.inputs(np.random.default_rng(seed), 64), jnp.float64))
