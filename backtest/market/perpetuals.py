"""Marks of real perpetuals on the grid, each from the best bar there is."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backtest.market.bars import (
    SPOT_HOURLY,
    Bars,
    funding_rates,
    perpetual_mark_bars,
    perpetual_trade_bars,
    spot_bars,
)
from backtest.market.black import BoolArray, FloatArray, IntArray
from backtest.market.series import HOUR_US, Known, spans


@dataclass(frozen=True)
class PerpetualPath:
    """USDT per coin on the grid (NaN: no mark), and the funding rate at payment times."""

    mark: FloatArray
    low: FloatArray
    high: FloatArray
    funding: FloatArray


def perpetual_path(
    root: Path,
    venue: str,
    bars: str,
    spot: Bars,
    coin: str,
    grid: IntArray,
    fallback: bool,
) -> tuple[PerpetualPath, dict[str, object]]:
    """Marks of the coin's USDT perpetual and where they come from.

    On hourly bars: mark-price bars, else trade bars. On finer ones: trade bars of the window, else
    the window's spot bars with the last hour's known premium of the mark. Last: spot itself.

    Args:
        root: data root.
        venue: venue prefix.
        bars: key of the spot bars.
        spot: the coin's spot bars on the grid, USDT.
        coin: coin.
        grid: grid times (microseconds).
        fallback: whether spot may stand in where there is nothing else.
    """
    marks = perpetual_mark_bars(root, venue, coin)
    trades = perpetual_trade_bars(root, bars, venue, coin)
    sources: list[tuple[str, Bars]] = []
    if spot.step_us == HOUR_US and marks is not None:
        sources.append((f"real: mark price, {marks.origin}", marks.on(grid)))
    if trades is not None and trades.step_us == spot.step_us:
        sources.append((f"real: last trade (no mark price), {trades.origin}", trades.on(grid)))
    if spot.step_us < HOUR_US and marks is not None:
        premium = _hourly_premium(root, venue, coin, marks)
        label = f"derived: spot x last hourly premium of the perpetual, {marks.origin}"
        sources.append((label, _scaled(spot, 1.0 + premium.at(grid, HOUR_US))))
    if fallback:
        sources.append((f"derived: spot, {spot.origin}", spot))
    path, origin = _first_of(sources, grid)
    rates = funding_rates(root, venue, coin)
    funding = np.full(len(grid), np.nan) if rates is None else rates.at(grid, 0)
    funding = np.where(np.isfinite(path.close), funding, np.nan)
    origin["funding"] = _funding_origin(rates, grid, funding)
    return PerpetualPath(path.close, path.low, path.high, funding), origin


def _first_of(sources: list[tuple[str, Bars]], grid: IntArray) -> tuple[Bars, dict[str, object]]:
    close, low, high = (np.full(len(grid), np.nan) for _ in range(3))
    origin: dict[str, object] = {}
    for label, bars in sources:
        use: BoolArray = np.isnan(close) & np.isfinite(bars.close)
        if use.any():
            close[use], low[use], high[use] = bars.close[use], bars.low[use], bars.high[use]
            origin[label] = spans(grid, use)
    rest = np.isnan(close)
    if rest.any():
        origin["no mark"] = spans(grid, rest)
    return Bars(grid, close, low, high, 0, ""), origin


def _scaled(bars: Bars, factor: FloatArray) -> Bars:
    return Bars(
        bars.times,
        bars.close * factor,
        bars.low * factor,
        bars.high * factor,
        bars.step_us,
        bars.origin,
    )


def _hourly_premium(root: Path, venue: str, coin: str, marks: Bars) -> Known:
    """Premium of the hourly mark price (without one, of the last trade) to hourly spot."""
    spot = spot_bars(root, SPOT_HOURLY, venue, coin).on(marks.times)
    trades = perpetual_trade_bars(root, SPOT_HOURLY, venue, coin)
    last = marks.close if trades is None else trades.on(marks.times).close
    price = np.where(np.isfinite(marks.close), marks.close, last)
    return Known.of(marks.times, price / spot.close - 1.0)


def _funding_origin(rates: Known | None, grid: IntArray, funding: FloatArray) -> dict[str, object]:
    if rates is None:
        return {"payments": 0, "note": "no funding rates for this coin"}
    due = int(((rates.times >= grid[0]) & (rates.times <= grid[-1])).sum())
    paid = int(np.isfinite(funding).sum())
    return {"payments": paid, "left_out_no_mark_at_that_time": due - paid}
