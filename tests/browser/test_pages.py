"""Every page that the project writes, as Chromium shows it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from backtest.calibration.calibrate import calibrate
from backtest.calibration.coverage_page import build_coverage_page
from backtest.calibration.coverage_study import CoverageStudy, coverage_study
from backtest.calibration.page import build_page as build_calibration_page
from backtest.market_report.build import build_report as build_market_report
from backtest.report.accounts import listed
from backtest.report.build import build_report
from backtest.report.reader import Results
from backtest.statistics.blocks import Plan
from tests.browser.browser import PHONE, PRINTED_WIDTH, Browser
from tests.unit.backtest import test_break_even_runs as near, tiny_world
from tests.unit.backtest.fake_liquidations import simulate, trace
from tests.unit.backtest.fake_results import Spec, write_results
from tests.unit.calibration import searched_world
from tests.unit.market_report import test_build as market


EVIL = "<script>alert('x')</script>\"'"
ODD = Spec(
    sets=(EVIL, "_under $x_1$ [b]", "漢字/../" + "w" * 80),
    scales=tuple({"mr1": 1 + 0.1 * i} for i in range(3)),
    accounts=150,
    times=40,
    segments=(EVIL, "s" * 120),
    account_prefix="<img src=x onerror=alert(1)>" + "9" * 300,
)
"""Names that are markup, and names far longer than a line."""
MIN_CONTRAST = 4.5
"""WCAG 2.1 AA for texts of any size."""
SMALLEST_TEXT = 7
"""Pixels from the top of a line to its bottom."""


def run_page(folder: Path) -> Path:
    return build_report(write_results(folder, Spec(accounts=300, times=60))).page


def liquidated_page(folder: Path) -> Path:
    """A run that liquidated, with full paths of some accounts and without those of others."""
    folder = simulate(write_results(folder, Spec(accounts=300, times=60)))
    some = listed(Results(folder))["account_id"].tolist()[:1]
    return build_report(trace(folder, some)).page


def odd_page(folder: Path) -> Path:
    return build_report(simulate(write_results(folder, ODD), instrument=EVIL)).page


def market_page(folder: Path) -> Path:
    return build_market_report(market.world(folder / "data"), folder / "report").page


def calibration_page(folder: Path) -> Path:
    data = tiny_world.write(folder / "data", buckets=1, **near.tables())
    config = searched_world.config(
        search={"candidates": 3, "batch": 2},
        objectives={"block": "1h", "frontier": ["frequency", "margin"]},
        constraints=[{"objective": "frequency", "of_today": 3.0}],
        walk_forward={"folds": 1, "purge": "1h"},
        overfitting={"splits": 4},
    )
    with tiny_world.devices(1):
        calibrate(config, tiny_world.config(data), folder / "out", workers=1)
    return build_calibration_page(folder / "out")


def coverage_page(folder: Path) -> Path:
    base = tiny_world.config(tiny_world.write(folder / "data"), mode="frozen")
    asked = CoverageStudy(("1h", "3h"), 0.05, Plan(resamples=100))
    with tiny_world.devices(1):
        coverage_study(base, asked, folder / "out", workers=1)
    return build_coverage_page(folder / "out")


PAGES: dict[str, Callable[[Path], Path]] = {
    "run": run_page,
    "liquidations": liquidated_page,
    "odd names": odd_page,
    "market": market_page,
    "calibration": calibration_page,
    "coverage": coverage_page,
}
SLOW = {"calibration", "coverage"}
"""Those made of replays."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in PAGES],
)
def page(
    request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    del browser  # first, so that nothing is built where no page can be opened
    return PAGES[request.param](tmp_path_factory.mktemp(request.param.replace(" ", "-")))


def test_nothing_goes_wrong_and_nothing_is_asked_for(browser: Browser, page: Path):
    browser.open(page)
    assert browser.ask("all('h1').length") == 1
    asked = browser.requests()
    assert page.resolve().as_uri() in asked
    assert [a for a in asked if not a.startswith(("file://", "data:", "blob:"))] == []
    assert len([a for a in asked if a.startswith("file://")]) == 1
    assert browser.console() == []


def test_tables_sort_by_every_column(browser: Browser, page: Path):
    """Numbers as numbers, what is missing last; a second click turns the order round."""
    columns = browser.open(page).ask("columns()")
    numbers = 0
    for column in columns:
        name = column["name"]
        assert column["whole"], name
        assert column["marked"] == 1
        assert sorted(order for order, _ in column["seen"]) == ["ascending", "descending"]
        for order, keys in column["seen"]:
            known = [k for k in keys if k is not None]
            assert keys[len(known) :] == [None] * (len(keys) - len(known)), name
            if column["number"]:
                numbers += len(set(known)) > 1
                values = [float(k) for k in known]
                assert values == sorted(values, reverse=order == "descending"), name
        first, second = ([k for k in keys if k is not None] for _, keys in column["seen"])
        assert sorted(first) == sorted(second)
        assert len(set(first)) < 2 or first != second, name
    assert numbers
    assert browser.console() == []


def test_a_click_on_a_heading_sorts(browser: Browser, page: Path):
    browser.open(page)
    table, head = browser.ask("[sortable(), sortable().querySelector('thead button')]")
    browser.ask("arguments[0].scrollIntoView({ block: 'center' })", head)
    seen = set()
    for _ in range(2):
        head.click()
        seen.add(
            browser.ask("arguments[0].tHead.rows[0].cells[0].getAttribute('aria-sort')", table)
        )
    assert seen == {"ascending", "descending"}


def test_every_link_leads_to_what_it_names(browser: Browser, page: Path):
    browser.open(page)
    links = browser.ask("all('a').map((a) => a.getAttribute('href'))")
    assert links
    for link in links:
        assert link.startswith("#")
        where, is_visible, top, height = browser.ask("follow(arguments[0])", link)
        assert where == link
        assert is_visible
        assert -1 < top < height, link
    assert browser.console() == []


def test_light_and_dark_are_readable(browser: Browser, page: Path):
    seen = []
    for scheme in ("light", "dark"):
        browser.open(page, scheme=scheme).ask("unfold()")
        contrasts = browser.ask("contrasts()")
        assert {"svg text", "p.intro"} <= set(contrasts)
        weak = {name: round(ratio, 2) for name, ratio in contrasts.items() if ratio < MIN_CONTRAST}
        assert weak == {}, scheme
        seen.append(
            [
                *browser.ask("[...styles('body', 'color'), ...styles('body', 'backgroundColor')]"),
                *browser.ask("styles('section', 'backgroundColor')"),
            ]
        )
    assert all(light != dark for light, dark in zip(*seen, strict=True))


def test_fits_a_phone(browser: Browser, page: Path):
    """The document does not scroll sideways; what is wide does, in a box of its own."""
    width = PHONE[0]
    browser.open(page, PHONE).ask("unfold()")
    assert browser.ask("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert browser.ask("beyond(arguments[0], '.scroll, nav, pre')", width) == []
    assert set(browser.ask("styles('.scroll, pre', 'overflowX')")) == {"auto"}
    assert browser.ask("small(arguments[0])", SMALLEST_TEXT) == 0


def test_prints_whole_on_paper(browser: Browser, page: Path):
    """Nothing is wider than the page, folded tables are open and headings come again."""
    browser.open(page, (PRINTED_WIDTH, 1000), media="print")
    browser.ask("dispatchEvent(new Event('beforeprint'))")
    assert browser.ask("document.documentElement.scrollWidth") <= PRINTED_WIDTH
    assert browser.ask("beyond(arguments[0])", PRINTED_WIDTH) == []
    assert browser.ask("all('details').every((d) => d.open)")
    # Chromium leaves a button out of the headings that it repeats on each page.
    assert set(browser.ask("styles('thead button', 'display')")) == {"contents"}
    assert browser.ask("styles('nav', 'display')") == ["none"]
    printed = browser.pdf()
    assert printed.startswith(b"%PDF-")
    pages = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", printed)
    assert len(pages) > 1
    assert {(round(float(w)), round(float(h))) for w, h in pages} == {(596, 842)}


def test_names_stay_text(browser: Browser, page: Path):
    """Whatever sets, segments, accounts, instruments and datasets are called."""
    browser.open(page)
    assert browser.ask("[document.scripts.length, document.images.length]") == [1, 0]
    assert browser.ask("all('b, [onerror]').length") == 0
    if "odd-names" in page.as_posix():
        assert EVIL in browser.ask("document.body.textContent")
    assert browser.console() == []
