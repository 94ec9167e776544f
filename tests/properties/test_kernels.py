"""Laws of single kernels, with inputs drawn by Hypothesis."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings, strategies as st

from kernels import black76, breakeven
from kernels.models import okx
from kernels.tiers import marginal_charge, step_rates
from tests.unit.kernels.kernel_cases import params


PARAMS = params()
ROWS = PARAMS.account.collateral.floor.shape[0]
prices = st.floats(1e-2, 1e6)
widths = st.one_of(st.just(0.0), st.floats(1e-6, 5.0))
amounts = st.one_of(st.just(0.0), st.floats(1e-6, 1e10))
sizes = st.floats(-1e9, 1e9)
rows = st.integers(0, ROWS - 1)

price = jax.jit(black76.price_coin)
delta = jax.jit(black76.delta)
marginal = jax.jit(marginal_charge)
steps = jax.jit(step_rates)
mr9 = jax.jit(okx.mr9)
rates = jax.jit(okx.depeg_rates)
root = jax.jit(breakeven.last_roots)


def number(value: float) -> jax.Array:
    return jnp.asarray(value, jnp.float64)


def index(row: int) -> jax.Array:
    return jnp.asarray(row, jnp.int32)


@given(prices, prices, widths)
def test_put_call_parity_and_bounds(forward: float, strike: float, width: float):
    terms = number(forward), number(strike), number(width)
    call, put = (float(price(*terms, number(s))) for s in (1.0, -1.0))
    ratio = strike / forward
    assert abs(call - put - (1 - ratio)) <= 1e-12 * (1 + ratio)
    assert max(0.0, 1 - ratio) - 1e-12 <= call <= 1 + 1e-12
    assert max(0.0, ratio - 1) - 1e-12 * (1 + ratio) <= put <= ratio * (1 + 1e-12)
    deltas = [float(delta(*terms, number(s))) for s in (1.0, -1.0)]
    assert abs(deltas[0] - deltas[1] - 1) <= 1e-12


@given(prices, prices, widths, widths)
def test_an_option_is_worth_more_with_more_volatility(
    forward: float, strike: float, one: float, other: float
):
    low, high = sorted((one, other))
    for sign in (1.0, -1.0):
        values = [
            float(price(number(forward), number(strike), number(w), number(sign)))
            for w in (low, high)
        ]
        assert values[0] <= values[1] + 1e-12 * (1 + strike / forward)


@given(amounts, amounts, rows)
def test_collateral_grows_with_the_amount_and_never_above_it(one: float, other: float, row: int):
    low, high = sorted((one, other))
    values = [
        float(marginal(number(x), PARAMS.account.collateral, index(row))) for x in (low, high)
    ]
    assert values[0] <= values[1] * (1 + 1e-12)
    assert 0.0 <= values[1] <= high * (1 + 1e-12)


@given(amounts, amounts, rows)
def test_the_minimum_charge_of_a_sum_is_at_least_the_sum(one: float, other: float, row: int):
    both, first, second = (
        float(marginal(number(x), PARAMS.fee_tiers, index(row))) for x in (one + other, one, other)
    )
    assert both >= (first + second) * (1 - 1e-12)


@given(amounts, amounts, rows)
def test_borrowing_rates_never_fall_with_the_debt(one: float, other: float, row: int):
    low, high = sorted((one, other))
    of_low, of_high = (steps(number(x), PARAMS.account.borrowing, index(row)) for x in (low, high))
    assert all(float(a) <= float(b) for a, b in zip(of_low, of_high, strict=True))


@given(st.floats(0.3, 1.5), st.floats(0.3, 1.5), sizes, sizes, sizes)
def test_depeg_charge(usdt: float, usdc: float, a: float, b: float, c: float):
    usd = jnp.asarray([usdt, usdc, 1.0, *([1.0] * (ROWS - 3))])
    table = rates(usd, PARAMS)
    charge = float(mr9((number(a), number(b), number(c)), table, PARAMS))
    mirrored = float(mr9((number(-a), number(-b), number(-c)), table, PARAMS))
    long, short = (sum(max(s * x, 0.0) for x in (a, b, c)) for s in (1, -1))
    assert charge == mirrored
    assert 0.0 <= charge <= 0.40 * min(long, short) * (1 + 1e-12) + 1e-9
    if min(long, short) == 0.0:
        assert charge == 0.0


pieces = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(1e-3, 1e4)), st.floats(0.0, 1e3), st.floats(0.0, 1e3)
    ),
    min_size=4,
    max_size=4,
)


@given(pieces, st.floats(0.0, 1e5))
@settings(max_examples=300)
def test_the_break_even_multiplier_is_the_last_one_that_fits(
    units: list[tuple[float, float, float]], budget: float
):
    slope, intercept, floor = (np.asarray(x)[:, None] for x in zip(*units, strict=True))
    arrays = jnp.asarray(slope), jnp.asarray(intercept), jnp.asarray(floor)
    charge = breakeven.Pieces(*arrays, jnp.full(1, budget))
    theta = float(root({"mr1": charge}, {"mr1": jnp.full(1, jnp.inf)})["mr1"][0])

    def need(at: float) -> float:
        return float(np.maximum(intercept + slope * at, floor).sum())

    room = 1e-9 * (1 + budget)
    if need(0.0) > budget + room:
        assert theta == 0.0
    elif np.isinf(theta):
        assert slope.sum() == 0.0
    elif need(0.0) < budget - room:
        assert need(theta * (1 - 1e-9)) <= budget + room
        assert need(theta * (1 + 1e-6) + 1e-6) > budget - room
