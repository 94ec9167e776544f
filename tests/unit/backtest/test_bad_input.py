"""Bad rows, gaps and bad requests through the main job: counted, carried or refused, never zero."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backtest.errors import ConfigError, DataError, PmStressError
from tests.unit.backtest import tiny_world as world
from tests.unit.backtest.tiny_world import CALL, ETH, IDS, NUM_ACCOUNTS, TIMES, name_of


pytestmark = pytest.mark.slow
NUM_TIMES = len(TIMES)
ROWS = NUM_ACCOUNTS * NUM_TIMES


class Outcome:
    """A finished run with its tables; row counts are checked once and for all."""

    def __init__(self, folder: Path, replay: dict[str, Any] | None = None, **tables: Any):
        dataset = world.write(folder / "data", **tables)
        self.out = folder / "out"
        self.manifest = world.replay(world.config(dataset, **(replay or {})), self.out)
        self.rows = self.manifest["rows"]
        self.traces = world.read(self.out, "traces")
        self._check_counts()

    def _check_counts(self):
        counted = self.rows["scored"] + self.rows["unpriced"] + self.rows["quarantined"]
        assert self.rows["in"] == counted == len(self.traces)
        summary = world.read(self.out, "summary")
        per_account = world.read(self.out, "accounts")
        status = self.traces["status"]
        for name in ("scored", "unpriced", "quarantined"):
            assert summary[name].sum() == per_account[name].sum() == self.rows[name], name
        assert (status == "unpriced").sum() == self.rows["unpriced"]
        assert (status == "quarantined").sum() == self.rows["quarantined"]
        empty = status.isin(["unpriced", "quarantined"])
        assert self.traces.loc[empty, ["total_mmr", "adjusted_equity", "mr1"]].isna().all(axis=None)
        assert (
            self.traces.loc[~empty, ["total_mmr", "adjusted_equity", "mr1"]].notna().all(axis=None)
        )

    def status(self, name: str) -> dict[int, list[str]]:
        """Statuses at each hour of the accounts that hold a contract."""
        mine = [name_of(k) for k in range(NUM_ACCOUNTS) if IDS[k % 6] == name]
        rows = self.traces[self.traces["account_id"].isin(mine)]
        hour = ((rows["time"] - TIMES[0]) // pd.Timedelta(hours=1)).astype(int)
        return {h: sorted(part["status"]) for h, part in rows.groupby(hour)}

    def reasons(self) -> list[tuple[str, str]]:
        return [(r["table"], r["reason"]) for r in self.manifest["quarantined"]]


def hours_with(outcome: Outcome, name: str, status: str) -> list[int]:
    """Hours at which all holders of a contract have the status (never only some of them)."""
    found = outcome.status(name)
    for hour, statuses in found.items():
        assert statuses.count(status) in (0, len(statuses)), (hour, statuses)
    return [hour for hour, statuses in found.items() if status in statuses]


def changed(frame: Any, rows: Any, **values: Any) -> Any:
    frame = frame.copy()
    for name, value in values.items():
        frame.loc[rows, name] = value
    return frame


def marks_at(name: str, *hours: int) -> Any:
    rows = world.marks()
    return (rows["instrument_id"] == name) & rows["time"].isin([TIMES[h] for h in hours])


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return Outcome(tmp_path_factory.mktemp("clean"))


def test_clean_rows_are_all_scored(clean: Outcome):
    assert clean.rows == {"in": ROWS, "scored": ROWS, "unpriced": 0, "quarantined": 0}
    assert clean.manifest["quarantined"] == []
    assert clean.manifest["accounts"] == NUM_ACCOUNTS


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("mark_price", np.nan, "missing value"),
        ("mark_price", np.inf, "not finite"),
        ("mark_price", -5.0, "negative price"),
        ("mark_price", 0.0, "zero price"),
    ],
)
def test_a_bad_mark_counts_as_missing_and_is_carried(
    name: str, value: float, reason: str, tmp_path: Path
):
    rows = changed(world.marks(), marks_at(ETH, 2, 3), **{name: value})
    outcome = Outcome(tmp_path, marks=rows)
    assert outcome.reasons() == [("marks", reason)] * 2
    assert outcome.manifest["input_rows"]["marks"]["quarantined"] == 2
    # One hour of staleness carries the mark of hour 1 to hour 2, and no further.
    assert hours_with(outcome, ETH, "unpriced") == [3]


def test_a_negative_volatility_counts_as_missing(tmp_path: Path):
    outcome = Outcome(tmp_path, marks=changed(world.marks(), marks_at(CALL, 4, 5), mark_iv=-0.5))
    assert outcome.reasons() == [("marks", "negative volatility")] * 2
    assert hours_with(outcome, CALL, "unpriced") == [5]


def test_an_option_without_a_volatility_is_unpriced_and_no_bad_row(tmp_path: Path):
    outcome = Outcome(tmp_path, marks=changed(world.marks(), marks_at(CALL, 4), mark_iv=np.nan))
    assert outcome.reasons() == []
    assert hours_with(outcome, CALL, "unpriced") == [4]
    assert outcome.rows["unpriced"] == 4


@pytest.mark.parametrize(("staleness", "unpriced"), [("1h", [3, 4]), ("2h", [4]), ("3h", [])])
def test_a_gap_in_marks_is_carried_at_most_the_staleness(
    staleness: str, unpriced: list[int], tmp_path: Path, clean: Outcome
):
    rows = world.marks()[~marks_at(ETH, 2, 3, 4)]
    outcome = Outcome(tmp_path, {"max_staleness": staleness}, marks=rows)
    assert hours_with(outcome, ETH, "unpriced") == unpriced
    listed = [{"instrument_id": ETH, "times": len(unpriced) * NUM_ACCOUNTS // len(IDS)}]
    assert outcome.manifest["unpriced_instruments"] == (listed if unpriced else [])
    later = outcome.traces["time"] >= TIMES[5]
    same = ["adjusted_equity", "total_mmr", "margin_level"]
    pd.testing.assert_frame_equal(
        outcome.traces.loc[later, same], clean.traces.loc[later, same], check_exact=True
    )


def test_a_gap_in_the_index_makes_holders_unpriced(tmp_path: Path):
    rows = world.index()
    gap = (rows["currency"] == "ETH") & rows["time"].isin([TIMES[h] for h in (2, 3)])
    outcome = Outcome(tmp_path, index=rows[~gap])
    assert hours_with(outcome, ETH, "unpriced") == [3]


def test_a_stale_stablecoin_stops_only_who_holds_it(tmp_path: Path):
    rows = world.index()
    gap = (rows["currency"] == "USDT") & (rows["time"] >= TIMES[6])
    outcome = Outcome(tmp_path, index=rows[~gap])
    assert hours_with(outcome, ETH, "unpriced") == [7, 8]
    assert hours_with(outcome, CALL, "unpriced") == []


@pytest.mark.parametrize(
    ("table", "change", "reason"),
    [
        ("positions", {"instrument_id": "BTC-USDT-SWAB"}, "unknown instrument"),
        ("positions", {"contracts": np.nan}, "missing value"),
        ("positions", {"contracts": np.inf}, "not finite"),
        ("positions", {"entry_price": -1.0}, "negative price"),
        ("balances", {"currency": "USDX"}, "unknown currency"),
        ("balances", {"cash": np.inf}, "not finite"),
        ("balances", {"spot_limit": -1.0}, "negative limit"),
    ],
)
def test_a_bad_row_keeps_its_account_out(
    table: str, change: dict[str, Any], reason: str, tmp_path: Path, clean: Outcome
):
    frame = world.TABLES[table]()
    outcome = Outcome(tmp_path, **{table: changed(frame, frame["account_id"] == "a007", **change)})
    assert outcome.reasons() == [(table, reason)]
    assert outcome.manifest["quarantined_counts"] == {f"{table}: {reason}": 1}
    (row,) = outcome.manifest["quarantined"]
    assert row["file"].startswith(f"{table}/date=2025-03-01/bucket=")
    assert "a007" in row["key"]
    assert outcome.rows["quarantined"] == NUM_TIMES
    others = outcome.traces["account_id"] != "a007"
    assert set(outcome.traces.loc[~others, "status"]) == {"quarantined"}
    pd.testing.assert_frame_equal(outcome.traces[others], clean.traces[others], check_exact=True)


def test_a_duplicate_key_keeps_its_account_out(tmp_path: Path):
    rows = world.positions()
    twice = pd.concat([rows, rows[rows["account_id"] == "a003"]], ignore_index=True)
    outcome = Outcome(tmp_path, positions=twice)
    assert outcome.reasons() == [("positions", "duplicate key")] * 2
    assert outcome.rows["quarantined"] == NUM_TIMES


def test_too_many_bad_rows_refuse_the_run(tmp_path: Path):
    rows = changed(world.marks(), marks_at(ETH, 2), mark_price=-1.0)
    with pytest.raises(DataError, match=r"marks.*1 of .* rows.*max_quarantined_share.*negative"):
        Outcome(tmp_path, {"max_quarantined_share": 0.01}, marks=rows)


def test_a_missing_column_names_file_and_column(tmp_path: Path):
    dataset = world.write(tmp_path / "data")
    file = next((dataset / "positions").rglob("*.parquet"))
    table = pq.ParquetFile(file).read()
    pq.write_table(table.drop_columns(["entry_price"]), file)
    with pytest.raises(DataError, match=rf"{file.name}.*entry_price") as caught:
        world.replay(world.config(dataset), tmp_path / "out")
    assert caught.value.exit_code == 3


def test_a_column_of_another_type_names_the_column(tmp_path: Path):
    dataset = world.write(tmp_path / "data")
    file = next((dataset / "balances").rglob("*.parquet"))
    table = pq.ParquetFile(file).read()
    place = table.schema.get_field_index("cash")
    text = pa.array(["a lot"] * table.num_rows)
    pq.write_table(table.set_column(place, "cash", text), file)
    with pytest.raises(DataError, match="cash"):
        world.replay(world.config(dataset), tmp_path / "out")


@pytest.mark.parametrize("what", ["nothing there", "no accounts", "no index in the window"])
def test_an_empty_dataset_is_refused(what: str, tmp_path: Path):
    dataset = tmp_path / "data"
    replay: dict[str, Any] = {}
    if what != "nothing there":
        none = (
            {}
            if what != "no accounts"
            else {t: world.TABLES[t]().iloc[:0] for t in ("accounts", "balances", "positions")}
        )
        world.write(dataset, **none)
    if what == "no index in the window":
        replay = {"start": "2025-04-01T00:00:00Z", "end": "2025-04-02T00:00:00Z"}
    with pytest.raises(DataError):
        world.replay(world.config(dataset, **replay), tmp_path / "out")


def test_a_start_before_the_first_snapshot_is_refused_or_begins_there(tmp_path: Path):
    later = TIMES[2]
    tables = {t: world.TABLES[t]().assign(time=later) for t in ("balances", "positions")}
    dataset = world.write(tmp_path / "data", **tables)
    with pytest.raises(DataError, match="no snapshot at or before"):
        world.replay(world.config(dataset), tmp_path / "out")


def test_a_misspelt_parameter_key_is_refused(tmp_path: Path):
    wrong = tmp_path / "set.toml"
    text = world.PARAMS.read_text()
    assert "imr_factor" in text
    wrong.write_text(text.replace("imr_factor", "imr_faktor"))
    chosen = world.config(world.write(tmp_path / "data"))
    sets = [chosen.parameter_sets[0].model_copy(update={"file": wrong})]
    with pytest.raises(ConfigError, match="imr_faktor"):
        world.replay(chosen.model_copy(update={"parameter_sets": sets}), tmp_path / "out")


def test_expired_contracts_settle_at_the_last_index_before_expiry(clean: Outcome):
    """Expiry at 03:30: alive at 03:00, settled from 04:00 on at the index of 03:00."""
    final = float(world.BTC[3])
    balance = world.balances().set_index("account_id")["cash"]
    gains = {
        2: (final - 64_300.0, "USDT"),
        3: (100.0 * 100.0 * (1 / 63_900.0 - 1 / final), "BTC"),
        4: ((final - 60_000.0) / final, "BTC"),
    }
    accounts = world.read(clean.out, "accounts").set_index("account_id")
    for k, (gain, currency) in gains.items():
        path = world.trace(clean.out, name_of(k))
        assert (path["status"] != "unpriced").all()
        after = path[path["time"] >= TIMES[4]]
        assert (after["total_mmr"] == 0).all()
        assert (after["status"] == "no_requirement").all()
        assert (path[path["time"] < TIMES[4]]["total_mmr"] > 0).all()
        held = balance[name_of(k)] + gain
        rate = 1.0 if currency == "USDT" else 0.98
        price = 1.0 if currency == "USDT" else world.BTC[4:]
        np.testing.assert_allclose(after["adjusted_equity"], held * rate * price, rtol=1e-12)
        assert accounts.loc[name_of(k), "unpriced"] == 0


def test_a_contract_that_expired_before_the_snapshot_settles(tmp_path: Path):
    """Its index is known: it settles; before all data: unpriced, counted, no zero."""
    for expiry, unpriced in ((TIMES[0], False), (TIMES[0] - pd.Timedelta(days=3), True)):
        folder = tmp_path / str(unpriced)
        contracts = world.instruments()
        late = contracts["instrument_id"] == CALL
        contracts.loc[late, "expiry"] = expiry
        outcome = Outcome(folder, instruments=contracts)
        found = hours_with(outcome, CALL, "unpriced")
        assert found == (list(range(NUM_TIMES)) if unpriced else [])
        if not unpriced:
            assert hours_with(outcome, CALL, "no_requirement") == list(range(NUM_TIMES))


def test_every_error_has_an_exit_code():
    assert (ConfigError("x").exit_code, DataError("x").exit_code) == (2, 3)
    assert issubclass(DataError, PmStressError)
