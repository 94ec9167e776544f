"""The same losses under every way to deleverage are those of runs that deleverage so."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from backtest.report import frames
from backtest.report.build import build_report
from backtest.report.figures_time import shown_sets
from backtest.report.policies import NOT_COMPARED, figure_policies, has_policies, policies
from backtest.report.reader import Results
from backtest.report.sections_liquidation import liquidation_section
from backtest.waterfall import POLICIES
from tests.unit.backtest import tiny_world
from tests.unit.backtest.test_simulate import SIMULATE, config
from tests.unit.backtest.test_simulate_crash import FUND_USD, falling_world


pytestmark = pytest.mark.slow
NEAR_USD = 1e-6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return falling_world(tmp_path_factory.mktemp("policies") / "world")


@pytest.fixture(scope="module")
def out(world: Path) -> Path:
    out = world.parent / "compared"
    chosen = config(world, SIMULATE | {"fund_usd": FUND_USD, "compare_policies": True})
    tiny_world.replay(chosen, out)
    return out


@pytest.mark.parametrize("policy", ["queue", "pro_rata", "none"])
def test_a_run_with_the_policy_says_the_same(world: Path, out: Path, policy: str):
    alone = world.parent / policy
    tiny_world.replay(config(world, SIMULATE | {"fund_usd": FUND_USD, "adl_policy": policy}), alone)
    want = tiny_world.read(alone, "waterfall")
    every = tiny_world.read(out, "adl_policies")
    found = every[every["policy"] == policy].sort_values("time", ignore_index=True)
    pd.testing.assert_frame_equal(found[want.columns.tolist()], want)
    gave = tiny_world.read(alone, "deleveraged") if policy != "none" else None
    hardest = 0.0 if gave is None else float(gave["closed_frac"].max())
    assert found["largest_closed_frac"].max() == pytest.approx(hardest)
    assert (hardest > 0.0) == (policy != "none")


def test_the_report_compares_them(out: Path):
    results = Results(out)
    assert has_policies(results)
    table = policies(results, "today")
    assert len(table) == len(POLICIES)
    paid = table["from_fund_usd"] + table["from_adl_usd"] + table["unfunded_usd"]
    (loss,) = set(table["loss_usd"].tolist())
    assert paid.tolist() == pytest.approx([loss] * len(table), abs=NEAR_USD)
    none = frames.records(table)[0]
    assert (none["policy"], none["from_adl_usd"], none["deleveraged"]) == ("nobody", 0.0, 0)
    (axis,) = figure_policies(results).axes
    bars: list[Any] = list(axis.patches)
    assert sum(bar.get_width() for bar in bars) == pytest.approx(len(POLICIES) * loss)
    files = build_report(results)
    assert "adl_policies.png" in {file.name for file in files.figures}
    assert NOT_COMPARED not in files.page.read_text(encoding="utf-8")


def test_a_run_without_says_how(world: Path):
    alone = world.parent / "not-compared"
    tiny_world.replay(config(world, SIMULATE | {"fund_usd": FUND_USD}), alone)
    results = Results(alone)
    assert not has_policies(results)
    assert shown_sets(results) == ["today"]
    notes = [table.note for table in liquidation_section(results).tables]
    assert any(NOT_COMPARED in note for note in notes)
