"""Who paid the losses of a whole run: fund, deleveraged accounts, nobody; from its saved rows.

After all buckets, time by time and account by account, so that neither buckets nor workers nor
windows matter. Accounts with profit are those of the snapshot that liquidation has not touched;
who is deleveraged is margined again at that time, and its loss of position lasts until the next
snapshot as far as later deleveraging goes. Its path in the other tables does not know of it: that
would take another replay of its bucket, which is not done.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from backtest.account_state import put, take
from backtest.batching import Batch, Snapshot, batches, equity_usd
from backtest.cells import CellStore, safe_name
from backtest.durable import write_table
from backtest.engine import initial_state
from backtest.errors import RunError
from backtest.liquidation_ledger import with_moved
from backtest.market_window import micros
from backtest.plan import Window
from backtest.portfolios import read_portfolios
from backtest.replay import ReplayContext
from backtest.schema import NAME, NUMBER, TIME
from backtest.simulate import LEFT_SHAPES
from backtest.waterfall import POLICIES, Fund, Outcome, Winners, imbalance_usd, settle
from backtest.window_records import Debts, TileResult
from kernels.debts import Ledger
from kernels.features import CASH, GROSS


CENT = 0.01
Rows = list[dict[str, Any]]

WHO = (("parameter_set", NAME), ("account_id", NAME), ("time", TIME))
FUND_SCHEMA = pa.schema(
    [
        ("parameter_set", NAME),
        ("time", TIME),
        ("liquidated", pa.int64()),
        ("bankrupt", pa.int64()),
        ("deleveraged", pa.int64()),
        *(
            (name, NUMBER)
            for name in (
                "fund_before_usd",
                "fee_usd",
                "surplus_usd",
                "revenue_usd",
                "loss_usd",
                "from_fund_usd",
                "from_adl_usd",
                "unfunded_usd",
                "adl_needed_usd",
                "fund_after_usd",
            )
        ),
    ]
)
"""Columns of ``waterfall``: one row a time with liquidations. ``fund_after = fund_before + revenue
- from_fund`` and ``loss = from_fund + from_adl + unfunded``."""
PAID = ("loss_usd", "from_fund_usd", "from_adl_usd", "unfunded_usd")
LOSS_SCHEMA = pa.schema([*WHO, *((name, NUMBER) for name in PAID)])
"""Columns of ``bankruptcies``: how the loss of each account was paid."""
GIVEN = (
    "haircut_usd",
    "profit_usd",
    "closed_frac",
    "equity_before_usd",
    "level_before",
    "level_after",
)
ADL_SCHEMA = pa.schema([*WHO, *((name, NUMBER) for name in GIVEN)])
"""Columns of ``deleveraged``: what each account gave up, and its margin level with it."""
POLICY_SCHEMA = pa.schema(
    [
        *FUND_SCHEMA,
        ("policy", NAME),
        ("largest_haircut_usd", NUMBER),
        ("largest_closed_frac", NUMBER),
    ]
)
"""Columns of ``adl_policies``: the waterfall under a way to deleverage, and what hit one account
hardest. Losses are the same under all: deleveraging changes no account's later path."""
TOTAL_SCHEMA = pa.schema(
    [
        ("parameter_set", NAME),
        ("account_id", NAME),
        ("segment", NAME),
        *((name, pa.int32()) for name in ("times", "steps", "slices", "repeats", "bankruptcies")),
        *(
            (name, NUMBER)
            for name in ("notional_usd", "fee_usd", "slippage_usd", "surplus_usd", "bad_debt_usd")
        ),
        ("first_time", TIME),
        ("last_time", TIME),
        ("seconds_to_safety", NUMBER),
        ("last_stage", NAME),
        ("last_status", NAME),
    ]
)
"""Columns of ``liquidation_totals``: one row an account that was liquidated. ``times`` counts grid
times with slices, ``repeats`` liquidations begun after the first, ``seconds_to_safety`` is the
longest from the trigger to the end of a liquidation."""


def write_waterfall(context: ReplayContext, out: Path) -> None:
    """Write the tables of who paid, for every parameter set.

    Raises:
        RunError: the amounts do not add up to the cent.
    """
    for s, name in enumerate(context.set_names):
        rows = liquidated_rows(out, name)
        ledger = _Ledger(context, s)
        for time, group in groupby(rows, key=lambda row: row["time"]):
            ledger.add(time, list(group))
        file = f"{safe_name(name)}.parquet"
        for folder, content, schema in (
            ("waterfall", ledger.times, FUND_SCHEMA),
            ("bankruptcies", ledger.losses, LOSS_SCHEMA),
            ("deleveraged", ledger.given, ADL_SCHEMA),
            ("liquidation_totals", totals(rows), TOTAL_SCHEMA),
        ):
            write_table(out / folder / file, pa.Table.from_pylist(content, schema=schema))
        if context.config.liquidation.compare_policies:
            compared = [row for p in POLICIES for row in _under_policy(context, s, rows, p)]
            table = pa.Table.from_pylist(compared, schema=POLICY_SCHEMA)
            write_table(out / "adl_policies" / file, table)


def _under_policy(context: ReplayContext, s: int, rows: Rows, policy: str) -> Rows:
    """The waterfall of a set if accounts with profit were deleveraged so."""
    ledger = _Ledger(context, s, policy)
    for time, group in groupby(rows, key=lambda row: row["time"]):
        ledger.add(time, list(group))
    found = []
    for row in ledger.times:
        gave = [one for one in ledger.given if one["time"] == row["time"]]
        hardest = {
            "largest_haircut_usd": max((one["haircut_usd"] for one in gave), default=0.0),
            "largest_closed_frac": max((one["closed_frac"] for one in gave), default=0.0),
        }
        found.append({**row, "policy": policy, **hardest})
    return found


def liquidated_rows(out: Path, name: str) -> Rows:
    """Rows of ``liquidated`` of a set over all cells, by time and account."""
    rows: Rows = []
    for file in sorted((out / "liquidated").glob(f"{safe_name(name)}-b*.parquet")):
        rows += [row for row in pq.read_table(file).to_pylist() if row["parameter_set"] == name]
    return sorted(rows, key=lambda row: (row["time"], row["account_id"]))


def totals(rows: Rows) -> Rows:
    """One row for each account that was liquidated, from the rows of its times."""
    by_account: dict[str, Rows] = {}
    for row in rows:
        by_account.setdefault(row["account_id"], []).append(row)
    return [_total(mine) for _, mine in sorted(by_account.items())]


def _total(mine: Rows) -> dict[str, Any]:
    first, last = mine[0], mine[-1]
    begun, seconds, start = 0, [], first["time"]
    goes_on = False
    for row in mine:
        if not goes_on:
            begun, start = begun + 1, row["time"]
        seconds.append((row["time"] - start).total_seconds())
        goes_on = row["is_active"]
    sums = ("notional_usd", "fee_usd", "slippage_usd", "surplus_usd", "bad_debt_usd")
    return {
        **{name: first[name] for name in ("parameter_set", "account_id", "segment")},
        "times": len(mine),
        "steps": sum(row["steps"] for row in mine),
        "slices": sum(row["slices"] for row in mine),
        "repeats": begun - 1,
        "bankruptcies": sum(row["status"] == "bankrupt" for row in mine),
        **{name: math.fsum(row[name] for row in mine) for name in sums},
        "first_time": first["time"],
        "last_time": last["time"],
        "seconds_to_safety": max(seconds),
        "last_stage": last["last_stage"],
        "last_status": last["status"],
    }


class _Ledger:
    """The fund of one parameter set through time, and rows of all that it paid.

    With a ``policy``: if accounts with profit were deleveraged so; then nobody is margined again.
    """

    def __init__(self, context: ReplayContext, s: int, policy: str | None = None) -> None:
        self.context, self.set = context, s
        self.rules, self._margins_again = context.simulators[s].numbers, policy is None
        if policy is not None:
            self.rules = self.rules | {"adl": self.rules["adl"] | {"policy": policy}}
        assert self.rules["adl"]["policy"] in POLICIES
        self.fund = Fund.of(float(self.rules["fund"]["start_usd"]))
        self.times: Rows = []
        self.losses: Rows = []
        self.given: Rows = []
        self._touched: set[str] = set()
        self._snapshot_us = -1
        self._left: dict[tuple[str, int], float] = {}
        """Share of a leg that is left after deleveraging, by account and instrument."""

    def add(self, time: datetime, group: Rows) -> None:
        """Settle one time."""
        now_us = int(micros(pd.DatetimeIndex([time]))[0])
        window = self._window(now_us)
        if window.snapshot_us != self._snapshot_us:
            self._snapshot_us, self._touched, self._left = window.snapshot_us, set(), {}
        self._touched |= {row["account_id"] for row in group}
        lost = [row for row in group if row["bad_debt_usd"] > 0.0]
        loss = np.asarray([row["bad_debt_usd"] for row in lost], float)
        fees, surplus = (math.fsum(row[c] for row in group) for c in ("fee_usd", "surplus_usd"))
        money = {"fees_usd": fees, "surplus_usd": surplus}
        before, winners, found = self.fund, _NOBODY, None
        outcome = settle(before, loss, winners, now_us, self.rules, **money)
        if outcome.needed_usd > 0.0 and self.rules["adl"]["policy"] != "none":
            found = _Market(self.context, self.set, window, now_us).winners(
                _sides(lost), self._touched, self._left
            )
            outcome = settle(before, loss, found.winners, now_us, self.rules, **money)
        missing = imbalance_usd(before, outcome, fees, surplus)
        if missing > CENT / 2:
            raise RunError(f"waterfall at {time}: {missing} USD are not accounted for")
        self.fund = outcome.fund
        self._keep(time, group, lost, before, outcome, money)
        if found is not None:
            self._deleverage(time, found, outcome.haircut_usd)

    def _window(self, now_us: int) -> Window:
        k = int(np.searchsorted(self.context.plan.times_us, now_us))
        return next(w for w in self.context.plan.windows if w.first <= k < w.stop)

    def _keep(
        self,
        time: datetime,
        group: Rows,
        lost: Rows,
        before: Fund,
        outcome: Outcome,
        money: dict[str, float],
    ) -> None:
        """Rows of one time."""
        name = self.context.set_names[self.set]
        paid = outcome.loss_usd, outcome.from_fund_usd, outcome.from_adl_usd, outcome.unfunded_usd
        who = {"parameter_set": name, "time": time}
        self.times.append(
            {
                **who,
                "liquidated": len(group),
                "bankrupt": len(lost),
                "deleveraged": int((outcome.haircut_usd > 0.0).sum()),
                "fund_before_usd": before.balance_usd,
                "fee_usd": money["fees_usd"],
                "surplus_usd": money["surplus_usd"],
                "revenue_usd": outcome.revenue_usd,
                **{key: math.fsum(x) for key, x in zip(PAID, paid, strict=True)},
                "adl_needed_usd": outcome.needed_usd,
                "fund_after_usd": outcome.fund.balance_usd,
            }
        )
        for row, *amounts in zip(lost, *paid, strict=True):
            each = dict(zip(PAID, map(float, amounts), strict=True))
            self.losses.append({**who, "account_id": row["account_id"], **each})

    def _deleverage(self, time: datetime, found: "_Found", haircut: np.ndarray) -> None:
        """Rows of the accounts that gave something up; their legs are smaller from now on."""
        gave = np.flatnonzero(haircut > 0.0)
        if not len(gave):
            return
        share = np.zeros(len(haircut))
        share[gave] = np.minimum(1.0, haircut[gave] / found.winners.profit_usd[gave])
        levels = found.levels(share) if self._margins_again else {}
        for k in gave.tolist():
            account = str(found.names[k])
            before, after = levels.get(account, (None, None))
            self.given.append(
                {
                    "parameter_set": self.context.set_names[self.set],
                    "account_id": account,
                    "time": time,
                    "haircut_usd": float(haircut[k]),
                    "profit_usd": float(found.winners.profit_usd[k]),
                    "closed_frac": float(share[k]),
                    "equity_before_usd": float(found.winners.equity_usd[k]),
                    "level_before": before,
                    "level_after": after,
                }
            )
            for instrument in found.legs[account]:
                key = account, instrument
                self._left[key] = self._left.get(key, 1.0) * (1.0 - float(share[k]))


_NOBODY = Winners(*(np.zeros(0) for _ in range(4)))


def _sides(lost: Rows) -> dict[str, float]:
    """Cash delta that bankrupt accounts traded, USD by coin."""
    sides: dict[str, float] = {}
    for row in lost:
        for coin, usd in zip(row["sold_coins"], row["sold_delta_usd"], strict=True):
            sides[coin] = sides.get(coin, 0.0) + usd
    return sides


@dataclass(frozen=True)
class _Found:
    """Accounts that can be deleveraged, ascending; their legs with the profit by instrument."""

    names: np.ndarray
    winners: Winners
    legs: dict[str, set[int]]
    market: "_Market"
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


class _Market:
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
    ) -> _Found:
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
        return _Found(frame["name"].to_numpy(str), winners, legs, self, snapshots)

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
