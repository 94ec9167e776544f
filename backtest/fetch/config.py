"""The configuration of ``pmstress fetch``: which series of which venue, from when to when."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from backtest.config_errors import read_section
from backtest.market.config import Currency, Duration, Section, UtcTime


VenueName = Literal["okx", "bybit", "deribit", "binance"]
Interval = Literal["1m", "5m", "15m", "1h", "4h", "1d"]
INTERVAL_MS: dict[str, int] = {
    "1m": 60_000,
    "5m": 300_000,
    "15m": 900_000,
    "1h": 3_600_000,
    "4h": 14_400_000,
    "1d": 86_400_000,
}
"""Length of a bar in milliseconds."""


class RetryConfig(Section):
    """What is done about an answer that does not come: waits double from the first to the most."""

    attempts: int = Field(default=8, ge=1, le=100)
    first_wait: Duration = timedelta(seconds=1)
    most_wait: Duration = timedelta(seconds=60)
    give_up_after: int = Field(default=2, ge=1)
    """Pages in a row that a venue does not give, before the rest of it is left for the next run."""
    again_if_short: int = Field(default=1, ge=0, le=10)
    """How often a page that lacks bars is asked for again before it is believed."""


class SourceConfig(Section):
    """Series of one venue; names are the venue's own."""

    venue: VenueName
    interval: Interval = "1h"
    instruments: tuple[str, ...] = ()
    """Perpetuals and futures: their marks (Deribit: last trades) and funding rates."""
    index: tuple[str, ...] = ()
    """Index prices by the venue's name of the pair; Deribit: of a perpetual."""
    options: tuple[Currency, ...] = ()
    """Coins whose option chain is taken as it is now: one snapshot a run."""
    funding: bool = True

    @model_validator(mode="after")
    def _something(self) -> "SourceConfig":
        if not (self.instruments or self.index or self.options):
            raise ValueError("names nothing; give 'instruments', 'index' or 'options'")
        if self.venue == "binance" and self.options:
            raise ValueError("'options': not of binance; allowed: okx, bybit, deribit")
        return self


class FetchConfig(Section):
    """Section ``[fetch]``."""

    start: UtcTime
    end: UtcTime
    """Exclusive; bars that are not over yet are left for the next run."""
    retry: RetryConfig = RetryConfig()
    source: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _order(self) -> "FetchConfig":
        if self.end <= self.start:
            raise ValueError(f"'end' {self.end} is not after 'start' {self.start}")
        return self


def load_fetch_config(path: Path) -> FetchConfig:
    """Section ``[fetch]`` of a TOML file.

    Raises:
        ConfigError: no such file or section, broken TOML, an unknown key or a bad value.
    """
    return read_section(path, "fetch", FetchConfig)
