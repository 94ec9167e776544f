"""Undiscounted Black-76 with the option paid in coins, and its Greeks in both conventions.

`c` is the price of an option on one coin, in coins: the Black-76 price in USD divided by the
forward. Its USD value is `V = c S`, `S` the index. The `BS` Greeks are those of `V` in USD when
index and forward move together; the `PA` (premium adjusted) ones are those of `c` in coins.

Everything is scalar float64. Units: forward, strike and index USD per coin, `sigma` a fraction a
year, `years` ACT/365. With no volatility or no time left an option is worth its intrinsic value.

References:
    Project rule text, OKX portfolio margin, sections 1 and 6, and vector V7.
"""

import math

from scipy.special import ndtr


DAYS_PER_YEAR = 365.0
_SQRT_2PI = math.sqrt(2.0 * math.pi)


def phi(x: float) -> float:
    """Standard normal density at `x`; 0 at plus or minus infinity."""
    return math.exp(-0.5 * x * x) / _SQRT_2PI


def d1(forward: float, strike: float, sigma: float, years: float) -> float:
    """`d1 = ln(F/K) / (sigma sqrt(T)) + sigma sqrt(T) / 2`, dimensionless.

    Without volatility or time: plus infinity above the strike, minus infinity below, 0 on it.

    Example:
        >>> round(d1(110.0, 100.0, 0.5, 1.0), 6)
        0.44062
    """
    spread = sigma * math.sqrt(max(years, 0.0))
    moneyness = math.log(forward / strike)
    if spread == 0.0:
        return math.copysign(math.inf, moneyness) if moneyness != 0.0 else 0.0
    return moneyness / spread + 0.5 * spread


def coin_price(
    option_type: str, forward: float, strike: float, sigma: float, years: float
) -> float:
    """Price `c` in coins of an option on one coin, `c = Black76(F, K, sigma, T) / F >= 0`.

    `C`: `N(d1) - K/F N(d2)`; `P`: `K/F N(-d2) - N(-d1)`; intrinsic at `sigma sqrt(T) = 0`.

    Example:
        >>> round(coin_price("C", 110.0, 100.0, 0.0, 1.0), 6)
        0.090909
    """
    spread = sigma * math.sqrt(max(years, 0.0))
    sign = _sign(option_type)
    if spread == 0.0:
        return max(0.0, sign * (1.0 - strike / forward))
    first = d1(forward, strike, sigma, years)
    second = first - spread
    return float(sign * (ndtr(sign * first) - strike / forward * ndtr(sign * second)))


def delta_bs(option_type: str, forward: float, strike: float, sigma: float, years: float) -> float:
    """USD delta in coins of an option on one coin: call `N(d1)`, put `N(d1) - 1`.

    Example:
        >>> round(delta_bs("P", 110.0, 100.0, 0.5, 1.0), 6)
        -0.329744
    """
    call = float(ndtr(d1(forward, strike, sigma, years)))
    return call if _sign(option_type) > 0.0 else call - 1.0


def delta_pa(option_type: str, forward: float, strike: float, sigma: float, years: float) -> float:
    """Premium-adjusted delta in coins: `delta_bs - c` (call `N(d1) - c`, put `N(d1) - 1 - c`).

    It is `F dc/dF`, the delta of somebody who counts wealth in coins.
    """
    args = (option_type, forward, strike, sigma, years)
    return delta_bs(*args) - coin_price(*args)


def gamma_bs(forward: float, strike: float, sigma: float, years: float, index: float) -> float:
    """Change of `delta_bs` for one USD of index: `phi(d1) / (S sigma sqrt(T))`; 0 at intrinsic."""
    spread = sigma * math.sqrt(max(years, 0.0))
    return phi(d1(forward, strike, sigma, years)) / (index * spread) if spread > 0.0 else 0.0


def gamma_pa(option_type: str, forward: float, strike: float, sigma: float, years: float) -> float:
    """`F^2 d2c/dF2 = phi(d1) / (sigma sqrt(T)) - 2 delta_pa`, coins; 0 at intrinsic."""
    spread = sigma * math.sqrt(max(years, 0.0))
    if spread == 0.0:
        return 0.0
    density = phi(d1(forward, strike, sigma, years)) / spread
    return density - 2.0 * delta_pa(option_type, forward, strike, sigma, years)


def vega_pa(forward: float, strike: float, sigma: float, years: float) -> float:
    """`dc/dsigma = phi(d1) sqrt(T)`, coins for 1.00 of volatility (divide by 100 for 1 %)."""
    return phi(d1(forward, strike, sigma, years)) * math.sqrt(max(years, 0.0))


def vega_bs(forward: float, strike: float, sigma: float, years: float, index: float) -> float:
    """`dV/dsigma = S phi(d1) sqrt(T)`, USD for 1.00 of volatility (divide by 100 for 1 %)."""
    return index * vega_pa(forward, strike, sigma, years)


def theta_pa(forward: float, strike: float, sigma: float, years: float) -> float:
    """Coins lost a day, `-phi(d1) sigma / (2 sqrt(T)) / 365`; 0 at intrinsic."""
    if sigma * years <= 0.0:
        return 0.0
    density = phi(d1(forward, strike, sigma, years))
    return -density * sigma / (2.0 * math.sqrt(years)) / DAYS_PER_YEAR


def theta_bs(forward: float, strike: float, sigma: float, years: float, index: float) -> float:
    """USD lost a day at an unchanged index, `S theta_pa`."""
    return index * theta_pa(forward, strike, sigma, years)


def _sign(option_type: str) -> float:
    """+1 for a call, -1 for a put."""
    if option_type not in ("C", "P"):
        raise ValueError(f"option_type is {option_type!r}; allowed: 'C', 'P'")
    return 1.0 if option_type == "C" else -1.0
