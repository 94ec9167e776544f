"""What sudden moves liquidate, from a table worked by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.report.build import build_report
from backtest.report.figures import shown
from backtest.report.profile import figure_profile, profile_section
from backtest.report.reader import Results
from tests.unit.backtest.fake_results import Spec, write_results


MOVES = [-0.2, -0.1, 0.0, 0.1]
LIQUIDATED = {"today": [400.0, 100.0, 0.0, 50.0], "proposal": [500.0, 200.0, 10.0, 50.0]}
UNCOVERED = [30.0, 0.0, 0.0, 0.0]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    folder = write_results(tmp_path, Spec(accounts=20, times=12))
    parts = [
        pd.DataFrame(
            {
                "parameter_set": name,
                "time": pd.Timestamp("2024-08-01", tz="UTC"),
                "price_move_frac": MOVES,
                "liquidated_usd": usd,
                "fund_draw_usd": UNCOVERED,
                "accounts_liquidated": [4, 1, 0, 1],
                "gross_notional_usd": 1_000.0,
                "accounts": 20,
            }
        ).iloc[::-1]
        for name, usd in LIQUIDATED.items()
    ]
    pd.concat(parts).to_parquet(folder / "report_data" / "liquidation_profile.parquet")
    return Results(folder)


def test_the_figure_holds_every_move(results: Results):
    figure = figure_profile(results)
    top, bottom = figure.axes
    for line, usd in zip(top.lines[:2], LIQUIDATED.values(), strict=True):
        assert np.asarray(line.get_xdata()).tolist() == MOVES
        assert np.asarray(line.get_ydata()).tolist() == usd
    assert np.asarray(bottom.lines[0].get_ydata()).tolist() == UNCOVERED
    title: Any = figure.get_suptitle()
    assert "fall of 20.0\u00a0% liquidates USD\u00a0400 of gross" in title.replace("\n", " ")


def test_the_table_says_share_and_accounts(results: Results):
    (table,) = profile_section(results).tables
    rows = {row[0].shown: row for row in table.rows}
    fall = rows["\u221220.0\u00a0%"]
    assert [cell.shown for cell in fall[1:]] == ["USD\u00a0400", "USD\u00a0500"]
    assert fall[1].note == "4 accounts, 40.0\u00a0%"
    assert [cell.shown for cell in rows["+50.0\u00a0%"][1:]] == ["\u2013", "\u2013"]


def test_it_is_in_the_report(results: Results):
    files = build_report(results)
    assert "liquidation_profile.png" in {file.name for file in files.figures}
    table = pd.read_parquet(files.page.parent / "tables" / "liquidation_profile.parquet")
    assert len(table) == 8


def test_a_run_nobody_looked_at_says_so(tmp_path: Path):
    results = Results(write_results(tmp_path, Spec(accounts=20, times=12)))
    section = profile_section(results)
    assert not section.pictures
    assert "pmstress reverse-stress" in section.intro
    assert "liquidation_profile" not in shown(results)
