"""Shapley's axioms, a game worked by hand, waterfalls that close."""

import itertools
from typing import Any

import numpy as np
import pytest

from backtest.errors import ConfigError
from backtest.statistics.attribution import (
    liquidation_shapley,
    okx_requirement,
    shapley,
    shares,
    waterfall,
)


NAMES = tuple(f"mr{k}" for k in range(1, 10))
SIZES = (40.0, 5.0, 4.0, 6.0, 1.0, 50.0, 20.0, 10.0, 9.0)
TOY = {name: np.array([size]) for name, size in zip(NAMES, SIZES, strict=True)}
RNG = np.random.default_rng(1)
BOOKS = {name: RNG.exponential(10.0, 50) * RNG.integers(0, 2, 50) for name in NAMES}
MMR = okx_requirement()


def by_orders(charges: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Mean contribution over all orders in which charges may come."""
    found, names = [], list(charges)
    for order in itertools.permutations(names):
        before = order[: order.index(name)]
        some = {n: charges[n] if n in before else 0.0 * charges[n] for n in names}
        found.append(MMR({**some, name: charges[name]}) - MMR(some))
    return np.mean(found, axis=0)


def test_the_toy_of_the_rules_adds_up():
    found = shapley(TOY, MMR)
    assert MMR(TOY).tolist() == [80.0]
    assert np.sum(list(found.values())) == pytest.approx(80.0, rel=1e-12)
    # nothing competes with MR8
    assert found["mr8"] == pytest.approx([10.0], rel=1e-12)


def test_it_is_the_mean_over_all_orders():
    some = {name: BOOKS[name] for name in ("mr1", "mr4", "mr6", "mr7", "mr8")}
    found = shapley(some, MMR)
    for name in some:
        assert found[name] == pytest.approx(by_orders(some, name), abs=1e-9)


def test_equal_charges_have_equal_shares_and_absent_ones_none():
    charges = {"mr1": np.array([30.0]), "mr6": np.array([30.0]), "mr2": np.array([0.0])}
    found = shapley(charges, MMR)
    assert found["mr1"] == pytest.approx([15.0])
    assert found["mr6"] == pytest.approx([15.0])
    assert found["mr2"] == pytest.approx([0.0])


def test_causes_of_liquidations_add_up_to_one():
    equity = MMR(BOOKS) * RNG.uniform(0.5, 1.5, 50)
    found = liquidation_shapley(BOOKS, equity, MMR)
    total = np.sum(list(found.values()), axis=0)
    was = (equity <= MMR(BOOKS)) & (equity > 0)
    assert was.any()
    assert total[was] == pytest.approx(np.ones(was.sum()))
    assert total[~was] == pytest.approx(np.zeros((~was).sum()), abs=1e-12)


def test_only_one_charge_to_blame():
    charges = {"mr1": np.array([10.0]), "mr8": np.array([100.0])}
    found = liquidation_shapley(charges, np.array([50.0]), MMR)
    assert found["mr8"] == pytest.approx([1.0])
    assert found["mr1"] == pytest.approx([0.0])


def test_shares_and_waterfall():
    frame: Any = shares(TOY)
    assert frame["usd"].sum() == 145.0
    assert frame["of_all_frac"].sum() == pytest.approx(1.0)
    steps = [("yesterday", 100.0), ("positions", 120.0), ("prices", 90.0), ("time", 91.0)]
    found: Any = waterfall(steps, measured=91.5)
    assert found["change"].tolist() == [0.0, 20.0, -30.0, 1.0, 0.5, -8.5]
    whole: Any = waterfall(steps)
    assert whole["change"].iloc[-2] == 0.0
    with pytest.raises(ConfigError, match="at least one step"):
        waterfall(steps[:1])


def test_too_many_charges_are_refused():
    with pytest.raises(ConfigError, match="13 charges"):
        shapley({str(k): np.zeros(1) for k in range(13)}, MMR)
