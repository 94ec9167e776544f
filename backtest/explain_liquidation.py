"""The liquidations of one account of a finished run, again with the readable reference."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Group, RenderableType

from backtest.explain_parts import level_text, line, money, number, row, table
from backtest.market_window import micros
from backtest.portfolio_at import Holdings, MarketView, added, portfolio_at
from backtest.reference.liquidation import Liquidation, Step, liquidate
from backtest.set_rules import SetRules


if TYPE_CHECKING:
    from backtest.explain import AccountHistory


def liquidated_us(results: Path, name: str, account: str) -> list[int]:
    """Times at which a run liquidated an account, microseconds, ascending."""
    mine = (pc.field("account_id") == account) & (pc.field("parameter_set") == name)
    found: list[int] = []
    for file in sorted((results / "liquidated").glob("*.parquet")):
        times = pq.read_table(file, columns=["time"], filters=mine)["time"].to_pandas()
        found += micros(pd.DatetimeIndex(times)).tolist()
    return sorted(found)


@dataclass(frozen=True)
class SimulatedPast:
    """An account through the liquidations of a run.

    Fields:
        past: its snapshots; rules: the parameter set by time.
        numbers: of the liquidation file; times_us: when the run liquidated it.
    """

    past: "AccountHistory"
    rules: SetRules
    numbers: dict[str, Any]
    times_us: list[int]

    def at(self, time_us: int) -> tuple[dict[str, Any], Liquidation | None, dict[str, float]]:
        """The account before the liquidation of a time, that, and what debts have moved till then.

        The liquidation is None where there is none.
        """
        holdings, active = self.past.holdings(time_us), False
        left_us: int | None = None
        moved: dict[str, float] = {}
        snapshot_us = self.past.snapshot_us(time_us)
        for earlier in self.times_us:
            if earlier >= time_us or self.past.snapshot_us(earlier) != snapshot_us:
                continue
            view = self.past.view(earlier)
            portfolio, by_debts = self._held(holdings, left_us, earlier)
            done = self._liquidated(portfolio, earlier, active=active)
            holdings, active = left_with(holdings, done.portfolio_after, view), done.is_active
            left_us, moved = earlier, added(moved, by_debts)
        portfolio, by_debts = self._held(holdings, left_us, time_us)
        moved = added(moved, by_debts)
        if time_us not in self.times_us:
            return portfolio, None, moved
        return portfolio, self._liquidated(portfolio, time_us, active=active), moved

    def _held(
        self, holdings: Holdings, left_us: int | None, time_us: int
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Holdings of a snapshot, or left at a time, at a later one; what debts moved between."""
        left = None if left_us is None else (holdings, left_us)
        moved = self.past.moved_by_debts(time_us, self.rules, left)
        portfolio = portfolio_at(holdings, self.past.view(time_us), 0)
        portfolio["balances"] = added(portfolio["balances"], moved)
        return portfolio, moved

    def _liquidated(self, portfolio: dict[str, Any], time_us: int, *, active: bool) -> Liquidation:
        return liquidate(portfolio, self.rules.numbers_at(time_us), self.numbers, active=active)


def left_with(holdings: Holdings, portfolio: dict[str, Any], view: MarketView) -> Holdings:
    """What an account holds after a liquidation; funding counts from its snapshot again."""
    window, cash = view.window, dict(portfolio["balances"])
    columns = {view.instrument(k)["instrument_id"]: k for k in range(1, len(view.instruments) + 1)}
    rows = portfolio["positions"]
    for item in rows:
        column = columns[item["instrument_id"]]
        settle = view.instrument(column)["settle"]
        paid = float(item["contracts"] * window.funding[0, column])
        if paid:
            cash[settle] = cash.get(settle, 0.0) + paid
    entry = [np.nan if item["entry_price"] is None else item["entry_price"] for item in rows]
    return replace(
        holdings,
        instrument=np.asarray([columns[item["instrument_id"]] for item in rows], int),
        contracts=np.asarray([item["contracts"] for item in rows], float),
        entry=np.asarray(entry, float),
        cash=cash,
        orders=holdings.orders if portfolio["orders"] else [],
    )


def render_liquidation(done: Liquidation) -> RenderableType:
    """Every step of a liquidation, and what it came to."""
    shown = table(
        "Liquidation, step by step",
        *("Step", "Stage", "On", "Slices", "Fee", "Slippage", "Level", "MMR", "Equity"),
        left=3,
    )
    for step in done.steps:
        row(
            shown,
            str(step.number),
            step.stage,
            step.target,
            str(step.slices),
            money(step.fee_usd),
            money(step.slippage_usd),
            _change(step.level_before, step.level_after),
            f"{money(step.mmr_before_usd)} to {money(step.mmr_after_usd)}",
            f"{money(step.equity_before_usd)} to {money(step.equity_after_usd)}",
        )
    words = [line(text) for step in done.steps for text in _why(step)]
    total = (
        f"{done.status}: {money(done.equity_before_usd)} - fees {money(done.fees_usd)} - slippage "
        f"{money(done.slippage_usd)} - surplus {money(done.surplus_usd)} + bad debt "
        f"{money(done.bad_debt_usd)} = {money(done.equity_after_usd)} USD"
    )
    return Group(shown, *words, _trades(done), line(total))


def _why(step: Step) -> list[str]:
    moved = [
        f"{name.upper()} {money(value)} to {money(step.charges_after[name])}"
        for name, value in step.charges_before.items()
        if value != step.charges_after[name]
    ]
    return [
        f"Step {step.number}, {step.stage}: {step.chosen}; ended: {step.ended}",
        *([f"  {', '.join(moved)}"] if moved else []),
    ]


def _trades(done: Liquidation) -> RenderableType:
    shown = table(
        "Trades", *("Step", "Contract", "Size", "Mark", "Price", "USD", "Fee", "Slippage"), left=2
    )
    for step in done.steps:
        for each in step.traded:
            row(
                shown,
                str(step.number),
                each.instrument_id,
                number(each.contracts),
                number(each.mark),
                number(each.price),
                money(each.notional_usd),
                money(each.fee_usd),
                money(each.slippage_usd),
            )
    return shown


def _change(before: float, after: float) -> str:
    levels = (None if np.isinf(x) else x for x in (before, after))
    return " to ".join(level_text(x) for x in levels)
