import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backtest.cli.params import app
from backtest.errors import ConfigError
from backtest.paths import PROJECT_ROOT


FOLDER = PROJECT_ROOT / "configs" / "params"
TODAY = str(FOLDER / "okx-merged-2025-01-21.toml")
OLD = str(FOLDER / "okx-merged-pre-2025-shocks.toml")


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def fail(*words: str) -> tuple[ConfigError, str]:
    result = CliRunner().invoke(app, list(words))
    assert isinstance(result.exception, ConfigError)
    return result.exception, result.output


def test_check_of_good_files() -> None:
    lines = run("check", TODAY, OLD).splitlines()
    assert len(lines) == 2
    assert "ok, okx, merged, effective 2025-01-21T08:00:00Z" in lines[0]
    assert "stated" in lines[0]


def test_check_goes_on_after_a_bad_file(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(f'extends = "{TODAY}"\nname = "bad"\n[mr4.naer]\nG1 = 1\n')
    error, output = fail("check", str(bad), TODAY)
    assert error.exit_code == 2
    assert f"{bad}: unknown key 'mr4.naer'" in str(error)
    assert f"{TODAY}: ok" in output


def test_show_prints_every_number_with_its_provenance() -> None:
    text = run("show", TODAY)
    for word in ("mr4.near.G1", "0.002", "derived", "published", "assumed", "stated", "fraction"):
        assert word in text
    assert "1,630" in text


def test_show_as_json() -> None:
    found = json.loads(run("show", TODAY, "--json"))
    assert found["name"] == "okx-merged-2025-01-21"
    row = next(row for row in found["numbers"] if row["key"] == "mr6.factor")
    assert row["value"] == 0.5
    assert (row["label"], row["provenance"], row["unit"]) == ("D", "derived", "fraction")


def test_diff() -> None:
    text = run("diff", TODAY, OLD)
    assert "mr6.extreme_move.G1" in text
    assert "mr4" not in text
    assert "no difference" in run("diff", TODAY, TODAY)


def test_diff_as_json_names_values_provenance_and_absent_keys(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(
        f'extends = "{TODAY}"\nname = "other"\neffective = 2026-01-01T00:00:00Z\n'
        '[mr6]\nfactor = { value = 0.5, unit = "fraction", label = "A", source = "mine" }\n'
        '[collateral.LTC]\nunit = "coin"\n'
        '[mr7.coin_linear_rate]\nOM = { value = 0.1, unit = "fraction", label = "A", source = "m" }'
    )
    found = json.loads(run("diff", TODAY, str(other), "--json"))
    assert found == [
        {
            "key": "effective",
            "what": "value",
            "a": "2025-01-21T08:00:00Z",
            "b": "2026-01-01T00:00:00Z",
        },
        {"key": "collateral.LTC.unit", "what": "value", "a": "usd", "b": "coin"},
        {"key": "mr6.factor", "what": "provenance", "a": "derived", "b": "assumed"},
        {"key": "mr7.coin_linear_rate.OM", "what": "value", "a": None, "b": 0.1},
    ]
    assert "(absent)" in run("diff", TODAY, str(other))


@pytest.mark.parametrize("command", ["check", "show", "diff"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: pmstress params {command}" in run(command, "--help")


def test_missing_file() -> None:
    error, _ = fail("show", "gone.toml")
    assert "gone.toml: no such parameter file" in str(error)
