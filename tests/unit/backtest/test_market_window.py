"""Dense market data: carried forward at most the staleness, settled at expiry, nothing later."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backtest.dataset import Dataset
from backtest.market_window import MarketSource, grid_times, last_known, micros, stamp
from backtest.model_records import Currencies
from tests.unit.backtest import tiny_world as world
from tests.unit.backtest.tiny_world import CALL, ETH, FUTURE, IDS, SWAP, TIMES


HOUR = 3_600_000_000
AXIS = Currencies(["BTC", "ETH"])


def source(root: Path, *, funding: bool = False, staleness_h: float = 1.0, **tables: Any):
    dataset = Dataset.open(world.write(root, **tables))
    rows = dataset.instruments()
    return MarketSource(
        dataset=dataset,
        instruments=rows,
        all_instruments=rows,
        currencies=AXIS,
        snapshot_us=int(micros(TIMES)[0]),
        max_staleness_us=int(staleness_h * HOUR),
        with_funding=funding,
    )


def column(found: MarketSource, name: str) -> int:
    return 1 + found.instruments["instrument_id"].astype(str).tolist().index(name)


def test_last_known_by_hand():
    rows = np.asarray([0, 10, 30]), np.asarray([1, 1, 1]), np.asarray([[1.0], [2.0], [3.0]])
    times = np.asarray([-1, 0, 9, 10, 15, 16, 30])
    found = last_known(*rows, times, 2, max_staleness_us=5)
    assert np.isnan(found[:, 0]).all()
    expected = [np.nan, 1.0, np.nan, 2.0, 2.0, np.nan, 3.0]
    np.testing.assert_array_equal(found[:, 1, 0], expected)


@pytest.mark.parametrize("seed", range(5))
def test_last_known_is_a_search_row_by_row(seed: int):
    rng = np.random.default_rng(seed)
    when, where = rng.permutation(200)[:60], rng.integers(0, 4, 60)
    values, times = rng.normal(size=(60, 2)), np.sort(rng.permutation(220)[:40])
    found = last_known(when, where, values, times, 5, max_staleness_us=17)
    for t, time in enumerate(times):
        for c in range(5):
            known = [(w, k) for k, w in enumerate(when) if where[k] == c and w <= time]
            row = max(known, default=None)
            fresh = row is not None and time - row[0] <= 17
            expected = values[row[1]] if row and fresh else [np.nan, np.nan]
            np.testing.assert_array_equal(found[t, c], expected)


def test_no_rows_at_all():
    empty = np.asarray([], int)
    found = last_known(empty, empty, np.zeros((0, 1)), np.asarray([1, 2]), 3, 10)
    assert np.isnan(found).all()


def test_marks_stop_at_expiry_and_settlement_begins(tmp_path: Path):
    found = source(tmp_path / "d")
    window = found.window(micros(TIMES))
    k = column(found, FUTURE)
    assert np.isfinite(window.mark[:4, k]).all()
    assert np.isnan(window.settlement[:4, k]).all()
    # Expiry at 03:30: the last index at or before it is that of 03:00.
    np.testing.assert_array_equal(window.settlement[4:, k], world.BTC[3])
    np.testing.assert_array_equal(window.settlement_fx[4:, k], 1.0)
    assert np.isnan(window.settlement[:, column(found, CALL)]).all()
    assert (window.currency_usd[:, [2, 3]] == 1.0).all()


def test_a_settlement_without_a_fresh_index_is_nan(tmp_path: Path):
    rows = world.index()
    gap = (rows["currency"] == "BTC") & rows["time"].isin([TIMES[2], TIMES[3]])
    found = source(tmp_path / "d", index=rows[~gap])
    assert np.isnan(found.window(micros(TIMES)).settlement[:, column(found, FUTURE)]).all()


def test_windows_in_pieces_are_the_whole(tmp_path: Path):
    rates = world.marks().assign(funding_rate=1e-4)
    found = source(tmp_path / "d", funding=True, marks=rates)
    whole = found.window(micros(TIMES))
    pieces = [found.window(micros(TIMES[k : k + 4])) for k in (0, 4, 8)]
    for name, values in whole.__dict__.items():
        parts = np.concatenate([getattr(p, name) for p in pieces])
        np.testing.assert_array_equal(parts, values, err_msg=name)
    # A window asked for again, out of order, is the same too.
    again = found.window(micros(TIMES[4:8]))
    np.testing.assert_array_equal(again.funding, whole.funding[4:8])


def test_funding_begins_after_the_snapshot(tmp_path: Path):
    rates = world.marks()
    mine = rates["instrument_id"].isin([SWAP])
    rates.loc[mine, "funding_rate"] = 1e-4
    found = source(tmp_path / "d", funding=True, marks=rates)
    paid = found.window(micros(TIMES)).funding[:, column(found, SWAP)]
    expected = np.concatenate([[0.0], np.cumsum((world.BTC + 5)[1:] * 1e-4)])
    np.testing.assert_allclose(paid, expected, rtol=1e-14)


def test_funding_of_inverse_contracts_is_in_coins(tmp_path: Path):
    contracts = world.instruments()
    contracts.loc[contracts["instrument_id"] == ETH, ["style", "settle"]] = ["inverse", "ETH"]
    rates = world.marks()
    rates.loc[rates["instrument_id"] == ETH, "funding_rate"] = 1e-3
    found = source(tmp_path / "d", funding=True, marks=rates, instruments=contracts)
    paid = found.window(micros(TIMES[:2])).funding[:, column(found, ETH)]
    np.testing.assert_allclose(paid, [0.0, 1e-3 / (world.ETH_USD[1] + 1)], rtol=1e-14)


def test_without_funding_nothing_is_paid(tmp_path: Path):
    rates = world.marks().assign(funding_rate=1e-4)
    found = source(tmp_path / "d", marks=rates)
    assert not found.window(micros(TIMES)).funding.any()


@pytest.mark.parametrize("stop", [2, 5, 7])
def test_nothing_later_is_looked_at(stop: int, tmp_path: Path):
    """Rows after a time may say anything: what was known at that time stays the same."""
    later = {}
    for table, price in (("index", "usd"), ("marks", "mark_price")):
        rows = world.TABLES[table]()
        rows.loc[rows["time"] > TIMES[stop], price] *= 3.0
        later[table] = rows
    times = micros(TIMES[: stop + 1])
    honest, other = (
        source(tmp_path / "a").window(times),
        source(tmp_path / "b", **later).window(times),
    )
    for name, values in honest.__dict__.items():
        np.testing.assert_array_equal(getattr(other, name), values, err_msg=name)


def test_grid_is_thinned_from_the_epoch_whatever_the_start(tmp_path: Path):
    dataset = Dataset.open(world.write(tmp_path / "d"))
    every_two = grid_times(dataset, TIMES[0], TIMES[-1], 2 * HOUR)
    np.testing.assert_array_equal(every_two, micros(TIMES[::2]))
    np.testing.assert_array_equal(grid_times(dataset, TIMES[1], TIMES[-1], 2 * HOUR), every_two[1:])
    np.testing.assert_array_equal(grid_times(dataset, TIMES[0], TIMES[3], None), micros(TIMES[:4]))


def test_stamp_and_micros_are_inverse():
    assert stamp(int(micros(TIMES)[3])) == TIMES[3]
    assert len(IDS) == 6
