"""Padded books: shape classes, unit and leg order, bases; the same whatever the order of rows."""

from dataclasses import replace

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


def built(snapshot: Snapshot) -> list[Batch]:
    return batches(snapshot, TERMS, AXIS)


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


@pytest.mark.parametrize("seed", range(4))
def test_order_of_rows_does_not_matter(seed: int):
    snapshot = random_books.snapshot(BOOKS)
    rng = np.random.default_rng(seed)
    legs, cash = (rng.permutation(len(x)) for x in (snapshot.leg_account, snapshot.cash_account))
    moved = replace(
        snapshot,
        **{n: getattr(snapshot, n)[legs] for n in snapshot.__dict__ if n.startswith("leg_")},
        **{n: getattr(snapshot, n)[cash] for n in ("cash_account", "cash_currency", "cash")},
        spot_limit=snapshot.spot_limit[cash],
    )
    for one, other in zip(built(snapshot), built(moved), strict=True):
        assert one.shape == other.shape
        for name, values in one.book.__dict__.items():
            np.testing.assert_array_equal(getattr(other.book, name), values, err_msg=name)


def test_an_account_alone_is_as_among_others():
    """The book of an account depends on no other account."""
    found = built(random_books.snapshot(BOOKS))
    for k in range(0, 60, 7):
        (alone,) = built(random_books.snapshot([BOOKS[k]]))
        batch, at = of_account(found, k)
        assert alone.shape == batch.shape
        for name, values in alone.book.__dict__.items():
            np.testing.assert_array_equal(getattr(batch.book, name)[..., at], values[..., 0])


def test_books_hold_every_leg_once_sorted_by_bucket():
    found = built(random_books.snapshot(BOOKS))
    for k, account in enumerate(BOOKS):
        batch, at = of_account(found, k)
        held: dict[int, float] = {}
        book = batch.book
        for side in ("leg", "option"):
            instrument = np.asarray(getattr(book, f"{side}_instrument"))[..., at]
            contracts = np.asarray(getattr(book, f"{side}_contracts"))[..., at]
            closes = np.asarray(getattr(book, f"{side}_closes_bucket"))[..., at]
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
            options = (TERMS.kind[np.asarray(batch.book.option_instrument)] == OPTION).any(axis=1)
            # Where the second unit has options the first has, and units without hold no wide leg.
            assert (np.diff(options.astype(int), axis=0) <= 0).all()
            wide = (np.asarray(batch.book.option_instrument) > 0).any(axis=1)
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
    costs = [s.units * s.legs + s.option_units * s.option_legs * 28 for s in SHAPES]
    assert costs == sorted(costs)


def test_widened_books_keep_their_content():
    for batch in built(random_books.snapshot(BOOKS)):
        some = np.asarray([0, len(batch.accounts) - 1])
        wide = widened(batch, some)
        for name, target in wide.__dict__.items():
            source = np.asarray(getattr(batch.book, name))[..., some]
            inside = tuple(slice(0, n) for n in source.shape)
            np.testing.assert_array_equal(np.asarray(target)[inside], source, err_msg=name)
            outside = np.asarray(target).astype(float).copy()
            outside[inside] = np.nan
            spare = outside[~np.isnan(outside)]
            padding = {"unit_coin": NULL_CURRENCY, "spot_limit_coin": np.inf}.get(name, 0.0)
            assert (spare == padding).all(), name
