"""The profile of liquidations: what a sudden move of all prices liquidates, move by move.

Every account is margined again in full at the moved prices, with its options revalued at unchanged
volatilities, as ``reverse_stress`` does it. Nothing reacts to the move: this is the first round.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from backtest.calibration.reverse_stress import AMOUNTS, Shocks
from backtest.calibration.standing import Standing
from backtest.config import RunConfig
from backtest.durable import write_table
from backtest.market_window import stamp


TABLE = "liquidation_profile"
"""Table of ``report_data``."""
MOVES_FRAC = np.arange(-20, 21) / 40.0
"""Moves of all coins that are looked at: -50 % to +50 % in steps of 2.5 %."""


def liquidation_profile(
    config: RunConfig,
    time: pd.Timestamp | None = None,
    *,
    closing_cost_frac: float = 0.0,
    accounts: int | None = None,
) -> pd.DataFrame:
    """What each of ``MOVES_FRAC`` liquidates under every parameter set of a run.

    Args:
        config: the run; its dataset is there.
        time: when accounts are taken as they stand; the run's first time if absent.
        closing_cost_frac: cost of closing an account, of its gross notional then.
        accounts: about how many are drawn, None = all.

    Returns:
        Rows by set and move: gross notional (before the move) and number of the accounts at or
        below the liquidation level, what their equity leaves uncovered, and the whole they are of.
    """
    standing = Standing(config, accounts, config.seed)
    time_us = int(standing.times_us[0]) if time is None else standing.grid_time(time)
    points = np.stack([MOVES_FRAC, np.zeros(len(MOVES_FRAC))], axis=1)
    found = []
    for name in (s.name for s in config.parameter_sets):
        measure = Shocks(standing, name, time_us, closing_cost_frac)
        about = {"parameter_set": name, "time": stamp(time_us), "price_move_frac": MOVES_FRAC}
        columns = dict(zip(AMOUNTS, measure.amounts(points).T, strict=True))
        whole = {"gross_notional_usd": measure.gross_usd, "accounts": measure.accounts}
        found.append(pd.DataFrame(about | columns | whole))
    return pd.concat(found, ignore_index=True).astype({"accounts_liquidated": int})


def save_profile(folder: Path, profile: pd.DataFrame) -> None:
    """Write what ``liquidation_profile`` found into the results folder of its run."""
    table = pa.Table.from_pandas(profile, preserve_index=False)
    write_table(folder / "report_data" / f"{TABLE}.parquet", table)
