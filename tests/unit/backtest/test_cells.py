import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backtest.cells import Cell, CellStore, safe_name
from backtest.errors import RunError


EVENTS = "events/today-b00003-w00000.parquet"


def cell(value: float = 1.0) -> Cell:
    return Cell(
        accounts=np.asarray(["a", "b"]),
        state={"worst_level": np.asarray([value, np.inf])},
        sums=np.ones((2, 1, 3), np.int64),
        counts={"in": 4},
        files=[EVENTS],
        extra={"segment": np.asarray([0, 1])},
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with two finished cells of bucket 3."""
    (tmp_path / "events").mkdir()
    (tmp_path / EVENTS).write_bytes(b"events")
    store = CellStore(tmp_path)
    store.write(0, 3, 0, cell())
    store.write(0, 3, 1, cell(2.0))
    return tmp_path


def has(run: Path, window: int = 0) -> bool:
    return CellStore(run).find(0, 3, window) is not None


def cell_file(run: Path) -> Path:
    return CellStore(run).path(0, 3, 0)


def test_what_is_written_is_read(run: Path):
    found = CellStore(run).read(0, 3, 1)
    assert found.accounts.tolist() == ["a", "b"]
    assert found.state["worst_level"].tolist() == [2.0, np.inf]
    assert found.extra["segment"].tolist() == [0, 1]
    assert (found.counts, found.files) == ({"in": 4}, [EVENTS])
    assert has(run)
    assert CellStore(run).find(1, 3, 0) is None
    assert CellStore(run).find(0, 4, 0) is None


def test_the_same_content_is_the_same_bytes(run: Path):
    before = cell_file(run).read_bytes()
    CellStore(run).write(0, 3, 0, cell())
    assert cell_file(run).read_bytes() == before


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [flip, Path.unlink, make_folder, lambda p: p.write_bytes(b"")])
@pytest.mark.parametrize("which", ["cell", "result"])
def test_a_damaged_file_is_not_believed(which: str, damage: Callable[[Path], None], run: Path):
    damage(cell_file(run) if which == "cell" else run / EVENTS)
    assert not has(run)
    if which == "cell":
        with pytest.raises(RunError, match="is gone or damaged"):
            CellStore(run).read(0, 3, 0)


def test_a_cell_that_is_not_listed_is_not_believed(run: Path):
    CellStore(run).listing(3).unlink()
    assert not has(run)
    CellStore(run).write(0, 3, 0, cell())
    assert has(run)
    assert not has(run, 1)


@pytest.mark.parametrize("kept", [0, 1, 30, -30, -1])
def test_a_torn_last_line_costs_its_cell_only(kept: int, run: Path):
    listing = CellStore(run).listing(3)
    lines = listing.read_bytes().split(b"\n")
    listing.write_bytes(b"\n".join([*lines[:-1], lines[-1][:kept]]))
    assert has(run)
    assert not has(run, 1)
    CellStore(run).write(0, 3, 1, cell(2.0))
    assert has(run)
    assert has(run, 1)


@pytest.mark.parametrize(
    "line", [b"\x00\x00\xff", b"[]", b"1", b"{}", b'{"cell": "x", "sha256": "y"}', b"null"]
)
def test_other_broken_lines_are_passed_over(line: bytes, run: Path):
    listing = CellStore(run).listing(3)
    listing.write_bytes(listing.read_bytes() + b"\n" + line)
    assert has(run)
    assert has(run, 1)


def test_the_last_line_of_a_cell_counts_and_tidying_keeps_it(run: Path):
    clean = CellStore(run).listing(3).read_bytes()
    store = CellStore(run)
    store.write(0, 3, 0, cell(5.0))
    store.write(0, 3, 0, cell())
    assert len(store.listing(3).read_bytes().split()) > len(clean.split())
    store.tidy(3)
    assert store.listing(3).read_bytes() == clean
    assert has(run)
    assert has(run, 1)


def test_lines_are_json_with_hashes(run: Path):
    lines = CellStore(run).listing(3).read_text().split("\n")[1:]
    assert [json.loads(line)["cell"] for line in lines] == [
        "w00000/b00003-s000.cell",
        "w00001/b00003-s000.cell",
    ]
    assert all(len(json.loads(line)["files"][EVENTS]) == 64 for line in lines)


def test_a_result_file_that_is_gone_fails_the_cell(run: Path):
    shutil.rmtree(run / "events")
    with pytest.raises(RunError, match="is gone while the run goes on"):
        CellStore(run).write(0, 3, 0, cell())


def test_names_are_safe():
    assert safe_name("a b/c:1.5-x") == "a_b_c_1.5-x"
