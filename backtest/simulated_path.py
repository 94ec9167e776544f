"""The accounts of a bucket through a window in which some are liquidated: who had what when."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np

from backtest.account_state import put, take
from backtest.batching import Batch
from backtest.settle import some_of
from backtest.window_records import TileResult
from kernels.debts import Ledger
from kernels.episodes import AccountState
from kernels.records import AccountMargin


@dataclass(frozen=True)
class Part:
    """A batch of the window: where its accounts are among all, and what the engine found."""

    batch: Batch
    at: np.ndarray
    result: TileResult


@dataclass(frozen=True)
class Version:
    """Accounts of a batch as they were at some of the times of a window.

    Fields:
        batch: their book; who: their places in the batch of the replay, ascending.
        holds: whether this was their book [time, account].
        changes: what debts have moved of it [time, holding, account], None where they move nothing.
    """

    batch: Batch
    who: np.ndarray
    holds: np.ndarray
    changes: np.ndarray | None = None


class Path:
    """All accounts through a window: which numbers, states and books each had when.

    Args:
        num_times: of the window.
        parts: batches with what the engine gives where nobody is liquidated.
        state: states before the window; owed: what debts have moved by then, None if nothing.

    Attributes:
        level, owes: margin level, and whether debts may have to be repaid [time, account].
        begun: first time of the book that an account holds now; state: its state before that time;
            owed: what debts have moved of that book by then.
        stages: last stage of each liquidation by time and account.
    """

    def __init__(
        self, num_times: int, parts: list[Part], state: AccountState, owed: Ledger | None
    ) -> None:
        num_accounts = len(state.episodes)
        shape = num_times, num_accounts
        self.num_times, self.parts = num_times, parts
        self.level, self.owes = np.full(shape, np.nan), np.zeros(shape, bool)
        self.begun = np.zeros(num_accounts, int)
        self.state = jax.tree.map(np.array, state)
        self.stages: dict[tuple[int, int], str] = {}
        self.owed: Ledger | None = jax.tree.map(np.array, owed)
        self._ends = jax.tree.map(np.array, (state, owed))
        self._version = np.zeros(shape, np.int32)
        self._books: list[tuple[Batch, np.ndarray, np.ndarray | None]] = []
        self._column = np.full(num_accounts, -1)
        """Where the numbers of an account are, -1 = with the engine's."""
        self._values: tuple[AccountMargin, np.ndarray] | None = None
        self._part, self._place = np.full(num_accounts, -1), np.zeros(num_accounts, int)
        for k, part in enumerate(parts):
            self._part[part.at], self._place[part.at] = k, np.arange(len(part.at))
            self.level[:, part.at] = part.result.scores.field("margin_level")[:num_times]
            self.add(part.batch, part.at, np.full(len(part.at), -1), part.result.changes)

    def changed_of(self, number: int) -> np.ndarray:
        """Accounts of a part whose numbers are not those of the engine, in its order."""
        at = self.parts[number].at
        return at[self._column[at] >= 0]

    def versions_of(self, number: int) -> list[Version]:
        """The books that accounts of a part held at some time."""
        found = []
        for k, (batch, who, changes) in enumerate(self._books):
            mine = np.flatnonzero(self._part[who] == number)
            holds = self._version[:, who[mine]] == k
            if holds.any():
                # Books are looked up by place.
                order = np.argsort(self._place[who[mine]])
                mine, holds = mine[order], holds[:, order]
                moved = None if changes is None else changes[..., mine]
                found.append(Version(some_of(batch, mine), self._place[who[mine]], holds, moved))
        return found

    def stages_of(self, number: int) -> dict[tuple[int, int], str]:
        """Last stage of each liquidation of a part by time and place in its batch."""
        return {
            (time, int(self._place[account])): stage
            for (time, account), stage in self.stages.items()
            if self._part[account] == number
        }

    def add(
        self, batch: Batch, who: np.ndarray, when: np.ndarray, changes: np.ndarray | None
    ) -> None:
        """Let some accounts have another book after a time, and what debts move of it."""
        later = np.arange(self.num_times)[:, None] > when[None]
        self._version[:, who] = np.where(later, len(self._books), self._version[:, who])
        self._books.append((batch, who, changes))
        self.begun[who] = when + 1

    def put(self, who: np.ndarray, first: int, found: TileResult, owes: np.ndarray) -> None:
        """Let some accounts have other numbers from a time on."""
        self._join(who)
        assert self._values is not None
        at, margin = self._column[who], found.scores.all

        def later(old: np.ndarray, values: Any) -> None:
            old[first:, at] = np.asarray(values)[first:]

        jax.tree.map(later, self._values, (margin, found.codes))
        self.level[first:, who] = np.asarray(margin.margin_level)[first : self.num_times]
        self.owes[first:, who] = owes[first:]
        put(self._ends[0], who, found.state)
        put(self._ends[1], who, found.ledger)

    def restart(self, who: np.ndarray, state: AccountState, owed: Ledger | None) -> None:
        """Let some accounts begin with another book; its cash holds what debts have moved.

        Args:
            who: which.
            state: their states at the time.
            owed: their ledgers at the time.
        """
        put(self.state, who, state)
        if owed is not None:
            anew = np.zeros_like(np.asarray(owed.change_units))
            put(self.owed, who, eqx.tree_at(lambda x: x.change_units, owed, anew))

    def of(self, who: np.ndarray) -> tuple[AccountMargin, np.ndarray, AccountState, Ledger | None]:
        """Numbers and codes of changed accounts at every time; states and ledgers at the end."""
        assert self._values is not None
        at = self._column[who]
        margin, codes = jax.tree.map(lambda x: x[:, at], self._values)
        state, owed = self._ends
        return margin, codes, take(state, who), take(owed, who)

    def _join(self, who: np.ndarray) -> None:
        """Begin with the numbers of the engine."""
        new = who[self._column[who] < 0]
        for number in np.unique(self._part[new]).tolist():
            mine, result = new[self._part[new] == number], self.parts[number].result
            place = self._place[mine]
            margin = jax.tree.map(np.array, result.scores.of(place))
            codes = np.zeros(margin.status.shape, np.uint8)
            codes[: self.num_times] = result.codes[:, place]
            begun = 0 if self._values is None else self._values[1].shape[1]
            self._column[mine] = begun + np.arange(len(mine))
            values = margin, codes
            if self._values is not None:
                values = jax.tree.map(
                    lambda x, y: np.concatenate([x, y], axis=1), self._values, values
                )
            self._values = values
