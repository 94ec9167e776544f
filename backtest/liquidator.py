"""Liquidation of some accounts at one time: compiled slices, padded to fixed sizes.

The accounts of a call are filled up to the next of a few sizes; after some slices those that are
done drop out. Everything handed back is NumPy.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from backtest import precision as precision
from backtest.apart import computed_apart
from backtest.kept_programs import kept
from backtest.liquidation_steps import Book, Records, Step, steps_of, written_off
from kernels.liquidation import loop
from kernels.liquidation.models import liquidation_of
from kernels.liquidation.records import (
    NO_PLACE,
    NOT_DUE,
    Level,
    LiquidationRules,
    Listing,
    Origin,
    Progress,
    Room,
    SliceRecord,
)
from kernels.models import model_of
from kernels.records import NUM_QUOTES, Table


SIZES = (16, 64)
"""Accounts of one compiled program; more take several calls, those that go on the fewer."""
PACE = 8
"""Slices of a program; accounts that are done drop out after them."""

UNPRICED, UNTOUCHED, SAFE_AGAIN, FLAT, BANKRUPT, UNFINISHED = range(6)
STATUSES = ("unpriced", "untouched", "safe", "flat", "bankrupt", "unfinished")
"""What became of an account, as in the reference."""


@kept()
def _slices(
    progress: Progress, table: Table, params: Any, listing: Listing, rules: LiquidationRules
) -> tuple[Progress, SliceRecord]:
    """``PACE`` slices in one program: where they ended, and every record [slice, ..., account].

    A call costs as much as a slice. Once nobody is running nothing more is done.
    """

    def one(progress: Progress, _: None) -> tuple[Progress, SliceRecord]:
        is_needed = jnp.any(progress.running)
        apart = partial(computed_apart, is_needed)

        def sliced(progress: Progress) -> tuple[Progress, SliceRecord]:
            return loop.one_slice(progress, table, params, listing, rules, apart)

        def left_alone(progress: Progress) -> tuple[Progress, SliceRecord]:
            shapes = jax.eval_shape(sliced, progress)[1]
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            stage = jnp.full_like(nothing.stage, NO_PLACE)
            return progress, eqx.tree_at(lambda record: record.stage, nothing, stage)

        return jax.lax.cond(is_needed, sliced, left_alone, progress)

    return jax.lax.scan(one, progress, None, length=PACE)


@dataclass(frozen=True)
class Liquidated:
    """What a call did to its accounts, in their order; money in USD and not negative.

    Fields:
        status: of ``STATUSES``; active: whether the liquidation goes on at the next time.
        room: what is left. steps: by account.
        level, mmr_usd, equity_usd: (before, after).
        fees_usd, slippage_usd, notional_usd, bad_debt_usd, surplus_usd, slices: altogether.

    ``equity before - fees - slippage - surplus + bad debt = equity after``.
    """

    status: np.ndarray
    active: np.ndarray
    room: Room
    level: tuple[np.ndarray, np.ndarray]
    mmr_usd: tuple[np.ndarray, np.ndarray]
    equity_usd: tuple[np.ndarray, np.ndarray]
    fees_usd: np.ndarray
    slippage_usd: np.ndarray
    notional_usd: np.ndarray
    bad_debt_usd: np.ndarray
    surplus_usd: np.ndarray
    slices: np.ndarray
    steps: list[list[Step]] = field(default_factory=list[list[Step]])

    @property
    def is_touched(self) -> np.ndarray:
        """Whether anything of the account has changed."""
        return (self.slices > 0) | (self.status == BANKRUPT)


def liquidate(
    room: Room,
    active: np.ndarray,
    table: Table,
    params: Any,
    listing: Listing,
    rules: LiquidationRules,
    surplus_share: float = 0.0,
) -> Liquidated:
    """Put accounts through the stages of their margin model at one time.

    Args:
        room: what they hold (``liquidation_room.rooms``), host arrays.
        active: whether a liquidation that began earlier has not reached the safe level yet.
        table: the shared table of the time, scenarios in float64.
        params: the parameter set of the time.
        listing: contracts of the instrument axis, as long as the table.
        rules: the liquidation rules.
        surplus_share: share of what a closed account leaves that the insurance fund takes.
    """
    book = table, params, padded_listing(listing, len(table.features)), rules
    return _result(*_run(room, active, book), book, surplus_share)


def padded_listing(listing: Listing, length: int) -> Listing:
    """The listing filled up with the null contract that it begins with."""

    def padded(x: Any) -> np.ndarray:
        x = np.asarray(x)
        return np.concatenate([x, np.repeat(x[:1], length - len(x), axis=0)])

    return jax.tree.map(padded, listing)


def _run(room: Room, active: np.ndarray, book: Book) -> tuple[Progress, Records]:
    """All slices of some accounts: where they ended, and every record."""
    whole = _begin(room, active, book)
    records: Records = []
    left = np.flatnonzero(whole.running)
    while len(left):
        for at in range(0, len(left), SIZES[-1]):
            some = left[at : at + SIZES[-1]]
            part = _padded(_of(whole, some), _size(len(some)))
            after, done = jax.device_get(_slices(part, *book))
            for k in np.flatnonzero((done.stage != NO_PLACE).any(axis=1)).tolist():
                records.append((some, _slice_of(done, k, len(some))))
            for target, values in zip(jax.tree.leaves(whole), jax.tree.leaves(after), strict=True):
                target[..., some] = values[..., : len(some)]
        left = np.flatnonzero(whole.running)
    return whole, records


def _begin(room: Room, active: np.ndarray, book: Book) -> Progress:
    """Accounts before their first slice."""
    _, params, _, rules = book
    stages, pairs = len(rules.order), liquidation_of(params).num_pairs
    units, accounts = room.book.unit_coin.shape
    slots, holdings = len(room.entry), units + NUM_QUOTES

    def zeros(*shape: int, dtype: Any = np.float64) -> np.ndarray:
        return np.zeros((*shape, accounts), dtype)

    def level() -> Level:
        charges = {name: zeros() for name in model_of(params).charges}
        return Level(zeros(), zeros(), zeros(), charges)

    return Progress(
        room=jax.tree.map(np.array, room),
        is_new=np.ones(accounts, bool),
        is_priced=np.ones(accounts, bool),
        running=np.ones(accounts, bool),
        active=np.array(active, bool),
        slices=zeros(dtype=np.int32),
        steps=zeros(dtype=np.int32),
        stage=zeros(dtype=np.int32) + np.int32(NO_PLACE),
        is_full=zeros(dtype=bool),
        has_legs=zeros(dtype=bool),
        equity=zeros(holdings),
        origin=Origin(
            begun=zeros(stages, dtype=bool),
            contracts=zeros(stages, slots),
            equity=zeros(stages, holdings),
            spot=zeros(stages, units),
            delta=zeros(stages, units),
            hedged_usd=zeros(stages, pairs, units),
        ),
        now=level(),
        first=level(),
        why=zeros(stages, dtype=np.int32) + np.int32(NOT_DUE),
    )


def _of(values: Any, accounts: np.ndarray) -> Any:
    """Some accounts of every array."""
    return jax.tree.map(lambda x: np.asarray(x)[..., accounts], values)


def _slice_of(records: SliceRecord, k: int, count: int) -> SliceRecord:
    """One slice of several, without the padding."""
    return jax.tree.map(lambda x: x[k, ..., :count], records)


def _size(count: int) -> int:
    return next((size for size in SIZES if size >= count), SIZES[-1])


def _padded(values: Any, size: int) -> Any:
    """Every array filled up with zeros on the account axis, the last one."""

    def one(x: Any) -> np.ndarray:
        x = np.asarray(x)
        out = np.zeros((*x.shape[:-1], size), x.dtype)
        out[..., : x.shape[-1]] = x
        return out

    return jax.tree.map(one, values)


def _result(progress: Progress, records: Records, book: Book, surplus_share: float) -> Liquidated:
    """Close the last steps, write off what is missing, pay out what is left over."""
    first, last = progress.first, progress.now
    model = liquidation_of(book[1])
    is_unpriced = ~progress.is_priced
    status = np.where(np.asarray(progress.slices) > 0, SAFE_AGAIN, UNTOUCHED)
    is_full, has_legs = np.asarray(progress.is_full), np.asarray(progress.has_legs)
    going, unfinished = np.asarray(progress.active) | is_full, is_full | has_legs
    status = np.where(going, np.where(unfinished, UNFINISHED, FLAT), status)
    bankrupt = (status == FLAT) & (last.equity_usd < 0)
    status = np.where(bankrupt, BANKRUPT, status)
    status = np.where(is_unpriced, UNPRICED, status)
    steps, traded = steps_of(progress, records, book, model.always)
    closed = traded & ~has_legs & (status != UNFINISHED) & (last.equity_usd > 0)
    shared = closed & (surplus_share > 0) & ~bankrupt
    left = np.where(bankrupt, 0.0, np.where(shared, 1.0 - surplus_share, 1.0))
    bad_debt = np.where(bankrupt, -last.equity_usd, 0.0)
    surplus = np.where(shared, surplus_share * last.equity_usd, 0.0)
    room = _left_with(progress.room, progress.equity, left)
    after = _level_after(last, bankrupt, shared, room, book)
    for k in np.flatnonzero(bankrupt):
        steps[k].append(written_off(int(k), len(steps[k]) + 1, last, after, progress))
    fees = np.asarray([sum(step.fee_usd for step in mine) for mine in steps])
    slippage = np.asarray([sum(step.slippage_usd for step in mine) for mine in steps])
    return Liquidated(
        status=status,
        active=np.where(is_unpriced, progress.active, (status == UNFINISHED) & progress.active),
        room=room,
        level=(first.level, after.level),
        mmr_usd=(first.mmr_usd, after.mmr_usd),
        equity_usd=(first.equity_usd, after.equity_usd),
        fees_usd=fees,
        slippage_usd=slippage,
        notional_usd=np.asarray([sum(s.size_usd for s in mine) for mine in steps]),
        bad_debt_usd=bad_debt,
        surplus_usd=surplus,
        slices=progress.slices,
        steps=steps,
    )


def _left_with(room: Room, equity: np.ndarray, share: np.ndarray) -> Room:
    """The rooms of accounts that keep a share of every balance and no position, 1 = all of both."""
    keeps = share == 1.0
    book, units = room.book, len(room.book.unit_coin)

    def cash(old: np.ndarray, part: slice) -> np.ndarray:
        return np.where(keeps, old, equity[part] * share)

    coins, quotes = slice(0, units), slice(units, None)
    fields = {
        "coin_base": cash(book.coin_base, coins),
        "coin_cash": cash(book.coin_cash, coins),
        "quote_base": cash(book.quote_base, quotes),
        "quote_cash": cash(book.quote_cash, quotes),
        "leg_contracts": np.where(keeps, book.leg_contracts, 0.0),
        "option_contracts": np.where(keeps, book.option_contracts, 0.0),
    }
    return replace(room, book=replace(book, **fields), entry=np.where(keeps, room.entry, 0.0))


def _level_after(
    last: Level, bankrupt: np.ndarray, shared: np.ndarray, room: Room, book: Book
) -> Level:
    """The numbers after write-offs and surplus."""
    level = last
    if shared.any():
        again, _ = _run(room, np.zeros(len(shared), bool), book)
        level = jax.tree.map(lambda x, y: np.where(shared, y, x), last, again.first)

    def gone(x: np.ndarray) -> np.ndarray:
        return np.where(bankrupt, 0.0, x)

    return Level(
        level=np.where(bankrupt, np.inf, level.level),
        mmr_usd=gone(level.mmr_usd),
        equity_usd=gone(level.equity_usd),
        charges={name: gone(x) for name, x in level.charges.items()},
    )
