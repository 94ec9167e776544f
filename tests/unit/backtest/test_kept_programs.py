"""Compiled programs on disk: found again, never a wrong or a damaged one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from backtest import kept_programs
from backtest.kept_programs import Kept, forget_programs, keep_programs


class Pair(NamedTuple):
    total: Any
    parts: dict[str, Any]
    nothing: None = None


class Counting:
    """A function that counts how often it is traced."""

    def __init__(self) -> None:
        self.__name__ = self.__qualname__ = "counting"
        self.traced = 0

    def __call__(self, x: Any, y: Any, power: int = 1) -> Pair:
        self.traced += 1
        return Pair(jnp.sum(x["a"] ** power * y), {"b": x["a"] + y})


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before = list(kept_programs._FOLDER)
    keep_programs(tmp_path / "programs")
    yield tmp_path / "programs"
    keep_programs(before[0] if before else None)


def called(function: Counting, size: int = 3, **static: int) -> Pair:
    """As a process that has just begun calls it."""
    jax.clear_caches()
    return Kept(function, ("power",))({"a": np.arange(float(size))}, np.full(size, 2.0), **static)


def test_another_process_need_not_trace(folder: Path):
    function = Counting()
    first, second = called(function), called(function)
    assert function.traced == 1
    assert len(list(folder.iterdir())) == 1
    assert isinstance(second, Pair)
    assert second.nothing is None
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert np.array_equal(one, other)
    assert float(second.total) == 6.0


def test_other_arguments_are_other_programs(folder: Path):
    function = Counting()
    assert float(called(function, power=2).total) == 10.0
    assert float(called(function, power=3).total) == 18.0
    assert float(called(function, size=4).total) == 12.0
    assert function.traced == 3
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("keeps", [0, 10, 200])
def test_a_damaged_file_is_made_again(keeps: int, folder: Path):
    function = Counting()
    called(function)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:keeps])
    assert float(called(function).total) == 6.0
    assert function.traced == 2
    assert float(called(function).total) == 6.0
    assert function.traced == 2


def test_other_program_text_is_another_program(folder: Path, monkeypatch: pytest.MonkeyPatch):
    function = Counting()
    called(function)
    monkeypatch.setattr(kept_programs, "_surroundings", lambda: "another machine")
    called(function)
    assert function.traced == 2


def test_several_devices_and_calls_inside_programs_are_not_kept(folder: Path):
    function = Counting()
    program = Kept(function)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(
        np.arange(8.0), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    )
    assert float(program({"a": spread}, np.full(8, 2.0)).total) == 56.0
    inside = jax.jit(lambda a: program({"a": a}, a).total)
    assert float(inside(np.arange(3.0))) == 5.0
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_stops_nothing(folder: Path):
    folder.write_text("a file where the folder should be")
    assert float(called(Counting()).total) == 6.0


def test_forgotten_programs_are_read_again(folder: Path):
    function = Counting()
    program = Kept(function)
    for _ in range(2):
        assert float(program({"a": np.arange(3.0)}, np.full(3, 2.0)).total) == 6.0
        forget_programs()
    assert function.traced == 1
