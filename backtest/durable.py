"""Files that are there whole or not at all, whatever stops the program; with their hashes.

A file is written under a temporary name, flushed, renamed, and its folder is flushed: after a
crash the name stands for the old content or for the new one. A full disk is the user's to solve,
so it becomes an error that names the folder.
"""

import errno
import fcntl
import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from backtest.errors import ConfigError, RunError


LEFT_OVER = ".*.tmp"
"""Temporary files, as a pattern: what an interrupted run leaves behind."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_BLOCK = 1 << 20


class _Hashed(io.RawIOBase):
    """Appends to an open file and hashes what goes through."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.digest = hashlib.sha256()

    def writable(self) -> bool:  # pyright: ignore[reportImplicitOverride] (typing.override needs Python 3.12)
        return True

    def write(self, data: Any) -> int:  # pyright: ignore[reportImplicitOverride] (typing.override needs Python 3.12)
        view = memoryview(data).cast("B")
        _write_all(self._descriptor, view)
        self.digest.update(view)
        return len(view)


def _write_all(descriptor: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(descriptor, data) :]


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; each is flushed into the one above."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _flush_folder(folder.parent)


@contextmanager
def disk_of(folder: Path) -> Iterator[None]:
    """Turn a full disk into an error that says where and what to do.

    Raises:
        RunError: no space left.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise RunError(
            f"{folder}: no space left on the disk; make room there and start the same command "
            "again: what is finished stays"
        ) from error


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other process takes; the next run removes it."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def write_atomically(path: Path, write: Callable[[io.RawIOBase], None]) -> str:
    """Write a file so that it is there whole or not at all; its SHA-256.

    Raises:
        RunError: the disk is full; names the folder.
    """
    with disk_of(path.parent):
        make_folder(path.parent)
        temporary = temporary_name(path)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                file = _Hashed(descriptor)
                write(file)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
        except Exception:
            with suppress(OSError):
                temporary.unlink()
            raise
        _flush_folder(path.parent)
        return file.digest.hexdigest()


def write_bytes(path: Path, content: bytes) -> str:
    """Write a file atomically; its SHA-256."""

    def write(file: io.RawIOBase) -> None:
        file.write(content)

    return write_atomically(path, write)


def write_table(path: Path, table: pa.Table) -> str:
    """Write one Parquet file atomically (zstd); its SHA-256."""
    return write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))


def write_json(path: Path, content: dict[str, Any]) -> str:
    """Write a JSON file atomically; what JSON does not know becomes text. Its SHA-256."""
    return write_bytes(path, f"{json.dumps(content, indent=2, default=str)}\n".encode())


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a listing and flush it; safe beside other processes that do the same.

    A line begins with the line break, so what a crash left of the one before it cannot spoil it.

    Raises:
        RunError: the disk is full; names the folder.
    """
    with disk_of(path.parent):
        is_new = not path.exists()
        make_folder(path.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            _write_all(descriptor, memoryview(b"\n" + line))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            _flush_folder(path.parent)


def file_hash(path: Path) -> str | None:
    """SHA-256 of a file; None where there is none or it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def is_left_over(path: Path) -> bool:
    """Whether this is a temporary file of an interrupted run."""
    return path.match(LEFT_OVER)


def remove_left_overs(folder: Path) -> int:
    """Remove the temporary files of interrupted runs, in all folders below; how many."""
    count = 0
    for path in folder.rglob(LEFT_OVER):
        if path.is_file():
            path.unlink(missing_ok=True)
            count += 1
    return count


@contextmanager
def only_user(folder: Path) -> Iterator[None]:
    """Hold a folder so that no other process writes results into it; made where it is absent.

    The system lets go of it when the process ends, however it ends.

    Raises:
        ConfigError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder}: another run is writing here; wait for it or choose another --out"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise  # some network disks know no locks: go on without
        yield
    finally:
        os.close(descriptor)
