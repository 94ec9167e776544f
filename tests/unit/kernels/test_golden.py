"""Published numbers through single kernels: Greeks (V7), depeg tiers (V6), multipliers (toy)."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import black76
from kernels.breakeven import last_roots
from kernels.models import okx
from kernels.tiers import MarginalTiers, marginal_charge
from tests.okx_books import split_like_numbers
from tests.unit.kernels.kernel_cases import params


VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "golden" / "okx_pm.json").read_text()
)


def number(value: float) -> jnp.ndarray:
    return jnp.asarray(value, jnp.float64)


def test_v7_delta_and_premium_adjusted_delta():
    vector = VECTORS["V7"]
    seconds = datetime.fromisoformat(vector["expiry"]).timestamp() - vector["ts_ms"] / 1000.0
    width = vector["mark_vol"] * np.sqrt(seconds / (365.0 * 86_400.0))
    terms = number(vector["forward"]), number(vector["strike"]), number(width), number(1.0)
    delta, price = black76.delta(*terms), black76.price_coin(*terms)
    assert float(delta) == pytest.approx(vector["delta_bs"], rel=1e-4)
    assert float(delta - price) == pytest.approx(vector["delta_pa"], rel=1e-4)


def test_v7_vega():
    vector = VECTORS["V7"]
    seconds = datetime.fromisoformat(vector["expiry"]).timestamp() - vector["ts_ms"] / 1000.0
    years = number(seconds / (365.0 * 86_400.0))
    terms = number(vector["forward"]), number(vector["strike"]), number(vector["mark_vol"]), years
    usd = float(black76.vega_per_forward(*terms)) * vector["index_about"] / 100.0
    assert usd == pytest.approx(vector["vega_bs"], rel=3e-4)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("strike", [50.0, 100.0, 200.0])
def test_without_volatility_an_option_is_its_intrinsic_value(strike: float, sign: float):
    terms = number(100.0), number(strike), number(0.0), number(sign)
    expected = max(0.0, sign * (100.0 - strike)) / 100.0
    assert float(black76.price_coin(*terms)) == pytest.approx(expected, abs=1e-15)
    deltas = {50.0: sign > 0, 100.0: 0.5, 200.0: sign < 0}
    assert float(black76.delta(*terms)) == pytest.approx(sign * float(deltas[strike]))


def test_v6_depeg_charge_of_ten_million():
    vector, numbers = VECTORS["V6"], params()
    usd = jnp.asarray([0.985, 1.0, 1.0, *([1.0] * 5)])
    rates = okx.depeg_rates(usd, numbers)
    np.testing.assert_allclose(np.asarray(rates)[0, :3], vector["rates"], rtol=1e-12)
    hedged = float(vector["hedged_usd"])
    charge = okx.mr9((number(hedged), number(0.0), number(-2 * hedged)), rates, numbers)
    assert float(charge) == pytest.approx(vector["mr9"], rel=1e-12)


@pytest.mark.parametrize(("above", "below"), [(1 / 0.985, 0.985), (1 / 0.7, 0.7)])
def test_an_index_above_one_counts_by_its_inverse(above: float, below: float):
    rates = [
        np.asarray(okx.depeg_rates(jnp.asarray([x, 1.0, 1.0, *([1.0] * 5)]), params()))[0]
        for x in (above, below)
    ]
    np.testing.assert_allclose(rates[0], rates[1], rtol=1e-12)


def test_no_depeg_charge_in_one_settlement_currency_even_unpriced():
    rates = okx.depeg_rates(jnp.asarray([np.nan, 1.0, 1.0, *([1.0] * 5)]), params())
    charge = okx.mr9((number(5e6), number(3e6), number(0.0)), rates, params())
    assert float(charge) == 0.0


def test_v5_marginal_multiplier():
    vector = VECTORS["V5"]
    tiers = split_like_numbers()["mr7"]["tiers"]["G1"]
    floor = np.asarray([0.0, *tiers["bounds_usd"]])
    rate = np.asarray(tiers["multipliers"], float)
    base = np.concatenate([[0.0], np.cumsum(np.diff(floor) * rate[:-1])])
    pad = 16 - len(floor)
    table = MarginalTiers(
        floor=jnp.asarray(np.pad(floor, (0, pad), constant_values=np.inf)[None]),
        rate=jnp.asarray(np.pad(rate, (0, pad))[None]),
        base=jnp.asarray(np.pad(base, (0, pad))[None]),
    )
    found = marginal_charge(number(vector["mr7_raw"]), table, jnp.asarray(0, jnp.int32))
    assert float(found) == vector["mr7"]


def test_theta_toy():
    toy = {"mr1": 40, "mr2": 5, "mr3": 4, "mr4": 6, "mr5": 1, "mr6": 50, "mr7": 20, "mr9": 9}
    unit = {k: jnp.full((1,), float(v)) for k, v in ({"mr8": 0} | toy).items()}
    pieces = okx.pieces(unit, number(10.0), number(100.0), params())
    found = last_roots(pieces, dict.fromkeys(pieces, number(np.inf)))
    expected = [1.75, 14.0, 6.0, 4.33333333, 21.0, 1.4, 4.5, 3.0, 3.22222222]
    values = [float(found[f"mr{k}"]) for k in range(1, 10)]
    assert values == pytest.approx(expected, rel=1e-8)
    one = jax.tree.map(lambda x: x[0], unit)
    assert float(okx.aggregate(one, params())) + 10.0 == 80.0
