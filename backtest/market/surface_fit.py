"""Fits the volatility surface on recorded option chains; ``refit`` is the hook to do it again."""

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from backtest.errors import DataError
from backtest.market.black import YEAR_US, BoolArray, FloatArray, IntArray
from backtest.market.series import (
    DAY_US,
    HOUR_US,
    Known,
    floats_of,
    instant,
    microseconds_of,
    names_of,
    rows_of,
    times_of,
)
from backtest.market.surface import MONTH_YR, SURFACE_FILE, CoinSurface, SurfaceFit


CHAIN = "options_deribit/btc_eth_chain_2025-12_2026-08.parquet"
OLD_CHAIN = "options_deribit/single_day_snapshots.parquet"
OLD_FROM_US = microseconds_of(datetime(2025, 1, 1, tzinfo=UTC))
"""The recorded day of 2021 has placeholder volatilities (exactly 80 % or 100 %) and is left out."""
INDEX_DAILY = "vol_index/deribit_dvol_daily.parquet"
REALISED_HALF_LIFE_HOURS = 240
REALISED_MIN_HOURS = 72
HOURS_A_YEAR = 8766
_Z_LIMIT = 8.0
_MIN_YEARS = 0.5 / 365
_DIGITS = 6


def refit(root: Path, out: Path | None = SURFACE_FILE) -> SurfaceFit:
    """Fit the surfaces of BTC and ETH on the data under ``root``; writes ``out`` unless None."""
    chain = Chain.read(root / CHAIN)
    index = _read(root / INDEX_DAILY)
    old = Chain.read(root / OLD_CHAIN)
    old = old.where(old.time >= OLD_FROM_US)
    middle = (chain.time.min() + chain.time.max()) // 2
    coins: dict[str, CoinSurface] = {}
    errors: dict[str, dict[str, float]] = {}
    for coin in sorted(set(chain.currency)):
        own = chain.where(chain.currency == coin)
        daily = rows_of(index, names_of(index, "currency") == coin)
        bars = _read(root / f"spot_1h/binance_{coin}USDT_1h.parquet")
        shape = _fit_shape(own)
        scale = {"index_ratio": _index_ratio(own, daily), "realised": _realised(daily, bars)}
        early = _fit_shape(own.where(own.time < middle))
        coins[coin] = CoinSurface.model_validate(shape | scale)
        errors[coin] = (
            _errors(coins[coin], own, "in_sample")
            | _errors(
                CoinSurface.model_validate(early | scale),
                own.where(own.time >= middle),
                "second_half_unseen",
            )
            | _errors(coins[coin], old.where(old.currency == coin), "earlier_day")
        )
    fit = SurfaceFit(provenance=_provenance(chain), coins=coins, errors=errors)
    if out is not None:
        fit.save(out)
    return fit


@dataclass(frozen=True)
class Chain:
    """Quoted volatilities of a chain file, one element a strike: calls (puts have the same)."""

    time: IntArray
    currency: npt.NDArray[np.object_]
    expiry: IntArray
    iv: FloatArray
    """Fraction a year."""
    k: FloatArray
    """Log moneyness to the median forward of the expiry."""
    atm: FloatArray
    """Volatility at ``k = 0`` of the expiry, by interpolation in strike; NaN where not quoted."""
    level: FloatArray
    """30-day volatility of the snapshot, by interpolation of total variance."""

    @property
    def years(self) -> FloatArray:
        """Time to expiry, 365-day years."""
        return (self.expiry - self.time) / YEAR_US

    @property
    def z(self) -> FloatArray:
        """Standardised moneyness."""
        return self.k / (self.atm * np.sqrt(self.years))

    def where(self, mask: BoolArray) -> "Chain":
        """The elements where ``mask`` holds."""
        return Chain(*(getattr(self, f.name)[mask] for f in fields(self)))

    def terms(self) -> "Chain":
        """One element an expiry and snapshot."""
        return self.where(np.append(True, (np.diff(self.expiry) != 0) | (np.diff(self.time) != 0)))

    @classmethod
    def read(cls, path: Path) -> "Chain":
        """Read a chain file; elements ordered by currency, time, expiry, strike."""
        raw = _read(path)
        iv = floats_of(raw, "mark_iv") / 100.0
        raw = rows_of(raw, np.isfinite(iv) & (names_of(raw, "right") == "C"))
        raw = raw.assign(currency=names_of(raw, "currency"))
        raw = raw.sort_values(["currency", "ts", "expiry", "strike"], kind="stable")
        time, expiry = times_of(raw, "ts"), times_of(raw, "expiry")
        currency, iv = names_of(raw, "currency"), floats_of(raw, "mark_iv") / 100.0
        strike, forward = floats_of(raw, "strike"), floats_of(raw, "forward")
        k, atm, level = (np.full(len(iv), np.nan) for _ in range(3))
        new_time = np.append(True, (np.diff(time) != 0) | (currency[1:] != currency[:-1]))
        for snapshot in _groups(new_time):
            years: list[float] = []
            vols: list[float] = []
            for part in _groups(np.append(True, np.diff(expiry[snapshot]) != 0)):
                smile = slice(snapshot.start + part.start, snapshot.start + part.stop)
                k[smile] = np.log(strike[smile] / np.median(forward[smile]))
                if k[smile][0] < 0 < k[smile][-1]:
                    atm[smile] = np.interp(0.0, k[smile], iv[smile])
                    years.append(float(expiry[smile.start] - time[smile.start]) / YEAR_US)
                    vols.append(atm[smile.start].item())
            tenors = np.array(years)
            variance = np.array(vols) ** 2 * tenors
            level[snapshot] = np.sqrt(np.interp(MONTH_YR, tenors, variance) / MONTH_YR)
        chain = cls(time, currency, expiry, iv, k, atm, level)
        return chain.where(np.isfinite(atm))


def realised_volatility(closes: FloatArray) -> FloatArray:
    """Trailing realised volatility (fraction a year) of hourly closes, exponentially weighted."""
    moves = pd.Series(np.append(np.nan, np.diff(np.log(closes))) ** 2)
    decay = moves.ewm(halflife=REALISED_HALF_LIFE_HOURS, min_periods=REALISED_MIN_HOURS)
    return np.sqrt(decay.mean().to_numpy() * HOURS_A_YEAR)


def _groups(starts: BoolArray) -> list[slice]:
    edges = [*np.flatnonzero(starts).tolist(), len(starts)]
    return [slice(a, b) for a, b in pairwise(edges)]


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path}: missing; the surface is fitted on it")
    return pd.read_parquet(path)


def _fit_shape(chain: Chain) -> dict[str, object]:
    chain = chain.where(chain.years >= _MIN_YEARS)
    terms = chain.terms()
    levels = np.log(chain.level[np.append(True, np.diff(chain.time) != 0)])
    reference = round(float(np.exp(levels.mean())), _DIGITS)
    x, u = _coordinates(terms, reference)
    term = _least_squares([x, u * x, x * x, u * x * x], np.log(terms.atm / terms.level))
    width, skew, wing = _fit_smile(chain.where(_usable(chain)), reference)
    return {
        "reference_level_ann": reference,
        "term": term,
        "skew": skew,
        "wing": wing,
        "width": width,
        "x_limits": tuple(round(float(v), 3) for v in (x.min(), x.max())),
        "u_limits": tuple(round(float(v), 3) for v in (u.min(), u.max())),
        "z_limit": _Z_LIMIT,
    }


def _coordinates(chain: Chain, reference: float) -> tuple[FloatArray, FloatArray]:
    return np.log(chain.years / MONTH_YR), np.log(chain.level / reference)


def _usable(chain: Chain) -> BoolArray:
    return (np.abs(chain.z) <= _Z_LIMIT) & (chain.years >= _MIN_YEARS)


def _fit_smile(
    chain: Chain, reference: float
) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Width, skew and wing: linear least squares inside a search over the width."""
    z = chain.z
    x, u = _coordinates(chain, reference)
    target = chain.iv / chain.atm - 1.0

    def columns(width: float) -> list[FloatArray]:
        bend = np.sqrt(z * z + width * width) - width
        return [z, z * x, z * u, bend, bend * x, bend * u]

    def loss(width: float) -> float:
        matrix = np.column_stack(columns(width))
        moments, cross = matrix.T @ matrix, matrix.T @ target
        return float(target @ target - cross @ np.linalg.solve(moments, cross))

    width = min(np.arange(0.2, 4.0, 0.1).tolist(), key=loss)
    width = round(min((width + np.arange(-0.1, 0.105, 0.01)).tolist(), key=loss), 2)
    solved = _least_squares(columns(width), target)
    return width, solved[:3], solved[3:]


def _least_squares(columns: list[FloatArray], target: FloatArray) -> tuple[float, ...]:
    matrix = np.column_stack(columns)
    solved = np.linalg.solve(matrix.T @ matrix, matrix.T @ target)
    return tuple(round(float(v), _DIGITS) for v in solved)


def _index_ratio(chain: Chain, index: pd.DataFrame) -> float:
    """Median of the chain's 30-day level by the index, interpolated between open and close."""
    first = np.append(True, np.diff(chain.time) != 0)
    time, level = chain.time[first], chain.level[first]
    days = times_of(index, "ts")
    row = np.searchsorted(days, time, side="right") - 1
    inside = (row >= 0) & (time - days[row] < DAY_US)
    row, time, level = row[inside], time[inside], level[inside]
    opens, closes = floats_of(index, "open")[row], floats_of(index, "close")[row]
    value = opens + (closes - opens) * (time - days[row]) / DAY_US
    return round(float(np.median(level / (value / 100.0))), 4)


def _realised(index: pd.DataFrame, bars: pd.DataFrame) -> tuple[float, float]:
    """Power law from realised volatility at a day's end to the index's close."""
    realised = Known.of(
        times_of(bars, "ts") + HOUR_US, realised_volatility(floats_of(bars, "close"))
    )
    at = realised.at(times_of(index, "ts") + DAY_US, 0)
    good = np.isfinite(at)
    target = np.log(floats_of(index, "close")[good] / 100.0)
    slope, intercept = np.polyfit(np.log(at[good]), target, 1)
    return round(float(intercept), 4), round(float(slope), 4)


def _errors(surface: CoinSurface, chain: Chain, label: str) -> dict[str, float]:
    """Errors of the smile and of the term structure given the real level, in volatility."""
    chain = chain.where(_usable(chain))
    if len(chain.iv) == 0:
        return {}
    usual = np.full(1, surface.reference_level_ann)
    off = np.abs(
        surface.implied(
            level=chain.level, reference=usual, years=chain.years, log_moneyness=chain.k
        )
        - chain.iv
    )
    near = (np.abs(chain.z) <= 2.0) & (chain.years * 365 >= 7)
    terms = chain.terms()
    term = surface.atm(level=terms.level, reference=usual, years=terms.years)
    term = np.abs(term - terms.atm)
    values = {
        "options": float(len(off)),
        "median": float(np.median(off)),
        "p95": float(np.quantile(off, 0.95)),
        "median_near_7d": float(np.median(off[near])),
        "p95_near_7d": float(np.quantile(off[near], 0.95)),
        "atm_median": float(np.median(term)),
        "atm_p95": float(np.quantile(term, 0.95)),
    }
    return {f"{label}_{name}": round(value, 5) for name, value in values.items()}


def _provenance(chain: Chain) -> dict[str, str | int | float | list[str]]:
    return {
        "fitted_on": CHAIN,
        "from": instant(chain.time.min()).isoformat(),
        "to": instant(chain.time.max()).isoformat(),
        "snapshots": len(np.unique(chain.time)),
        "strikes": len(chain.iv),
        "index_ratio_on": f"{INDEX_DAILY} (to the last common day)",
        "realised_on": f"{INDEX_DAILY} and hourly spot closes, half-life "
        f"{REALISED_HALF_LIFE_HOURS} h",
        "errors": "absolute error of implied volatility given the real 30-day level; near_7d: "
        "|z| <= 2 and 7 days or more; second_half_unseen: fitted on the first half; "
        "earlier_day: the BTC chain of 2025-12-05, not fitted",
        "assumption": "the shape fitted on these months holds at other times",
    }
