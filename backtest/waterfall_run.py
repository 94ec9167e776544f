"""Who paid the losses of a whole run: fund, deleveraged accounts, nobody; from its saved rows.

After all buckets, time by time and account by account, so that neither buckets nor workers nor
windows matter. Accounts with profit are those of the snapshot that liquidation has not touched;
who is deleveraged is margined again at that time, and its loss of position lasts until the next
snapshot as far as later deleveraging goes. Its path in the other tables does not know of it: that
would take another replay of its bucket, which is not done.
"""

import math
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from backtest.cells import safe_name
from backtest.deleveraging import MarketAt, Profiting
from backtest.durable import write_table
from backtest.errors import RunError
from backtest.market_window import micros
from backtest.plan import Window
from backtest.replay import ReplayContext
from backtest.schema import NAME, NUMBER, TIME
from backtest.waterfall import POLICIES, Fund, Outcome, Winners, imbalance_usd, settle


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
            found = MarketAt(self.context, self.set, window, now_us).winners(
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

    def _deleverage(self, time: datetime, found: Profiting, haircut: np.ndarray) -> None:
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
