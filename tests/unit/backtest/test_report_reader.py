import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backtest.errors import ConfigError, DataError
from backtest.report.reader import Results
from tests.unit.backtest.fake_results import Spec, write_results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("run"), Spec(accounts=300, times=40))


def raw(folder: Path, table: str) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(f) for f in sorted((folder / table).glob("*.parquet"))])


def test_summary_adds_up_cells(folder: Path):
    results = Results(folder)
    key = ["parameter_set", "segment", "time"]
    want: dict[tuple[str, ...], np.ndarray] = {}
    for row in raw(folder, "summary").to_dict("records"):
        values = np.array([row["scored"], row["episodes_started"], row["total_mmr"]])
        at = tuple(row[k] for k in key)
        want[at] = want.get(at, np.zeros(3)) + values
    got = results.summary()
    assert len(got) == len(want)
    for row in got.to_dict("records"):
        values = [row["scored"], row["episodes_started"], row["total_mmr"]]
        np.testing.assert_allclose(values, want[tuple(row[k] for k in key)], rtol=1e-12)
    assert set(results.summary("today")["parameter_set"]) == {"today"}


def test_accounts_of_one_set_with_chosen_columns(folder: Path):
    got = Results(folder).accounts(["account_id", "episodes"], "proposal")
    want = raw(folder, "accounts")
    want = want[want["parameter_set"] == "proposal"]
    assert list(got.columns) == ["account_id", "episodes"]
    assert dict(zip(got["account_id"], got["episodes"], strict=True)) == dict(
        zip(want["account_id"], want["episodes"], strict=True)
    )


def test_events_by_kind_and_typed_when_empty(folder: Path):
    results = Results(folder)
    got = results.events(["account_id", "event", "time"], "today", "liquidation")
    assert set(got["event"]) == {"liquidation"}
    none = results.events(["account_id", "time"], "today", "no such event")
    assert len(none) == 0
    assert none["time"].dtype == got["time"].dtype


def test_both_sets_in_one_file_and_row_groups(folder: Path, tmp_path: Path):
    write_results(tmp_path, Spec(accounts=300, times=40))
    everything = raw(tmp_path, "accounts").sort_values("account_id")
    for file in (tmp_path / "accounts").glob("*"):
        file.unlink()
    everything.astype({"parameter_set": str}).to_parquet(
        tmp_path / "accounts" / "all.parquet", row_group_size=50
    )
    columns = ["account_id", "worst_margin_level"]
    one, many = (
        Results(tmp_path).accounts(columns, "today"),
        Results(folder).accounts(columns, "today"),
    )
    one, many = (f.sort_values("account_id", ignore_index=True) for f in (one, many))
    pd.testing.assert_frame_equal(one, many)


def test_index_and_absent_traces(folder: Path):
    results = Results(folder)
    assert set(results.index()["currency"]) == {"BTC", "ETH", "USDT", "USDC", "USD"}
    assert not results.has("traces")
    with pytest.raises(DataError, match=r"traces/\*\.parquet is missing"):
        results.traces()


def test_champion_from_configuration(tmp_path: Path):
    results = Results(write_results(tmp_path, Spec(accounts=20, times=3, champion="proposal")))
    assert results.champion == "proposal"
    assert results.challengers == ["today"]


def test_unknown_set_names_the_known(folder: Path):
    with pytest.raises(ConfigError, match=r"no parameter set 'tomorrow'.*'today', 'proposal'"):
        Results(folder).accounts(None, "tomorrow")


def test_missing_parts_are_named(folder: Path, tmp_path: Path):
    with pytest.raises(DataError, match="no such results folder"):
        Results(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        Results(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        _ = Results(tmp_path).manifest
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="parameter_sets"):
        _ = Results(tmp_path).set_names
    (tmp_path / "manifest.json").write_text(json.dumps({"parameter_sets": [{"name": "a"}]}))
    with pytest.raises(DataError, match=r"summary/\*\.parquet is missing"):
        Results(tmp_path).summary()
    with pytest.raises(DataError, match=r"interval_seconds"):
        _ = Results(tmp_path).interval_seconds
    with pytest.raises(DataError, match=r"0-0\.parquet: missing column no_such"):
        Results(folder).accounts(["account_id", "no_such"])


def test_unreadable_file_is_named(tmp_path: Path):
    write_results(tmp_path, Spec(accounts=20, times=3, buckets=1))
    (tmp_path / "accounts" / "0-0.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"0-0\.parquet: not a readable Parquet file"):
        Results(tmp_path).accounts(["account_id"])
