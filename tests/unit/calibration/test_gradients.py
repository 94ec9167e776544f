"""Gradients of margin and shortfall: against finite differences of kernels and reference."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from backtest.calibration.calibrate import bundle
from backtest.calibration.designs import Points
from backtest.calibration.gradients import Sensitivities, continuous_leaves
from backtest.calibration.sensitivities import descent, sensitivity_table, starts
from backtest.calibration.space import Space
from backtest.calibration.standing import Standing
from backtest.config import RunConfig
from backtest.dataset import Dataset
from backtest.errors import ConfigError
from backtest.explain import AccountHistory
from backtest.market_window import stamp
from backtest.params import load_parameter_set
from backtest.reference import models as reference
from tests.unit.backtest import tiny_world as world
from tests.unit.calibration import searched_world


OFF_THE_KINK = """extends = {base}
name = "off the kink"
[mr6.factor]
value = 0.3
unit = "multiple"
label = "A"
source = "test: with 0.5 the MR1 and MR6 of books without options are equal"
"""
AT, STEPS = [1, 4], 2
"""Times of the grid at which accounts are margined; a call expires within the first horizon."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("gradients")
    file = folder / "set.toml"
    file.write_text(OFF_THE_KINK.format(base=json.dumps(str(world.PARAMS))))
    return world.config(world.write(folder / "data"), sets={"today": file})


@pytest.fixture(scope="module")
def functions(base: RunConfig) -> Sensitivities:
    standing = Standing(base)
    return Sensitivities(standing, "today", standing.times_us[AT], STEPS, smoothing_frac=0.05)


def difference(functions: Sensitivities, leaf: str, step: float = 1e-5) -> np.ndarray:
    up, down = (functions.value({leaf: 1.0 + x}) for x in (step, -step))
    return (up - down) / (2.0 * step)


@pytest.mark.slow
def test_every_slope_is_that_of_finite_differences(functions: Sensitivities):
    leaves = continuous_leaves(load_parameter_set(world.PARAMS).leaves())
    found = functions.gradient({leaf: {leaf: 1.0} for leaf in leaves})
    assert functions.accounts == len(AT) * world.NUM_ACCOUNTS
    assert found.value == pytest.approx(functions.value({}), rel=1e-12)
    assert np.isfinite(list(found.change.values())).all()
    moving = [leaf for leaf in leaves if found.change[leaf].any()]
    for leaf in moving:
        slope, again = found.change[leaf], difference(functions, leaf)
        rounding = 1e-7 * np.abs(found.value)
        assert (np.abs(slope - again) <= 1e-4 * np.abs(again) + rounding).all(), leaf
    rest = [leaf for leaf in leaves if leaf not in moving]
    up, down = (functions.value(dict.fromkeys(rest, 1.0 + x)) for x in (1e-5, -1e-5))
    assert up == pytest.approx(down, rel=1e-12)
    for charge in ("mr1.price_moves.G1", "mr1.volatility.points", "mr4.annual.G1", "mr5.parallel"):
        assert charge in moving
    assert "collateral.BTC.rates" in moving


@pytest.mark.slow
def test_margin_moves_as_the_reference_says(base: RunConfig, functions: Sensitivities):
    """The readable rule book, differenced: it knows neither JAX nor the kernels."""
    chosen = load_parameter_set(base.parameter_sets[0].file)
    dataset, times = Dataset.open(base.dataset.path), functions.standing.times_us[AT]
    portfolios = [
        AccountHistory(dataset, base, world.name_of(k)).portfolio(stamp(int(t)))
        for k in range(world.NUM_ACCOUNTS)
        for t in times
    ]

    def margin(factors: dict[str, float]) -> float:
        numbers = chosen.scaled(factors)
        answers = [reference.margin(p, numbers)["account"]["total_mmr"] for p in portfolios]
        return float(np.sum(answers))

    assert functions.value({})[0] == pytest.approx(margin({}), rel=1e-10)
    leaves = ("mr1.price_moves.G1", "mr1.volatility.points", "mr4.near.G1", "mr5.slope")
    found = functions.gradient({leaf: {leaf: 1.0} for leaf in leaves})
    for leaf in leaves:
        slope = (margin({leaf: 1.0 + 1e-5}) - margin({leaf: 1.0 - 1e-5})) / 2e-5
        assert found.change[leaf][0] == pytest.approx(slope, rel=1e-5), leaf
        assert slope > 0.0


@pytest.mark.slow
def test_the_smoothed_shortfall_tends_to_the_plain_one(base: RunConfig):
    standing = Standing(base)
    at = standing.times_us[AT]
    widths = (0.05, 1e-3, 1e-7)
    found = [Sensitivities(standing, "today", at, STEPS, w).value({})[1] for w in widths]
    assert found[0] > found[1] > found[2] >= 0.0
    no_margin = {leaf: 1e-9 for leaf in ("mr1.price_moves.G1", "mr6.factor", "mr7.linear_rate.G1")}
    whole = Sensitivities(standing, "today", at, STEPS, 1e-7).value(no_margin)
    assert whole[1] > found[2]


@pytest.mark.slow
def test_directions_add_up(functions: Sensitivities):
    leaves = ["mr4.near.G1", "mr4.annual.G1"]
    alone = functions.gradient({leaf: {leaf: 1.0} for leaf in leaves}).change
    both = functions.gradient({"both": dict.fromkeys(leaves, 1.0)}).change["both"]
    assert both == pytest.approx(alone[leaves[0]] + alone[leaves[1]], rel=1e-9)


def table_of(space: Space, margin: list[float], shortfall: list[float]) -> pd.DataFrame:
    rows = zip(space.names, margin, shortfall, strict=True)
    return pd.DataFrame(
        [
            {
                "parameter": n,
                "is_searched": True,
                "margin_slope_usd": m,
                "shortfall_slope_usd": s,
            }
            for n, m, s in rows
        ]
    )


def start_points(margin: list[float], shortfall: list[float], **changes: Any) -> Points:
    config = searched_world.config(gradients={"starts": 3}, **changes)
    space = Space.of(config.parameters, world.PARAMS)
    return starts(config, space, table_of(space, margin, shortfall))


def test_starts_lower_margin_and_leave_shortfall():
    points = start_points([100.0, 50.0], [-4.0, -0.5])
    span = np.array([1.0, 1.5])
    moves = (points - 1.0) / span
    assert points.shape == (3, 2)
    assert (moves @ (np.array([100.0, 50.0]) * span) < 0.0).all()
    assert moves @ (np.array([-4.0, -0.5]) * span) == pytest.approx(np.zeros(3), abs=1e-12)
    # as far as the box lets the whole direction go
    assert moves == pytest.approx(np.array([[1], [2], [3]]) / 3 * moves[-1])
    ends = np.array([[0.5, 0.5], [1.5, 2.0]])
    assert ((points >= ends[0]) & (points <= ends[1])).all()
    at_an_edge = np.isclose(points[-1], ends).any() or np.isclose(np.abs(moves[-1]), 0.5).any()
    assert at_an_edge


def test_starts_stay_within_one_step_and_none_is_made_of_nothing():
    limited = start_points([100.0, 50.0], [0.0, 0.0], trust_region={"step_frac": 0.05})
    assert np.abs(limited - 1.0).max() <= 0.05 + 1e-12
    assert start_points([0.0, 0.0], [0.0, 0.0]).shape == (0, 2)
    assert start_points([10.0, 10.0], [-1.0, -1.0]).shape == (0, 2)  # all of it is coverage


FINITE = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3))


@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=6))
def test_descent_never_raises_margin_or_shortfall(slopes: list[tuple[float, float]]):
    margin, shortfall = np.array(slopes).T
    down = descent(margin, shortfall)
    size = np.abs(down).max() * np.abs(margin).max() + np.abs(down).max() * np.abs(shortfall).max()
    assert down @ margin <= 1e-9 * (size + 1.0)
    assert down @ shortfall <= 1e-9 * (size + 1.0)


@pytest.mark.slow
def test_the_table_of_a_calibration(base: RunConfig):
    config = searched_world.config(gradients={"times": 2, "horizon": "1h", "step_frac": 0.2})
    space = Space.of(config.parameters, base.parameter_sets[0].file)
    found = sensitivity_table(config, base, space).set_index("parameter")
    moves, leaf = found.loc["moves"], found.loc["mr1.price_moves.G1"]
    # every other coin group holds nothing here
    assert moves["margin_slope_usd"] == pytest.approx(leaf["margin_slope_usd"])
    assert moves["margin_down_usd"] < 0.0 < moves["margin_up_usd"]
    assert moves["shortfall_slope_usd"] <= 0.0
    # MR4 is linear in its rates together, and the floor MR7 makes margin convex in them
    basis = found.loc["basis"]
    line = 0.2 * basis["margin_slope_usd"]
    assert basis["margin_up_usd"] >= line * (1.0 - 1e-9) > 0.0
    assert basis["margin_down_usd"] >= -line * (1.0 + 1e-9)
    assert bundle(space, starts(config, space, found.reset_index())[-1]).keys() >= {"today"}
    far = searched_world.config(gradients={"horizon": "7D"})
    with pytest.raises(ConfigError, match="at most the first stretch of the walk"):
        sensitivity_table(far, base, space)
