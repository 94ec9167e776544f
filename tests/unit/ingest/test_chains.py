import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backtest.errors import DataError
from backtest.paths import real_data_root
from tests.unit.ingest.venue_files import make, write_text


DATA = real_data_root()
CHAIN_HEADER = (
    "exchange,symbol,timestamp,local_timestamp,type,strike_price,expiration,open_interest,"
    "last_price,bid_price,bid_amount,bid_iv,ask_price,ask_amount,ask_iv,mark_price,mark_iv,"
    "underlying_index,underlying_price,delta,gamma,vega,theta,rho"
)
TICKER_HEADER = (
    "exchange,symbol,timestamp,local_timestamp,funding_timestamp,funding_rate,"
    "predicted_funding_rate,open_interest,last_price,index_price,mark_price"
)
START = pd.Timestamp("2024-08-05T00:00Z")


def us(text: str) -> int:
    return pd.Timestamp(f"2024-08-05T{text}Z").value // 1000


def option(at: str, mark: float, iv: float, name: str = "BTC-30AUG24-60000-C") -> str:
    return f"deribit,{name},{us(at)},{us(at)},call,60000,1,,,,,,,,,{mark},{iv},SYN,60100,,,,,"


def ticker(at: str, mark: float, index: float, rate: str = "", paid: str = "") -> str:
    due = us(paid) if paid else ""
    return f"okex-swap,BTC-USDT-SWAP,{us(at)},{us(at)},{due},{rate},,,{mark},{index},{mark}"


TARDIS = """
[ingest]
interval = "1h"
assumed_usd = { USDT = 1.0 }
[[ingest.source]]
kind = "tardis"
files = ["*.csv*"]
"""


def test_ticks_are_sampled_at_the_grid(tmp_path: Path) -> None:
    lines = [
        CHAIN_HEADER,
        option("00:10:00", 0.050, 60.0),
        option("00:50:00", 0.052, 61.0),
        option("01:00:00", 0.051, 62.0),
        option("01:00:01", 0.049, 63.0),
    ]
    with gzip.open(tmp_path / "chain.csv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    rows = [
        TICKER_HEADER,
        ticker("00:20:00", 60_010.0, 60_000.0, "0.0001", "01:00:00"),
        ticker("00:40:00", 59_000.0, 58_990.0, "0.0002", "01:00:00"),
        ticker("00:59:00", 59_500.0, 59_490.0, "0.0003", "01:00:00"),
        ticker("01:30:00", 60_500.0, 60_490.0, "0.0009", "09:00:00"),
    ]
    write_text(tmp_path / "ticker.csv", "\n".join(rows))
    report = make(tmp_path, TARDIS)
    marks = report.dataset.marks().set_index(["time", "instrument_id"])
    option_rows = marks.xs("BTC-30AUG24-60000-C", level=1)
    assert option_rows["mark_price"].tolist() == [0.051, 0.049]
    np.testing.assert_allclose(option_rows["mark_iv"], [0.62, 0.63])
    assert option_rows["forward"].tolist() == [60_100.0, 60_100.0]
    swap = marks.xs("BTC-USDT-SWAP", level=1)
    assert swap["mark_price"].tolist() == [59_500.0, 60_500.0]
    assert swap["low"].tolist() == [59_000.0, 60_500.0]
    assert swap["high"].tolist() == [60_010.0, 60_500.0]
    # The last rate known before a payment is the one that is paid.
    assert swap["funding_rate"].iloc[0] == 0.0003
    index = report.dataset.index()
    assert index.loc[index["currency"] == "BTC", "usd"].tolist() == [59_490.0, 60_490.0]
    terms = report.dataset.instruments().set_index("instrument_id").loc["BTC-30AUG24-60000-C"]
    assert (terms["strike"], terms["option_type"], terms["settle"]) == (60_000.0, "C", "BTC")
    assert terms["expiry"] == pd.Timestamp("2024-08-30T08:00Z")


def test_unknown_exchanges_and_names_are_quarantined(tmp_path: Path) -> None:
    lines = [
        TICKER_HEADER,
        *[ticker(f"00:{m:02d}:00", 60_000.0, 60_000.0) for m in range(10)],
        ticker("00:30:00", 1.0, 1.0).replace("okex-swap", "mtgox"),
        ticker("00:30:00", 1.0, 1.0).replace("BTC-USDT-SWAP", "BTC/USDT"),
    ]
    write_text(tmp_path / "ticker.csv", "\n".join(lines))
    report = make(tmp_path, TARDIS.replace("[ingest]", "[ingest]\nmax_quarantined_share = 0.5"))
    assert report.quarantine is not None
    rows = pd.read_csv(report.quarantine)
    assert rows[["row", "column", "value", "reason"]].to_numpy().tolist() == [
        [12, "exchange", "mtgox", "value not allowed"],
        [13, "symbol", "BTC/USDT", "unknown instrument"],
    ]


DERIBIT = """
[ingest]
interval = "1h"
[[ingest.source]]
kind = "deribit"
files = ["*.csv"]
[[ingest.source]]
kind = "csv"
table = "marks"
files = ["perp/*.csv"]
time = { column = "t", format = "iso" }
columns = { instrument_id = "id", mark_price = "p" }
[[ingest.source]]
kind = "csv"
table = "instruments"
files = ["perp/terms/*.csv"]
columns = { instrument_id = "id", kind = { value = "perpetual" }, coin = { value = "BTC" }, \
settle = { value = "BTC" }, style = { value = "inverse" }, multiplier = { value = 10.0 } }
"""


def deribit_text() -> str:
    rows = [
        "ts,currency,expiry,right,strike,index_price,forward,mark_price,bid,ask,mark_iv",
        "2024-08-05T10:00:07Z,BTC,2024-08-30T08:00:00Z,C,60000,60000,60100,0.05,,,60.5",
        "2024-08-05T10:00:07Z,BTC,2024-08-30T08:00:00Z,P,60000,60010,60100,0.049,,,60.5",
        "2024-08-05T10:00:07Z,BTC,2024-08-30,P,55000,60020,60100,0.02,,,66",
    ]
    return "\n".join(rows)


def test_a_deribit_chain(tmp_path: Path) -> None:
    write_text(tmp_path / "chain.csv", deribit_text())
    write_text(tmp_path / "perp/p.csv", "t,id,p\n2024-08-05T11:00:00Z,BTC-PERPETUAL,60040")
    write_text(tmp_path / "perp/terms/p.csv", "id\nBTC-PERPETUAL\n")
    dataset = make(tmp_path, DERIBIT).dataset
    marks = dataset.marks().set_index("instrument_id")
    assert set(marks.index.astype(str)) == {
        "BTC-30AUG24-60000-C", "BTC-30AUG24-60000-P", "BTC-30AUG24-55000-P", "BTC-PERPETUAL",
    }  # fmt: skip
    assert marks.loc["BTC-30AUG24-55000-P", "mark_iv"] == pytest.approx(0.66)
    assert set(marks["time"]) == {pd.Timestamp("2024-08-05T11:00Z")}
    index = dataset.index()
    assert index.loc[index["currency"] == "BTC", "usd"].tolist() == [60_010.0]


def test_a_chain_without_a_column_says_what_it_may_be_called(tmp_path: Path) -> None:
    write_text(tmp_path / "chain.csv", deribit_text().replace("mark_iv", "vol"))
    write_text(tmp_path / "perp/p.csv", "t,id,p\n")
    write_text(tmp_path / "perp/terms/p.csv", "id\nBTC-PERPETUAL\n")
    with pytest.raises(DataError, match=r"chain\.csv: column 'mark_iv' is missing; found: ts,"):
        make(tmp_path, DERIBIT)


@pytest.mark.skipif(DATA is None, reason="no recorded files (PMSTRESS_DATA)")
def test_a_file_as_tardis_ships_it(tmp_path: Path) -> None:
    assert DATA is not None
    text = (DATA / "api_fixtures/nautilus_tardis/options_chain.csv").read_text(encoding="utf-8")
    write_text(tmp_path / "options_chain.csv", text)
    write_text(
        tmp_path / "index.csv", "t,c,usd\n2020-06-08T00:00:00Z,BTC,9750\n2020-06-08T00:00Z,ETH,245"
    )
    config = (
        TARDIS.replace('["*.csv*"]', '["options_chain.csv"]')
        + """
[[ingest.source]]
kind = "csv"
table = "index"
files = ["index.csv"]
time = { column = "t", format = "iso" }
columns = { currency = "c", usd = "usd" }
"""
    )
    report = make(tmp_path, config)
    assert report.tallies["tardis (source 1)"].read == text.count("\n") - 1
    assert report.tallies["tardis (source 1)"].quarantined == 0
    instruments = report.dataset.instruments().set_index("instrument_id")
    put = instruments.loc["BTC-9JUN20-9875-P"]
    assert put["expiry"] == pd.Timestamp("2020-06-09T08:00Z")
    marks = report.dataset.marks()
    first = marks[(marks["instrument_id"] == "BTC-9JUN20-9875-P")].iloc[0]
    assert first["mark_iv"] == pytest.approx(0.6286, abs=0.01)
