from typing import Any

import jax
import numpy as np
import pytest

from backtest.scores import LEAST_ROWS, Scores, of_host
from kernels.records import AccountMargin


TIMES, TILE, ACCOUNTS = 3, 4, 10
NAMES = (
    *("derivatives_mmr", "total_mmr", "total_imr", "borrow_imr", "borrow_fee", "order_cost"),
    *("equity_usd", "adjusted_equity", "margin_level", "gross_notional_usd"),
)


def margins(accounts: int, offset: float = 0.0) -> AccountMargin:
    """Every number tells its field, time and account."""
    base = offset + 100.0 * np.arange(TIMES)[:, None] + np.arange(accounts)
    fields: dict[str, Any] = {name: 10_000.0 * k + base for k, name in enumerate(NAMES)}
    charges = {"mr1": base + 0.25, "mr2": base + 0.5}
    return AccountMargin(charges=charges, status=base.astype(np.int32) % 7, **fields)


def cut(values: AccountMargin, part: slice) -> AccountMargin:
    return jax.tree.map(lambda x: jax.numpy.asarray(x[:, part]), values)


@pytest.fixture
def scores() -> Scores:
    """Ten accounts in three tiles of four, the last one padded."""
    every = margins(12)
    return Scores([cut(every, slice(k, k + TILE)) for k in (0, 4, 8)], ACCOUNTS)


def same(one: AccountMargin, other: AccountMargin) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_all_of_them(scores: Scores):
    same(scores.all, margins(ACCOUNTS))
    np.testing.assert_array_equal(scores.field("total_mmr"), margins(ACCOUNTS).total_mmr)


@pytest.mark.parametrize("rows", [0, 1, LEAST_ROWS, LEAST_ROWS + 1, 300])
def test_some_rows_in_their_order(rows: int, scores: Scores):
    rng = np.random.default_rng(rows)
    when, who = rng.integers(0, TIMES, rows), rng.integers(0, ACCOUNTS, rows)
    expected = jax.tree.map(lambda x: x[when, who], margins(ACCOUNTS))
    same(scores.at(when, who), expected)


def test_some_accounts(scores: Scores):
    who = np.asarray([9, 0, 5])
    same(scores.of(who), jax.tree.map(lambda x: x[:, who], margins(ACCOUNTS)))


def test_numbers_from_elsewhere(scores: Scores):
    who = np.asarray([2, 4, 9])
    mixed = scores.replaced(who, of_host(margins(len(who), offset=0.125)))
    expected = jax.tree.map(np.array, margins(ACCOUNTS))
    others = margins(len(who), offset=0.125)
    for mine, new in zip(jax.tree.leaves(expected), jax.tree.leaves(others), strict=True):
        mine[:, who] = new
    same(mixed.all, expected)
    np.testing.assert_array_equal(mixed.field("equity_usd"), expected.equity_usd)
    when, some = np.asarray([2, 0, 1, 1]), np.asarray([9, 3, 2, 0])
    same(mixed.at(when, some), jax.tree.map(lambda x: x[when, some], expected))
