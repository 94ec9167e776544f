"""Whether the tables of portfolios speak of the same times."""

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
            first = f"{min(alone):%Y-%m-%d %H:%M:%S} UTC"
            found.append(
                f"{len(alone)} snapshot times have {name} and no {other} (first: {first}); rows of "
                "one portfolio need the same time, or they are replayed as two portfolios"
            )
    return found
