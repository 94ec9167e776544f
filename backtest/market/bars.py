"""Real bars from files: spot, perpetuals and funding, each value with the time it was known.

A bar's ``ts`` is its open, so its close, high and low are known one step later: that is the time
every value gets here, and the only one that the builders use.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from backtest.errors import ConfigError, DataError
from backtest.market.black import FloatArray, IntArray
from backtest.market.series import HOUR_US, Known, floats_of, instant, names_of, rows_of, times_of
from backtest.paths import real_data_root


PERP_FOLDER = "perp_1h"
SPOT_HOURLY = "spot_1h"


@dataclass(frozen=True)
class Bars:
    """Bars of one instrument; ``times`` are the bars' ends, when they were known (microseconds)."""

    times: IntArray
    close: FloatArray
    low: FloatArray
    high: FloatArray
    step_us: int
    origin: str
    """Path of the file under the data root, for provenance."""

    @property
    def known(self) -> Known:
        """Closes by the time they were known."""
        return Known.of(self.times, self.close)

    def on(self, grid: IntArray) -> "Bars":
        """The bars that end exactly on the grid times; NaN where none does."""
        row = np.searchsorted(self.times, grid)
        row = np.minimum(row, max(len(self.times) - 1, 0))
        hit = self.times[row] == grid if len(self.times) else np.zeros(len(grid), bool)
        close, low, high = (
            np.where(hit, column[row], np.nan) if len(self.times) else np.full(len(grid), np.nan)
            for column in (self.close, self.low, self.high)
        )
        return Bars(grid, close, low, high, self.step_us, self.origin)


def data_root(source: Path | None) -> Path:
    """Folder of real bars: the configured one, else the project's.

    Raises:
        ConfigError: there is none.
    """
    root = source if source is not None else real_data_root()
    if root is None or not root.is_dir():
        named = f"'{source}' is not a folder" if source is not None else "no real data found"
        raise ConfigError(
            f"[market] source: {named}; give a folder of bars, set PMSTRESS_DATA, "
            'or use kind = "generated", which needs no file'
        )
    return root


def read_columns(path: Path, root: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """The columns of a Parquet file, ordered by ``ts``.

    Raises:
        DataError: the file or one of the columns is missing, or a time occurs twice.
    """
    shown = path.relative_to(root)
    if not path.is_file():
        raise DataError(f"{shown}: missing under {root}")
    frame = pd.read_parquet(path)
    absent = [c for c in ("ts", *columns) if c not in frame.columns]
    if absent:
        raise DataError(f"{shown}: column '{absent[0]}' is missing; found {list(frame.columns)}")
    return frame.sort_values("ts", ignore_index=True)


def spot_bars(root: Path, bars: str, venue: str, coin: str) -> Bars:
    """Spot bars of a coin against USDT.

    Args:
        root: data root.
        bars: a folder of one file a coin, or a file (no suffix) with columns venue and symbol.
        venue: venue prefix.
        coin: coin.
    """
    if (root / bars).is_dir():
        return _coin_file(root, bars, f"{venue}_{coin}USDT_*.parquet", coin)
    return _window(root, bars, f"{venue}_spot", coin)


def perpetual_trade_bars(root: Path, bars: str, venue: str, coin: str) -> Bars | None:
    """Last-trade bars of the USDT perpetual from the same source as the spot bars, or None."""
    if (root / bars).is_dir():
        found = _match(root, f"{PERP_FOLDER}/{venue}_{coin}USDT_perp_*.parquet")
        return None if found is None else _bars(found, root, ("low", "high", "close"))
    try:
        return _window(root, bars, f"{venue}_perp", coin)
    except ConfigError:
        return None


def perpetual_mark_bars(root: Path, venue: str, coin: str) -> Bars | None:
    """Hourly mark-price bars of the coin's USDT perpetual, or None."""
    found = _match(root, f"{PERP_FOLDER}/{venue}_{coin}USDT_perp_*.parquet")
    if found is None:
        return None
    return _bars(found, root, ("mark_low", "mark_high", "mark_close"))


def funding_rates(root: Path, venue: str, coin: str) -> Known | None:
    """Funding rates (fraction, 8 hours) at their payment times, or None."""
    found = _match(root, f"{PERP_FOLDER}/funding_{venue}_{coin}USDT_*.parquet")
    if found is None:
        return None
    frame = read_columns(found, root, ("funding_rate",))
    return Known.of(times_of(frame, "ts"), floats_of(frame, "funding_rate"))


def _coin_file(root: Path, folder: str, pattern: str, coin: str) -> Bars:
    found = _match(root, f"{folder}/{pattern}")
    if found is None:
        held = sorted(p.name for p in (root / folder).glob("*.parquet"))
        raise ConfigError(f"[market] coins: no bars of {coin} in {root / folder}; found {held}")
    return _bars(found, root, ("low", "high", "close"))


def _match(root: Path, pattern: str) -> Path | None:
    return next(iter(sorted(root.glob(pattern))), None)


def _window(root: Path, bars: str, venue: str, coin: str) -> Bars:
    path = (root / bars).with_suffix(".parquet")
    if not path.is_file():
        raise ConfigError(f"[market] bars = '{bars}': neither a folder nor a .parquet under {root}")
    frame = read_columns(path, root, ("venue", "symbol", "low", "high", "close"))
    venues, symbols = names_of(frame, "venue"), names_of(frame, "symbol")
    own = rows_of(frame, (venues == venue) & (symbols == f"{coin}USDT"))
    if own.empty:
        held = sorted({f"{v} {s}" for v, s in zip(venues, symbols, strict=True)})
        raise ConfigError(f"[market] coins: no {venue} bars of {coin} in '{bars}'; found {held}")
    return _convert(own, path.relative_to(root), ("low", "high", "close"))


def _bars(path: Path, root: Path, columns: tuple[str, str, str]) -> Bars:
    return _convert(read_columns(path, root, columns), path.relative_to(root), columns)


def _convert(frame: pd.DataFrame, shown: Path, columns: tuple[str, str, str]) -> Bars:
    opens = times_of(frame, "ts")
    steps = np.diff(opens)
    if (steps <= 0).any():
        twice = instant(opens[int(np.argmax(steps <= 0))])
        raise DataError(f"{shown}: column 'ts': {twice} occurs twice")
    step = int(np.median(steps)) if len(steps) else HOUR_US
    low, high, close = (floats_of(frame, c) for c in columns)
    bad = (close <= 0) | (low <= 0) | (low > high)
    close, low, high = (np.where(bad, np.nan, v) for v in (close, low, high))
    return Bars(opens + step, close, low, high, step, shown.as_posix())
