"""How long accounts go without a liquidation, worked by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backtest.report.figures import shown
from backtest.report.reader import Results
from backtest.report.survival import figure_survival, survival
from tests.unit.backtest.fake_liquidations import by_hand
from tests.unit.backtest.fake_results import Spec, write_results


HOURS = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two accounts of "x": one liquidated after 2 hours; two of "y": one gone after the fourth
    time, one liquidated after 6 hours. A fifth is never scored."""
    spec = Spec(accounts=5, times=HOURS, buckets=1, sets=("today",), scales=({},))
    root = write_results(tmp_path, spec)
    (file,) = (root / "accounts").iterdir()
    rows = pd.read_parquet(file)
    start = pd.Timestamp(Results(root).manifest["replay"]["start"])
    first = [start + pd.Timedelta(hours=2), None, None, start + pd.Timedelta(hours=6), None]
    rows["first_liquidation_time"] = pd.Series(first).astype(rows["first_liquidation_time"].dtype)
    rows["segment"], rows["unpriced"] = ["x", "x", "y", "y", "y"], 0
    rows["scored"] = [HOURS, HOURS, 4, HOURS, 0]
    rows.to_parquet(file)
    return root


def curve(results: Results, segment: str | None) -> list[tuple[float, float]]:
    rows = survival(results, "today")
    mine = rows["segment"].isna() if segment is None else rows["segment"] == segment
    return [(24.0 * days, share) for days, share in rows.loc[mine, ["days", "survival"]].to_numpy()]


def test_who_leaves_is_no_longer_at_risk(folder: Path):
    results = Results(folder)
    # One of four after 2 hours; of the two that are left after 6 hours, one.
    steps = {hours: share for hours, share in curve(results, None)}
    assert steps[0.0] == 1.0
    assert steps[2.0] == pytest.approx(3 / 4)
    assert steps[6.0] == pytest.approx(3 / 4 * 1 / 2)
    assert min(steps.values()) == steps[6.0]
    assert dict(curve(results, "x"))[2.0] == pytest.approx(1 / 2)
    assert dict(curve(results, "y"))[6.0] == pytest.approx(0.0)


def test_the_figure_goes_on_to_the_end(folder: Path):
    results = Results(folder)
    assert "survival" in shown(results)
    figure = figure_survival(results)
    assert "37.5" in figure.get_suptitle()
    for axis, lines in zip(figure.axes, (1, 2), strict=True):
        assert len(axis.lines) == lines
        for line in axis.lines:
            assert np.asarray(line.get_xdata())[-1] == pytest.approx((HOURS - 1) / 24)


def test_a_run_that_liquidates_counts_first_slices(folder: Path):
    start = pd.Timestamp(Results(folder).manifest["replay"]["start"])
    name = str(Results(folder).accounts(["account_id"])["account_id"].iloc[1])
    rows = [{"time": start + pd.Timedelta(hours=3), "account_id": name, "notional_usd": 5.0}]
    results = Results(by_hand(folder, "today", rows))
    steps = dict(curve(results, None))
    assert steps[3.0] == pytest.approx(3 / 4)  # the account gone after 3 hours is still there
    assert min(steps.values()) == steps[3.0]


def test_nobody_is_liquidated(tmp_path: Path):
    found = Results(write_results(tmp_path, Spec(accounts=30, times=20, crash=0.0, leverage=0.2)))
    rows = survival(found, "today")
    assert rows["survival"].tolist() == [1.0] * len(rows)
    assert figure_survival(found).get_suptitle().startswith("100")
