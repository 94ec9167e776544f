"""What liquidations left in accounts, from one window to the next.

A liquidated account goes on with what is left until its next snapshot, which says what it holds
from then on. The ledger keeps that portfolio as rows (contracts with entry prices, cash, no orders
once they are cancelled); ``applied`` puts them in the place of those of the snapshot, and batching
does the rest.
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from backtest.batching import Batch, Snapshot
from backtest.leg_lists import Terms
from backtest.liquidation_steps import slot_instruments
from backtest.liquidator import Liquidated
from kernels.liquidation.records import Room
from kernels.records import NULL_CURRENCY, NUM_QUOTES


@dataclass(frozen=True)
class LiquidationLedger:
    """Portfolios that liquidation has changed since their snapshot, by place of the account.

    Fields:
        is_changed: whether the account goes on with the rows here; is_active: whether its
            liquidation is not finished; has_orders: whether its orders still rest.
        leg_account, leg_instrument, leg_contracts, leg_entry: rows of positions.
        cash_account, cash_currency, cash: rows of balances, by place on the currency axis.
    """

    is_changed: np.ndarray
    is_active: np.ndarray
    has_orders: np.ndarray
    leg_account: np.ndarray
    leg_instrument: np.ndarray
    leg_contracts: np.ndarray
    leg_entry: np.ndarray
    cash_account: np.ndarray
    cash_currency: np.ndarray
    cash: np.ndarray

    @staticmethod
    def empty(num_accounts: int) -> "LiquidationLedger":
        """Nothing has been liquidated yet."""
        flags = {name: np.zeros(num_accounts, bool) for name in FLAGS}
        rows = {name: np.zeros(0, np.int64) for name in (*LEG_ROWS[:2], *CASH_ROWS[:2])}
        numbers = {name: np.zeros(0) for name in (*LEG_ROWS[2:], *CASH_ROWS[2:])}
        return LiquidationLedger(**flags, **rows, **numbers)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, as a cell saves them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def only(self, keep: np.ndarray) -> "LiquidationLedger":
        """The ledger of some of its accounts (mask)."""
        place = np.cumsum(keep) - 1
        out = {name: getattr(self, name)[keep] for name in FLAGS}
        for names in (LEG_ROWS, CASH_ROWS):
            account = getattr(self, names[0])
            mine = keep[account]
            out |= {name: getattr(self, name)[mine] for name in names}
            out[names[0]] = place[account[mine]]
        return LiquidationLedger(**out)


FLAGS = ("is_changed", "is_active", "has_orders")
LEG_ROWS = ("leg_account", "leg_instrument", "leg_contracts", "leg_entry")
CASH_ROWS = ("cash_account", "cash_currency", "cash")


def applied(snapshot: Snapshot, ledger: LiquidationLedger) -> Snapshot:
    """The snapshot with the portfolios of liquidated accounts as liquidation left them.

    Accounts of both are the same, in the same order; spot limits stay.
    """
    changed = ledger.is_changed
    if not changed.any():
        return snapshot
    legs, cash = ~changed[snapshot.leg_account], ~changed[snapshot.cash_account]
    limited = ~cash & np.isfinite(snapshot.spot_limit)
    orders = ~changed[snapshot.order_account] | ledger.has_orders[snapshot.order_account]

    def joined(*parts: np.ndarray) -> np.ndarray:
        return np.concatenate(parts)

    # A limit is kept by a row of no cash.
    return replace(
        snapshot,
        leg_account=joined(snapshot.leg_account[legs], ledger.leg_account),
        leg_instrument=joined(snapshot.leg_instrument[legs], ledger.leg_instrument),
        leg_contracts=joined(snapshot.leg_contracts[legs], ledger.leg_contracts),
        leg_entry=joined(snapshot.leg_entry[legs], ledger.leg_entry),
        cash_account=joined(
            snapshot.cash_account[cash], snapshot.cash_account[limited], ledger.cash_account
        ),
        cash_currency=joined(
            snapshot.cash_currency[cash], snapshot.cash_currency[limited], ledger.cash_currency
        ),
        cash=joined(snapshot.cash[cash], np.zeros(int(limited.sum())), ledger.cash),
        spot_limit=joined(
            snapshot.spot_limit[cash],
            snapshot.spot_limit[limited],
            np.full(len(ledger.cash), np.nan),
        ),
        order_account=snapshot.order_account[orders],
        order_instrument=snapshot.order_instrument[orders],
        order_contracts=snapshot.order_contracts[orders],
        order_price=snapshot.order_price[orders],
    )


def with_moved(snapshot: Snapshot, change_units: np.ndarray) -> Snapshot:
    """The snapshot whose cash holds what debts have moved.

    Args:
        snapshot: portfolios.
        change_units: of its accounts in their order, units of each currency [currency, account].
    """
    account, currency = np.nonzero(change_units.T)
    return replace(
        snapshot,
        cash_account=np.concatenate([snapshot.cash_account, account]),
        cash_currency=np.concatenate([snapshot.cash_currency, currency]),
        cash=np.concatenate([snapshot.cash, change_units[currency, account]]),
        spot_limit=np.concatenate([snapshot.spot_limit, np.full(len(account), np.nan)]),
    )


def after(
    ledger: LiquidationLedger,
    batch: Batch,
    done: Liquidated,
    terms: Terms,
) -> LiquidationLedger:
    """The ledger after some accounts went through a liquidation.

    Args:
        ledger: before; its accounts are those of the snapshot that the batch is of.
        batch: the accounts that were liquidated.
        done: what became of them.
        terms: terms of the instrument axis.
    """
    mine = np.flatnonzero(done.is_touched)
    at = batch.accounts[mine]
    new = {name: getattr(ledger, name).copy() for name in FLAGS}
    new["is_changed"][at] = True
    new["is_active"][batch.accounts] = done.active
    new["has_orders"][at] = _has_orders(done.room)[mine]
    legs, cash = _legs(done.room, mine, at, terms), _cash(done.room, mine, at)
    for names, rows in ((LEG_ROWS, legs), (CASH_ROWS, cash)):
        kept = ~np.isin(getattr(ledger, names[0]), at)
        for name, values in zip(names, rows, strict=True):
            new[name] = np.concatenate([getattr(ledger, name)[kept], values])
    return LiquidationLedger(**new)


def _has_orders(room: Room) -> np.ndarray:
    return (np.asarray(room.book.order_contracts) != 0).any(axis=0)


def _legs(room: Room, mine: np.ndarray, at: np.ndarray, terms: Terms) -> tuple[np.ndarray, ...]:
    """Account, instrument, contracts and entry price of what is held."""
    book = room.book
    contracts = np.concatenate(
        [
            np.asarray(x)[0].reshape(-1, x.shape[-1])
            for x in (book.leg_contracts, book.option_contracts)
        ]
    )
    rows: list[list[np.ndarray]] = [[] for _ in range(4)]
    for k, account in zip(mine.tolist(), at.tolist(), strict=True):
        held = np.flatnonzero(contracts[:, k])
        instrument = slot_instruments(room, k)[held]
        n, value = contracts[held, k], np.asarray(room.entry)[held, k]
        size = n * terms.multiplier[instrument]
        with np.errstate(divide="ignore", invalid="ignore"):
            entry = np.where(terms.is_inverse[instrument], size / value, -value / size)
        values = np.full(len(held), account), instrument, n, entry
        for column, part in zip(rows, values, strict=True):
            column.append(part)
    whole = [np.concatenate(column) if column else np.zeros(0) for column in rows]
    return whole[0].astype(np.int64), whole[1].astype(np.int64), whole[2], whole[3]


def _cash(room: Room, mine: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, ...]:
    """Account, currency and units of every balance."""
    book = room.book
    cash = np.concatenate([book.coin_cash, book.quote_cash])[:, mine]
    quotes = np.repeat(np.arange(NUM_QUOTES)[:, None], len(mine), axis=1)
    currency = np.concatenate([np.asarray(book.unit_coin)[:, mine], quotes])
    holding, account = np.nonzero((cash != 0.0) & (currency != NULL_CURRENCY))
    return at[account].astype(np.int64), currency[holding, account], cash[holding, account]
