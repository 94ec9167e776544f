from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backtest.dataset import utc
from backtest.errors import ConfigError, DataError
from backtest.quality import check
from tests.unit.ingest.venue_files import (
    BINANCE,
    HOUR_MS,
    KLINE,
    START,
    START_MS,
    binance_files,
    kline_lines,
    make,
    write_zip,
)


def hours(*numbers: int) -> list[pd.Timestamp]:
    return [utc(START + pd.Timedelta(hours=n)) for n in numbers]


def test_bars_count_at_their_end(tmp_path: Path) -> None:
    binance_files(tmp_path)
    report = make(tmp_path, BINANCE)
    index = report.dataset.index()
    btc = index[index["currency"] == "BTC"]
    assert list(btc["time"]) == hours(1, 2, 3, 4, 5)
    np.testing.assert_allclose(
        btc["usd"], 0.999 * np.array([60_000.0, 60_500.0, 59_000.0, 58_000.0, 58_500.0]), rtol=1e-15
    )
    assert set(index.loc[index["currency"] == "USD", "usd"]) == {1.0}
    assert "assumed: USDT in USD at 6 grid times" in report.notes


def test_mark_bars_come_before_trade_bars(tmp_path: Path) -> None:
    binance_files(tmp_path)
    marks = make(tmp_path, BINANCE).dataset.marks()
    assert list(marks["instrument_id"].astype(str).unique()) == ["BTCUSDT"]
    assert list(marks["time"]) == hours(1, 2, 3, 4, 5, 6)
    # The sixth hour has a trade bar only.
    assert list(marks["mark_price"]) == [60_010.0, 60_510.0, 59_010.0, 58_010.0, 58_510.0, 58_699.0]
    np.testing.assert_allclose(marks["low"], 0.99 * marks["mark_price"])
    np.testing.assert_allclose(marks["high"], 1.01 * marks["mark_price"])


def test_funding_is_paid_at_the_minute_of_its_time(tmp_path: Path) -> None:
    binance_files(tmp_path)
    marks = make(tmp_path, BINANCE).dataset.marks()
    paid = marks[marks["funding_rate"].notna()]
    assert list(paid["time"]) == hours(3)
    assert list(paid["funding_rate"]) == [0.0001]


def test_overlapping_files_are_counted_once(tmp_path: Path) -> None:
    binance_files(tmp_path)
    report = make(tmp_path, BINANCE)
    (tally,) = report.tallies.values()
    assert (tally.files, tally.read, tally.quarantined) == (5, 5 + 3 + 4 + 6 + 1, 0)
    assert tally.left_out == {"repeated": 2}
    assert check(report.dataset).quarantined == 0


def test_rows_of_a_file_that_contradict_each_other_are_quarantined(tmp_path: Path) -> None:
    binance_files(tmp_path)
    lines = [KLINE, *kline_lines([1.0], START_MS)]
    path = "data/futures/um/daily/markPriceKlines/BTCUSDT/1h/BTCUSDT-1h-2024-08-05.zip"
    write_zip(tmp_path / path, lines)
    report = make(tmp_path, BINANCE.replace("[ingest]", "[ingest]\nmax_quarantined_share = 0.5"))
    assert report.quarantine is not None
    rows = pd.read_csv(report.quarantine)
    assert list(rows["reason"]) == ["duplicate key", "duplicate key"]
    assert sorted(rows["file"])[0] == f"{path}!BTCUSDT-1h-2024-08-05.csv"
    assert set(rows["row"]) == {2}
    first = report.dataset.marks().iloc[0]
    assert first["mark_price"] == 60_099.0, "the trade bar is what is left"


def test_bars_in_a_longer_interval(tmp_path: Path) -> None:
    binance_files(tmp_path)
    text = BINANCE.replace('interval = "1h"', 'interval = "3h"')
    marks = make(tmp_path, text).dataset.marks()
    assert list(marks["time"]) == hours(3, 6)
    assert marks["mark_price"].tolist() == [59_010.0, 58_510.0]
    np.testing.assert_allclose(marks["low"], [0.99 * 59_010.0, 0.99 * 58_010.0])
    np.testing.assert_allclose(marks["high"], [1.01 * 60_510.0, 1.01 * 58_510.0])


def test_names_and_sizes_of_okx(tmp_path: Path) -> None:
    binance_files(tmp_path)
    text = BINANCE.replace("[ingest]", '[ingest]\nnaming = "okx"')
    instruments = make(tmp_path, text).dataset.instruments()
    assert instruments["instrument_id"].tolist() == ["BTC-USDT-SWAP"]
    assert instruments["multiplier"].tolist() == [0.01]


def test_times_of_2025_are_in_microseconds(tmp_path: Path) -> None:
    binance_files(tmp_path)
    path = "data/spot/monthly/klines/ETHUSDT/1h/ETHUSDT-1h-2025-01.zip"
    write_zip(tmp_path / path, kline_lines([3_000.0], START_MS, micros=True))
    index = make(tmp_path, BINANCE).dataset.index()
    assert list(index.loc[index["currency"] == "ETH", "time"]) == hours(1)


def test_bad_rows_are_named(tmp_path: Path) -> None:
    binance_files(tmp_path)
    good = kline_lines([60_000.0] * 200, START_MS + 100 * HOUR_MS)
    good[3] = good[3].replace("60000.0", "sixty", 5)
    good[5] = "1,2,3"
    good[7] = good[7].replace(",60000.0,", ",-1,")
    path = "data/spot/daily/klines/ETHUSDT/1h/ETHUSDT-1h-2024-08-09.zip"
    write_zip(tmp_path / path, [KLINE, *good])
    text = BINANCE.replace("[ingest]", "[ingest]\nmax_quarantined_share = 0.02")
    report = make(tmp_path, text)
    assert report.quarantine is not None
    rows = pd.read_csv(report.quarantine).sort_values("row")
    assert rows["row"].tolist() == [5, 7, 9]
    assert rows["reason"].tolist() == ["not a number", "wrong number of fields", "negative price"]
    assert rows["column"].fillna("").tolist() == ["close", "", "usd"]
    assert rows["value"].tolist() == ["sixty", "3 fields instead of 12: 1,2,3", "-1.0"]
    with pytest.raises(DataError, match=r"3 of 219 rows are quarantined.*0\.01; first: data/spot"):
        make(tmp_path, BINANCE, tmp_path / "again")


def test_a_flat_folder_needs_to_say_what_it_holds(tmp_path: Path) -> None:
    write_zip(tmp_path / "data/BTCUSDT-1h-2024-08.zip", kline_lines([1.0]))
    with pytest.raises(ConfigError, match=r"give the source 'market': 'spot', 'um', 'cm'"):
        make(tmp_path, BINANCE)
    with pytest.raises(ConfigError, match=r"give the source 'data': 'klines', 'markPriceKlines'"):
        make(tmp_path, BINANCE + 'market = "um"\n')


def test_a_broken_zip_is_named(tmp_path: Path) -> None:
    binance_files(tmp_path)
    path = tmp_path / "data/spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-08.zip"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"BTCUSDT-1h-2024-08\.zip: not readable"):
        make(tmp_path, BINANCE)


def test_a_market_without_an_index_says_what_to_add(tmp_path: Path) -> None:
    write_zip(
        tmp_path / "data/futures/um/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-08.zip",
        kline_lines([60_000.0, 61_000.0]),
    )
    with pytest.raises(DataError, match=r"no index price of BTC.*index_from_marks = true"):
        make(tmp_path, BINANCE)
    text = BINANCE.replace("[ingest]", "[ingest]\nindex_from_marks = true")
    report = make(tmp_path, text)
    index = report.dataset.index()
    usd = index.loc[index["currency"] == "BTC", "usd"]
    np.testing.assert_allclose(usd, [0.999 * 60_000.0, 0.999 * 61_000.0])
    assert "assumed: the perpetual's mark as index of BTC at 2 grid times" in report.notes


def test_usdt_has_to_be_told_in_usd(tmp_path: Path) -> None:
    binance_files(tmp_path)
    text = BINANCE.replace("[ingest.assumed_usd]\nUSDT = 0.999\n", "")
    with pytest.raises(DataError, match=r"5 in USDT.*\[ingest.assumed_usd\] USDT = 1.0"):
        make(tmp_path, text)
