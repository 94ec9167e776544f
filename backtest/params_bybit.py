"""Parameters of the Bybit unified account in portfolio margin: stress grid, contingency, account.

The rule book of this model gives the meaning of each number; the leaves carry the units. Keys that
the OKX model also has (``quote_currencies``, ``aggregation.imr_factor``, ``option_pnl``, the tiers
of borrowing and collateral, ``levels``) have the same shape here.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from backtest.params_base import (
    Leaf,
    Move,
    Multiplier,
    Name,
    NotNegative,
    ParameterModel,
    Positive,
    Rate,
    Strict,
    check_ascending,
    check_length,
)
from backtest.params_okx import BorrowTiers, DiscountTiers


Share = Annotated[float, Field(ge=0.0, le=1.0)]
SignedShare = Annotated[float, Field(ge=-1.0, le=1.0)]
Group = Literal["perpetuals_and_futures", "short_options", "long_options"]


def _needs_default(name: str, table: dict[str, Any]) -> None:
    """Refuse a table by coin that says nothing about coins not named."""
    if "default" not in table:
        raise ValueError(f"'{name}.default' is missing (used for every coin not named)")


class Aggregation(Strict):
    """Initial margin of a unit as a multiple of its maintenance margin."""

    imr_factor: Leaf[Multiplier]


class Volatility(Strict):
    """Relative volatility shocks, ``size (reference_days / D) ^ exponent`` up and down.

    ``D`` is the number of days to expiry, rounded up, at least ``min_days``.
    """

    up: Leaf[Rate]
    down: Leaf[Share]
    reference_days: Leaf[Positive]
    exponent: Leaf[Share]
    min_days: Leaf[Positive]


class NearExpiry(Strict):
    """Shocks of an option in the last ``window`` before its expiry shrink with the time left."""

    window: Leaf[NotNegative]
    scale_volatility: Leaf[bool]


class Grid(Strict):
    """Prices of the stress grid: ``price_range`` of the coin times each of ``price_steps``.

    With ``whole_seconds`` the clock of an option's time to expiry is floored to whole seconds.
    """

    price_range: dict[Name, Leaf[Move]]
    price_steps: Leaf[Annotated[list[SignedShare], Field(min_length=1)]]
    whole_seconds: Leaf[bool]
    volatility: Volatility
    near_expiry: NearExpiry

    @model_validator(mode="after")
    def _prices(self) -> "Grid":
        _needs_default("price_range", self.price_range)
        steps = self.price_steps.value
        check_ascending("price_steps", steps)
        if 0.0 not in steps:
            raise ValueError("'price_steps' must hold 0, the unchanged price")
        return self


class SpotHedge(Strict):
    """Spot that offsets the derivatives of its coin: on or off, and for which coins."""

    enabled: Leaf[bool]
    coins: Leaf[list[Name]]


class SpotBasis(Strict):
    """Charge on hedged spot: basis times ``factor`` of the coin, at most the cap.

    ``threshold_rule``: ``floor`` takes at least ``threshold`` as basis, ``gate`` takes a basis
    above it as it is and none below. The cap is ``cap_share`` of the coin's collateral ratio.
    """

    factor: dict[Name, Leaf[Rate]]
    threshold: Leaf[Rate]
    threshold_rule: Leaf[Literal["floor", "gate"]]
    cap_share: Leaf[Share]

    @model_validator(mode="after")
    def _default(self) -> "SpotBasis":
        _needs_default("factor", self.factor)
        return self


class RateTiers(Strict):
    """Marginal rates: the k-th holds below the k-th bound of gross size, the last above."""

    bounds_usd: Leaf[list[Positive]]
    rates: Leaf[list[Rate]]

    @model_validator(mode="after")
    def _tiers(self) -> "RateTiers":
        bounds = self.bounds_usd.value
        check_ascending("bounds_usd", bounds)
        check_length("rates", self.rates.value, len(bounds) + 1, "one more than 'bounds_usd'")
        return self


class Contingency(Strict):
    """The five components that are added to the worst loss of a unit."""

    short_option_rate: Leaf[Rate]
    vega_spread_rate: Leaf[Rate]
    stablecoin_spread_rate: Leaf[Rate]
    calendar_rate: Leaf[Rate]
    spot_basis: SpotBasis
    perpetual_futures: RateTiers


class Borrowing(Strict):
    """Borrowing margin: tiers by currency; ``default`` for every currency not named."""

    tiers: dict[Name, BorrowTiers]

    @model_validator(mode="after")
    def _default(self) -> "Borrowing":
        if "default" not in self.tiers:
            raise ValueError("'tiers.default' is missing (used for every currency not named)")
        if self.tiers["default"].unit != "usd":
            raise ValueError("'tiers.default.unit' is 'coin'; allowed: 'usd'")
        return self


class BybitLevels(Strict):
    """Margin levels (1.0 = 100 %), each the inverse of a maintenance margin rate.

    At ``repay`` and below debts are repaid by force, at ``liquidation`` and below positions are
    closed until the level is back at ``safe``; ``min_equity_usd`` of net equity opens the mode.
    """

    warning: Leaf[Positive]
    repay: Leaf[Positive]
    liquidation: Leaf[Positive]
    safe: Leaf[Positive]
    min_equity_usd: Leaf[NotNegative]

    @model_validator(mode="after")
    def _order(self) -> "BybitLevels":
        order = [self.liquidation, self.safe, self.repay, self.warning]
        values = [level.value for level in order]
        if sorted(values) != values:
            raise ValueError(
                "must be ordered liquidation <= safe <= repay <= warning, but are "
                + ", ".join(f"{level:g}" for level in values)
            )
        return self


class Liquidation(Strict):
    """Which positions a liquidation closes first."""

    order: Leaf[list[Group]]

    @model_validator(mode="after")
    def _each_once(self) -> "Liquidation":
        order = self.order.value
        if len(set(order)) != len(order) or len(order) != 3:
            raise ValueError(
                "'order' must name perpetuals_and_futures, short_options and long_options once"
            )
        return self


class BybitParameters(ParameterModel):
    """A parameter set of the Bybit model; it has one era, one risk unit a coin."""

    model: Literal["bybit"]
    era: Literal["unified"]
    quote_currencies: Leaf[Annotated[list[Name], Field(min_length=1)]]
    option_pnl: Leaf[Literal["usd_shocked", "coin"]]
    aggregation: Aggregation
    grid: Grid
    spot_hedge: SpotHedge
    contingency: Contingency
    borrowing: Borrowing
    collateral: dict[Name, DiscountTiers]
    levels: BybitLevels
    liquidation: Liquidation

    @model_validator(mode="after")
    def _default(self) -> "BybitParameters":
        if "default" not in self.collateral:
            raise ValueError("'collateral.default' is missing (used for every coin not named)")
        if self.collateral["default"].unit != "usd":
            raise ValueError("'collateral.default.unit' is 'coin'; allowed: 'usd'")
        return self
