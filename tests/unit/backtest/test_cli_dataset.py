import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backtest.cli.dataset import _source_lines, app
from backtest.dataset import Dataset
from backtest.errors import ConfigError, DataError, PmStressError
from tests.unit.backtest import dataset_rows as rows


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def fail(*words: str) -> tuple[PmStressError, str]:
    result = CliRunner().invoke(app, list(words))
    assert isinstance(result.exception, PmStressError)
    return result.exception, result.output


def test_sources_are_described_in_words() -> None:
    told = {"marks": {"kind": "csv", "files": 2}, "usd": {}, "index_from_marks": False}
    assert list(_source_lines("sources", told)) == [
        "sources: marks: kind csv, files 2",
        "sources: usd: none",
        "sources: index_from_marks: False",
    ]
    assert list(_source_lines("seed", 7)) == ["source seed: 7"]


def test_describe(tmp_path: Path) -> None:
    rows.write(tmp_path)
    text = run("describe", str(tmp_path))
    assert "tiny: 2024-08-01T22:00:00Z to 2024-08-02T02:00:00Z" in text
    assert "instruments: 2 option, 1 perpetual, 1 spot" in text
    assert "accounts: 2; snapshots: 1 (2024-08-01T22:00:00Z" in text
    found = json.loads(run("describe", str(tmp_path), "--json"))
    assert found["rows"]["marks"] == 10


def test_check_of_a_good_dataset(tmp_path: Path) -> None:
    rows.write(tmp_path)
    text = run("check", str(tmp_path))
    assert "grid: 5 times, 0 missing" in text
    assert f"options without a volatility or forward: 1 rows ({rows.CALL})" in text
    assert json.loads(run("check", str(tmp_path), "--json"))["quarantined"] == 0


def test_check_of_quarantined_rows_fails_with_3_and_says_so(tmp_path: Path) -> None:
    bad = rows.balances()
    bad.loc[0, "currency"] = "LUNA"
    rows.write(tmp_path, balances=bad)
    error, output = fail("check", str(tmp_path))
    assert error.exit_code == 3
    assert "1 rows are quarantined (balances: 1 unknown currency)" in str(error)
    assert "account_id=alice currency=LUNA: unknown currency" in output
    error, output = fail("check", str(tmp_path), "--json")
    found = json.loads(output)
    assert found["reasons"]["balances"] == {"unknown currency": 1}
    assert found["first_rows"][0]["row"] == 0


def test_check_reports_gaps_expired_positions_and_notes(tmp_path: Path) -> None:
    positions = rows.positions().assign(instrument_id=rows.OLD_CALL)
    kept = [rows.TIMES[place] for place in (0, 3, 4)]
    rows.write(
        tmp_path,
        index=rows.at(rows.index(), kept),
        marks=rows.at(rows.marks(), kept),
        positions=positions,
        accounts=rows.accounts().iloc[:1],
    )
    text = run("check", str(tmp_path))
    assert "gap: 2 times after 2024-08-01T22:00:00Z, before 2024-08-02T01:00:00Z" in text
    assert "positions in expired instruments: 2 rows" in text
    assert "note: 1 accounts of 'balances' have no row in 'accounts'" in text


def test_no_dataset_is_bad_data(tmp_path: Path) -> None:
    error, _ = fail("describe", str(tmp_path))
    assert isinstance(error, DataError)
    assert error.exit_code == 3


def config(tmp_path: Path, text: str) -> str:
    file = tmp_path / "run.toml"
    file.write_text(text)
    return str(file)


def test_build_of_a_generated_market(tmp_path: Path) -> None:
    file = config(
        tmp_path,
        '[market]\nkind = "generated"\ncoins = ["BTC", "ETH"]\n'
        "start = 2025-03-03T00:00:00Z\nend = 2025-03-04T00:00:00Z\n[run]\nother = 1\n",
    )
    text = run("build", file, "--out", str(tmp_path / "market"))
    assert "currencies with an index:" in text
    dataset = Dataset.open(tmp_path / "market")
    assert len(dataset.index()) > 24
    assert "0 missing" in run("check", str(tmp_path / "market"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[run]\n", r"section \[market\] is missing"),
        ('[market]\nkind = "gird"', "key 'market.kind' is 'gird'; allowed: history, chain, gen"),
        ("[market]\nseed = 1", "key 'market.kind' is missing; allowed: history"),
        ('[market]\nkind = "generated"\nsead = 1', "'market.sead' .*did you mean 'market.seed'"),
        (
            '[market]\nkind = "generated"\n[market.crash]\ndepht = 0.1',
            "'market.crash.depht' .*did you mean 'market.crash.depth'",
        ),
        ('[market]\nkind = "generated"\nseed = -1', "key 'market.seed' is -1; allowed: greater"),
        ("[market", "not valid TOML"),
    ],
)
def test_bad_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    result = CliRunner().invoke(app, ["build", config(tmp_path, text), "--out", str(tmp_path)])
    with pytest.raises(ConfigError, match=rf"run\.toml: .*{message}"):
        raise result.exception or AssertionError(result.output)


@pytest.mark.parametrize("command", ["build", "check", "describe"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: pmstress dataset {command}" in run(command, "--help")
