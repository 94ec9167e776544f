"""Books of accounts with open orders, and of split risk units."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from backtest.batching import Batch, Shape, Snapshot, batches
from backtest.model_records import contract_records
from backtest.what_if import terms_of
from kernels.records import NULL_CURRENCY, OPTION, QUOTES, SPOT
from tests.unit.kernels import random_books
from tests.unit.kernels.random_books import Order, RandomAccount


AXIS = random_books.currencies()
TABLE = random_books.instruments()
TERMS = terms_of(contract_records(TABLE, AXIS))
PLAIN = random_books.with_choices(random_books.accounts(60, seed=41), seed=42)
ORDERING = random_books.with_orders(PLAIN, seed=43)
UNITS = pytest.mark.parametrize("split", [False, True], ids=["merged", "split"])
USD_FAMILY = QUOTES.index("USD")


def named(name: str) -> int:
    """Position of an instrument; one more on the instrument axis, which begins with null."""
    return int(np.flatnonzero(TABLE["instrument_id"] == name)[0])


SWAP, INVERSE, CALL, PUT, PAIR, CROSS = (
    named(name)
    for name in (
        "BTC-USDT-SWAP",
        "BTC-INVERSE-SWAP",
        "BTC-45.0-1.0-C",
        "BTC-45.0-1.0-P",
        "BTC-USDT",
        "ETH-BTC",
    )
)


def built(books: list[RandomAccount], *, split: bool = False) -> list[Batch]:
    return batches(random_books.snapshot(books), TERMS, AXIS, split=split)


def alone(
    *orders: Order,
    legs: tuple[tuple[int, float, float], ...] = (),
    split: bool = False,
    **more: Any,
) -> Batch:
    account = RandomAccount(list(legs), {"USDT": 1e5}, {}, list(orders), **more)
    (batch,) = built([account], split=split)
    return batch


def direction(k: int, contracts: float) -> float:
    """+1 for orders that add delta to the unit of their coin: a put bought takes delta away."""
    return float(np.sign(contracts)) * (-1.0 if TABLE.loc[k, "option_type"] == "P" else 1.0)


def units_of(batch: Batch, at: int, p: int) -> dict[tuple[int, int], dict[int, float]]:
    """Contracts by instrument of every unit (coin, family) of one account in portfolio ``p``."""
    book = batch.book
    held: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    for side in ("leg", "option"):
        instrument = np.asarray(getattr(book, f"{side}_instrument"))[p, ..., at]
        contracts = np.asarray(getattr(book, f"{side}_contracts"))[p, ..., at]
        for unit, leg in zip(*np.nonzero(instrument), strict=True):
            name = int(book.unit_coin[unit, at]), int(book.unit_family[unit, at])
            assert instrument[unit, leg] - 1 not in held[name]
            held[name][int(instrument[unit, leg]) - 1] = float(contracts[unit, leg])
        assert not contracts[instrument == 0].any()
    return dict(held)


def expected_units(
    account: RandomAccount, p: int, *, split: bool
) -> dict[tuple[int, int], dict[int, float]]:
    net: dict[int, float] = defaultdict(float)
    for k, contracts, _ in account.legs:
        net[k] += contracts
    for k, contracts, _ in account.orders:
        if TABLE.loc[k, "kind"] != "spot" and direction(k, contracts) == (0.0, 1.0, -1.0)[p]:
            net[k] += contracts
    held: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    for k, contracts in net.items():
        settle = TABLE.loc[k, "settle"]
        family = QUOTES.index(settle) if split and settle in QUOTES else USD_FAMILY
        if contracts:
            held[AXIS.position[TABLE.loc[k, "coin"]], family][k] = contracts
    return dict(held)


@UNITS
def test_portfolios_are_the_positions_and_the_orders_of_each_direction(split: bool):
    books = [*PLAIN, *ORDERING]
    for batch in built(books, split=split):
        for at, k in enumerate(batch.accounts):
            assert batch.shape.portfolios == (3 if books[k].orders else 1)
            for p in range(batch.shape.portfolios):
                found = units_of(batch, at, p)
                expected = expected_units(books[k], p, split=split)
                assert found.keys() == expected.keys()
                for name, legs in expected.items():
                    assert found[name] == pytest.approx(legs, rel=1e-12)


@UNITS
def test_units_with_options_in_any_portfolio_come_first(split: bool):
    for batch in built(ORDERING, split=split):
        instrument = np.asarray(batch.book.option_instrument)
        options = (TERMS.kind[instrument] == OPTION).any(axis=(0, 2))
        assert (np.diff(options.astype(int), axis=0) <= 0).all()
        assert not (TERMS.kind[np.asarray(batch.book.leg_instrument)] == OPTION).any()


def test_orders_net_with_the_position_in_their_contract():
    """A leg that an order would close is gone in that portfolio, and only there."""
    batch = alone((SWAP, -2.0, 9e4), (SWAP, 3.0, 9e4), legs=((SWAP, 2.0, 9e4),))
    unit = AXIS.position["BTC"], USD_FAMILY
    assert [units_of(batch, 0, p) for p in range(3)] == [
        {unit: {SWAP: 2.0}},
        {unit: {SWAP: 5.0}},
        {},
    ]
    assert batch.book.unit_coin[:, 0].tolist().count(unit[0]) == 1


def test_buying_a_put_takes_delta_away():
    batch = alone((PUT, 1.0, 0.05), (CALL, 1.0, 0.05))
    unit = AXIS.position["BTC"], USD_FAMILY
    assert [units_of(batch, 0, p) for p in range(3)] == [
        {},
        {unit: {CALL: 1.0}},
        {unit: {PUT: 1.0}},
    ]


@pytest.mark.parametrize(
    ("order", "price", "premium", "currency", "amount"),
    [
        ((SWAP, 2.0, 9e4), 9e4, False, "USDT", 0.0),
        ((INVERSE, -2.0, 8e4), -1 / 8e4, False, "BTC", 0.0),
        ((CALL, 3.0, 0.04), 0.04, True, "BTC", 3.0 * 0.01 * 0.04),
        ((CALL, -3.0, 0.04), 0.04, False, "BTC", 0.0),
        ((PAIR, 2.0, 9e4), 9e4, False, "USDT", 1.8e5),
        ((PAIR, -2.0, 9e4), 9e4, False, "BTC", 2.0),
        ((CROSS, 5.0, 0.03), 0.03, False, "BTC", 0.15),
        ((CROSS, -5.0, 0.03), 0.03, False, "ETH", 5.0),
    ],
)
def test_what_an_order_costs_and_borrows(
    order: Order, price: float, premium: bool, currency: str, amount: float
):
    for borrows in (True, False):
        book = alone(order, borrow_mode="auto" if borrows else "non_auto").book
        assert book.order_instrument[0, 0] == order[0] + 1
        assert (book.order_contracts[0, 0], book.order_price[0, 0]) == (order[1], price)
        assert book.order_pays_premium[0, 0] == premium
        if amount:
            assert book.order_out_currency[0, 0] == AXIS.position[currency]
        assert book.order_out_amount[0, 0] == pytest.approx(amount if borrows else 0.0)
        assert not book.order_instrument[1:].any()


def test_spot_orders_move_the_coins_of_their_direction():
    """Buying ETH-BTC brings ETH with the buys and takes BTC with the sells."""
    book = alone((PAIR, 2.0, 9e4), (PAIR, -0.5, 9e4), (CROSS, 10.0, 0.03)).book
    btc, eth = (
        int(np.flatnonzero(book.unit_coin[:, 0] == AXIS.position[coin])[0])
        for coin in ("BTC", "ETH")
    )
    np.testing.assert_allclose(book.spot_order_coin[:, btc, 0], [0.0, 2.0, -0.5 - 0.3])
    np.testing.assert_allclose(book.spot_order_coin[:, eth, 0], [0.0, 10.0, 0.0])
    assert not (TERMS.kind[np.asarray(book.leg_instrument)] == SPOT).any()


def test_an_order_of_nothing_is_left_out():
    batch = alone((SWAP, 0.0, 9e4))
    assert batch.shape.portfolios == 1
    assert batch.book.order_instrument.shape[0] == 0


@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (0, Shape(1, 2, 0, 0)),
        (4, Shape(4, 4, 2, 8, 3, 4)),
        (5, Shape(8, 8, 2, 64, 3, 16)),
        (16, Shape(8, 8, 2, 64, 3, 16)),
        (17, Shape(8, 8, 0, 0, 3, 32)),
    ],
)
def test_the_class_of_an_account_with_orders(count: int, shape: Shape):
    orders = [(SWAP, 1.0 + k, 9e4) for k in range(count)]
    assert alone(*orders, legs=((SWAP, 1.0, 9e4),)).shape == shape


@UNITS
def test_accounts_without_orders_have_the_same_books_among_those_with(split: bool):
    without = built(PLAIN, split=split)
    among = built([*PLAIN, *ORDERING], split=split)
    for batch in without:
        (same,) = [b for b in among if b.shape == batch.shape]
        np.testing.assert_array_equal(same.accounts, batch.accounts)
        for name, values in batch.book.__dict__.items():
            np.testing.assert_array_equal(getattr(same.book, name), values, err_msg=name)


def test_split_units_own_each_coin_once_and_take_spot_in_the_chosen_family():
    books = [*PLAIN, *ORDERING]
    for batch in built(books, split=True):
        assert batch.book.shares_coins
        for at, k in enumerate(batch.accounts):
            coin, family, owns, takes, base, limit = (
                np.asarray(getattr(batch.book, name))[:, at]
                for name in (
                    "unit_coin",
                    "unit_family",
                    "owns_coin",
                    "takes_spot",
                    "coin_base",
                    "spot_limit_coin",
                )
            )
            mine = coin != NULL_CURRENCY
            places = list(zip(coin[mine], family[mine], strict=True))
            assert len(set(places)) == len(places)
            assert sorted(coin[mine & owns]) == sorted(set(coin[mine]))
            assert not base[~owns].any()
            chosen = QUOTES.index(books[k].spot_mode) if books[k].spot_mode in QUOTES else -1
            np.testing.assert_array_equal(takes[mine], (family == chosen)[mine])
            limits = [books[k].limits.get(AXIS.names[c], np.inf) for c in coin[mine]]
            np.testing.assert_array_equal(limit[mine], limits)


def test_split_units_add_up_to_the_bases_of_merged_ones():
    books = [*PLAIN, *ORDERING]

    def bases(split: bool) -> dict[tuple[int, int], float]:
        found: dict[tuple[int, int], float] = defaultdict(float)
        for batch in built(books, split=split):
            for unit in range(batch.shape.units):
                for at, k in enumerate(batch.accounts):
                    coin = int(batch.book.unit_coin[unit, at])
                    found[int(k), coin] += float(batch.book.coin_base[unit, at])
        return {key: x for key, x in found.items() if x}

    assert bases(split=True) == bases(split=False)


def test_a_coin_without_contracts_is_one_unit():
    account = RandomAccount([], {"BTC": 2.0}, {}, spot_mode="USDC")
    (batch,) = built([account], split=True)
    mine = batch.book.unit_coin[:, 0] == AXIS.position["BTC"]
    assert mine.sum() == 1
    assert batch.book.coin_base[mine, 0] == 2.0
    assert batch.book.owns_coin[mine, 0].all()


def test_choices_left_open_are_no_spot_and_auto_borrowing():
    none = np.zeros(0, int)
    snapshot = Snapshot(np.asarray(["a", "b"]), none, none, none, none, none, none, none, none)
    filled = snapshot.with_choices()
    assert filled.spot_family.tolist() == [-1, -1]
    assert filled.auto_borrows.tolist() == [True, True]
