"""Accounts of a run as they stand at single times, and the market then, beside the replay."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from backtest.batching import Batch, batches
from backtest.config import RunConfig
from backtest.dataset import Dataset
from backtest.engine import use_compilation_cache
from backtest.errors import ConfigError
from backtest.loading import Loader
from backtest.market_window import MarketWindow, micros, stamp
from backtest.model_records import Currencies
from backtest.plan import Plan, Window, make_plan
from backtest.replay import ReplayContext
from backtest.set_rules import SetRules
from kernels.records import Contract


class Standing:
    """Portfolios and prices of a run at times of its grid.

    Args:
        config: the run; its dataset is there.
        accounts: about how many accounts, drawn by ``seed``; None = all.
        seed: of the draw.
    """

    def __init__(self, config: RunConfig, accounts: int | None = None, seed: int = 0) -> None:
        use_compilation_cache()
        self.config = config
        self.plan: Plan = make_plan(config, Dataset.open(config.dataset.path))
        self.context = ReplayContext(config, self.plan, Path())
        self._loader = Loader(self.context)
        self._share = 1.0 if accounts is None else accounts / self.plan.num_accounts
        self._seed = seed

    @property
    def currencies(self) -> Currencies:
        """The currency axis."""
        return self.context.currencies

    @cached_property
    def times_us(self) -> np.ndarray:
        """The grid, microseconds since the epoch."""
        return self.plan.times_us

    def rules(self, name: str) -> SetRules:
        """The numbers of a parameter set by time."""
        return self.context.rules[self.context.set_names.index(name)]

    def grid_time(self, time: pd.Timestamp) -> int:
        """A time of the grid in microseconds.

        Raises:
            ConfigError: it is not on the grid; names the nearest time.
        """
        time_us = int(micros(pd.DatetimeIndex([time]))[0])
        if time_us not in self.times_us:
            nearest = self.times_us[np.argmin(np.abs(self.times_us - time_us))]
            raise ConfigError(
                f"{time} is not on the run's grid; the nearest time is {stamp(nearest)}"
            )
        return time_us

    def contracts(self, time_us: int) -> Contract:
        """The instrument axis of the portfolios at a time."""
        return self.context.axis(self._window(time_us).snapshot_us).contracts

    def market(self, time_us: int, times_us: np.ndarray) -> MarketWindow:
        """Prices at some times of the contracts held at one of them."""
        return self.context.axis(self._window(time_us).snapshot_us).source.window(times_us)

    def batches(self, time_us: int, name: str) -> Iterator[Batch]:
        """Accounts as they stand at a time, bucket by bucket, grouped as a set's units need."""
        snapshot_us = self._window(time_us).snapshot_us
        axis = self.context.axis(snapshot_us)
        split = self.rules(name).is_split(time_us)
        for bucket in self.plan.buckets:
            held = self._loader.get((snapshot_us, bucket), None).portfolios.snapshot
            if self._share < 1.0:
                draw = np.random.default_rng([self._seed, bucket])
                held = held.only(draw.random(len(held.account_ids)) < self._share)
            if len(held.account_ids):
                yield from batches(held, axis.terms, self.currencies, split=split)

    def _window(self, time_us: int) -> Window:
        at = int(np.searchsorted(self.times_us, time_us))
        return next(w for w in self.plan.windows if w.first <= at < w.stop)
