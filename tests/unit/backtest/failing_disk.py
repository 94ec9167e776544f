"""A disk that fails when it is told to, under the files that a run writes; and runs to try it on.

A run is that of the tiny world: four buckets, three windows, one set, twelve cells.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from backtest import durable
from backtest.config import RunConfig, load_config
from backtest.run import run
from tests.unit.backtest import tiny_world


BUCKETS, NUM_CELLS = 4, 12
CALLS = ("open", "write", "fsync", "replace")
CONFIG = """
name = "tiny"
dataset.path = "data"
replay.max_quarantined_share = 1.0
parameter_sets = [{{ name = "today", file = "{params}" }}]
traces.accounts = "all"
engine = {{ workers = {workers}, window_times = 3, workers_kind = "{kind}" }}
"""


class Death(BaseException):
    """The program is gone: nothing that handles errors may see it."""


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Disk:
    """Stands in for ``os`` in ``backtest.durable``; counts calls and fails at one of them.

    Args:
        at: name and number, from 0, of the call that fails; None: none does.
        failure: makes what is raised.
        seed: of how much of a write arrives, and of what a loss of power takes.
        loses_power: with the failure goes what was not flushed: the end of files, new names.
    """

    def __init__(
        self,
        at: tuple[str, int] | None = None,
        failure: Callable[[], BaseException] = Death,
        seed: int = 0,
        *,
        loses_power: bool = False,
    ) -> None:
        self.at, self.failure, self.loses_power = at, failure, loses_power
        self.calls: list[str] = []
        self.failed = False
        self._rng = np.random.default_rng(seed)
        self._paths: dict[int, Path] = {}
        self._flushed: dict[Path, int] = {}
        self._before: dict[Path, bytes | None] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        self._call("open")
        if flags & os.O_CREAT:
            there = path.exists()
            self._flushed.setdefault(path, path.stat().st_size if there else 0)
            if not there:
                self._before.setdefault(path, None)
        descriptor = os.open(path, flags, mode)
        self._paths[descriptor] = path
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        part = int(self._rng.integers(len(data) + 1))
        self._call("write", lambda: os.write(descriptor, data[:part]))
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self._call("fsync")
        path = self._paths[descriptor]
        if path.is_dir():
            self._before = {p: old for p, old in self._before.items() if p.parent != path}
        else:
            self._flushed[path] = path.stat().st_size

    def replace(self, source: Path, target: Path) -> None:
        self._call("replace")
        self._before.setdefault(target, target.read_bytes() if target.exists() else None)
        os.replace(source, target)
        self._flushed[target] = self._flushed.pop(source)
        self._before.pop(source, None)

    def _call(self, name: str, part: Callable[[], Any] = lambda: None) -> None:
        if self.failed and self.failure is Death:
            raise Death
        number = self.calls.count(name)
        self.calls.append(name)
        if (name, number) == self.at:
            self.failed = True
            part()
            if self.loses_power:
                self._lose_power()
            raise self.failure()

    def _lose_power(self) -> None:
        for path, size in self._flushed.items():
            if path.is_file() and path.stat().st_size > size:
                os.truncate(path, int(self._rng.integers(size, path.stat().st_size + 1)))
        for path, content in self._before.items():
            if self._rng.random() < 0.5 and path.is_file():
                path.unlink()
                if content is not None:
                    path.write_bytes(content)


@contextmanager
def installed(disk: Disk) -> Iterator[Disk]:
    with mock.patch.object(durable, "os", disk):
        yield disk


def write_config(folder: Path, workers: int = 1, kind: str = "processes") -> Path:
    """The world in ``folder``, once, and the file of a run of it."""
    if not (folder / "data").exists():
        tiny_world.write(folder / "data", buckets=BUCKETS)
    path = folder / f"{kind}-{workers}.toml"
    path.write_text(CONFIG.format(params=tiny_world.PARAMS, workers=workers, kind=kind))
    return path


def replay(config: RunConfig | Path, out: Path, **keys: Any) -> dict[str, Any]:
    """The manifest of a run on one device."""
    chosen = load_config(config) if isinstance(config, Path) else config
    with tiny_world.devices(1):
        return run(chosen, out, **keys)


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a results folder but the manifest, which holds times."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in files}
    del found["manifest.json"]
    return found


def same_files(one: Path, other: Path) -> None:
    found, expected = contents(one), contents(other)
    assert sorted(found) == sorted(expected)
    assert not [name for name in found if found[name] != expected[name]]
