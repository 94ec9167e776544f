"""Padded books: classes, units, legs, bases, orders; the same whatever the order of rows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backtest.batching import SHAPES, Batch, Shape, Snapshot, batches, widened
from backtest.model_records import contract_records
from backtest.what_if import terms_of
from kernels.records import NULL_CURRENCY, NUM_QUOTES, OPTION, PERPETUAL
from tests.unit.kernels import random_books


AXIS = random_books.currencies()
TERMS = terms_of(contract_records(random_books.instruments(), AXIS))
BOOKS = random_books.accounts(60, seed=41)
ORDERING = random_books.with_orders(random_books.with_choices(BOOKS[:30], seed=42), seed=43)
UNITS = pytest.mark.parametrize("split", [False, True], ids=["merged", "split"])


def built(snapshot: Snapshot, *, split: bool = False) -> list[Batch]:
    return batches(snapshot, TERMS, AXIS, split=split)


def arrays(book: Any) -> dict[str, np.ndarray]:
    return {name: x for name, x in book.__dict__.items() if isinstance(x, np.ndarray)}


def of_account(found: list[Batch], k: int) -> tuple[Batch, int]:
    for batch in found:
        at = np.flatnonzero(batch.accounts == k)
        if len(at):
            return batch, int(at[0])
    raise AssertionError(f"account {k} is in no batch")


def test_every_account_is_in_one_batch_in_order():
    found = built(random_books.snapshot(BOOKS))
    together = np.concatenate([b.accounts for b in found])
    assert sorted(together) == list(range(60))
    assert all((np.diff(b.accounts) > 0).all() for b in found)
    assert len({b.shape for b in found}) == len(found)


@UNITS
@pytest.mark.parametrize("seed", range(4))
def test_order_of_rows_does_not_matter(seed: int, split: bool):
    snapshot = random_books.snapshot([*BOOKS, *ORDERING])
    rng = np.random.default_rng(seed)
    tables = {"leg_": "leg_account", "cash": "cash_account", "order_": "order_account"}
    moved = snapshot
    for prefix, column in tables.items():
        rows = rng.permutation(len(getattr(snapshot, column)))
        names = [n for n in snapshot.__dict__ if n.startswith(prefix)]
        names += ["spot_limit"] if prefix == "cash" else []
        moved = replace(moved, **{n: getattr(snapshot, n)[rows] for n in names})
    for one, other in zip(built(snapshot, split=split), built(moved, split=split), strict=True):
        assert one.shape == other.shape
        for name, values in arrays(one.book).items():
            np.testing.assert_array_equal(getattr(other.book, name), values, err_msg=name)


@UNITS
def test_an_account_alone_is_as_among_others(split: bool):
    """The book of an account depends on no other account."""
    books = [*BOOKS, *ORDERING]
    found = built(random_books.snapshot(books), split=split)
    for k in range(0, len(books), 7):
        (alone,) = built(random_books.snapshot([books[k]]), split=split)
        batch, at = of_account(found, k)
        assert alone.shape == batch.shape
        for name, values in arrays(alone.book).items():
            np.testing.assert_array_equal(getattr(batch.book, name)[..., at], values[..., 0])


def test_books_hold_every_leg_once_sorted_by_bucket():
    found = built(random_books.snapshot(BOOKS))
    for k, account in enumerate(BOOKS):
        batch, at = of_account(found, k)
        held: dict[int, float] = {}
        book = batch.book
        for side in ("leg", "option"):
            (instrument,) = np.asarray(getattr(book, f"{side}_instrument"))[..., at]
            (contracts,) = np.asarray(getattr(book, f"{side}_contracts"))[..., at]
            (closes,) = np.asarray(getattr(book, f"{side}_closes_bucket"))[..., at]
            for unit in range(instrument.shape[0]):
                mine = instrument[unit] > 0
                assert not contracts[unit][~mine].any()
                expiry = np.where(
                    TERMS.kind[instrument[unit][mine]] == PERPETUAL,
                    -1.0,
                    TERMS.expiry_s[instrument[unit][mine]],
                )
                assert (np.diff(expiry) >= 0).all()
                last_of_bucket = np.append(np.diff(expiry) > 0, True)[: len(expiry)]
                np.testing.assert_array_equal(closes[unit][mine], last_of_bucket)
                coins = TERMS.coin[instrument[unit][mine]]
                assert (coins == np.asarray(book.unit_coin)[unit, at]).all()
                held |= dict(zip(instrument[unit][mine], contracts[unit][mine], strict=True))
        assert held == {instrument + 1: n for instrument, n, _ in account.legs}


def test_units_with_options_come_first():
    for batch in built(random_books.snapshot(BOOKS)):
        kinds = TERMS.kind[np.asarray(batch.book.leg_instrument)]
        assert not (kinds == OPTION).any()
        if batch.shape.option_units:
            (instrument,) = np.asarray(batch.book.option_instrument)
            options = (TERMS.kind[instrument] == OPTION).any(axis=1)
            # Where the second unit has options the first has, and units without hold no wide leg.
            assert (np.diff(options.astype(int), axis=0) <= 0).all()
            wide = (instrument > 0).any(axis=1)
            np.testing.assert_array_equal(wide, options)


def test_bases_are_cash_plus_entry_value():
    found = built(random_books.snapshot(BOOKS))
    for k, account in enumerate(BOOKS):
        expected = {name: account.balances.get(name, 0.0) for name in AXIS.names}
        for instrument, n, entry in account.legs:
            row = random_books.instruments().loc[instrument]
            if row["kind"] == "option":
                continue
            size = n * row["multiplier"]
            inverse = row["style"] == "inverse"
            expected[row["settle"]] += size / entry if inverse else -size * entry
        batch, at = of_account(found, k)
        for q in range(NUM_QUOTES):
            base = np.asarray(batch.book.quote_base)[q, at]
            assert base == pytest.approx(expected[AXIS.names[q]], rel=1e-12)
        for coin, base in zip(
            np.asarray(batch.book.unit_coin)[:, at],
            np.asarray(batch.book.coin_base)[:, at],
            strict=True,
        ):
            if coin != NULL_CURRENCY:
                assert base == pytest.approx(expected[AXIS.names[coin]], rel=1e-12, abs=1e-9)


def test_limits_belong_to_their_coin():
    found = built(random_books.snapshot(BOOKS))
    for k, account in enumerate(BOOKS):
        batch, at = of_account(found, k)
        coins = np.asarray(batch.book.unit_coin)[:, at]
        for coin, limit in zip(coins, np.asarray(batch.book.spot_limit_coin)[:, at], strict=True):
            assert limit == account.limits.get(AXIS.names[coin], np.inf)


def one_account(contracts: list[float], instruments: list[int]) -> Snapshot:
    n = len(contracts)
    return Snapshot(
        account_ids=np.asarray(["a"]),
        leg_account=np.zeros(n, int),
        leg_instrument=np.asarray(instruments, int),
        leg_contracts=np.asarray(contracts),
        leg_entry=np.full(n, 100.0),
        cash_account=np.zeros(0, int),
        cash_currency=np.zeros(0, int),
        cash=np.zeros(0),
        spot_limit=np.zeros(0),
    )


def test_rows_of_one_instrument_are_netted_and_keep_their_profit():
    (batch,) = built(one_account([3.0, -1.0, -2.0, 4.0], [1, 1, 1, 2]))
    held = np.asarray(batch.book.leg_instrument)
    assert held[held > 0].tolist() == [2]
    base = np.asarray(batch.book.quote_base)[:2, 0]
    np.testing.assert_allclose(base, [0.0, -4.0], atol=1e-12)


def test_an_empty_account_and_no_accounts():
    empty = one_account([], [])
    (batch,) = built(empty)
    assert batch.shape == SHAPES[0]
    assert (np.asarray(batch.book.unit_coin) == NULL_CURRENCY).all()
    assert built(replace(empty, account_ids=np.asarray([], str))) == []


def test_limits_without_any_unit():
    """Nobody holds a contract or a coin: a limit row has nothing to limit."""
    rows = {"cash_account": [0, 0], "cash_currency": [0, AXIS.position["BTC"]], "cash": [5.0, 0.0]}
    held = {name: np.asarray(values) for name, values in rows.items()}
    snapshot = replace(one_account([], []), **held, spot_limit=np.asarray([np.nan, 0.0]))
    (batch,) = built(snapshot)
    assert np.asarray(batch.book.quote_base)[0, 0] == 5.0
    assert (np.asarray(batch.book.unit_coin) == NULL_CURRENCY).all()


def test_a_book_wider_than_every_class_takes_powers_of_two():
    options = np.flatnonzero(TERMS.kind == OPTION)
    assert len(options) > 64
    wide = options[TERMS.coin[options] == AXIS.position["BTC"]]
    many = one_account([1.0] * len(wide), wide.tolist())
    (batch,) = built(many)
    assert batch.shape.option_legs >= len(wide)
    assert batch.shape.holds(Shape(1, 0, 1, len(wide)))


def test_classes_are_ordered_by_cost_and_widths_fit_the_unrolling():
    # The charges of a unit take as long as the scenarios of four option legs (measured).
    costs = [
        s.portfolios * (s.units * (s.legs + 4 * 28) + s.option_units * s.option_legs * 28)
        for s in SHAPES
    ]
    for portfolios in (1, 3):
        mine = [cost for cost, s in zip(costs, SHAPES, strict=True) if s.portfolios == portfolios]
        assert mine == sorted(mine)


@UNITS
def test_widened_books_keep_their_content(split: bool):
    for batch in built(random_books.snapshot([*BOOKS, *ORDERING]), split=split):
        some = np.asarray([0, len(batch.accounts) - 1])
        wide = widened(batch, some)
        assert wide.shares_coins == split
        for name, target in arrays(wide).items():
            source = np.asarray(getattr(batch.book, name))[..., some]
            inside = tuple(slice(0, n) for n in source.shape)
            np.testing.assert_array_equal(np.asarray(target)[inside], source, err_msg=name)
            outside = np.asarray(target).astype(float).copy()
            outside[inside] = np.nan
            spare = outside[~np.isnan(outside)]
            nothing = dict.fromkeys(("unit_coin", "order_out_currency"), float(NULL_CURRENCY))
            padding = {**nothing, "spot_limit_coin": np.inf, "owns_coin": 1.0}.get(name, 0.0)
            assert (spare == padding).all(), name
