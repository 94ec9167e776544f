"""What goes into the engine for one window, and what comes out of it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from backtest.scores import Scores
from kernels.debts import Ledger
from kernels.episodes import AccountState
from kernels.model import MarginModel
from kernels.models import model_of
from kernels.records import AccountMargin, Table
from kernels.tiers import MarginalTiers, StepTiers


@dataclass(frozen=True)
class WindowTables:
    """Priced tables (times last) and numbers (times first) of one window and parameter set.

    ``exact`` are the tables in float64 where ``tables`` hold scenarios in float32.
    """

    tables: Table
    params: Any
    exact: Table | None = None

    @property
    def model(self) -> MarginModel:
        """The margin model of the numbers."""
        return model_of(self.params)

    @cached_property
    def in_float64(self) -> "WindowTables":
        """The same with every scenario in float64."""
        return self if self.exact is None else WindowTables(self.exact, self.params)

    @cached_property
    def eras(self) -> list[np.ndarray]:
        """Times in a row under the same tier tables, as masks over the window's times."""
        found = jax.tree.leaves(self.params, is_leaf=_is_tier_table)
        tables = [np.asarray(x) for x in jax.tree.leaves([t for t in found if _is_tier_table(t)])]
        count = len(tables[0])
        starts = np.zeros(count, bool)
        for x in tables:
            if x.strides[0]:  # else the same numbers at all times
                starts[1:] |= (x[1:] != x[:-1]).reshape(count - 1, -1).any(axis=1)
        number = np.cumsum(starts)
        return [number == k for k in range(int(number[-1]) + 1)]


@dataclass(frozen=True)
class SetTables:
    """Tables and numbers of several parameter sets in one window, to be replayed together.

    Fields:
        each: of every set.
        tables, params: the same joined: leaves that differ with sets outside, the others once.
        differs: which leaves of ``(tables, params)`` differ.
    """

    each: list[WindowTables]
    tables: Table
    params: Any
    differs: tuple[bool, ...]


def are_alike(priced: list[WindowTables]) -> bool:
    """Whether sets can be replayed together: one model, tier tables that change alike."""
    first, *others = priced
    structure = jax.tree.structure(first.params)
    return all(
        jax.tree.structure(one.params) == structure and np.array_equal(one.eras, first.eras)
        for one in others
    )


def _is_tier_table(x: Any) -> bool:
    return isinstance(x, MarginalTiers | StepTiers)


@dataclass(frozen=True)
class TileResult:
    """What one batch gives for one window and one set (accounts in the batch's order).

    Fields:
        state: account states after the window.
        codes: [time, account] status plus event bits.
        scores: every number of every account and time.
        sums: [time, segment, column] of ``sum_columns``, integers (money in ``SUM_UNIT_USD``).
        ledger: what debts have moved by the end of the window; changes: the same by time
            [time, holding, account]; both None where debts move nothing.
        num_settled: account-times near a threshold that float64 settled.
    """

    state: AccountState
    codes: np.ndarray
    scores: Scores
    sums: np.ndarray
    ledger: Ledger | None = None
    changes: np.ndarray | None = None
    num_settled: int = 0

    @property
    def margin(self) -> AccountMargin:
        """Every number on the host, fields [time, account]."""
        return self.scores.all


def result_of_set(together: TileResult, k: int) -> TileResult:
    """The result of one set, of results of several that have the sets outside."""
    state, ledger = jax.tree.map(lambda x: x[k], (together.state, together.ledger))
    changes = None if together.changes is None else together.changes[k]
    scores = together.scores.of_set(k)
    return TileResult(state, together.codes[k], scores, together.sums[k], ledger, changes)


@dataclass(frozen=True)
class Debts:
    """How debts move over a window.

    Fields:
        ledger: what they have moved before, accounts in the batch's order, host arrays.
        hours: full hours before each time that pay interest, 0 where interest is off [time].
        converts: whether assets of accounts that may not borrow are sold for their debts.
    """

    ledger: Ledger
    hours: np.ndarray
    converts: bool


def by_account(result: TileResult) -> tuple[Any, ...]:
    """The parts of a result that are host arrays, the account last."""
    return result.state, result.codes, result.ledger, result.changes
