"""Instruments and currencies as arrays: the axes that every margin model shares."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array

from backtest import precision as precision
from kernels.records import (
    FUTURE,
    NULL,
    NUM_QUOTES,
    OPTION,
    PERPETUAL,
    QUOTES,
    SPOT,
    Contract,
)


KIND_CODES = {"spot": SPOT, "perpetual": PERPETUAL, "future": FUTURE, "option": OPTION}
NULL_NAME = "(none)"
CURRENCY_STEP = 16


class Currencies:
    """The currency axis of a run: quote currencies, the null currency, coins by name, padding.

    Padded to a multiple of ``CURRENCY_STEP``, so that runs with other coins share programs.
    """

    def __init__(self, coins: list[str]) -> None:
        self.coins = sorted(set(coins) - set(QUOTES))
        names = [*QUOTES, NULL_NAME, *self.coins]
        self.names = [*names, *(f"(padding {k})" for k in range(-len(names) % CURRENCY_STEP))]
        self.position = {name: k for k, name in enumerate(self.names)}


def contract_records(instruments: pd.DataFrame, currencies: Currencies) -> Contract:
    """Contract terms with a null contract in front; instrument axis first.

    Args:
        instruments: rows of the ``instruments`` table, in the order of the instrument axis.
        currencies: the currency axis.
    """
    kind = instruments["kind"].astype(str)
    expiry = pd.to_datetime(instruments["expiry"], utc=True)
    expiry_s = np.where(expiry.isna(), np.inf, _epoch_seconds(expiry))
    sign = [{"C": 1.0, "P": -1.0}.get(str(t), 1.0) for t in instruments["option_type"]]
    is_inverse = (instruments["style"].astype(str) == "inverse") & (kind != "option")

    def with_null(values: Any, null: Any, dtype: Any) -> Array:
        return jnp.asarray(np.concatenate([[null], np.asarray(values)]).astype(dtype))

    def position(column: str) -> list[int]:
        return [currencies.position[name] for name in instruments[column].astype(str)]

    strike = instruments["strike"].astype(float)
    return Contract(
        kind=with_null([KIND_CODES[k] for k in kind], NULL, np.int32),
        is_inverse=with_null(is_inverse, False, bool),
        multiplier=with_null(instruments["multiplier"], 0.0, float),
        # A strike of 1 keeps the unused option branch of other contracts finite.
        strike_usd=with_null(strike.fillna(1.0), 1.0, float),
        call_sign=with_null(sign, 1.0, float),
        expiry_s=with_null(expiry_s, np.inf, float),
        coin=with_null(position("coin"), NUM_QUOTES, np.int32),
        settle=with_null(position("settle"), NUM_QUOTES, np.int32),
    )


def _epoch_seconds(times: pd.Series) -> np.ndarray:
    epoch = pd.Timestamp("1970-01-01", tz="UTC")
    return ((times - epoch) / pd.Timedelta(seconds=1)).to_numpy(float)
