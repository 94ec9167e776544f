"""Interest and conversion of the kernels against the readable reference, holding by holding."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from backtest.model_records import Currencies
from backtest.parameter_records import parameter_record
from backtest.reference.okx_borrowing import convert, hourly_interest
from kernels import debts
from tests.okx_books import merged_numbers


AXIS = Currencies(["BTC", "ETH", "SOL", "XYZ"])
NAMES = ["BTC", "ETH", "SOL", "XYZ", "USDT", "USDC", "USD"]
CURRENCY = np.asarray([AXIS.position[name] for name in NAMES], np.int32)
INDEX = dict(zip(NAMES, [60_000.0, 3_000.0, 150.0, 2.0, 1.001, 0.985, 1.0], strict=True))
USD = np.asarray(list(INDEX.values()))
DRAWN, ROWS = 2_000, 40_000
CHOICES: list[dict[str, Any]] = [
    {},
    {"conversion_order": "highest_discount_first", "conversion_cost": 0.003},
    {"conversion_through": "USDC", "conversion_cost": 0.01},
]


def numbers(**borrowing: Any) -> dict[str, Any]:
    found = merged_numbers()
    found["borrowing"] |= borrowing
    return found


def holdings(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Equity and cash in units: debts and assets of all sizes, some holdings empty."""
    rng = np.random.default_rng(3)
    shape = (len(NAMES), count)
    size_usd = 10 ** rng.uniform(1, 6.5, shape)
    sign = rng.choice([-1.0, 0.0, 1.0], shape, p=[0.3, 0.3, 0.4])
    equity = sign * size_usd / USD[:, None]
    return equity, equity * rng.choice([1.0, 0.5, -1.0, 2.0], shape)


def by_name(values: np.ndarray) -> dict[str, float]:
    return {name: float(x) for name, x in zip(NAMES, values, strict=True) if x != 0}


@partial(jax.jit, static_argnames="count")
def converted(equity: Any, cash: Any, rules: Any, count: int) -> Any:
    each = jax.vmap(debts.converted, in_axes=(-1, -1, None, None, None), out_axes=-1)
    return each(equity[:, :count], cash[:, :count], jnp.asarray(CURRENCY), jnp.asarray(USD), rules)


@pytest.mark.parametrize("choice", CHOICES)
def test_conversion_is_the_references(choice: dict[str, Any]):
    """At sizes where a program that compiled wrong would show: the accounts drawn, repeated."""
    chosen = numbers(**choice)
    rules = parameter_record(chosen, AXIS).account
    equity, cash = holdings(DRAWN)
    expected = np.zeros_like(equity)
    expected_usd = np.zeros(DRAWN)
    for k in range(DRAWN):
        sellable = dict(zip(NAMES, cash[:, k].tolist(), strict=True))
        found = convert(by_name(equity[:, k]), INDEX, chosen, sellable=sellable)
        for name, change in found.changes.items():
            expected[NAMES.index(name), k] = change
        own = [s for s in found.sales if s["sold"] in found.changes and s["amount"] > 0]
        assets = [name for name, change in found.changes.items() if change < 0]
        expected_usd[k] = -sum(found.changes[name] * INDEX[name] for name in assets)
        assert bool(own) == bool(assets)
    assert (np.abs(expected).sum(axis=0) > 0).mean() > 0.3
    equity, cash, expected = (np.tile(x, ROWS // DRAWN) for x in (equity, cash, expected))
    expected_usd = np.tile(expected_usd, ROWS // DRAWN)
    scale = np.maximum(np.abs(equity), 1.0)
    for count in (16_385, 32_769, ROWS):
        change, sold_usd = converted(equity, cash, rules, count)
        assert (np.abs(change - expected[:, :count]) <= 1e-9 * scale[:, :count]).all()
        np.testing.assert_allclose(sold_usd, expected_usd[:count], rtol=1e-9, atol=1e-6)


def test_interest_is_the_references():
    rules = parameter_record(numbers(), AXIS).account
    rule = numbers()["borrowing"]
    equity, _ = holdings(2_000)
    each = jax.vmap(debts.hourly_interest, in_axes=(-1, None, None, None), out_axes=-1)
    found = np.asarray(jax.jit(each)(equity, jnp.asarray(CURRENCY), 3.0, rules))
    for k in range(equity.shape[1]):
        owed = {name: -x for name, x in by_name(equity[:, k]).items() if x < 0}
        paid = hourly_interest(owed, rule["quotas"], rule["daily_rates"], 3.0)
        np.testing.assert_allclose(found[:, k], [paid.get(n, 0.0) for n in NAMES], rtol=1e-14)
    assert (found > 0).any(axis=1).sum() == 4


amounts = st.floats(-1e7, 1e7).map(lambda x: round(x, 6))


@given(st.lists(amounts, min_size=7, max_size=7), st.sampled_from([0.0, 0.004]))
def test_conversion_makes_no_money(usd: list[float], cost: float):
    """Worth is kept but for the costs; no asset becomes a debt, no debt an asset."""
    rules = parameter_record(numbers(conversion_cost=cost), AXIS).account
    equity = np.asarray(usd) / USD
    change, sold_usd = converted(equity[:, None], equity[:, None], rules, 1)
    change, sold = np.asarray(change)[:, 0], float(sold_usd[0])
    lost = -(change * USD).sum()
    assert -1e-6 <= lost <= (1 - (1 - cost) ** 2) * sold + 1e-6
    assert sold <= USD @ np.maximum(equity, 0.0) + 1e-6
    after, slack = equity + change, 1e-9 * np.maximum(np.abs(equity), 1.0)
    assert (after[equity > 0] >= -slack[equity > 0]).all()
    assert (after[equity < 0] <= slack[equity < 0]).all()
