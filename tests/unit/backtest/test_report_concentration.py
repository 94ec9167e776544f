"""How few accounts matter, from amounts worked by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.report import frames
from backtest.report.concentration import (
    LIQUIDATED,
    LOST,
    amounts,
    concentration,
    concentration_section,
    figure_concentration,
    share_of_largest,
)
from backtest.report.figures import shown
from backtest.report.reader import Results
from tests.unit.backtest.fake_liquidations import by_hand
from tests.unit.backtest.fake_results import Spec, write_results


TIME = pd.Timestamp("2024-08-01 01:00", tz="UTC")


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Twelve accounts of 1 to 12 USD, the third of them twice; one owes 3, one 1."""
    rows: list[dict[str, Any]] = [
        {"time": TIME, "account_id": f"a{k:02d}", "notional_usd": float(k)} for k in range(1, 13)
    ]
    rows[4]["bad_debt_usd"], rows[6]["bad_debt_usd"] = 3.0, 1.0
    later = TIME + pd.Timedelta(hours=1)
    rows.append({"time": later, "account_id": "a03", "notional_usd": 22.0})
    return Results(by_hand(write_results(tmp_path, Spec(accounts=20, times=12)), "today", rows))


def test_shares_of_the_largest(results: Results):
    table = concentration(results, "today")
    liquidated, lost = table.to_dict("records")
    # 25 of a03, then 12, 11 ... and without 3: 25 + 78 - 3 = 100.
    assert (liquidated["accounts"], liquidated["total_usd"]) == (12, 100.0)
    assert liquidated["top_1"] == pytest.approx(0.25)
    assert liquidated["top_10"] == pytest.approx(0.97)  # all but 1 and 2
    assert liquidated["top_100"] == pytest.approx(1.0)
    assert (lost["accounts"], lost["total_usd"], lost["top_1"]) == (2, 4.0, 0.75)
    assert share_of_largest(np.zeros(0), 10) is None


def test_the_figure_holds_them(results: Results):
    left, right = figure_concentration(results).axes
    curve, mark = left.lines
    assert np.asarray(curve.get_ydata()) == pytest.approx(
        np.cumsum([25, 12, 11, 10, 9, 8, 7, 6, 5, 4, 2, 1]) / 100
    )
    assert np.asarray(mark.get_xdata()).tolist() == [10]
    assert np.asarray(mark.get_ydata()) == pytest.approx([0.97])
    assert np.asarray(right.lines[0].get_ydata()) == pytest.approx([0.75, 1.0])


def test_of_a_run_that_measures(tmp_path: Path):
    found = Results(write_results(tmp_path, Spec(accounts=120, times=60)))
    values = amounts(found, "today")
    events = found.events(["account_id", "gross_notional_usd"], "today", "liquidation")
    assert len(values[LIQUIDATED]) == events["account_id"].nunique()
    assert values[LIQUIDATED].sum() == pytest.approx(frames.total(events, "gross_notional_usd"))
    debt = frames.numbers(found.accounts(["bad_debt_usd"], "today"), "bad_debt_usd")
    assert values[LOST].tolist() == sorted(debt[debt > 0.0].tolist(), reverse=True)
    assert (np.diff(values[LIQUIDATED]) <= 0.0).all()
    assert "concentration" in shown(found)


def test_nobody_is_said_in_words(tmp_path: Path):
    folder = write_results(tmp_path, Spec(accounts=30, times=20, crash=0.0, leverage=0.2))
    found = Results(folder)
    section = concentration_section(found)
    assert not section.pictures
    assert "Nobody is liquidated" in section.intro
    assert "concentration" not in shown(found)
