"""Which liquidation rules a run has, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.config import RunConfig
from backtest.errors import ConfigError
from backtest.liquidation_rules import file_hashes, hedging_perpetuals, rules_of_sets
from tests.unit.backtest import tiny_world


FILES = tiny_world.ROOT / "configs" / "liquidation"


def config(liquidation: dict[str, Any], **replay: Any) -> RunConfig:
    chosen = tiny_world.config(Path("nowhere"), **replay)
    return RunConfig.model_validate(chosen.model_dump() | {"liquidation": liquidation})


def simulating(file: Path, **more: Any) -> RunConfig:
    return config({"mode": "simulate", "rules": {"okx": file}, **more})


def test_a_run_that_measures_has_none():
    assert rules_of_sets(config({})) == []
    assert file_hashes(config({})) == []


def test_a_run_sets_its_own_fund_and_policy():
    chosen = simulating(FILES / "okx-default.toml", fund_usd=5.0, adl_policy="pro_rata")
    (numbers,) = rules_of_sets(chosen)
    assert numbers["fund"]["start_usd"] == 5.0
    assert numbers["adl"]["policy"] == "pro_rata"
    assert numbers["slices"]["fraction"] == 0.1
    (again,) = rules_of_sets(simulating(FILES / "okx-default.toml"))
    assert again["fund"]["start_usd"] == 0.0
    assert len(file_hashes(chosen)) == 1


def test_a_model_without_a_file_is_named():
    with pytest.raises(ConfigError, match=r"liquidation\.rules names no file .* 'okx'"):
        rules_of_sets(config({"mode": "simulate"}))


def test_a_file_of_another_model_is_refused():
    with pytest.raises(ConfigError, match="is of the model 'bybit'; allowed: 'okx'"):
        rules_of_sets(simulating(FILES / "bybit-default.toml"))


def test_an_impact_is_taken_as_the_file_has_it(tmp_path: Path):
    text = (FILES / "okx-default.toml").read_text(encoding="utf-8")
    changed = text.replace(
        '[impact]\nmodel = { value = "none"', '[impact]\nmodel = { value = "linear"'
    )
    assert changed != text
    file = tmp_path / "impact.toml"
    file.write_text(changed, encoding="utf-8")
    (numbers,) = rules_of_sets(simulating(file))
    assert numbers["impact"]["model"] == "linear"


def test_hedges_are_perpetuals_in_coins_that_are_held():
    known = tiny_world.instruments()
    names = known["instrument_id"].to_numpy(str)
    found = hedging_perpetuals(known, names == tiny_world.CALL)
    assert names[found].tolist() == [tiny_world.SWAP]
    assert not hedging_perpetuals(pd.DataFrame(known.head(0)), np.zeros(0, bool)).any()
