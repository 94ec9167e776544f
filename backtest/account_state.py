"""What accounts carry from one window to the next: kernel states and values for the reports."""

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


def reindexed(
    before: Cell | None, known: np.ndarray, model: MarginModel, *, multipliers: bool
) -> AccountState:
    """States of the known accounts: those of the cell before, fresh ones for newcomers.

    What a cell leaves out is fresh.
    """
    fresh = initial_state(len(known), model, multipliers=multipliers)
    if before is not None:
        at, arrays = np.searchsorted(known, before.accounts), flat(fresh)
        for name, values in before.state.items():
            arrays[name][at] = values
    return fresh


def reindexed_extra(
    before: Cell | None, known: np.ndarray, *, details: bool = True
) -> dict[str, np.ndarray]:
    """Values for the reports of the known accounts, carried on from the cell before."""
    starts = START_FIELDS if details else ()
    extra: dict[str, np.ndarray] = {name: np.full(len(known), np.nan) for name in starts}
    extra["segment"] = np.full(len(known), -1)
    extra["quarantined_ids"] = np.asarray([], dtype=str)
    extra["quarantined_times"] = np.asarray([], dtype=np.int64)
    if before is not None:
        at = np.searchsorted(known, before.accounts)
        for name in (*starts, "segment"):
            extra[name][at] = before.extra[name]
        if WRITTEN_OFF in before.extra:
            extra[WRITTEN_OFF] = np.zeros(len(known))
            extra[WRITTEN_OFF][at] = before.extra[WRITTEN_OFF]
        extra["quarantined_ids"] = before.extra["quarantined_ids"]
        extra["quarantined_times"] = before.extra["quarantined_times"]
    return extra


Carried = TypeVar("Carried", AccountState, Ledger, Ledger | None)
LEDGER_FIELDS = tuple(Ledger.__dataclass_fields__)


def reindexed_ledger(
    before: Cell | None, known: np.ndarray, num_currencies: int, *, keeps_changes: bool
) -> Ledger:
    """Ledgers of the known accounts, carried on from the cell before.

    ``keeps_changes`` is False where a new snapshot begins: its cash holds what debts have moved.
    """
    count = len(known)
    ledger = Ledger(
        change_units=np.zeros((num_currencies, count)),
        interest_usd=np.zeros(count),
        converted_usd=np.zeros(count),
        conversions=np.zeros(count, np.int32),
    )
    if before is not None:
        at = np.searchsorted(known, before.accounts)
        for name in LEDGER_FIELDS:
            if keeps_changes or name != "change_units":
                getattr(ledger, name)[..., at] = before.extra[f"ledger_{name}"]
    return ledger


LIQUIDATION = "liquidation_"
"""Prefix of the arrays of a ``LiquidationLedger`` in a cell."""


def flat_ledger(ledger: LiquidationLedger) -> dict[str, np.ndarray]:
    """The arrays of what liquidation left, as a cell saves them."""
    return {f"{LIQUIDATION}{name}": values for name, values in ledger.arrays().items()}


def carried_ledger(before: Cell | None, known: np.ndarray) -> LiquidationLedger:
    """What liquidation left of the known accounts; nothing yet where there is no cell before."""
    if before is None:
        return LiquidationLedger.empty(len(known))
    names = LiquidationLedger.__dataclass_fields__
    saved = LiquidationLedger(**{name: before.extra[f"{LIQUIDATION}{name}"] for name in names})
    return saved.reindexed(np.searchsorted(known, before.accounts), len(known))


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
