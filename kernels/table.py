"""The shared table: every contract priced once per time and parameter set, for all accounts."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.features import CASH, DELTA, contract_features
from kernels.models import okx
from kernels.records import Contract, Quote


def shared_features(
    contracts: Contract,
    quotes: Quote,
    now_s: Float[Array, ""],
    currency_usd: Float[Array, " currency"],
) -> Float[Array, "instrument feature"]:
    """Features of every contract (instrument axis first in both records) at one time."""
    return jax.vmap(contract_features, in_axes=(0, 0, None, None))(
        contracts, quotes, now_s, currency_usd
    )


def model_columns(
    contracts: Contract,
    quotes: Quote,
    features: Float[Array, "instrument feature"],
    now_s: Float[Array, ""],
    currency_usd: Float[Array, " currency"],
    params: okx.OkxParameters,
) -> tuple[
    Float[Array, "instrument charge_feature"],
    Float[Array, "instrument column"],
    Float[Array, "pair tier"],
]:
    """Charge features, scenario columns and rates of one time under one parameter set."""
    cash = jnp.sum(features[:, CASH], axis=1)
    charges = jax.vmap(okx.charge_features, in_axes=(0, 0, None, None, 0, None))(
        contracts, quotes, now_s, currency_usd, cash, params
    )
    scenarios = jax.vmap(okx.scenario_columns, in_axes=(0, 0, None, None, 0, None))(
        contracts, quotes, now_s, currency_usd, features[:, DELTA], params
    )
    return charges, scenarios, okx.depeg_rates(currency_usd, params)
