"""Runs that die, or fill the disk, at random moments; the next run completes them to the bit.

What writes, flushes or renames a file of a run goes through ``backtest.durable``. Here the calls
it makes are counted, and at random ones the program "dies" in this process: an exception that
nothing handles, all later calls fail as well, a write stops anywhere. In half of the cases the
power is lost too: what was not flushed by then is cut off or undone. Deaths of real processes are
in ``test_kills``.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from backtest import cli
from backtest.errors import RunError
from tests.unit.backtest import tiny_world
from tests.unit.backtest.failing_disk import (
    CALLS,
    NUM_CELLS,
    Death,
    Disk,
    full,
    installed,
    replay,
    same_files,
    write_config,
)


pytestmark = pytest.mark.slow
CHAINS = 6
FULL = 5


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("crashes"))


@pytest.fixture(scope="module")
def base(config: Path) -> Path:
    """A run that nothing disturbs."""
    out = config.parent / "base"
    replay(config, out)
    return out


@pytest.fixture(scope="module")
def calls(config: Path, base: Path) -> list[str]:
    """What such a run asks of the disk, in order."""
    with installed(Disk()) as disk:
        replay(config, config.parent / "counted")
    same_files(config.parent / "counted", base)
    assert set(disk.calls) == set(CALLS)
    return disk.calls


def completed(config: Path, out: Path, base: Path) -> int:
    """Run to the end and compare; the cells that had to be computed."""
    cells = replay(config, out)["cells"]
    assert cells["computed"] + cells["reused"] == NUM_CELLS
    same_files(out, base)
    return cells["computed"]


def test_dead_at_random_moments(config: Path, base: Path, calls: list[str], tmp_path: Path):
    """Chains of deaths in one folder, then the run that completes it."""
    rng = np.random.default_rng(11)
    deaths = saved = 0
    for chain in range(CHAINS):
        out = tmp_path / f"out-{chain}"
        for name in rng.permutation(CALLS).tolist():
            at = name, int(rng.integers(calls.count(name) // 3))
            disk = Disk(at, seed=int(rng.integers(2**32)), loses_power=chain % 2 == 1)
            with installed(disk), suppress(Death):
                replay(config, out)
            deaths += disk.failed
        saved += NUM_CELLS - completed(config, out, base)
    assert deaths >= 20
    assert saved > CHAINS


def test_dead_before_the_first_cell(config: Path, base: Path, tmp_path: Path):
    """Not even the file that says whose folder it is is there."""
    for name in CALLS:
        with installed(Disk((name, 0))), pytest.raises(Death):
            replay(config, tmp_path / "out")
    assert completed(config, tmp_path / "out", base) == NUM_CELLS


def test_disk_full_at_random_moments(config: Path, base: Path, calls: list[str], tmp_path: Path):
    rng = np.random.default_rng(12)
    for k in range(FULL):
        name, out = ("open", "write", "fsync", "write")[k % 4], tmp_path / f"out-{k}"
        at = name, int(rng.integers(calls.count(name)))
        with (
            installed(Disk(at, full, seed=k)) as disk,
            pytest.raises(RunError, match="no space left on the disk; make room") as caught,
        ):
            replay(config, out)
        assert disk.failed
        assert str(out) in str(caught.value)
        completed(config, out, base)


def test_the_command_says_what_to_do(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["run", str(config), "--out", str(tmp_path / "out"), "--quiet", "--no-report"]
    with installed(Disk(("write", 30), full)), tiny_world.devices(1):
        assert cli.call(words) == 4
    shown = capsys.readouterr()
    assert not shown.out
    assert str(tmp_path / "out") in shown.err
    assert "make room there and start the same command again" in shown.err
