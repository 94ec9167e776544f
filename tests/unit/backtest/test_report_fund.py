"""The fund and the balance at which deleveraging is due, against the ledger that asks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.report.figures_liquidation import figure_fund
from backtest.report.fund import adl_rules, adl_trigger, corners, fund_balances
from backtest.report.reader import Results
from backtest.report.sections_liquidation import liquidation_section
from backtest.waterfall import Fund, Winners, is_adl_due, settle
from tests.unit.backtest.fake_liquidations import by_hand
from tests.unit.backtest.fake_results import Spec, write_results


START = pd.Timestamp("2024-08-01", tz="UTC")
HOUR_US = 3_600_000_000
RULES = {
    "fund": {"fee_share": 1.0},
    "adl": {"policy": "queue", "drop": 0.3, "window_days": 8 / 24, "fund_last": True},
}
NOBODY = Winners(*(np.zeros(0) for _ in range(4)))
# hour: income, losses. At hour 3 the fund is 110; it is empty in the end.
MONEY = {1: (10.0, []), 3: (0.0, [20.0]), 4: (0.0, [12.0]), 13: (2.0, [30.0, 50.0])}


def settled() -> tuple[list[dict[str, Any]], dict[int, float], list[bool]]:
    """Rows of a waterfall as the ledger writes them, triggers, and whether deleveraging was due."""
    fund, rows, triggers, due = Fund.of(100.0), [], {}, []
    for hour, (income, losses) in MONEY.items():
        now = int(START.value // 1_000) + hour * HOUR_US
        richer = fund.at(now, fund.balance_usd + income, RULES)
        triggers[hour] = 0.7 * richer.peak_usd(now, RULES)
        due.append(is_adl_due(richer, now, RULES))
        done = settle(fund, np.asarray(losses), NOBODY, now, RULES, fees_usd=income)
        rows.append(
            {
                "parameter_set": "today",
                "time": START + pd.Timedelta(hours=hour),
                "fund_before_usd": fund.balance_usd,
                "revenue_usd": done.revenue_usd,
                "from_fund_usd": float(done.from_fund_usd.sum()),
                "from_adl_usd": 0.0,
                "unfunded_usd": float(done.unfunded_usd.sum()),
                "loss_usd": float(sum(losses)),
                "fund_after_usd": done.fund.balance_usd,
            }
        )
        fund = done.fund
    return rows, triggers, due


def saved(folder: Path, adl: dict[str, Any] | None) -> Results:
    """Results with that fund, and with a rule of deleveraging."""
    rows, *_ = settled()
    funds = [r | dict.fromkeys(("fee_usd", "surplus_usd", "adl_needed_usd"), 0.0) for r in rows]
    counts = dict.fromkeys(("liquidated", "bankrupt", "deleveraged"), 0)
    done = [{"time": r["time"], "account_id": "a", "notional_usd": 1.0} for r in rows]
    write_results(folder, Spec(accounts=10, times=16))
    by_hand(folder, "today", done, [f | counts for f in funds])
    manifest = json.loads((folder / "manifest.json").read_text())
    if adl is not None:
        for entry in manifest["parameter_sets"]:
            entry["adl"] = adl
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Results(folder)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return saved(tmp_path, {k: RULES["adl"][k] for k in ("policy", "drop", "window_days")})


def test_balance_and_trigger_by_hand(results: Results):
    """100, an income of 10, losses of 20 and 12; nine hours later 2 and losses of 30 and 50."""
    balance, trigger = fund_balances(results, "today"), adl_trigger(results, "today")
    want = [100.0] + 2 * [110.0] + [90.0] + 9 * [78.0] + 3 * [0.0]
    assert balance == pytest.approx(want)
    # The peak of 110 is that of hours 1 to 3; eight hours after it only what is left counts. At
    # hour 13 the income makes 80, the peak of the hours after it.
    want = [70.0] + 11 * [77.0] + [63.0, 56.0, 56.0, 56.0]
    assert trigger == pytest.approx(want)


def test_it_is_the_trigger_that_the_ledger_asks_for(results: Results):
    rows, triggers, due = settled()
    found = adl_trigger(results, "today")
    for (hour, wanted), row, is_due in zip(triggers.items(), rows, due, strict=True):
        assert found[hour] == pytest.approx(wanted)
        assert (row["fund_before_usd"] + row["revenue_usd"] <= found[hour]) == is_due


def test_the_figure_draws_both(results: Results):
    top, bottom = figure_fund(results).axes
    labels = [str(line.get_label()) for line in top.lines]
    assert labels == ["today", "deleveraging due"]
    assert np.asarray(top.lines[0].get_ydata()).tolist() == [100.0, 110.0, 90.0, 78.0, 0.0, 0.0]
    bars: list[Any] = list(bottom.patches)
    assert sum(bar.get_height() for bar in bars) == pytest.approx(112.0)
    assert bottom.get_ylim()[1] > 80.0
    caption = liquidation_section(results).pictures[0].caption
    assert "30.0\u00a0% below the peak of the last 8\u00a0h, or empty" in caption


@pytest.mark.parametrize("adl", [None, {"policy": "none", "drop": 0.3, "window_days": 0.3}])
def test_without_a_rule_there_is_no_line(tmp_path: Path, adl: dict[str, Any] | None):
    results = saved(tmp_path, adl)
    assert adl_rules(results, "today") is None
    assert np.isnan(adl_trigger(results, "today")).all()
    assert [str(line.get_label()) for line in figure_fund(results).axes[0].lines] == ["today"]
    assert "was not saved, or nobody" in liquidation_section(results).pictures[0].caption


def test_a_set_without_liquidations_has_no_fund(results: Results):
    assert np.isnan(fund_balances(results, "proposal")).all()
    assert np.isnan(adl_trigger(results, "proposal")).all()


def test_corners():
    assert corners(np.array([1.0, 1.0, 2.0, 2.0, 2.0])).tolist() == [0, 2, 4]
    assert corners(np.array([3.0])).tolist() == [0]
