import math

import pytest

from backtest.reference import black76


F, K, SIGMA, YEARS, INDEX = 61_000.0, 58_000.0, 0.55, 0.2, 60_500.0
STEP = 1e-4


def price(forward: float = F, sigma: float = SIGMA, years: float = YEARS, kind: str = "C") -> float:
    return black76.coin_price(kind, forward, K, sigma, years)


@pytest.mark.parametrize(("sigma", "years"), [(0.0, 1.0), (0.5, 0.0), (0.0, 0.0), (0.5, -0.1)])
def test_without_volatility_or_time_only_the_intrinsic_value_is_left(sigma: float, years: float):
    assert black76.coin_price("C", 100.0, 80.0, sigma, years) == pytest.approx(0.2)
    assert black76.coin_price("P", 100.0, 125.0, sigma, years) == pytest.approx(0.25)
    assert black76.coin_price("C", 100.0, 125.0, sigma, years) == 0.0
    assert black76.delta_bs("C", 100.0, 80.0, sigma, years) == 1.0
    assert black76.delta_bs("P", 100.0, 125.0, sigma, years) == -1.0
    assert black76.delta_bs("P", 100.0, 80.0, sigma, years) == 0.0
    assert black76.gamma_pa("C", 100.0, 80.0, sigma, years) == 0.0
    assert black76.gamma_bs(100.0, 80.0, sigma, years, 100.0) == 0.0
    assert black76.theta_pa(100.0, 80.0, sigma, years) == 0.0
    assert black76.vega_pa(100.0, 80.0, sigma, years) == 0.0


def test_on_the_forward_the_price_is_an_error_function():
    spread = 0.6 * math.sqrt(0.25)
    expected = math.erf(spread / 2.0 / math.sqrt(2.0))
    assert black76.coin_price("C", 100.0, 100.0, 0.6, 0.25) == pytest.approx(expected, rel=1e-13)


def test_on_the_forward_without_volatility_half_a_delta():
    assert black76.delta_bs("C", 100.0, 100.0, 0.0, 1.0) == 0.5
    assert black76.delta_bs("P", 100.0, 100.0, 0.0, 1.0) == -0.5


def test_put_call_parity_in_coins():
    assert price() - price(kind="P") == pytest.approx(1.0 - K / F, rel=1e-12)


@pytest.mark.parametrize("kind", ["C", "P"])
def test_greeks_are_the_derivatives_of_the_price(kind: str):
    up, down = F * (1.0 + STEP), F * (1.0 - STEP)
    coin_slope = (price(up, kind=kind) - price(down, kind=kind)) / (2.0 * STEP)
    assert black76.delta_pa(kind, F, K, SIGMA, YEARS) == pytest.approx(coin_slope, rel=1e-6)
    usd_slope = (price(up, kind=kind) * up - price(down, kind=kind) * down) / (up - down)
    assert black76.delta_bs(kind, F, K, SIGMA, YEARS) == pytest.approx(usd_slope, rel=1e-6)
    bend = (price(up, kind=kind) - 2.0 * price(kind=kind) + price(down, kind=kind)) / STEP**2
    assert black76.gamma_pa(kind, F, K, SIGMA, YEARS) == pytest.approx(bend, rel=1e-5)


def test_gamma_vega_and_theta_are_derivatives():
    deltas = [black76.delta_bs("C", F * (1.0 + move), K, SIGMA, YEARS) for move in (-STEP, STEP)]
    slope = (deltas[1] - deltas[0]) / (2.0 * STEP * INDEX)
    assert black76.gamma_bs(F, K, SIGMA, YEARS, INDEX) == pytest.approx(slope, rel=1e-6)
    slope = (price(sigma=SIGMA + STEP) - price(sigma=SIGMA - STEP)) / (2.0 * STEP)
    assert black76.vega_pa(F, K, SIGMA, YEARS) == pytest.approx(slope, rel=1e-6)
    assert black76.vega_bs(F, K, SIGMA, YEARS, INDEX) == pytest.approx(INDEX * slope, rel=1e-6)
    day = STEP / 365.0
    slope = (price(years=YEARS - day) - price(years=YEARS + day)) / (2.0 * STEP)
    assert black76.theta_pa(F, K, SIGMA, YEARS) == pytest.approx(slope, rel=1e-6)
    assert black76.theta_bs(F, K, SIGMA, YEARS, INDEX) == pytest.approx(INDEX * slope, rel=1e-6)


def test_an_unknown_option_type_is_an_error():
    with pytest.raises(ValueError, match="option_type is 'X'"):
        black76.coin_price("X", F, K, SIGMA, YEARS)
