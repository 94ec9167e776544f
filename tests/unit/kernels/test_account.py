"""Accounts in large batches, collateral and borrowing against published and hand-made numbers."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from backtest.batching import Batch, batches
from backtest.engine import Engine, over_times
from backtest.model_records import contract_records
from backtest.okx_records import okx_parameters
from backtest.reference.okx_fees import discounted as reference_discounted, mr8 as reference_mr8
from backtest.what_if import terms_of
from kernels import account
from kernels.models.okx import CHARGES, OkxParameters, spot_in_use
from kernels.records import Book, Table
from kernels.stages import together
from tests.okx_books import merged_numbers
from tests.unit.kernels import random_books
from tests.unit.kernels.random_books import RandomAccount


VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "golden" / "okx_pm.json").read_text()
)
AXIS = random_books.currencies()


@pytest.fixture(scope="module")
def params() -> OkxParameters:
    random_books.use_cache()
    return okx_parameters(merged_numbers(), AXIS)


@pytest.fixture(scope="module")
def table(params: OkxParameters) -> Table:
    contracts = contract_records(random_books.instruments(), AXIS)
    engine = Engine(devices=[jax.local_devices()[0]])
    (priced,) = engine.price(
        random_books.markets(), contracts, [over_times(params, random_books.NUM_TIMES)]
    )
    return jax.tree.map(lambda x: x[..., 0], priced.tables)


def small(book: RandomAccount) -> RandomAccount:
    """Two coins and two legs a coin, so that all fall into one class with and one without."""
    rows = random_books.instruments()
    seen: dict[str, int] = {}
    legs = []
    for leg in book.legs:
        coin = rows.loc[leg[0], "coin"]
        if coin in ("BTC", "SOL") and seen.get(coin, 0) < 2:
            seen[coin] = seen.get(coin, 0) + 1
            legs.append(leg)
    keep = {c: x for c, x in book.balances.items() if c not in ("ETH", "FOO")}
    return RandomAccount(legs, keep, {c: x for c, x in book.limits.items() if c in keep})


def batch_of(kind: str) -> Batch:
    """The most frequent class of small accounts without options, with options, or with orders."""
    books = random_books.accounts(90, seed=21)
    if kind == "orders":
        books = random_books.with_orders(random_books.with_choices(books, seed=22), seed=23)
    else:
        books = [small(b) for b in books]
    terms = terms_of(contract_records(random_books.instruments(), AXIS))
    built = batches(random_books.snapshot(books), terms, AXIS, split=kind == "orders")
    mine = [
        b for b in built if kind == "orders" or (b.shape.option_units > 0) == (kind != "linear")
    ]
    return max(mine, key=lambda b: len(b.accounts))


def batch_margin(book: Book, table: Table, params: OkxParameters) -> Any:
    """All stages in one program: totals of every account, and their multipliers."""
    exposures = account.batch_exposures(book, table, params)
    units = account.batch_units(exposures, book, table, params)
    balances = account.batch_balances(exposures, book, table, params)
    margin = account.batch_totals(units, balances, book, table, params)
    free = jnp.full_like(margin.margin_level, jnp.inf)
    return margin, account.batch_theta(
        together, units, margin, params, dict.fromkeys(CHARGES, free)
    )


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("linear", 16_385),
        ("linear", 32_769),
        ("linear", 40_000),
        ("options", 40_000),
        ("orders", 40_000),
    ],
)
@pytest.mark.slow
def test_an_account_is_the_same_in_a_batch_of_any_size(
    kind: str, size: int, table: Table, params: OkxParameters
):
    batch = batch_of(kind)
    count = len(batch.accounts)
    assert count >= 10
    repeat = np.arange(size) % count
    run = jax.jit(batch_margin)
    few = run(jax.tree.map(jnp.asarray, batch.book), table, params)
    many = run(jax.tree.map(lambda x: jnp.asarray(x[..., repeat]), batch.book), table, params)
    for one, all_of_them in zip(jax.tree.leaves(few), jax.tree.leaves(many), strict=True):
        assert one.dtype == all_of_them.dtype
        expected, found = np.asarray(one)[..., repeat], np.asarray(all_of_them)
        scale = np.nanmax(np.where(np.isfinite(one), np.abs(one), 0.0))
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-15 * scale)


def one_currency(name: str) -> jax.Array:
    return jnp.asarray(AXIS.position[name], jnp.int32)


@pytest.mark.parametrize("coins", VECTORS["V8"]["discounted"])
def test_v8_discounted_coins(coins: str, params: OkxParameters):
    value = account.discounted_usd(
        jnp.asarray(float(coins)), jnp.asarray(1.0), one_currency("BTC"), params.account
    )
    assert float(value) == pytest.approx(VECTORS["V8"]["discounted"][coins], rel=1e-12)


@pytest.mark.parametrize("name", ["USDT", "USD", "BTC", "ETH", "SOL", "FOO"])
def test_collateral_and_borrowing_of_every_currency_are_the_reference(
    name: str, params: OkxParameters
):
    """Debts of balances, and those that open orders would make of them."""
    rng = np.random.default_rng(8)
    price = 1.0 if name in random_books.QUOTES else random_books.COINS[name] * 1.1
    amounts = rng.choice([-1.0, 1.0], 300) * 10.0 ** rng.uniform(1.0, 9.5, 300) / price
    amounts = np.concatenate([amounts, [0.0], -np.asarray([35.0, 70.0, 105.0, 140.0])])
    outflows = np.where(rng.random(len(amounts)) < 0.5, 0.0, rng.permutation(np.abs(amounts)))
    each = jax.jit(jax.vmap(account.discounted_usd, in_axes=(0, None, None, None)))
    values = each(jnp.asarray(amounts), jnp.asarray(price), one_currency(name), params.account)
    debts = jax.jit(jax.vmap(account.borrowing, in_axes=(0, None, None, 0, None)))(
        jnp.asarray(amounts),
        jnp.asarray(price),
        one_currency(name),
        jnp.asarray(outflows),
        params.account,
    )
    numbers = merged_numbers()
    for k, (amount, out) in enumerate(zip(amounts.tolist(), outflows.tolist(), strict=True)):
        expected = reference_discounted(amount, price, name, numbers)["value"]
        assert float(values[k]) == pytest.approx(expected, rel=1e-12)
        charge = reference_mr8({name: amount}, {name: price}, numbers, {name: out})
        found = [float(x[k]) for x in debts]
        wanted = [charge.value, charge.detail["imr"], charge.detail["fee"]]
        assert found == pytest.approx(wanted, rel=1e-12), (amount, out)


def test_what_orders_would_borrow_counts_only_where_the_rules_say(params: OkxParameters):
    rules = eqx.tree_at(lambda r: r.potential_borrowing, params.account, jnp.asarray(False))
    held, price, out = (jnp.asarray(x, jnp.float64) for x in (10.0, 1.0, 500.0))
    charged = account.borrowing(held, price, one_currency("USDT"), out, params.account)
    assert all(float(x) > 0.0 for x in charged)
    assert all(
        float(x) == 0.0 for x in account.borrowing(held, price, one_currency("USDT"), out, rules)
    )


@pytest.mark.parametrize(
    ("equity", "delta", "limit", "expected"),
    [
        (10.0, -4.0, np.inf, 4.0),
        (10.0, -40.0, np.inf, 10.0),
        (10.0, -4.0, 1.0, 1.0),
        (10.0, -4.0, 0.0, 0.0),
        (-3.0, 4.0, np.inf, -3.0),
        (-3.0, -4.0, np.inf, 0.0),
        (3.0, 4.0, np.inf, 0.0),
        (0.0, 4.0, np.inf, 0.0),
    ],
)
def test_spot_in_use(equity: float, delta: float, limit: float, expected: float):
    arrays = [jnp.asarray(x, jnp.float64) for x in (equity, delta, limit)]
    assert float(partial(spot_in_use, *arrays)()) == expected
