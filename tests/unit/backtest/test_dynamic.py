"""Parameters that follow the market: drivers, the factor's path, what a parameter file may ask."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.calibration.space import write_set
from backtest.dataset import Dataset
from backtest.dynamic import factor_path
from backtest.errors import ConfigError, DataError
from backtest.market_window import micros
from backtest.model_records import Currencies
from backtest.params import load_parameter_set
from backtest.params_base import Rule
from backtest.set_rules import SetRules
from tests.unit.backtest import tiny_world as world


GRID = micros(world.TIMES)
HOURS_A_YEAR = 24 * 365.0


def rule(**keys: Any) -> Rule:
    return Rule.model_validate({"driver": "series", "reference": 1.0, "file": "x.parquet",
                                "column": "v", "floor": 0.1, "cap": 10.0} | keys)  # fmt: skip


def follow(tmp_path: Path, values: list[float], **keys: Any) -> np.ndarray:
    """Factors of a rule whose driver is given at each hour of the tiny world."""
    frame = pd.DataFrame({"ts": world.TIMES[: len(values)], "v": values})
    frame.to_parquet(tmp_path / "x.parquet")
    dataset = Dataset.open(world.write(tmp_path / "world"))
    return factor_path(rule(**keys), dataset, GRID[: len(values)], tmp_path / "x.parquet")[0]


def test_floor_cap_and_step(tmp_path: Path):
    found = follow(tmp_path, [0.2, 1.0, 1.26, 2.0, 9.0], floor=0.5, cap=3.0, step=0.25)
    np.testing.assert_allclose(found, [0.5, 1.0, 1.25, 2.0, 3.0])


def test_within_the_band_it_stays(tmp_path: Path):
    found = follow(tmp_path, [1.0, 1.09, 1.11, 1.2, 1.23, 1.0], band=0.1)
    np.testing.assert_allclose(found, [1.0, 1.0, 1.11, 1.11, 1.23, 1.0])


def test_it_moves_at_most_so_fast(tmp_path: Path):
    found = follow(tmp_path, [1.0, 3.0, 3.0, 0.1], max_change_per_hour=0.5, step=1e-9)
    np.testing.assert_allclose(found, [1.0, 1.5, 2.25, 1.125])


def test_without_a_driver_it_stays_at_first_at_one(tmp_path: Path):
    nan = float("nan")
    found = follow(tmp_path, [nan, nan, 2.0, nan, 3.0], delay="0s")
    # A value missing in the file is not known anew: the last one goes on.
    np.testing.assert_allclose(found, [1.0, 1.0, 2.0, 2.0, 3.0])


def test_a_series_is_known_after_its_delay(tmp_path: Path):
    found = follow(tmp_path, [1.0, 2.0, 3.0, 4.0], delay="1h")
    np.testing.assert_allclose(found, [1.0, 1.0, 2.0, 3.0])


def test_realised_volatility_by_hand(tmp_path: Path):
    dataset = Dataset.open(world.write(tmp_path / "world"))
    chosen = Rule.model_validate(
        {"driver": "realised_volatility", "currency": "BTC", "lookback": "8h", "reference": 1.0}
    )
    driver = factor_path(chosen, dataset, GRID, tmp_path / "x.parquet")[1]
    returns = np.diff(np.log(world.BTC))
    assert np.isnan(driver[:8]).all()
    assert driver[8] == pytest.approx(np.sqrt(np.mean(returns**2) * HOURS_A_YEAR), rel=1e-12)


def test_a_depeg_is_the_worst_of_the_lookback_either_side_of_one(tmp_path: Path):
    usdt = [1.0, 0.98, 1.0, 1.0, 1.0, 1.05, 1.0, 1.0, 1.0]
    rows = world.index()
    rows.loc[rows["currency"] == "USDT", "usd"] = usdt
    dataset = Dataset.open(world.write(tmp_path / "world", index=rows))
    chosen = Rule.model_validate(
        {"driver": "depeg", "currency": "USDT", "lookback": "2h", "reference": 0.01}
    )
    driver = factor_path(chosen, dataset, GRID, tmp_path / "x.parquet")[1]
    high = 1 - 1 / 1.05
    np.testing.assert_allclose(driver, [0, 0.02, 0.02, 0.02, 0, high, high, high, 0], atol=1e-15)


@pytest.mark.parametrize("driver", ["realised_volatility", "depeg"])
def test_nothing_later_enters_a_path(driver: str, tmp_path: Path):
    keys = {"driver": driver, "currency": "ETH", "lookback": "8h", "reference": 0.1, "cap": 50.0}
    chosen = Rule.model_validate(keys | {"band": 0.02, "max_change_per_hour": 0.3})
    changed = world.index()
    changed.loc[changed["time"] > world.TIMES[5], "usd"] *= 1.7
    whole = Dataset.open(world.write(tmp_path / "whole"))
    other = Dataset.open(world.write(tmp_path / "other", index=changed))
    expected = factor_path(chosen, whole, GRID, tmp_path / "x.parquet")[0]
    np.testing.assert_array_equal(
        factor_path(chosen, other, GRID, tmp_path / "x.parquet")[0][:6], expected[:6]
    )
    np.testing.assert_array_equal(
        factor_path(chosen, whole, GRID[:6], tmp_path / "x.parquet")[0], expected[:6]
    )


def test_what_a_rule_follows_must_be_there(tmp_path: Path):
    dataset = Dataset.open(world.write(tmp_path / "world"))
    with pytest.raises(DataError, match=r"x\.parquet: no such file"):
        factor_path(rule(), dataset, GRID, tmp_path / "x.parquet")
    pd.DataFrame({"ts": world.TIMES}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column 'v' is missing"):
        factor_path(rule(), dataset, GRID, tmp_path / "x.parquet")
    absent = Rule.model_validate({"driver": "depeg", "currency": "DAI", "reference": 0.01})
    with pytest.raises(DataError, match="a rule follows 'DAI'"):
        factor_path(absent, dataset, GRID, tmp_path / "x.parquet")


LEAF = 'value = {value}, unit = "fraction", label = "A", source = "test"'
DEPEG = '{ driver = "depeg", currency = "USDT", reference = 0.01, cap = 4.0 }'


def written(tmp_path: Path, table: str, leaf: str, rule_text: str) -> Path:
    base = world.PARAMS.as_posix()
    file = tmp_path / "set.toml"
    file.write_text(
        f'extends = "{base}"\nname = "mine"\n[{table}]\n{leaf}, rule = {rule_text} }}\n'
    )
    return file


def test_a_set_scales_what_follows_and_hashes_its_rules(tmp_path: Path):
    leaf = "G1 = { " + LEAF.format(value=0.2)
    one = load_parameter_set(written(tmp_path, "mr6.extreme_move", leaf, DEPEG))
    two = load_parameter_set(
        written(tmp_path, "mr6.extreme_move", leaf, DEPEG.replace("4.0", "3.0"))
    )
    assert one.numbers() == two.numbers()
    assert one.hash != two.hash
    assert one.scaled({"mr6.extreme_move.G1": 2.0})["mr6"]["extreme_move"]["G1"] == 0.4
    assert one.numbers()["mr6"]["extreme_move"]["G1"] == 0.2


@pytest.mark.parametrize(
    ("leaf", "rule_text", "message"),
    [
        (LEAF.format(value=0.3), DEPEG, r"allows a factor 4: key 'mr6\.extreme_move\.G1\.value'"),
        (LEAF.format(value=0.2), DEPEG.replace("depeg", "dpeg"), r"rule\.driver' is 'dpeg'"),
        (LEAF.format(value=0.2), '{ driver = "depeg", reference = 0.01 }', r"currency' is missing"),
        (LEAF.format(value=0.2), DEPEG.replace("4.0", "0.5"), r"floor' 1 is above"),
    ],
)
def test_a_bad_rule_is_named(leaf: str, rule_text: str, message: str, tmp_path: Path):
    file = written(tmp_path, "mr6.extreme_move", "G1 = { " + leaf, rule_text)
    with pytest.raises(ConfigError, match=message):
        load_parameter_set(file)


def test_numbers_follow_in_a_run(tmp_path: Path):
    """The record of each time holds the scaled number; the path is kept for the results."""
    leaf = "G1 = { " + LEAF.format(value=0.2)
    file = written(tmp_path, "mr6.extreme_move", leaf, DEPEG)
    rows = world.index()
    rows.loc[(rows["currency"] == "USDT") & (rows["time"] == world.TIMES[3]), "usd"] = 0.97
    dataset = Dataset.open(world.write(tmp_path / "world", index=rows))
    axis = Currencies(["BTC", "ETH"])
    rules = SetRules("mine", file, axis, dataset, GRID)
    moves = rules.records(GRID).extreme_move[:, axis.position["BTC"]]
    np.testing.assert_allclose(moves, [0.2, 0.2, 0.2, *[0.6] * 6])
    path = pd.DataFrame(rules.path_rows())
    assert set(path["key"]) == {"mr6.extreme_move.G1"}
    np.testing.assert_allclose(path["value"], [1, 1, 1, *[3.0] * 6])


def test_a_file_of_a_rule_is_beside_the_file_that_states_it(tmp_path: Path):
    """Sets that inherit the rule, change its leaf or have its numbers lie in other folders."""
    key = "mr6.extreme_move.G1"
    for folder in ("rules", "mine", "candidates"):
        (tmp_path / folder).mkdir()
    series = '{ driver = "series", reference = 1.0, file = "x.parquet", column = "v" }'
    leaf = "G1 = { " + LEAF.format(value=0.2)
    base = load_parameter_set(written(tmp_path / "rules", "mr6.extreme_move", leaf, series))
    file = (tmp_path / "rules" / "x.parquet").resolve()
    (tmp_path / "mine" / "mine.toml").write_text('extends = "../rules/set.toml"\nname = "own"\n')
    inherited = load_parameter_set(tmp_path / "mine" / "mine.toml")
    assert inherited.rule_files[key].resolve() == file
    assert inherited.hash == base.hash
    candidate = tmp_path / "candidates" / "c.toml"
    write_set(candidate, "c", tmp_path / "rules" / "set.toml", base, {key: 0.25}, "test")
    found = load_parameter_set(candidate)
    assert found.rule_files[key].resolve() == file
    assert found.numbers()["mr6"]["extreme_move"]["G1"] == 0.25
    assert base.replaced("other", {"mr6.factor": 0.4}, "test").rule_files == base.rule_files
    assert not base.replaced("other", {key: 0.4}, "test").rule_files
