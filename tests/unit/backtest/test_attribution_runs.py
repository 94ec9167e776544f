"""Charges of risk units saved at liquidations, and shares that add up to what was required."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.report.attribution import (
    attribution_section,
    attribution_table,
    daily_change_table,
    figure_daily_change,
    figure_shapley,
    liquidation_attribution,
)
from backtest.report.procyclicality import (
    EVERYONE,
    benchmarks,
    figure_procyclicality,
    procyclicality_section,
    procyclicality_table,
    response_table,
    tool_table,
)
from backtest.report.reader import Results
from backtest.report.theme import to_png
from tests.unit.backtest import test_break_even_runs as near, tiny_world as world


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("attribution")
    tables = near.tables()
    both: Any = tables["positions"]
    # some accounts hold a second unit, so that charges compete coin by coin
    more = both[both["instrument_id"] == world.SWAP].assign(
        instrument_id=world.ETH, contracts=-1.0, entry_price=3_000.0
    )
    tables["positions"] = pd.concat([both, more], ignore_index=True)
    dataset = world.write(folder / "data", buckets=1, **tables)
    world.replay(world.config(dataset), folder / "out")
    return Results(folder / "out")


def test_units_add_up_to_the_charges_of_events(results: Results):
    names = [c.name for c in results.charges("today")]
    events = results.events(["account_id", "time", *names], "today", "liquidation")
    units: Any = results.event_units("today").drop(columns=["parameter_set"])
    assert set(units["unit"]) == {"BTC", "ETH"}
    whole: Any = units.groupby(["account_id", "time"])[names].sum().reset_index()
    both: Any = events.merge(whole, on=["account_id", "time"], suffixes=("", "_units"))
    assert len(both) == len(events) > 20
    for name in names:
        if name != "mr8":  # debts of the account stand in no unit
            assert both[name].to_numpy() == pytest.approx(both[f"{name}_units"].to_numpy())
    assert (units["mr8"] == 0.0).all()


def test_shares_add_up_to_margin_and_to_one_liquidation(results: Results):
    found = liquidation_attribution(results, "today")
    names = [c.name for c in results.charges("today")]
    shares = found[[f"{n}_usd" for n in names]].to_numpy(float)
    total = found["total_mmr"].to_numpy(float)
    assert shares.sum(axis=1) == pytest.approx(total, rel=1e-9)
    assert found["residual_usd"].to_numpy(float) == pytest.approx(np.zeros(len(found)), abs=1e-6)
    cause = found[[f"{n}_cause" for n in names]].to_numpy(float).sum(axis=1)
    equity = results.events(["account_id", "time", "adjusted_equity"], "today", "liquidation")
    equity = equity.sort_values(["account_id", "time"])["adjusted_equity"].to_numpy(float)
    assert cause[equity > 0.0] == pytest.approx(np.ones((equity > 0.0).sum()))
    assert cause[equity <= 0.0] == pytest.approx(np.zeros((equity <= 0.0).sum()), abs=1e-12)


def test_the_table_and_figures_of_the_report(results: Results):
    table: Any = attribution_table(results).set_index("charge")
    assert table["margin_frac"].sum() == pytest.approx(1.0)
    assert 0.0 < table["cause_frac"].sum() <= 1.0 + 1e-9
    assert table.loc["mr2", "cause_frac"] == 0.0
    section = attribution_section(results)
    assert [p.name for p in section.pictures] == ["shapley", "daily_change"]
    assert len(section.tables[0].rows) == len(results.charges("today"))
    for draw in (figure_shapley, figure_daily_change, figure_procyclicality):
        assert to_png(draw(results)).startswith(b"\x89PNG")


def test_daily_changes_close_with_their_residual(results: Results):
    """A window of one day has none; the columns still say what would be there."""
    table = daily_change_table(results)
    assert table.columns[:3].tolist() == ["day", "parameter_set", "margin_usd"]
    assert len(table) == 0


def test_constant_portfolios_are_benchmarks(results: Results):
    found = benchmarks(results, "today")
    assert EVERYONE in found
    path = found[EVERYONE].to_numpy(float)
    summary: Any = results.summary("today")
    summary = summary.groupby("time")["total_mmr"].sum().to_numpy(float)
    assert path == pytest.approx(summary)
    table: Any = procyclicality_table(results)
    mine = table[table["benchmark"] == EVERYONE].iloc[0]
    assert mine["peak_to_trough"] == pytest.approx(path.max() / path.min())
    assert mine["step_exact_frac"] == pytest.approx((path[1:] / path[:-1]).max() - 1.0)
    tools: Any = tool_table(results).set_index("tool")
    assert tools.loc["none", "mean_of_raw"] == 1.0
    assert tools.loc["floor at the mean", "peak_to_trough"] <= mine["peak_to_trough"]
    assert tools["below_raw_frac"].iloc[1] == 0.0  # a buffer is never below
    response: Any = response_table(results)
    mine = response[response["benchmark"] == EVERYONE].iloc[0]
    at = int(np.argmax(found[EVERYONE].index == mine["shock_time"]))
    assert mine["largest_response"] == pytest.approx(path[at:].max() / path[at - 1])
    assert Path(results.path, "event_units").is_dir()


def test_a_step_of_volatility_is_the_shock_where_there_is_one(results: Results):
    path = benchmarks(results, "today")[EVERYONE]
    stepped = Results(results.path)
    start: Any = path.index[0]
    market = {"start": start.isoformat(), "volatility_step": {"after": "PT2H", "factor": 3.0}}
    stepped.manifest["config"]["market"] = market
    table: Any = response_table(stepped)
    mine = table[table["benchmark"] == EVERYONE].iloc[0]
    assert mine["shock_time"] == start + pd.Timedelta("2h")
    section = procyclicality_section(stepped)
    assert section.tables[2].caption == "Response to the volatility step"
    # after the window's end it is none of its shocks
    market["volatility_step"] = {"after": "P900D", "factor": 3.0}
    pd.testing.assert_frame_equal(response_table(stepped), response_table(results))
    assert procyclicality_section(stepped).tables[2].caption == "Response to the largest move"
