"""The basis of expiry futures: recorded forward curves where there are any, else an assumption."""

from pathlib import Path

import numpy as np

from backtest.market.bars import read_columns
from backtest.market.black import YEAR_US, FloatArray, IntArray
from backtest.market.config import FuturesConfig
from backtest.market.series import DAY_US, HOUR_US, floats_of, names_of, rows_of, spans, times_of
from backtest.market.state import Carry, CurveCarry, RateCarry


CURVE_FILE = "futures_curve/deribit_forward_curve.parquet"
CURVE_AGE_US = DAY_US + 6 * HOUR_US


def coin_carry(
    root: Path | None, coin: str, grid: IntArray, config: FuturesConfig
) -> tuple[Carry, dict[str, object]]:
    """Carry of a coin on the grid, and which times are real and which are assumed."""
    assumed = f"assumed: {config.assumed_basis_ann} a year"
    carry: Carry = RateCarry(grid, np.full(len(grid), config.assumed_basis_ann))
    if root is None or config.basis == "assumed" or not (root / CURVE_FILE).is_file():
        return carry, {assumed: spans(grid, np.ones(len(grid), bool))}
    times, curves = _read(root, coin, int(grid[0]) - CURVE_AGE_US, int(grid[-1]))
    if not curves:
        return carry, {assumed: spans(grid, np.ones(len(grid), bool))}
    real = CurveCarry(grid, times, curves, CURVE_AGE_US, config.assumed_basis_ann)
    used = real.curve_rows() >= 0
    parts = {f"derived from real quotes: {CURVE_FILE}, held until the next": used, assumed: ~used}
    return real, {label: spans(grid, mask) for label, mask in parts.items() if mask.any()}


def _read(
    root: Path, coin: str, first: int, last: int
) -> tuple[IntArray, tuple[tuple[FloatArray, FloatArray], ...]]:
    columns = ("currency", "expiry", "forward", "index_price")
    frame = read_columns(root / CURVE_FILE, root, columns)
    known = times_of(frame, "ts")
    own = (names_of(frame, "currency") == coin) & (known >= first) & (known <= last)
    frame, known = rows_of(frame, own), known[own]
    years = (times_of(frame, "expiry") - known) / YEAR_US
    logs = np.log(floats_of(frame, "forward") / floats_of(frame, "index_price"))
    times: list[int] = []
    curves: list[tuple[FloatArray, FloatArray]] = []
    for time in np.unique(known):
        here = np.flatnonzero((known == time) & (years > 0))
        here = here[np.argsort(years[here])]
        if len(here):
            times.append(int(time))
            curves.append((years[here], logs[here]))
    return np.array(times, np.int64), tuple(curves)
