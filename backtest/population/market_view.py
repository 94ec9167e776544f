"""What the population needs to see of a market dataset, read by small windows of time."""

from datetime import datetime

import numpy as np
import pandas as pd

from backtest.dataset import Dataset, utc
from backtest.errors import ConfigError
from backtest.population.arrays import (
    DAY_US,
    HOUR_US,
    Floats,
    floats,
    micros_of,
    microseconds,
    places,
    timestamp,
)
from backtest.population.catalogue import OPTION, Catalogue, make_catalogue
from backtest.population.config import Every, PopulationConfig
from backtest.population.universe import Universe, make_universe


_MARK_COLUMNS = ("time", "instrument_id", "mark_price", "forward", "mark_iv")
_TRAIL_TIMES = 96


class MarketView:
    """A market dataset at the snapshot times of a population."""

    def __init__(self, dataset: Dataset, config: PopulationConfig) -> None:
        self._dataset = dataset
        self._config = config
        self._stale = int(config.max_staleness_hours * HOUR_US)
        self.market: Catalogue = make_catalogue(
            dataset.instruments(), sorted(config.collateral.weights)
        )

    def snapshot_times(self) -> list[pd.Timestamp]:
        """Grid times of the snapshots, ascending and distinct.

        Raises:
            ConfigError: a time lies outside the dataset or has no price near it.
        """
        meta, config = self._dataset.meta, self._config
        first = self._grid_time(micros(config.at or meta.first_time), "population.at")
        wanted: list[int] = []
        if isinstance(config.snapshots, Every):
            step = int(config.snapshots.every_hours * HOUR_US)
            wanted = list(range(first + step, micros(meta.last_time) + 1, step))
        elif config.snapshots != "start":
            wanted = [micros(time) for time in config.snapshots]
        later = [self._grid_time(time, "population.snapshots") for time in wanted]
        if later and min(later) < first:
            raise ConfigError(
                f"population.snapshots: {timestamp(min(later)).isoformat()} is before the first "
                f"snapshot at {timestamp(first).isoformat()}; set population.at or leave it out"
            )
        return [timestamp(time) for time in sorted({first, *later})]

    def _grid_time(self, time: int, key: str) -> int:
        """The last grid time at or before ``time``, microseconds."""
        meta, stale = self._dataset.meta, timestamp(time - self._stale)
        known = self._dataset.index(stale, timestamp(time), columns=["time"])
        if known.empty:
            raise ConfigError(
                f"{key} = {timestamp(time).isoformat()}: no index price within "
                f"{self._config.max_staleness_hours:g} h before it; the dataset has "
                f"{meta.first_time.isoformat()} to {meta.last_time.isoformat()}"
            )
        return int(microseconds(known, "time", 0).max())

    def universe(self, time: pd.Timestamp, lookback_hours: float = 0.0) -> Universe:
        """Market at a grid time, with marks of up to ``lookback_hours`` before it."""
        now, config = micros_of(time), self._config
        index = self._dataset.index(timestamp(now - self._stale), time)
        marks = self._marks(now, int(lookback_hours * HOUR_US))
        return make_universe(
            self.market, index, marks, time, config.min_days, config.max_staleness_hours
        )

    def _marks(self, now: int, lookback: int) -> pd.DataFrame:
        """Mark rows up to ``now``: all fresh ones, and a thinned trail read day by day."""
        fresh_from = now - self._stale
        parts = [self._read_marks(fresh_from, now)]
        step = self._dataset.meta.interval_seconds * 1_000_000
        stride = max(1, lookback // step // _TRAIL_TIMES)
        start = now - lookback
        while start < fresh_from:
            end = min((start // DAY_US + 1) * DAY_US, fresh_from)
            rows = self._read_marks(start, end - 1)
            kept = microseconds(rows, "time", 0) // step % stride == 0
            parts.append(rows.iloc[np.flatnonzero(kept)])
            start = end
        filled = [part for part in parts if len(part)]
        return pd.concat(filled, ignore_index=True) if filled else parts[0]

    def _read_marks(self, first: int, last: int) -> pd.DataFrame:
        rows = self._dataset.marks(timestamp(first), timestamp(last), columns=_MARK_COLUMNS)
        return rows.astype({"instrument_id": object})

    def settlement(self, before: pd.Timestamp, after: pd.Timestamp) -> Floats:
        """Settlement base of contracts that expire in ``(before, after]``, NaN for all others.

        The index at the last time at or before the expiry: USD for inverse contracts and options,
        the settlement currency for linear ones.
        """
        market = self.market
        base = np.full(len(market.ids), np.nan)
        gone = (market.expiry > micros_of(before)) & (market.expiry <= micros_of(after))
        for expiry in np.unique(market.expiry[gone]).tolist():
            usd = self._index_at(expiry)
            rows = np.flatnonzero(gone & (market.expiry == expiry))
            price = usd[market.coin_currency[market.coin[rows]]]
            linear = ~market.inverse[rows] & (market.kind[rows] != OPTION)
            base[rows] = np.where(linear, price / usd[market.settle[rows]], price)
        return base

    def _index_at(self, time: int) -> Floats:
        """Last USD price of each currency at or before ``time``, NaN where there is none."""
        index = self._dataset.index(timestamp(time - self._stale), timestamp(time))
        position = {name: i for i, name in enumerate(self.market.currencies)}
        where, price = places(index, "currency", position), floats(index, "usd")
        order = np.argsort(microseconds(index, "time", 0), kind="stable")
        order = order[(where[order] >= 0) & (price[order] > 0.0)]
        usd = np.full(len(position), np.nan)
        usd[where[order]] = price[order]
        return usd


def micros(time: datetime) -> int:
    """UTC microseconds since 1970 of a time with a zone."""
    return micros_of(utc(time))
