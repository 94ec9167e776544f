import importlib.metadata
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backtest import cluster, workers
from backtest.config import EngineSection, RunConfig, load_config
from backtest.errors import ConfigError
from tests.unit.backtest.failing_disk import write_config


TLS = ("tls_ca_file", "tls_cert", "tls_key")


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch):
    """JAX as it is installed beside graphics cards."""
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "PJRT_NPROC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [group])


def test_no_plugin_no_cards(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    assert workers.gpus() == []


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("named", "cards"),
    [("0,1", ["0", "1"]), ("GPU-8a , 3", ["GPU-8a", "3"]), ("", [])],
)
def test_cards_of_the_environment(named: str, cards: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert workers.gpus() == cards
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert workers.gpus() == []


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("code", "said", "cards"),
    [(0, "3\n", ["0", "1", "2"]), (0, "0\n", []), (1, "", []), (0, "", [])],
)
def test_cards_are_counted_in_a_child(
    code: int, said: str, cards: list[str], monkeypatch: pytest.MonkeyPatch
):
    def fake(words: list[str], env: dict[str, str], **_: Any) -> Any:
        assert words[0] == sys.executable
        assert env["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
        return subprocess.CompletedProcess(words, code, said, "")

    monkeypatch.setattr(subprocess, "run", fake)
    assert workers.gpus() == cards


@pytest.mark.usefixtures("plugin")
def test_one_worker_a_card_and_no_more_than_buckets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    each = cluster._local_workers(2, 8)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in each] == ["4", "5", "6"]
    assert len(cluster._local_workers(2, 2)) == 2
    assert len(cluster._local_workers(1, 8)) == 1


@pytest.mark.usefixtures("plugin")
def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(9)))
    assert cluster._local_workers(4, 8) == [{"PJRT_NPROC": "2"}] * 4
    assert workers.environments(16, []) == [{"PJRT_NPROC": "1"}] * 16
    monkeypatch.setenv("PJRT_NPROC", "3")
    assert cluster._local_workers(2, 8) == [{"PJRT_NPROC": "3"}] * 2


def test_what_starts_meanwhile_does_not_hear_ctrl_c():
    with workers._unheard():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_no_scheduler_answers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "CONNECT_S", 0.5)
    with (
        pytest.raises(ConfigError, match="no scheduler answers there"),
        workers.remote_client("tcp://127.0.0.1:9", EngineSection()),
    ):
        pass


def test_certificates_and_tls_go_together(tmp_path: Path):
    files = {name: tmp_path / name for name in TLS}
    engine = EngineSection.model_validate(files)
    for address, keys, text in (
        ("tls://host:1", EngineSection(), "needs --tls-ca-file"),
        ("tcp://host:1", engine, "is not encrypted"),
        ("tls://host:1", engine, f"no such file {tmp_path / 'tls_ca_file'}"),
    ):
        with pytest.raises(ConfigError, match=text), workers.remote_client(address, keys):
            pass


def test_configuration_of_workers(tmp_path: Path):
    path = write_config(tmp_path)
    config = load_config(path)
    assert (config.engine.workers_kind, config.engine.retries) == ("processes", 2)
    changes: list[dict[str, Any]] = [{"workers": 7}, {"workers_kind": "threads"}, {"retries": 9}]
    for change in [*changes, {name: "x" for name in TLS}]:
        other = config.with_engine(change)
        assert other.engine != config.engine
        assert other.hash() == config.hash()
    assert config.with_engine({}) is config
    with pytest.raises(ConfigError, match=r"command line: key 'engine\.tls_ca_file', 'tls_cert'"):
        config.with_engine({"tls_key": "x"})


def test_certificates_lie_beside_the_configuration(tmp_path: Path):
    path = write_config(tmp_path)
    text = path.read_text().replace(
        "workers = 1", 'workers = 1, tls_ca_file = "ca", tls_cert = "c"'
    )
    path.write_text(text.replace("window_times", 'tls_key = "/keys/k", window_times'))
    engine = load_config(path).engine
    found = [getattr(engine, name) for name in TLS]
    assert found == [tmp_path / "ca", tmp_path / "c", Path("/keys/k")]


def test_defaults_are_processes():
    assert RunConfig.model_fields["engine"].default.workers_kind == "processes"


@pytest.mark.parametrize(
    ("buckets", "count", "sizes"),
    [(1, 2, [1]), (8, 1, [2] * 4), (8, 2, [1] * 8), (64, 4, [4] * 16), (17, 2, [2] * 8 + [1])],
)
def test_groups_of_buckets(buckets: int, count: int, sizes: list[int]):
    found = cluster.groups(list(range(buckets)), count)
    assert [len(part) for part in found] == sizes
    assert [b for part in found for b in part] == list(range(buckets))


def test_workers_do_not_give_memory_back_at_every_call(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    with workers.local_client([{}], 0) as client:
        found = client.submit(lambda: dict(os.environ)).result()
    assert "MALLOC_TRIM_THRESHOLD_" not in found
    assert found["MALLOC_ARENA_MAX"]
