"""Whether peers and engine compute the same: nothing is timed before it agrees."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from backtest.batching import Snapshot
from backtest.bench.book import World
from backtest.errors import RunError
from backtest.market_window import MarketWindow
from backtest.portfolio_at import Holdings, MarketView, portfolio_at
from backtest.reference import okx as reference
from kernels.models.okx import CHARGES


RELATIVE = 1e-9
"""Largest difference allowed: of a level, of a charge against the size of its account."""


@dataclass(frozen=True)
class Agreement:
    """Two ways compared: how many numbers, and the largest relative difference."""

    what: str
    numbers: int
    worst: float

    def record(self) -> dict[str, Any]:
        """As in ``bench.json``."""
        return {"what": self.what, "numbers": self.numbers, "worst_relative": self.worst}


@dataclass(frozen=True)
class Margins:
    """Level, charges, equity and requirement of accounts; any axes, alike in all four."""

    level: np.ndarray
    charges: np.ndarray
    equity_usd: np.ndarray
    total_mmr: np.ndarray


def of_peer(out: np.ndarray) -> Margins:
    """Numbers of a peer: level, MR1 ... MR9, equity, adjusted equity, requirement of units."""
    return Margins(out[..., 0], out[..., 1:10], out[..., 10], out[..., 12] + out[..., 8])


def of_engine(margin: Any) -> Margins:
    """Numbers of the engine, charges on the last axis."""
    charges = np.stack([margin.charges[name] for name in CHARGES], axis=-1)
    return Margins(margin.margin_level, charges, margin.equity_usd, margin.total_mmr)


def largest_difference(found: Margins, expected: Margins) -> float:
    """Relative: levels of themselves (at least 1), charges of the size of their account."""
    scale = np.maximum(np.maximum(np.abs(expected.equity_usd), expected.total_mmr), 1.0)
    charges = np.abs(found.charges - expected.charges) / scale[..., None]
    same_infinity = np.isinf(expected.level) & (found.level == expected.level)
    with np.errstate(invalid="ignore"):
        level = np.abs(found.level - expected.level) / np.maximum(np.abs(expected.level), 1.0)
    return float(np.max([charges.max(), np.where(same_infinity, 0.0, level).max()]))


def agreed(what: str, numbers: int, worst: float, tolerance: float = RELATIVE) -> Agreement:
    """The comparison, if it is within tolerance (NaN never is).

    Raises:
        RunError: it is not.
    """
    if not worst <= tolerance:
        raise RunError(f"{what}: differ by {worst:.3g} (relative), allowed {tolerance:g}")
    return Agreement(what, numbers, worst)


def reference_margins(
    world: World,
    snapshot: Snapshot,
    window: MarketWindow,
    numbers: dict[str, Any],
    picks: list[tuple[int, int]],
) -> Margins:
    """Margins of some (time, account) by the float64 reference, one axis."""
    view = MarketView(window, world.instruments, world.currencies.names)
    rows = []
    for time, account in picks:
        portfolio = portfolio_at(_holdings(world, snapshot, account), view, time)
        answer = reference.margin(portfolio, numbers)
        units, total = answer["units"].values(), answer["account"]
        charges = [sum(unit[name] for unit in units) for name in CHARGES if name != "mr8"]
        charges.insert(list(CHARGES).index("mr8"), total["mr8"])
        level = np.inf if total["margin_level"] is None else total["margin_level"]
        rows.append([level, *charges, total["equity_usd"], total["total_mmr"]])
    table = np.asarray(rows, float)
    return Margins(table[:, 0], table[:, 1:10], table[:, 10], table[:, 11])


def _holdings(world: World, snapshot: Snapshot, account: int) -> Holdings:
    legs = np.flatnonzero(snapshot.leg_account == account)
    rows = np.flatnonzero(snapshot.cash_account == account)
    names = [world.currencies.names[k] for k in snapshot.cash_currency[rows]]
    return Holdings(
        snapshot.leg_instrument[legs],
        snapshot.leg_contracts[legs],
        snapshot.leg_entry[legs],
        dict(zip(names, snapshot.cash[rows].tolist(), strict=True)),
        {},
    )
