"""Option listing as a venue does it: strikes on a price-dependent ladder, more as spot moves.

Every expiry has a fine ladder near spot and one five times as coarse for the wings. At each grid
time the strikes within so many steps of spot are listed if they are not yet; once listed, a strike
stays until expiry. Only prices up to the time of listing matter.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from backtest.market.black import BoolArray, FloatArray, IntArray
from backtest.market.config import OPTION_MULTIPLIERS, OptionsConfig
from backtest.market.expiries import expiry_calendar, expiry_code
from backtest.market.series import DAY_US, instant, times_of, timestamps
from backtest.market.state import INSTRUMENT_COLUMNS


COARSE = 5.0
_TENOR_DAYS = np.array([2.0, 10.0, 45.0])
_STEP_SHARE = np.array([0.008, 0.0167, 0.033, 0.08])
_MIN_STRIKE_SHARE = 0.2
_MAX_STRIKE_SHARE = 4.0


@dataclass(frozen=True)
class OptionList:
    """Listed options of a coin; calls and puts of a strike are listed together."""

    strike: FloatArray
    expiry: IntArray
    listed: IntArray
    is_call: BoolArray
    instruments: pd.DataFrame


def strike_step(spot: FloatArray, days: FloatArray) -> FloatArray:
    """Step of the fine strike ladder in USD: 1, 2 or 5 times a power of ten, wider for long tenors.

    Example:
        >>> strike_step(np.full(4, 60_000.0), np.array([1.0, 7.0, 30.0, 90.0])).tolist()
        [500.0, 1000.0, 2000.0, 5000.0]
    """
    share = _STEP_SHARE[np.searchsorted(_TENOR_DAYS, days, side="left")]
    target = np.log10(spot * share)
    power = np.floor(target)
    nice = np.log10(np.array([1.0, 2.0, 5.0, 10.0]))
    nearest = np.abs((target - power)[:, None] - nice).argmin(axis=1)
    return np.round(np.array([1.0, 2.0, 5.0, 10.0])[nearest] * 10.0**power, 10)


def listed_strikes(
    times: IntArray, spot: FloatArray, expiry: int, config: OptionsConfig
) -> tuple[FloatArray, IntArray]:
    """Strikes (USD, ascending) of one expiry and the grid times at which each is listed.

    Args:
        times: grid times at which the expiry is listed (microseconds).
        spot: index at these times, USD; NaN lists nothing.
        expiry: expiry time (microseconds).
        config: how many strikes a side.
    """
    good = np.isfinite(spot)
    times, spot = times[good], spot[good]
    if len(times) == 0:
        return np.zeros(0), np.zeros(0, np.int64)
    step = strike_step(spot, (expiry - times) / DAY_US)
    strikes: list[FloatArray] = []
    since: list[IntArray] = []
    for width, sides in (
        (step, config.strikes_a_side),
        (step * COARSE, config.wing_strikes_a_side),
    ):
        centre = np.round(spot / width)
        changed = np.append(True, (np.diff(centre) != 0) | (np.diff(width) != 0))
        around = np.arange(-sides, sides + 1)
        found = (centre[changed][:, None] + around) * width[changed][:, None]
        at = np.broadcast_to(times[changed][:, None], found.shape)
        here = spot[changed][:, None]
        keep = (found >= _MIN_STRIKE_SHARE * here) & (found <= _MAX_STRIKE_SHARE * here)
        strikes.append(np.round(found[keep], 10))
        since.append(at[keep])
    every, when = np.concatenate(strikes), np.concatenate(since)
    order = np.argsort(when, kind="stable")
    unique, first = np.unique(every[order], return_index=True)
    return unique, when[order][first]


def list_options(coin: str, times: IntArray, spot: FloatArray, config: OptionsConfig) -> OptionList:
    """All options of a coin that are listed at any grid time.

    Args:
        coin: coin; options are settled in it.
        times: grid (microseconds).
        spot: index on the grid, USD.
        config: expiries and strikes.
    """
    dates = expiry_calendar(
        instant(times[0]),
        instant(times[-1]),
        daily=config.daily,
        weekly=config.weekly,
        monthly=config.monthly,
        quarterly=config.quarterly,
    )
    strikes: list[FloatArray] = []
    listed: list[IntArray] = []
    expiries: list[IntArray] = []
    bounds = zip(times_of(dates, "expiry"), times_of(dates, "listed"), strict=True)
    for expiry, since in bounds:
        alive = slice(*np.searchsorted(times, [since, expiry]))
        found, when = listed_strikes(times[alive], spot[alive], int(expiry), config)
        strikes.append(found)
        listed.append(when)
        expiries.append(np.full(len(found), expiry))
    if not any(map(len, strikes)):
        return option_list(coin, np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))
    return option_list(
        coin, np.concatenate(strikes), np.concatenate(expiries), np.concatenate(listed)
    )


def option_list(coin: str, strike: FloatArray, expiry: IntArray, listed: IntArray) -> OptionList:
    """Calls and puts at the given strikes and expiries."""
    strike, expiry, listed = np.repeat(strike, 2), np.repeat(expiry, 2), np.repeat(listed, 2)
    is_call = np.tile(np.array([True, False]), len(strike) // 2)
    return OptionList(
        strike, expiry, listed, is_call, option_table(coin, strike, expiry, listed, is_call)
    )


def option_table(
    coin: str,
    strike: FloatArray,
    expiry: IntArray,
    listed: IntArray,
    is_call: BoolArray,
) -> pd.DataFrame:
    """Instrument rows of coin-settled options, ids like ``BTC-USD-240830-60000-C``."""
    ends = timestamps(expiry)
    codes = {value: expiry_code(value) for value in ends.unique()}
    kinds = np.where(is_call, "C", "P")
    ids = [
        f"{coin}-USD-{codes[end]}-{_number(k)}-{kind}"
        for end, k, kind in zip(ends, strike.tolist(), kinds.tolist(), strict=True)
    ]
    frame = pd.DataFrame(
        {
            "instrument_id": ids,
            "kind": "option",
            "coin": coin,
            "settle": coin,
            "style": "inverse",
            "multiplier": OPTION_MULTIPLIERS.get(coin, 1.0),
            "strike": strike,
            "option_type": kinds,
            "listed": timestamps(listed),
            "expiry": ends,
        }
    )
    return frame.reindex(columns=list(INSTRUMENT_COLUMNS))


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
