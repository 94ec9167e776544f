"""Every public kernel with random inputs and its answer in vectorised NumPy, for any size."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr

from backtest.model_records import Currencies
from backtest.okx_records import okx_parameters
from kernels import black76, breakeven, exposure
from kernels.features import CASH, COIN_VALUE, DELTA, GROSS, NUM_FEATURES, VALUE
from kernels.models import okx, okx_contracts
from kernels.records import Table
from kernels.tiers import MarginalTiers, StepTiers, marginal_charge, step_rates
from tests.okx_books import merged_numbers


NUM_INSTRUMENTS, NUM_LEGS, NUM_COLUMNS = 700, 8, 32
COINS = ["BTC", "ETH", "SOL", "FOO"]


@dataclass(frozen=True)
class Case:
    """A kernel of one element, which arguments are batched, inputs and expected answers.

    ``inputs(rng, size)`` gives float64 arrays, element axis first where batched;
    ``room(expected, args)`` is the absolute error allowed in float64, where not 1e-12 relative.
    """

    kernel: Callable[..., Any]
    batched: tuple[bool, ...]
    inputs: Callable[[np.random.Generator, int], tuple[Any, ...]]
    oracle: Callable[..., Any]
    scale: Callable[..., Any] | None = None

    def run(self, *args: Any) -> Any:
        return jax.vmap(self.kernel, in_axes=tuple(0 if b else None for b in self.batched))(*args)


def params() -> okx_contracts.OkxParameters:
    return okx_parameters(merged_numbers(), Currencies(COINS))


def option_inputs(rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
    """Forward, strike, total volatility (0 for some), call sign."""
    forward = 100.0 * np.exp(rng.normal(0.0, 0.5, size))
    strike = np.where(rng.random(size) < 0.01, forward, 100.0 * np.exp(rng.normal(0, 0.5, size)))
    width = np.where(rng.random(size) < 0.05, 0.0, rng.uniform(1e-4, 2.5, size))
    return forward, strike, width, rng.choice([-1.0, 1.0], size)


def numpy_d1(forward: np.ndarray, strike: np.ndarray, width: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        d1 = np.log(forward / strike) / width + 0.5 * width
    intrinsic = np.select([forward > strike, forward < strike], [np.inf, -np.inf], 0.0)
    return np.where(width > 0, d1, intrinsic)


def numpy_price(forward: Any, strike: Any, width: Any, sign: Any) -> np.ndarray:
    d1 = numpy_d1(forward, strike, width)
    return sign * (ndtr(sign * d1) - strike / forward * ndtr(sign * (d1 - width)))


def numpy_delta(forward: Any, strike: Any, width: Any, sign: Any) -> np.ndarray:
    return sign * ndtr(sign * numpy_d1(forward, strike, width))


def vega_inputs(rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
    forward, strike, vol, _ = option_inputs(rng, size)
    return forward, strike, vol, np.where(rng.random(size) < 0.05, 0.0, rng.uniform(1e-4, 3, size))


def numpy_vega(forward: Any, strike: Any, vol: Any, years: Any) -> np.ndarray:
    d1 = numpy_d1(forward, strike, vol * np.sqrt(years))
    return np.exp(-0.5 * d1 * d1) / np.sqrt(2 * np.pi) * np.sqrt(years)


def amounts(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Amounts over ten decades, zeros and exact bounds among them, and table rows."""
    amount = 10.0 ** rng.uniform(-1.0, 9.0, size)
    amount = np.where(rng.random(size) < 0.05, 0.0, amount)
    amount = np.where(rng.random(size) < 0.05, 500.0, amount)
    return amount, rng.integers(0, 8, size).astype(np.int32)


def marginal_inputs(rng: np.random.Generator, size: int) -> tuple[Any, ...]:
    amount, row = amounts(rng, size)
    return amount, params().account.collateral, row


def numpy_marginal(amount: np.ndarray, tiers: MarginalTiers, row: np.ndarray) -> np.ndarray:
    floor, rate = np.asarray(tiers.floor), np.asarray(tiers.rate)
    top = np.concatenate([floor[:, 1:], np.full((len(floor), 1), np.inf)], axis=1)
    total = np.zeros(len(amount))
    for k in range(floor.shape[1]):
        low = floor[row, k]
        with np.errstate(invalid="ignore"):
            filled = np.where(np.isinf(low), 0.0, np.clip(amount, low, top[row, k]) - low)
        total += filled * rate[row, k]
    return total


def step_inputs(rng: np.random.Generator, size: int) -> tuple[Any, ...]:
    amount, row = amounts(rng, size)
    return amount, params().account.borrowing, row


def numpy_steps(amount: np.ndarray, tiers: StepTiers, row: np.ndarray) -> tuple[np.ndarray, ...]:
    floor = np.asarray(tiers.floor)
    tier = np.maximum((floor[row] < amount[:, None]).sum(axis=1) - 1, 0)
    step, last = np.asarray(tiers.tail_step)[row], np.asarray(tiers.last)[row]
    with np.errstate(divide="ignore", invalid="ignore"):
        more = np.where(step > 0, np.ceil(np.maximum(amount - last, 0.0) / step), 0.0)
    more = more * np.asarray(tiers.tail_rate_step)[row]
    return np.asarray(tiers.mmr)[row, tier] + more, np.asarray(tiers.imr)[row, tier] + more


def leg_inputs(rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
    """Table [instrument, column], instruments and contracts [element, leg]; padding among them."""
    table = rng.normal(0.0, 50.0, (NUM_INSTRUMENTS, NUM_COLUMNS))
    table[0] = 0.0
    instrument = rng.integers(0, NUM_INSTRUMENTS, (size, NUM_LEGS)).astype(np.int32)
    contracts = np.where(instrument == 0, 0.0, rng.normal(0.0, 20.0, instrument.shape))
    return table, instrument, contracts


def numpy_scenarios(table: Any, instrument: Any, contracts: Any) -> np.ndarray:
    total = np.zeros((len(contracts), table.shape[1]))
    for leg in range(contracts.shape[1]):
        total += contracts[:, leg, None] * table[instrument[:, leg]]
    return total


def scenario_scale(table: Any, instrument: Any, contracts: Any) -> np.ndarray:
    """Sum of ``|n_k * pnl_k|``: what the rounding error of a sum is measured by."""
    return numpy_scenarios(np.abs(table), instrument, np.abs(contracts))


def exposure_inputs(rng: np.random.Generator, size: int) -> tuple[Any, ...]:
    """A table, then legs and options of one unit each: instrument, contracts, closes bucket."""
    scenarios, _, _ = leg_inputs(rng, 1)
    features = rng.normal(0.0, 10.0, (NUM_INSTRUMENTS, NUM_FEATURES))
    columns = rng.normal(0.0, 10.0, (NUM_INSTRUMENTS, okx.NUM_COLUMNS))
    columns[:, okx.MOVE] = np.abs(columns[:, okx.MOVE])
    features[0] = columns[0] = 0.0
    table = Table(
        features=jnp.asarray(features),
        columns=jnp.asarray(columns),
        scenarios=jnp.asarray(scenarios),
        order_terms=jnp.zeros((NUM_INSTRUMENTS, 3)),
        currency_usd=jnp.ones(8),
        rates=jnp.zeros((3, 8)),
    )

    def side(width: int) -> tuple[np.ndarray, ...]:
        instrument = rng.integers(0, NUM_INSTRUMENTS, (size, width)).astype(np.int32)
        contracts = np.where(instrument == 0, 0.0, rng.normal(0.0, 20.0, instrument.shape))
        return instrument, contracts, rng.random(instrument.shape) < 0.4

    return table, side(4), side(NUM_LEGS)


def numpy_exposure(table: Table, legs: Any, options: Any) -> dict[str, np.ndarray]:
    features, columns = np.asarray(table.features), np.asarray(table.columns)
    size = len(legs[0])
    sums = np.zeros((size, NUM_FEATURES))
    gross, fee_even, fee_odd, basis, vega_gross, vega_net = np.zeros((6, size))
    linear_delta, delta, vega = np.zeros((3, size))
    for instrument, contracts, closes in (legs, options):
        for leg in range(instrument.shape[1]):
            row, column = features[instrument[:, leg]], columns[instrument[:, leg]]
            n, close = contracts[:, leg], closes[:, leg]
            sums += n[:, None] * row
            gross += np.abs(n) * row[:, GROSS]
            fee_even += np.abs(n) * column[:, okx.FEE_EVEN_USD]
            fee_odd += n * column[:, okx.FEE_ODD_USD]
            vega_net += n * column[:, okx.VEGA_USD]
            delta, vega = delta + n * column[:, okx.BASIS_USD], vega + n * column[:, okx.VEGA_USD]
            basis += np.where(close, np.abs(delta) * column[:, okx.MOVE], 0.0)
            vega_gross += np.where(close, np.abs(vega), 0.0)
            delta, vega = np.where(close, 0.0, delta), np.where(close, 0.0, vega)
        if instrument.shape[1] == legs[0].shape[1]:
            linear_delta = sums[:, DELTA].copy()
    return {
        "gross_usd": gross,
        "signed": np.stack([fee_odd, vega_net]),
        "sized": np.stack([fee_even]),
        "folded": np.stack([basis, vega_gross]),
        "linear_delta_coin": linear_delta,
        "quote_value": sums[:, VALUE].T,
        "coin_value": sums[:, COIN_VALUE],
        "cash_usd": sums[:, CASH].T,
        "delta_coin": sums[:, DELTA],
        "scenario_usd": numpy_scenarios(np.asarray(table.scenarios), options[0], options[1]),
    }


def run_exposure(table: Any, legs: Any, options: Any) -> dict[str, Any]:
    return dict(exposure.unit_exposure(table, okx.MODEL, legs, options).__dict__)


def depeg_inputs(rng: np.random.Generator, size: int) -> tuple[Any, ...]:
    """Cash delta of the three settlement groups, rates of one time."""
    cash = rng.choice([-1.0, 1.0], (3, size)) * 10.0 ** rng.uniform(2.0, 8.6, (3, size))
    cash = np.where(rng.random(cash.shape) < 0.1, 0.0, cash)
    usd = np.asarray([0.93, 1.01, 1.0, 1.0, *([100.0] * len(COINS))])
    return *cash, np.asarray(okx.depeg_rates(jnp.asarray(usd), params())), params()


def run_mr9(usdt: Any, usdc: Any, usd: Any, rates: Any, numbers: Any) -> Any:
    return okx.mr9((usdt, usdc, usd), rates, numbers)


def numpy_mr9(usdt: Any, usdc: Any, usd: Any, rates: Any, numbers: Any) -> np.ndarray:
    held = {"USDT": usdt.copy(), "USDC": usdc.copy(), "USD": usd.copy()}
    bounds = np.asarray(numbers.depeg_floor_usd)
    total = np.zeros(len(usdt))
    for k, (a, b) in enumerate((("USDT", "USD"), ("USDT", "USDC"), ("USDC", "USD"))):
        opposed = np.sign(held[a]) * np.sign(held[b]) < 0
        hedged = np.where(opposed, np.minimum(np.abs(held[a]), np.abs(held[b])), 0.0)
        held[a] = held[a] - np.sign(held[a]) * hedged
        held[b] = held[b] - np.sign(held[b]) * hedged
        for low, high, rate in zip(bounds, [*bounds[1:], np.inf], rates[k], strict=True):
            total += rate * (np.clip(hedged, low, high) - low)
    return total


def root_inputs(rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
    """Four units, three charges: slopes (some 0), intercepts, floors, and a budget."""
    shape = size, 4, 3
    slope = np.where(rng.random(shape) < 0.3, 0.0, 10.0 ** rng.uniform(-3.0, 4.0, shape))
    intercept, floor = rng.uniform(0.0, 1e3, shape), rng.uniform(0.0, 2e3, shape)
    return slope, intercept, floor, rng.uniform(0.0, 3e4, size)


def run_roots(slope: Any, intercept: Any, floor: Any, budget: Any) -> jax.Array:
    """Roots of the three charges, which have one budget."""
    pieces = {
        str(k): breakeven.Pieces(slope[:, k], intercept[:, k], floor[:, k], budget)
        for k in range(slope.shape[1])
    }
    found = breakeven.last_roots(pieces, dict.fromkeys(pieces, jnp.full_like(budget, jnp.inf)))
    return jnp.stack([found[name] for name in pieces])


def numpy_root(slope: Any, intercept: Any, floor: Any, budget: Any) -> np.ndarray:
    """Bisection on the increasing requirement, 0 and inf at the ends."""

    def need(theta: np.ndarray) -> np.ndarray:
        return np.maximum(intercept + slope * theta[:, None, :], floor).sum(axis=1)

    shape = len(budget), slope.shape[2]
    low, high = np.zeros(shape), np.full(shape, 1e9)
    bounded = need(high) > budget[:, None]
    for _ in range(110):
        middle = 0.5 * (low + high)
        fits = need(middle) <= budget[:, None]
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    impossible = need(np.zeros(shape)) > budget[:, None]
    return np.where(impossible, 0.0, np.where(bounded, low, np.inf))


def root_scale(slope: Any, intercept: Any, floor: Any, budget: Any) -> np.ndarray:
    """What a rounding error of the budget is in the root: budget over the slope there."""
    root = numpy_root(slope, intercept, floor, budget)
    theta = np.where(np.isinf(root), 0.0, root)[:, None, :]
    active = np.where(intercept + slope * theta * (1 + 1e-9) >= floor, slope, 0.0).sum(axis=1)
    return np.where(active > 0, budget[:, None] / np.where(active > 0, active, 1.0), 0.0)


def spot_inputs(rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
    limit = rng.choice([0.0, 3.0, np.inf], size)
    return rng.normal(0.0, 5.0, size), rng.normal(0.0, 5.0, size), limit


def numpy_spot(equity: Any, delta: Any, limit: Any) -> np.ndarray:
    size = np.minimum(np.minimum(np.abs(equity), np.abs(delta)), limit)
    return np.select([(equity > 0) & (delta < 0), (equity < 0) & (delta > 0)], [size, -size], 0.0)


def _exposure_scale(table: Table, legs: Any, options: Any) -> dict[str, np.ndarray]:
    absolute = Table(**{k: jnp.abs(v) for k, v in table.__dict__.items()})
    return numpy_exposure(absolute, *((i, np.abs(n), c) for i, n, c in (legs, options)))


def _ones(*args: Any) -> float:
    return 1.0


CASES = {
    "black76.price_coin": Case(black76.price_coin, (True,) * 4, option_inputs, numpy_price, _ones),
    "black76.delta": Case(black76.delta, (True,) * 4, option_inputs, numpy_delta, _ones),
    "black76.vega_per_forward": Case(
        black76.vega_per_forward, (True,) * 4, vega_inputs, numpy_vega, _ones
    ),
    "tiers.marginal_charge": Case(
        marginal_charge, (True, False, True), marginal_inputs, numpy_marginal
    ),
    "tiers.step_rates": Case(step_rates, (True, False, True), step_inputs, numpy_steps),
    "exposure.scenario_sum": Case(
        exposure.scenario_sum, (False, True, True), leg_inputs, numpy_scenarios, scenario_scale
    ),
    "exposure.unit_exposure": Case(
        run_exposure, (False, True, True), exposure_inputs, numpy_exposure, _exposure_scale
    ),
    "okx.mr9": Case(run_mr9, (True, True, True, False, False), depeg_inputs, numpy_mr9),
    "breakeven.last_roots": Case(run_roots, (True,) * 4, root_inputs, numpy_root, root_scale),
    "okx.spot_in_use": Case(okx.spot_in_use, (True,) * 3, spot_inputs, numpy_spot),
}
