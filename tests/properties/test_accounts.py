"""Laws that hold for whole accounts, on random portfolios in random markets, through the engine."""

from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np
import pytest

from backtest.batching import batches
from backtest.engine import Engine, initial_state, over_times
from backtest.model_records import contract_records
from backtest.okx_records import okx_parameters
from backtest.what_if import terms_of
from kernels.models.okx import CHARGES, MODEL
from kernels.status import STATUS_NAMES
from tests.okx_books import merged_numbers
from tests.unit.kernels import random_books
from tests.unit.kernels.random_books import COINS, RandomAccount, gross_usd


pytestmark = pytest.mark.slow
NUMBERS = ("equity_usd", "adjusted_equity", "derivatives_mmr", "total_mmr", "total_imr")
Scores = dict[str, np.ndarray]
Score = Callable[[list[RandomAccount]], Scores]


@pytest.fixture(scope="module")
def score() -> Score:
    """Numbers of accounts at every time, [time, account]; unpriced ones are NaN."""
    random_books.use_cache()
    axis = random_books.currencies()
    contracts = contract_records(random_books.instruments(), axis)
    terms = terms_of(contracts)
    engine = Engine(devices=[jax.local_devices()[0]])
    params = over_times(okx_parameters(merged_numbers(), axis), random_books.NUM_TIMES)
    (priced,) = engine.price(random_books.markets(), contracts, [params])
    times = np.arange(random_books.NUM_TIMES)

    def scores(books: list[RandomAccount]) -> Scores:
        shape = random_books.NUM_TIMES, len(books)
        out = {n: np.full(shape, np.nan) for n in (*NUMBERS, *CHARGES, "margin_level")}
        out["status"] = np.zeros(shape, int)
        held = random_books.snapshot(books)
        for batch in batches(held, terms, axis, shapes=random_books.FEW_SHAPES):
            size = len(batch.accounts)
            state, segment = initial_state(size, MODEL), np.zeros(size, int)
            margin = engine.replay(batch, state, priced, segment, times).margin
            for name in (*NUMBERS, "margin_level", "status"):
                out[name][:, batch.accounts] = getattr(margin, name)
            for name in CHARGES:
                out[name][:, batch.accounts] = margin.charges[name]
        unpriced = out["status"] == STATUS_NAMES.index("unpriced")
        assert unpriced.mean() < 0.3
        for name in (*NUMBERS, *CHARGES, "margin_level"):
            out[name][unpriced] = np.nan
        return out

    return scores


def scaled(book: RandomAccount, factor: float) -> RandomAccount:
    return RandomAccount(
        [(k, n * factor, entry) for k, n, entry in book.legs],
        {c: x * factor for c, x in book.balances.items()},
        {c: x * factor for c, x in book.limits.items()},
    )


def no_spot(book: RandomAccount) -> RandomAccount:
    """Without coins, and none of the value of options may be put in use."""
    cash = {c: x for c, x in book.balances.items() if c not in COINS}
    return RandomAccount(book.legs, cash | dict.fromkeys(COINS, 0.0), dict.fromkeys(COINS, 0.0))


def close(one: np.ndarray, other: np.ndarray, scale: np.ndarray):
    both = np.isfinite(one) & np.isfinite(other)
    assert (both | (np.isnan(one) & np.isnan(other)) | (one == other)).all()
    error = np.abs(one - other)[both]
    room = (1e-9 * np.abs(other) + 1e-12 * scale)[both]
    assert (error <= room).all(), float((error / room).max())


@pytest.fixture(scope="module")
def books() -> list[RandomAccount]:
    return random_books.accounts(60, seed=51)


@pytest.fixture(scope="module")
def base(score: Score, books: list[RandomAccount]) -> Scores:
    return score(books)


@pytest.fixture(scope="module")
def size(books: list[RandomAccount]) -> np.ndarray:
    return np.asarray([gross_usd(b) for b in books])[None, :]


def test_a_flat_account_has_no_requirement(score: Score, books: list[RandomAccount]):
    flat = [RandomAccount([], {c: abs(x) for c, x in b.balances.items()}, {}) for b in books]
    found = score([b if b.balances else replace(b, balances={"USDT": 1.0}) for b in flat])
    for name in (*CHARGES, "total_mmr", "total_imr"):
        assert (found[name] == 0.0).all(), name
    assert np.isposinf(found["margin_level"]).all()
    assert (found["status"] == STATUS_NAMES.index("no_requirement")).all()


def test_small_accounts_scale_where_no_tier_binds(score: Score, books: list[RandomAccount]):
    """Holds below the first bound of every table: ``margin(c book) = c margin(book)``."""
    small = [scaled(b, 1e4 / gross_usd(b)) for b in books]
    one, two = score(small), score([scaled(b, 2.0) for b in small])
    for name in (*NUMBERS, *CHARGES):
        close(2 * one[name], two[name], np.full_like(one[name], 2e4))
    required = one["total_mmr"] > 1.0
    np.testing.assert_allclose(one["margin_level"][required], two["margin_level"][required], 1e-9)


def test_splitting_a_position_in_two_rows_changes_nothing(
    score: Score, books: list[RandomAccount], base: Scores, size: np.ndarray
):
    parts = [[(k, share * n, e) for k, n, e in b.legs for share in (0.75, 0.25)] for b in books]
    found = score([replace(b, legs=legs) for b, legs in zip(books, parts, strict=True)])
    for name in (*NUMBERS, *CHARGES):
        close(found[name], base[name], size)


def test_two_lots_count_as_one_position_at_the_average_entry(
    score: Score, books: list[RandomAccount], base: Scores, size: np.ndarray
):
    """Equity keeps each lot's profit; every charge sees the net position only."""
    lots = [[*b.legs, *((k, 5 * n, e) for k, n, e in b.legs)] for b in books]
    closed = [
        [*more, *((k, -5 * n, e) for k, n, e in b.legs)]
        for b, more in zip(books, lots, strict=True)
    ]
    found = score([replace(b, legs=legs) for b, legs in zip(books, closed, strict=True)])
    for name in (*NUMBERS, *CHARGES):
        close(found[name], base[name], 20 * size)


def test_more_equity_never_lowers_the_level(
    score: Score, books: list[RandomAccount], base: Scores, size: np.ndarray
):
    """Holds where adjusted equity is not negative (a debt repaid shrinks the requirement too)."""
    richer = [
        replace(b, balances=b.balances | {"USDT": b.balances.get("USDT", 0.0) + gross_usd(b) / 50})
        for b in books
    ]
    found = score(richer)
    held = base["adjusted_equity"] >= 0
    assert held.sum() > 200
    assert (found["margin_level"][held] >= base["margin_level"][held] * (1 - 1e-12)).all()
    priced = np.isfinite(base["adjusted_equity"])
    assert (found["adjusted_equity"] > base["adjusted_equity"])[priced].all()
    assert (found["total_mmr"] <= base["total_mmr"] + 1e-12 * size)[priced].all()
    for name in CHARGES:
        if name != "mr8":
            close(found[name], base[name], size)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_an_offsetting_hedge_in_one_instrument_never_raises_mr1(
    share: float, score: Score, books: list[RandomAccount], base: Scores
):
    alone = [no_spot(replace(b, legs=b.legs[:1])) for b in books if b.legs]
    hedged = [
        replace(b, legs=[*b.legs, *((k, -share * n, e) for k, n, e in b.legs)]) for b in alone
    ]
    before, after = score(alone), score(hedged)
    sizes = np.asarray([gross_usd(b) for b in alone])[None, :]
    for name in ("mr1", "mr2", "mr4", "mr5", "mr6", "mr7"):
        # A position closed in full needs no price any more.
        priced = np.isfinite(before[name])
        assert (after[name] <= before[name] + 1e-12 * sizes)[priced].all(), name
        if name != "mr7":  # tiers; all others of one instrument are linear in the position
            expected = np.where(priced, (1 - share) * before[name], after[name])
            close(after[name], expected, sizes)


def test_worst_losses_of_two_books_add_up_at_most(score: Score, books: list[RandomAccount]):
    """Holds for the worst-loss charges MR1, MR2, MR5, MR6 and for MR4, without spot in use.

    Not for MR7 and MR9, whose rates grow with size.
    """
    count = len(books) // 2
    first, second = ([no_spot(b) for b in part] for part in (books[:count], books[count:]))
    both = [replace(a, legs=[*a.legs, *b.legs]) for a, b in zip(first, second, strict=True)]
    one, other, together = score(first), score(second), score(both)
    sizes = np.asarray([gross_usd(b) for b in both])[None, :]
    for name in ("mr1", "mr2", "mr4", "mr5", "mr6"):
        priced = np.isfinite(together[name])
        room = one[name] + other[name] + 1e-12 * sizes - together[name]
        assert (room[priced] >= 0).all(), name


def test_charges_are_never_negative(base: Scores):
    for name in CHARGES:
        priced = np.isfinite(base[name])
        assert (base[name][priced] >= 0).all(), name
    priced = np.isfinite(base["total_mmr"])
    assert (base["total_imr"] >= base["total_mmr"] * (1 - 1e-12))[priced].all()


def test_orders_never_lower_the_requirement_and_leave_equity_alone(
    score: Score, books: list[RandomAccount]
):
    """Each unit is charged for the worst of its portfolios, the positions being one of them."""
    ordering = random_books.with_orders(random_books.with_choices(books, seed=52), seed=53)
    bare, found = score([replace(b, orders=[]) for b in ordering]), score(ordering)
    sizes = np.asarray([gross_usd(b) for b in ordering])[None, :]
    # A contract that is ordered but not held has to be priced as well.
    priced = np.isfinite(found["adjusted_equity"])
    assert priced.mean() > 0.8
    error = np.abs(found["equity_usd"] - bare["equity_usd"])
    assert (error <= 1e-12 * sizes)[priced].all()
    for name in ("derivatives_mmr", "mr8", "total_mmr"):
        assert (found[name] >= bare[name] - 1e-9 * sizes)[priced].all(), name
    assert (found["adjusted_equity"] <= bare["adjusted_equity"] + 1e-12 * sizes)[priced].all()
    assert (found["derivatives_mmr"] > bare["derivatives_mmr"])[priced].mean() > 0.5


def test_an_order_that_nothing_comes_of_changes_nothing(
    score: Score, books: list[RandomAccount], base: Scores, size: np.ndarray
):
    """Selling next to nothing at any price above the mark."""
    swap = int(np.flatnonzero(random_books.instruments()["instrument_id"] == "BTC-USDT-SWAP")[0])
    found = score([replace(b, orders=[(swap, -1e-9, 1e7)]) for b in books])
    for name in ("equity_usd", "adjusted_equity", "derivatives_mmr", "mr8", "total_mmr"):
        priced = np.isfinite(found[name])
        assert (np.abs(found[name] - base[name]) <= 1e-6 + 1e-10 * size)[priced].all(), name
