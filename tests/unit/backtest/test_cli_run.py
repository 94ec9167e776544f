import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import backtest.run
from backtest import cli
from backtest.cli import run as cli_run
from backtest.config import load_config
from backtest.errors import ConfigError
from backtest.memory import (
    BASE_BYTES,
    MAIN_BYTES,
    Footprint,
    check_memory,
    footprint,
    parse_size,
)
from backtest.paths import PROJECT_ROOT
from backtest.plan import Plan, Window
from backtest.progress import Pace, RunProgress, duration
from tests.unit.backtest.fake_results import write_results


CONFIG = str(PROJECT_ROOT / "configs" / "smoke.toml")
PLAN = Plan(
    dataset=Path("dataset"),
    times_us=np.arange(72),
    windows=[Window(k, 0, 24 * k, 24 * (k + 1)) for k in range(3)],
    buckets=[0, 1],
    instruments=pd.DataFrame(),
    held={0: ["A", "B"]},
    coins=[],
    currencies_known=[],
    segments=[],
    interval_seconds=3_600.0,
    num_accounts=10_000,
    input_rows={},
    quarantined_counts={},
    quarantined=[],
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces the replay by saved results; records how it was called."""
    seen: list[dict[str, Any]] = []

    def fake(config: Any, out: Path, **keys: Any) -> dict[str, Any]:
        seen.append({"name": config.name, "config": config, "out": out, **keys})
        keys["on_plan"](PLAN)
        keys["say"]("replaying [all]")
        for _ in range(6):
            keys["on_cell"](2, 1_000)
        write_results(out)
        return {
            "rows": {"in": 99, "scored": 98, "unpriced": 1, "quarantined": 0},
            "cells": {"computed": 8, "reused": 4, "failed": 0},
            "timings_seconds": {"replay": 2.0},
        }

    monkeypatch.setattr(backtest.run, "run", fake)
    return seen


def test_run_reports_and_compares(
    calls: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    assert cli.call(["run", CONFIG, "--out", str(out), "--workers", "3", "--fresh"]) == 0
    shown = capsys.readouterr()
    assert "cells: computed 8, reused 4" in shown.out
    assert "98 scored, 1 unpriced, 0 quarantined" in shown.out
    assert "Accounts liquidated" in shown.out
    assert f"report: {out / 'report' / 'index.html'}" in shown.out
    assert (out / "report" / "index.html").is_file()
    assert "replaying [all]" in shown.err
    assert "12 of 12 cells" in shown.err
    (call,) = calls
    assert (call["workers"], call["fresh"], call["scheduler"]) == (3, True, None)


def test_defaults_and_quiet(
    calls: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert cli.call(["run", CONFIG, "--quiet", "--no-report"]) == 0
    shown = capsys.readouterr()
    assert not shown.err
    assert "report:" not in shown.out
    (call,) = calls
    assert call["out"] == Path("build/runs/smoke")
    assert call["fresh"] is False
    assert not (tmp_path / "build/runs/smoke/report").exists()


@pytest.mark.usefixtures("calls")
def test_a_run_without_details_has_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = Path(CONFIG).read_text().replace("[replay]", "[replay]\ndetails = false")
    params = str(Path(CONFIG).parent / "params")
    (tmp_path / "smoke.toml").write_text(text.replace("params/", f"{params}/"))
    assert cli.call(["run", str(tmp_path / "smoke.toml"), "--out", str(tmp_path / "out")]) == 0
    assert "no report: replay.details is false" in capsys.readouterr().out
    assert not (tmp_path / "out" / "report").exists()


@pytest.mark.usefixtures("calls")
def test_a_run_that_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["run", CONFIG, "--out", str(tmp_path / "out"), "--memory-limit", "800MB"]
    assert cli.call(words) == 2
    shown = capsys.readouterr()
    assert "--memory-limit is 0.80 GB; the run is predicted to need" in shown.err
    assert "fewer --workers" in shown.err


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("size", ["4XB", "GB", "-1GB", "0", "1e9"])
def test_a_bad_size_is_refused(size: str, capsys: pytest.CaptureFixture[str]):
    assert cli.call(["run", CONFIG, f"--memory-limit={size}"]) == 2
    assert f"--memory-limit is '{size}'" in capsys.readouterr().err


def test_files_of_the_connection_are_passed_on(calls: list[dict[str, Any]], tmp_path: Path):
    words = ["run", CONFIG, "--out", str(tmp_path / "out"), "--quiet", "--no-report"]
    files = [f"--tls-{name}={tmp_path / name}" for name in ("ca-file", "cert", "key")]
    assert cli.call([*words, "--scheduler", "tls://host:1", *files]) == 0
    (call,) = calls
    assert call["scheduler"] == "tls://host:1"
    engine = call["config"].engine
    found = [engine.tls_ca_file, engine.tls_cert, engine.tls_key]
    assert found == [tmp_path / name for name in ("ca-file", "cert", "key")]


@pytest.mark.usefixtures("calls")
def test_files_of_the_connection_are_needed_together(capsys: pytest.CaptureFixture[str]):
    assert cli.call(["run", CONFIG, "--tls-key=k"]) == 2
    assert "command line: key 'engine.tls_ca_file', 'tls_cert' and" in capsys.readouterr().err


def test_an_interrupt_stops_and_later_ones_change_nothing():
    """The main thread hears it while another one computes."""
    heard = threading.Event()

    def compute(stop: threading.Event) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert stop.wait(300)
        os.kill(os.getpid(), signal.SIGINT)
        heard.set()

    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            cli_run._in_thread(compute, patience=30.0)
        assert heard.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


def test_no_such_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.call(["run", str(tmp_path / "none.toml")]) == 2
    assert "none.toml: no such configuration file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4e9), ("512 MiB", 2**29), (".5gb", 5e8), ("2000", 2000), ("1.5 TB", 1.5e12)],
)
def test_sizes(text: str, size: float):
    assert parse_size(text) == size


def shape(**keys: Any) -> Footprint:
    every: dict[str, Any] = {"accounts": 10_000, "buckets": 4, "instruments": 200, "times": 240}
    every.update({"window_times": 24, "sets": 2, "workers": 2, **keys})
    return footprint(**every)


def test_footprint_grows_with_what_is_in_memory():
    usual = shape()
    assert usual.base == BASE_BYTES
    assert shape(buckets=8).accounts < usual.accounts
    assert shape(workers=4).accounts == 2 * usual.accounts
    assert shape(sets=4).tables == 2 * usual.tables
    assert shape(traces=True).total > usual.total
    assert shape(buckets=1).accounts == 10_000 * 24 * 450
    assert shape(buckets=1, simulates=True).accounts == 2 * 10_000 * 24 * 450
    assert shape(accounts=0, buckets=0).accounts == 0
    assert shape(processes=2).base == 2 * BASE_BYTES + MAIN_BYTES
    assert shape(processes=2).tables == 2 * usual.tables
    assert shape(processes=2).accounts == usual.accounts


def test_check_memory_accepts_what_fits():
    config = load_config(CONFIG).with_engine({"workers_kind": "threads"})
    needed = check_memory(config, PLAN, 2 * 10**9, 2)
    assert needed.total < 2 * 10**9
    with pytest.raises(ConfigError):
        check_memory(config, PLAN, needed.total - 1, 2)


def test_processes_need_more_and_are_no_more_than_buckets():
    config, limit = load_config(CONFIG), 10**10
    assert len(PLAN.buckets) == 2
    two = check_memory(config, PLAN, limit, 2)
    assert two.base == 2 * BASE_BYTES + MAIN_BYTES
    assert check_memory(config, PLAN, limit, 9) == two
    assert check_memory(config, PLAN, limit, 1).base == BASE_BYTES


def test_pace_is_that_of_the_last_minute():
    clock = Clock()
    pace = Pace(cells=100, account_times=1_000, now=clock)
    assert pace.seconds_left is None
    assert "time left unknown" in pace.text()
    clock.now = 100.0
    pace.advance(10)
    assert pace.account_times_per_second == pytest.approx(1.0)
    assert pace.seconds_left == pytest.approx(900.0)
    for _ in range(20):
        clock.now += 5.0
        pace.advance(2)
    assert pace.account_times_per_second == pytest.approx(4.0)
    assert pace.text() == "50 of 100 cells, 4 account-times a second, 2 min left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (119.0, "119 s"),
        (120.0, "2 min"),
        (3_599.0, "1 h 00 min"),
        (9e3, "2 h 30 min"),
    ],
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


def test_lines_come_every_few_seconds(capsys: pytest.CaptureFixture[str]):
    clock = Clock()
    with RunProgress("lines", now=clock) as progress:
        progress.advance(1)
        progress.start(cells=10, account_times=100)
        for _ in range(10):
            clock.now += 2.0
            progress.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" of ")[0] for line in lines] == ["3", "6", "9", "10"]


def test_the_bar_shows_cells_speed_and_time_left(capsys: pytest.CaptureFixture[str]):
    with RunProgress("bar") as progress:
        progress.say("building [market]")
        progress.start(cells=10, account_times=100)
        progress.advance(10)
    text = capsys.readouterr().err
    assert "building [market]" in text
    assert "10 of 10 cells" in text
