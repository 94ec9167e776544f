"""Configuration, space, folds, objectives and selection, each on its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from backtest.calibration import objectives
from backtest.calibration.adaptive import Sampler
from backtest.calibration.config import ParameterSection, WalkForwardSection, load_calibration
from backtest.calibration.designs import nested_boxes, sobol
from backtest.calibration.folds import folds
from backtest.calibration.linear import scaling_of
from backtest.calibration.select import dominated, knee, reachable
from backtest.calibration.series import Series
from backtest.calibration.space import Space
from backtest.errors import ConfigError
from backtest.params import load_parameter_set
from backtest.paths import PROJECT_ROOT
from backtest.statistics.blocks import Plan
from tests.unit.backtest.tiny_world import PARAMS
from tests.unit.calibration.searched_world import BASIS, MOVES, series


POINTS = np.array([[1.0, 1.0], [0.9, 1.5], [1.4, 0.6]])
PLAN = Plan(resamples=200, block=2)
SCALED = PROJECT_ROOT / "configs" / "params" / "okx-merged-volatility-scaled.toml"


def parameter(**changes: Any) -> ParameterSection:
    content = {"name": "p", "leaves": MOVES, "low": 0.5, "high": 1.5}
    return ParameterSection.model_validate(content | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"leaves": ["mr1.price_move.G1"]}, r"unknown key 'mr1.price_move.G1'.*price_moves"),
        ({"leaves": ["mr1.volatility.combine"]}, "allowed: a number or a list"),
        ({"low": 1.1}, r"today's 1 is outside 1.1 to 1.5"),
        ({"high": 9.0}, r"price_moves"),
        ({"leaves": ["mr4.near.G1", "mr4.near.G2"], "scale": "absolute"}, "start from one value"),
    ],
)
def test_a_space_says_what_it_cannot_search(changes: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        Space.of([parameter(**changes)], PARAMS)


def test_a_schedule_is_no_set_to_start_from():
    file = PROJECT_ROOT / "configs" / "params" / "schedules" / "okx-history.toml"
    with pytest.raises(ConfigError, match="is a schedule"):
        Space.of([parameter()], file)


def test_absolute_levels_and_rules_survive_the_file(tmp_path: Path):
    leaf = parameter(leaves=["mr6.factor"], low=0.3, high=0.7, scale="absolute")
    moves = parameter(name="m", leaves=["mr1.price_moves.G1"])
    space = Space.of([leaf, moves], SCALED)
    assert space.now.tolist() == [0.5, 1.0]
    file = tmp_path / "a" / "candidate.toml"
    space.write(file, "candidate", np.array([0.4, 1.5]))
    found = load_parameter_set(file)
    assert found.numbers()["mr6"]["factor"] == 0.4
    assert found.rules().keys() == load_parameter_set(SCALED).rules().keys()
    space.write(file, "today", space.now)
    assert load_parameter_set(file).hash == load_parameter_set(SCALED).hash


def test_unknown_keys_and_bad_values_are_named(tmp_path: Path):
    text = (PROJECT_ROOT / "configs" / "calibrate-demo.toml").read_text(encoding="utf-8")
    file = tmp_path / "c.toml"
    for old, new, words in (
        ("candidates = 24", "candidats = 24", "candidats"),
        ('method = "sobol"', 'method = "grid"', "points"),
        ("of_today = 1.5", "of_today = 1.5\nmost = 1.0", "exactly one of"),
        ('block = "2h"', 'block = "2 moons"', "is not a duration"),
    ):
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ConfigError, match=words):
            load_calibration(file)
    with pytest.raises(ValidationError, match="below"):
        parameter(low=2.0)


def test_sobol_points_fill_nested_boxes():
    space = Space.of([parameter(), parameter(name="b", leaves=BASIS, high=2.0)], PARAMS)
    boxes = nested_boxes(space, 0.1, 3)
    found = sobol(space, 90, 5, boxes)
    for k, (low, high) in enumerate(boxes):
        mine = found[k::3]
        assert (mine >= low).all()
        assert (mine <= high).all()
        assert np.ptp(mine, axis=0) == pytest.approx(high - low, rel=0.2)
    assert reachable(found, space.now, 0.1)[::3].all()
    assert np.array_equal(found, sobol(space, 90, 5, boxes))
    assert nested_boxes(space, None, 3)[0][1].tolist() == [1.5, 2.0]


@pytest.mark.parametrize("anchored", [False, True])
def test_folds_never_overlap_what_they_are_tried_on(anchored: bool):
    blocks = np.arange(40)
    walk = WalkForwardSection(folds=3, purge="2D", anchored=anchored)
    found = folds(blocks, "1D", walk)
    assert len(found) == 3
    for fold in found:
        train, test = np.flatnonzero(fold.train), np.flatnonzero(fold.test)
        assert test[0] - train[-1] == 3
        assert (train[0] == 0) == (anchored or fold.number == 0)
    assert not any((a.test & b.test).any() for a in found for b in found if a is not b)
    with pytest.raises(ConfigError, match="use fewer folds"):
        folds(blocks, "1D", WalkForwardSection(folds=15, purge="3D"))


def test_objectives_are_ratios_of_sums():
    found = series(POINTS)
    hours = found.of("scored").sum(axis=1)
    assert objectives.value(found, "frequency") == pytest.approx(
        found.of("liquidated").sum(axis=1) / hours * 24.0
    )
    assert objectives.value(found, "margin") == pytest.approx(
        found.of("mmr_usd").sum(axis=1) / found.of("gross_usd").sum(axis=1)
    )
    years = found.of("gross_usd").sum(axis=1) / (365 * 24)
    assert objectives.value(found, "bad_debt") == pytest.approx(
        found.of("shortfall_usd").sum(axis=1) / years
    )
    path = found.of("mmr_usd") / found.of("gross_usd")
    assert objectives.value(found, "procyclicality") == pytest.approx(
        path.max(axis=1) / path.min(axis=1)
    )


@pytest.mark.parametrize("objective", ["frequency", "bad_debt", "margin"])
def test_bounds_lie_above_and_grow_with_confidence(objective: Any):
    found = series(POINTS)
    points = objectives.value(found, objective)
    low, high = (objectives.upper(found, objective, PLAN, c) for c in (0.8, 0.99))
    some = points > 0
    assert (low[some] > points[some] * (1 - 1e-9)).all()
    assert (high >= low).all()
    ratio = objectives.upper_versus_today(found, objective, PLAN, 0.95)
    assert ratio[0] == pytest.approx(1.0)
    assert (ratio >= objectives.versus_today(found, objective) * (1 - 1e-9)).all()


def test_nobody_liquidated_still_has_an_upper_bound():
    empty = series(POINTS)
    values = empty.values.copy()
    values[:, :, 1] = 0.0
    none = Series(empty.blocks, values, empty.interval_seconds)
    bound = objectives.upper(none, "frequency", PLAN, 0.95)
    assert (bound > 0).all()
    assert objectives.versus_today(none, "frequency").tolist() == [1.0] * 3


def test_pairs_are_drawn_together():
    """Margins move with the market by far more than they differ, so pairing shrinks intervals."""
    pair = series(np.array([[1.0, 1.0], [1.0, 1.1]]))
    value, low, high = objectives.difference(pair, "margin", PLAN)
    assert low < value < high
    alone = objectives.upper(pair, "margin", PLAN, 0.975) - objectives.value(pair, "margin")
    assert high - low < 0.2 * alone[0]


def test_series_round_trip(tmp_path: Path):
    found = series(POINTS)
    found.write(tmp_path / "s.parquet")
    again = Series.read(tmp_path / "s.parquet")
    assert np.array_equal(again.values, found.values)
    assert np.array_equal(again.blocks, found.blocks)
    assert again.interval_seconds == found.interval_seconds


def test_dominance_and_knee():
    values = np.array([[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [3.0, 3.0], [1.0, 4.0], [np.nan, 0.0]])
    on = ~dominated(values)
    assert on.tolist() == [True, True, True, False, True, False]
    assert knee(values, on) == 1
    assert knee(values, np.zeros(6, bool)) is None


def test_what_scales_a_charge():
    known = [row.key for row in load_parameter_set(PARAMS).leaves()]
    exact = scaling_of(BASIS, known)
    assert exact is not None
    assert (exact.charge, exact.exact) == ("mr4", True)
    part = scaling_of(BASIS[:3], known)
    assert part is not None
    assert not part.exact
    moves = scaling_of(MOVES, known)
    assert moves is not None
    assert not moves.exact
    assert scaling_of(["mr6.factor"], known) is not None
    assert scaling_of(["levels.warning"], known) is None


def test_a_sampler_learns_from_points_that_it_did_not_ask_for():
    """It asks nearer to the least of a bowl than one that only knows a far corner."""
    pytest.importorskip("optuna")
    space = Space.of([parameter(), parameter(name="q", leaves=BASIS)], PARAMS)

    def distance(points: np.ndarray) -> np.ndarray:
        return ((points - 0.6) ** 2).sum(axis=1)

    def asked_after(known: np.ndarray) -> np.ndarray:
        sampler = Sampler("tpe", space, 8, seed=5, num_objectives=1)
        sampler.add(known, distance(known)[:, None], np.full((len(known), 1), -1.0))
        found = []
        for _ in range(4):
            found.append(sampler.ask(8))
            sampler.tell(distance(found[-1])[:, None], np.full((8, 1), -1.0))
        points = np.concatenate(found)
        assert (points >= space.low).all()
        assert (points <= space.high).all()
        return points

    draw = np.random.default_rng(2)
    near, far = (centre + draw.uniform(-0.05, 0.05, (16, 2)) for centre in (0.6, 1.4))
    assert np.array_equal(asked_after(near), asked_after(near))
    last = slice(8, None)
    assert distance(asked_after(near)[last]).mean() < distance(asked_after(far)[last]).mean()
