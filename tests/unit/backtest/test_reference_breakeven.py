import math

import numpy as np
import pytest

from backtest.reference.breakeven import CHARGES, UNIT_CHARGES, break_even, root, unit_mmr


WORST = ["mr1", "mr2", "mr6"]


def total(units: list[dict[str, float]], mr8: float, name: str, theta: float) -> float:
    scaled = [{**unit, name: unit.get(name, 0.0) * theta} for unit in units]
    return sum(unit_mmr(unit, WORST) for unit in scaled) + mr8 * (theta if name == "mr8" else 1.0)


def bisected(units: list[dict[str, float]], mr8: float, budget: float, name: str) -> float:
    if total(units, mr8, name, 0.0) > budget:
        return 0.0
    low, high = 0.0, 1e9
    if total(units, mr8, name, high) <= budget:
        return math.inf
    while high - low > 1e-13 * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if total(units, mr8, name, middle) <= budget else (low, middle)
    return low


@pytest.mark.parametrize("seed", range(20))
def test_several_units_agree_with_bisection(seed: int):
    draws = np.random.default_rng(seed)
    units = [
        {name: float(draws.choice([0.0, draws.uniform(0.0, 100.0)])) for name in UNIT_CHARGES}
        for _ in range(4)
    ]
    mr8 = float(draws.uniform(0.0, 50.0))
    budget = float(draws.uniform(0.5, 3.0)) * total(units, mr8, "mr1", 1.0)
    found = break_even(units, mr8, budget, WORST)
    assert tuple(found) == CHARGES
    for name, theta in found.items():
        assert theta == pytest.approx(bisected(units, mr8, budget, name), rel=1e-9), name


def test_unbounded_where_the_charge_is_nothing_and_zero_where_the_rest_is_too_much():
    unit = {"mr1": 40.0, "mr7": 20.0}
    found = break_even([unit], mr8=10.0, budget=50.0, worst=WORST)
    assert found["mr1"] == 1.0
    assert found["mr7"] == 2.0
    assert found["mr8"] == 1.0
    assert found["mr4"] == 0.0 + math.inf
    found = break_even([unit], mr8=10.0, budget=49.0, worst=WORST)
    assert found["mr4"] == 0.0
    assert found["mr1"] == pytest.approx(39.0 / 40.0)
    assert break_even([unit], mr8=10.0, budget=29.0, worst=WORST)["mr1"] == 0.0
    assert set(break_even([unit], 0.0, -1.0, WORST).values()) == {0.0}
    assert set(break_even([], 0.0, 0.0, WORST).values()) == {math.inf}


def test_the_last_theta_of_a_flat_part_is_taken():
    """MR1 hides below MR7 until theta = 2; the budget is just MR7."""
    unit = {"mr1": 10.0, "mr7": 20.0}
    assert break_even([unit], 0.0, 20.0, WORST)["mr1"] == 2.0


def test_the_shorter_formula_leaves_mr2_and_mr6_out():
    unit = {"mr1": 10.0, "mr2": 50.0, "mr4": 5.0, "mr6": 80.0}
    assert unit_mmr(unit, ["mr1"]) == 15.0
    found = break_even([unit], 0.0, 30.0, ["mr1"])
    assert (found["mr1"], found["mr4"]) == (2.5, 4.0)
    assert found["mr2"] == found["mr6"] == math.inf


def test_root_walks_over_the_starts():
    assert root(10.0, [(2.0, 20.0), (1.0, 20.0)], 50.0) == 2.5
    assert root(10.0, [(1.0, 0.0)], 50.0) == math.inf
    assert root(10.0, [(1.0, 5.0)], 9.0) == 0.0
