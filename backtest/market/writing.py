"""Writes the state of a market and its instruments as a dataset, day by day."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from backtest.dataset import Dataset, DatasetWriter
from backtest.market.black import FloatArray
from backtest.market.series import DAY_US, timestamps
from backtest.market.state import MarkBlock, MarketState, MarkSource


DEFAULT_BUCKETS = 8


def write_market(
    out: Path, state: MarketState, sources: Sequence[MarkSource], provenance: dict[str, object]
) -> Dataset:
    """Write instruments, index and marks; the finished dataset.

    Args:
        out: folder of the dataset; its name is the dataset's.
        state: index and cash currencies on the grid.
        sources: instruments with their marks.
        provenance: ``source`` of ``dataset.json``.
    """
    writer = DatasetWriter(out, out.name, state.interval_seconds, DEFAULT_BUCKETS, provenance)
    tables = [s.instruments for s in sources]
    filled = [t for t in tables if len(t)]
    writer.instruments(pd.concat(filled, ignore_index=True))
    writer.index(index_table(state))
    names = pd.Index(np.concatenate([t["instrument_id"].to_numpy(object) for t in filled]))
    offsets = np.cumsum([0, *map(len, tables)])
    days = state.times // DAY_US
    edges = np.append(np.flatnonzero(np.append(True, np.diff(days) != 0)), len(days))
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        blocks = [s.block(first, last) for s in sources]
        writer.marks(_mark_table(blocks, offsets, names, state))
    return writer.finish()


def index_table(state: MarketState) -> pd.DataFrame:
    """Rows of the table ``index``: coins where known, and cash currencies."""
    prices = {c: s.index_usd for c, s in state.coins.items()} | state.cash_usd
    matrix = np.column_stack(list(prices.values()))
    row, column = np.nonzero(np.isfinite(matrix))
    currency = pd.Categorical.from_codes(column, categories=pd.Index(list(prices)))
    return pd.DataFrame(
        {
            "time": timestamps(state.times[row]),
            "currency": currency,
            "usd": matrix[row, column],
        }
    )


def _mark_table(
    blocks: list[MarkBlock], offsets: np.ndarray, names: pd.Index, state: MarketState
) -> pd.DataFrame:
    row = np.concatenate([b.row for b in blocks])
    code = np.concatenate([b.instrument + o for b, o in zip(blocks, offsets[:-1], strict=True)])
    order = np.lexsort((code, row))

    def column(name: str) -> FloatArray:
        parts = [
            np.full(len(b.row), np.nan) if getattr(b, name) is None else getattr(b, name)
            for b in blocks
        ]
        return np.concatenate(parts)[order]

    present, codes = np.unique(code[order], return_inverse=True)
    return pd.DataFrame(
        {
            "time": timestamps(state.times[row[order]]),
            "instrument_id": pd.Categorical.from_codes(codes, categories=names[present]),
            "mark_price": column("mark"),
            "low": column("low"),
            "high": column("high"),
            "forward": column("forward"),
            "mark_iv": column("iv"),
            "funding_rate": column("funding"),
        }
    )
