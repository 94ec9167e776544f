"""Rows of a run without details: what a calibration reads of its candidates, and no more.

Numbers that are here have the bits that they have in a run with details.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from backtest.cells import Cell
from backtest.plan import Plan, Window
from backtest.result_rows import as_table, first_rows, moments, time_array
from backtest.schema import NAME, NUMBER, TIME
from backtest.window_records import TileResult
from kernels.episodes import STARTED


if TYPE_CHECKING:
    from backtest.replay import BucketReplay

EVENTS = pa.schema(
    [
        ("parameter_set", NAME),
        ("account_id", NAME),
        ("time", TIME),
        ("event", NAME),
        ("equity_usd", NUMBER),
        ("gross_notional_usd", NUMBER),
    ]
)
ACCOUNTS = pa.schema(
    [("parameter_set", NAME), ("account_id", NAME), ("first_liquidation_time", TIME)]
)


def bare_events(
    replay: "BucketReplay", s: int, names: np.ndarray, result: TileResult, window: Window
) -> pa.Table | None:
    """One row for each liquidation event of a batch in a window, None where there is none."""
    when, who = np.nonzero(result.codes & STARTED)
    if not len(when):
        return None
    found = result.scores.at(when, who)
    columns: dict[str, Any] = {
        "parameter_set": pa.array([replay.context.set_names[s]] * len(when)),
        "account_id": pa.array(names[who].tolist()),
        "time": time_array(replay.plan.times_us[window.first + when]),
        "event": pa.array(["liquidation"] * len(when)),
        "equity_usd": found.equity_usd,
        "gross_notional_usd": found.gross_notional_usd,
    }
    return as_table(columns, EVENTS)


def bare_accounts(name: str, plan: Plan, cell: Cell) -> pa.Table:
    """When each account of a bucket was first liquidated, from the last cell of a set."""
    ids, at = first_rows(cell)
    columns = {
        "parameter_set": pa.array([name] * len(ids)),
        "account_id": pa.array(ids.tolist()),
        "first_liquidation_time": moments(cell.state["first_time"], at, plan),
    }
    return as_table(columns, ACCOUNTS)
