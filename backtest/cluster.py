"""Which bucket runs where: in this process, in threads, in local processes, on a scheduler.

Dask gets small tasks: the name of a file with configuration and plan, and numbers of buckets.
Results go to the run folder, which every worker must see; a bucket that is begun again, after its
worker was lost, reuses the cells that are finished.
"""

import itertools
import pickle
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dask.base import compute
from dask.delayed import delayed

from backtest.config import RunConfig
from backtest.durable import temporary_name, write_bytes
from backtest.engine import use_compilation_cache
from backtest.errors import PmStressError, RunError
from backtest.loading import Loader
from backtest.moves import Moves
from backtest.plan import Plan
from backtest.program import process, source_hash, versions
from backtest.replay import BucketReplay, ReplayContext
from backtest.workers import environments, gpus, local_client, remote_client


OnCell = Callable[[int, int], None]
Report = dict[str, Any]
Replay = Callable[[Sequence[Moves]], list[Report]]
"""Replays every bucket with the moves of prices of each parameter set."""
GROUPS_A_WORKER = 4
"""Consecutive buckets are one task: enough tasks to even out, long enough to read ahead."""
POLL_S, LOOK_S = 0.05, 2.0
PATIENCE_S = 120.0
"""How long a run waits while no worker is there at all."""
GO_ON = "what is finished stays, run again to go on"


@contextmanager
def replaying(
    config: RunConfig,
    plan: Plan,
    out: Path,
    *,
    workers: int,
    scheduler: str | None,
    on_cell: OnCell | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Replay]:
    """What replays every bucket, ``workers`` at once, here or on an existing scheduler.

    It may be called several times, with other moves of prices; workers stay between the calls.

    Args:
        config: what to run.
        plan: what that means for the dataset.
        out: results folder.
        workers: buckets at once; where there are graphics cards, one worker a card.
        scheduler: address of an existing Dask scheduler; its workers see ``out``.
        on_cell: receives cells done and account-times at each finished window, of every call.
        stop: when it is set, other processes are stopped and the call fails.

    Raises:
        RunError: some buckets failed; what is finished stays for the next run.
    """
    engine = config.engine
    workers = min(workers, len(plan.buckets))
    job = _Job(config, plan, out.resolve(), on_cell, stop or threading.Event())
    if scheduler is not None:
        with remote_client(scheduler, engine) as client:
            yield _checked(job, lambda job: _on_client(client, job))
    elif workers > 1 and engine.workers_kind == "threads":
        yield _checked(job, lambda job: _in_threads(job.context(), workers, job.on_cell))
    elif len(variables := _local_workers(workers, len(plan.buckets))) > 1:
        with local_client(variables, engine.retries) as client:
            yield _checked(job, lambda job: _on_client(client, job))
    else:
        yield _checked(job, lambda job: replay_group(job.context(), plan.buckets, job.on_cell))


def _checked(job: "_Job", replay: Callable[["_Job"], list[Report]]) -> Replay:
    """Replays a job with given moves; failures raise."""

    def checked(moves: Sequence[Moves]) -> list[Report]:
        reports = replay(replace(job, moves=tuple(moves)))
        failed = [r for r in reports if "error" in r]
        if failed:
            shown = "; ".join(f"bucket {r['bucket']}: {r['error']}" for r in failed[:3])
            raise RunError(f"{len(failed)} of {len(reports)} buckets failed: {shown}")
        return reports

    return checked


def _local_workers(workers: int, buckets: int) -> list[dict[str, str]]:
    """Variables of each worker process: one a graphics card, where there are cards."""
    if workers == 1:
        return [{}]
    cards = gpus()[:buckets]
    return environments(len(cards) or workers, cards)


def replay_group(
    context: ReplayContext, buckets: Sequence[int], on_cell: OnCell | None = None
) -> list[Report]:
    """Buckets one after the other, each from its first to its last window.

    A failure is an answer, not an exception: the other buckets go on.
    """
    reports: list[Report] = []
    loader = Loader(context)
    for bucket, following in zip(buckets, [*buckets[1:], None], strict=True):
        try:
            reports.append(BucketReplay(context, bucket, loader, following).run(on_cell))
        except PmStressError as error:
            reports.append({"bucket": bucket, "error": error})
    reports[-1]["stages"] = loader.stages.seconds
    here = process()
    return [report | {"process": here} for report in reports]


def groups(buckets: Sequence[int], workers: int) -> list[list[int]]:
    """Consecutive buckets that are one task each."""
    size = max(1, len(buckets) // (GROUPS_A_WORKER * workers))
    return [list(buckets[k : k + size]) for k in range(0, len(buckets), size)]


def _in_threads(context: ReplayContext, workers: int, on_cell: OnCell | None) -> list[Report]:
    parts = groups(context.plan.buckets, workers)
    tasks = [delayed(replay_group)(context, part, on_cell) for part in parts]
    found = compute(*tasks, scheduler="threads", num_workers=workers)
    return [report for part in found for report in part]


@dataclass(frozen=True)
class _Job:
    """What other processes are asked to do, who is told, and what ends it early."""

    config: RunConfig
    plan: Plan
    out: Path
    on_cell: OnCell | None
    stop: threading.Event
    moves: tuple[Moves, ...] = ()

    def context(self) -> ReplayContext:
        """A context of this process."""
        return ReplayContext(self.config, self.plan, self.out, self.moves)


def _on_client(client: Any, job: _Job) -> list[Report]:
    """Buckets on the workers of a Dask client."""
    parts = groups(job.plan.buckets, max(1, len(client.nthreads())))
    file, topic = temporary_name(job.out / "replay"), f"pmstress-{uuid.uuid4().hex}"
    write_bytes(file, pickle.dumps((job.config, job.plan, job.out, job.moves, _program())))
    if job.on_cell is not None:
        client.subscribe_topic(topic, _once(job.on_cell))
    futures = client.compute(group_tasks(file, parts, topic), retries=job.config.engine.retries)
    try:
        _wait(client, futures, job.stop)
        found = [_reports(f, part) for f, part in zip(futures, parts, strict=True)]
    finally:
        file.unlink(missing_ok=True)  # workers that still compute see it and stop
        if client.status == "running":
            client.cancel(futures)
    return [report for part in found for report in part]


def group_tasks(file: Path, parts: list[list[int]], topic: str) -> list[Any]:
    """The graph: small whatever the size of the run."""
    return [delayed(_replay_on_worker, pure=False)(str(file), part, topic) for part in parts]


def _program() -> dict[str, str]:
    return {"program text": source_hash(), **versions()}


_contexts: dict[str, ReplayContext] = {}
_lock = threading.Lock()


def _context_of(file: str) -> ReplayContext:
    """One context a worker and run: buckets share compiled programs and priced windows.

    Raises:
        RunError: the folder is not visible here, or this worker has another program.
    """
    with _lock:
        if file not in _contexts:
            _contexts.clear()
            try:
                config, plan, out, moves, program = pickle.loads(Path(file).read_bytes())
            except OSError as error:
                text = f"{file}: a worker on {platform.node()} cannot read it: {error}"
                raise RunError(text) from error
            mine = _program()
            if other := sorted(k for k in program if program[k] != mine[k]):
                raise RunError(f"a worker on {platform.node()} has another {', '.join(other)}")
            use_compilation_cache()
            _contexts[file] = ReplayContext(config, plan, out, moves)
        return _contexts[file]


def _replay_on_worker(file: str, buckets: list[int], topic: str) -> list[Report]:
    from distributed import get_worker

    worker = get_worker()
    steps = itertools.count()

    def on_cell(cells: int, account_times: int) -> None:
        if not Path(file).exists():
            raise InterruptedError("the run was stopped")
        worker.log_event(topic, [buckets[0], next(steps), cells, account_times])

    try:
        context = _context_of(file)
    except PmStressError as error:
        return [{"bucket": bucket, "error": error} for bucket in buckets]
    return replay_group(context, buckets, on_cell)


def _once(on_cell: OnCell) -> Callable[[Sequence[Any]], None]:
    """Passes on what workers tell, once where a group of buckets was begun again."""
    seen: set[tuple[int, int]] = set()

    def heard(event: Sequence[Any]) -> None:
        group, step, cells, account_times = event[1]
        if (group, step) not in seen:
            seen.add((group, step))
            on_cell(cells, account_times)

    return heard


def _wait(client: Any, futures: list[Any], stop: threading.Event) -> None:
    """Until every task has an answer.

    Raises:
        RunError: there is no scheduler or no worker any more, or the run was stopped.
    """
    last_seen = last_look = time.monotonic()
    while any(future.status in ("pending", "lost") for future in futures):
        if stop.wait(POLL_S):
            raise RunError(f"stopped; {GO_ON}")
        now = time.monotonic()
        if now - last_look < LOOK_S:
            continue
        last_look = now
        with suppress(OSError):
            if client.nthreads():
                last_seen = now
        if now - last_seen > PATIENCE_S:
            raise RunError(f"no worker for {PATIENCE_S:.0f} s; {GO_ON}")


def _reports(future: Any, buckets: list[int]) -> list[Report]:
    """What a task answered, or why it could not."""
    from distributed import KilledWorker

    if future.cancelled():
        raise RunError(f"the scheduler went away; {GO_ON}")
    error = future.exception()
    if error is None:
        return future.result()
    if not isinstance(error, KilledWorker):
        raise error
    lost = RunError(
        f"its worker was lost {error.allowed_failures + 1} times (too little memory?); {GO_ON}"
    )
    return [{"bucket": bucket, "error": lost} for bucket in buckets]
