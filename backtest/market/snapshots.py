"""Recorded option chains: what was listed and marked at each snapshot of a coin."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from backtest.errors import DataError
from backtest.market.bars import read_columns
from backtest.market.black import BoolArray, FloatArray, IntArray
from backtest.market.config import ChainConfig
from backtest.market.listing import option_table
from backtest.market.series import (
    SECOND_US,
    floats_of,
    instant,
    microseconds_of,
    names_of,
    rows_of,
    times_of,
)


_COLUMNS = (
    "currency", "expiry", "right", "strike", "index_price", "forward", "mark_price", "mark_iv",
)  # fmt: skip
_STRIKE_UNITS = 1e6


@dataclass(frozen=True)
class Snapshots:
    """Chain snapshots of one coin; matrices are snapshot x option, NaN where not listed."""

    coin: str
    times: IntArray
    index_usd: FloatArray
    """Median index over the rows of each snapshot."""
    strike: FloatArray
    expiry: IntArray
    listed: IntArray
    """First snapshot in which the option is seen."""
    is_call: BoolArray
    mark: FloatArray
    """Coins per coin."""
    forward: FloatArray
    iv: FloatArray
    """Fraction a year; NaN also where missing or absurd."""
    instruments: pd.DataFrame
    rejected_iv: int


def read_snapshots(root: Path, config: ChainConfig) -> dict[str, Snapshots]:
    """Snapshots of each option coin inside the window, and those before that still count.

    Raises:
        DataError: a coin has no snapshot in the window.
    """
    path = (root / config.chain).with_suffix(".parquet")
    frame = read_columns(path, root, _COLUMNS)
    known = times_of(frame, "ts")
    first, last = microseconds_of(config.start), microseconds_of(config.end)
    covered = f"{instant(known[0])} to {instant(known[-1])}"
    age = int(config.max_age.total_seconds() * SECOND_US)
    frame = rows_of(frame, (known >= first - age) & (known <= last))
    found: dict[str, Snapshots] = {}
    for coin in config.option_coins:
        own = rows_of(frame, names_of(frame, "currency") == coin)
        if not (times_of(own, "ts") >= first).any():
            raise DataError(
                f"{path.relative_to(root)}: no {coin} snapshot between {config.start} and "
                f"{config.end}; the file covers {covered}"
            )
        found[coin] = _snapshots(coin, own, config)
    return found


def _snapshots(coin: str, own: pd.DataFrame, config: ChainConfig) -> Snapshots:
    own = rows_of(own, times_of(own, "expiry") > times_of(own, "ts"))
    known = times_of(own, "ts")
    is_call = names_of(own, "right") == "C"
    strikes = np.round(floats_of(own, "strike") * _STRIKE_UNITS).astype(np.int64)
    keys = np.column_stack([times_of(own, "expiry"), strikes, ~is_call])
    options, column = np.unique(keys, axis=0, return_inverse=True)
    times, row = np.unique(known, return_inverse=True)
    listed = np.full(len(options), known.max())
    np.minimum.at(listed, column, known)
    iv = floats_of(own, "mark_iv") / 100.0
    absurd = ~((iv >= config.min_iv_ann) & (iv <= config.max_iv_ann))
    index = floats_of(own, "index_price")

    def matrix(values: FloatArray) -> FloatArray:
        filled = np.full((len(times), len(options)), np.nan)
        filled[row, column] = values
        return filled

    strike, expiry = options[:, 1] / _STRIKE_UNITS, options[:, 0]
    call = options[:, 2] == 0
    return Snapshots(
        coin=coin,
        times=times,
        index_usd=np.array([np.nanmedian(index[row == i]) for i in range(len(times))]),
        strike=strike,
        expiry=expiry,
        listed=listed,
        is_call=call,
        mark=matrix(floats_of(own, "mark_price")),
        forward=matrix(floats_of(own, "forward")),
        iv=matrix(np.where(absurd, np.nan, iv)),
        instruments=option_table(coin, strike, expiry, listed, call),
        rejected_iv=int(absurd.sum()),
    )
