"""One account at one time as a portfolio file: the bridge from the replay to the reference."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from backtest.dataset import utc
from backtest.market_window import MarketWindow, stamp


@dataclass(frozen=True)
class Holdings:
    """What an account holds: positions on an instrument axis, cash and limits by currency.

    Fields:
        instrument: row of each leg on the axis that includes the null contract (so >= 1).
        contracts, entry: signed contracts and entry price (NaN = unknown) of each leg.
        cash, spot_limits: units of each currency.
        orders: open orders as (row of the instrument axis, contracts, limit).
        borrow_mode, spot_mode: what the account chose.
    """

    instrument: np.ndarray
    contracts: np.ndarray
    entry: np.ndarray
    cash: dict[str, float]
    spot_limits: dict[str, float]
    orders: list[tuple[int, float, float]] = field(default_factory=list)
    borrow_mode: str = "auto"
    spot_mode: str | None = None


@dataclass(frozen=True)
class MarketView:
    """A market window with the names of its axes; keeps the rows of instruments it made."""

    window: MarketWindow
    instruments: pd.DataFrame
    currency_names: list[str]
    _rows: dict[int, dict[str, Any]] = field(default_factory=dict)

    def instrument(self, column: int) -> dict[str, Any]:
        """Terms of a contract as in a portfolio file, plus its expiry in microseconds."""
        if column not in self._rows:
            row = self.instruments.iloc[column - 1]
            expiry = None if pd.isna(row["expiry"]) else utc(row["expiry"])
            option_type = row["option_type"]
            self._rows[column] = {
                "instrument_id": str(row["instrument_id"]),
                "kind": str(row["kind"]),
                "coin": str(row["coin"]),
                "settle": str(row["settle"]),
                "style": str(row["style"]),
                "multiplier": float(row["multiplier"]),
                "strike": number_or_none(row["strike"]),
                "option_type": None if pd.isna(option_type) else str(option_type),
                "expiry": None if expiry is None else expiry.isoformat(),
            }
        return self._rows[column]


def added(amounts: dict[str, float], changes: dict[str, float]) -> dict[str, float]:
    """Amounts by currency with changes added."""
    return amounts | {c: amounts.get(c, 0.0) + change for c, change in changes.items()}


def number_or_none(value: Any) -> float | None:
    """A float, or None where it is missing or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def portfolio_at(holdings: Holdings, view: MarketView, time: int) -> dict[str, Any]:
    """The account as a ``pmstress margin`` file as of one time of a window; unpriced is null.

    Funding paid since the snapshot is taken out of the cash of the settle currency; an expired
    contract carries its ``settlement_index_usd``.
    """
    window = view.window
    now = stamp(window.times_us[time])
    cash = dict(holdings.cash)
    instruments, positions = [], []
    for column, contracts, entry in zip(
        holdings.instrument.tolist(), holdings.contracts, holdings.entry, strict=True
    ):
        terms = view.instrument(column)
        instruments.append(terms)
        settle = terms["settle"]
        paid = float(contracts * window.funding[time, column])
        if paid:
            cash[settle] = cash.get(settle, 0.0) - paid
        position = {
            "instrument_id": terms["instrument_id"],
            "contracts": float(contracts),
            "entry_price": number_or_none(entry),
            **_quote(window, time, column),
        }
        if terms["expiry"] is not None and utc(terms["expiry"]) <= now:
            position["settlement_index_usd"] = {
                settle: number_or_none(window.settlement_fx[time, column]),
                terms["coin"]: number_or_none(window.settlement[time, column]),
            }
        positions.append(position)
    orders = []
    for column, contracts, price in holdings.orders:
        terms = view.instrument(column)
        if terms not in instruments:
            instruments.append(terms)
        row = {"instrument_id": terms["instrument_id"], "contracts": contracts, "price": price}
        orders.append(row | _quote(window, time, column))
    usd = window.currency_usd[time]
    return {
        "time": now.isoformat(),
        "index_usd": {
            name: number_or_none(usd[k])
            for k, name in enumerate(view.currency_names)
            if not name.startswith("(")
        },
        "instruments": instruments,
        "positions": positions,
        "balances": cash,
        "spot_limits": dict(holdings.spot_limits),
        "borrow_mode": holdings.borrow_mode,
        "spot_mode": holdings.spot_mode,
        "orders": orders,
    }


def _quote(window: MarketWindow, time: int, column: int) -> dict[str, float | None]:
    return {
        "mark_price": number_or_none(window.mark[time, column]),
        "mark_iv": number_or_none(window.iv[time, column]),
        "forward": number_or_none(window.forward_usd[time, column]),
    }
