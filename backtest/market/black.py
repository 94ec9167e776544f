"""Undiscounted Black-76 in coins, vectorised in float64, for the market builders."""

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr


FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

YEAR_US = 365 * 86_400 * 1_000_000
"""Microseconds of a year of 365 days."""


def option_coin_price(
    *,
    forwards: FloatArray,
    strikes: FloatArray,
    volatilities: FloatArray,
    years: FloatArray,
    is_call: BoolArray,
) -> FloatArray:
    """Undiscounted Black-76 value divided by the forward, in coins per coin of notional.

    ``c = w (N(w d1) - K/F N(w d2))`` with ``w = 1`` (call) or ``-1`` (put).

    Args:
        forwards: forward of the expiry, USD.
        strikes: strike, USD.
        volatilities: fraction a year; zero gives the intrinsic value.
        years: time to expiry, 365-day years; zero gives the intrinsic value.
        is_call: call or put.

    Example:
        >>> one = np.ones(1)
        >>> float(option_coin_price(forwards=100 * one, strikes=100 * one, volatilities=0.5 * one,
        ...       years=one, is_call=one > 0)[0].round(6))
        0.197413
    """
    moneyness = strikes / forwards
    deviation = volatilities * np.sqrt(years)
    sign = np.where(is_call, 1.0, -1.0)
    positive = deviation > 0
    safe = np.where(positive, deviation, 1.0)
    d1 = -np.log(moneyness) / safe + 0.5 * safe
    value = sign * (ndtr(sign * d1) - moneyness * ndtr(sign * (d1 - safe)))
    intrinsic = np.maximum(sign * (1.0 - moneyness), 0.0)
    return np.where(positive, np.maximum(value, 0.0), intrinsic)
