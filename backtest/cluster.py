"""Which bucket runs where: Dask, nothing else."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dask.base import compute
from dask.delayed import delayed

from backtest.config import RunConfig
from backtest.errors import PmStressError, RunError
from backtest.plan import Plan
from backtest.replay import BucketReplay, ReplayContext


_contexts: dict[tuple[str, str], ReplayContext] = {}
_lock = threading.Lock()


def _context(config: RunConfig, plan: Plan, out: Path) -> ReplayContext:
    """One context a process and run: buckets share compiled programs and priced windows."""
    key = config.hash(), str(out)
    with _lock:
        if key not in _contexts:
            _contexts.clear()
            _contexts[key] = ReplayContext(config, plan, out)
        return _contexts[key]


def replay_bucket(
    config: RunConfig,
    plan: Plan,
    out: Path,
    bucket: int,
    on_cell: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """One bucket from its first to its last window; a failure is an answer, not an exception."""
    try:
        return BucketReplay(_context(config, plan, out), bucket).run(on_cell)
    except PmStressError as error:
        return {"bucket": bucket, "error": error}


def replay_buckets(
    config: RunConfig,
    plan: Plan,
    out: Path,
    *,
    workers: int,
    scheduler: str | None,
    on_cell: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Replay every bucket, ``workers`` at once, in threads or on an existing scheduler.

    Raises:
        RunError: some buckets failed; what is finished stays for the next run.
    """
    if scheduler is None:
        tasks = [delayed(replay_bucket)(config, plan, out, b, on_cell) for b in plan.buckets]
        reports = list(
            compute(
                *tasks, scheduler="threads" if workers > 1 else "synchronous", num_workers=workers
            )
        )
    else:
        from distributed import Client

        with Client(scheduler) as client:
            shared = client.scatter((config, plan), broadcast=True)
            futures = client.map(_on_worker, plan.buckets, shared=shared, out=out, pure=False)
            gathered: Any = client.gather(futures)
            reports = list(gathered)
    with _lock:
        _contexts.clear()
    failed = [r for r in reports if "error" in r]
    if failed:
        shown = "; ".join(f"bucket {r['bucket']}: {r['error']}" for r in failed[:3])
        raise RunError(f"{len(failed)} of {len(reports)} buckets failed: {shown}")
    return reports


def _on_worker(bucket: int, shared: tuple[RunConfig, Plan], out: Path) -> dict[str, Any]:
    return replay_bucket(*shared, out, bucket)
