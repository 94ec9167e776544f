"""A batch of accounts through a window in which some are liquidated: who had which numbers when."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np

from backtest.account_state import put, take
from backtest.batching import Batch
from backtest.window_records import TileResult
from kernels.debts import Ledger
from kernels.episodes import AccountState
from kernels.records import AccountMargin


@dataclass(frozen=True)
class Version:
    """Accounts of a batch as they were at some of the times of a window.

    Fields:
        batch: their book; who: their places in the batch of the replay.
        holds: whether this was their book [time, account].
        changes: what debts have moved of it [time, holding, account], None where they move nothing.
    """

    batch: Batch
    who: np.ndarray
    holds: np.ndarray
    changes: np.ndarray | None = None


class Path:
    """The accounts of a batch through a window: which numbers, states and books each had when.

    Args:
        num_accounts, num_times: of the batch and of the window.
        state: states before the window.
        result: what the engine gives where nobody is liquidated.
        owed: what debts have moved before the window, None where they move nothing.

    Attributes:
        level, owes: margin level, and whether debts may have to be repaid [time, account].
        begun: first time of the book that an account holds now; state: its state before that time;
            owed: what debts have moved of that book by then.
        stages: last stage of each liquidation [time, account].
    """

    def __init__(
        self,
        num_accounts: int,
        num_times: int,
        state: AccountState,
        result: TileResult,
        owed: Ledger | None,
    ) -> None:
        shape = num_times, num_accounts
        self.num_times, self.result = num_times, result
        self.level, self.owes = np.zeros(shape), np.zeros(shape, bool)
        self.begun = np.zeros(num_accounts, int)
        self.state = jax.tree.map(np.array, state)
        self.stages = np.full(shape, "", dtype="U16")
        self.owed: Ledger | None = jax.tree.map(np.array, owed)
        self._ends = jax.tree.map(np.array, (state, owed))
        self._version = np.zeros(shape, int)
        self._parts: list[tuple[Batch, np.ndarray, np.ndarray | None]] = []
        self._place: dict[int, int] = {}
        self._values: tuple[AccountMargin, np.ndarray] | None = None

    @property
    def who(self) -> np.ndarray:
        """Accounts whose numbers are not those of the engine, ascending."""
        return np.asarray(sorted(self._place), int)

    @property
    def versions(self) -> list[Version]:
        """The books that were held at some time."""
        found = []
        for k, (batch, who, changes) in enumerate(self._parts):
            holds = self._version[:, who] == k
            if holds.any():
                found.append(Version(batch, who, holds, changes))
        return found

    def add(
        self, batch: Batch, who: np.ndarray, when: np.ndarray, changes: np.ndarray | None
    ) -> None:
        """Let some accounts have another book after a time, and what debts move of it."""
        later = np.arange(self.num_times)[:, None] > when[None]
        self._version[:, who] = np.where(later, len(self._parts), self._version[:, who])
        self._parts.append((batch, who, changes))
        self.begun[who] = when + 1

    def put(self, who: np.ndarray, first: int, found: TileResult, owes: np.ndarray) -> None:
        """Let some accounts have other numbers from a time on."""
        self._join(who)
        assert self._values is not None
        at = [self._place[k] for k in who.tolist()]
        margin = found.scores.all

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
            state: states of the batch, theirs those of the time.
            owed: ledgers of the batch, theirs those of the time.
        """
        put(self.state, who, take(state, who))
        if owed is not None:
            mine = take(owed, who)
            anew = np.zeros_like(np.asarray(mine.change_units))
            put(self.owed, who, eqx.tree_at(lambda x: x.change_units, mine, anew))

    def of(self, who: np.ndarray) -> tuple[AccountMargin, np.ndarray, AccountState, Ledger | None]:
        """Numbers and codes of some accounts at every time; states and ledgers at the end."""
        assert self._values is not None
        at = [self._place[k] for k in who.tolist()]
        margin, codes = jax.tree.map(lambda x: x[:, at], self._values)
        state, owed = self._ends
        return margin, codes, take(state, who), take(owed, who)

    def _join(self, who: np.ndarray) -> None:
        """Begin with the numbers of the engine."""
        new = np.asarray([k for k in who.tolist() if k not in self._place], int)
        if not len(new):
            return
        self._place |= {k: len(self._place) + n for n, k in enumerate(new.tolist())}
        margin = jax.tree.map(np.array, self.result.scores.of(new))
        codes = np.zeros(margin.status.shape, np.uint8)
        codes[: self.num_times] = self.result.codes[:, new]
        if self._values is None:
            self._values = margin, codes
            return
        self._values = jax.tree.map(
            lambda x, y: np.concatenate([x, y], axis=1), self._values, (margin, codes)
        )
