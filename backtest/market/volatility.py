"""The 30-day volatility level of a coin as it was known at a time, for the fitted surface."""

from pathlib import Path

import numpy as np

from backtest.market.bars import read_columns
from backtest.market.black import FloatArray, IntArray
from backtest.market.series import (
    DAY_US,
    HOUR_US,
    Known,
    floats_of,
    names_of,
    rows_of,
    spans,
    times_of,
)
from backtest.market.surface import CoinSurface
from backtest.market.surface_fit import REALISED_HALF_LIFE_HOURS, realised_volatility


FOLDER = "vol_index"
LEADER = "BTC"
"""The coin whose hourly index moves the others' daily one within the day."""
REFERENCE_DAYS = 180
_HOURLY_AGE = 30 * HOUR_US
_DAILY_AGE = DAY_US + 6 * HOUR_US
_REALISED_AGE = 48 * HOUR_US


class LevelHistory:
    """30-day at-the-money volatility of a coin, with its sources in falling order of preference.

    The hourly volatility index; the daily one of days that had ended, moved within the day by the
    leader's hourly index; trailing realised volatility through a fitted power law; an assumption.
    """

    def __init__(
        self, root: Path, coin: str, surface: CoinSurface, closes: Known, assumed: float
    ) -> None:
        self._root = root
        self._surface = surface
        self._assumed = assumed
        self._daily = _daily(root, coin)
        self._leader = _hourly(root, LEADER)
        self._hourly = _hourly(root, coin)
        self._realised = _realised(closes)
        self._moved = coin != LEADER

    def at(self, times: IntArray) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Level at each time (fraction a year), and by source label where that source is used."""
        ratio = self._surface.index_ratio
        intercept, slope = self._surface.realised
        hourly = Known.union([self._daily, self._hourly]).at(times, _HOURLY_AGE)
        hourly = np.where(np.isfinite(self._hourly.at(times, DAY_US)), hourly, np.nan)
        daily, move = self._daily_index(times)
        realised = self._realised.at(times, _REALISED_AGE)
        realised = np.exp(intercept) * np.where(realised > 0, realised, np.nan) ** slope
        candidates = {
            f"real: hourly {FOLDER}": hourly * ratio,
            f"derived: daily {FOLDER}, moved within the day by {LEADER}'s": daily * move * ratio,
            f"real: daily {FOLDER} (yesterday's)": daily * ratio,
            "derived: trailing realised volatility, half-life "
            f"{REALISED_HALF_LIFE_HOURS} h, power law fitted on {FOLDER}": realised * ratio,
            f"assumed: {self._assumed}": np.full(len(times), self._assumed),
        }
        level = np.full(len(times), np.nan)
        for label, values in candidates.items():
            use = np.isnan(level) & np.isfinite(values)
            level[use] = values[use]
            candidates[label] = np.where(use, values, np.nan)
        return level, candidates

    def on(self, grid: IntArray) -> tuple[FloatArray, FloatArray, dict[str, object]]:
        """Level and usual level (180 days before) at the grid times, and provenance."""
        level, candidates = self.at(grid)
        origin: dict[str, object] = {
            label: spans(grid, np.isfinite(values))
            for label, values in candidates.items()
            if np.isfinite(values).any()
        }
        days, inverse = np.unique(grid // DAY_US, return_inverse=True)
        back = np.arange(REFERENCE_DAYS)
        span = np.arange(days[0] - REFERENCE_DAYS + 1, days[-1] + 1)
        logs = np.log(self.at(span * DAY_US)[0])
        usual = np.exp(logs[(days - span[0])[:, None] - back].mean(axis=1))
        return level, usual[inverse], origin

    def _daily_index(self, times: IntArray) -> tuple[FloatArray, FloatArray]:
        """Last daily close, and the leader's move since (NaN: its hourly index is not at hand)."""
        daily = self._daily.at(times, _DAILY_AGE)
        row = self._daily.rows(times, _DAILY_AGE)
        if not self._moved or len(self._daily.times) == 0:
            return daily, np.full(len(times), np.nan)
        leader = Known.union([_daily(self._root, LEADER), self._leader])
        then = leader.at(self._daily.times[np.maximum(row, 0)], HOUR_US)
        fresh = np.isfinite(self._leader.at(times, DAY_US))
        return daily, np.where(fresh, leader.at(times, _HOURLY_AGE) / then, np.nan)


def _hourly(root: Path, coin: str) -> Known:
    path = root / FOLDER / f"deribit_dvol_{coin.lower()}_1h.parquet"
    return _index(path, root, None, HOUR_US)


def _daily(root: Path, coin: str) -> Known:
    return _index(root / FOLDER / "deribit_dvol_daily.parquet", root, coin, DAY_US)


def _index(path: Path, root: Path, coin: str | None, step_us: int) -> Known:
    if not path.is_file():
        return Known(np.zeros(0, np.int64), np.zeros(0))
    frame = read_columns(path, root, ("close",))
    if coin is not None:
        frame = rows_of(frame, names_of(frame, "currency") == coin)
    return Known.of(times_of(frame, "ts") + step_us, floats_of(frame, "close") / 100.0)


def _realised(closes: Known) -> Known:
    """Realised volatility of hourly closes, by the time it was known."""
    if len(closes.times) == 0:
        return closes
    return Known.of(closes.times, realised_volatility(closes.values))
