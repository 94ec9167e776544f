"""From rows of positions and balances to padded books, and from accounts to slots and back.

An account falls into the narrowest *shape class* that holds it; within a class accounts keep
their order. The shape of an account never depends on the others, so results cannot depend on
bucket count, batch size or order of rows.
"""

from dataclasses import astuple, dataclass, field, replace
from functools import partial

import numpy as np

from backtest.leg_lists import Legs, Orders, Terms, UnitKeys
from backtest.model_records import Currencies
from kernels.features import COIN_VALUE, VALUE
from kernels.records import NULL_CURRENCY, NUM_QUOTES, Book


__all__ = ["SHAPES", "Batch", "Shape", "Snapshot", "Terms", "batches", "equity_usd", "widened"]


@dataclass(frozen=True, order=True)
class Shape:
    """Width of a class: units, legs a unit, units with options, expiring legs of such a unit.

    ``portfolios`` is 3 for accounts with open orders, at most ``orders`` of them.
    """

    units: int
    legs: int
    option_units: int
    option_legs: int
    portfolios: int = 1
    orders: int = 0

    def holds(self, other: "Shape") -> bool:
        """Whether a book of the other shape fits (with orders or without, not both)."""
        return (
            self.portfolios == other.portfolios
            and self.units >= other.units
            and self.legs >= other.legs
            and self.option_units >= other.option_units
            and self.option_legs >= other.option_legs
            and self.orders >= other.orders
        )

    def joined(self, other: "Shape") -> "Shape":
        """The narrowest shape that holds both (with orders or without, not both)."""
        sizes = zip(astuple(self), astuple(other), strict=True)
        return Shape(*(max(mine, its) for mine, its in sizes))

    def within(self, shapes: tuple["Shape", ...], least_legs: int = 8) -> "Shape":
        """The first of some shapes that holds this one, else one of powers of two."""
        for shape in shapes:
            if shape.holds(self):
                return shape

        def power(count: int, least: int) -> int:
            return max(least, 1 << max(count - 1, 0).bit_length())

        return Shape(
            power(self.units, 8),
            power(self.legs, least_legs),
            power(self.option_units, 2) if self.option_units else 0,
            power(self.option_legs, 64) if self.option_units else 0,
            self.portfolios,
            power(self.orders, 16) if self.orders else 0,
        )


SHAPES = (
    Shape(1, 2, 0, 0),
    Shape(1, 1, 1, 4),
    Shape(4, 2, 0, 0),
    Shape(2, 2, 2, 8),
    Shape(4, 4, 1, 8),
    Shape(4, 4, 2, 16),
    Shape(8, 8, 2, 64),
    Shape(4, 4, 2, 8, 3, 4),
    Shape(8, 8, 2, 64, 3, 16),
)
"""Classes in order of cost; anything wider takes powers of two."""


def _none(dtype: type) -> np.ndarray:
    return np.zeros(0, dtype)


@dataclass(frozen=True)
class Snapshot:
    """Portfolios of one bucket at one time, in index form.

    Fields:
        account_ids: accounts scored, ascending.
        leg_account, leg_instrument, leg_contracts, leg_entry: open positions (instrument axis
            with the null contract at 0; entry NaN = no entry known, the account is unpriced).
        cash_account, cash_currency, cash, spot_limit: balances.
        order_account, order_instrument, order_contracts, order_price: open orders.
        spot_family: family that takes the account's spot in split units, -1 = none; empty: none
            for all. auto_borrows: whether orders may borrow; empty: for all.
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
    order_account: np.ndarray = field(default_factory=partial(_none, int))
    order_instrument: np.ndarray = field(default_factory=partial(_none, int))
    order_contracts: np.ndarray = field(default_factory=partial(_none, float))
    order_price: np.ndarray = field(default_factory=partial(_none, float))
    spot_family: np.ndarray = field(default_factory=partial(_none, int))
    auto_borrows: np.ndarray = field(default_factory=partial(_none, bool))

    def with_choices(self) -> "Snapshot":
        """The same with the choices of accounts filled in where none are given."""
        count = len(self.account_ids)
        family = self.spot_family if len(self.spot_family) else np.full(count, -1)
        auto = self.auto_borrows if len(self.auto_borrows) else np.ones(count, bool)
        return replace(self, spot_family=family, auto_borrows=auto)

    def only(self, keep: np.ndarray) -> "Snapshot":
        """The snapshot of some of its accounts (mask)."""
        place = np.cumsum(keep) - 1
        legs, cash = keep[self.leg_account], keep[self.cash_account]
        orders = keep[self.order_account]
        of_rows = {"leg": legs, "cash": cash, "spot": cash, "order": orders}
        fields: dict[str, np.ndarray] = {}
        for name, values in self.with_choices().__dict__.items():
            rows = of_rows.get(name.split("_")[0], keep)
            chosen = values[keep if name == "spot_family" else rows]
            fields[name] = place[chosen] if name in _ACCOUNT_ROWS else chosen
        return Snapshot(**fields)


_ACCOUNT_ROWS = ("leg_account", "cash_account", "order_account")


@dataclass(frozen=True)
class Batch:
    """Accounts of one shape class: a book with accounts on the last axis, and who they are.

    ``tiles`` is the engine's: device copies of the book, kept for the next window and set.
    """

    shape: Shape
    accounts: np.ndarray
    book: Book
    tiles: dict[tuple[int, int, int], Book] = field(default_factory=dict, compare=False, repr=False)


def batches(
    snapshot: Snapshot,
    terms: Terms,
    currencies: Currencies,
    *,
    split: bool = False,
    shapes: tuple[Shape, ...] | None = None,
) -> list[Batch]:
    """Books of all accounts of a snapshot, one batch a shape class.

    Args:
        snapshot: the portfolios.
        terms: terms of the instrument axis.
        currencies: the currency axis.
        split: units by coin and settlement family instead of by coin.
        shapes: classes in order of cost, None = ``SHAPES``.
    """
    snapshot = snapshot.with_choices()
    keys = UnitKeys(len(currencies.names), split)
    orders = Orders.of(snapshot, terms, keys)
    portfolios = Legs.of_portfolios(snapshot, orders, terms, keys)
    quote_base, coin_base, limit = _bases(snapshot, terms, keys)
    cash = snapshot.cash_account, snapshot.cash_currency, snapshot.cash
    quote_cash, coin_cash = _by_currency(*cash, len(snapshot.account_ids), keys)
    units = _Units.of(portfolios, orders, coin_base, coin_cash, limit, snapshot, keys)
    quotes = {"base": quote_base, "cash": quote_cash}
    content = _Content(portfolios, orders, units, quotes, snapshot.auto_borrows, split)
    shape_of = _shapes(content, len(snapshot.account_ids), shapes or SHAPES)
    out = []
    for shape in sorted(set(shape_of)):
        accounts = np.flatnonzero([s == shape for s in shape_of])
        out.append(Batch(shape, accounts, _book(shape, accounts, content)))
    return out


_ByCoin = dict[str, np.ndarray]
"""``key`` of account and coin, ascending, and ``value``."""


@dataclass(frozen=True)
class _Units:
    """Risk units sorted by key: account, coin, family."""

    key: np.ndarray
    account: np.ndarray
    coin: np.ndarray
    family: np.ndarray
    owns_coin: np.ndarray
    takes_spot: np.ndarray
    coin_base: np.ndarray
    coin_cash: np.ndarray
    spot_orders: np.ndarray
    limit: np.ndarray
    has_options: np.ndarray
    ordinal: np.ndarray

    @staticmethod
    def of(
        portfolios: list[Legs],
        orders: Orders,
        coin_base: _ByCoin,
        coin_cash: _ByCoin,
        limit: _ByCoin,
        snapshot: Snapshot,
        keys: UnitKeys,
    ) -> "_Units":
        held = coin_base["value"] != 0
        of_legs = np.unique(np.concatenate([legs.unit_key for legs in portfolios]))
        coins = np.unique(np.concatenate([coin_base["key"][held], orders.coin_key]))
        without_unit = coins[~np.isin(coins, keys.coin_of(of_legs))]
        key = np.union1d(of_legs, keys.lone_unit(without_unit))
        coin_key = keys.coin_of(key)
        account, coin, family = keys.parts(key)
        has_options = np.isin(key, portfolios[0].option_units)
        order = np.lexsort((key, ~has_options, account))
        rank = np.empty(len(key), np.int64)
        rank[order] = np.arange(len(key))
        first = np.searchsorted(account[order], np.arange(len(snapshot.account_ids)), "left")
        owns = np.ones(len(key), bool)
        owns[1:] = coin_key[1:] != coin_key[:-1]
        takes_spot = coin > NULL_CURRENCY
        if keys.split:
            takes_spot &= family == snapshot.spot_family[account]
        base = _looked_up(coin_key, coin_base["key"][held], coin_base["value"][held], 0.0)
        cash = _looked_up(coin_key, coin_cash["key"], coin_cash["value"], 0.0)
        spot = [_looked_up(coin_key, *orders.spot_coins(p), 0.0) for p in range(len(portfolios))]
        return _Units(
            key=key,
            account=account,
            coin=coin,
            family=family,
            owns_coin=owns,
            takes_spot=takes_spot,
            coin_base=np.where(owns, base, 0.0),
            coin_cash=np.where(owns, cash, 0.0),
            spot_orders=np.stack(spot),
            limit=_looked_up(coin_key, limit["key"], limit["value"], np.inf),
            has_options=has_options,
            ordinal=rank - first[account],
        )


def _looked_up(key: np.ndarray, keys: np.ndarray, values: np.ndarray, empty: float) -> np.ndarray:
    """The value of each key, ``empty`` where it has none; ``keys`` ascend."""
    out = np.full(len(key), empty)
    known = np.isin(key, keys)
    out[known] = values[np.searchsorted(keys, key[known])]
    return out


def _bases(snapshot: Snapshot, terms: Terms, keys: UnitKeys) -> tuple[np.ndarray, _ByCoin, _ByCoin]:
    """Cash plus entry value: per quote currency [quote, account], and per account and coin."""
    n = snapshot.leg_contracts
    instrument = snapshot.leg_instrument
    m, entry = terms.multiplier[instrument], snapshot.leg_entry
    with np.errstate(divide="ignore"):
        value = np.where(terms.is_inverse[instrument], n * m / entry, -n * m * entry)
    value = np.where(terms.is_option[instrument] | (n == 0), 0.0, value)
    account = np.concatenate([snapshot.cash_account, snapshot.leg_account])
    currency = np.concatenate([snapshot.cash_currency, terms.settle[instrument]])
    quote_base, coin_base = _by_currency(
        account,
        currency,
        np.concatenate([snapshot.cash, value]),
        len(snapshot.account_ids),
        keys,
    )
    limited = np.isfinite(snapshot.spot_limit) & (snapshot.cash_currency >= NUM_QUOTES)
    limit_key = keys.coin(snapshot.cash_account[limited], snapshot.cash_currency[limited])
    ascending = np.argsort(limit_key)
    limits = {"key": limit_key[ascending], "value": snapshot.spot_limit[limited][ascending]}
    return quote_base, coin_base, limits


def _by_currency(
    account: np.ndarray,
    currency: np.ndarray,
    amount: np.ndarray,
    num_accounts: int,
    keys: UnitKeys,
) -> tuple[np.ndarray, _ByCoin]:
    """Sums of amounts per quote currency [quote, account], and per account and coin."""
    # One order for the additions, whatever the order of the rows was.
    order = np.lexsort((amount, currency, account))
    account, currency, amount = account[order], currency[order], amount[order]
    of_quotes = np.zeros((NUM_QUOTES, num_accounts))
    is_quote = currency < NUM_QUOTES
    np.add.at(of_quotes, (currency[is_quote], account[is_quote]), amount[is_quote])
    key, inverse = np.unique(
        keys.coin(account[~is_quote], currency[~is_quote]), return_inverse=True
    )
    of_coins = np.zeros(len(key))
    np.add.at(of_coins, inverse, amount[~is_quote])
    return of_quotes, {"key": key, "value": of_coins}


def equity_usd(
    snapshot: Snapshot,
    terms: Terms,
    currencies: Currencies,
    features: np.ndarray,
    currency_usd: np.ndarray,
) -> np.ndarray:
    """Undiscounted equity of each account at one time in USD; NaN = unpriced.

    Args:
        snapshot: the portfolios.
        terms: terms of the instrument axis.
        currencies: the currency axis.
        features: shared features of the contracts at the time [instrument, feature].
        currency_usd: index prices at the time.
    """
    quote_base, coin_base, _ = _bases(snapshot, terms, UnitKeys(len(currencies.names), False))
    usd = currency_usd[:NUM_QUOTES, None]
    found = np.where(quote_base == 0, 0.0, quote_base * usd).sum(axis=0)
    account, coin = np.divmod(coin_base["key"], len(currencies.names))
    held = coin_base["value"] != 0
    np.add.at(found, account[held], coin_base["value"][held] * currency_usd[coin[held]])
    at = snapshot.leg_instrument
    in_settle = features[at, VALUE].sum(axis=1) + features[at, COIN_VALUE]
    value = snapshot.leg_contracts * in_settle * currency_usd[terms.settle[at]]
    np.add.at(found, snapshot.leg_account, np.where(snapshot.leg_contracts == 0, 0.0, value))
    return found


@dataclass(frozen=True)
class _Content:
    """All accounts of a snapshot, sorted, before they go into classes."""

    portfolios: list[Legs]
    orders: Orders
    units: _Units
    quotes: dict[str, np.ndarray]
    auto_borrows: np.ndarray
    split: bool


def _shapes(content: _Content, num_accounts: int, shapes: tuple[Shape, ...]) -> list[Shape]:
    units, orders = content.units, content.orders

    def per_account(accounts: np.ndarray) -> np.ndarray:
        return np.bincount(accounts, minlength=num_accounts)

    num_orders = per_account(orders.account)
    widest = np.zeros((2, num_accounts), int)
    for legs in content.portfolios:
        np.maximum.at(widest, (legs.is_wide.astype(int), legs.account), legs.ordinal + 1)
    needs = np.stack(
        [
            per_account(units.account),
            widest[0],
            per_account(units.account[units.has_options]),
            widest[1],
            np.where(num_orders > 0, 3, 1),
            num_orders,
        ],
        axis=1,
    )
    kinds, which = np.unique(needs, axis=0, return_inverse=True)
    chosen = [Shape(*(int(x) for x in kind)).within(shapes) for kind in kinds]
    return [chosen[k] for k in which.reshape(-1)]


def _empty(shape: Shape, size: int, split: bool) -> Book:
    """A book of accounts without anything, on the host."""
    units = shape.units, size
    legs = shape.portfolios, shape.units, shape.legs, size
    options = shape.portfolios, shape.option_units, shape.option_legs, size
    orders = shape.orders, size
    return Book(
        unit_coin=np.full(units, NULL_CURRENCY, np.int32),
        unit_family=np.zeros(units, np.int32),
        owns_coin=np.ones(units, bool),
        takes_spot=np.zeros(units, bool),
        coin_base=np.zeros(units),
        spot_order_coin=np.zeros((shape.portfolios, *units)),
        spot_limit_coin=np.full(units, np.inf),
        quote_base=np.zeros((NUM_QUOTES, size)),
        coin_cash=np.zeros(units),
        quote_cash=np.zeros((NUM_QUOTES, size)),
        auto_borrows=np.ones(size, bool),
        leg_instrument=np.zeros(legs, np.int32),
        leg_contracts=np.zeros(legs),
        leg_closes_bucket=np.zeros(legs, bool),
        option_instrument=np.zeros(options, np.int32),
        option_contracts=np.zeros(options),
        option_closes_bucket=np.zeros(options, bool),
        order_instrument=np.zeros(orders, np.int32),
        order_contracts=np.zeros(orders),
        order_price=np.zeros(orders),
        order_pays_premium=np.zeros(orders, bool),
        order_out_currency=np.full(orders, NULL_CURRENCY, np.int32),
        order_out_amount=np.zeros(orders),
        shares_coins=split,
    )


def _book(shape: Shape, accounts: np.ndarray, content: _Content) -> Book:
    """Fill a book of one class; the arrays of the new book are written in place."""
    book = _empty(shape, len(accounts), content.split)
    slot = np.full(len(content.auto_borrows), -1)
    slot[accounts] = np.arange(len(accounts))
    units, orders = content.units, content.orders
    book.quote_base[:] = content.quotes["base"][:, accounts]
    book.quote_cash[:] = content.quotes["cash"][:, accounts]
    book.auto_borrows[:] = content.auto_borrows[accounts]

    mine = slot[units.account] >= 0
    at = units.ordinal[mine], slot[units.account[mine]]
    for target, values in (
        (book.unit_coin, units.coin),
        (book.unit_family, units.family),
        (book.owns_coin, units.owns_coin),
        (book.takes_spot, units.takes_spot),
        (book.coin_base, units.coin_base),
        (book.coin_cash, units.coin_cash),
        (book.spot_limit_coin, units.limit),
    ):
        target[at] = values[mine]
    for p in range(shape.portfolios):
        book.spot_order_coin[p][at] = units.spot_orders[p][mine]
        _fill_legs(book, p, content.portfolios[p], units, slot)

    mine = slot[orders.account] >= 0
    at = orders.ordinal[mine], slot[orders.account[mine]]
    for target, values in (
        (book.order_instrument, orders.instrument),
        (book.order_contracts, orders.contracts),
        (book.order_price, orders.price),
        (book.order_pays_premium, orders.pays_premium),
        (book.order_out_currency, orders.out_currency),
        (book.order_out_amount, orders.out_amount),
    ):
        target[at] = values[mine]
    return book


def _fill_legs(book: Book, p: int, legs: Legs, units: _Units, slot: np.ndarray) -> None:
    """Write the legs of portfolio ``p``."""
    unit_of_leg = units.ordinal[np.searchsorted(units.key, legs.unit_key)]
    lists = (
        (False, book.leg_instrument, book.leg_contracts, book.leg_closes_bucket),
        (True, book.option_instrument, book.option_contracts, book.option_closes_bucket),
    )
    for wide, instrument, contracts, closes in lists:
        chosen = (slot[legs.account] >= 0) & (legs.is_wide == wide)
        at = unit_of_leg[chosen], legs.ordinal[chosen], slot[legs.account[chosen]]
        instrument[p][at] = legs.instrument[chosen]
        contracts[p][at] = legs.contracts[chosen]
        closes[p][at] = legs.closes[chosen]


def widened(
    batch: Batch,
    accounts: np.ndarray,
    changes: np.ndarray | None = None,
    shape: Shape | None = None,
) -> Book:
    """Some accounts of a batch (positions within it) in a shape that holds its own.

    Rare look-ups (what was binding at an event) thus share one compiled program.

    Args:
        batch: the batch.
        accounts: which of its accounts.
        changes: what debts have moved of all accounts of the batch [holding, account].
        shape: the shape; the widest listed one if absent, or the batch's own where that is wider.
    """
    if shape is None:
        widest = [s for s in SHAPES if s.portfolios == batch.shape.portfolios][-1]
        shape = widest if widest.holds(batch.shape) else batch.shape
    book = _empty(shape, len(accounts), batch.book.shares_coins)
    for name, source in batch.book.__dict__.items():
        if isinstance(source, np.ndarray):
            piece = source[..., accounts]
            target = getattr(book, name)
            target[tuple(slice(0, n) for n in piece.shape)] = piece
    if changes is not None:
        book.coin_base[: batch.shape.units] += changes[:-NUM_QUOTES, accounts]
        book.quote_base[:] += changes[-NUM_QUOTES:, accounts]
    return book
