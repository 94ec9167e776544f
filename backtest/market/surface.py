"""Implied-volatility surface of a coin: a level, a term structure and a smile.

With ``x = ln(T / 30 days)``, ``L`` the 30-day at-the-money level and ``u = ln(L / reference)``
against what was usual in the months before::

    atm(T) = L exp((p0 + p1 u) x + (q0 + q1 u) x^2)
    z      = ln(K / F) / (atm(T) sqrt(T))                      clipped to +-z_limit
    iv     = atm(T) (1 + a z + b (sqrt(z^2 + c^2) - c))        a, b linear in x and u

The coefficients are fitted on real chains by ``surface_fit`` and kept in ``surface.json`` with
their provenance and errors. ``x`` and ``u`` are clipped to the fitted range: no extrapolation; the
result to 2 % ... 500 %.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from backtest.market.black import FloatArray


SURFACE_FILE = Path(__file__).with_name("surface.json")
MONTH_YR = 30.0 / 365.0
_MIN_VOLATILITY = 0.02
_MAX_VOLATILITY = 5.0


class _Fitted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CoinSurface(_Fitted):
    """Fitted coefficients of one coin's surface (see the module's formulas)."""

    reference_level_ann: float = Field(gt=0)
    """Geometric mean of the 30-day level over the fitted chains (``reference`` of the fit)."""
    term: tuple[float, float, float, float]
    """``p0, p1, q0, q1``."""
    skew: tuple[float, float, float]
    """``a = skew0 + skew1 x + skew2 u``."""
    wing: tuple[float, float, float]
    """``b = wing0 + wing1 x + wing2 u``."""
    width: float = Field(gt=0)
    """``c``."""
    x_limits: tuple[float, float]
    u_limits: tuple[float, float]
    z_limit: float = Field(gt=0)
    index_ratio: float = Field(gt=0)
    """30-day at-the-money level per unit of the volatility index."""
    realised: tuple[float, float]
    """``i, s``: volatility index = exp(i) * (trailing realised volatility) ** s."""

    def atm(self, *, level: FloatArray, reference: FloatArray, years: FloatArray) -> FloatArray:
        """At-the-money volatility, fraction a year (arguments as of ``implied``)."""
        x, u = self._tenor(years), self._stress(level, reference)
        p0, p1, q0, q1 = self.term
        return level * np.exp((p0 + p1 * u) * x + (q0 + q1 * u) * x * x)

    def implied(
        self,
        *,
        level: FloatArray,
        reference: FloatArray,
        years: FloatArray,
        log_moneyness: FloatArray,
    ) -> FloatArray:
        """Implied volatility, fraction a year.

        Args:
            level: 30-day at-the-money volatility, fraction a year.
            reference: usual level of the months before, fraction a year.
            years: time to expiry, 365-day years, above zero.
            log_moneyness: ``ln(strike / forward)``.
        """
        x, u = self._tenor(years), self._stress(level, reference)
        atm = self.atm(level=level, reference=reference, years=years)
        z = np.clip(log_moneyness / (atm * np.sqrt(years)), -self.z_limit, self.z_limit)
        skew = self.skew[0] + self.skew[1] * x + self.skew[2] * u
        wing = self.wing[0] + self.wing[1] * x + self.wing[2] * u
        bend = np.sqrt(z * z + self.width**2) - self.width
        return np.clip(atm * (1.0 + skew * z + wing * bend), _MIN_VOLATILITY, _MAX_VOLATILITY)

    def _tenor(self, years: FloatArray) -> FloatArray:
        return np.clip(np.log(years / MONTH_YR), *self.x_limits)

    def _stress(self, level: FloatArray, reference: FloatArray) -> FloatArray:
        return np.clip(np.log(level / reference), *self.u_limits)


class SurfaceFit(_Fitted):
    """Fitted surfaces by coin, with where they come from and how far off they are."""

    provenance: dict[str, str | int | float | list[str]]
    coins: dict[str, CoinSurface]
    errors: dict[str, dict[str, float]]
    """By coin: error measures in volatility points as fractions (0.01 = one point)."""

    def save(self, path: Path) -> None:
        """Write the fit as JSON."""
        path.write_text(json.dumps(self.model_dump(mode="json"), indent=2) + "\n")


@cache
def default_surface() -> SurfaceFit:
    """The fit that comes with the package."""
    return SurfaceFit.model_validate_json(SURFACE_FILE.read_text())
