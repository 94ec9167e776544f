"""The same bits for any number and kind of workers, also where one is lost."""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest
from dask.delayed import delayed
from distributed import LocalCluster, Security, SpecCluster

from backtest import cli, cluster, workers
from backtest.errors import RunError
from tests.unit.backtest import tiny_world
from tests.unit.backtest.failing_disk import (
    BUCKETS,
    NUM_CELLS,
    replay,
    same_files,
    write_config,
)


pytestmark = pytest.mark.slow
ACCOUNT_TIMES = tiny_world.NUM_ACCOUNTS * (tiny_world.HOURS + 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    replay(write_config(folder), folder / "base")
    return folder / "base"


class Heard:
    """What a run tells of its cells."""

    def __init__(self) -> None:
        self.cells = self.account_times = 0

    def __call__(self, cells: int, account_times: int) -> None:
        self.cells += cells
        self.account_times += account_times


def test_threads(base: Path, folder: Path):
    heard = Heard()
    out = folder / "threads"
    replay(write_config(folder, 3, "threads"), out, on_cell=heard)
    same_files(out, base)
    assert (heard.cells, heard.account_times) == (NUM_CELLS, ACCOUNT_TIMES)


def worker_processes() -> list[psutil.Process]:
    """Processes that Dask started for this one."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if any("spawn_main" in word for word in p.cmdline())]


def test_processes_of_which_one_is_killed(
    base: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XLA_FLAGS", "")
    heard, out, killed = Heard(), folder / "processes", list[int]()
    before = dict(os.environ)

    def on_cell(cells: int, account_times: int) -> None:
        heard(cells, account_times)
        if not killed:
            killed.append(worker_processes()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    manifest = replay(write_config(folder, 2), out, on_cell=on_cell)
    same_files(out, base)
    assert killed
    assert (heard.cells, heard.account_times) == (NUM_CELLS, ACCOUNT_TIMES)
    assert manifest["device"] == {"platform": "cpu", "count": 1}
    assert manifest["peak_memory_mb"] > 500
    assert not worker_processes()
    assert dict(os.environ) == before


@contextmanager
def scheduler_of(count: int, **keys: Any) -> Iterator[str]:
    """Address of a scheduler as it may run anywhere; its workers are threads of this process."""
    keys = {"protocol": "tcp://", "dashboard_address": "127.0.0.1:0", **keys}
    found: Any = LocalCluster(n_workers=count, threads_per_worker=1, processes=False, **keys)
    with found:
        yield found.scheduler_address


@pytest.fixture
def scheduler() -> Iterator[str]:
    with scheduler_of(2) as address:
        yield address


def test_a_scheduler(base: Path, folder: Path, scheduler: str):
    heard, out = Heard(), folder / "scheduler"
    replay(write_config(folder), out, scheduler=scheduler, on_cell=heard)
    same_files(out, base)
    assert (heard.cells, heard.account_times) == (NUM_CELLS, ACCOUNT_TIMES)


def test_failures_come_back(
    base: Path, folder: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
):
    """A bucket that cannot be replayed fails alone; the others are finished."""
    run = cluster.BucketReplay.run

    def failing(self: Any, on_cell: Any) -> Any:
        if self.bucket == 2:
            raise RunError("no luck")
        return run(self, on_cell)

    out = folder / "failing"
    with monkeypatch.context() as patch:
        patch.setattr(cluster.BucketReplay, "run", failing)
        with pytest.raises(RunError, match=r"1 of 4 buckets failed: bucket 2: no luck"):
            replay(write_config(folder), out, scheduler=scheduler)
    assert replay(write_config(folder), out)["cells"]["computed"] == NUM_CELLS // BUCKETS
    same_files(out, base)


def test_workers_of_another_program_are_refused(
    folder: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
):
    texts = iter(["mine", *["theirs"] * 9])
    monkeypatch.setattr(cluster, "source_hash", lambda: next(texts))
    with pytest.raises(RunError, match="has another program text"):
        replay(write_config(folder), folder / "other", scheduler=scheduler)


def test_a_run_that_is_stopped(folder: Path, base: Path):
    """Workers elsewhere notice and stop; the next run goes on."""
    config, out, stop = write_config(folder), folder / "stopped", threading.Event()
    with (
        scheduler_of(2) as address,
        pytest.raises(RunError, match="stopped; what is finished stays"),
    ):
        replay(config, out, scheduler=address, stop=stop, on_cell=lambda *_: stop.set())
    assert replay(config, out)["cells"]["reused"] > 0
    same_files(out, base)


def certificate(folder: Path) -> dict[str, Path]:
    """A certificate that signs itself."""
    files = {"tls_ca_file": folder / "c.pem", "tls_cert": folder / "c.pem"}
    files["tls_key"] = folder / "k.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    paths = ["-keyout", str(files["tls_key"]), "-out", str(files["tls_cert"])]
    subprocess.run([*words, "-subj", "/CN=here", *paths], check=True, capture_output=True)
    return files


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes its certificate with openssl")
def test_an_encrypted_scheduler_by_the_command(
    base: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    files, out = certificate(tmp_path), folder / "tls"
    names = [files["tls_ca_file"], files["tls_cert"], files["tls_key"]]
    ca, cert, key = map(str, names)
    security = Security(
        tls_ca_file=ca,
        tls_scheduler_cert=cert,
        tls_scheduler_key=key,
        tls_worker_cert=cert,
        tls_worker_key=key,
        tls_client_cert=cert,
        tls_client_key=key,
        require_encryption=True,
    )
    words = ["run", str(write_config(folder)), "--out", str(out), "--no-report", "--quiet"]
    flags = [f"--tls-ca-file={ca}", f"--tls-cert={cert}", f"--tls-key={key}"]
    with scheduler_of(1, protocol="tls://", security=security) as found:
        address = ["--scheduler", found]
        assert cli.call([*words, *address]) == 2
        assert "needs --tls-ca-file" in capsys.readouterr().err
        with tiny_world.devices(1):
            assert cli.call([*words, *address, *flags]) == 0
    same_files(out, base)


def test_the_graph_is_small(folder: Path):
    parts = cluster.groups(list(range(4_096)), 8)
    tasks = cluster.group_tasks(folder / ".replay.x.tmp", parts, "topic")
    sizes = [len(cloudpickle.dumps(dict(task.dask))) for task in tasks]
    assert max(sizes) < 3_000


def test_no_worker_for_too_long(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster, "PATIENCE_S", 0.2)
    monkeypatch.setattr(cluster, "LOOK_S", 0.1)
    with (
        scheduler_of(0) as empty,
        pytest.raises(RunError, match="no worker for"),
    ):
        replay(write_config(folder), folder / "alone", scheduler=empty)
    assert [path.name for path in (folder / "alone").iterdir()] == ["run.json"]


def test_a_worker_that_always_dies_fails_its_buckets():
    """Tries are counted; the answer names the buckets instead of waiting for ever."""
    with workers.local_client(workers.environments(1, []), retries=1) as client:
        task: Any = delayed(os.kill)(delayed(os.getpid)(), signal.SIGKILL)
        (future,) = client.compute([task], retries=1)
        cluster._wait(client, [future], threading.Event())
        (report,) = cluster._reports(future, [5])
    assert report["bucket"] == 5
    assert "worker was lost 2 times" in str(report["error"])


def test_a_worker_that_is_just_starting_hides_no_answer(monkeypatch: pytest.MonkeyPatch):
    """Dask cannot end a process that it is about to start again, and says so as it closes."""
    plain = SpecCluster.close

    def failing(self: SpecCluster, *arguments: Any) -> None:
        plain(self, *arguments)
        raise AssertionError("can only join a started process")

    monkeypatch.setattr(SpecCluster, "close", failing)
    with workers.local_client(workers.environments(1, []), retries=1) as client:
        answer = client.submit(int, "7").result()
    assert answer == 7
    with (
        pytest.raises(AssertionError, match="of the caller"),
        workers.local_client(workers.environments(1, []), retries=1),
    ):
        raise AssertionError("of the caller")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_workers_begin_with_few_arenas_of_memory():
    """The C library looks once, as a process starts; what is set later does nothing."""
    with workers.local_client(workers.environments(1, []), retries=1) as client:
        (begun,) = client.run(_begun_with).values()
    assert b"MALLOC_ARENA_MAX=2" in begun
    assert "MALLOC_ARENA_MAX" not in os.environ


def _begun_with() -> list[bytes]:
    return Path("/proc/self/environ").read_bytes().split(b"\0")
