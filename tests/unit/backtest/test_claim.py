"""Whose results a folder holds, and what happens to what is there."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from backtest.claim import MARKER, claim
from backtest.errors import ConfigError


MINE: dict[str, Any] = {"run_id": "1", "config": "a", "code": "b"}


def files(out: Path) -> list[str]:
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder of this run with a result."""
    claim(tmp_path, MINE, fresh=False)
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "a.parquet").write_bytes(b"a")
    return tmp_path


def test_an_empty_folder_becomes_ours(tmp_path: Path):
    (tmp_path / ".run.json.0.tmp").write_bytes(b"half")
    claim(tmp_path, MINE, fresh=False)
    assert json.loads((tmp_path / MARKER).read_bytes()) == MINE


def test_our_folder_stays_as_it_is(out: Path):
    before = files(out)
    claim(out, MINE, fresh=False)
    assert files(out) == before


def test_the_folder_of_another_run_is_refused(out: Path):
    other = MINE | {"run_id": "2", "code": "c"}
    with pytest.raises(ConfigError, match=r"holds another run \(different: code\)"):
        claim(out, other, fresh=False)
    claim(out, other, fresh=True)
    assert files(out) == [MARKER]
    assert json.loads((out / MARKER).read_bytes()) == other


def test_a_folder_without_any_result_becomes_that_of_a_corrected_run(tmp_path: Path):
    claim(tmp_path, MINE, fresh=False)
    other = MINE | {"run_id": "2", "config": "b"}
    claim(tmp_path, other, fresh=False)
    assert json.loads((tmp_path / MARKER).read_bytes()) == other


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"3"])
def test_a_damaged_marker_is_named(content: bytes, out: Path):
    (out / MARKER).write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.json: is damaged .* --fresh"):
        claim(out, MINE, fresh=False)


@pytest.mark.parametrize("fresh", [False, True])
def test_other_folders_are_left_alone(fresh: bool, tmp_path: Path):
    (tmp_path / "letter").write_bytes(b"dear")
    with pytest.raises(ConfigError, match="no results folder"):
        claim(tmp_path, MINE, fresh=fresh)
    assert files(tmp_path) == ["letter"]


def test_an_interrupted_removal_can_be_repeated(out: Path):
    """The marker goes last: until then the folder is known as one of results."""
    with (
        mock.patch.object(shutil, "rmtree", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        claim(out, MINE, fresh=True)
    assert (out / MARKER).is_file()
    claim(out, MINE, fresh=True)
    assert files(out) == [MARKER]
