"""Plain CSV files by a mapping."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backtest.dataset import Dataset
from backtest.errors import ConfigError, DataError
from backtest.ingest.cells import Cells
from backtest.ingest.config import load_ingest_config
from backtest.ingest.ledger import Ledger
from backtest.quality import check
from backtest.tables import SOURCE_FILE, SOURCE_ROW
from tests.unit.ingest.venue_files import make, write_text


CONFIG = """
[ingest]
interval = "1h"
buckets = 2

[[ingest.source]]
name = "terms"
kind = "csv"
table = "instruments"
files = ["terms.csv"]
columns = { instrument_id = "id", kind = "kind", coin = "coin", settle = "settle", \
style = { value = "linear" }, multiplier = "size" }

[[ingest.source]]
name = "prices"
kind = "csv"
table = "marks"
files = ["marks.csv"]
delimiter = ";"
decimal = ","
time = { column = "Zeit", format = "%d.%m.%Y %H:%M", zone = "Europe/Vienna" }
columns = { instrument_id = "Instrument", mark_price = "Kurs" }

[[ingest.source]]
name = "index"
kind = "csv"
table = "quotes"
files = ["index.csv"]
time = { column = "open", format = "s", bar = "1h" }
columns = { base = { column = "pair", names = { "XBT/USD" = "BTC" } }, quote = { value = "USD" }, \
price = "close" }

[[ingest.source]]
name = "balances"
kind = "csv"
table = "balances"
files = ["balances.csv"]
time = { column = "time", format = "iso" }
columns = { account_id = "who", currency = "ccy", cash = "amount" }

[[ingest.source]]
name = "positions"
kind = "csv"
table = "positions"
files = ["positions.csv"]
time = { column = "time", format = "iso" }
columns = { account_id = "who", instrument_id = "id", contracts = { column = "short", scale = -1 } }
"""


def write_files(folder: Path) -> None:
    write_text(folder / "terms.csv", "id,kind,coin,settle,size\nBTC-PERP,perpetual,BTC,USD,0.1\n")
    write_text(
        folder / "marks.csv",
        "Zeit;Instrument;Kurs\n"
        "05.08.2024 02:00;BTC-PERP;58.000,5\n05.08.2024 03:00;BTC-PERP;57.000,25",
    )
    first = 1_722_812_400  # 4 August, 23:00 UTC: known at midnight
    bars = f"open,pair,close\n{first},XBT/USD,58010\n{first + 3600},XBT/USD,57010\n"
    write_text(folder / "index.csv", bars)
    write_text(
        folder / "balances.csv",
        "who,time,ccy,amount\nann,2024-08-05T00:00:00Z,USD,1000\nbob,2024-08-05T00:00:00Z,BTC,-2\n",
    )
    write_text(
        folder / "positions.csv", "who,time,id,short\nann,2024-08-05T02:00:00+02:00,BTC-PERP,3\n"
    )


def test_a_whole_dataset_of_csv_files(tmp_path: Path) -> None:
    write_files(tmp_path)
    report = make(tmp_path, CONFIG)
    dataset = report.dataset
    midnight = pd.Timestamp("2024-08-05T00:00Z")
    marks = dataset.marks()
    assert list(marks["time"]) == [midnight, midnight + pd.Timedelta(hours=1)]
    assert marks["mark_price"].tolist() == [58_000.5, 57_000.25]
    index = dataset.index()
    assert index.loc[index["currency"] == "BTC", "usd"].tolist() == [58_010.0, 57_010.0]
    held = pd.concat([dataset.positions(midnight, b) for b in dataset.bucket_ids()])
    assert held["contracts"].tolist() == [-3.0]
    assert np.isnan(held["entry_price"].to_numpy(float)).all()
    people = pd.concat([dataset.accounts(b) for b in dataset.bucket_ids()])
    assert sorted(people["account_id"].astype(str)) == ["ann", "bob"]
    assert set(people["segment"].astype(str)) == {"ingested"}
    (note,) = report.notes
    assert note.startswith("assumed: 2 accounts that no file describes have segment and borrow")
    assert {name: tally.read for name, tally in report.tallies.items()} == {
        "terms": 1, "prices": 2, "index": 2, "balances": 2, "positions": 1,
    }  # fmt: skip


def test_names_of_a_venue_say_the_terms(tmp_path: Path) -> None:
    write_files(tmp_path)
    file = tmp_path / "marks.csv"
    file.write_text(file.read_text().replace("BTC-PERP", "BTC-USDT-SWAP"))
    (tmp_path / "positions.csv").write_text(
        "who,time,id,short\nann,2024-08-05T00:00:00Z,BTC-USDT-SWAP,300\n"
        "ann,2024-08-05T00:00:00Z,BTC-USDT-WHAT,1\n"
    )
    terms = CONFIG[CONFIG.index("[[ingest") : CONFIG.index('[[ingest.source]]\nname = "prices')]
    text = CONFIG.replace(terms, "").replace('delimiter = ";"', 'delimiter = ";"\nvenue = "okx"')
    text = text.replace("buckets = 2", "buckets = 2\nmax_quarantined_share = 0.5")
    text = text.replace("[[ingest", "[ingest.assumed_usd]\nUSDT = 1.0\n\n[[ingest", 1)
    with pytest.raises(DataError, match=r"unknown instrument \(say what it is: .*venue = 'okx'"):
        make(tmp_path, text.replace('\nvenue = "okx"', "").replace("share = 0.5", "share = 0.01"))
    report = make(tmp_path, text)
    (row,) = report.dataset.instruments().to_dict("records")
    said = {"instrument_id": "BTC-USDT-SWAP", "kind": "perpetual", "multiplier": 0.01}
    assert row | said | {"coin": "BTC", "settle": "USDT", "style": "linear"} == row
    midnight = pd.Timestamp("2024-08-05T00:00Z")
    held = pd.concat([report.dataset.positions(midnight, bucket) for bucket in (0, 1)])
    known = held["instrument_id"].astype(str) == "BTC-USDT-SWAP"
    assert held.loc[known, "contracts"].tolist() == [-300.0]
    assert report.quarantine is not None
    (bad,) = pd.read_csv(report.quarantine).to_dict("records")
    assert (bad["value"], bad["reason"]) == ("BTC-USDT-WHAT", "unknown instrument")


def test_rows_of_unknown_things_are_quarantined(tmp_path: Path) -> None:
    write_files(tmp_path)
    with (tmp_path / "balances.csv").open("a") as file:
        file.write("eve,2024-08-05T00:00:00Z,LUNA,5\nann,2024-08-05T00:00:00Z,USD,7\n")
    with (tmp_path / "positions.csv").open("a") as file:
        file.write("eve,yesterday,BTC-PERP,5\nann,2024-08-05T00:00:00Z,ETH-PERP,7\n")
    text = CONFIG.replace("[ingest]", "[ingest]\nmax_quarantined_share = 0.9")
    report = make(tmp_path, text)
    assert report.quarantine is not None
    rows = pd.read_csv(report.quarantine).to_numpy().tolist()
    key = "time, account_id, currency"
    assert [row[2:] for row in rows] == [
        ["balances.csv", 2, key, "2024-08-05 00:00:00+00:00 ann USD", "duplicate key"],
        ["balances.csv", 5, key, "2024-08-05 00:00:00+00:00 ann USD", "duplicate key"],
        ["balances.csv", 4, "currency", "LUNA", "unknown currency"],
        ["positions.csv", 3, "time", "yesterday", "not a time"],
        ["positions.csv", 4, "instrument_id", "ETH-PERP", "unknown instrument"],
    ]


@pytest.mark.parametrize(
    ("decimal", "thousands", "written", "read"),
    [
        (".", None, "1234.5", 1_234.5),
        (".", None, "1,234.5", None),
        (".", ",", "1,234.5", 1_234.5),
        (".", ",", "-1,234,567", -1_234_567.0),
        (".", ",", "1234.5", 1_234.5),
        (".", ",", "1,5", None),
        (".", ",", "1,2345.0", None),
        (".", "'", "+1'234.5", 1_234.5),
        (".", " ", "12 345.25", 12_345.25),
        (".", ",", "1e-5", 1e-5),
        (",", None, "1.234,5", 1_234.5),
        (",", None, "58.000", 58_000.0),
        (",", None, "0,5", 0.5),
        (",", None, "1.5", None),
        (",", None, "1,5e-3", 0.0015),
        (",", " ", "1 234,5", 1_234.5),
        (",", " ", "1.234,5", None),
    ],
)
def test_signs_between_digits(
    decimal: str, thousands: str | None, written: str, read: float | None
) -> None:
    """What groups of three digits do not explain is no number, and never another number."""
    chunk = pd.DataFrame({"x": [written], SOURCE_FILE: ["a.csv"], SOURCE_ROW: [2]})
    cells = Cells(chunk, Ledger(), "source", "marks", decimal, thousands)
    (found,) = cells.numbers("x").tolist()
    assert found == read if read is not None else np.isnan(found)
    assert cells.bad.tolist() == [read is None]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'table = "marks"',
            'table = "prices"',
            r"source\[1\]\.table': is 'prices'; allowed: instruments, index",
        ),
        ("mark_price =", "markprice =", "columns.markprice.*table 'marks' has instrument_id"),
        (', mark_price = "Kurs"', "", "columns.mark_price' is missing"),
        (
            'format = "s"',
            'format = "seconds"',
            "is 'seconds'; allowed: iso, s, ms, us, ns, or a pattern",
        ),
        ('interval = "1h"', 'interval = "hourly"', "ingest.interval"),
        (
            'kind = "csv"\ntable = "marks"',
            'kind = "cvs"\ntable = "marks"',
            "'cvs'; allowed: binance",
        ),
        ("Europe/Vienna", "Wien", "zone 'Wien': no such time zone"),
        ('files = ["marks.csv"]', 'files = ["mark.csv"]', r"no file matches 'mark\.csv'"),
        ('name = "index"', 'name = "prices"', "two sources have the same 'name'"),
        ("buckets = 2", "bukets = 2", "did you mean 'ingest.buckets'"),
        ('decimal = ","', 'decimal = ","\nthousands = ","', "thousands' is ',', as 'decimal' is"),
        ('decimal = ","', 'thousands = "_"', r"thousands.*'_'"),
        ('decimal = ","', 'venue = "mtgox"', r"venue.*'okx'.*'deribit'"),
        ('table = "quotes"', 'table = "quotes"\nvenue = "okx"', "'quotes' has no names of contra"),
    ],
)
def test_mistakes_in_the_mapping_are_explained(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    write_files(tmp_path)
    assert CONFIG.count(old) >= 1
    with pytest.raises(ConfigError, match=message):
        make(tmp_path, CONFIG.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("marks.csv", "Zeit;Instrument\n", "mark"),
        (
            "marks.csv",
            "Zeit;Instrument;Preis\n1;2;3\n",
            "column 'Kurs' is missing; found: Zeit, Ins",
        ),
        ("marks.csv", "a;a\n1;2\n", "column 'a' occurs more than once"),
    ],
)
def test_files_that_lack_a_column_are_named(
    tmp_path: Path, file: str, text: str, message: str
) -> None:
    write_files(tmp_path)
    write_text(tmp_path / file, text)
    with pytest.raises(DataError, match=message):
        make(tmp_path, CONFIG)


def test_accounts_join_a_dataset_that_is_there(tmp_path: Path) -> None:
    write_files(tmp_path)
    out = tmp_path / "dataset"
    head, *sources = CONFIG.split("[[ingest.source]]")
    market = "[[ingest.source]]".join([head, *sources[:3]])
    accounts = "[[ingest.source]]".join([head, *sources[3:]])
    with pytest.raises(ConfigError, match="not a dataset; the configuration has accounts only"):
        make(tmp_path, accounts, out)
    make(tmp_path, market, out)
    report = make(tmp_path, accounts, out)
    assert report.rows == {"balances": 2, "positions": 1, "accounts": 2}
    # A second time every row is there already.
    with pytest.raises(DataError, match=r"3 of 3 rows are quarantined \(3 duplicate key\)"):
        make(tmp_path, accounts, out)
    assert sum(len(Dataset.open(out).accounts(b)) for b in (0, 1)) == 2


def test_the_result_does_not_depend_on_how_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path)
    start = pd.Timestamp("2024-08-01T00:00Z")
    times = [start + pd.Timedelta(minutes=20 * i) for i in range(400)]
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"Zeit": times, "Instrument": "BTC-PERP", "Kurs": rng.uniform(1, 2, 400)})
    text = CONFIG.replace('format = "%d.%m.%Y %H:%M", zone = "Europe/Vienna"', 'format = "iso"')
    text = text.replace('delimiter = ";"\ndecimal = ","\n', "")
    (tmp_path / "marks.csv").write_text(frame.to_csv(index=False))
    whole = make(tmp_path, text, tmp_path / "whole").dataset.marks()
    monkeypatch.setattr("backtest.ingest.files.BLOCK_BYTES", 1_000)
    monkeypatch.setattr("backtest.ingest.staging.FLUSH_ROWS", 50)
    monkeypatch.setattr("backtest.ingest.staging.WINDOW_ROWS", 30)
    pieces = make(tmp_path, text, tmp_path / "pieces").dataset.marks()
    pd.testing.assert_frame_equal(whole, pieces)
    assert len(whole) == 134


def test_staged_rows_are_gone_after_an_error(tmp_path: Path) -> None:
    write_files(tmp_path)
    write_text(tmp_path / "index.csv", "open,pair,close\n1722812400,XBT/EUR,58010\n")
    with pytest.raises(DataError, match="no index price of BTC"):
        make(tmp_path, CONFIG)
    assert not (tmp_path / "dataset" / ".ingest").exists()
    write_files(tmp_path)
    assert make(tmp_path, CONFIG).dataset.meta.interval_seconds == 3600


def test_a_file_without_the_section(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"section \[ingest\] is missing"):
        load_ingest_config(write_text(tmp_path / "x.toml", "[market]\n"))


SIDED = CONFIG.replace(
    '{ column = "short", scale = -1 }',
    '{ column = "size", sign = { column = "side", names = { LONG = 1, SHORT = -1 } } }',
)


def held_at_midnight(dataset: Dataset) -> pd.DataFrame:
    midnight = pd.Timestamp("2024-08-05T00:00Z")
    return pd.concat([dataset.positions(midnight, b) for b in dataset.bucket_ids()])


def test_a_side_gives_the_sign(tmp_path: Path) -> None:
    write_files(tmp_path)
    with (tmp_path / "balances.csv").open("a") as file:
        file.write("cy,2024-08-05T00:00:00Z,USD,5\n")
    lines = [f"{who},2024-08-05T00:00:00Z,BTC-PERP,{rest}" for who, rest in (
        ("ann", "3,SHORT"), ("bob", "4,LONG"), ("cy", "5,FLAT"), ("dan", "-6,SHORT"),
    )]  # fmt: skip
    write_text(tmp_path / "positions.csv", "\n".join(["who,time,id,size,side", *lines]) + "\n")
    report = make(tmp_path, SIDED.replace("[ingest]", "[ingest]\nmax_quarantined_share = 0.5"))
    held = held_at_midnight(report.dataset).set_index("account_id")["contracts"].dropna()
    assert held.to_dict() == {"ann": -3.0, "bob": 4.0}
    assert report.quarantine is not None
    rows = pd.read_csv(report.quarantine, keep_default_na=False)
    assert rows[["row", "column", "value", "reason"]].to_numpy().tolist() == [
        [4, "side", "FLAT", "value not allowed"],
        [5, "size", "-6", "value not allowed"],
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("SHORT = -1", "SHORT = 2", "source.4..columns.contracts"),
        ("LONG = 1, SHORT = -1", "", "source.4..columns.contracts"),
        ('account_id = "who", instrument_id = "id"',
         ('account_id = "who", instrument_id = { column = "id", sign = { column = "side", '
         "names = { LONG = 1 } } }"),
         "columns.instrument_id.sign': allowed for contracts, cash"),
    ],
)  # fmt: skip
def test_mistakes_in_a_sign_are_explained(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_files(tmp_path)
    assert SIDED.count(old) == 1
    with pytest.raises(ConfigError, match=message):
        make(tmp_path, SIDED.replace(old, new))


@pytest.mark.parametrize(
    "line",
    [
        "ann,2024-08-05T00:00:00Z,SOL-PERP,1",  # not in the market
        "ann,2024-08-05T00:00:00Z,BTC-PERP,1",  # a second time
        "ann,2024-08-05T00:00:00Z,BTC-PERP,many",
    ],
)
def test_a_row_that_cannot_be_used_keeps_its_account_out_of_the_replay(
    tmp_path: Path, line: str
) -> None:
    write_files(tmp_path)
    with (tmp_path / "positions.csv").open("a") as file:
        file.write(line + "\n")
    text = CONFIG.replace("[ingest]", "[ingest]\nmax_quarantined_share = 0.5")
    report = make(tmp_path, text)
    (note,) = [n for n in report.notes if n.startswith("incomplete")]
    assert note.startswith("incomplete: 1 accounts hold quarantined rows (ann); a replay keeps")
    found = check(report.dataset)
    assert found.quarantined >= 1
    assert set(found.reasons["positions"]) <= {
        "unknown instrument", "duplicate key", "missing value"
    }  # fmt: skip
    kept = make(tmp_path, f'{text}\n[ingest.accounts]\nincomplete = "keep"\n', tmp_path / "kept")
    assert check(kept.dataset).quarantined == 0
    assert any("margins what is left of them" in n for n in kept.notes)


def test_portfolios_whose_tables_stand_at_different_times_are_noted(tmp_path: Path) -> None:
    write_files(tmp_path)
    path = tmp_path / "positions.csv"
    write_text(path, path.read_text().replace("02:00:00+02:00", "02:17:00+02:00"))
    report = make(tmp_path, CONFIG)
    assert [n.split(";")[0] for n in report.notes if n.startswith("note")] == [
        "note: 1 snapshot times have positions and no balances (first: 2024-08-05 00:17:00 UTC)",
        "note: 1 snapshot times have balances and no positions (first: 2024-08-05 00:00:00 UTC)",
    ]
    assert len([w for w in check(report.dataset).warnings if "snapshot times" in w]) == 2


def test_the_quarantine_is_that_of_the_last_attempt(tmp_path: Path) -> None:
    write_files(tmp_path)
    config = CONFIG.replace("%d.%m.%Y", "%m/%d/%Y")
    with pytest.raises(DataError, match=r"not a time \(say how times are written: format ="):
        make(tmp_path, config)
    assert (tmp_path / "dataset" / "quarantine.csv").exists()
    report = make(tmp_path, CONFIG)
    assert report.quarantine is None
    assert not (tmp_path / "dataset" / "quarantine.csv").exists()


def test_the_span_of_every_source_is_told(tmp_path: Path) -> None:
    write_files(tmp_path)
    tallies = make(tmp_path, CONFIG).tallies
    midnight = pd.Timestamp("2024-08-05T00:00Z")
    assert (tallies["prices"].first, tallies["prices"].last) == (
        midnight, midnight + pd.Timedelta(hours=1)
    )  # fmt: skip
    assert tallies["terms"].first is None


def test_accounts_that_join_at_another_time_are_noted(tmp_path: Path) -> None:
    write_files(tmp_path)
    out = tmp_path / "dataset"
    head, *sources = CONFIG.split("[[ingest.source]]")
    accounts = "[[ingest.source]]".join([head, *sources[3:]])
    make(tmp_path, CONFIG, out)
    write_text(tmp_path / "balances.csv", "who,time,ccy,amount\nfay,2024-08-05T00:00:00Z,USD,1\n")
    write_text(
        tmp_path / "positions.csv", "who,time,id,short\nfay,2024-08-05T00:00:00Z,BTC-PERP,3\n"
    )
    assert not [n for n in make(tmp_path, accounts, out).notes if n.startswith("note")]
    for name in ("balances.csv", "positions.csv"):
        text = (tmp_path / name).read_text()
        write_text(tmp_path / name, text.replace("fay", "gus").replace("T00:00", "T00:05"))
    (note,) = [n for n in make(tmp_path, accounts, out).notes if n.startswith("note")]
    assert note.startswith("note: 1 snapshot times are new (first: 2024-08-05 00:05:00 UTC)")
