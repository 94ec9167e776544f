"""The market on its grid: what every builder makes, and what instruments are marked from."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from backtest.market.black import YEAR_US, FloatArray, IntArray
from backtest.market.series import SECOND_US, Known


@runtime_checkable
class Carry(Protocol):
    """Where forwards stand against the index."""

    def log_forward(self, rows: IntArray, expiries: IntArray) -> FloatArray:
        """``ln(F / S)`` at the grid rows, one column an expiry (microseconds)."""
        ...


@dataclass(frozen=True)
class RateCarry:
    """A continuously compounded annual basis at each grid time."""

    times: IntArray
    rate_ann: FloatArray

    def log_forward(self, rows: IntArray, expiries: IntArray) -> FloatArray:
        """``rate T``."""
        years = (expiries[None, :] - self.times[rows][:, None]) / YEAR_US
        return self.rate_ann[rows][:, None] * np.maximum(years, 0.0)


@dataclass(frozen=True)
class CurveCarry:
    """Recorded forward curves, each held until the next; ``rate_ann`` where none is young enough.

    Between the expiries of a curve ``ln(F / S)`` is linear in time to expiry, beyond the last one
    the annual basis is constant.
    """

    times: IntArray
    curve_times: IntArray
    curves: tuple[tuple[FloatArray, FloatArray], ...]
    """Years to expiry and ``ln(F / S)`` of each curve, ascending."""
    max_age_us: int
    rate_ann: float

    def curve_rows(self) -> IntArray:
        """Curve used at each grid time, -1 where none is young enough."""
        known = Known(self.curve_times, np.zeros(len(self.curve_times)))
        return known.rows(self.times, self.max_age_us)

    def log_forward(self, rows: IntArray, expiries: IntArray) -> FloatArray:
        """``ln(F / S)`` from the last curve known at each time."""
        years = np.maximum((expiries[None, :] - self.times[rows][:, None]) / YEAR_US, 0.0)
        logs = years * self.rate_ann
        used = self.curve_rows()[rows]
        for curve in np.unique(used[used >= 0]):
            tenors, values = self.curves[curve]
            here = used == curve
            held = np.interp(years[here], np.append(0.0, tenors), np.append(0.0, values))
            beyond = years[here] > tenors[-1]
            logs[here] = np.where(beyond, years[here] * values[-1] / tenors[-1], held)
        return logs


@dataclass(frozen=True)
class CoinState:
    """One coin on the grid; NaN where nothing is known."""

    coin: str
    index_usd: FloatArray
    perp_usdt: FloatArray
    """Mark of the USDT perpetual, USDT per coin."""
    perp_low: FloatArray
    perp_high: FloatArray
    funding: FloatArray
    """Fraction for 8 hours, at payment times only."""
    carry: Carry
    level: FloatArray | None = None
    """30-day volatility, fraction a year; None: the coin has no surface."""
    usual_level: FloatArray | None = None


@dataclass(frozen=True)
class MarketState:
    """All coins and cash currencies on one grid."""

    times: IntArray
    interval_us: int
    coins: dict[str, CoinState]
    cash_usd: dict[str, FloatArray]
    """USD per unit of USDT, USDC and USD."""

    @property
    def interval_seconds(self) -> int:
        """Grid step in seconds."""
        return self.interval_us // SECOND_US


@dataclass(frozen=True)
class MarkBlock:
    """Mark rows of one source: grid row, instrument (position in the source's table), values."""

    row: IntArray
    instrument: IntArray
    mark: FloatArray
    low: FloatArray | None = None
    high: FloatArray | None = None
    forward: FloatArray | None = None
    iv: FloatArray | None = None
    funding: FloatArray | None = None


@runtime_checkable
class MarkSource(Protocol):
    """Instruments and their marks."""

    @property
    def instruments(self) -> pd.DataFrame:
        """The source's rows of the table ``instruments``."""
        ...

    def block(self, first: int, last: int) -> MarkBlock:
        """Mark rows of grid rows ``first`` to ``last`` (exclusive)."""
        ...


INSTRUMENT_COLUMNS = (
    "instrument_id", "kind", "coin", "settle", "style", "multiplier", "strike", "option_type",
    "listed", "expiry",
)  # fmt: skip


def instrument_table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Instruments with the schema's columns and types; what a row lacks is null."""
    frame = pd.DataFrame(rows, columns=list(INSTRUMENT_COLUMNS))
    for column in ("listed", "expiry"):
        frame[column] = pd.to_datetime(frame[column], utc=True).astype("datetime64[us, UTC]")
    for column in ("multiplier", "strike"):
        frame[column] = frame[column].astype(np.float64)
    frame["option_type"] = frame["option_type"].astype(object)
    return frame
