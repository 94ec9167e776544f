"""What a synthetic population looks like: every number with its unit; all of them are assumed.

No venue publishes how its customers' accounts are made up, so every default here is an assumption
(label A): a plausible mix that starts healthy under portfolio margin and has a tail that a crash
of 20-30 % liquidates. Change any of them in the ``[population]`` section of the configuration.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator


MAX_ACCOUNTS = 10_000_000

Archetype = Literal[
    "directional",
    "spot_basis",
    "inverse_calendar",
    "short_strangle",
    "covered_call",
    "hedged_volatility",
    "option_calendar",
    "cross_stable",
    "leveraged_altcoin",
    "borrower",
    "market_maker",
    "flat",
]
"""Segments of the population, one archetype each."""

ARCHETYPES: tuple[Archetype, ...] = (
    "directional",
    "spot_basis",
    "inverse_calendar",
    "short_strangle",
    "covered_call",
    "hedged_volatility",
    "option_calendar",
    "cross_stable",
    "leveraged_altcoin",
    "borrower",
    "market_maker",
    "flat",
)

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]

DEFAULT_MIX: dict[Archetype, float] = {
    "directional": 22.0,
    "spot_basis": 10.0,
    "inverse_calendar": 4.0,
    "short_strangle": 9.0,
    "covered_call": 8.0,
    "hedged_volatility": 7.0,
    "option_calendar": 6.0,
    "cross_stable": 5.0,
    "leveraged_altcoin": 14.0,
    "borrower": 6.0,
    "market_maker": 3.0,
    "flat": 6.0,
}


class Model(BaseModel):
    """Base of the population's configuration models."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Leverage(Model):
    """Leverage of an archetype: ``low * (high / low) ** B`` with ``B ~ Beta(a, b)``.

    Leverage is the archetype's main notional over equity (what "main" is, each archetype's
    docstring says). ``a`` and ``b`` below 1 make both ends heavy.
    """

    low: Positive
    high: Positive
    a: Positive = 1.0
    b: Positive = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> "Leverage":
        if self.high < self.low:
            raise ValueError(f"high ({self.high}) is below low ({self.low})")
        return self


DEFAULT_LEVERAGE: dict[Archetype, Leverage] = {
    "directional": Leverage(low=0.15, high=6.0, a=0.6, b=0.8),
    "spot_basis": Leverage(low=0.3, high=4.0, a=1.2, b=1.6),
    "inverse_calendar": Leverage(low=1.0, high=15.0, a=1.0, b=1.5),
    "short_strangle": Leverage(low=0.2, high=7.0, a=0.9, b=1.2),
    "covered_call": Leverage(low=0.3, high=2.0, a=1.5, b=1.2),
    "hedged_volatility": Leverage(low=0.2, high=8.0, a=0.9, b=1.2),
    "option_calendar": Leverage(low=0.3, high=10.0, a=1.0, b=1.2),
    "cross_stable": Leverage(low=0.5, high=10.0, a=1.0, b=1.3),
    "leveraged_altcoin": Leverage(low=0.15, high=3.5, a=0.7, b=0.9),
    "borrower": Leverage(low=0.2, high=2.0, a=1.0, b=1.4),
    "market_maker": Leverage(low=1.0, high=25.0, a=1.0, b=1.3),
    "flat": Leverage(low=1.0, high=1.0),
}


class Size(Model):
    """Equity of the accounts in USD: log-normal body cut off below, Pareto whales on top."""

    median_usd: Positive = 60_000.0
    sigma: Positive = 1.3
    min_usd: Positive = 10_500.0
    max_usd: Positive = 300e6
    whale_share: Share = 0.004
    whale_min_usd: Positive = 3e6
    whale_alpha: Positive = 1.2
    scale: dict[Archetype, Positive] = {"market_maker": 15.0, "cross_stable": 3.0}

    @model_validator(mode="after")
    def _ordered(self) -> "Size":
        if not self.min_usd < self.max_usd or self.whale_min_usd >= self.max_usd:
            raise ValueError("min_usd and whale_min_usd must be below max_usd")
        return self


class Collateral(Model):
    """What accounts hold as collateral; currencies without an index price are left out."""

    weights: dict[str, Weight] = {"USDT": 66.0, "USDC": 12.0, "BTC": 15.0, "ETH": 7.0}
    main_share: tuple[Share, Share] = (0.5, 1.0)
    """Range of the main currency's part of the equity; the rest is the first stablecoin."""
    settle_share: Share = 0.03
    """Least part of the equity held in each settlement currency of the account's contracts."""
    inverse_share: tuple[Share, Share] = (0.3, 0.95)
    """Part held in the coin that the account's inverse contracts or options settle in."""
    max_coin_usd: dict[str, Positive] = {"BTC": 20e6, "ETH": 20e6, "default": 400e3}
    """Most of one coin held as collateral or spot, USD (its discount tiers bite beyond)."""


class Health(Model):
    """Rough margin estimate that scales books down so that accounts start healthy.

    It is an estimate in the spirit of OKX portfolio margin (label A throughout), not the margin
    engine: price moves, volatility shocks, basis, minimum charge with size tiers, borrowing and
    stablecoin hedges, then ``safety`` on top.
    """

    min_level: Annotated[float, Field(ge=1.0)] = 1.15
    """Margin level below which a book is scaled down, fraction (1.15 = 115 %)."""
    spread: Annotated[float, Field(ge=0.0)] = 0.35
    """Scaled books start at ``min_level * (1 + spread * U)``, so that they do not pile up."""
    safety: Annotated[float, Field(ge=1.0)] = 1.1
    majors: tuple[str, ...] = ("BTC", "ETH")
    second: tuple[str, ...] = (
        *("SOL", "DOGE", "PEPE", "XRP", "BNB", "SHIB", "LTC", "ORDI", "WLD", "BCH", "ADA"),
    )
    price_move: tuple[Positive, Positive, Positive] = (0.12, 0.18, 0.25)
    """Worst price move of majors, second group and others, fraction."""
    basis_move: tuple[Weight, Weight, Weight] = (0.002, 0.008, 0.010)
    basis_annual: tuple[Weight, Weight, Weight] = (0.05, 0.15, 0.30)
    minimum_rate: tuple[Weight, Weight, Weight] = (0.0045, 0.007, 0.010)
    minimum_tier_usd: tuple[Positive, Positive, Positive] = (250e3, 42e3, 42e3)
    """First size of the minimum charge, USD, that the rising multiplier applies to."""
    short_option_rate: Weight = 0.022
    volatility_points: tuple[Weight, Weight, Weight] = (0.30, 0.20, 0.15)
    """Volatility shock at 0, 30 and 60 days to expiry, absolute."""
    vega_rate: Weight = 0.05
    rate_move: Weight = 0.045
    borrow_rate: Weight = 0.03
    collateral_rate: dict[str, Share] = {
        "USDT": 1.0,
        "USDC": 1.0,
        "USD": 1.0,
        "BTC": 0.93,
        "ETH": 0.93,
        "default": 0.7,
    }


class Entry(Model):
    """Entry prices: missing, or marks of a time in the recent past, never of the future."""

    null_share: Share = 0.25
    lookback_hours: Annotated[float, Field(ge=0.0, le=24 * 60)] = 72.0
    noise: Annotated[float, Field(ge=0.0, le=0.2)] = 0.002
    """Standard deviation of the entry price around the trailing mark, fraction."""


class Trading(Model):
    """What happens between two snapshots: chances of an account per snapshot."""

    trade_share: Share = 0.10
    """Some legs grow or shrink, one may be closed."""
    close_share: Share = 0.01
    """The whole book is closed at the mark."""
    open_share: Share = 0.10
    """A flat account opens a new book of its archetype."""
    roll_share: Share = 0.60
    """An account of which a contract expired closes the rest and opens a new book."""
    cash_share: Share = 0.02
    """Cash is paid in or taken out."""
    cash_size: Annotated[float, Field(ge=0.0, le=0.5)] = 0.10
    """Largest payment, part of the equity."""
    close_liquidated: bool = True
    """Books whose estimated margin level is at or below 100 % are closed at the mark."""


class Orders(Model):
    """Resting limit orders; none by default."""

    share: Share = 0.0
    """Part of the accounts with a position that have open orders."""
    most: Annotated[int, Field(ge=1, le=16)] = 3
    """Most orders of an account."""
    distance: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.02
    """Furthest limit from the mark, fraction."""


class Every(Model):
    """Snapshots at the first one and every so many hours until the dataset's last time."""

    every_hours: Positive


class PopulationConfig(Model):
    """Section ``[population]``: how many accounts, of what kind, at which snapshots.

    Example:
        >>> PopulationConfig(accounts=1000, seed=7).mix["flat"]
        6.0
    """

    accounts: Annotated[int, Field(ge=1, le=MAX_ACCOUNTS)] = 10_000
    seed: Annotated[int, Field(ge=0)] = 0
    buckets: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Buckets of the account tables; none: by the number of accounts."""
    at: AwareDatetime | None = None
    """First snapshot, at the last grid time up to it; none: at the dataset's first time."""
    snapshots: Literal["start"] | Every | tuple[AwareDatetime, ...] = "start"
    """Later snapshots: none ("start"), a list of times, or ``{ every_hours = 6 }``."""
    stay: Annotated[int, Field(ge=1)] | None = None
    """Snapshots that an account takes part in before another takes its place; none: all."""
    mix: dict[Archetype, Weight] = DEFAULT_MIX
    """Relative weights of the archetypes; one that is not named gets none."""
    leverage: dict[Archetype, Leverage] = {}
    """Leverage by archetype; one that is not named keeps its default."""
    coins: dict[str, Weight] = {"BTC": 5.0, "ETH": 3.0, "default": 0.6}
    """Relative weight of a coin where an account chooses one."""
    max_legs: Annotated[int, Field(ge=10, le=100)] = 64
    """Most legs of an account (a market maker; other books have at most 9)."""
    min_days: Annotated[float, Field(ge=0.0)] = 1.0
    """Least days to expiry of an instrument that is opened."""
    max_staleness_hours: Annotated[float, Field(ge=0.0)] = 1.0
    """Oldest mark that prices an instrument at a snapshot."""
    whole_lots_from: Positive = 50.0
    """Contracts from which positions are whole numbers; below, multiples of 0.01 contract."""
    spot_limit_share: Share = 0.08
    """Part of the accounts that set a limit on spot in use for one coin."""
    non_auto_share: Share = 0.4
    """Part of the accounts in non-auto-borrow mode (accounts built on a debt: a quarter of it)."""
    overwrite: bool = False
    """Replace accounts that the dataset already has."""
    size: Size = Size()
    collateral: Collateral = Collateral()
    health: Health = Health()
    entry: Entry = Entry()
    trading: Trading = Trading()
    orders: Orders = Orders()

    @model_validator(mode="after")
    def _some_weight(self) -> "PopulationConfig":
        if not any(weight > 0 for weight in self.mix.values()):
            raise ValueError("mix: at least one archetype needs a weight above 0")
        return self

    def leverage_of(self, archetype: Archetype) -> Leverage:
        """Leverage distribution of an archetype."""
        return self.leverage.get(archetype, DEFAULT_LEVERAGE[archetype])

    def bucket_count(self) -> int:
        """Number of buckets: as configured, else about 25,000 accounts each, 8 to 256."""
        if self.buckets is not None:
            return self.buckets
        if self.accounts < 8_000:
            return 1
        return min(256, max(8, -(-self.accounts // 25_000)))
