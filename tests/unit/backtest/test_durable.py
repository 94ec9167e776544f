import errno
import hashlib
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backtest import durable
from backtest.errors import ConfigError, RunError
from backtest.paths import PROJECT_ROOT
from tests.unit.backtest.failing_disk import CALLS, Death, Disk, full, installed


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_hash(tmp_path: Path):
    path = tmp_path / "a" / "b" / "file"
    digest = durable.write_bytes(path, b"content")
    assert path.read_bytes() == b"content"
    assert digest == hashlib.sha256(b"content").hexdigest() == durable.file_hash(path)
    assert names(path.parent) == ["file"]


def test_a_table_is_written_with_its_hash(tmp_path: Path):
    table = pa.table({"x": list(range(1_000))})
    digest = durable.write_table(tmp_path / "t.parquet", table)
    assert pq.read_table(tmp_path / "t.parquet").equals(table)
    assert digest == durable.file_hash(tmp_path / "t.parquet")


def test_no_hash_of_what_cannot_be_read(tmp_path: Path):
    assert durable.file_hash(tmp_path / "none") is None
    assert durable.file_hash(tmp_path) is None


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "file"
    durable.write_bytes(path, b"old")
    for name in ("open", "write", "fsync"):
        with (
            installed(Disk((name, 0), full)),
            pytest.raises(RunError, match=f"{tmp_path}: no space"),
        ):
            durable.write_bytes(path, b"new")
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == ["file"]


def test_another_error_of_the_disk_is_passed_on(tmp_path: Path):
    broken = lambda: OSError(errno.EIO, "broken")
    with installed(Disk(("write", 0), broken)), pytest.raises(OSError, match="broken"):
        durable.write_table(tmp_path / "t.parquet", pa.table({"x": [1]}))
    assert not names(tmp_path)


def test_after_a_death_the_name_is_the_old_file_or_the_new_one(tmp_path: Path):
    """Also where the power went."""
    for seed in range(40):
        path = tmp_path / f"{seed}" / "file"
        durable.write_bytes(path, b"old")
        disk = Disk((CALLS[seed % 4], seed // 4 % 2), seed=seed, loses_power=True)
        with installed(disk), suppress(Death):
            durable.write_bytes(path, b"new")
        assert path.read_bytes() in ((b"old", b"new") if disk.failed else (b"new",))
        durable.remove_left_overs(tmp_path)
        assert names(path.parent) == ["file"]


def test_lines_survive_a_death(tmp_path: Path):
    for seed in range(40):
        path = tmp_path / f"{seed}.jsonl"
        durable.append_line(path, b"first")
        with (
            installed(Disk((CALLS[seed % 3], 0), seed=seed, loses_power=True)),
            pytest.raises(Death),
        ):
            durable.append_line(path, b"second")
        durable.append_line(path, b"third")
        lines = path.read_bytes().split(b"\n")
        assert lines[1] == b"first"
        assert lines[-1] == b"third"


APPEND = """
import sys
from pathlib import Path
from backtest.durable import append_line
for k in range(200):
    append_line(Path(sys.argv[1]), f"{sys.argv[2]}-{k}".encode())
"""


def test_several_processes_list_in_one_file(tmp_path: Path):
    path = tmp_path / "listing"
    words = [sys.executable, "-c", APPEND, str(path)]
    others = [subprocess.Popen([*words, name], cwd=PROJECT_ROOT) for name in "abc"]
    assert [other.wait(60) for other in others] == [0, 0, 0]
    lines = path.read_text().split("\n")[1:]
    assert sorted(lines) == sorted(f"{name}-{k}" for name in "abc" for k in range(200))


def test_left_overs_go_and_other_files_stay(tmp_path: Path):
    keep = [tmp_path / "file", tmp_path / "a" / ".hidden", tmp_path / "a" / "x.tmp"]
    for path in keep:
        durable.write_bytes(path, b"keep")
    for path in keep:
        durable.temporary_name(path).write_bytes(b"half")
    assert durable.remove_left_overs(tmp_path) == 3
    assert all(path.read_bytes() == b"keep" for path in keep)
    assert durable.remove_left_overs(tmp_path) == 0


def test_a_folder_has_one_user(tmp_path: Path):
    folder = tmp_path / "a" / "out"
    with durable.only_user(folder):
        with (
            pytest.raises(ConfigError, match="another run is writing here"),
            durable.only_user(folder),
        ):
            pass
        with durable.only_user(tmp_path / "other"):
            pass
    with durable.only_user(folder):
        pass
    assert not names(folder)
