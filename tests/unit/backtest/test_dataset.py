import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from backtest import dataset_writer, tables
from backtest.dataset import Dataset, DatasetWriter, bucket_of, utc
from backtest.errors import ConfigError, DataError
from backtest.schema import TABLES
from tests.unit.backtest import dataset_rows as rows


def sorted_rows(frame: pd.DataFrame, key: tuple[str, ...]) -> pd.DataFrame:
    plain = frame.copy()
    for name in plain.columns:
        if isinstance(plain[name].dtype, pd.CategoricalDtype):
            plain[name] = plain[name].astype("str")
        if isinstance(plain[name].dtype, pd.DatetimeTZDtype):
            plain[name] = plain[name].dt.as_unit("us")
        if pd.isna(plain[name].to_numpy()).all():
            plain[name] = np.nan
    return plain.sort_values(list(key)).reset_index(drop=True)


def read_all(dataset: Dataset, table: str) -> pd.DataFrame:
    return dataset.read_parts(table, dataset.parts(table))


@pytest.mark.parametrize("table", list(TABLES))
def test_rows_come_back_as_written(tmp_path: Path, table: str) -> None:
    dataset = rows.write(tmp_path)
    written = rows.ROWS[table]()
    names = TABLES[table].column_names
    expected = sorted_rows(written.loc[:, names], TABLES[table].key)
    got = sorted_rows(read_all(dataset, table), TABLES[table].key)
    pd.testing.assert_frame_equal(got, expected, check_dtype=False)


def test_types_on_disk_follow_the_schema(tmp_path: Path) -> None:
    dataset = rows.write(tmp_path)
    for name, table in TABLES.items():
        for part in dataset.parts(name):
            with pq.ParquetFile(part.path) as file:
                assert file.schema_arrow.types == table.arrow_schema.types
                assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_meta_and_layout(tmp_path: Path) -> None:
    dataset = rows.write(tmp_path)
    meta = json.loads((tmp_path / "dataset.json").read_text())
    assert meta == {
        "schema_version": 1,
        "name": "tiny",
        "interval_seconds": 3600,
        "first_time": "2024-08-01T22:00:00Z",
        "last_time": "2024-08-02T02:00:00Z",
        "buckets": 4,
        "source": "made by hand",
    }
    bob = bucket_of("bob", 4)
    assert (tmp_path / f"positions/date=2024-08-01/bucket={bob}").is_dir()
    assert {part.date for part in dataset.parts("marks")} == {"2024-08-01", "2024-08-02"}
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")]


def test_reading_by_time_opens_only_the_days_asked_for(tmp_path: Path) -> None:
    dataset = rows.write(tmp_path)
    for part in dataset.parts("marks", first_date="2024-08-02"):
        part.path.write_bytes(b"not a parquet file")
    marks = dataset.marks("2024-08-01", "2024-08-01T23:00", columns=["mark_price"])
    assert list(marks.columns) == ["mark_price"]
    assert len(marks) == 4
    with pytest.raises(DataError, match=r"date=2024-08-02.*not a readable Parquet file"):
        dataset.marks("2024-08-01", "2024-08-02")


def test_reading_a_bucket_opens_only_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = rows.write(tmp_path)
    opened: list[Path] = []

    def counting(path: Path) -> pq.ParquetFile:
        opened.append(path)
        return pq.ParquetFile(path)

    monkeypatch.setattr(tables, "open_file", counting)
    assert len(dataset.positions(rows.SNAPSHOT, bucket_of("bob", 4))) == 1
    assert [path.parent.name for path in opened] == [f"bucket={bucket_of('bob', 4)}"]


def test_bounds_are_inclusive_and_naive_times_are_utc(tmp_path: Path) -> None:
    dataset = rows.write(tmp_path)
    times = dataset.index("2024-08-01 23:00", rows.TIMES[2])["time"]
    assert sorted(set(times)) == rows.TIMES[1:3]
    assert utc("2024-08-01T02:00+02:00") == pd.Timestamp("2024-08-01T00:00Z")
    with pytest.raises(DataError, match="not a time"):
        utc(pd.NaT)


def test_snapshots_buckets_and_missing_snapshot(tmp_path: Path) -> None:
    dataset = rows.write(tmp_path)
    assert dataset.snapshot_times() == [rows.SNAPSHOT]
    assert dataset.bucket_ids() == sorted({bucket_of("alice", 4), bucket_of("bob", 4)})
    none = dataset.balances("2030-01-01", 0)
    assert none.empty
    assert list(none.columns) == TABLES["balances"].column_names


def test_snapshot_times_of_mixed_row_groups(tmp_path: Path) -> None:
    later = rows.balances().assign(time=rows.SNAPSHOT + pd.Timedelta("1h"))
    dataset = rows.write(tmp_path, balances=pd.concat([rows.balances(), later]))
    assert dataset.snapshot_times() == [rows.SNAPSHOT, rows.SNAPSHOT + pd.Timedelta("1h")]


def test_bucket_comes_from_the_path(tmp_path: Path) -> None:
    dataset = rows.write(tmp_path)
    old = tmp_path / f"positions/date=2024-08-01/bucket={bucket_of('bob', 4)}"
    old.rename(old.with_name("bucket=77"))
    assert 77 in dataset.bucket_ids()
    assert list(dataset.positions(rows.SNAPSHOT, 77)["account_id"]) == ["bob"]


def test_source_of_rows(tmp_path: Path) -> None:
    dataset = rows.write(tmp_path, buckets=1)
    found = dataset.balances(rows.SNAPSHOT, 0, with_source=True)
    assert set(found["_file"]) == {"balances/date=2024-08-01/bucket=0/part-00000.parquet"}
    assert list(found["_row"]) == [0, 1, 2]
    late = dataset.index("2024-08-02T01:00", None, with_source=True)
    assert "_row" in late
    assert min(late["_row"]) > 0


def test_extra_columns_are_kept(tmp_path: Path) -> None:
    dataset = rows.write(tmp_path, balances=rows.balances().assign(note="x", level=1))
    found = dataset.balances(rows.SNAPSHOT, bucket_of("bob", 4))
    assert list(found["note"]) == ["x", "x"]
    assert list(found["level"]) == [1, 1]


def test_file_without_an_extra_column_has_nulls_there(tmp_path: Path) -> None:
    rows.write(tmp_path, buckets=1)
    writer = DatasetWriter.reopen(tmp_path)
    later = rows.balances().assign(account_id="carol", note="x").drop_duplicates("currency")
    writer.balances(later)
    found = writer.finish().balances(rows.SNAPSHOT, 0)
    assert sorted(found["note"].fillna("none")) == ["none"] * 3 + ["x"] * 2


def test_nullable_columns_may_be_left_out(tmp_path: Path) -> None:
    marks = rows.marks().drop(columns=["low", "high", "funding_rate"])
    dataset = rows.write(tmp_path, marks=marks)
    assert np.isnan(dataset.marks()["low"].to_numpy()).all()


def test_writer_appends_and_splits_like_one_write(tmp_path: Path) -> None:
    dataset = rows.write(tmp_path / "one")
    writer = DatasetWriter(tmp_path / "two", "tiny", 3600, 4, "made by hand")
    for table, frame in rows.ROWS.items():
        for k in range(0, len(frame()), 2):
            getattr(writer, table)(frame().iloc[k : k + 2])
    again = writer.finish()
    for table, spec in TABLES.items():
        one, two = (sorted_rows(read_all(d, table), spec.key) for d in (dataset, again))
        pd.testing.assert_frame_equal(one, two)


def test_writer_flushes_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_writer, "FLUSH_ROWS", 2)
    dataset = rows.write(tmp_path, buckets=1)
    writer = DatasetWriter.reopen(tmp_path)
    writer.balances(rows.balances().assign(account_id="carol"))
    assert len(writer.finish().parts("balances")) == len(dataset.parts("balances")) == 2


def test_instruments_are_one_file_after_two_writes(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path, "tiny", 3600, 4, "x")
    writer.instruments(rows.instruments().iloc[:2])
    writer.index(rows.index())
    writer.marks(rows.marks())
    writer.finish()
    writer = DatasetWriter.reopen(tmp_path)
    writer.instruments(rows.instruments().iloc[2:])
    dataset = writer.finish()
    assert len(dataset.parts("instruments")) == 1
    assert set(dataset.instruments()["instrument_id"]) == set(rows.instruments()["instrument_id"])


def test_fingerprint_depends_on_content_only(tmp_path: Path) -> None:
    one, two = rows.write(tmp_path / "a"), rows.write(tmp_path / "b")
    assert one.fingerprint() == two.fingerprint()
    (tmp_path / "a" / "notes.txt").write_text("not part of it")
    assert one.fingerprint() == two.fingerprint()
    other = rows.write(tmp_path / "c", balances=rows.balances().assign(cash=1.0))
    assert other.fingerprint() != one.fingerprint()


def test_reopen_may_change_buckets_only_before_accounts(tmp_path: Path) -> None:
    rows.write(tmp_path, without=rows.ACCOUNT_TABLES)
    writer = DatasetWriter.reopen(tmp_path, buckets=2)
    writer.accounts(rows.accounts())
    writer.balances(rows.balances())
    assert writer.finish().meta.buckets == 2
    with pytest.raises(ConfigError, match=r"buckets = 3.*allowed: 2"):
        DatasetWriter.reopen(tmp_path, buckets=3)


def test_reopen_keeps_unknown_meta_keys(tmp_path: Path) -> None:
    rows.write(tmp_path)
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "note": "mine"}))
    DatasetWriter.reopen(tmp_path).finish()
    assert json.loads(path.read_text())["note"] == "mine"


def test_interrupted_write_is_refused_and_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = rows.write(tmp_path)
    before = dataset.fingerprint()
    monkeypatch.setattr(dataset_writer, "FLUSH_ROWS", 1)
    DatasetWriter.reopen(tmp_path).balances(rows.balances().assign(account_id="carol"))
    with pytest.raises(DataError, match="interrupted"):
        Dataset.open(tmp_path)
    assert DatasetWriter.reopen(tmp_path).finish().fingerprint() == before


def test_interrupted_first_write_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dataset_writer, "FLUSH_ROWS", 1)
        DatasetWriter(tmp_path, "tiny", 3600, 4, "x").index(rows.index())
    assert len(rows.write(tmp_path).index()) == len(rows.index())


def test_writer_does_not_touch_a_finished_dataset_or_foreign_files(tmp_path: Path) -> None:
    rows.write(tmp_path / "done")
    with pytest.raises(ConfigError, match="holds a dataset already"):
        DatasetWriter(tmp_path / "done", "tiny", 3600, 4, "x")
    (tmp_path / "done" / "dataset.json").unlink()
    with pytest.raises(ConfigError, match="not empty"):
        DatasetWriter(tmp_path / "done", "tiny", 3600, 4, "x")
    with pytest.raises(ConfigError, match="buckets = 0"):
        DatasetWriter(tmp_path / "new", "tiny", 3600, 0, "x")


@pytest.mark.parametrize("table", ["instruments", "index", "marks"])
def test_missing_market_table_is_named(tmp_path: Path, table: str) -> None:
    rows.write(tmp_path)
    for path in tmp_path.glob(f"{table}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match=f"table '{table}' is missing"):
        Dataset.open(tmp_path)


def test_missing_account_tables_are_named_when_read(tmp_path: Path) -> None:
    dataset = rows.write(tmp_path, without=("accounts", "balances"))
    with pytest.raises(DataError, match="table 'accounts' is missing"):
        dataset.accounts(0)
    with pytest.raises(DataError, match=r"table 'balances' is missing.*balances/date=.../bucket="):
        dataset.snapshot_times()


def test_empty_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a dataset"):
        Dataset.open(tmp_path)
    with pytest.raises(DataError, match="the dataset is empty"):
        DatasetWriter(tmp_path, "x", 60, 1, "x").finish()
    rows.write(tmp_path / "full")
    for path in (tmp_path / "full" / "index").rglob("*.parquet"):
        pq.write_table(pq.ParquetFile(path).read().slice(0, 0), path)
    with pytest.raises(DataError, match="the dataset is empty: table 'index' has no rows"):
        Dataset.open(tmp_path / "full")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 9}, "schema_version' is 9"),
        ({"interval_seconds": 0}, "interval_seconds"),
        ({"first_time": None}, "first_time"),
        ({"buckets": "many"}, "buckets"),
    ],
)
def test_bad_meta_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows.write(tmp_path)
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=rf"dataset\.json.*{message}"):
        Dataset.open(tmp_path)
    path.write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json: not readable"):
        Dataset.open(tmp_path)


def rewrite(tmp_path: Path, column: str, values: pa.Array | None) -> Dataset:
    """The tiny dataset with one column of `balances` replaced or dropped."""
    dataset = rows.write(tmp_path, buckets=1)
    part = dataset.parts("balances")[0]
    data = tables.read_file(part.path, TABLES["balances"])
    place = data.schema.get_field_index(column)
    data = data.remove_column(place)
    if values is not None:
        data = data.append_column(column, values)
    pq.write_table(data, part.path)
    return dataset


def test_missing_column_is_named_with_its_file(tmp_path: Path) -> None:
    dataset = rewrite(tmp_path, "cash", None)
    with pytest.raises(
        DataError, match=r"balances/date=2024-08-01/bucket=0/.*column 'cash' is missing"
    ):
        dataset.balances(rows.SNAPSHOT, 0)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("cash", pa.array(["1", "2", "3"])),
        ("cash", pa.array([1.0, 2.0, 3.0], pa.float32())),
        ("cash", pa.array([None, None, None], pa.null())),
        ("currency", pa.array([1, 2, 3])),
        ("time", pa.array([0, 0, 0], pa.timestamp("us"))),
        ("time", pa.array([0, 0, 0], pa.timestamp("us", "America/New_York"))),
        ("time", pa.array([1, 1, 1], pa.timestamp("ns", "UTC"))),
        ("cash", pa.array([2**60 + 1, 0, 0])),
    ],
)
def test_wrong_type_is_named_with_its_file(tmp_path: Path, column: str, values: pa.Array) -> None:
    dataset = rewrite(tmp_path, column, values)
    with pytest.raises(DataError, match=rf"bucket=0/.*column '{column}' .*"):
        dataset.balances(rows.SNAPSHOT, 0)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("cash", pa.array([1, 2, 3])),
        ("currency", pa.array(["USDT", "USDT", "BTC"])),
        ("currency", pa.array(["USDT", "USDT", "BTC"], pa.large_string())),
        ("currency", pa.array(["USDT", "BTC"]).dictionary_encode().take(pa.array([0, 0, 1]))),
        ("spot_limit", pa.array([None, None, None], pa.null())),
        ("time", pa.array([rows.SNAPSHOT.value] * 3, pa.timestamp("ns", "UTC"))),
        ("time", pa.array([rows.SNAPSHOT.value // 10**6] * 3, pa.timestamp("ms", "Etc/UTC"))),
    ],
)
def test_equal_types_are_accepted(tmp_path: Path, column: str, values: pa.Array) -> None:
    dataset = rewrite(tmp_path, column, values)
    found = dataset.balances(rows.SNAPSHOT, 0)
    assert len(found) == 3
    assert found["cash"].dtype == np.float64
    assert str(found["time"].dtype) == "datetime64[us, UTC]"
    assert list(found["currency"]) == ["USDT", "USDT", "BTC"]


def test_writer_names_bad_columns(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path, "x", 60, 1, "x")
    with pytest.raises(DataError, match="table balances: column 'cash' is missing"):
        writer.balances(rows.balances().drop(columns="cash"))
    with pytest.raises(DataError, match="column 'cash' holds"):
        writer.balances(rows.balances().assign(cash="much"))
    with pytest.raises(DataError, match="times without a time zone"):
        writer.balances(rows.balances().assign(time=pd.Timestamp("2024-08-01")))
    with pytest.raises(DataError, match="column 'account_id' has 3 nulls"):
        writer.balances(rows.balances().assign(account_id=None))


def test_unknown_column_asked_for(tmp_path: Path) -> None:
    dataset = rows.write(tmp_path)
    with pytest.raises(DataError, match="table 'marks' has no column 'price'"):
        dataset.marks(columns=["price"])


@pytest.mark.parametrize("folder", ["bucket=x", "shard=1", "bucket=-1"])
def test_bad_partition_folder_is_named(tmp_path: Path, folder: str) -> None:
    dataset = rows.write(tmp_path)
    (tmp_path / "accounts" / folder).mkdir()
    with pytest.raises(DataError, match=rf"{re.escape(folder)}: partition folder must look like"):
        dataset.bucket_ids()
    (tmp_path / "marks" / "date=2024-8-1").mkdir()
    with pytest.raises(DataError, match="date=2024-08-01"):
        dataset.marks()


def test_bucket_of_is_crc32() -> None:
    assert bucket_of("123456789", 2**32) == 0xCBF43926
    assert bucket_of("123456789", 1000) == 262


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=6)
FLOATS = st.floats(allow_nan=False) | st.none()


@given(
    st.lists(st.tuples(NAMES, NAMES, st.floats(allow_nan=False), FLOATS), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(-(10**6), 10**6),
)
@settings(max_examples=25)
def test_any_balances_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[tuple[str, str, float, float | None]],
    buckets: int,
    hours: int,
) -> None:
    time = utc("1970-01-01") + pd.Timedelta(hours=hours)
    frame = pd.DataFrame(values, columns=["account_id", "currency", "cash", "spot_limit"])
    frame = frame.assign(time=time, order=np.arange(len(frame)))
    dataset = rows.write(tmp_path_factory.mktemp("d"), buckets, balances=frame)
    parts = [dataset.balances(time, b) for b in dataset.bucket_ids()]
    found = pd.concat(parts).sort_values("order", ignore_index=True)
    assert list(found["account_id"].astype("str")) == list(frame["account_id"])
    assert list(found["currency"].astype("str")) == list(frame["currency"])
    np.testing.assert_array_equal(found["cash"], frame["cash"].astype(float))
    limits = frame["spot_limit"].astype(float)
    np.testing.assert_array_equal(found["spot_limit"], limits)
    for bucket in dataset.bucket_ids():
        inside = dataset.balances(time, bucket)["account_id"].astype("str")
        assert all(bucket_of(name, buckets) == bucket for name in inside)
