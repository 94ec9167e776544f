from pathlib import Path

import pytest

from backtest import cli
from tests.unit.ingest.venue_files import BINANCE, binance_files, write_text


def test_a_market_of_binance_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binance_files(tmp_path)
    config = write_text(tmp_path / "b.toml", BINANCE)
    out = tmp_path / "dataset"
    assert cli.call(["ingest", str(config), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "2024-08-05 01:00 to 2024-08-05 06:00 UTC, grid of 3600 s" in printed.out
    assert "written: 17 index, 6 marks, 1 instruments" in printed.out
    assert "file 1 of 5: " in printed.err
    assert cli.call(["dataset", "check", str(out)]) == 0
    assert cli.call(["ingest", str(config), "--out", str(out), "--quiet"]) == 2
    assert "holds a dataset already" in capsys.readouterr().err


def test_too_many_bad_rows_end_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binance_files(tmp_path)
    path = tmp_path / "data/futures/um/daily/fundingRate/BTCUSDT-fundingRate-2024-08-05.csv"
    write_text(path, "calc_time,funding_interval_hours,last_funding_rate\nsoon,8,0.1\n")
    config = write_text(tmp_path / "b.toml", BINANCE.replace("*.zip", "*"))
    assert cli.call(["ingest", str(config), "--out", str(tmp_path / "d"), "--quiet"]) == 3
    error = capsys.readouterr().err
    assert "column 'calc_time', value 'soon': not a time" in error
    assert "BTCUSDT-fundingRate-2024-08-05.csv row 2" in error
