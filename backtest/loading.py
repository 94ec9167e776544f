"""Portfolios of buckets, read and batched one ahead of what is computed."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from backtest.batching import Batch, batches, equity_usd
from backtest.portfolios import Portfolios, read_portfolios
from backtest.prefetch import Prefetch
from backtest.settle import some_of
from backtest.stages import Stages


if TYPE_CHECKING:
    from backtest.replay import ReplayContext


TOGETHER_ACCOUNTS = 4096
"""Accounts whose numbers under several parameter sets are held at a time."""
Key = tuple[int, int]
"""Time of a snapshot in microseconds, and a bucket."""


@dataclass(frozen=True)
class Loaded:
    """Portfolios of a bucket at a snapshot; their batches by whether risk units are split."""

    snapshot_us: int
    portfolios: Portfolios
    batches: dict[bool, list[Batch]] = field(default_factory=dict)


class Loader:
    """Loads what the buckets of one thread need, and counts the seconds of all their stages."""

    def __init__(self, context: "ReplayContext") -> None:
        self._context = context
        self._ahead: Prefetch[Key, Loaded] = Prefetch(self._load)
        self.stages = Stages()

    def get(self, key: Key, next_key: Key | None) -> Loaded:
        """Portfolios of a snapshot and bucket; those of the next ones are begun meanwhile."""
        return self._ahead.get(key, next_key)

    def grouped(self, loaded: Loaded, *, split: bool) -> list[Batch]:
        """Batches of portfolios with merged or split risk units."""
        if split not in loaded.batches:
            context = self._context
            terms = context.axis(loaded.snapshot_us).terms
            with self.stages("batch"):
                whole = batches(loaded.portfolios.snapshot, terms, context.currencies, split=split)
                most = TOGETHER_ACCOUNTS if len(context.rules) > 1 else None
                loaded.batches[split] = [part for batch in whole for part in parts_of(batch, most)]
        return loaded.batches[split]

    def _load(self, key: Key) -> Loaded:
        snapshot_us, bucket = key
        context = self._context
        axis = context.axis(snapshot_us)
        with self.stages("read"):
            portfolios = read_portfolios(
                context.dataset,
                context.plan,
                snapshot_us,
                bucket,
                axis.instruments,
                axis.terms,
                context.currencies,
                context.max_staleness_us,
            )
        loaded = Loaded(snapshot_us, self._eligible(portfolios, snapshot_us))
        window = context.first_window(snapshot_us)
        time_us = int(context.plan.times_us[window.first])
        for split in {rules.is_split(time_us) for rules in context.rules}:
            self.grouped(loaded, split=split)
        return loaded

    def _eligible(self, portfolios: Portfolios, snapshot_us: int) -> Portfolios:
        """Without accounts below ``replay.min_equity_usd`` when their snapshot begins."""
        context = self._context
        least = context.config.replay.min_equity_usd
        if least is None:
            return portfolios
        equity = equity_usd(
            portfolios.snapshot,
            context.axis(snapshot_us).terms,
            context.currencies,
            *context.start_prices(context.first_window(snapshot_us)),
        )
        return portfolios.only(~(equity < least))


def parts_of(batch: Batch, most: int | None) -> list[Batch]:
    """A batch in parts of at most so many accounts."""
    count = len(batch.accounts)
    if most is None or count <= most:
        return [batch]
    return [
        some_of(batch, np.arange(first, min(first + most, count)))
        for first in range(0, count, most)
    ]
