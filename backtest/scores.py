"""Numbers of every account and time of a batch, left on their device until somebody asks.

A replay needs few of them on the host: those of the accounts that something happens to, or that
are traced. Fetching all of them would take an accelerator longer than computing them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from backtest.kept_programs import kept
from backtest.settle import with_accounts
from kernels.records import AccountMargin


LEAST_ROWS = 64
"""Rows are asked for in powers of two from here on, so that few programs are compiled."""


@dataclass(frozen=True)
class Settled:
    """Accounts of a batch whose numbers others replace."""

    who: np.ndarray
    scores: "Scores"


class Scores:
    """Numbers of one batch over one window.

    Args:
        tiles: device arrays [time, account], one record a tile, each filled up to its size; of
            several parameter sets [set, time, account].
        num_accounts: accounts of the batch.
        settled: accounts, ascending, whose numbers are elsewhere.
        parameter_set: which of several; None = there is one.
    """

    def __init__(
        self,
        tiles: list[AccountMargin],
        num_accounts: int,
        settled: Settled | None = None,
        parameter_set: int | None = None,
    ) -> None:
        self.tiles, self.num_accounts, self.settled = tiles, num_accounts, settled
        self.parameter_set = parameter_set

    @property
    def num_times(self) -> int:
        """Times of the window, its padding among them."""
        return self.tiles[0].status.shape[-2]

    @property
    def tile(self) -> int:
        """Accounts a tile."""
        return self.tiles[0].status.shape[-1]

    def of_set(self, number: int) -> "Scores":
        """Those of one of several parameter sets; nothing is copied."""
        return Scores(self.tiles, self.num_accounts, self.settled, number)

    def replaced(self, who: np.ndarray, scores: "Scores") -> "Scores":
        """The same with the numbers of some accounts from elsewhere."""
        return Scores(self.tiles, self.num_accounts, Settled(who, scores), self.parameter_set)

    def at(self, when: np.ndarray, who: np.ndarray) -> AccountMargin:
        """Numbers of some account-times, host arrays [row].

        Args:
            when: position of each row's time in the window.
            who: position of its account in the batch.
        """
        rows = len(when)
        parts, places = [], []
        own = np.arange(rows)
        if self.settled is not None:
            is_settled = np.isin(who, self.settled.who)
            own, other = np.flatnonzero(~is_settled), np.flatnonzero(is_settled)
            if len(other):
                inside = np.searchsorted(self.settled.who, who[other])
                parts.append(self.settled.scores.at(when[other], inside))
                places.append(other)
        for number in np.unique(who[own] // self.tile):
            mine = own[who[own] // self.tile == number]
            size = max(LEAST_ROWS, 1 << (max(len(mine), 1) - 1).bit_length())
            at = (np.resize(x, size).astype(np.int32) for x in (when[mine], who[mine] % self.tile))
            count, found = len(mine), jax.device_get(self._taken(self.tiles[number], *at))
            parts.append(jax.tree.map(lambda x, count=count: x[:count], found))
            places.append(mine)
        if not parts:
            return jax.tree.map(lambda x: np.zeros(0, x.dtype), self.tiles[0])
        order = np.argsort(np.concatenate(places))
        return jax.tree.map(lambda *x: np.concatenate(x)[order], *parts)

    def of(self, who: np.ndarray) -> AccountMargin:
        """Numbers of some accounts at every time, host arrays [time, account]."""
        when = np.repeat(np.arange(self.num_times), len(who))
        found = self.at(when, np.tile(who, self.num_times))
        return jax.tree.map(lambda x: x.reshape(self.num_times, len(who)), found)

    def field(self, name: str) -> np.ndarray:
        """One number of every account and time, [time, account]."""
        return self._whole(lambda tile: getattr(tile, name))

    def charge(self, name: str) -> np.ndarray:
        """One charge of every account and time, [time, account]."""
        return self._whole(lambda tile: tile.charges[name])

    @cached_property
    def all(self) -> AccountMargin:
        """Every number, host arrays [time, account]."""
        return self._whole(lambda tile: tile)

    def _taken(self, tile: AccountMargin, when: np.ndarray, who: np.ndarray) -> AccountMargin:
        if self.parameter_set is None:
            return _rows(tile, when, who)
        return _rows_of_set(tile, np.int32(self.parameter_set), when, who)

    def _whole(self, chosen: Callable[[AccountMargin], Any]) -> Any:
        mine = Ellipsis if self.parameter_set is None else self.parameter_set

        def joined(*tiles: Any) -> np.ndarray:
            whole = np.concatenate([np.asarray(x)[mine] for x in tiles], axis=1)
            return whole[:, : self.num_accounts]

        values = jax.tree.map(joined, *map(chosen, self.tiles))
        if self.settled is None:
            return values
        return with_accounts(values, self.settled.who, self.settled.scores._whole(chosen))


@kept()
def _rows(tile: AccountMargin, when: Any, who: Any) -> AccountMargin:
    return jax.tree.map(lambda x: x.at[when, who].get(mode="promise_in_bounds"), tile)


@kept()
def _rows_of_set(tile: AccountMargin, number: Any, when: Any, who: Any) -> AccountMargin:
    return jax.tree.map(lambda x: x.at[number, when, who].get(mode="promise_in_bounds"), tile)


def of_host(margin: AccountMargin) -> Scores:
    """Scores of numbers that are on the host already."""
    return Scores([jax.tree.map(jnp.asarray, margin)], margin.status.shape[1])
