"""What a candidate leaves behind: sums over accounts by block of time, from saved results.

Sums of blocks add up to those of any stretch of whole blocks, so one replay answers every fold of a
walk-forward; resampling blocks gives intervals that respect dependence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from backtest.durable import write_table
from backtest.report import frames
from backtest.report.reader import Results


METRICS = ("scored", "liquidated", "episodes", "gross_usd", "mmr_usd", "shortfall_usd")
"""Account-times scored; accounts liquidated for the first time; episodes begun; gross notional and
total MMR summed over account-times; what closing at the trigger leaves uncovered."""
_SUMMARY = {
    "scored": "scored",
    "episodes": "episodes_started",
    "gross_usd": "gross_notional_usd",
    "mmr_usd": "total_mmr",
}


@dataclass(frozen=True)
class Series:
    """Sums of every candidate over every block of time.

    Attributes:
        blocks: Start of each block, UTC, ascending.
        values: ``METRICS`` last.
        interval_seconds: Between two times of the replay.
    """

    blocks: np.ndarray
    values: Float[np.ndarray, "candidate block metric"]
    interval_seconds: float

    def of(self, metric: str) -> Float[np.ndarray, "candidate block"]:
        """One of the sums."""
        return self.values[:, :, METRICS.index(metric)]

    def cut(self, keep: Bool[np.ndarray, " block"]) -> "Series":
        """The same over some blocks only."""
        return Series(self.blocks[keep], self.values[:, keep], self.interval_seconds)

    def take(self, candidates: Sequence[int]) -> "Series":
        """The same of some candidates only."""
        return Series(self.blocks, self.values[list(candidates)], self.interval_seconds)

    def write(self, file: Path) -> str:
        """Save as one Parquet file; its SHA-256."""
        count, blocks, _ = self.values.shape
        columns: dict[str, object] = {
            "candidate": np.repeat(np.arange(count, dtype=np.int32), blocks),
            "block": pa.array(np.tile(self.blocks, count), pa.timestamp("us", tz="UTC")),
        }
        columns |= {name: self.of(name).ravel() for name in METRICS}
        table = pa.table(columns)
        seconds = {"interval_seconds": repr(self.interval_seconds)}
        return write_table(file, table.replace_schema_metadata(seconds))

    @classmethod
    def read(cls, file: Path) -> "Series":
        """What ``write`` saved."""
        table = pq.read_table(file)
        columns = {name: table[name].to_numpy() for name in ("candidate", *METRICS)}
        blocks = np.unique(table["block"].cast(pa.int64()).to_numpy()).astype("datetime64[us]")
        shape = (-1, len(blocks))
        values = np.stack([columns[name].reshape(shape) for name in METRICS], axis=-1)
        metadata = table.schema.metadata or {}
        return cls(blocks, values, float(metadata[b"interval_seconds"]))


def joined(parts: Sequence[Series]) -> Series:
    """Candidates of several batches one after the other."""
    first = parts[0]
    values = np.concatenate([part.values for part in parts])
    return Series(first.blocks, values, first.interval_seconds)


def series_of(
    results: Results, names: Sequence[str], block: str, closing_cost_frac: float
) -> Series:
    """The sums of some parameter sets of a run.

    Args:
        results: the run.
        names: parameter sets, in the order of the candidates.
        block: length of a block of time; blocks begin at whole multiples of it since 1970.
        closing_cost_frac: cost of closing an account at its trigger, of its gross notional.
    """
    parts = [_of_set(results, name, block, closing_cost_frac) for name in names]
    blocks = parts[0].index.union(parts[-1].index)
    for part in parts[1:-1]:
        blocks = blocks.union(part.index)
    whole = [part.reindex(blocks, fill_value=0.0)[list(METRICS)].to_numpy(float) for part in parts]
    starts = pd.DatetimeIndex(blocks).tz_convert(None).to_numpy().astype("datetime64[us]")
    return Series(starts, np.stack(whole), results.interval_seconds)


def _of_set(results: Results, name: str, block: str, closing_cost_frac: float) -> pd.DataFrame:
    summary = results.summary(name)
    found = pd.DataFrame({k: frames.numbers(summary, c) for k, c in _SUMMARY.items()})
    found["block"] = pd.DatetimeIndex(summary["time"]).floor(block)
    sums = frames.summed(found, "block", _SUMMARY).assign(liquidated=0.0, shortfall_usd=0.0)
    sums = sums.add(_first_liquidations(results, name, block), fill_value=0.0)
    return sums.add(_shortfalls(results, name, block, closing_cost_frac), fill_value=0.0)


def _first_liquidations(results: Results, name: str, block: str) -> pd.DataFrame:
    """Accounts by the block of their first liquidation."""
    accounts = results.accounts(["first_liquidation_time"], name)
    times = pd.DatetimeIndex(accounts["first_liquidation_time"].dropna())
    rows = pd.DataFrame({"block": times.floor(block), "liquidated": np.ones(len(times))})
    return frames.summed(rows, "block", ["liquidated"])


def _shortfalls(results: Results, name: str, block: str, closing_cost_frac: float) -> pd.DataFrame:
    """What equity at the trigger does not cover of closing the account, USD by block."""
    rows = pd.DataFrame({"block": pd.DatetimeIndex([], tz="UTC"), "shortfall_usd": []})
    if results.has("events"):
        columns = ["time", "equity_usd", "gross_notional_usd"]
        events = results.events(columns, name, "liquidation")
        cost = closing_cost_frac * frames.numbers(events, "gross_notional_usd")
        rows = pd.DataFrame(
            {
                "block": pd.DatetimeIndex(events["time"]).floor(block),
                "shortfall_usd": np.maximum(cost - frames.numbers(events, "equity_usd"), 0.0),
            }
        )
    return frames.summed(rows, "block", ["shortfall_usd"])
