import ast
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from typer.testing import CliRunner
from typing_extensions import override

import backtest.report
from backtest.cli.report import app
from backtest.report import text, theme
from backtest.report.build import build_report
from backtest.report.compare import pairing
from backtest.report.figures import FIGURES, figure_flips, shown
from backtest.report.html import accounts_fact, render
from backtest.report.procyclicality import figure_procyclicality
from backtest.report.reader import Results
from tests.unit.backtest.fake_results import Spec, write_results


EVIL = "<script>alert('x')</script>"
ODD_SETS = (EVIL, "_under $x_1$ [b]", "漢字/../🚀" + "w" * 80)


class Page(HTMLParser):
    """Collects ids, links, text and whether tags close."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.tags: Counter[str] = Counter()
        self.open: list[str] = []
        self.text = ""
        self.feed(source)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            elif name == "href" and value:
                self.links.append(value)
            elif name in ("src", "srcset", "data", "action") and value:
                self.loads.append(value)

    @override
    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def read(folder: Path) -> Page:
    return Page((folder / "report" / "index.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("run"), Spec(accounts=600, times=80))
    build_report(folder)
    return folder


def check_page(folder: Path) -> Page:
    """What every page must be: whole, self-contained, small, with links that lead somewhere."""
    source = (folder / "report" / "index.html").read_text(encoding="utf-8")
    page = Page(source)
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?://|@import|url\((?!#)", source)
    assert not page.loads
    for link in page.links:
        assert link == "data:," or link.removeprefix("#") in page.ids
    assert len(source) < 10_000_000
    assert page.tags["script"] == 1
    assert "nan" not in re.findall(r"[a-z]+", page.text.lower())
    assert page.tags["svg"] >= len(FIGURES) - ("flips" not in page.ids)
    return page


def test_page_holds_every_section(folder: Path):
    page = check_page(folder)
    wanted = ("decision", "time", "segments", "flips", "charges", "levels", "break-even")
    assert set(wanted) | {"losses", "quality", "manifest"} <= set(page.ids)


def test_page_says_the_decision(folder: Path):
    page = read(folder)
    pair = pairing(Results(folder), "today", "proposal")
    assert f"{pair.only_champion} accounts are saved" in page.text
    assert "stationary-bootstrap" in page.text
    assert "mean block" in page.text
    assert "if accounts were independent, which they are not" in page.text
    assert "assumed" in page.text
    assert "The identity holds." in page.text
    assert "unknown instrument" in page.text
    assert "BTC-USD-240927-60000-C" in page.text
    assert "checked, they do" in page.text


def test_figures_and_tables_are_files(folder: Path):
    report = folder / "report"
    for name in FIGURES:
        assert (report / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    parquet = sorted((report / "tables").glob("*.parquet"))
    assert {p.stem for p in parquet} >= {"decision", "paired", "segments", "flips", "checks"}
    for file in parquet:
        frame, again = pd.read_parquet(file), file.with_suffix(".csv")
        assert len(pd.read_csv(again)) == len(frame)
        assert list(pd.read_csv(again, nrows=1).columns) == list(frame.columns)


def test_flipped_accounts_are_all_in_the_tables(folder: Path):
    pair = pairing(Results(folder), "today", "proposal")
    frame = pd.read_parquet(folder / "report" / "tables" / "flipped_accounts.parquet")
    assert len(frame) == pair.only_champion + pair.only_challenger


def test_rebuilding_gives_the_same_page(folder: Path):
    before = (folder / "report" / "index.html").read_bytes()
    (folder / "report" / "stale.txt").write_text("old")
    shown = CliRunner().invoke(app, ["report", str(folder)])
    assert shown.exit_code == 0, shown.output
    assert "index.html" in shown.output
    assert (folder / "report" / "index.html").read_bytes() == before
    assert not (folder / "report" / "stale.txt").exists()
    assert not list(folder.glob(".report-*"))


def test_odd_names_no_liquidation_one_segment(tmp_path: Path):
    spec = Spec(
        sets=ODD_SETS,
        scales=tuple({"mr1": 1 + 0.1 * i} for i in range(3)),
        accounts=60,
        times=20,
        crash=0.0,
        leverage=0.2,
        flaws=False,
        segments=(EVIL,),
        account_prefix="<img src=x onerror=alert(1)>" + "9" * 300,
    )
    build_report(write_results(tmp_path, spec))
    page = check_page(tmp_path)
    assert page.tags["img"] == 0
    assert EVIL in page.text
    assert "No account is liquidated" in page.text
    assert "Not one account flips" in page.text
    assert "No gaps" in page.text
    assert (tmp_path / "report" / "flips-2.png").is_file()


def test_one_set_at_one_time(tmp_path: Path):
    spec = Spec(sets=("today",), scales=({},), accounts=80, times=1)
    build_report(write_results(tmp_path, spec))
    page = check_page(tmp_path)
    assert "one parameter set, so there is nothing to decide" in page.text
    assert not (tmp_path / "report" / "tables" / "flips.parquet").exists()


def test_nothing_scored(tmp_path: Path):
    build_report(write_results(tmp_path, Spec(accounts=30, times=12, scored=False)))
    page = check_page(tmp_path)
    assert "No account was scored under both" in page.text
    assert "No account was scored" in page.text


def test_account_names_are_escaped(tmp_path: Path):
    spec = Spec(accounts=150, times=40, account_prefix="<b>&\"'")
    results = Results(write_results(tmp_path, spec))
    source = render(results, dict.fromkeys(shown(results), "<svg></svg>"))
    assert "&lt;b&gt;&amp;" in source
    assert "<b>" not in source


def test_figures_come_as_figures(folder: Path):
    results = Results(folder)
    for draw in FIGURES.values():
        assert isinstance(draw(results), Figure)
    assert isinstance(figure_flips(results, "proposal"), Figure)


def test_no_figure_cuts_its_data(folder: Path, tmp_path: Path):
    """Panels share axes, and a later set may reach higher than the champion."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["config"]["report"]["champion"] = "proposal"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    results = Results(tmp_path)
    assert results.champion == "proposal"
    for name, draw in FIGURES.items():
        for axes in draw(results).axes:
            lines = [line for line in axes.get_lines() if line.get_transform() == axes.transData]
            drawn = [np.asarray(line.get_ydata(), float) for line in lines]
            areas = [c for c in axes.collections if isinstance(c, PolyCollection)]
            drawn += [np.asarray(p.vertices)[:, 1] for c in areas for p in c.get_paths()]
            top = max(axes.get_ylim()) * (1 + 1e-9)
            assert all(np.nanmax(heights) <= top for heights in drawn), name


def test_accounts_that_come_and_go_are_all_counted(folder: Path) -> None:
    results = Results(folder)
    assert accounts_fact(results) == "600"
    replay = results.manifest.setdefault("replay", {})
    replay["mode"], results.manifest["accounts"] = "actual", 40
    assert accounts_fact(results) == "600, at most 40 at once"
    replay["mode"] = "frozen"
    assert accounts_fact(results) == "40"
    del results.manifest["accounts"]
    assert accounts_fact(results) == text.NONE


@pytest.mark.parametrize("name", ["timeline", "charges_by_time", "procyclicality"])
def test_lines_of_long_windows_hold_few_points(name: str, tmp_path: Path):
    results = Results(write_results(tmp_path, Spec(accounts=20, times=2_000)))
    draw = (FIGURES | {"procyclicality": figure_procyclicality})[name]
    lines = [line for axis in draw(results).axes for line in axis.get_lines()]
    assert max(len(np.asarray(line.get_xdata())) for line in lines) in range(500, 601)


def test_inline_picture_takes_colours_and_font_of_the_page(folder: Path):
    svg = theme.to_svg(FIGURES["timeline"](Results(folder)), "p")
    assert "DejaVu" not in svg
    assert f"var({theme.variable(theme.SET_COLORS[0])})" in svg
    for light in theme.DARK:
        assert light not in svg.lower()


@pytest.mark.parametrize("name", ["$x_1$", "_hidden", "漢", "", "a" * 200, "\n\t"])
def test_labels_are_safe_to_draw(name: str):
    drawn = theme.label(name)
    assert drawn
    assert not drawn.startswith("_")
    assert "$" not in drawn.replace(r"\$", "")
    assert len(drawn) <= 40


def test_report_reads_saved_results_only():
    banned = {"jax", "kernels", "dask", "distributed", "equinox"}
    statistics = ("attribution", "frequency_curve", "procyclicality")
    allowed = {
        "backtest.errors",
        "backtest.report",
        *(f"backtest.statistics.{n}" for n in statistics),
    }
    for file in Path(backtest.report.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in banned, file
                if name.startswith("backtest"):
                    assert name in allowed, file
