"""Pages of accounts: which ones, what they say, and how large they can make a report."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.report import account_pages, accounts, steps
from backtest.report.account_pages import AccountPage
from backtest.report.account_path import LevelPath, level_picture
from backtest.report.figures import shown
from backtest.report.html import render
from backtest.report.reader import Results
from backtest.report.rules import Levels
from backtest.report.tables import all_tables
from kernels.liquidation.records import WHY
from tests.unit.backtest.fake_liquidations import simulate, trace
from tests.unit.backtest.fake_results import Spec, write_results
from tests.unit.backtest.test_report_page import check_page, read


SPEC = Spec(accounts=300, times=60)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("measured"), SPEC)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = simulate(write_results(tmp_path_factory.mktemp("simulated"), SPEC))
    some = accounts.listed(Results(folder))["account_id"].tolist()[:2]
    write_page(trace(folder, some))
    return folder


def write_page(folder: Path) -> str:
    """The page with empty pictures, as drawing them takes long."""
    results = Results(folder)
    source = render(results, dict.fromkeys(shown(results), "<svg></svg>"))
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "index.html").write_text(source, encoding="utf-8")
    return source


def table(page: AccountPage, start: str) -> list[list[str]]:
    (found,) = [t for t in page.tables if t.caption.startswith(start)]
    return [[c.shown for c in row] for row in found.rows]


def test_the_largest_of_every_set_are_listed(measured: Path):
    results = Results(measured)
    listed = accounts.listed(results)
    assert len(listed) == accounts.MOST_LISTED
    for name in results.set_names:
        events = results.events(None, name, "liquidation")
        mine = listed[listed["parameter_set"] == name]
        assert len(mine) == accounts.MOST_LISTED // 2
        first = events.sort_values("time").drop_duplicates("account_id")
        largest = first.nlargest(len(mine), "gross_notional_usd")
        assert set(mine["account_id"]) == set(largest["account_id"])
        assert (np.diff(mine["gross_notional_usd"]) <= 0).all()
        counts = events["account_id"].value_counts()
        assert mine["triggers"].tolist() == counts[mine["account_id"]].tolist()


def test_all_listed_accounts_have_a_page_and_no_more_than_the_bound(measured: Path):
    results = Results(measured)
    pages = accounts.with_pages(results)
    assert set(accounts.listed(results)["account_id"]) <= set(pages)
    assert len(pages) <= accounts.MOST_PAGES
    assert list(pages.values()) == [f"account-{k}" for k in range(1, len(pages) + 1)]
    assert [p.name for p in account_pages.account_pages(results)] == list(pages)


def test_a_measured_account_shows_its_charges_at_the_trigger(measured: Path):
    results = Results(measured)
    page = account_pages.account_pages(results)[0]
    events: Any = results.events(None, "today", "liquidation")
    event = events[events["account_id"] == page.name].sort_values("time").iloc[0]
    values = {row[0]: row[1] for row in table(page, "Charges under today")}
    assert values["Margin level"] == accounts.level(event["margin_level"])
    assert len([k for k in values if k.startswith("MR")]) == sum(
        event[c.name] > 0 for c in results.charges("today")
    )
    assert not any(t.caption.startswith("Steps") for t in page.tables)
    assert "kept none" in page.caption
    assert f"{event['time']:%Y-%m-%dT%H:%MZ} --set today" in page.commands[0]


def test_a_liquidated_account_shows_every_step_and_trade(simulated: Path):
    results = Results(simulated)
    pages = account_pages.account_pages(results)
    page = pages[0]
    done: Any = results.simulated("liquidations", "today")
    mine = done[done["account_id"] == page.name].sort_values(["time", "step"])
    rows = table(page, "Steps under today")
    assert len(rows) == len(mine)
    assert [row[2] for row in rows] == mine["stage"].tolist()
    assert {row[-1] for row in rows} == {
        "a further slice would not lower the margin",
        "the account is safe",
    }
    assert rows[0][4].startswith("a charge of price moves leads its unit: USD")
    assert len(table(page, "Trades under today")) == mine["instruments"].map(len).sum()
    before, after = (
        row[1:3] for row in table(page, "Charges under today") if row[0] == "Margin level"
    ).__next__()
    assert before == accounts.level(mine["level_before"].iloc[0])
    assert after == accounts.level(mine["level_after"].iloc[1])
    assert "every time of the run" in page.caption
    assert "every time" not in pages[2].caption
    assert "Arrows" in pages[2].caption


def test_the_page_holds_them_and_says_how_many_there_are(simulated: Path):
    page, results = check_page(simulated), Results(simulated)
    pages = accounts.with_pages(results)
    assert set(pages.values()) <= set(page.ids)
    assert page.links.count("#accounts") >= len(pages)
    for anchor in pages.values():
        assert f"#{anchor}" in page.links
    everyone = set()
    for name in results.set_names:
        everyone |= set(accounts.triggered(results, name)["account_id"])
    assert len(everyone) > len(pages)
    assert f"{len(pages)} of {len(everyone)} accounts have a page here" in page.text
    assert "pmstress explain" in page.text
    saved = all_tables(results)["largest_triggered"]
    assert saved["account_id"].tolist() == accounts.listed(results)["account_id"].tolist()


@pytest.mark.parametrize(
    "prefix", ["<script>alert(1)</script>", "a b'\"$(rm -rf ~)#", "漢\u202e/../"]
)
def test_any_name_is_safe_in_page_fragment_and_command(prefix: str, tmp_path: Path):
    spec = Spec(accounts=60, times=40, account_prefix=prefix)
    write_page(simulate(write_results(tmp_path, spec), instrument=f"{prefix}SWAP"))
    page = check_page(tmp_path)
    results = Results(tmp_path)
    assert all(re.fullmatch(r"account-\d+", f) for f in accounts.with_pages(results).values())
    name = accounts.listed(results)["account_id"].iloc[0]
    assert name in page.text
    for found in account_pages.account_pages(results):
        for command in found.commands:
            words = shlex.split(command)
            assert words[:3] == ["pmstress", "explain", str(tmp_path)]
            assert words[3].rpartition("@")[0] == found.name


def test_a_run_without_triggers_has_no_pages(tmp_path: Path):
    write_page(write_results(tmp_path, Spec(accounts=40, times=10, crash=0.0, leverage=0.2)))
    page = read(tmp_path)
    assert "No account came to the trigger" in page.text
    assert not [i for i in page.ids if i.startswith("account-")]


def test_pages_at_their_largest_leave_room_for_the_rest(tmp_path: Path):
    """All that a page may hold at once: steps, trades, charges, full paths and long names."""
    spec = Spec(accounts=700, times=500, account_prefix="n" * 60)
    folder = simulate(write_results(tmp_path, spec), steps=40, legs=4)
    results = Results(folder)
    names = list(accounts.with_pages(results))
    assert len(names) == accounts.MOST_PAGES
    source = write_page(trace(folder, names))
    pages = re.findall(r'<section id="account-\d+".*?</section>', source, re.DOTALL)
    assert len(pages) == accounts.MOST_PAGES
    assert "First 14 and last 6 of" in source
    assert "First 16 and last 8 of" in source
    # The rest of a report has tables and figures of bounded size, 2 MB at most.
    assert sum(len(page.encode()) for page in pages) < 7_000_000


def test_long_paths_keep_their_lowest_and_highest():
    levels = 2.0 + np.sin(np.arange(50_000) / 900.0)
    levels[31_234] = 0.2
    path = LevelPath("<today>", 0, 3600.0 * np.arange(50_000), levels, is_whole=True)
    start: Any = pd.Timestamp("2024-01-01T00:00Z")
    svg = level_picture([path], start, 3600.0 * 49_999, Levels(3.0, 1.1))
    lines = [d for d in re.findall(r'd="(M[^"]*L[^"]*)"', svg)]
    assert len(lines) == 1
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", lines[0])]
    assert 100 < len(heights) < 500
    drawn = {round(h) for h in heights}
    assert max(heights) == pytest.approx(188.0, abs=3.0)  # 0.2 of a scale from 0.1 to 10
    assert len(drawn) > 10
    assert "<today>" not in svg
    for words in ("warning 300", "safe 110", "liquidation 100"):
        assert words in svg


def test_levels_that_are_missing_or_beyond_the_scale():
    """A gap breaks the line, what is beyond lies on the edge, one time is no division by zero."""
    start: Any = pd.Timestamp("2024-01-01T00:00Z")
    levels = np.asarray([5.0, np.nan, -1.0, 99.0])
    path = LevelPath("today", 0, np.arange(4.0), levels, is_whole=True)
    (line,) = re.findall(
        r'd="(M[^"]*)" stroke-dasharray=""/></g>|d="(M[^"]*L[^"]*)"',
        level_picture([path], start, 3.0, Levels()),
    )
    drawn = "".join(line)
    assert drawn.count("M") == 2
    assert drawn.count("L") == 1
    once = LevelPath(
        "today", 0, np.zeros(1), np.ones(1), is_whole=False, fixed=[(0.0, 0.9, np.nan)]
    )
    assert "nan" not in level_picture([once], start, 0.0, Levels(3.0, 1.1))


def test_every_code_of_a_step_has_words():
    assert set(steps.ENDED) == set(WHY)
    for stage in ("cancel", "ddh1", "ddh2", "basis", "reduction", "partial", "repay", "bankruptcy"):
        assert stage in steps.STAGES
        assert steps.chosen(stage, 5.0)
    assert steps.explained(["ddh2", "ddh2", "unheard of"]) == (
        "ddh2: futures and perpetuals are traded against the net delta."
    )
