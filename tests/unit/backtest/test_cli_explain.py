import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import backtest.explain
from backtest import cli
from backtest.cli.explain import parse_account_time
from backtest.errors import ConfigError
from backtest.explain import Explained
from backtest.explain_text import account_numbers
from backtest.reference.okx import margin
from tests.okx_books import merged_numbers, portfolio, swap
from tests.unit.backtest.fake_results import write_results


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_results(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []
    numbers = merged_numbers()
    file = portfolio(
        swap("BTC-USDT-SWAP", -3.0, 60_100.0),
        index_usd={"BTC": 60_000.0, "USDT": 1.0},
        balances={"USDT": 50_000.0},
    )

    def fake(results: Path, account: str, time: pd.Timestamp, set_name: str | None) -> Explained:
        seen.extend((results, account, time, set_name))
        answer = margin(file, numbers)
        stored = account_numbers(answer) if account != "untraced" else None
        labels = {"mr7.tiers.G1": "A"}
        return Explained(
            parameter_set=set_name or "today",
            portfolio=file,
            numbers=numbers,
            labels=labels,
            answer=answer,
            stored=stored,
            moved={"USDT": -12.5} if account == "a@b" else {},
        )

    monkeypatch.setattr(backtest.explain, "explain_portfolio", fake)
    return seen


def test_steps_beside_the_stored_numbers(
    folder: Path, asked: list[Any], capsys: pytest.CaptureFixture[str]
):
    words = ["explain", str(folder), "a@b@2025-03-04T05:00Z", "--set", "proposal"]
    assert cli.call(words) == 0
    text = capsys.readouterr().out
    assert "Account a@b, parameter set proposal" in text
    assert "MR1 spot x volatility" in text
    assert "Reference and stored" in text
    assert "0.0e+00" in text
    assert "Moved by debts since the snapshot: -12.5 USDT" in text
    assert "[A] assumed" in text
    assert asked == [folder, "a@b", pd.Timestamp("2025-03-04T05:00Z"), "proposal"]


@pytest.mark.usefixtures("asked")
def test_an_account_without_traces(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.call(["explain", str(folder), "untraced@2025-03-04T05:00Z"]) == 0
    text = capsys.readouterr().out
    assert "Nothing stored to compare with" in text
    assert "section [traces]" in text


@pytest.mark.usefixtures("asked")
def test_json(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.call(["explain", str(folder), "a@2025-03-04T05:00Z", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["account_id"] == "a"
    assert found["account"]["total_mmr"] == found["stored"]["total_mmr"]
    assert found["account"]["theta"]["mr2"] is None
    assert found["units"]["BTC"]["mr1_cells"][0]["price_move"] == -0.12
    assert found["detail"]["units"]["BTC"]["mr4"]
    assert found["portfolio"]["balances"] == {"USDT": 50_000.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "'a' has no account and time"),
        ("@2025-03-04", "has no account and time"),
        ("a@", "has no account and time"),
        ("a@tomorrow morning", "'tomorrow morning' in 'a@tomorrow morning' is no time"),
        ("a@NaT", "is no time"),
    ],
)
def test_bad_requests(text: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.call(["explain", str(folder), text]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "allowed: ACCOUNT@TIME" in error


def test_no_such_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.call(["explain", str(tmp_path / "none"), "a@2025-03-04"]) == 3
    assert "none: no such results folder" in capsys.readouterr().err


def test_times_are_utc():
    expected = ("a", pd.Timestamp("2025-03-04T05:00", tz="UTC"))
    assert parse_account_time("a@2025-03-04 05:00") == expected
    assert parse_account_time("a@2025-03-04T07:00+02:00") == expected


def test_errors_of_the_explanation_pass(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(*_: Any) -> None:
        raise ConfigError("the nearest time is 05:00")

    monkeypatch.setattr(backtest.explain, "explain_portfolio", refuse)
    assert cli.call(["explain", str(folder), "a@2025-03-04T05:01Z"]) == 2
    assert capsys.readouterr().err == "error: the nearest time is 05:00\n"
