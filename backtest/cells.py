"""Finished cells of a run: written whole, listed with their hash, believed only if it is theirs.

A cell is one (parameter set, bucket, window). Its file holds what the next window and the final
tables need; a folder of cells can be completed by the next run after any interruption. Cells are
listed in one file a bucket, a line a cell with the hashes of the cell and of its result files, and
with the name of the moved prices that it was replayed on, where liquidations move prices.
"""

import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from backtest.durable import append_line, file_hash, write_bytes
from backtest.errors import RunError


SIZE_BYTES = 8
"""Size of a cell's arrays, which its file begins with; compressed they follow."""
_CODEC = pa.Codec("zstd", 1)


def safe_name(name: str) -> str:
    """A parameter-set name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


@dataclass(frozen=True)
class Cell:
    """Content of one finished cell.

    Fields:
        accounts: ids of the accounts of the window's snapshot, ascending.
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


@dataclass(frozen=True)
class _Listed:
    """A line of a listing: SHA-256 of a cell's file, and of its result files by name.

    ``moves`` names the moves of prices until the end of the window, empty where there are none.
    """

    sha256: str
    files: dict[str, str]
    moves: str = ""


class CellStore:
    """Cells of one run folder. A store keeps the listings it has read: make one for each run."""

    def __init__(self, root: Path) -> None:
        self.root = root / "cells"
        self._listings: dict[int, dict[str, _Listed]] = {}

    def path(self, set_index: int, bucket: int, window: int) -> Path:
        """File of a cell."""
        return self.root / f"w{window:05d}" / f"b{bucket:05d}-s{set_index:03d}.cell"

    def listing(self, bucket: int) -> Path:
        """File that lists the cells of a bucket."""
        return self.root / f"b{bucket:05d}.jsonl"

    def find(self, set_index: int, bucket: int, window: int, moves: str = "") -> Cell | None:
        """A finished cell; None unless it and its result files are what the listing says.

        Args:
            set_index: parameter set.
            bucket: bucket.
            window: number of the window.
            moves: name of the moved prices that it must have been replayed on.
        """
        listed, run = self._listed(set_index, bucket, window), self.root.parent
        if listed is None or listed.moves != moves:
            return None
        content = self._intact(set_index, bucket, window)
        if content is None:
            return None
        is_whole = all(file_hash(run / name) == digest for name, digest in listed.files.items())
        return _decode(content) if is_whole else None

    def read(self, set_index: int, bucket: int, window: int) -> Cell:
        """A finished cell.

        Raises:
            RunError: the cell is gone or damaged.
        """
        content = self._intact(set_index, bucket, window)
        if content is None:
            path = self.path(set_index, bucket, window)
            raise RunError(f"{path}: is gone or damaged; start the same command again")
        return _decode(content)

    def write(self, set_index: int, bucket: int, window: int, cell: Cell, moves: str = "") -> None:
        """Finish a cell; its result files must be written before."""
        files: dict[str, str] = {}
        for name in cell.files:
            digest = file_hash(self.root.parent / name)
            if digest is None:
                raise RunError(f"{self.root.parent / name}: is gone while the run goes on")
            files[name] = digest
        path = self.path(set_index, bucket, window)
        listed = _Listed(write_bytes(path, _encode(cell)), files, moves)
        append_line(self.listing(bucket), _line(self._name(path), listed))
        self._of_bucket(bucket)[self._name(path)] = listed

    def tidy(self, bucket: int) -> None:
        """Write the listing anew, a line a cell in the order of names: as if nothing had failed."""
        listed = self._of_bucket(bucket)
        content = b"".join(b"\n" + _line(name, listed[name]) for name in sorted(listed))
        if self.listing(bucket).read_bytes() != content:
            write_bytes(self.listing(bucket), content)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _of_bucket(self, bucket: int) -> dict[str, _Listed]:
        if bucket not in self._listings:
            self._listings[bucket] = _read_listing(self.listing(bucket))
        return self._listings[bucket]

    def _listed(self, set_index: int, bucket: int, window: int) -> _Listed | None:
        return self._of_bucket(bucket).get(self._name(self.path(set_index, bucket, window)))

    def _intact(self, set_index: int, bucket: int, window: int) -> bytes | None:
        """Content of a cell's file, None where it is not the listed one."""
        listed = self._listed(set_index, bucket, window)
        if listed is None:
            return None
        try:
            content = self.path(set_index, bucket, window).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == listed.sha256 else None


def _line(name: str, listed: _Listed) -> bytes:
    content = {"cell": name, "sha256": listed.sha256, "files": listed.files}
    if listed.moves:
        content["moves"] = listed.moves
    return json.dumps(content, sort_keys=True).encode()


def _read_listing(path: Path) -> dict[str, _Listed]:
    """The listed cells by name; the last line of a cell counts, broken lines do not."""
    found: dict[str, _Listed] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return found
    for line in lines:
        try:
            content = json.loads(line)
            listed = _Listed(content["sha256"], dict(content["files"]), content.get("moves", ""))
            found[content["cell"]] = listed
        except (ValueError, TypeError, KeyError):
            continue  # empty, or all that a crash left of a line
    return found


def _encode(cell: Cell) -> bytes:
    arrays: dict[str, Any] = {
        "accounts": cell.accounts,
        "sums": cell.sums,
        "meta": np.asarray(json.dumps({"counts": cell.counts, "files": cell.files})),
        **{f"state.{k}": v for k, v in cell.state.items()},
        **{f"extra.{k}": v for k, v in cell.extra.items()},
    }
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    content = file.getvalue()
    return len(content).to_bytes(SIZE_BYTES) + _CODEC.compress(content, asbytes=True)


def _decode(content: bytes) -> Cell:
    size = int.from_bytes(content[:SIZE_BYTES])
    whole = _CODEC.decompress(content[SIZE_BYTES:], size, asbytes=True)
    with np.load(io.BytesIO(whole), allow_pickle=False) as saved:
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
