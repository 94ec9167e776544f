"""Pages of accounts inside a report: a link opens one, going back closes it."""

from pathlib import Path

import pytest

from backtest.report.accounts import listed
from backtest.report.reader import Results
from tests.browser.browser import DESKTOP, PHONE, PRINTED_WIDTH, Browser
from tests.browser.test_pages import MIN_CONTRAST, ODD, SMALLEST_TEXT
from tests.unit.backtest.fake_liquidations import simulate, trace
from tests.unit.backtest.fake_results import Spec, write_results
from tests.unit.backtest.test_report_accounts import write_page


FIRST = "#account-1"


def measured(folder: Path) -> None:
    write_page(write_results(folder, Spec(accounts=300, times=60)))


def liquidated(folder: Path) -> None:
    """With full paths of some accounts and without those of others."""
    simulate(write_results(folder, Spec(accounts=300, times=60)))
    write_page(trace(folder, listed(Results(folder))["account_id"].tolist()[:1]))


def odd(folder: Path) -> None:
    write_page(simulate(write_results(folder, ODD), instrument="<b>" + "w" * 90))


@pytest.fixture(scope="module", params=[measured, liquidated, odd])
def page(
    request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    del browser
    folder = tmp_path_factory.mktemp("page")
    request.param(folder)
    return folder / "report" / "index.html"


def shown(browser: Browser) -> list[str]:
    """Fragments of the sections that are to be seen."""
    return browser.ask("all('main > section').filter((s) => s.checkVisibility()).map((s) => s.id)")


def test_a_link_opens_the_page_and_going_back_closes_it(browser: Browser, page: Path):
    browser.open(page, fragment="#accounts")
    whole = shown(browser)
    assert "decision" in whole
    assert not [name for name in whole if name.startswith("account-")]
    link = "all('#accounts tbody a')[0]"
    account = browser.ask(f"{link}.innerText")
    assert account
    browser.click(link)
    assert shown(browser) == ["account-1"]
    assert browser.ask("document.querySelector('#account-1 h2').lastChild.data.trim()") == account
    assert browser.ask("document.querySelector('#account-1').getBoundingClientRect().top") >= 0
    browser.driver.back()
    assert shown(browser) == whole
    top = browser.ask(f"{link}.getBoundingClientRect().top")
    assert 0 < top < DESKTOP[1], "the reader is not where the link was"
    browser.driver.forward()
    assert shown(browser) == ["account-1"]
    browser.click("document.querySelector('#account-1 .back a')")
    assert shown(browser) == whole
    assert browser.console() == []


def test_from_a_page_every_section_is_a_click_away(browser: Browser, page: Path):
    browser.open(page, fragment=FIRST)
    assert shown(browser) == ["account-1"]
    browser.click("all('nav a')[1]")
    assert len(shown(browser)) > 5


def test_every_listed_account_has_a_link(browser: Browser, page: Path):
    browser.open(page)
    cells = browser.ask(
        "all('#accounts tbody tr').map((r) => [r.cells[0].innerText, r.querySelector('a')?.hash])"
    )
    assert cells
    for account, fragment in cells:
        heading = "document.querySelector(arguments[0] + ' h2').lastChild.data.trim()"
        assert browser.ask(heading, fragment) == account


def test_a_page_shows_its_path_charges_and_steps(browser: Browser, page: Path):
    browser.open(page, fragment=FIRST)
    words = browser.ask("document.querySelector('#account-1').innerText")
    for wanted in ("What happened", "Charges under", "Margin level", "pmstress explain"):
        assert wanted in words
    texts = browser.ask("all('#account-1 .path text').map((t) => t.textContent)")
    assert any(t.startswith("liquidation 100") for t in texts)
    box = "document.querySelector('#account-1 .path').getBoundingClientRect()"
    left, right = browser.ask(f"[{box}.left, {box}.right]")
    edges = browser.ask(
        "all('#account-1 .path text').map((t) => t.getBoundingClientRect())"
        ".map((r) => [r.left, r.right])"
    )
    assert all(left - 1 <= x and y <= right + 1 for x, y in edges)


def test_a_page_is_readable_in_both_styles(browser: Browser, page: Path):
    for scheme in ("light", "dark"):
        browser.open(page, scheme=scheme, fragment=FIRST).ask("unfold()")
        contrasts = browser.ask("contrasts()")
        assert {"svg text", "figcaption.", "a."} <= set(contrasts)
        assert {name for name, ratio in contrasts.items() if ratio < MIN_CONTRAST} == set()


def test_a_page_fits_a_phone(browser: Browser, page: Path):
    width = PHONE[0]
    browser.open(page, PHONE, fragment=FIRST).ask("unfold()")
    assert browser.ask("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert browser.ask("beyond(arguments[0], '.scroll, nav, pre')", width) == []
    assert browser.ask("small(arguments[0])", SMALLEST_TEXT) == 0


def test_paper_holds_the_report_or_the_page_that_is_open(browser: Browser, page: Path):
    browser.open(page, (PRINTED_WIDTH, 1000), media="print")
    assert not [name for name in shown(browser) if name.startswith("account-")]
    browser.open(page, (PRINTED_WIDTH, 1000), media="print", fragment=FIRST)
    browser.ask("dispatchEvent(new Event('beforeprint'))")
    assert shown(browser) == ["account-1"]
    assert browser.ask("document.documentElement.scrollWidth") <= PRINTED_WIDTH
    assert browser.ask("beyond(arguments[0])", PRINTED_WIDTH) == []
    assert browser.pdf().startswith(b"%PDF-")
