"""Finished cells of a run: written to a temporary name, flushed, renamed, listed by content.

A cell is one (parameter set, bucket, window). Its file holds what the next window and the final
tables need; a folder of cells can be completed by the next run after any interruption.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def write_table(path: Path, table: pa.Table) -> None:
    """Write one Parquet file atomically (zstd)."""
    write_atomically(path, lambda p: pq.write_table(table, p, compression="zstd"))


def safe_name(name: str) -> str:
    """A parameter-set name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


@dataclass(frozen=True)
class Cell:
    """Content of one finished cell.

    Fields:
        accounts: ids of the accounts with a state, ascending.
        state: their states as flat arrays by field name.
        sums: [time, segment, column] integers of ``engine.SUM_COLUMNS``.
        counts: rows in, scored, unpriced, quarantined of this cell.
        files: result files that belong to the cell, relative to the run folder.
        extra: start values of the accounts and other small things, by name.
    """

    accounts: np.ndarray
    state: dict[str, np.ndarray]
    sums: np.ndarray
    counts: dict[str, int]
    files: list[str]
    extra: dict[str, np.ndarray]


class CellStore:
    """Cells of one run folder."""

    def __init__(self, root: Path) -> None:
        self.root = root / "cells"

    def path(self, set_index: int, bucket: int, window: int) -> Path:
        """File of a cell."""
        return self.root / f"w{window:05d}" / f"b{bucket:05d}-s{set_index:03d}.cell"

    def has(self, set_index: int, bucket: int, window: int) -> bool:
        """Whether the cell and every file that it lists are finished."""
        path = self.path(set_index, bucket, window)
        if not path.is_file():
            return False
        run = self.root.parent
        return all((run / name).is_file() for name in self.read(set_index, bucket, window).files)

    def read(self, set_index: int, bucket: int, window: int) -> Cell:
        """A finished cell."""
        with np.load(self.path(set_index, bucket, window), allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        meta = json.loads(str(arrays["meta"]))

        def group(prefix: str) -> dict[str, np.ndarray]:
            return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

        return Cell(
            accounts=arrays["accounts"],
            state=group("state."),
            sums=arrays["sums"],
            counts=meta["counts"],
            files=meta["files"],
            extra=group("extra."),
        )

    def write(self, set_index: int, bucket: int, window: int, cell: Cell) -> None:
        """Finish a cell; its result files must be written before."""
        arrays = {
            "accounts": cell.accounts,
            "sums": cell.sums,
            "meta": np.asarray(json.dumps({"counts": cell.counts, "files": cell.files})),
            **{f"state.{k}": v for k, v in cell.state.items()},
            **{f"extra.{k}": v for k, v in cell.extra.items()},
        }

        def dump(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)

        write_atomically(self.path(set_index, bucket, window), dump)
