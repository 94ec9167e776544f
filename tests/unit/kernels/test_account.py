"""Accounts in large batches, collateral and borrowing against published and hand-made numbers."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from backtest.batching import Batch, batches
from backtest.engine import Engine
from backtest.model_records import contract_records, okx_parameters
from backtest.reference.okx_fees import discounted as reference_discounted, mr8 as reference_mr8
from backtest.what_if import terms_of
from kernels import account
from kernels.models.okx import OkxParameters
from kernels.records import Table
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
    (priced,) = engine.price(random_books.markets(), contracts, [params])
    return jax.tree.map(lambda x: x[0], priced.tables)


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


def batch_of(with_options: bool) -> Batch:
    """The most frequent class of small accounts with or without options."""
    books = [small(b) for b in random_books.accounts(90, seed=21)]
    terms = terms_of(contract_records(random_books.instruments(), AXIS))
    built = batches(random_books.snapshot(books), terms, AXIS)
    mine = [b for b in built if (b.shape.option_units > 0) == with_options]
    return max(mine, key=lambda b: len(b.accounts))


@pytest.mark.parametrize(
    ("with_options", "size"), [(False, 16_385), (False, 32_769), (False, 40_000), (True, 40_000)]
)
@pytest.mark.slow
def test_an_account_is_the_same_in_a_batch_of_any_size(
    with_options: bool, size: int, table: Table, params: OkxParameters
):
    batch = batch_of(with_options)
    count = len(batch.accounts)
    assert count >= 10
    repeat = np.arange(size) % count
    run = jax.jit(account.batch_margin)
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
        jnp.asarray(float(coins)), jnp.asarray(1.0), one_currency("BTC"), params
    )
    assert float(value) == pytest.approx(VECTORS["V8"]["discounted"][coins], rel=1e-12)


@pytest.mark.parametrize("name", ["USDT", "USD", "BTC", "ETH", "SOL", "FOO"])
def test_collateral_and_borrowing_of_every_currency_are_the_reference(
    name: str, params: OkxParameters
):
    rng = np.random.default_rng(8)
    price = 1.0 if name in random_books.QUOTES else random_books.COINS[name] * 1.1
    amounts = rng.choice([-1.0, 1.0], 300) * 10.0 ** rng.uniform(1.0, 9.5, 300) / price
    amounts = np.concatenate([amounts, [0.0], -np.asarray([35.0, 70.0, 105.0, 140.0])])
    each = jax.jit(jax.vmap(account.discounted_usd, in_axes=(0, None, None, None)))
    values = each(jnp.asarray(amounts), jnp.asarray(price), one_currency(name), params)
    debts = jax.jit(jax.vmap(account.borrowing, in_axes=(0, None, None, None)))(
        jnp.asarray(amounts), jnp.asarray(price), one_currency(name), params
    )
    numbers = merged_numbers()
    for k, amount in enumerate(amounts.tolist()):
        expected = reference_discounted(amount, price, name, numbers)["value"]
        assert float(values[k]) == pytest.approx(expected, rel=1e-12)
        charge = reference_mr8({name: amount}, {name: price}, numbers)
        found = [float(x[k]) for x in debts]
        wanted = [charge.value, charge.detail["imr"], charge.detail["fee"]]
        assert found == pytest.approx(wanted, rel=1e-12), amount


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
    assert float(partial(account.spot_in_use, *arrays)()) == expected
