"""Parameters of the OKX portfolio margin model: every number of MR1 ... MR9, equity and levels.

The rule book (sections 3 to 8) gives the meaning of each number; the leaves carry the units.
``ParameterSet.numbers()`` has the shape of these classes with plain values.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from backtest.params_base import (
    ByGroup,
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
    check_not_falling,
)


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Shock = Literal["mr1", "mr2", "mr6"]
AmountUnit = Literal["coin", "usd"]
SpotMode = Literal["derivatives_only", "USDT", "USDC", "USD"]


class Groups(Strict):
    """Coins of asset groups 1 and 2; every other coin is in group 3."""

    G1: Leaf[list[Name]]
    G2: Leaf[list[Name]]

    @model_validator(mode="after")
    def _one_group_a_coin(self) -> "Groups":
        coins = [*self.G1.value, *self.G2.value]
        twice = sorted({coin for coin in coins if coins.count(coin) > 1})
        if twice:
            raise ValueError(f"coin '{twice[0]}' is listed more than once")
        return self


class Units(Strict):
    """Which spot a risk unit takes in.

    Split era: an account chooses one of ``spot_modes``; a mode that is not among them counts as
    ``derivatives_only``. Merged era: no choice, the list is empty. Without ``spot_limits`` the
    user limits are void, without ``spot_orders`` open spot orders stay outside of the units.
    """

    spot_modes: Leaf[list[SpotMode]]
    spot_limits: Leaf[bool]
    spot_orders: Leaf[bool]


class Aggregation(Strict):
    """How the charges of a unit add up: the worst of ``worst``, and IMR as a multiple of MMR."""

    worst: Leaf[Annotated[list[Shock], Field(min_length=1)]]
    imr_factor: Leaf[Multiplier]


class Volatility(Strict):
    """Volatility shock by days to expiry, linear between nodes, flat outside of them."""

    combine: Leaf[Literal["points", "percent", "max", "min"]]
    points_days: Leaf[list[NotNegative]]
    points: Leaf[list[Rate]]
    percent_days: Leaf[list[NotNegative]]
    percent: Leaf[list[Rate]]
    floor: Leaf[Share]

    @model_validator(mode="after")
    def _nodes(self) -> "Volatility":
        for name, days, shocks in (
            ("points", self.points_days.value, self.points.value),
            ("percent", self.percent_days.value, self.percent.value),
        ):
            check_length(name, shocks, len(days), f"as many as '{name}_days'")
            check_ascending(f"{name}_days", days)
            if self.combine.value == name and not days:
                raise ValueError(f"'combine' is '{name}', but '{name}_days' has no nodes")
        if not self.points_days.value and not self.percent_days.value:
            raise ValueError("'points_days' and 'percent_days' have no nodes")
        return self


class Mr1(Strict):
    """Spot and volatility shock: absolute price moves (0 included), used up and down."""

    price_moves: ByGroup[Annotated[list[Move], Field(min_length=1)]]
    volatility: Volatility

    @model_validator(mode="after")
    def _moves(self) -> "Mr1":
        moves = self.price_moves.leaves()
        for group, values in moves.items():
            check_ascending(f"price_moves.{group}", values)
            check_length(f"price_moves.{group}", values, len(moves["G1"]), "as many as G1")
            if values[0] != 0.0:
                raise ValueError(f"'price_moves.{group}' starts at {values[0]:g}, must start at 0")
        return self


class Mr2(Strict):
    """Theta of options over ``days``."""

    days: Leaf[Annotated[float, Field(ge=0.0, le=365.0)]]


class Mr3(Strict):
    """Vega term structure: hedged vega, weighted by the root of reference days over days left."""

    rate: Leaf[Rate]
    reference_days: Leaf[Positive]
    min_days: Leaf[Positive]


class Mr4(Strict):
    """Basis: a move of the forward, at least ``near``, else ``annual`` times years to expiry."""

    near: ByGroup[Rate]
    annual: ByGroup[Rate]
    charge_spot: Leaf[bool]
    charge_perpetuals: Leaf[bool]
    charge_options: Leaf[bool]


class Mr5(Strict):
    """Interest rate: a parallel and a slope component; the slope turns sign at half the span."""

    parallel: Leaf[Rate]
    slope: Leaf[Rate]
    slope_span_years: Leaf[Positive]


class Mr6(Strict):
    """Extreme move up and down, of which the share ``factor`` is charged."""

    extreme_move: ByGroup[Move]
    factor: Leaf[Share]


class MultiplierTiers(Strict):
    """Marginal multipliers: the k-th holds below the k-th bound of raw charge, the last above."""

    bounds_usd: Leaf[list[Positive]]
    multipliers: Leaf[list[Multiplier]]

    @model_validator(mode="after")
    def _tiers(self) -> "MultiplierTiers":
        bounds, multipliers = self.bounds_usd.value, self.multipliers.value
        check_ascending("bounds_usd", bounds)
        check_length("multipliers", multipliers, len(bounds) + 1, "one more than 'bounds_usd'")
        return self


class GroupTiers(Strict):
    """Multiplier tiers by asset group."""

    G1: MultiplierTiers
    G2: MultiplierTiers
    G3: MultiplierTiers


class Mr7(Strict):
    """Minimum charge: a rate on the size of every leg, times the multiplier of its sum."""

    linear_rate: ByGroup[Rate]
    coin_linear_rate: dict[Name, Leaf[Rate]]
    short_option_rate: Leaf[Rate]
    long_option_rate: Leaf[Rate]
    tiers: GroupTiers


class BorrowTiers(Strict):
    """Borrow tiers of a coin: the whole liability takes the rates of the tier it falls in.

    Beyond the last bound the rates go up by ``tail_rate_step`` with each further ``tail_step``
    (same unit as the bounds) or with each further multiple by ``tail_ratio``; 0 switches one off.
    """

    unit: AmountUnit
    bounds: Leaf[Annotated[list[Positive], Field(min_length=1)]]
    mmr: Leaf[list[Rate]]
    imr: Leaf[list[Rate]]
    tail_step: Leaf[NotNegative]
    tail_ratio: Leaf[NotNegative]
    tail_rate_step: Leaf[Rate]

    @model_validator(mode="after")
    def _tiers(self) -> "BorrowTiers":
        bounds = self.bounds.value
        check_ascending("bounds", bounds)
        for name, rates in (("mmr", self.mmr.value), ("imr", self.imr.value)):
            check_length(name, rates, len(bounds), "as many as 'bounds'")
            check_not_falling(name, rates)
        for low, high in zip(self.mmr.value, self.imr.value, strict=True):
            if low > high:
                raise ValueError(f"'mmr' {low:g} is above 'imr' {high:g}")
        step, ratio = self.tail_step.value, self.tail_ratio.value
        if step and ratio:
            raise ValueError("'tail_step' and 'tail_ratio' exclude each other; one must be 0")
        if 0.0 < ratio <= 1.0:
            raise ValueError(f"'tail_ratio' is {ratio:g}; allowed: 0 or above 1")
        if not step and not ratio and self.tail_rate_step.value:
            raise ValueError("'tail_rate_step' needs a 'tail_step' or a 'tail_ratio'")
        return self


class Mr8(Strict):
    """Borrowing: tiers by currency; ``default`` for every currency not named."""

    fee_rate: Leaf[Rate]
    tiers: dict[Name, BorrowTiers]

    @model_validator(mode="after")
    def _default(self) -> "Mr8":
        if "default" not in self.tiers:
            raise ValueError("'tiers.default' is missing (used for every currency not named)")
        if self.tiers["default"].unit != "usd":
            raise ValueError("'tiers.default.unit' is 'coin'; allowed: 'usd'")
        return self


class Mr9(Strict):
    """Stablecoin depeg: marginal size tiers whose rates depend on the index of the pair."""

    enabled: Leaf[bool]
    pairs: Leaf[list[Annotated[list[Name], Field(min_length=2, max_length=2)]]]
    bounds_usd: Leaf[list[Positive]]
    calm_index: Leaf[Share]
    calm_rate_step: Leaf[Rate]
    stress_index: Leaf[Share]
    base_index: Leaf[Annotated[list[Share], Field(min_length=1)]]
    base_rate: Leaf[list[Rate]]
    size_offset: Leaf[list[Rate]]
    max_rate: Leaf[Rate]

    @model_validator(mode="after")
    def _tiers(self) -> "Mr9":
        base = self.base_index.value
        check_ascending("bounds_usd", self.bounds_usd.value)
        check_ascending("base_index", base)
        check_length("base_rate", self.base_rate.value, len(base), "as many as 'base_index'")
        check_not_falling("base_rate (from the highest index down)", self.base_rate.value[::-1])
        tiers = len(self.bounds_usd.value) + 1
        check_length("size_offset", self.size_offset.value, tiers, "one more than 'bounds_usd'")
        check_not_falling("size_offset", self.size_offset.value)
        if not self.stress_index.value < self.calm_index.value:
            raise ValueError("'stress_index' must be below 'calm_index'")
        if base[-1] != self.stress_index.value:
            raise ValueError(
                f"'base_index' ends at {base[-1]:g}, must end at 'stress_index' "
                f"{self.stress_index.value:g}"
            )
        for left, right in self.pairs.value:
            if left == right:
                raise ValueError(f"'pairs' holds {left} against itself")
        return self


class Borrowing(Strict):
    """Debts over time: what is free of interest, what accrues, how debts are paid back by force.

    ``quotas`` (currency units) and ``daily_rates`` by currency, ``default`` for every currency not
    named; ``conversion_cost`` is the share of its value that a forced sale loses, each step.
    """

    quotas: dict[Name, Leaf[NotNegative]]
    daily_rates: dict[Name, Leaf[Rate]]
    conversion_order: Leaf[Literal["lowest_discount_first", "highest_discount_first"]]
    conversion_through: Leaf[Name]
    conversion_cost: Leaf[Annotated[float, Field(ge=0.0, lt=1.0)]]

    @model_validator(mode="after")
    def _default(self) -> "Borrowing":
        for name, table in (("quotas", self.quotas), ("daily_rates", self.daily_rates)):
            if "default" not in table:
                raise ValueError(f"'{name}.default' is missing (used for every currency not named)")
        return self


class DiscountTiers(Strict):
    """Collateral value of positive equity: marginal rates, 0 beyond the last bound.

    Without bounds the whole amount takes the one rate.
    """

    unit: AmountUnit
    bounds: Leaf[list[Positive]]
    rates: Leaf[list[Share]]

    @model_validator(mode="after")
    def _tiers(self) -> "DiscountTiers":
        count = len(self.bounds.value)
        check_ascending("bounds", self.bounds.value)
        why = "as many as 'bounds'" if count else "one, for the whole amount"
        check_length("rates", self.rates.value, max(count, 1), why)
        return self


class Levels(Strict):
    """Margin levels (1.0 = 100 %) and the least net equity of an eligible account."""

    warning: Leaf[Positive]
    liquidation: Leaf[Positive]
    safe: Leaf[Positive]
    min_equity_usd: Leaf[NotNegative]

    @model_validator(mode="after")
    def _order(self) -> "Levels":
        order = [self.liquidation.value, self.safe.value, self.warning.value]
        if sorted(order) != order:
            raise ValueError(
                "must be ordered liquidation <= safe <= warning, but are "
                + ", ".join(f"{level:g}" for level in order)
            )
        return self


class OkxParameters(ParameterModel):
    """A parameter set of the OKX model; ``era`` chooses merged or split risk units."""

    model: Literal["okx"]
    era: Literal["merged", "split"]
    quote_currencies: Leaf[Annotated[list[Name], Field(min_length=1)]]
    groups: Groups
    units: Units
    aggregation: Aggregation
    option_pnl: Leaf[Literal["usd_shocked", "coin"]]
    mr1: Mr1
    mr2: Mr2
    mr3: Mr3
    mr4: Mr4
    mr5: Mr5
    mr6: Mr6
    mr7: Mr7
    mr8: Mr8
    mr9: Mr9
    borrowing: Borrowing
    collateral: dict[Name, DiscountTiers]
    levels: Levels

    @model_validator(mode="after")
    def _across(self) -> "OkxParameters":
        if "default" not in self.collateral:
            raise ValueError("'collateral.default' is missing (used for every coin not named)")
        if self.collateral["default"].unit != "usd":
            raise ValueError("'collateral.default.unit' is 'coin'; allowed: 'usd'")
        if self.era == "split" and self.mr9.enabled.value:
            raise ValueError("'mr9.enabled' is true; the split era has no MR9")
        self._spot_modes_of_the_era()
        known = self.quote_currencies.value
        for currency in (name for pair in self.mr9.pairs.value for name in pair):
            if currency not in known:
                raise ValueError(
                    f"'mr9.pairs' names '{currency}'; allowed: {', '.join(known)} "
                    "('quote_currencies')"
                )
        return self

    def _spot_modes_of_the_era(self) -> None:
        """Refuse a choice of spot in merged units, and split units without a way to have none."""
        modes = self.units.spot_modes.value
        if self.era == "merged" and modes:
            raise ValueError(f"'units.spot_modes' is {modes}; merged units allow no choice: []")
        if self.era == "split" and "derivatives_only" not in modes:
            raise ValueError(f"'units.spot_modes' is {modes}, must name 'derivatives_only'")
