"""Whether the tables of portfolios speak of the same times."""

import pandas as pd

from backtest.dataset import Dataset, utc
from backtest.schema import TABLES
from backtest.tables import distinct_times


def unpaired_snapshots(dataset: Dataset) -> list[str]:
    """What is odd about times of positions without balances, and of balances without positions.

    A snapshot is every portfolio whole at one time; the replay does not put times together.
    """
    held, cash = (
        {utc(t) for part in dataset.parts(name) for t in distinct_times(part.path, TABLES[name])}
        for name in ("positions", "balances")
    )
    found: list[str] = []
    pairs = (("positions", "balances", held - cash), ("balances", "positions", cash - held))
    for name, other, alone in pairs if held else ():
        if alone:
            first = _shown(min(alone))
            found.append(
                f"{len(alone)} snapshot times have {name} and no {other} (first: {first}); rows of "
                "one portfolio need the same time, or they are replayed as two portfolios"
            )
    return found


def known_snapshots(dataset: Dataset) -> set[pd.Timestamp]:
    """Times of the portfolios that a dataset holds; none where it is a market only."""
    return set(dataset.snapshot_times()) if dataset.has("balances") else set()


def lonely_snapshots(dataset: Dataset, before: set[pd.Timestamp]) -> list[str]:
    """What is odd about accounts that joined a dataset at times that it had no portfolios at.

    The replay takes one snapshot at a time: those who are not in it are not replayed.
    """
    joined = known_snapshots(dataset) - before
    if not before or not joined:
        return []
    first, last = _shown(min(joined)), _shown(max(before))
    what = f"{len(joined)} snapshot times are new (first: {first}), others are older (last: {last})"
    return [f"{what}; a replay takes one snapshot at a time and leaves accounts of others out"]


def _shown(time: pd.Timestamp) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"
