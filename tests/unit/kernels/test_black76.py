"""The normal distribution of option prices, in both tails."""

import jax
import numpy as np
from scipy.special import ndtr

from kernels import black76


def test_price_far_in_and_out_of_the_money_is_scipy():
    # One coin's call is N(d1) - K / F N(d2); K goes to 0 with F so that N(d1) stands alone.
    d1 = np.linspace(-37.0, 37.0, 40_001)
    total_vol = np.full_like(d1, 1.0)
    forward = np.ones_like(d1)
    strike = np.exp(-(d1 - 0.5))
    for sign in (1.0, -1.0):
        signs = np.full_like(d1, sign)
        delta = np.asarray(jax.jit(black76.delta)(forward, strike, total_vol, signs))
        expected = sign * ndtr(sign * (np.log(forward / strike) + 0.5))
        np.testing.assert_allclose(delta, expected, rtol=1e-11, atol=0.0)


def test_distribution_is_exact_in_both_tails():
    x = np.linspace(-37.5, 37.5, 400_001)
    found = np.asarray(jax.jit(black76.standard_normal)(x))
    np.testing.assert_allclose(found, ndtr(x), rtol=4e-15, atol=0.0)
