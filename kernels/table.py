"""The shared table: every contract priced once per time and parameter set, for all accounts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.features import contract_features, order_terms
from kernels.models import model_of
from kernels.records import Contract, Quote
from kernels.stages import Apart


def shared_features(
    contracts: Contract,
    quotes: Quote,
    now_s: Float[Array, ""],
    currency_usd: Float[Array, " currency"],
) -> tuple[Float[Array, "instrument feature"], Float[Array, "instrument order_term"]]:
    """Features and order terms of every contract (instrument axis first) at one time."""
    each = (0, 0, None, None)
    features = jax.vmap(contract_features, in_axes=each)(contracts, quotes, now_s, currency_usd)
    orders = jax.vmap(order_terms, in_axes=each)(contracts, quotes, now_s, currency_usd)
    return features, orders


def model_columns(
    apart: Apart,
    contracts: Contract,
    quotes: Quote,
    features: Float[Array, "instrument feature *time"],
    now_s: Float[Array, " *time"],
    currency_usd: Float[Array, " currency *time"],
    params: Any,
) -> tuple[
    Float[Array, "instrument model_column *time"], Float[Array, "instrument scenario *time"]
]:
    """Columns and scenarios under one parameter set of any model, at one time or at several.

    Times are last in every array, those of ``params`` too: the shocks of a contract are computed
    for whole vectors of times.
    """
    model = model_of(params)

    def of_contracts(of_contract: Callable[..., Array]) -> Array:
        # Apart, because a loop over all columns chooses the formula element by element.
        return apart(
            jax.vmap(of_contract, in_axes=(0, 0, None, None, 0, None)),
            *(contracts, quotes, now_s, currency_usd, features, params),
        )

    scenarios = jnp.concatenate([of_contracts(part) for part in model.scenarios], axis=1)
    return of_contracts(model.contract_columns), scenarios
