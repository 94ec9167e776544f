"""A few accounts of a run against the readable reference, before anything of it is saved.

A device or a library version that computes wrong, silently, is refused by the first tile of each
shape class and parameter set, whatever the tests of the project said on another machine.
"""

from importlib import metadata
from typing import Any

import jax
import numpy as np

from backtest.batching import Batch, Snapshot
from backtest.cross_check import RELATIVE, ROUNDING, cross_check
from backtest.errors import RunError
from backtest.leg_lists import SPOT_FAMILIES
from backtest.portfolio_at import Holdings, MarketView, portfolio_at
from backtest.reference import models as reference
from backtest.window_records import TileResult
from kernels.records import NULL_CURRENCY


PICKS = 4
"""Accounts checked of each shape class and parameter set."""
ALLOWED = {"float64": (RELATIVE, ROUNDING), "float32": (1e-4, 1e-6)}
"""By precision: relative difference, and what cancels, as a fraction of the account's size."""
_NUMBERS = ("equity_usd", "adjusted_equity", "derivatives_mmr", "total_mmr", "total_imr")


def check_accounts(
    batch: Batch,
    result: TileResult,
    snapshot: Snapshot,
    view: MarketView,
    numbers: dict[str, Any],
    precision: str,
) -> int:
    """Compare some accounts at the first time of a result; returns how many were priced.

    Args:
        batch: accounts of one shape class.
        result: what the engine gave for them.
        snapshot: their portfolios.
        view: the market at the first time of the result.
        numbers: the parameter set in force then.
        precision: of the engine.

    Raises:
        RunError: a number differs; names the account, both values, device and versions.
    """
    count = 0
    chosen = np.unique(np.linspace(0, len(batch.accounts) - 1, PICKS).astype(int))
    found = result.scores.at(np.zeros(len(chosen), int), chosen)
    for n, k in enumerate(chosen.tolist()):
        account = int(batch.accounts[k])
        holdings = holdings_of(snapshot, account, view.currency_names)
        if result.changes is not None:
            _add_changes(holdings.cash, batch, result.changes[0][:, k], k, view.currency_names)
        answer = reference.margin(portfolio_at(holdings, view, 0), numbers)
        kernel = {name: float(getattr(found, name)[n]) for name in (*_NUMBERS, "margin_level")}
        if np.isnan(kernel["margin_level"]) or answer["account"]["status"] == "unpriced":
            continue
        level = answer["account"]["margin_level"]
        theirs = {name: answer["account"][name] for name in _NUMBERS}
        theirs["margin_level"] = np.inf if level is None else level
        relative, rounding = ALLOWED[precision]
        try:
            cross_check(
                {"account": kernel},
                {"account": theirs, "detail": answer["detail"]},
                relative=relative,
                rounding=rounding,
            )
        except RunError as error:
            versions = ", ".join(f"{n} {metadata.version(n)}" for n in ("jax", "jaxlib"))
            raise RunError(
                f"self-check of account '{snapshot.account_ids[account]}' failed on "
                f"{jax.default_backend()} with {versions}: {error}"
            ) from error
        count += 1
    return count


def holdings_of(snapshot: Snapshot, account: int, currency_names: list[str]) -> Holdings:
    """What one account of a snapshot holds, by its position there."""
    snapshot = snapshot.with_choices()
    legs = np.flatnonzero((snapshot.leg_account == account) & (snapshot.leg_contracts != 0))
    rows = np.flatnonzero(snapshot.cash_account == account)
    orders = np.flatnonzero(snapshot.order_account == account)
    names = [currency_names[k] for k in snapshot.cash_currency[rows]]
    limits = zip(names, snapshot.spot_limit[rows].tolist(), strict=True)
    modes = {code: name for name, code in SPOT_FAMILIES.items()}
    return Holdings(
        instrument=snapshot.leg_instrument[legs],
        contracts=snapshot.leg_contracts[legs],
        entry=snapshot.leg_entry[legs],
        cash=dict(zip(names, snapshot.cash[rows].tolist(), strict=True)),
        spot_limits={name: limit for name, limit in limits if np.isfinite(limit)},
        orders=[
            (
                int(snapshot.order_instrument[k]),
                float(snapshot.order_contracts[k]),
                float(snapshot.order_price[k]),
            )
            for k in orders
        ],
        borrow_mode="auto" if snapshot.auto_borrows[account] else "non_auto",
        spot_mode=modes.get(int(snapshot.spot_family[account])),
    )


def _add_changes(
    cash: dict[str, float], batch: Batch, changes: np.ndarray, k: int, names: list[str]
) -> None:
    """Add what debts have moved to the cash of an account, by holding."""
    units = batch.book.unit_coin[:, k].tolist()
    for currency, change in zip([*units, 0, 1, 2], changes.tolist(), strict=True):
        if change and currency != NULL_CURRENCY:
            cash[names[currency]] = cash.get(names[currency], 0.0) + change
