"""The size of the impact, and the size at which liquidations tip into a cascade, in whole runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest

from backtest import tipping as module
from backtest.cli import tipping as command
from backtest.config import RunConfig
from backtest.errors import ConfigError, RunError
from backtest.liquidation_rules import scaled
from backtest.params_liquidation import load_liquidation
from backtest.reference.impact import price_move
from backtest.report.build import build_report
from backtest.tipping import SEARCH, WORK, Tipping, tipping
from tests.unit.backtest import tiny_world
from tests.unit.backtest.test_impact_runs import TABLES, moving, rule_file, tables
from tests.unit.backtest.test_invariances import Results, same_bits
from tests.unit.backtest.test_simulate import ALL, RULES, SIMULATE, config, poor


pytestmark = pytest.mark.slow
ASKED = Tipping(lowest=1.0, highest=16.0, factor=4.0, amplification=1.5, halvings=2)
MODELS = ("linear", "square_root", "depth")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tipping")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Path:
    return poor(folder / "world")


@pytest.fixture(scope="module")
def chosen(dataset: Path, folder: Path) -> RunConfig:
    return moving(dataset, rule_file(folder))


@pytest.fixture(scope="module")
def out(chosen: RunConfig, folder: Path) -> Path:
    tiny_world.replay(chosen, folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def static(dataset: Path, folder: Path) -> Results:
    tiny_world.replay(config(dataset, SIMULATE), folder / "static")
    return tables(folder / "static")


def times(chosen: RunConfig, scale: float) -> RunConfig:
    content = chosen.model_dump()
    return RunConfig.model_validate(
        content | {"liquidation": content["liquidation"] | {"impact_scale": scale}}
    )


def found(chosen: RunConfig, out: Path, asked: Tipping = ASKED) -> list[dict[str, Any]]:
    with tiny_world.devices(1):
        return tipping(out, chosen, asked, workers=1)


@pytest.fixture(scope="module")
def rows(chosen: RunConfig, out: Path) -> list[dict[str, Any]]:
    return found(chosen, out)


@pytest.mark.parametrize("model", MODELS)
def test_scale_0_is_the_static_run_to_the_bit(
    static: Results, dataset: Path, folder: Path, model: str
):
    file = rule_file(folder / model)
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"linear"', f'"{model}"', 1), encoding="utf-8")
    tiny_world.replay(times(moving(dataset, file), 0.0), folder / f"none-{model}")
    same_bits(static, tables(folder / f"none-{model}"), ALL)


def test_a_scale_is_a_multiple_of_the_coefficient(out: Path, dataset: Path, folder: Path):
    half = times(moving(dataset, rule_file(folder, 0.05)), 2.0)
    tiny_world.replay(half, folder / "twice-half")
    same_bits(tables(out), tables(folder / "twice-half"), TABLES)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("usd", [-5e3, 3e5, -9e8])
def test_moves_of_a_scale(model: str, usd: float):
    """Linear and root times the scale; depth as if so much more went through the book."""
    numbers = load_liquidation(RULES["okx"]).numbers()
    numbers["impact"] |= {"model": model, "max_move": 1e9}
    once, thrice = (price_move(usd, "BTC", scaled(numbers, x), 0.03) for x in (1.0, 3.0))
    expected = price_move(3.0 * usd, "BTC", numbers, 0.03) if model == "depth" else 3.0 * once
    assert thrice == pytest.approx(expected, rel=1e-12)
    assert price_move(usd, "BTC", scaled(numbers, 0.0), 0.03) == 0.0
    assert scaled(numbers, 1.0) is numbers


def test_the_search_brackets_the_tipping_point(rows: list[dict[str, Any]], static: Results):
    """1 holds, 4 tips; then 2 and the root of 8."""
    assert [row["scale"] for row in rows] == pytest.approx([0.0, 1.0, 2.0, 8.0**0.5, 4.0])
    assert [row["tips"] for row in rows] == [False, False, False, False, True]
    assert [row["is_tipping_point"] for row in rows] == [row["tips"] for row in rows]
    assert rows[0]["notional_usd"] == static["liquidated"]["notional_usd"].sum()
    assert rows[0]["liquidated"] == static["liquidated"]["account_id"].nunique()
    assert (rows[0]["amplification"], rows[0]["rounds"]) == (1.0, 0)
    for row in rows:
        assert row["amplification"] == row["notional_usd"] / rows[0]["notional_usd"]
        assert row["accounts_amplification"] == row["liquidated"] / rows[0]["liquidated"]
        assert row["stands_still"]
    assert rows[-1]["amplification"] > ASKED.amplification > rows[-2]["amplification"]


def test_scale_1_is_the_run(rows: list[dict[str, Any]], out: Path):
    last = tables(out)["impact_rounds"].iloc[-1]
    for column in ("notional_usd", "liquidated", "largest_move_frac"):
        assert rows[1][column] == last[column]
    assert rows[1]["rounds"] == last["round"]


def test_rounds_that_do_not_suffice_tip(chosen: RunConfig, out: Path):
    asked = Tipping(1.0, 4.0, 4.0, amplification=1e3, halvings=0, most_rounds=2)
    few = found(chosen, out, asked)
    assert [row["stands_still"] for row in few] == [True, False, False]
    assert [row["rounds"] for row in few] == [0, 2, 2]
    # 0.0007 % and 0.5 %: less than 1 %.
    assert not any(row["tips"] for row in few)
    few = found(chosen, out, replace(asked, unsettled_frac=0.001))
    assert few[1]["largest_change_frac"] < 0.001 < few[2]["largest_change_frac"]
    assert [row["is_tipping_point"] for row in few] == [False, False, True]
    none = found(chosen, out, Tipping(0.25, 1.0, 4.0, amplification=1e3))
    assert not any(row["tips"] for row in none)


def test_a_stopped_search_goes_on(rows: list[dict[str, Any]], chosen: RunConfig, out: Path):
    """Stopped in the second scale, then again; a search that is done replays nothing."""
    file = out / WORK / "today" / SEARCH
    file.write_text('{"scales": {"1.0', encoding="utf-8")  # damaged: all anew
    whole, calls = module.liquidated_rows, [0]

    def counted(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 8:
            raise RunError("stopped")
        return whole(*given)

    with mock.patch.object(module, "liquidated_rows", counted):
        with pytest.raises(RunError, match="stopped"):
            found(chosen, out)
        assert set(json.loads(file.read_text())["scales"]) == {"0.0 in 0", "1.0 in 50"}
        assert found(chosen, out) == rows
        before = calls[0]
        assert found(chosen, out) == rows
        assert calls[0] == before
    assert {path.name for path in file.parent.iterdir()} == {SEARCH, "run.json"}


def test_command_and_report(
    rows: list[dict[str, Any]], out: Path, capsys: pytest.CaptureFixture[str]
):
    with tiny_world.devices(1):
        command.tipping(
            out,
            None,
            lowest=1.0,
            highest=16.0,
            factor=4.0,
            amplification=1.5,
            halvings=2,
            workers=1,
            quiet=True,
        )
    assert "today: tipping point 4 times the impact of the run: 1.98 times the notional" in (
        capsys.readouterr().out
    )
    files = build_report(out)
    assert "impact_tipping.png" in {file.name for file in files.figures}
    assert "Tipping point" in files.page.read_text(encoding="utf-8")
    saved = pd.read_parquet(out / "report" / "tables" / "impact_tipping.parquet")
    assert saved["scale"].tolist() == [row["scale"] for row in rows]
    feedback = pd.read_parquet(out / "report" / "tables" / "impact_feedback.parquet")
    rounds = tables(out)["impact_rounds"]["liquidated"]
    assert feedback["accounts_amplification"].tolist() == [rounds.iloc[-1] / rounds.iloc[0]]


def test_what_cannot_be_searched(dataset: Path, folder: Path, chosen: RunConfig):
    with pytest.raises(ConfigError, match="its liquidations move no prices"):
        found(config(dataset, SIMULATE), folder / "static")
    with pytest.raises(ConfigError, match="no parameter set 'x'; this run has 'today'"):
        tipping(folder / "out", chosen, ASKED, names=["x"])
    refused: tuple[dict[str, Any], ...] = (
        {"lowest": 0.0},
        {"factor": 1.0},
        {"amplification": 1.0},
        {"highest": 0.1},
    )
    for wrong in refused:
        with pytest.raises(ConfigError, match=f"'{next(iter(wrong))}' is .*; allowed: "):
            Tipping(**wrong)
