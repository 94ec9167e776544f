"""The compiled programs that price the contracts of a window, once for all accounts."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from backtest import precision as precision
from backtest.apart import computed_apart
from backtest.kept_programs import kept
from kernels.features import is_alive
from kernels.models import model_of
from kernels.records import Contract, Quote
from kernels.table import model_columns, shared_features


VECTOR_TIMES = 8
"""Times of the widest vector of a processor."""


@kept()
def priced_features(
    contracts: Contract, quotes: Quote, now_s: Array, currency_usd: Array
) -> tuple[Float[Array, "instrument feature time"], Float[Array, "instrument order_term time"]]:
    """Features and order terms of every contract at every time, for all parameter sets."""
    given = jax.tree.map(
        lambda x: _in_vectors(jnp.moveaxis(x, 0, -1)), (quotes, now_s, currency_usd)
    )
    over_times = jax.vmap(shared_features, in_axes=(None, -1, -1, -1), out_axes=-1)
    return jax.tree.map(lambda x: x[..., : len(now_s)], over_times(contracts, *given))


@kept("blocks")
def priced_columns(
    contracts: Contract,
    quotes: Quote,
    features: Float[Array, "instrument feature time"],
    now_s: Float[Array, " time"],
    currency_usd: Float[Array, "time currency"],
    params: Any,
    blocks: int,
) -> tuple[
    Float[Array, "instrument model_column time"],
    Float[Array, "instrument scenario time"],
    Float[Array, "rate_row rate_column time"],
]:
    """Columns, scenarios and rates of one parameter set at every time (``model_columns``).

    In ``blocks`` of instruments, so that a block stays in the cache of a processor core; one in
    which nothing is alive (expired or padding) is all zeros and is left out.
    """
    rates = jax.vmap(model_of(params).rates, out_axes=-1)(currency_usd, params)
    quotes, params = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), (quotes, params))
    num_times, at_times = len(now_s), (now_s, currency_usd.T, params)
    # Whole vectors of times only: what is left over is rounded otherwise, and a number must not
    # depend on how long its window is.
    quotes, features, at_times = jax.tree.map(_in_vectors, (quotes, features, at_times))

    def priced(block: tuple[Contract, Quote, Array]) -> tuple[Array, Array]:
        alive = jax.vmap(is_alive, in_axes=(0, None))(block[0], at_times[0])
        return model_columns(partial(computed_apart, jnp.any(alive)), *block, *at_times)

    by_instrument = contracts, quotes, features
    cut = jax.tree.map(lambda x: x.reshape(blocks, -1, *x.shape[1:]), by_instrument)
    columns, scenarios = (
        x.reshape(-1, *x.shape[2:])[..., :num_times] for x in jax.lax.map(priced, cut)
    )
    return columns, scenarios, rates


def _in_vectors(x: Shaped[Array, "*axes time"]) -> Shaped[Array, "*axes times"]:
    """Filled up with the last time to whole vectors."""
    missing = -x.shape[-1] % VECTOR_TIMES
    return jnp.concatenate([x, jnp.repeat(x[..., -1:], missing, axis=-1)], axis=-1)
