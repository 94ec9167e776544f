"""USD value of stablecoins from the finest real source that covers a time, else 1.0 and said so."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

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


FOLDER = "stablecoin"
MINUTE_US = HOUR_US // 60
_MEDIAN_HOURS = 3
_CLIP_HOURS = 24
_CLIP = 0.2


@dataclass(frozen=True)
class _Source:
    label: str
    known: Known
    max_age_us: int


def stablecoin_usd(
    root: Path, grid: IntArray, currencies: tuple[str, ...]
) -> tuple[dict[str, FloatArray], dict[str, dict[str, object]]]:
    """USD per unit of each stablecoin at each grid time, and which source covers which times.

    Only values known by a time are used: closes of minutes, hours and days that had ended.

    Returns:
        Values by currency, and provenance by currency and source (grid times, from, to).
    """
    tether = _resolve(_tether_sources(root), grid)
    found = {"USDT": tether, "USDC": None}
    if "USDC" in currencies:
        found["USDC"] = _resolve(_usd_coin_sources(root, grid, tether[0]), grid)
    values: dict[str, FloatArray] = {}
    origin: dict[str, dict[str, object]] = {}
    for currency in currencies:
        resolved = found.get(currency) or _resolve([], grid)
        values[currency], origin[currency] = resolved
    return values, origin


def _resolve(sources: list[_Source], grid: IntArray) -> tuple[FloatArray, dict[str, object]]:
    values = np.full(len(grid), np.nan)
    origin: dict[str, object] = {}
    for source in sources:
        fresh = source.known.at(grid, source.max_age_us)
        use = np.isnan(values) & np.isfinite(fresh)
        values[use] = fresh[use]
        if use.any():
            origin[source.label] = spans(grid, use)
    rest = np.isnan(values)
    if rest.any():
        values[rest] = 1.0
        origin["assumed: 1.0"] = spans(grid, rest)
    return values, origin


def _tether_sources(root: Path) -> list[_Source]:
    sources = _minutes(root, "USDT/USD")
    path = root / FOLDER / "usdt_usd_implied_1h.parquet"
    if path.is_file():
        frame = read_columns(path, root, ("usdt_usd",))
        smooth = pd.Series(floats_of(frame, "usdt_usd")).rolling(_MEDIAN_HOURS, min_periods=1)
        known = Known.of(times_of(frame, "ts") + HOUR_US, smooth.median().to_numpy())
        label = (
            f"derived: {FOLDER}/{path.name}, trailing median of {_MEDIAN_HOURS} closes "
            "(its closes are asynchronous)"
        )
        sources.append(_Source(label, known, 3 * HOUR_US))
    return sources + _days(root, "USDT/USD")


def _usd_coin_sources(root: Path, grid: IntArray, tether: FloatArray) -> list[_Source]:
    sources = _minutes(root, "USDC/USD")
    path = root / FOLDER / "binance_USDCUSDT_1h.parquet"
    if path.is_file():
        frame = read_columns(path, root, ("close",))
        close = pd.Series(floats_of(frame, "close"))
        usual = close.rolling(_CLIP_HOURS, min_periods=1).median()
        close = close.clip(usual * (1 - _CLIP), usual * (1 + _CLIP))
        pair = Known.of(times_of(frame, "ts") + HOUR_US, close.to_numpy())
        label = f"derived: {FOLDER}/{path.name} (wicks clipped) x USDT/USD"
        crossed = Known.of(grid, pair.at(grid, 3 * HOUR_US) * tether)
        sources.append(_Source(label, crossed, 0))
    return sources + _days(root, "USDC/USD")


def _minutes(root: Path, pair: str) -> list[_Source]:
    path = root / FOLDER / "2023-03_depeg_1m.parquet"
    frame = _pair(path, root, "kraken", pair)
    if frame is None:
        return []
    known = Known.of(times_of(frame, "ts") + MINUTE_US, floats_of(frame, "close"))
    return [_Source(f"real: {FOLDER}/{path.name} kraken {pair}", known, HOUR_US)]


def _days(root: Path, pair: str) -> list[_Source]:
    path = root / FOLDER / "stablecoins_usd_daily.parquet"
    sources: list[_Source] = []
    for venue in ("coinbase", "coinmarketcap"):
        frame = _pair(path, root, venue, pair)
        if frame is not None:
            known = Known.of(times_of(frame, "ts") + DAY_US, floats_of(frame, "close"))
            label = f"real: {FOLDER}/{path.name} {venue} {pair} (yesterday's close)"
            sources.append(_Source(label, known, DAY_US + HOUR_US))
    return sources


def _pair(path: Path, root: Path, venue: str, pair: str) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    frame = read_columns(path, root, ("venue", "pair", "close"))
    own = rows_of(frame, (names_of(frame, "venue") == venue) & (names_of(frame, "pair") == pair))
    return None if own.empty else own
