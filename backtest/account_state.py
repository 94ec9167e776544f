"""What accounts carry from one window to the next: kernel states and values for the reports."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import jax
import numpy as np

from backtest.cells import Cell
from backtest.engine import initial_state
from backtest.liquidation_ledger import LiquidationLedger
from kernels.debts import Ledger
from kernels.episodes import AccountState
from kernels.model import MarginModel


START_FIELDS = (
    "start_equity_usd",
    "start_gross_notional_usd",
    "start_option_notional_usd",
    "start_net_delta_usd",
)
WRITTEN_OFF = "written_off_usd"
"""What liquidation has written off of each account so far; only where a run simulates it."""


LEDGER = "ledger_"
"""Prefix of the arrays of a ``Ledger`` in a cell."""
LEDGER_FIELDS = tuple(Ledger.__dataclass_fields__)
Carried = TypeVar("Carried", AccountState, Ledger, Ledger | None)


FOR_REPORTS = ("worst_", "lowest_", "theta_")
"""Beginnings of the names of arrays that no later time reads: they are for the tables."""


def flat(state: AccountState, *, details: bool = True) -> dict[str, np.ndarray]:
    """The arrays of a state by name, as a cell saves them; no copies.

    ``details``: with what is for the tables alone.
    """
    arrays: dict[str, np.ndarray] = {}
    for name in AccountState.__dataclass_fields__:
        value = getattr(state, name)
        if isinstance(value, dict):
            arrays |= {f"{name}_{charge}": of_charge for charge, of_charge in value.items()}
        else:
            arrays[name] = value
    return {k: x for k, x in arrays.items() if details or not k.startswith(FOR_REPORTS)}


class Roll:
    """The accounts of a bucket in the order in which snapshots bring them."""

    def __init__(self) -> None:
        self._place: dict[str, int] = {}
        self._last = np.asarray([], dtype=str), np.asarray([], dtype=int)

    def __len__(self) -> int:
        return len(self._place)

    @property
    def ids(self) -> np.ndarray:
        """Ids of all accounts so far, by place."""
        return np.asarray(list(self._place), dtype=str)

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Places of some accounts; those that are new come last."""
        if ids is not self._last[0] and not np.array_equal(ids, self._last[0]):
            place = self._place
            found = [place.setdefault(name, len(place)) for name in ids.tolist()]
            self._last = ids, np.asarray(found, dtype=int)
        return self._last[1]


class Carryover:
    """What the accounts of a bucket have come to under one parameter set, by place on the roll.

    A cell has the accounts of its snapshot; those that are gone keep what they had.

    Args:
        roll: of the bucket.
        model: margin model of the set.
        multipliers: whether break-even multipliers are looked for.
        num_currencies: of the ledgers of debts; 0 = debts move nothing.
    """

    def __init__(
        self, roll: Roll, model: MarginModel, *, multipliers: bool, num_currencies: int
    ) -> None:
        self._roll, self._num_currencies = roll, num_currencies
        self._fresh: Callable[[int], AccountState] = partial(
            initial_state, model=model, multipliers=multipliers
        )
        self._state, self._extra = self._fresh(0), self._fresh_extra(0)
        self._quarantined = np.asarray([], dtype=str), np.asarray([], dtype=np.int64)
        self.last: Cell | None = None
        """The cell of the window before, None before the first."""

    def state(self, ids: np.ndarray) -> AccountState:
        """States of some accounts, fresh ones of newcomers."""
        places = self._places(ids)
        return take(self._state, places)

    def extra(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Values for the reports of some accounts, and what was kept out so far."""
        places = self._places(ids)
        extra = {name: values[..., places] for name, values in self._extra.items()}
        extra["quarantined_ids"], extra["quarantined_times"] = self._quarantined
        return extra

    def ledger(self, ids: np.ndarray, *, keeps_changes: bool) -> Ledger:
        """Ledgers of some accounts.

        ``keeps_changes`` is False where a new snapshot begins: its cash holds what debts have
        moved.
        """
        places = self._places(ids)
        found = {name: self._extra[f"{LEDGER}{name}"][..., places] for name in LEDGER_FIELDS}
        if not keeps_changes:
            found["change_units"] = np.zeros_like(found["change_units"])
        return Ledger(**found)

    def take_in(self, cell: Cell) -> None:
        """Go on from a cell."""
        places = self._places(cell.accounts)
        arrays = flat(self._state)
        for name, values in cell.state.items():
            arrays[name][places] = values
        for name, values in self._extra.items():
            if name in cell.extra:
                values[..., places] = cell.extra[name]
        self._quarantined = cell.extra["quarantined_ids"], cell.extra["quarantined_times"]
        self.last = cell

    def whole(self) -> Cell:
        """The last cell with all accounts that there ever were, ascending."""
        assert self.last is not None
        ids = self._roll.ids
        ids = ids[np.argsort(ids)]
        arrays, values = flat(self.state(ids)), self.extra(ids)
        state = {name: arrays[name] for name in self.last.state}
        extra = {name: values.get(name, of_cell) for name, of_cell in self.last.extra.items()}
        return replace(self.last, accounts=ids, state=state, extra=extra)

    def _places(self, ids: np.ndarray) -> np.ndarray:
        places = self._roll.places(ids)
        missing = len(self._roll) - len(self._state.episodes)
        if missing:
            fresh = self._fresh(missing), self._fresh_extra(missing)
            joined = jax.tree.map(
                lambda *x: np.concatenate(x, axis=-1), (self._state, self._extra), fresh
            )
            self._state, self._extra = joined
        return places

    def _fresh_extra(self, count: int) -> dict[str, np.ndarray]:
        """Values of newcomers that are no part of their state."""
        extra: dict[str, np.ndarray] = {name: np.full(count, np.nan) for name in START_FIELDS}
        extra["segment"] = np.full(count, -1)
        extra[WRITTEN_OFF] = np.zeros(count)
        if self._num_currencies:
            extra[f"{LEDGER}change_units"] = np.zeros((self._num_currencies, count))
            extra[f"{LEDGER}interest_usd"] = np.zeros(count)
            extra[f"{LEDGER}converted_usd"] = np.zeros(count)
            extra[f"{LEDGER}conversions"] = np.zeros(count, np.int32)
        return extra


LIQUIDATION = "liquidation_"
"""Prefix of the arrays of a ``LiquidationLedger`` in a cell."""


def flat_ledger(ledger: LiquidationLedger) -> dict[str, np.ndarray]:
    """The arrays of what liquidation left, as a cell saves them."""
    return {f"{LIQUIDATION}{name}": values for name, values in ledger.arrays().items()}


def carried_ledger(before: Cell | None, count: int) -> LiquidationLedger:
    """What liquidation left of the accounts of a snapshot; nothing yet where none is given."""
    if before is None:
        return LiquidationLedger.empty(count)
    names = LiquidationLedger.__dataclass_fields__
    return LiquidationLedger(**{name: before.extra[f"{LIQUIDATION}{name}"] for name in names})


def count_quarantined(extra: dict[str, np.ndarray], ids: list[str], times: int) -> None:
    """Add the times of a window to the accounts kept out of it."""
    counts = dict(
        zip(extra["quarantined_ids"].tolist(), extra["quarantined_times"].tolist(), strict=True)
    )
    for name in ids:
        counts[name] = counts.get(name, 0) + times
    extra["quarantined_ids"] = np.asarray(sorted(counts), dtype=str)
    extra["quarantined_times"] = np.asarray([counts[k] for k in sorted(counts)], dtype=np.int64)


def take(state: Carried, at: np.ndarray) -> Carried:
    """States or ledgers of some accounts."""
    return jax.tree.map(lambda x: x[..., at], state)


def put(state: Carried, at: np.ndarray, values: Carried) -> None:
    """Replace the states or ledgers of some accounts, in place."""
    for target, value in zip(jax.tree.leaves(state), jax.tree.leaves(values), strict=True):
        target[..., at] = value
