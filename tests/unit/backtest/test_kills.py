"""Processes that really die: by SIGKILL inside a write, by SIGKILL from outside, by Ctrl-C twice.

Few, for a process takes seconds to start. Many random moments are in ``test_crashes``.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from backtest.paths import PROJECT_ROOT
from tests.unit.backtest.failing_disk import (
    NUM_CELLS,
    Disk,
    installed,
    replay,
    same_files,
    write_config,
)


pytestmark = pytest.mark.slow
TIMEOUT_S = 240.0
DYING = """
import os, signal, sys
from pathlib import Path
from tests.unit.backtest.failing_disk import Disk, installed, replay

def die():
    os.kill(os.getpid(), signal.SIGKILL)

with installed(Disk((sys.argv[3], int(sys.argv[4])), die, seed=5)):
    replay(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    replay(write_config(folder), folder / "base")
    return folder / "base"


def start(said: Path, *words: str) -> subprocess.Popen[bytes]:
    """A Python program that leads a group of processes, as on a terminal; it writes to ``said``."""
    with said.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=PROJECT_ROOT,
            env={**os.environ, "XLA_FLAGS": ""},
            stderr=file,
            start_new_session=True,
        )


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def num_listed(out: Path) -> int:
    """Lines of all listings."""
    return sum(path.read_bytes().count(b"\n") for path in out.glob("cells/*.jsonl"))


def test_killed_inside_a_write(base: Path, folder: Path):
    """Twice in the same folder: within a file, and between two names."""
    with installed(Disk()) as disk:
        replay(write_config(folder), folder / "counted")
    out, said = folder / "inside", folder / "said"
    for name, share in (("write", 2), ("replace", 4)):
        done, number = num_listed(out), disk.calls.count(name) // share
        dying = start(said, "-c", DYING, str(write_config(folder)), str(out), name, str(number))
        assert dying.wait(TIMEOUT_S) == -signal.SIGKILL, said.read_text()
        assert num_listed(out) > done
    assert list(out.rglob(".*.tmp"))
    cells = replay(write_config(folder), out)["cells"]
    assert cells["computed"] + cells["reused"] == NUM_CELLS
    assert cells["reused"] > 0
    same_files(out, base)


def run_until_a_cell_is_done(
    folder: Path, out: Path, said: Path
) -> tuple[subprocess.Popen[bytes], list[int]]:
    """The command with two worker processes, and the processes that it started."""
    done = num_listed(out)
    words = ["-m", "backtest", "run", str(write_config(folder, 2)), "--out", str(out)]
    command = start(said, *words, "--no-report")
    until(lambda: num_listed(out) > done or command.poll() is not None)
    assert command.poll() is None, said.read_text()
    return command, [p.pid for p in psutil.Process(command.pid).children(recursive=True)]


def test_the_command_is_killed_and_interrupted_and_goes_on(base: Path, folder: Path):
    out, said = folder / "outside", folder / "said"
    command, others = run_until_a_cell_is_done(folder, out, said)
    assert len(others) >= 2
    command.kill()
    assert command.wait(TIMEOUT_S) == -signal.SIGKILL
    until(lambda: not any(psutil.pid_exists(pid) for pid in others))

    command, others = run_until_a_cell_is_done(folder, out, said)
    for _ in range(2):
        os.killpg(command.pid, signal.SIGINT)
        time.sleep(0.01)
    assert command.wait(TIMEOUT_S) == 130, said.read_text()
    until(lambda: not any(psutil.pid_exists(pid) for pid in others))
    text = said.read_text()
    assert text.splitlines()[-1] == "interrupted; what is finished stays, run again to go on"
    assert text.count("interrupted") == 1
    assert "Traceback" not in text
    assert "Warning" not in text

    cells = replay(write_config(folder), out)["cells"]
    assert cells["computed"] + cells["reused"] == NUM_CELLS
    assert cells["reused"] >= 2
    same_files(out, base)
