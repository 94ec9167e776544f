"""Our side as runs have it: a worker process for each core, each with its buckets of accounts."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from backtest.bench.book import World
from backtest.bench.ours import Bucket, Ours
from backtest.engine import use_compilation_cache
from backtest.loading import TOGETHER_ACCOUNTS, parts_of
from backtest.market_window import MarketWindow
from backtest.workers import environments, restored_environment


class _Side:
    """What one process holds: the engine in every precision, and its buckets."""

    def __init__(
        self, world: World, window: MarketWindow, precisions: tuple[str, ...], held: list[Bucket]
    ) -> None:
        use_compilation_cache()
        self.ours = {p: Ours(world, window, p) for p in precisions}
        self.held = held
        self.parts: list[Bucket] = []
        self.priced: dict[str, Any] = {}

    def price(self, params: Any) -> None:
        """Keep the tables of a set for ``replay``."""
        self.priced = {p: ours.price([params])[0] for p, ours in self.ours.items()}

    def replay(self, precision: str) -> None:
        """Replay the buckets with the tables that are kept."""
        self.ours[precision].replay(self.held, self.priced[precision])

    def replay_sets(self, precision: str, sets: list[Any]) -> None:
        """Price sets, and replay the buckets under all of them together."""
        if not self.parts:
            self.parts = [_in_parts(bucket) for bucket in self.held]
        ours = self.ours[precision]
        ours.replay_together(self.parts, ours.price(sets))


_SIDE: list[_Side] = []


def _start(*arguments: Any) -> None:
    _SIDE.append(_Side(*arguments))


def _call(name: str, *arguments: Any) -> None:
    getattr(_SIDE[0], name)(*arguments)


class Workers:
    """Processes that are told what to replay, all at once."""

    def __init__(self, processes: list[ProcessPoolExecutor]) -> None:
        self._processes = processes

    def every(self, name: str, *arguments: Any) -> None:
        """Let each process call one method of its side, and wait for all."""
        calls: list[Future[None]] = [p.submit(_call, name, *arguments) for p in self._processes]
        for call in calls:
            call.result()


@contextmanager
def started(
    count: int,
    world: World,
    window: MarketWindow,
    precisions: tuple[str, ...],
    buckets: list[Bucket],
) -> Iterator[Workers]:
    """Worker processes with their share of the cores, as runs start them.

    Args:
        count: processes.
        world: instruments.
        window: market.
        precisions: of the engine.
        buckets: dealt out in turns.
    """
    spawn = multiprocessing.get_context("spawn")
    processes: list[ProcessPoolExecutor] = []
    try:
        for k, variables in enumerate(environments(count, [])):
            arguments = world, window, precisions, [_bare(b) for b in buckets[k::count]]
            one = ProcessPoolExecutor(1, spawn, initializer=_start, initargs=arguments)
            processes.append(one)
            with restored_environment(variables):
                os.environ.update(variables)
                one.submit(os.getpid).result()
        yield Workers(processes)
    finally:
        for one in processes:
            one.shutdown(cancel_futures=True)


def _in_parts(bucket: Bucket) -> Bucket:
    """As runs hold them for several sets."""
    parts = [part for batch in bucket.batches for part in parts_of(batch, TOGETHER_ACCOUNTS)]
    return replace(bucket, batches=parts)


def _bare(bucket: Bucket) -> Bucket:
    """Without what the engine of this process keeps with batches."""
    return replace(bucket, batches=[replace(batch, tiles={}) for batch in bucket.batches])
