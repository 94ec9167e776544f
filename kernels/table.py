"""The shared table: every contract priced once per time and parameter set, for all accounts."""

from typing import Any

import jax
from jaxtyping import Array, Float

from kernels.features import contract_features, order_terms
from kernels.models import model_of
from kernels.records import Contract, Quote


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
    contracts: Contract,
    quotes: Quote,
    features: Float[Array, "instrument feature"],
    now_s: Float[Array, ""],
    currency_usd: Float[Array, " currency"],
    params: Any,
) -> tuple[
    Float[Array, "instrument model_column"],
    Float[Array, "instrument scenario"],
    Float[Array, "rate_row rate_column"],
]:
    """Columns, scenarios and rates of one time under one parameter set of any model."""
    model = model_of(params)
    each = (0, 0, None, None, 0, None)
    columns, scenarios = (
        jax.vmap(of_contract, in_axes=each)(
            contracts, quotes, now_s, currency_usd, features, params
        )
        for of_contract in (model.contract_columns, model.scenarios)
    )
    return columns, scenarios, model.rates(currency_usd, params)
