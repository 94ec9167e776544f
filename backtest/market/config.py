"""The ``[market]`` section of a configuration: which market dataset to build, and how.

Three kinds: ``history`` (real bars), ``chain`` (real option chains), ``generated`` (a seeded random
market that needs no file). Times are UTC; both ends of a window belong to it.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)


MULTIPLIERS = {
    "BTC": 0.01, "ETH": 0.1, "SOL": 1.0, "XRP": 100.0, "DOGE": 1000.0,
    "LTC": 1.0, "ADA": 100.0, "LINK": 1.0, "AVAX": 1.0, "BCH": 0.1,
}  # fmt: skip
"""Coins a contract of the linear perpetuals and futures (the venue's face values); others 1."""
OPTION_MULTIPLIERS = {"BTC": 0.01, "ETH": 0.1}
"""Coins an option contract."""
INVERSE_MULTIPLIERS = {"BTC": 100.0}
"""USD a contract of the coin-margined perpetuals and futures; others 10."""


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    return timedelta(seconds=float(pd.Timedelta(value).total_seconds()))


def _utc(value: datetime) -> datetime:
    return value.astimezone(UTC)


Currency = Annotated[str, Field(pattern=r"^[A-Z0-9]{2,12}$")]
Duration = Annotated[timedelta, BeforeValidator(_duration), Field(gt=timedelta(0))]
UtcTime = Annotated[AwareDatetime, AfterValidator(_utc)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Settlement = Literal["USDT", "USDC", "USD"]


class Section(BaseModel):
    """Base of all configuration sections: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PerpetualsConfig(Section):
    """Perpetual swaps of every coin; ``USD`` is the coin-margined (inverse) one."""

    settle: tuple[Settlement, ...] = ("USDT", "USDC", "USD")
    fallback: Literal["spot", "none"] = "spot"
    """Where a coin has neither mark nor trade bars: its spot bars, or no mark."""


class FuturesConfig(Section):
    """Expiry futures: how many of the next weekly, monthly and quarterly expiries are listed."""

    settle: tuple[Literal["USDT", "USDC", "USD"], ...] = ("USDT", "USD")
    coins: tuple[Currency, ...] = ("BTC", "ETH")
    daily: int = Field(default=0, ge=0, le=10)
    weekly: int = Field(default=2, ge=0, le=10)
    monthly: int = Field(default=0, ge=0, le=12)
    quarterly: int = Field(default=2, ge=0, le=8)
    basis: Literal["real", "assumed"] = "real"
    """``real`` uses the recorded forward curve where it covers the time, else the assumed basis."""
    assumed_basis_ann: float = Field(default=0.05, gt=-0.5, lt=1)
    """Continuously compounded annual basis (fraction) where no real curve is used."""


class OptionsConfig(Section):
    """Coin-settled options: expiries listed at a time and the strike ladder around spot."""

    coins: tuple[Currency, ...] | None = None
    """Coins with options; none: BTC and ETH where the market has them."""
    daily: int = Field(default=2, ge=0, le=10)
    weekly: int = Field(default=2, ge=0, le=10)
    monthly: int = Field(default=2, ge=0, le=12)
    quarterly: int = Field(default=3, ge=0, le=8)
    strikes_a_side: int = Field(default=4, ge=1, le=50)
    """Strikes on each side of spot on the fine ladder."""
    wing_strikes_a_side: int = Field(default=2, ge=0, le=50)
    """Strikes on each side of spot on the ladder five times as coarse."""
    level_ratio: float = Field(default=1.0, gt=0, le=5)
    """What-if: multiplies the whole volatility surface."""
    assumed_level_ann: float = Field(default=0.6, gt=0, le=5)
    """30-day volatility (fraction a year) where neither an index nor a realised one is known."""


class MarketSection(Section):
    """What every kind of market has in common."""

    start: UtcTime
    end: UtcTime
    coins: tuple[Currency, ...] = Field(default=("BTC", "ETH", "SOL", "XRP", "DOGE"), min_length=1)
    multipliers: dict[Currency, Annotated[float, Field(gt=0)]] = {}
    """Coins a contract of linear perpetuals and futures, over the venue's own."""
    perpetuals: PerpetualsConfig = PerpetualsConfig()
    futures: FuturesConfig = FuturesConfig()

    @model_validator(mode="after")
    def _window(self) -> "MarketSection":
        if self.end <= self.start:
            raise ValueError(f"end {self.end} must be after start {self.start}")
        if len(set(self.coins)) != len(self.coins):
            raise ValueError("coins holds the same coin twice")
        return self

    def chosen_option_coins(self, chosen: tuple[str, ...] | None) -> tuple[str, ...]:
        """The chosen coins with options, or those of BTC and ETH that the market has."""
        return tuple(c for c in OPTION_MULTIPLIERS if c in self.coins) if chosen is None else chosen

    def linear_multiplier(self, coin: str) -> float:
        """Coins a contract of the coin's linear perpetuals and futures."""
        return self.multipliers.get(coin, MULTIPLIERS.get(coin, 1.0))


class HistoryConfig(MarketSection):
    """Real bars: index, perpetuals, futures; options from a fitted volatility surface."""

    kind: Literal["history"]
    source: Path | None = None
    """Folder of bars (see ``data/README.md``); none: the project's real data root."""
    bars: str = "spot_1h"
    """Spot bars: a folder with one file a coin, or one file with columns venue and symbol."""
    venue: str = "binance"
    """Prefix of the venues ``<venue>_spot`` and ``<venue>_perp`` in a single bar file."""
    options: OptionsConfig = OptionsConfig()

    @property
    def option_coins(self) -> tuple[str, ...]:
        """Coins with options."""
        return self.chosen_option_coins(self.options.coins)


class ChainConfig(MarketSection):
    """Options as really listed and marked, from recorded chain snapshots."""

    kind: Literal["chain"]
    source: Path | None = None
    bars: Literal["spot_1h"] = "spot_1h"
    venue: str = "binance"
    chain: str = "options_deribit/btc_eth_chain_2025-12_2026-08"
    """Parquet file of the snapshots, under ``source``, without its suffix."""
    chain_coins: tuple[Currency, ...] | None = None
    """Coins whose chains are used; none: BTC and ETH where the market has them."""
    include_snapshot_times: bool = True
    """Whether the snapshots' own times are grid times, besides those of the bars."""
    max_age: Duration = timedelta(hours=30)
    """A snapshot older than this prices nothing any more."""
    min_iv_ann: float = Field(default=0.05, ge=0, lt=1)
    max_iv_ann: float = Field(default=5.0, gt=1)
    """Volatilities outside are absurd: the mark stays, its volatility is null (unpriced)."""

    @property
    def option_coins(self) -> tuple[str, ...]:
        """Coins with options."""
        return self.chosen_option_coins(self.chain_coins)


class CoinConfig(Section):
    """One coin of a generated market."""

    price_usd: float = Field(gt=0)
    volatility_ann: float = Field(gt=0, le=5)
    """Long-run volatility, fraction a year."""
    correlation: float = Field(default=0.8, ge=0, lt=1)
    """Correlation of its returns with the market factor."""


class CrashConfig(Section):
    """A fall of the market: ``depth`` for a coin of market volatility, more for wilder ones."""

    after: Duration = timedelta(days=6)
    """From the market's start to the first falling step."""
    duration: Duration = timedelta(hours=10)
    depth: Fraction = 0.28
    rebound: float = Field(default=0.35, ge=0, le=1)
    """Share of the fall (in logs) won back over five times the duration."""


class DepegConfig(Section):
    """A stablecoin that loses its peg and comes back."""

    currency: Literal["USDT", "USDC"] = "USDC"
    after: Duration = timedelta(days=10)
    duration: Duration = timedelta(hours=48)
    depth: Fraction = 0.10


class VolatilityStepConfig(Section):
    """Volatility jumps at one time, for a while or to the end: the shock of an impulse response."""

    after: Duration
    """From the market's start to the first time of the other volatility."""
    factor: float = Field(gt=0, le=10)
    """Volatility by what it would be without the step."""
    duration: Duration | None = None
    """How long it lasts; none: to the market's end."""


class GeneratedConfig(MarketSection):
    """A seeded market: correlated jump diffusions with volatility regimes, a crash and a depeg."""

    kind: Literal["generated"]
    start: UtcTime = datetime(2025, 3, 3, tzinfo=UTC)
    end: UtcTime = datetime(2025, 3, 17, tzinfo=UTC)
    seed: int = Field(default=1, ge=0)
    interval: Duration = timedelta(hours=1)
    options: OptionsConfig = OptionsConfig()
    coin: dict[Currency, CoinConfig] = {}
    """Price, volatility and correlation a coin, over the built-in ones."""
    jumps_a_year: float = Field(default=40.0, ge=0, le=5000)
    jump_size: float = Field(default=0.02, ge=0, le=0.5)
    """Standard deviation of a market-wide jump, fraction."""
    crash: CrashConfig | None = CrashConfig()
    depeg: DepegConfig | None = DepegConfig()
    volatility_step: VolatilityStepConfig | None = None

    @property
    def option_coins(self) -> tuple[str, ...]:
        """Coins with options."""
        return self.chosen_option_coins(self.options.coins)


MarketConfig = Annotated[HistoryConfig | ChainConfig | GeneratedConfig, Field(discriminator="kind")]
"""The ``[market]`` section: its key ``kind`` says which."""
