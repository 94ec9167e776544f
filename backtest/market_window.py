"""Market data as dense arrays: what was known at each grid time, nothing later.

Rows of ``index`` and ``marks`` are carried forward at most ``max_staleness``; what is older or
absent is NaN and makes whatever needs it unpriced. Expired contracts get the index of the last
time at or before their expiry.
"""

from dataclasses import dataclass, field
from typing import Any, SupportsInt

import numpy as np
import pandas as pd

from backtest.dataset import Dataset, utc
from backtest.model_records import Currencies
from backtest.quality import Clean, clean_index, clean_marks
from kernels.records import NULL_CURRENCY


MICROS = 1_000_000


@dataclass(frozen=True)
class MarketWindow:
    """Dense market data of consecutive grid times.

    Fields:
        times_us: grid times, microseconds since the epoch.
        currency_usd: [time, currency] USD per unit; the null currency is 1.
        mark, forward_usd, iv: [time, instrument], instrument 0 is the null contract.
        settlement, settlement_fx: [time, instrument], NaN until expired.
        funding: [time, instrument] paid by one long contract since the snapshot.
    """

    times_us: np.ndarray
    currency_usd: np.ndarray
    mark: np.ndarray
    forward_usd: np.ndarray
    iv: np.ndarray
    settlement: np.ndarray
    settlement_fx: np.ndarray
    funding: np.ndarray


def micros(times: Any) -> np.ndarray:
    """Microseconds since the epoch of UTC times."""
    values = pd.DatetimeIndex(times).tz_convert("UTC").tz_localize(None)
    return values.as_unit("us").to_numpy().astype("int64")


def stamp(time_us: SupportsInt) -> pd.Timestamp:
    """UTC timestamp of microseconds since the epoch."""
    return utc(pd.Timestamp(int(time_us), unit="us", tz="UTC"))


def last_known(
    row_times_us: np.ndarray,
    row_columns: np.ndarray,
    values: np.ndarray,
    times_us: np.ndarray,
    num_columns: int,
    max_staleness_us: int,
) -> np.ndarray:
    """[time, column, value]: the last row at or before each time, NaN where too old or absent.

    Args:
        row_times_us: time of each row.
        row_columns: column of each row.
        values: [row, value] of each row.
        times_us: ascending times wanted.
        num_columns: width of the answer.
        max_staleness_us: oldest age carried forward.
    """
    out = np.full((len(times_us), num_columns, values.shape[1]), np.nan)
    if not len(row_times_us):
        return out
    order = np.lexsort((row_times_us, row_columns))
    key_time, key_column = row_times_us[order], row_columns[order]
    starts = np.searchsorted(key_column, np.arange(num_columns), "left")
    stops = np.searchsorted(key_column, np.arange(num_columns), "right")
    for column in np.flatnonzero(stops > starts):
        mine = slice(starts[column], stops[column])
        known = np.searchsorted(key_time[mine], times_us, "right") - 1
        row = np.maximum(known, 0)
        fresh = (known >= 0) & (times_us - key_time[mine][row] <= max_staleness_us)
        out[fresh, column] = values[order[mine][row[fresh]]]
    return out


@dataclass
class MarketSource:
    """Reads market windows of one replay and keeps what was quarantined on the way.

    Fields:
        dataset, instruments, currencies: the data and its axes (instrument axis without null).
        snapshot_us: time of the portfolio snapshot; funding counts after it.
        max_staleness_us: oldest mark or index carried forward.
        with_funding: whether funding moves cash.
        all_instruments: every valid instrument of the dataset (to judge rows of ``marks``).
    """

    dataset: Dataset
    instruments: pd.DataFrame
    all_instruments: pd.DataFrame
    currencies: Currencies
    snapshot_us: int
    max_staleness_us: int
    with_funding: bool
    quarantined: dict[tuple[str, str, str], dict[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = self.instruments["instrument_id"].astype(str)
        self._row_of = pd.Series(np.arange(1, len(ids) + 1), index=ids)
        expiry = pd.to_datetime(self.instruments["expiry"], utc=True)
        far = np.iinfo(np.int64).max
        self._expiry_us = np.full(len(ids) + 1, far)
        has = expiry.notna().to_numpy()
        self._expiry_us[1:][has] = micros(expiry[has])
        self._funding: tuple[int, np.ndarray] | None = None

    def window(self, times_us: np.ndarray) -> MarketWindow:
        """Everything known at each of the ascending grid times."""
        marks = self._marks(times_us)
        settlement, settlement_fx = self._settlements(times_us)
        return MarketWindow(
            times_us=times_us,
            currency_usd=self._index(times_us),
            mark=marks[:, :, 0],
            forward_usd=marks[:, :, 1],
            iv=marks[:, :, 2],
            settlement=settlement,
            settlement_fx=settlement_fx,
            funding=self._funding_paid(times_us),
        )

    def _keep(self, clean: Clean) -> pd.DataFrame:
        for row in clean.quarantined.to_dict("records"):
            self.quarantined[(str(row["file"]), str(row["row"]), str(row["reason"]))] = row
        return clean.good

    def _index_rows(self, first_us: int, last_us: int) -> pd.DataFrame:
        rows = self.dataset.index(stamp(first_us), stamp(last_us), with_source=True)
        rows = self._keep(clean_index(rows))
        rows = rows[rows["currency"].astype(str).isin(self.currencies.position)]
        return rows.assign(
            _us=micros(rows["time"]),
            _column=[self.currencies.position[c] for c in rows["currency"].astype(str)],
        )

    def _index(self, times_us: np.ndarray) -> np.ndarray:
        rows = self._index_rows(int(times_us[0]) - self.max_staleness_us, int(times_us[-1]))
        known = last_known(
            rows["_us"].to_numpy(),
            rows["_column"].to_numpy(),
            rows[["usd"]].to_numpy(float),
            times_us,
            len(self.currencies.names),
            self.max_staleness_us,
        )[:, :, 0]
        known[:, self.currencies.position["USD"]] = 1.0
        known[:, NULL_CURRENCY] = 1.0
        return known

    def _mark_rows(self, first_us: int, last_us: int) -> pd.DataFrame:
        rows = self.dataset.marks(stamp(first_us), stamp(last_us), with_source=True)
        rows = self._keep(clean_marks(rows, self.all_instruments))
        known = rows["instrument_id"].astype(object).map(self._row_of.to_dict().get)
        rows = rows[known.notna()]
        return rows.assign(_us=micros(rows["time"]), _column=known.dropna().astype(int))

    def _marks(self, times_us: np.ndarray) -> np.ndarray:
        columns = ["mark_price", "forward", "mark_iv"]
        rows = self._mark_rows(int(times_us[0]) - self.max_staleness_us, int(times_us[-1]))
        return last_known(
            rows["_us"].to_numpy(),
            rows["_column"].to_numpy(),
            rows[columns].to_numpy(float),
            times_us,
            len(self._row_of) + 1,
            self.max_staleness_us,
        )

    def _settlements(self, times_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = len(times_us), len(self._expiry_us)
        price, fx = np.full(shape, np.nan), np.full(shape, np.nan)
        position = self.currencies.position.get
        coins = self.instruments["coin"].astype(str).map(position).to_numpy()
        settles = self.instruments["settle"].astype(str).map(position).to_numpy()
        for expiry_us in np.unique(self._expiry_us[self._expiry_us <= times_us[-1]]):
            index = self._index(np.asarray([expiry_us]))[0]
            which = np.flatnonzero(self._expiry_us == expiry_us)
            after = times_us >= expiry_us
            price[np.ix_(after, which)] = index[coins[which - 1]]
            fx[np.ix_(after, which)] = index[settles[which - 1]]
        return price, fx

    def _funding_paid(self, times_us: np.ndarray) -> np.ndarray:
        paid = np.zeros((len(times_us), len(self._row_of) + 1))
        if not self.with_funding:
            return paid
        done_us, total = self._funding or (self.snapshot_us, np.zeros(paid.shape[1]))
        if times_us[0] <= done_us:
            done_us, total = self.snapshot_us, np.zeros(paid.shape[1])
        rows = self._mark_rows(done_us + 1, int(times_us[-1]))
        rows = rows.dropna(subset=["funding_rate"]).sort_values(by=["_us", "_column"])
        contract = self.instruments.iloc[rows["_column"].to_numpy() - 1]
        m, price = contract["multiplier"].to_numpy(float), rows["mark_price"].to_numpy(float)
        inverse = (contract["style"].astype(str) == "inverse").to_numpy()
        payment = np.where(inverse, m / price, m * price) * rows["funding_rate"].to_numpy(float)
        when, column = rows["_us"].to_numpy(), rows["_column"].to_numpy()
        running, k = total.copy(), 0
        for t, time_us in enumerate(times_us):
            upto = np.searchsorted(when, time_us, "right")
            np.add.at(running, column[k:upto], payment[k:upto])
            k = upto
            paid[t] = running
        self._funding = int(times_us[-1]), running
        return paid


def grid_times(
    dataset: Dataset, start: pd.Timestamp, end: pd.Timestamp, interval_us: int | None
) -> np.ndarray:
    """Times of the ``index`` table inside [start, end], thinned to the interval.

    Thinned: the times whose distance from the first multiple of the interval is a whole number of
    intervals; the anchor is the epoch, so that a later end never moves the grid.
    """
    times = np.unique(micros(dataset.index(start, end)["time"]))
    if interval_us is not None:
        times = times[times % interval_us == 0]
    return times
