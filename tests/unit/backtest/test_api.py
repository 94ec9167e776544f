"""The Python interface: light to import, typed as pandas and figures, the same as the commands."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

import backtest
from backtest import cli
from backtest.api.results import RunResults, open_results
from backtest.changes import with_changes
from backtest.config import load_config
from backtest.errors import ConfigError, DataError
from backtest.explain import explain_portfolio
from backtest.paths import PROJECT_ROOT
from tests.okx_books import merged_numbers, portfolio, swap
from tests.unit.backtest import tiny_world
from tests.unit.backtest.fake_results import Spec, write_results
from tests.unit.calibration import searched_world


CONFIGS = PROJECT_ROOT / "configs"
TODAY = CONFIGS / "params" / "okx-merged-2025-01-21.toml"
BEFORE = CONFIGS / "params" / "okx-merged-pre-2025-shocks.toml"
FILE = CONFIGS / "portfolios" / "options-and-spot.json"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    return open_results(write_results(tmp_path_factory.mktemp("run"), Spec(accounts=200, times=30)))


def in_a_new_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("heavy", ["jax", "pandas", "matplotlib", "dask"])
def test_importing_the_package_is_light(heavy: str):
    code = f"import sys, backtest; dir(backtest); print('{heavy}' in sys.modules)"
    assert in_a_new_process(code) == "False"


def test_results_open_without_the_engine():
    code = "import sys, backtest; backtest.open_results; print('backtest.run' in sys.modules)"
    assert in_a_new_process(code) == "False"


@pytest.mark.parametrize("name", backtest.__all__)
def test_every_public_name_is_there_and_documented(name: str):
    found = getattr(backtest, name)
    assert name in dir(backtest)
    assert name == "PROJECT_ROOT" or found.__doc__


def test_public_names_are_those_that_type_checkers_see():
    tree = ast.parse(Path(backtest.__file__).read_text(encoding="utf-8"))
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and "TYPE" in ast.dump(n.test))
    seen = {
        alias.asname: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(map(str, seen)) == sorted(backtest.__all__)
    for name, (module, original) in seen.items():
        assert name == original
        assert getattr(importlib.import_module(str(module)), str(original)) is getattr(
            backtest, str(name)
        )


def test_no_public_name_is_hidden_by_a_module_of_the_same_name():
    folder = Path(backtest.__file__).parent
    modules = {path.stem for path in folder.iterdir()}
    assert not modules & set(backtest.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        backtest.nothing  # noqa: B018


# -- results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["accounts", "events", "summary"])
def test_lazy_frames_hold_what_pandas_reads(results: RunResults, table: str):
    name = results.set_names[1]
    eager = results._frame(table, None, name)
    lazy = results.lazy(table, name).compute()
    assert len(eager)
    pd.testing.assert_frame_equal(
        lazy.reset_index(drop=True), eager, check_dtype=False, check_like=True
    )


def test_other_tools_read_the_same_files(results: RunResults):
    plain = pd.concat(map(pd.read_parquet, (results.path / "accounts").glob("*.parquet")))
    assert len(plain) == len(results.accounts()) == len(results.lazy("accounts"))


def test_what_is_not_there_is_named(results: RunResults):
    with pytest.raises(ConfigError, match=r"no table 'trades'; this run has accounts, events"):
        results.lazy("trades")
    with pytest.raises(ConfigError, match="no figure 'pie'; this run has frequency"):
        results.figure("pie")
    with pytest.raises(ConfigError, match="no parameter set 'yesterday'"):
        results.lazy("accounts", "yesterday")
    with pytest.raises(DataError, match="no such results folder"):
        open_results(results.path / "nowhere")


def test_every_figure_that_is_named_is_drawn(results: RunResults):
    assert "timeline" in results.figure_names
    assert all(isinstance(results.figure(name), Figure) for name in results.figure_names)


def test_the_comparison_is_that_of_the_command(
    results: RunResults, capsys: pytest.CaptureFixture[str]
):
    found: Any = results.compare()
    left, right = found.content["champion"], found.content["challenger"]
    words = ["compare", str(results.path), "--champion", left, "--challenger", right, "--json"]
    assert cli.call(words) == 0
    assert json.loads(capsys.readouterr().out) == found.content
    assert found.pairs().sum() == found.content["pairs"]["pairs"]
    assert list(found.sets.columns) == [left, right]
    assert len(found.flipped) == found.pairs()[["only_champion", "only_challenger"]].sum()
    assert found.sentence == found.content["verdict"]["sentence"]


def test_tables_are_those_of_the_report(results: RunResults):
    page = results.report()
    written = pd.read_parquet(page.parent / "tables" / "segments.parquet")
    pd.testing.assert_frame_equal(written, results.tables["segments"], check_dtype=False)


# -- a run and one of its accounts -----------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    root = tmp_path_factory.mktemp("tiny")
    config = tiny_world.config(tiny_world.write(root / "dataset"))
    return backtest.run_backtest(config, root / "out")


def test_an_explanation_is_the_reference_beside_what_was_stored(ran: RunResults):
    trace: Any = ran.traces(parameter_set=ran.set_names[0]).dropna(subset="margin_level").iloc[0]
    found: Any = ran.explain(trace["account_id"], trace["time"])
    direct = explain_portfolio(ran.path, trace["account_id"], trace["time"])
    assert found.margin.answer == direct.answer
    stored = found.stored()
    assert stored is not None
    assert found.margin.account()["total_mmr"] == pytest.approx(stored["total_mmr"], rel=1e-9)
    assert "Reference and stored" in found.text()
    assert isinstance(found.figure(), Figure)


def test_portfolios_are_those_that_explain_sees(ran: RunResults):
    account = str(ran.accounts(["account_id"])["account_id"].iloc[0])
    path = dict(ran.portfolios(account))
    times: Any = pd.DatetimeIndex(sorted(path))
    last = ran.explain(account, times[-1])
    assert len(path) == ran.manifest["replay"]["times"]
    assert path[times[-1]] == last.portfolio
    assert dict(ran.portfolios(account, times[:1])) == {times[0]: path[times[0]]}


# -- one portfolio ---------------------------------------------------------------------------------


def test_a_margin_is_that_of_the_command(capsys: pytest.CaptureFixture[str]):
    found: Any = backtest.margin(FILE, TODAY)
    assert cli.call(["margin", str(FILE), "--params", str(TODAY), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert found.now.charges().loc["BTC", "mr1"] == printed["units"]["BTC"]["mr1"]
    assert found.change().loc["total_mmr", "after"] == printed["after"]["account"]["total_mmr"]
    assert found.now.account()["status"] == printed["account"]["status"]
    cells = found.now.scenarios()
    worst: Any = -cells.groupby("unit")["pnl_usd"].min()
    assert worst.to_dict() == pytest.approx(dict(found.now.charges()["mr1"]))
    assert isinstance(found.figure(), Figure)
    assert "Before and after, USD" in found.text()


def test_the_reference_alone_gives_the_same_tables():
    file = portfolio(
        swap("BTC-USDT-SWAP", -3.0, 60_100.0),
        index_usd={"BTC": 60_000.0, "USDT": 1.0},
        balances={"USDT": 50_000.0},
    )
    found = backtest.reference_margin(file, merged_numbers())
    charges: Any = found.charges()
    assert charges.index.tolist() == ["BTC"]
    assert charges["mmr"].sum() == found.account()["derivatives_mmr"]
    assert len(found.scenarios()) == 21
    assert set(found.multipliers().index) <= {f"mr{k}" for k in range(1, 10)}


# -- a calibration ---------------------------------------------------------------------------------


def test_a_calibration_is_that_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    searched_world.use_formula(monkeypatch)
    base = searched_world.base(tmp_path)
    found = backtest.calibrate(searched_world.config(), tmp_path / "out", base=base)
    assert found.summary == searched_world.summary(tmp_path / "out")
    assert found.summary["chosen"] in set(found.tables["candidates"]["candidate"])
    assert isinstance(found.figure("frontier"), Figure)
    with pytest.raises(ConfigError, match="no figure 'pie'; allowed: frontier"):
        found.figure("pie")
    with pytest.raises(ConfigError, match="'base' is missing"):
        backtest.calibrate(searched_world.config(), tmp_path / "out")


# -- configurations and parameters -----------------------------------------------------------------


def test_changes_are_checked_like_a_file():
    smoke = load_config(CONFIGS / "smoke.toml")
    found = with_changes(smoke, {"population.accounts": 5, "report.champion": "pre-2025"})
    assert (found.population and found.population.accounts, found.report.champion) == (
        5,
        "pre-2025",
    )
    assert found.replay == smoke.replay
    with pytest.raises(ConfigError, match=r"unknown key 'population\.acounts'"):
        with_changes(smoke, {"population.acounts": 5})
    with pytest.raises(ConfigError, match=r"'populaton' is no section"):
        with_changes(smoke, {"populaton.accounts": 5})
    with pytest.raises(ConfigError, match=r"replay\.mode.*allowed.*frozen"):
        with_changes(smoke, {"replay.mode": "thawed"})


def test_parameters_as_tables():
    today = backtest.load_params(TODAY)
    table: Any = backtest.parameter_table(TODAY)
    assert len(table) == len(today.leaves())
    assert table.loc["mr6.factor", "value"] == today.numbers()["mr6"]["factor"]
    assert set(table["provenance"]) <= {"stated", "published", "derived", "assumed"}
    found: Any = backtest.parameter_differences(today, BEFORE).set_index("key")
    assert found.loc["mr6.extreme_move.G1", "a"] == table.loc["mr6.extreme_move.G1", "value"]
    assert backtest.parameter_differences(TODAY, today).empty


def test_datasets_are_opened_or_given(tmp_path: Path):
    root = tiny_world.write(tmp_path / "dataset")
    opened = backtest.Dataset.open(root)
    assert backtest.describe_dataset(root) == backtest.describe_dataset(opened)
    assert backtest.check_dataset(root).rows.items() <= backtest.describe_dataset(root).rows.items()
