import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from typer.testing import CliRunner

from backtest.cli.report import app
from backtest.errors import ConfigError, DataError
from backtest.report import frames
from backtest.report.compare import (
    OUTCOMES,
    bands,
    flip_table,
    flipped_accounts,
    mcnemar,
    pair_accounts,
    pairing,
)
from backtest.report.comparison import comparison
from backtest.report.reader import Results
from tests.unit.backtest.fake_results import Spec, write_results


SPEC = Spec(accounts=500, times=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("run"), SPEC)


@pytest.fixture
def results(folder: Path) -> Results:
    return Results(folder)


def liquidated(results: Results, name: str) -> set[str]:
    frame = results.accounts(["account_id", "scored", "episodes"], name)
    hit = (frames.numbers(frame, "scored") > 0) & (frames.numbers(frame, "episodes") > 0)
    return set(frames.rows(frame, hit)["account_id"].tolist())


def test_mcnemar_by_hand_and_against_scipy():
    test = mcnemar(25, 10)
    assert test.statistic == pytest.approx(225 / 35, rel=1e-12)
    assert test.p_value == pytest.approx(stats.chi2.sf(225 / 35, 1), rel=1e-10)
    assert test.exact_p_value == pytest.approx(stats.binomtest(10, 35).pvalue, rel=1e-10)
    assert mcnemar(3, 3).exact_p_value == 1.0
    assert mcnemar(0, 0).p_value is None


def test_pairing_is_set_arithmetic(results: Results):
    a, b = liquidated(results, "today"), liquidated(results, "proposal")
    pair = pairing(results, "today", "proposal")
    assert (pair.both, pair.only_champion, pair.only_challenger) == (
        len(a & b),
        len(a - b),
        len(b - a),
    )
    assert pair.only_champion > 0
    frame = results.accounts(["scored"], "today")
    assert pair.pairs == (frames.numbers(frame, "scored") > 0).sum()
    assert pair.pairs + pair.not_paired == len(frame)


def test_swapping_sets_swaps_the_corners(results: Results):
    there, back = pairing(results, "today", "proposal"), pairing(results, "proposal", "today")
    assert (there.only_champion, there.only_challenger) == (
        back.only_challenger,
        back.only_champion,
    )
    assert there.test == back.test


def test_flip_table_adds_up_in_every_dimension(results: Results):
    pair = pairing(results, "today", "proposal")
    table = flip_table(results, "today", "proposal")
    dimensions = set(table["dimension"].tolist())
    assert len(dimensions) == 4
    for dimension in dimensions:
        part = frames.rows(table, table["dimension"] == dimension)
        assert frames.count(part, "accounts") == pair.pairs
        for outcome in OUTCOMES:
            assert frames.count(part, outcome) == getattr(pair, outcome)
    for row in frames.records(table):
        assert sum(row[o] for o in OUTCOMES) == row["accounts"]
        assert row["net"] == row["only_challenger"] - row["only_champion"]


def test_flipped_accounts_are_those_that_flip(results: Results):
    a, b = liquidated(results, "today"), liquidated(results, "proposal")
    flipped = flipped_accounts(results, "today", "proposal")
    assert set(flipped["account_id"].tolist()) == a ^ b
    saved = frames.rows(flipped, flipped["outcome"] == "only_champion")
    assert set(saved["account_id"].tolist()) == a - b
    assert frames.numbers(saved, "level_champion").max() <= 1
    assert frames.numbers(saved, "level_challenger").min() > 1
    assert not flipped["flip_time"].isna().to_numpy().any()
    assert (np.diff(frames.numbers(flipped, "start_gross_notional_usd")) <= 0).all()


def test_bands_at_their_edges():
    pairs = pd.DataFrame(
        {
            "segment": ["a", "a", None, "b"],
            "start_gross_notional_usd": [100.0, 100.0, 0.0, 100.0],
            "start_option_notional_usd": [0.0, 25.0, 0.0, 76.0],
            "start_net_delta_usd": [-9.0, 10.0, 0.0, -51.0],
        }
    )
    found = {k: list(v) for k, v in bands(pairs).items()}
    assert found["segment"] == ["a", "a", "(no segment)", "b"]
    options = found["option share of gross notional"]
    assert options == ["no options", "up to 25 %", "no positions", "above 75 %"]
    hedges = [h.split(":")[0] for h in found["|net delta| / gross notional"]]
    assert hedges == ["hedged", "partly hedged", "no positions", "directional"]


def rewrite(folder: Path, stem: str, frame: pd.DataFrame) -> None:
    for file in (folder / "accounts").glob(f"{stem}-*.parquet"):
        file.unlink()
    pq.write_table(
        pa.Table.from_pandas(frame, preserve_index=False), folder / "accounts" / f"{stem}-x.parquet"
    )


def test_order_of_rows_does_not_matter(tmp_path: Path, results: Results):
    write_results(tmp_path, SPEC)
    frame = Results(tmp_path).accounts(None, "proposal")
    rewrite(tmp_path, "1", frame.sample(frac=1, random_state=3))
    shuffled = Results(tmp_path)
    assert pairing(shuffled, "today", "proposal") == pairing(results, "today", "proposal")
    pd.testing.assert_frame_equal(
        flip_table(shuffled, "today", "proposal"), flip_table(results, "today", "proposal")
    )


def test_account_missing_under_one_set_is_not_paired(tmp_path: Path, results: Results):
    write_results(tmp_path, SPEC)
    frame = Results(tmp_path).accounts(None, "proposal")
    scored = np.flatnonzero(frame["scored"].to_numpy() > 0)[0]
    rewrite(tmp_path, "1", frame.drop(index=int(scored)))
    pair = pairing(Results(tmp_path), "today", "proposal")
    assert pair.not_paired == pairing(results, "today", "proposal").not_paired + 1


def test_account_twice_is_an_error(tmp_path: Path):
    write_results(tmp_path, SPEC)
    frame = Results(tmp_path).accounts(None, "proposal")
    rewrite(tmp_path, "1", pd.concat([frame, frame.head(1)]))
    with pytest.raises(DataError, match="1 accounts twice"):
        pair_accounts(Results(tmp_path), "today", "proposal")


def test_one_set_against_itself_is_refused(results: Results):
    with pytest.raises(ConfigError, match="name two sets"):
        comparison(results, "today", "today")


def test_comparison_is_plain_json(results: Results):
    found = comparison(results, "today", "proposal")
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found
    pair = pairing(results, "today", "proposal")
    assert found["pairs"]["only_champion"] == pair.only_champion
    assert found["sets"][1]["newly_saved"] == pair.only_champion
    assert isinstance(found["sets"][1]["newly_saved"], int)
    assert found["sets"][0]["newly_saved"] is None
    assert found["bootstrap"]["times"] == SPEC.times


def test_champion_of_the_command_overrides_the_configuration(results: Results):
    found = comparison(results, "proposal", "today")
    assert [s["role"] for s in found["sets"]] == ["champion", "challenger"]
    assert found["sets"][0]["parameter_set"] == "proposal"


def test_compare_command(folder: Path):
    arguments = ["compare", str(folder), "--champion", "today", "--challenger", "proposal"]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "140"})
    assert shown.exit_code == 0, shown.output
    for word in ("Per account-day", "Newly liquidated", "short options", "McNemar", "hedged"):
        assert word in shown.output
    as_json = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(as_json.output)["champion"] == "today"


def test_compare_command_takes_the_champion_of_the_run(folder: Path, tmp_path: Path):
    arguments = ["compare", str(folder), "--challenger", "today"]
    shown = CliRunner().invoke(app, arguments)
    assert isinstance(shown.exception, ConfigError)
    assert "names no report.champion" in str(shown.exception)
    assert "'proposal'" in str(shown.exception)
    shutil.copytree(folder, tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["report"]["champion"] = "proposal"
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    named = ["compare", str(tmp_path / "run"), "--challenger", "today", "--json"]
    assert json.loads(CliRunner().invoke(app, named).output)["champion"] == "proposal"


def test_compare_command_with_unknown_set(folder: Path):
    arguments = ["compare", str(folder), "--champion", "today", "--challenger", "[red]no[/red]"]
    shown = CliRunner().invoke(app, arguments)
    assert isinstance(shown.exception, ConfigError)
    assert "[red]no[/red]" in str(shown.exception)


@pytest.mark.parametrize("command", ["report", "compare"])
def test_help_has_an_example(command: str):
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert f"Example: pmstress {command}" in shown.output
