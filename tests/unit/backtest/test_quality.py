from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from backtest import quality
from backtest.dataset import DatasetWriter
from backtest.errors import DataError
from backtest.quality import Clean
from backtest.row_rules import duplicated_keys
from tests.unit.backtest import dataset_rows as rows


KNOWN = ["BTC", "USDT", "USD"]


def clean(table: str, frame: pd.DataFrame) -> Clean:
    checks: dict[str, Callable[[pd.DataFrame], Clean]] = {
        "instruments": quality.clean_instruments,
        "index": lambda f: quality.clean_index(f, KNOWN),
        "marks": lambda f: quality.clean_marks(f, rows.instruments()),
        "positions": lambda f: quality.clean_positions(f, rows.instruments()),
        "balances": lambda f: quality.clean_balances(f, KNOWN),
        "orders": lambda f: quality.clean_orders(f, rows.instruments()),
        "accounts": quality.clean_accounts,
    }
    return checks[table](frame)


@pytest.mark.parametrize("table", list(rows.ROWS))
def test_good_rows_pass(table: str) -> None:
    frame = rows.ROWS[table]()
    found = clean(table, frame)
    pd.testing.assert_frame_equal(found.good, frame)
    assert found.quarantined.empty
    assert list(found.quarantined.columns) == quality.QUARANTINE_COLUMNS


BAD = [
    ("index", "usd", np.nan, "missing value"),
    ("index", "usd", np.inf, "not finite"),
    ("index", "usd", -1.0, "negative price"),
    ("index", "usd", 0.0, "zero price"),
    ("index", "currency", "DOGE", "unknown currency"),
    ("index", "currency", None, "missing value"),
    ("index", "time", pd.NaT, "missing value"),
    ("marks", "mark_price", np.nan, "missing value"),
    ("marks", "mark_price", -0.5, "negative price"),
    ("marks", "mark_price", 0.0, "zero price"),
    ("marks", "low", -0.5, "negative price"),
    ("marks", "high", np.inf, "not finite"),
    ("marks", "forward", -5.0, "negative price"),
    ("marks", "forward", 0.0, "zero price"),
    ("marks", "mark_iv", -0.1, "negative volatility"),
    ("marks", "mark_iv", -np.inf, "not finite"),
    ("marks", "funding_rate", np.inf, "not finite"),
    ("marks", "instrument_id", "ETH-USDT-SWAP", "unknown instrument"),
    ("positions", "contracts", np.nan, "missing value"),
    ("positions", "contracts", -np.inf, "not finite"),
    ("positions", "entry_price", -1.0, "negative price"),
    ("positions", "entry_price", 0.0, "zero price"),
    ("positions", "instrument_id", "nothing", "unknown instrument"),
    ("positions", "instrument_id", "BTC-USDT", "spot position"),
    ("positions", "account_id", None, "missing value"),
    ("balances", "cash", np.nan, "missing value"),
    ("balances", "cash", np.inf, "not finite"),
    ("balances", "currency", "LUNA", "unknown currency"),
    ("balances", "spot_limit", -1.0, "negative limit"),
    ("orders", "price", -1.0, "negative price"),
    ("orders", "price", 0.0, "zero price"),
    ("orders", "contracts", np.nan, "missing value"),
    ("orders", "instrument_id", "nothing", "unknown instrument"),
    ("accounts", "borrow_mode", "sometimes", "value not allowed"),
    ("accounts", "spot_mode", "EUR", "value not allowed"),
    ("accounts", "segment", None, "missing value"),
    ("instruments", "kind", "warrant", "value not allowed"),
    ("instruments", "multiplier", 0.0, "value not allowed"),
    ("instruments", "multiplier", np.inf, "not finite"),
    ("instruments", "coin", None, "missing value"),
]


@pytest.mark.parametrize(("table", "column", "value", "reason"), BAD)
@pytest.mark.parametrize("categorical", [False, True])
def test_bad_row_is_quarantined(
    table: str, column: str, value: object, reason: str, categorical: bool
) -> None:
    frame = rows.ROWS[table]()
    if frame[column].dtype == object:
        frame[column] = frame[column].astype("str")
    frame.loc[0, column] = value
    if categorical:
        for name in frame.select_dtypes("str").columns:
            frame[name] = frame[name].astype("category")
    found = clean(table, frame)
    assert list(found.quarantined["reason"]) == [reason]
    assert found.quarantined.loc[0, "table"] == table
    assert found.quarantined.loc[0, "row"] == 0
    assert len(found.good) == len(frame) - 1
    assert list(found.good.index) == list(range(len(found.good)))
    assert len(found.rejected) == 1


@pytest.mark.parametrize("column", ["strike", "option_type", "expiry"])
def test_option_needs_its_terms(column: str) -> None:
    frame = rows.instruments()
    frame.loc[1, column] = None
    found = quality.clean_instruments(frame)
    assert list(found.quarantined["reason"]) == ["missing value"]
    assert found.quarantined.loc[0, "key"] == f"instrument_id={rows.CALL}"


def test_negative_strike_and_future_without_expiry() -> None:
    frame = rows.instruments()
    frame.loc[1, "strike"] = -1.0
    frame.loc[0, "kind"] = "future"
    found = quality.clean_instruments(frame)
    assert list(found.quarantined["reason"]) == ["missing value", "negative price"]


@pytest.mark.parametrize("table", list(rows.ROWS))
def test_all_rows_of_a_duplicated_key_are_quarantined(table: str) -> None:
    frame = rows.ROWS[table]()
    twice = pd.concat([frame, frame.iloc[:1]], ignore_index=True)
    found = clean(table, twice)
    assert list(found.quarantined["reason"]) == ["duplicate key"] * 2
    assert list(found.quarantined["row"]) == [0, len(frame)]
    assert len(found.good) == len(frame) - 1


def test_option_without_volatility_and_zero_option_price_are_good() -> None:
    frame = rows.marks()
    option = frame["instrument_id"] == rows.CALL
    frame.loc[option, ["mark_iv", "forward"]] = np.nan
    frame.loc[option, "mark_price"] = 0.0
    frame.loc[option, "low"] = 0.0
    assert quality.clean_marks(frame, rows.instruments()).quarantined.empty


def test_index_without_a_list_of_currencies() -> None:
    frame = rows.index().assign(currency="ANY").iloc[:1]
    assert quality.clean_index(frame).quarantined.empty
    assert len(quality.clean_index(frame, ["BTC"]).quarantined) == 1


def test_first_reason_in_the_stated_order_wins() -> None:
    frame = rows.positions()
    frame.loc[0, ["contracts", "entry_price"]] = [np.nan, -1.0]
    frame.loc[0, "instrument_id"] = "nothing"
    found = quality.clean_positions(frame, rows.instruments())
    assert list(found.quarantined["reason"]) == ["missing value"]


def test_key_and_source_are_named(tmp_path: Path) -> None:
    bad = rows.balances()
    bad.loc[2, "cash"] = np.inf
    dataset = rows.write(tmp_path, buckets=1, balances=bad)
    frame = dataset.balances(rows.SNAPSHOT, 0, with_source=True)
    found = quality.clean_balances(frame, KNOWN)
    assert found.quarantined.to_dict("records") == [
        {
            "table": "balances",
            "file": "balances/date=2024-08-01/bucket=0/part-00000.parquet",
            "row": 2,
            "key": "time=2024-08-01T22:00:00Z account_id=bob currency=BTC",
            "reason": "not finite",
        }
    ]
    assert list(found.rejected["account_id"]) == ["bob"]


def test_missing_column_and_wrong_type_are_errors() -> None:
    with pytest.raises(DataError, match="table balances: column 'cash' is missing"):
        quality.clean_balances(rows.balances().drop(columns="cash"), KNOWN)
    with pytest.raises(DataError, match="table balances: column 'cash' holds"):
        quality.clean_balances(rows.balances().assign(cash="1"), KNOWN)
    with pytest.raises(DataError, match="table index: column 'time' holds"):
        quality.clean_index(rows.index().assign(time=1.0))


def test_empty_frames_are_clean() -> None:
    for table, make in rows.ROWS.items():
        assert clean(table, make().iloc[:0]).quarantined.empty


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "a", "b", "c"]),
            st.sampled_from([0.0, 1.5, None]),
            st.sampled_from(["x", "y"]),
        ),
        max_size=30,
    ),
    st.booleans(),
)
def test_duplicated_keys_are_those_of_pandas(values: list[tuple[Any, ...]], category: bool) -> None:
    frame = pd.DataFrame(values, columns=["a", "b", "c"]).astype(
        {"a": "str", "b": "float64", "c": "str"}
    )
    expected = frame.duplicated(keep=False) & frame.notna().all(axis=1)
    if category:
        frame = frame.astype({"a": "category"})
    np.testing.assert_array_equal(duplicated_keys(frame, ("a", "b", "c")), expected)


@given(st.integers(0, 2**31), st.integers(1, 40))
def test_rows_in_are_good_and_quarantined(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "time": rows.SNAPSHOT,
            "account_id": rng.choice(["a", "b", "c"], count),
            "currency": rng.choice(["BTC", "USDT", "LUNA"], count),
            "cash": rng.choice([1.0, -2.0, np.nan, np.inf], count),
            "spot_limit": rng.choice([0.0, np.nan, -1.0], count),
        }
    )
    found = quality.clean_balances(frame, KNOWN)
    assert len(found.good) + len(found.quarantined) == count
    assert quality.clean_balances(found.good, KNOWN).quarantined.empty
    order = rng.permutation(count)
    shuffled = quality.clean_balances(frame.iloc[order].reset_index(drop=True), KNOWN)
    assert sorted(shuffled.quarantined["key"]) == sorted(found.quarantined["key"])
    assert sorted(shuffled.quarantined["reason"]) == sorted(found.quarantined["reason"])


# -- whole datasets --------------------------------------------------------------------------------


def test_check_of_a_good_dataset(tmp_path: Path) -> None:
    report = quality.check(rows.write(tmp_path))
    assert report.quarantined == 0
    assert report.rows == {name: len(make()) for name, make in rows.ROWS.items()}
    assert report.grid_times == 5
    assert report.gaps == []
    assert report.option_rows_without_volatility == 1
    assert report.options_without_volatility == [rows.CALL]
    assert report.coverage == {"index": 1.0, "marks of perpetuals": 1.0, "marks of options": 1.0}
    assert report.expired_positions == 0
    assert report.warnings == []


def test_check_counts_by_table_and_reason(tmp_path: Path) -> None:
    index = rows.index()
    index.loc[[0, 7], "usd"] = [-1.0, np.inf]
    marks = rows.marks()
    marks.loc[[1, 2], "mark_price"] = -1.0
    orders = rows.orders().assign(instrument_id="nothing")
    report = quality.check(rows.write(tmp_path, index=index, marks=marks, orders=orders))
    assert report.reasons["index"] == {"negative price": 1, "not finite": 1}
    assert report.reasons["marks"] == {"negative price": 2}
    assert report.reasons["orders"] == {"unknown instrument": 2}
    assert report.quarantined == 6
    assert len(report.first_rows) == 6
    assert report.first_rows[0]["key"] == "time=2024-08-01T22:00:00Z currency=BTC"
    assert report.coverage["marks of perpetuals"] == pytest.approx(0.6)
    assert report.lowest_coverage[f"marks {rows.SWAP}"] == pytest.approx(0.6)
    assert report.as_dict()["quarantined"] == 6


def test_currency_without_a_good_index_row_is_unknown(tmp_path: Path) -> None:
    index = rows.index()
    index.loc[index["currency"] == "BTC", "usd"] = np.nan
    report = quality.check(rows.write(tmp_path, index=index))
    assert report.reasons["balances"] == {"unknown currency": 1}


def test_check_finds_gaps_in_the_grid(tmp_path: Path) -> None:
    kept = [rows.TIMES[place] for place in (0, 3, 4)]
    dataset = rows.write(
        tmp_path, index=rows.at(rows.index(), kept), marks=rows.at(rows.marks(), kept)
    )
    report = quality.check(dataset)
    assert report.missing_grid_times == 2
    (gap,) = report.gaps
    assert (gap.after, gap.before) == ("2024-08-01T22:00:00Z", "2024-08-02T01:00:00Z")


def test_check_counts_positions_in_expired_instruments(tmp_path: Path) -> None:
    positions = rows.positions()
    positions.loc[1, "instrument_id"] = rows.OLD_CALL
    report = quality.check(rows.write(tmp_path, positions=positions))
    assert report.quarantined == 0
    assert report.expired_positions == 1
    assert rows.OLD_CALL in report.first_expired_positions[0]["key"]


def test_check_of_a_market_without_accounts(tmp_path: Path) -> None:
    report = quality.check(rows.write(tmp_path, without=rows.ACCOUNT_TABLES))
    assert report.warnings == ["no accounts: a market only"]


def test_check_names_accounts_without_a_row_and_in_two_buckets(tmp_path: Path) -> None:
    dataset = rows.write(tmp_path, accounts=rows.accounts().iloc[:1])
    (warning,) = {w.split(" of ")[0] for w in quality.check(dataset).warnings}
    assert warning == "1 accounts"
    writer = DatasetWriter.reopen(tmp_path)
    writer.buckets = 40
    writer.balances(rows.balances())
    dataset = writer.finish()
    assert any("more than one bucket" in w for w in quality.check(dataset).warnings)


def test_check_finds_rows_in_the_folder_of_another_date(tmp_path: Path) -> None:
    rows.write(tmp_path)
    (tmp_path / "marks" / "date=2024-08-02").rename(tmp_path / "marks" / "date=2024-08-03")
    (warning,) = quality.check(quality.Dataset.open(tmp_path)).warnings
    assert warning == "6 rows of 'marks' lie in the folder of another date"


def test_describe(tmp_path: Path) -> None:
    found = quality.describe(rows.write(tmp_path))
    assert found.rows == {name: len(make()) for name, make in rows.ROWS.items()}
    assert found.instruments_by_kind == {"option": 2, "perpetual": 1, "spot": 1}
    assert found.currencies == ["BTC", "USD", "USDT"]
    assert found.accounts == 2
    assert found.snapshots == ["2024-08-01T22:00:00Z"]
    assert found.total_bytes == sum(found.bytes.values()) > 0
    assert found.as_dict()["total_bytes"] == found.total_bytes
