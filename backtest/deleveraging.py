"""Accounts that can be deleveraged at a time of a run: who has profit, and the levels they have.

They are margined again by the engine of their bucket: before and after what they give up.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from backtest.account_state import put, take
from backtest.batching import Batch, Snapshot, batches, equity_usd
from backtest.cells import CellStore
from backtest.engine import initial_state
from backtest.liquidation_ledger import with_moved
from backtest.plan import Window
from backtest.portfolios import read_portfolios
from backtest.replay import ReplayContext
from backtest.simulate import LEFT_SHAPES
from backtest.waterfall import Winners
from backtest.window_records import Debts, TileResult
from kernels.debts import Ledger
from kernels.features import CASH, GROSS


@dataclass(frozen=True)
class Profiting:
    """Accounts that can be deleveraged, ascending; their legs with the profit by instrument."""

    names: np.ndarray
    winners: Winners
    legs: dict[str, set[int]]
    market: "MarketAt"
    snapshots: list[Snapshot]

    def levels(self, share: np.ndarray) -> dict[str, tuple[float | None, float | None]]:
        """Margin level of who gives something up, before and after; None = nothing required."""
        shares = dict(zip(self.names.tolist(), share.tolist(), strict=True))
        found: dict[str, tuple[float | None, float | None]] = {}
        for snapshot in self.snapshots:
            keep = np.asarray([shares.get(str(n), 0.0) > 0.0 for n in snapshot.account_ids], bool)
            if not keep.any():
                continue
            some = snapshot.only(keep)
            closed = np.asarray(
                [
                    shares[name] * (int(i) in self.legs[name])
                    for name, i in zip(
                        some.account_ids[some.leg_account].tolist(),
                        some.leg_instrument,
                        strict=True,
                    )
                ]
            )
            smaller = replace(some, leg_contracts=some.leg_contracts * (1.0 - closed))
            each = zip(self.market.levels(some), self.market.levels(smaller), strict=True)
            found |= dict(zip(some.account_ids.tolist(), each, strict=True))
        return found


class MarketAt:
    """Prices of one time, and what accounts hold and are worth at them."""

    def __init__(self, context: ReplayContext, s: int, window: Window, now_us: int) -> None:
        self.context, self.set, self.window = context, s, window
        self.axis = context.axis(window.snapshot_us)
        self.at = int(np.searchsorted(context.plan.times_us, now_us)) - window.first
        self.priced = context.priced(window)[s].in_float64
        count, tables = len(self.axis.terms.kind), self.priced.tables
        self.features = np.asarray(tables.features[..., self.at])[:count]
        self.currency_usd = np.asarray(tables.currency_usd[..., self.at])
        _, self.worth_usd, self.resting = np.asarray(tables.order_terms[..., self.at])[:count].T

    def winners(
        self, sides: dict[str, float], touched: set[str], left: dict[tuple[str, int], float]
    ) -> Profiting:
        """Who has profit in the coins that bankrupt accounts traded, on the side they traded to."""
        context, snapshots, parts = self.context, list[Snapshot](), list[pd.DataFrame]()
        legs: dict[str, set[int]] = {}
        for bucket in context.plan.buckets:
            portfolios = read_portfolios(
                context.dataset,
                context.plan,
                self.window.snapshot_us,
                bucket,
                self.axis.instruments,
                self.axis.terms,
                context.currencies,
                context.max_staleness_us,
            )
            snapshot = portfolios.snapshot
            keep = np.asarray([str(n) not in touched for n in snapshot.account_ids], bool)
            snapshot = _with_left(self._with_moved(snapshot.only(keep), bucket), left)
            snapshots.append(snapshot)
            parts.append(self._of(snapshot, sides, legs))
        frame = pd.concat(parts, ignore_index=True).sort_values(by="name", ignore_index=True)
        winners = Winners(
            *(frame[c].to_numpy(float) for c in ("profit", "entry", "leverage", "equity"))
        )
        return Profiting(frame["name"].to_numpy(str), winners, legs, self, snapshots)

    def _of(
        self, snapshot: Snapshot, sides: dict[str, float], legs: dict[str, set[int]]
    ) -> pd.DataFrame:
        """Name, profit, entry value, leverage and equity of the winners of a bucket."""
        terms, instrument = self.axis.terms, snapshot.leg_instrument
        n, settle_usd = snapshot.leg_contracts, self.currency_usd[terms.settle[instrument]]
        size = n * terms.multiplier[instrument]
        with np.errstate(divide="ignore", invalid="ignore"):
            paid = np.where(
                terms.is_inverse[instrument],
                size / snapshot.leg_entry,
                -size * snapshot.leg_entry,
            )
        profit = n * self.worth_usd[instrument] + paid * settle_usd
        delta = n * self.features[instrument, CASH].sum(axis=1)
        names = self.context.currencies.names
        side = np.asarray([sides.get(names[c], 0.0) for c in terms.coin[instrument]])
        is_live = (self.resting[instrument] > 0) & (n != 0.0)
        with np.errstate(invalid="ignore"):
            wins = is_live & ~terms.is_option[instrument] & (profit > 0.0) & (delta * side > 0.0)
        count, account = len(snapshot.account_ids), snapshot.leg_account

        def total(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
            return np.bincount(account[chosen], values[chosen], minlength=count)

        gross = total(np.abs(n) * self.features[instrument, GROSS], is_live)
        equity = equity_usd(
            snapshot, terms, self.context.currencies, self.features, self.currency_usd
        )
        gains, entry = total(profit, wins), total(np.abs(delta - profit), wins)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.flatnonzero((gains > 0.0) & (equity > 0.0))
            leverage = np.maximum(gross, total(np.abs(delta), wins)) / equity
        for name, column in zip(
            snapshot.account_ids[account[wins]].tolist(), instrument[wins].tolist(), strict=True
        ):
            legs.setdefault(str(name), set()).add(int(column))
        return pd.DataFrame(
            {
                "name": snapshot.account_ids[found].astype(str),
                "profit": gains[found],
                "entry": entry[found],
                "leverage": leverage[found],
                "equity": equity[found],
            }
        )

    def levels(self, snapshot: Snapshot) -> list[float | None]:
        """Margin levels of the accounts of a snapshot at the time."""
        level = np.full(len(snapshot.account_ids), np.nan)
        for batch, found in self._replayed(snapshot, None):
            level[batch.accounts] = found.scores.field("margin_level")[self.at]
        return [float(x) if np.isfinite(x) else None for x in level]

    def _with_moved(self, snapshot: Snapshot, bucket: int) -> Snapshot:
        """The snapshot whose cash holds what debts have moved by the time."""
        context, window = self.context, self.window
        if not context.moves_debts:
            return snapshot
        count = len(snapshot.account_ids)
        moved = Ledger(
            change_units=np.zeros((len(context.currencies.names), count)),
            interest_usd=np.zeros(count),
            converted_usd=np.zeros(count),
            conversions=np.zeros(count, np.int32),
        )
        last = window.number - 1
        if last >= 0 and context.plan.windows[last].snapshot_us == window.snapshot_us:
            moves = context.moves_until(self.set, context.plan.windows[last])
            cell = CellStore(context.out).find(self.set, bucket, last, moves)
            assert cell is not None
            mine = np.searchsorted(cell.accounts, snapshot.account_ids)
            np.asarray(moved.change_units)[:] = cell.extra["ledger_change_units"][:, mine]
        for batch, found in self._replayed(snapshot, moved):
            put(moved, batch.accounts, found.ledger)
        return with_moved(snapshot, np.asarray(moved.change_units))

    def _replayed(
        self, snapshot: Snapshot, moved: Ledger | None
    ) -> Iterator[tuple[Batch, TileResult]]:
        """A snapshot through the window till the time, with its debts where ``moved`` is given."""
        context, simulator = self.context, self.context.simulators[self.set]
        ids = context.time_ids(self.window)
        ids[self.at + 1 :] = -1
        for batch in batches(
            snapshot,
            self.axis.terms,
            context.currencies,
            split=simulator.rules.is_split(int(context.plan.times_us[self.window.first])),
            shapes=LEFT_SHAPES,
        ):
            debts, accounts = None, batch.accounts
            if moved is not None:
                converts = context.config.replay.conversion
                debts = Debts(take(moved, accounts), context.hours(self.window), converts)
            state = initial_state(len(accounts), self.priced.model)
            segment = np.zeros(len(accounts), int)
            yield batch, simulator.engine.replay(batch, state, self.priced, segment, ids, debts)


def _with_left(snapshot: Snapshot, left: dict[tuple[str, int], float]) -> Snapshot:
    """The snapshot with what deleveraging has left of its legs."""
    if not left:
        return snapshot
    names = snapshot.account_ids[snapshot.leg_account].tolist()
    share = [
        left.get((str(n), int(i)), 1.0) for n, i in zip(names, snapshot.leg_instrument, strict=True)
    ]
    return replace(snapshot, leg_contracts=snapshot.leg_contracts * np.asarray(share))
