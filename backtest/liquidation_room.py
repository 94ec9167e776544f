"""Books with room for the perpetuals that a liquidation may open, on the host.

A unit gets a slot for every perpetual of its coin (in split units: of its settlement family), the
same contracts stand in the same slots of all portfolios, and every slot knows its entry value.
"""

from dataclasses import replace

import numpy as np

from backtest.batching import Batch, Shape, Snapshot
from backtest.leg_lists import USD_FAMILY, Terms
from backtest.settle import some_of
from kernels.liquidation.records import Room
from kernels.records import NULL_CURRENCY, NUM_QUOTES, PERPETUAL, Book


ROOMS = (
    Shape(4, 8, 2, 16),
    Shape(8, 16, 2, 64),
    Shape(4, 8, 2, 16, 3, 4),
    Shape(8, 16, 2, 64, 3, 16),
)
"""Widths in order of cost; anything wider takes powers of two."""
ROOM_LEGS = 16
"""Least legs a unit beyond the listed widths."""
MATURITIES = 16
"""Least number of buckets a unit, two of which are perpetuals and spot; then powers of two."""


def rooms(
    batch: Batch, snapshot: Snapshot, terms: Terms, hedges: np.ndarray
) -> list[tuple[np.ndarray, Room]]:
    """The books of a batch in wider shapes, host arrays: accounts (places in the batch), room.

    The shape of an account never depends on the others, so that neither do its numbers.

    Args:
        batch: some accounts of a snapshot.
        snapshot: their portfolios, of which the entry prices are used.
        terms: terms of the instrument axis.
        hedges: perpetuals that may be opened [perpetual, (instrument, coin, settle)].
    """
    rows = _Rows.of(batch, terms, hedges)
    kinds: dict[tuple[Shape, int], list[int]] = {}
    for k, (legs, option_legs, buckets) in enumerate(rows.widths(len(batch.accounts)).tolist()):
        need = replace(batch.shape, legs=legs, option_legs=option_legs)
        count = max(MATURITIES, 1 << (buckets - 1).bit_length())
        kinds.setdefault((need.within(ROOMS, ROOM_LEGS), count), []).append(k)
    if len(kinds) == 1:
        ((shape, count),) = kinds
        return [(np.arange(len(batch.accounts)), _room(batch, snapshot, terms, rows, shape, count))]
    found = []
    for (shape, count), who in sorted(kinds.items()):
        some = some_of(batch, np.asarray(who))
        mine = _Rows.of(some, terms, hedges)
        found.append((np.asarray(who), _room(some, snapshot, terms, mine, shape, count)))
    return found


def _room(
    batch: Batch, snapshot: Snapshot, terms: Terms, rows: "_Rows", shape: Shape, count: int
) -> Room:
    """The book of a batch in one shape, with so many buckets a unit."""
    maturity = np.zeros((_num_slots(shape), len(batch.accounts)), np.int32)
    slot = rows.slots(shape)
    maturity[slot, rows.account] = np.where(rows.maturity < 0, count - 2, rows.maturity)
    entry = np.zeros(maturity.shape)
    entry[slot, rows.account] = _entries(batch, snapshot, terms, rows)
    book = _placed(batch.book, shape, rows)
    return Room(book=book, entry=entry, maturity=maturity, num_maturities=count)


class _Rows:
    """Distinct contracts of each account, unit and list, sorted by expiry and instrument.

    Fields (all of one length, but for the last two):
        account, unit, is_wide, instrument: where the contract is.
        ordinal: place in its list; closes: whether it is the last of its expiry bucket.
        maturity: place of its expiry among those of its unit, -1 = perpetual.
        contracts: [portfolio, row].
    """

    def __init__(self, key: np.ndarray, contracts: np.ndarray, terms: Terms) -> None:
        self.account, self.unit, self.is_wide, _, self.instrument = key.T.astype(int)
        self.contracts = contracts
        list_key = key[:, :3]
        new_list = _changes(list_key)
        start = np.flatnonzero(new_list)
        count = len(key)
        sizes = np.diff(np.append(start, count))
        self.ordinal = np.arange(count) - np.repeat(start, sizes)
        new_bucket = _changes(key[:, :4])
        self.closes = np.ones(count, bool)
        self.closes[:-1] = new_bucket[1:]
        dated = terms.kind[self.instrument] != PERPETUAL
        expiry = np.stack([self.account, self.unit, terms.expiry_s[self.instrument]], axis=1)
        self.maturity = np.full(count, -1)
        if dated.any():
            unique, at = np.unique(expiry[dated], axis=0, return_inverse=True)
            first = np.flatnonzero(_changes(unique[:, :2]))
            sizes = np.diff(np.append(first, len(unique)))
            self.maturity[dated] = (np.arange(len(unique)) - np.repeat(first, sizes))[at.ravel()]

    @staticmethod
    def of(batch: Batch, terms: Terms, hedges: np.ndarray) -> "_Rows":
        """The contracts of a batch and the perpetuals that may be opened."""
        keys, held = [], []
        lists = (
            (0, batch.book.leg_instrument, batch.book.leg_contracts),
            (1, batch.book.option_instrument, batch.book.option_contracts),
        )
        for wide, instruments, contracts in lists:
            portfolio, unit, leg, account = np.nonzero(contracts)
            instrument = np.asarray(instruments)[portfolio, unit, leg, account]
            keys.append(_key(account, unit, wide, instrument, terms))
            n = np.asarray(contracts)[portfolio, unit, leg, account]
            held.append(np.stack([portfolio.astype(float), n], axis=1))
        keys.append(_hedge_keys(batch, terms, hedges))
        held.append(np.zeros((len(keys[-1]), 2)))
        every = np.concatenate(keys)
        unique, at = np.unique(every, axis=0, return_inverse=True)
        values = np.concatenate(held)
        total = np.zeros((batch.shape.portfolios, len(unique)))
        np.add.at(total, (values[:, 0].astype(int), at.ravel()), values[:, 1])
        return _Rows(unique, total, terms)

    def widths(self, num_accounts: int) -> np.ndarray:
        """Of each account: legs of the longest list without and with optionality, buckets."""
        out = np.zeros((num_accounts, 3), int)
        np.maximum.at(out, (self.account, self.is_wide), self.ordinal + 1)
        np.maximum.at(out[:, 2], self.account, self.maturity + 1)
        out[:, 2] += 2
        return out

    def slots(self, shape: Shape) -> np.ndarray:
        """Slot of each row in a book of some shape."""
        linear = self.unit * shape.legs + self.ordinal
        wide = shape.units * shape.legs + self.unit * shape.option_legs + self.ordinal
        return np.where(self.is_wide == 1, wide, linear)


def _changes(key: np.ndarray) -> np.ndarray:
    """Whether each row differs from the one before it."""
    found = np.ones(len(key), bool)
    found[1:] = (key[1:] != key[:-1]).any(axis=1)
    return found


def _key(
    account: np.ndarray, unit: np.ndarray, wide: int, instrument: np.ndarray, terms: Terms
) -> np.ndarray:
    """Account, unit, list, expiry, instrument: perpetuals before everything that expires."""
    expiry = np.where(terms.kind[instrument] == PERPETUAL, -1.0, terms.expiry_s[instrument])
    lists = np.full(len(account), wide)
    return np.stack([account, unit, lists, expiry, instrument], axis=1).astype(float)


def _hedge_keys(batch: Batch, terms: Terms, hedges: np.ndarray) -> np.ndarray:
    """A row for every perpetual of every unit that holds contracts."""
    book = batch.book
    has_legs = (np.asarray(book.leg_contracts) != 0).any(axis=(0, 2))
    options = (np.asarray(book.option_contracts) != 0).any(axis=(0, 2))
    has_legs[: len(options)] |= options
    coin, family = np.asarray(book.unit_coin), np.asarray(book.unit_family)
    unit, account = np.nonzero(has_legs & (coin != NULL_CURRENCY))
    keys = []
    for instrument, of_coin, settle in hedges.tolist():
        mine = coin[unit, account] == of_coin
        if book.shares_coins:
            mine &= family[unit, account] == (settle if settle < NUM_QUOTES else USD_FAMILY)
        chosen = np.full(int(mine.sum()), instrument)
        keys.append(_key(account[mine], unit[mine], 0, chosen, terms))
    return np.concatenate(keys) if keys else np.zeros((0, 5))


def _num_slots(shape: Shape) -> int:
    return shape.units * shape.legs + shape.option_units * shape.option_legs


def _placed(old: Book, shape: Shape, rows: _Rows) -> Book:
    """The book with its legs in the slots of another shape."""
    count = old.auto_borrows.shape[-1]
    fields: dict[str, np.ndarray] = {}
    for name, source in old.__dict__.items():
        if name.startswith(("leg_", "option_")) or not hasattr(source, "shape"):
            continue
        values = np.asarray(source)
        out = np.full(_size(name, values, shape), _EMPTY.get(name, 0), values.dtype)
        out[tuple(slice(0, n) for n in values.shape)] = values
        fields[name] = out
    for wide, prefix, units, legs in (
        (0, "leg", shape.units, shape.legs),
        (1, "option", shape.option_units, shape.option_legs),
    ):
        mine = rows.is_wide == wide
        at = rows.unit[mine], rows.ordinal[mine], rows.account[mine]
        size = shape.portfolios, units, legs, count
        instrument = np.zeros(size, np.int32)
        contracts, closes = np.zeros(size), np.zeros(size, bool)
        for p in range(shape.portfolios):
            instrument[p][at] = rows.instrument[mine]
            contracts[p][at] = rows.contracts[p, mine]
            closes[p][at] = rows.closes[mine]
        fields |= {
            f"{prefix}_instrument": instrument,
            f"{prefix}_contracts": contracts,
            f"{prefix}_closes_bucket": closes,
        }
    return replace(old, **fields)


_EMPTY = {
    "unit_coin": NULL_CURRENCY,
    "owns_coin": True,
    "spot_limit_coin": np.inf,
    "order_out_currency": NULL_CURRENCY,
}
"""What fills up the fields of a book, where it is not 0."""


def _size(name: str, values: np.ndarray, shape: Shape) -> tuple[int, ...]:
    """Size of a field of the book without legs in another shape."""
    if name.startswith("order_"):
        return shape.orders, values.shape[-1]
    if name.startswith("quote_") or values.ndim == 1:
        return values.shape
    return *values.shape[:-2], shape.units, values.shape[-1]


def _entries(batch: Batch, snapshot: Snapshot, terms: Terms, rows: _Rows) -> np.ndarray:
    """Entry value of each row in its settle currency, lots of one contract added up."""
    place = np.full(len(snapshot.account_ids), -1)
    place[batch.accounts] = np.arange(len(batch.accounts))
    mine = np.flatnonzero((place[snapshot.leg_account] >= 0) & (snapshot.leg_contracts != 0))
    instrument, n = snapshot.leg_instrument[mine], snapshot.leg_contracts[mine]
    size, entry = n * terms.multiplier[instrument], snapshot.leg_entry[mine]
    with np.errstate(divide="ignore"):
        value = np.where(terms.is_inverse[instrument], size / entry, -size * entry)
    value = np.where(terms.is_option[instrument], 0.0, value)
    count = len(terms.kind)
    key = rows.account * count + rows.instrument
    order = np.argsort(key)
    wanted = place[snapshot.leg_account[mine]] * count + instrument
    at = np.searchsorted(key[order], wanted)
    found = np.zeros(len(key))
    at = np.minimum(at, max(len(key) - 1, 0))
    known = key[order][at] == wanted if len(key) else np.zeros(0, bool)
    np.add.at(found, order[at[known]], value[known])
    return found
