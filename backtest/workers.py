"""Processes and schedulers that a run's buckets may go to; knows nothing of what they compute."""

import importlib.metadata
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any

import dask.config

from backtest.config import EngineSection
from backtest.errors import ConfigError, RunError


CONNECT_S = 30
"""Time in which a scheduler must answer."""
_HERE = {"host": "127.0.0.1", "protocol": "tcp://"}
_NO_PAGES = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
"""No dashboard; what is left of the status pages cannot be reached from outside."""
_BEFORE_START = "distributed.nanny.pre-spawn-environ"
_ARENAS = {"MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2")}
"""An arena of memory for each of XLA's threads keeps a third more than a worker needs."""
_TRIM = "MALLOC_TRIM_THRESHOLD_"
"""With Dask's 64 KiB, memory goes back to the system and comes again at every call of a program,
page by page: a replay takes 1.7 times as long. The system's own rule gives back what is large."""
_LEAKS = ("PYTHONHASHSEED", "__DASK_PARENT_PID")
"""What Dask sets in this process, besides what its configuration names."""
_COUNT = "import jax; print(sum(d.platform == 'gpu' for d in jax.local_devices()))"


def gpus() -> list[str]:
    """Names of the graphics cards as ``CUDA_VISIBLE_DEVICES`` has them; none is the usual case.

    Nothing is loaded for it here: JAX takes most of a card's memory for the process that looks.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    if not importlib.metadata.entry_points(group="jax_plugins"):
        return []  # JAX as it is installed here knows processors only
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(k) for k in range(_count_in_child())]


def _count_in_child() -> int:
    quiet = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3"}
    words = [sys.executable, "-c", _COUNT]
    found = subprocess.run(words, env=quiet, capture_output=True, text=True, check=False)
    last = found.stdout.split()[-1:]
    return int(last[0]) if found.returncode == 0 and last else 0


def environments(count: int, cards: list[str]) -> list[dict[str, str]]:
    """Variables of each of ``count`` worker processes: its card, or its share of the cores."""
    if cards:
        return [{"CUDA_VISIBLE_DEVICES": card} for card in cards[:count]]
    threads = os.environ.get("PJRT_NPROC", str(max(1, _cores() // count)))
    return [{"PJRT_NPROC": threads} for _ in range(count)]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def local_client(variables: list[dict[str, str]], retries: int) -> Iterator[Any]:
    """A Dask client of worker processes on this machine, one for each set of variables.

    Lost processes are started again; all of them end with this process, however it ends.

    Raises:
        RunError: the processes do not start.
    """
    from distributed import Client, Nanny, Scheduler, SpecCluster

    quiet: dict[str, Any] = {"silence_logs": logging.CRITICAL}
    common = {**_HERE, **_NO_PAGES, **quiet, "nthreads": 1, "memory_limit": 0}
    workers = {
        k: {"cls": Nanny, "options": common | {"env": one}} for k, one in enumerate(variables)
    }
    options = {**_HERE, **_NO_PAGES, "port": 0, "allowed_failures": retries}
    scheduler = {"cls": Scheduler, "options": options}
    started_with = {**dask.config.get(_BEFORE_START), **_ARENAS}
    started_with.pop(_TRIM, None)
    # Dask sets them here for the processes that it starts, and leaves them.
    kept = restored_environment({*started_with, *_LEAKS})
    with dask.config.set({_BEFORE_START: started_with}), kept:
        try:
            with _unheard():
                cluster = SpecCluster(workers=workers, scheduler=scheduler, **quiet)
        except Exception as error:
            raise RunError(
                f"worker processes do not start ({error}); a program that calls this needs "
                '`if __name__ == "__main__":`, or use engine.workers_kind = "threads"'
            ) from error
        try:
            with Client(cluster, set_as_default=False) as client:
                yield client
        finally:
            # A lost worker that is just being started again makes Dask fail as it closes; the
            # process ends with this one.
            with suppress(AssertionError):
                cluster.close()


@contextmanager
def restored_environment(names: Iterable[str]) -> Iterator[None]:
    """Afterwards variables of this process are what they were; others inherit them meanwhile."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _unheard() -> Iterator[None]:
    """What is started meanwhile never hears Ctrl-C: it is for this process to end the others."""
    _start_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_tracker() -> None:
    """Start Python's own process that cleans up after others; now, for it unblocks signals.

    It would tell how many semaphores it removes when this process ends at once.
    """
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.pop()


@contextmanager
def remote_client(address: str, engine: EngineSection) -> Iterator[Any]:
    """A Dask client of an existing scheduler.

    Raises:
        ConfigError: no scheduler answers there, or its certificates are missing.
    """
    from distributed import Client

    security = _security(address, engine)
    try:
        client = Client(address, security=security, set_as_default=False, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--scheduler {address}: no scheduler answers there ({error})") from error
    with client:
        yield client


def _security(address: str, engine: EngineSection) -> Any:
    from distributed import Security

    is_tls = address.startswith("tls://")
    if is_tls != (engine.tls_ca_file is not None):
        text = "needs" if is_tls else "is not encrypted, so it takes none of"
        raise ConfigError(
            f"--scheduler {address}: {text} --tls-ca-file, --tls-cert, --tls-key "
            "(or engine.tls_ca_file ... in the configuration)"
        )
    if engine.tls_ca_file is None:
        return None
    files = [engine.tls_ca_file, engine.tls_cert, engine.tls_key]
    for file in files:
        if file is None or not file.is_file():
            raise ConfigError(f"--scheduler {address}: no such file {file}")
    ca, cert, key = map(str, files)
    return Security(
        tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, require_encryption=True
    )
