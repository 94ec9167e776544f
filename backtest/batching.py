"""From rows of positions and balances to padded books, and from accounts to slots and back.

An account falls into the narrowest *shape class* that holds it; within a class accounts keep
their order. The shape of an account never depends on the others, so results cannot depend on
bucket count, batch size or order of rows.
"""

from dataclasses import dataclass, field

import numpy as np

from backtest.model_records import Currencies
from kernels.records import NULL_CURRENCY, NUM_QUOTES, OPTION, PERPETUAL, Book


@dataclass(frozen=True, order=True)
class Shape:
    """Width of a class: units, legs a unit, units with options, expiring legs of such a unit."""

    units: int
    legs: int
    option_units: int
    option_legs: int

    def holds(self, other: "Shape") -> bool:
        """Whether a book of the other shape fits."""
        return (
            self.units >= other.units
            and self.legs >= other.legs
            and self.option_units >= other.option_units
            and self.option_legs >= other.option_legs
        )


SHAPES = (
    Shape(1, 2, 0, 0),
    Shape(4, 2, 0, 0),
    Shape(1, 1, 1, 4),
    Shape(2, 2, 2, 8),
    Shape(8, 8, 2, 64),
)
"""Classes in order of cost; anything wider takes powers of two."""


@dataclass(frozen=True)
class Snapshot:
    """Portfolios of one bucket at one time, in index form.

    Fields:
        account_ids: accounts scored, ascending.
        leg_account, leg_instrument, leg_contracts, leg_entry: open positions (instrument axis
            with the null contract at 0; entry NaN = no entry known, the account is unpriced).
        cash_account, cash_currency, cash, spot_limit: balances.
    """

    account_ids: np.ndarray
    leg_account: np.ndarray
    leg_instrument: np.ndarray
    leg_contracts: np.ndarray
    leg_entry: np.ndarray
    cash_account: np.ndarray
    cash_currency: np.ndarray
    cash: np.ndarray
    spot_limit: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Accounts of one shape class: a book with accounts on the last axis, and who they are.

    ``tiles`` is the engine's: device copies of the book, kept for the next window and set.
    """

    shape: Shape
    accounts: np.ndarray
    book: Book
    tiles: dict[tuple[int, int], Book] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Terms:
    """Contract terms that batching needs, by instrument index (0 = null)."""

    kind: np.ndarray
    is_inverse: np.ndarray
    multiplier: np.ndarray
    coin: np.ndarray
    settle: np.ndarray
    expiry_s: np.ndarray


def batches(snapshot: Snapshot, terms: Terms, currencies: Currencies) -> list[Batch]:
    """Books of all accounts of a snapshot, one batch a shape class."""
    num_accounts, num_currencies = len(snapshot.account_ids), len(currencies.names)
    legs = _Legs.of(snapshot, terms, num_currencies)
    quote_base, coin_base, limit = _bases(snapshot, terms, num_accounts, num_currencies)
    units = _Units.of(legs, coin_base, limit, num_accounts, num_currencies)
    shape_of = _shapes(legs, units, num_accounts)
    out = []
    for shape in sorted(set(shape_of)):
        accounts = np.flatnonzero([s == shape for s in shape_of])
        out.append(Batch(shape, accounts, _book(shape, accounts, legs, units, quote_base)))
    return out


@dataclass(frozen=True)
class _Legs:
    """Open legs sorted by account, unit, expiry bucket and instrument."""

    account: np.ndarray
    unit_key: np.ndarray
    instrument: np.ndarray
    contracts: np.ndarray
    is_wide: np.ndarray
    ordinal: np.ndarray
    closes: np.ndarray
    option_units: np.ndarray

    @staticmethod
    def of(snapshot: Snapshot, terms: Terms, num_currencies: int) -> "_Legs":
        account, instrument, contracts = _netted(snapshot, len(terms.kind))
        key = account.astype(np.int64) * num_currencies + terms.coin[instrument]
        is_option = terms.kind[instrument] == OPTION
        option_units = np.unique(key[is_option])
        in_option_unit = np.isin(key, option_units)
        perpetual = terms.kind[instrument] == PERPETUAL
        is_wide = in_option_unit & ~perpetual
        expiry = np.where(perpetual, -1.0, terms.expiry_s[instrument])
        order = np.lexsort((instrument, expiry, is_wide, key))
        account, key, instrument = account[order], key[order], instrument[order]
        contracts, is_wide, expiry = contracts[order], is_wide[order], expiry[order]
        new_list = np.ones(len(key), bool)
        new_list[1:] = (key[1:] != key[:-1]) | (is_wide[1:] != is_wide[:-1])
        start = np.flatnonzero(new_list)
        ordinal = np.arange(len(key)) - np.repeat(start, np.diff(np.append(start, len(key))))
        closes = np.ones(len(key), bool)
        closes[:-1] = new_list[1:] | (expiry[1:] != expiry[:-1])
        return _Legs(account, key, instrument, contracts, is_wide, ordinal, closes, option_units)


def _netted(snapshot: Snapshot, num_instruments: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Account, instrument and net contracts of each open position; rows of one net first."""
    key = snapshot.leg_account.astype(np.int64) * num_instruments + snapshot.leg_instrument
    order = np.lexsort((snapshot.leg_contracts, key))
    unique, row = np.unique(key[order], return_inverse=True)
    contracts = np.zeros(len(unique))
    np.add.at(contracts, row, snapshot.leg_contracts[order])
    held = contracts != 0
    return (unique // num_instruments)[held], (unique % num_instruments)[held], contracts[held]


@dataclass(frozen=True)
class _Units:
    """Risk units sorted by account, those with options first, then by coin."""

    key: np.ndarray
    account: np.ndarray
    coin: np.ndarray
    coin_base: np.ndarray
    limit: np.ndarray
    ordinal: np.ndarray

    @staticmethod
    def of(
        legs: _Legs,
        coin_base: dict[str, np.ndarray],
        limit: dict[str, np.ndarray],
        num_accounts: int,
        num_currencies: int,
    ) -> "_Units":
        held = coin_base["value"] != 0
        key = np.unique(np.concatenate([legs.unit_key, coin_base["key"][held]]))
        account, coin = key // num_currencies, key % num_currencies
        without_options = ~np.isin(key, legs.option_units)
        order = np.lexsort((coin, without_options, account))
        rank = np.empty(len(key), np.int64)
        rank[order] = np.arange(len(key))
        first = np.searchsorted(account[order], np.arange(num_accounts), "left")
        ordinal = rank - first[account]
        base = np.zeros(len(key))
        at = np.searchsorted(key, coin_base["key"][held])
        base[at] = coin_base["value"][held]
        limits = np.full(len(key), np.inf)
        known = np.isin(limit["key"], key)
        limits[np.searchsorted(key, limit["key"][known])] = limit["value"][known]
        # A contract on a quote currency has no spot of its own: its balance is collateral.
        limits = np.where(coin < NUM_QUOTES, 0.0, limits)
        return _Units(key, account, coin, base, limits, ordinal)


def _bases(
    snapshot: Snapshot, terms: Terms, num_accounts: int, num_currencies: int
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Cash plus entry value: per quote currency [quote, account], and per (account, coin) key."""
    n = snapshot.leg_contracts
    instrument = snapshot.leg_instrument
    m, entry = terms.multiplier[instrument], snapshot.leg_entry
    is_option = terms.kind[instrument] == OPTION
    with np.errstate(divide="ignore"):
        value = np.where(terms.is_inverse[instrument], n * m / entry, -n * m * entry)
    value = np.where(is_option | (n == 0), 0.0, value)
    account = np.concatenate([snapshot.cash_account, snapshot.leg_account])
    currency = np.concatenate([snapshot.cash_currency, terms.settle[instrument]])
    # One order for the additions, whatever the order of the rows was.
    amount = np.concatenate([snapshot.cash, value])
    order = np.lexsort((amount, currency, account))
    account, currency, amount = account[order], currency[order], amount[order]
    quote_base = np.zeros((NUM_QUOTES, num_accounts))
    is_quote = currency < NUM_QUOTES
    np.add.at(quote_base, (currency[is_quote], account[is_quote]), amount[is_quote])
    key = account[~is_quote].astype(np.int64) * num_currencies + currency[~is_quote]
    unique, inverse = np.unique(key, return_inverse=True)
    coin_value = np.zeros(len(unique))
    np.add.at(coin_value, inverse, amount[~is_quote])
    limited = np.isfinite(snapshot.spot_limit) & (snapshot.cash_currency >= NUM_QUOTES)
    limit_key = (
        snapshot.cash_account[limited].astype(np.int64) * num_currencies
        + snapshot.cash_currency[limited]
    )
    coin_base = {"key": unique, "value": coin_value}
    return quote_base, coin_base, {"key": limit_key, "value": snapshot.spot_limit[limited]}


def _shapes(legs: _Legs, units: _Units, num_accounts: int) -> list[Shape]:
    num_units = np.bincount(units.account, minlength=num_accounts)
    has_options = np.isin(units.key, legs.option_units)
    num_option_units = np.bincount(units.account[has_options], minlength=num_accounts)
    widest = np.zeros((2, num_accounts), int)
    np.maximum.at(widest, (legs.is_wide.astype(int), legs.account), legs.ordinal + 1)
    needs = np.stack([num_units, widest[0], num_option_units, widest[1]], axis=1)
    kinds, which = np.unique(needs, axis=0, return_inverse=True)
    chosen = [_fit(Shape(*(int(x) for x in kind))) for kind in kinds]
    return [chosen[k] for k in which.reshape(-1)]


def _fit(need: Shape) -> Shape:
    for shape in SHAPES:
        if shape.holds(need):
            return shape

    def power(count: int, least: int) -> int:
        return max(least, 1 << max(count - 1, 0).bit_length())

    return Shape(
        power(need.units, 8),
        power(need.legs, 8),
        power(need.option_units, 2) if need.option_units else 0,
        power(need.option_legs, 64) if need.option_legs else 0,
    )


def _book(
    shape: Shape, accounts: np.ndarray, legs: _Legs, units: _Units, quote_base: np.ndarray
) -> Book:
    size = len(accounts)
    slot = np.full(quote_base.shape[1], -1)
    slot[accounts] = np.arange(size)

    mine = slot[units.account] >= 0
    at = units.ordinal[mine], slot[units.account[mine]]
    unit_coin = np.full((shape.units, size), NULL_CURRENCY, np.int32)
    coin_base, limit = np.zeros((shape.units, size)), np.full((shape.units, size), np.inf)
    unit_coin[at], coin_base[at], limit[at] = (
        units.coin[mine],
        units.coin_base[mine],
        units.limit[mine],
    )

    unit_of_leg = units.ordinal[np.searchsorted(units.key, legs.unit_key)]

    def fill(wide: bool, num_units: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        chosen = (slot[legs.account] >= 0) & (legs.is_wide == wide)
        where = unit_of_leg[chosen], legs.ordinal[chosen], slot[legs.account[chosen]]
        instrument = np.zeros((num_units, width, size), np.int32)
        contracts = np.zeros((num_units, width, size))
        closes = np.zeros((num_units, width, size), bool)
        instrument[where], contracts[where] = legs.instrument[chosen], legs.contracts[chosen]
        closes[where] = legs.closes[chosen]
        return instrument, contracts, closes

    leg = fill(False, shape.units, shape.legs)
    option = fill(True, shape.option_units, shape.option_legs)
    return Book(unit_coin, coin_base, limit, quote_base[:, accounts], *leg, *option)


def widened(batch: Batch, accounts: np.ndarray) -> Book:
    """Some accounts of a batch (positions within it) in the widest listed shape, or their own.

    Rare look-ups (what was binding at an event) thus share one compiled program.
    """
    widest = SHAPES[-1]
    shape = widest if widest.holds(batch.shape) else batch.shape
    size = len(accounts)
    book = batch.book
    empty = Book(
        unit_coin=np.full((shape.units, size), NULL_CURRENCY, np.int32),
        coin_base=np.zeros((shape.units, size)),
        spot_limit_coin=np.full((shape.units, size), np.inf),
        quote_base=np.zeros((NUM_QUOTES, size)),
        leg_instrument=np.zeros((shape.units, shape.legs, size), np.int32),
        leg_contracts=np.zeros((shape.units, shape.legs, size)),
        leg_closes_bucket=np.zeros((shape.units, shape.legs, size), bool),
        option_instrument=np.zeros((shape.option_units, shape.option_legs, size), np.int32),
        option_contracts=np.zeros((shape.option_units, shape.option_legs, size)),
        option_closes_bucket=np.zeros((shape.option_units, shape.option_legs, size), bool),
    )
    for name, target in empty.__dict__.items():
        source = np.asarray(getattr(book, name))[..., accounts]
        target[tuple(slice(0, n) for n in source.shape)] = source
    return empty
