"""The checks of a market, one function each: rows in, findings out.

A finding is a row of ``subject``, ``time`` (UTC), ``size`` (how far off, in the check's unit) and
``detail``. All limits are assumed; they say what is looked at, not what is wrong.

References:
    Put-call parity and total variance of undiscounted Black-76 options in coins:
    ``C - P = 1 - K/F`` and ``w = sigma^2 T`` not falling in ``T`` at equal ``ln(K/F)``.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from backtest.market.black import YEAR_US, BoolArray, FloatArray, IntArray, option_coin_price
from backtest.market.series import floats_of, names_of, rows_of, times_of, timestamps


@dataclass(frozen=True)
class Limits:
    """What counts as a finding. Assumed."""

    stale_rows: int = 12
    """Equal marks one after the other while the index moves."""
    jump_frac: float = 0.10
    """Change of a price from one row to the next."""
    basis_frac: float = 0.05
    """Mark of a perpetual or future against the index, both in USD."""
    low_iv_ann: float = 0.05
    high_iv_ann: float = 5.0
    parity_coins: float = 0.002
    """Of call minus put against ``1 - K/F``, coins."""
    model_coins: float = 0.002
    """Of an option's mark against Black-76 at its own volatility and forward, coins."""
    variance_frac: float = 0.02
    """How much total variance may fall from an expiry to the next at equal moneyness."""


COLUMNS = ["subject", "time", "size", "detail"]
_MONEYNESS = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])


def findings(
    subjects: np.ndarray, times: pd.Series | pd.DatetimeIndex, sizes: FloatArray, details: list[str]
) -> pd.DataFrame:
    """Rows of findings."""
    return pd.DataFrame(
        {"subject": subjects.astype(object), "time": times, "size": sizes, "detail": details}
    ).reset_index(drop=True)


def jumps(
    rows: pd.DataFrame, before: pd.DataFrame, key: str, value: str, limit: float
) -> pd.DataFrame:
    """Changes of a price between two rows that follow each other, as a fraction.

    Args:
        rows: one window, by time.
        before: the last row of each subject before it.
        key: column of the subject.
        value: column of the price.
        limit: smallest change reported.
    """
    both = pd.concat([before, rows], ignore_index=True)
    last = both.groupby(key, observed=True)[value].shift()
    ratio = floats_of(both, value) / np.asarray(last, np.float64)
    change = np.abs(ratio - 1.0)
    found = np.flatnonzero(change > limit)
    bad = both.iloc[found]
    details = [f"{old:.6g} to {new:.6g}" for old, new in
               zip(np.asarray(last)[found], floats_of(bad, value), strict=True)]  # fmt: skip
    return findings(names_of(bad, key), pd.Series(bad["time"]), change[found], details)


def off_the_index(marks: pd.DataFrame, limit: float) -> pd.DataFrame:
    """Perpetuals and futures whose mark is far from the index; needs ``basis`` (a fraction)."""
    basis = floats_of(marks, "basis")
    far = np.abs(basis) > limit
    bad = rows_of(marks, far)
    details = [f"mark {100 * value:+.1f} % of the index" for value in basis[far]]
    return findings(
        names_of(bad, "instrument_id"), pd.Series(bad["time"]), np.abs(basis[far]), details
    )


def absurd_volatilities(options: pd.DataFrame, limits: Limits) -> pd.DataFrame:
    """Mark volatilities outside the limits, and bids above asks where the dataset has them."""
    iv = floats_of(options, "mark_iv")
    bad = (iv < limits.low_iv_ann) | (iv > limits.high_iv_ann)
    found = [_of(options, bad, iv[bad], [f"mark_iv {value:.4g}" for value in iv[bad]])]
    for low, high in (("bid_iv", "ask_iv"), ("bid", "ask")):
        if {low, high} <= set(options.columns):
            bid, ask = floats_of(options, low), floats_of(options, high)
            crossed = (bid > ask) & (ask > 0)
            texts = [f"{low} {a:.4g} above {high} {b:.4g}" for a, b in
                     zip(bid[crossed], ask[crossed], strict=True)]  # fmt: skip
            found.append(_of(options, crossed, (bid - ask)[crossed], texts))
    return pd.concat(found, ignore_index=True)


def against_the_model(options: pd.DataFrame, limit: float) -> pd.DataFrame:
    """Marks (coins) that are not Black-76 at the row's own volatility and forward."""
    worth = option_coin_price(
        forwards=floats_of(options, "forward"),
        strikes=floats_of(options, "strike"),
        volatilities=np.nan_to_num(floats_of(options, "mark_iv")),
        years=_years(options),
        is_call=names_of(options, "option_type") == "C",
    )
    mark = floats_of(options, "mark_price")
    off = np.abs(mark - worth)
    bad = (off > limit) & np.isfinite(floats_of(options, "mark_iv"))
    texts = [f"mark {m:.5f}, model {w:.5f}" for m, w in zip(mark[bad], worth[bad], strict=True)]
    return _of(options, bad, off[bad], texts)


def parity(options: pd.DataFrame, limit: float) -> pd.DataFrame:
    """Pairs whose call minus put is not ``1 - K/F`` (coins)."""
    keys = ["time", "coin", "expiry", "strike"]
    is_call = names_of(options, "option_type") == "C"
    calls, puts = rows_of(options, is_call), rows_of(options, ~is_call)
    pairs = calls.merge(puts, "inner", keys, suffixes=("", "_put"))
    forward = 0.5 * (floats_of(pairs, "forward") + floats_of(pairs, "forward_put"))
    gap = floats_of(pairs, "mark_price") - floats_of(pairs, "mark_price_put")
    off = np.abs(gap - (1.0 - floats_of(pairs, "strike") / forward))
    bad = off > limit
    texts = [f"call minus put {value:+.5f}" for value in gap[bad]]
    return _of(pairs, bad, off[bad], texts)


def calendar(options: pd.DataFrame, limit: float) -> pd.DataFrame:
    """Expiries whose total variance is below that of the one before at equal moneyness."""
    variance = floats_of(options, "mark_iv") ** 2 * _years(options)
    rows = options.assign(
        k=np.log(floats_of(options, "strike") / floats_of(options, "forward")), w=variance
    )
    rows = rows_of(rows, np.isfinite(variance) & (variance > 0))
    parts: list[pd.DataFrame] = []
    for _, chain in rows.groupby(["time", "coin"], observed=True):
        time, coin = chain["time"].iloc[0], names_of(chain, "coin")[0]
        curves = [(day, _curve(own)) for day, own in chain.groupby("expiry", observed=True)]
        for (_, low), (expiry, high) in pairwise(curves):
            fall = 1.0 - high / low
            for place in np.flatnonzero(fall > limit):
                text = f"total variance {high[place]:.4g} after {low[place]:.4g} at ln(K/F) = "
                subject = f"{coin} {pd.Timestamp(str(expiry)):%Y-%m-%d}"
                parts.append(
                    findings(
                        np.array([subject]),
                        pd.Series([time]),
                        fall[place : place + 1],
                        [f"{text}{_MONEYNESS[place]:+.1f}"],
                    )
                )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=pd.Index(COLUMNS))


def _curve(own: pd.DataFrame) -> FloatArray:
    """Total variance at the moneyness grid, NaN outside the strikes."""
    at, place = np.unique(floats_of(own, "k"), return_inverse=True)
    mean = np.bincount(place, floats_of(own, "w")) / np.bincount(place)
    values = np.interp(_MONEYNESS, at, mean)
    inside = (at[0] <= _MONEYNESS) & (at[-1] >= _MONEYNESS)
    return np.where(inside, values, np.nan)


def _years(options: pd.DataFrame) -> FloatArray:
    return np.maximum((times_of(options, "expiry") - times_of(options, "time")) / YEAR_US, 0.0)


def _of(rows: pd.DataFrame, bad: BoolArray, sizes: FloatArray, details: list[str]) -> pd.DataFrame:
    chosen = rows_of(rows, bad)
    return findings(names_of(chosen, "instrument_id"), pd.Series(chosen["time"]), sizes, details)


class StaleRuns:
    """Marks that stay equal row after row while the index moves; runs go on over windows."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._last: dict[str, tuple[float, float, int, int]] = {}
        self._found: dict[tuple[str, int], tuple[int, float]] = {}
        """Rows and value of each run, by name and start (microseconds)."""

    def add(self, marks: pd.DataFrame) -> None:
        """Rows of a window by time, with ``index_usd`` (NaN where unknown)."""
        micros = times_of(marks, "time")
        values, index = floats_of(marks, "mark_price"), floats_of(marks, "index_usd")
        names = names_of(marks, "instrument_id")
        order = np.lexsort((micros, names.astype(str)))
        starts = np.flatnonzero(np.append(True, names[order][1:] != names[order][:-1]))
        for begin, stop in zip(starts, np.append(starts[1:], len(order)), strict=True):
            own = order[begin:stop]
            self._run(str(names[own[0]]), micros[own], values[own], index[own])

    def _run(self, name: str, micros: IntArray, values: FloatArray, index: FloatArray) -> None:
        value, first_index, start, count = self._last.get(name, (np.nan, np.nan, 0, 0))
        new = np.flatnonzero(np.append(values[0] != value, values[1:] != values[:-1]))
        bounds = [*new.tolist(), len(values)]
        first = bounds[0]
        if first and count:
            count += first
            self._note(name, start, count, float(index[first - 1]) - first_index, value)
        for begin, stop in pairwise(bounds):
            value, first_index = float(values[begin]), float(index[begin])
            start, count = int(micros[begin]), stop - begin
            self._note(name, start, count, float(index[stop - 1]) - first_index, value)
        self._last[name] = (value, first_index, start, count)

    def _note(self, name: str, start: int, count: int, moved: float, value: float) -> None:
        if count >= self._rows and abs(moved) > 0.0:
            self._found[name, start] = count, value

    def result(self) -> pd.DataFrame:
        """Runs by their start; the size is how many rows are equal."""
        counts = np.array([count for count, _ in self._found.values()], np.float64)
        texts = [f"{count} rows at {value:.6g}" for count, value in self._found.values()]
        times = timestamps(np.array([start for _, start in self._found], np.int64))
        return findings(np.array([name for name, _ in self._found], object), times, counts, texts)
