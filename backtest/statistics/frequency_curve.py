"""The liquidation-frequency curve of a charge, from the break-even multipliers of one replay (K9).

An account is liquidated at some time if its charge is scaled by ``theta`` exactly when ``theta`` is
not below its lowest break-even multiplier of the window. So the share of accounts liquidated,
``F(theta)``, is the distribution of that number, and one replay gives the whole curve.

Counts at fixed multipliers add up, so that the curves of parts of a population are merged without
looking at an account again.

References:
    Backtesting rules, section 2.7.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from backtest.errors import ConfigError


_ABOVE_ONE = np.exp(np.linspace(0, np.log(5), 201)[1:])
POINTS = (0.5, 0.75, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0)
"""Round multipliers at which the curve is known exactly."""
MULTIPLIERS = np.unique(np.concatenate([1 / _ABOVE_ONE, _ABOVE_ONE, POINTS]))
"""Where curves are counted: from 1/5 to 5, evenly in the logarithm, and at ``POINTS``."""
STEP = 0.1
"""Relative change of a charge over which slopes are taken."""


def count_up_to(
    grid: Float[np.ndarray, " point"], values: Float[np.ndarray, " account"]
) -> Int[np.ndarray, " point"]:
    """Number of values at or below each point of a rising grid; NaN counts nowhere."""
    at = np.searchsorted(grid, values[~np.isnan(values)], side="left")
    return np.bincount(at, minlength=len(grid) + 1)[: len(grid)].cumsum()


@dataclass(frozen=True)
class FrequencyCurve:
    """Accounts liquidated if one charge were scaled and everything else stayed.

    Attributes:
        accounts: Scored accounts.
        liquidated: Of these, accounts liquidated at each multiplier.
        multipliers: Rising multipliers of the charge, among them 1.

    Example:
        >>> curve = FrequencyCurve.of(np.array([0.8, 1.05, 1.5, np.inf]))
        >>> curve.at(1.0), curve.at(1.1)
        (0.25, 0.5)
    """

    accounts: int
    liquidated: Int[np.ndarray, " point"]
    multipliers: Float[np.ndarray, " point"] = field(default_factory=lambda: MULTIPLIERS)

    @classmethod
    def of(
        cls,
        theta: Float[np.ndarray, " account"],
        multipliers: Float[np.ndarray, " point"] = MULTIPLIERS,
    ) -> "FrequencyCurve":
        """The curve of scored accounts with these lowest break-even multipliers."""
        return cls(len(theta), count_up_to(multipliers, theta), multipliers)

    def __add__(self, other: "FrequencyCurve") -> "FrequencyCurve":
        """The curve of both groups of accounts together."""
        if not np.array_equal(self.multipliers, other.multipliers):
            raise ConfigError("curves are counted at different multipliers; count them alike")
        total = self.liquidated + other.liquidated
        return FrequencyCurve(self.accounts + other.accounts, total, self.multipliers)

    @property
    def share(self) -> Float[np.ndarray, " point"]:
        """``F`` at each multiplier, a fraction of scored accounts; NaN without any."""
        return self.liquidated / (self.accounts or np.nan)

    def count(self, multiplier: float) -> int:
        """Accounts liquidated at one of the multipliers.

        Raises:
            ConfigError: The curve is not counted there.
        """
        at = int(np.searchsorted(self.multipliers, multiplier))
        if at == len(self.multipliers) or self.multipliers[at] != multiplier:
            raise ConfigError(f"the curve is not counted at {multiplier:g}; allowed: {POINTS}")
        return int(self.liquidated[at])

    def at(self, multiplier: float) -> float:
        """``F`` at one of the multipliers."""
        return self.count(multiplier) / self.accounts if self.accounts else float("nan")

    @property
    def slope(self) -> float:
        """``dF / d ln theta`` at 1, by central difference over ``STEP`` up and down."""
        below, above = 1.0 - STEP, 1.0 + STEP
        return (self.at(above) - self.at(below)) / (np.log(above) - np.log(below))

    @property
    def elasticity(self) -> float:
        """``d ln F / d ln theta`` at 1: percent more accounts for a percent more of the charge.

        NaN where nobody is liquidated at 1.
        """
        now = self.at(1.0)
        return self.slope / now if now > 0 else float("nan")

    @property
    def newly_liquidated(self) -> int:
        """Accounts that a charge raised by ``STEP`` liquidates and this one does not."""
        return self.count(1.0 + STEP) - self.count(1.0)

    @property
    def saved(self) -> int:
        """Accounts that this charge liquidates and one lowered by ``STEP`` does not."""
        return self.count(1.0) - self.count(1.0 - STEP)
