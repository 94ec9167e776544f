import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from backtest import cli
from backtest.dataset import Dataset, DatasetWriter
from backtest.market_report.scan import scan
from tests.unit.backtest import dataset_rows as rows


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # pyright: ignore[reportImplicitOverride] (typing.override needs Python 3.12)
        del tag
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def world(folder: Path) -> Dataset:
    """Three days; the second swap starts late, ends early and lacks ten hours of its life."""
    times = pd.date_range("2024-08-01T00:00Z", periods=72, freq="h")
    writer = DatasetWriter(folder, "<b>odd</b>", 3600, 2, "made by hand")
    terms = rows.instruments()
    more = terms[terms["instrument_id"] == rows.SWAP].assign(instrument_id="BTC-USDC-SWAP")
    writer.instruments(pd.concat([terms, more], ignore_index=True))
    for currency, usd in {"BTC": 60_000.0, "USDT": 1.0, "USDC": 1.0, "USD": 1.0}.items():
        moving = usd * (1 + 0.001 * (pd.Series(range(72)) % 7)) if currency == "BTC" else usd
        writer.index(pd.DataFrame({"time": times, "currency": currency, "usd": moving}))
    swap = pd.DataFrame({"time": times, "instrument_id": rows.SWAP, "mark_price": 60_000.0})
    swap.loc[40:, "mark_price"] = 70_000.0 + pd.Series(range(72))
    short = swap.iloc[[*range(20, 25), *range(35, 50)]].assign(instrument_id="BTC-USDC-SWAP")
    call = pd.DataFrame(
        {"time": times, "instrument_id": rows.CALL, "mark_price": 0.9, "forward": 60_100.0,
         "mark_iv": 7.0}
    )  # fmt: skip
    writer.marks(pd.concat([swap, short, call], ignore_index=True))
    return writer.finish()


def test_findings(tmp_path: Path) -> None:
    found = scan(world(tmp_path / "d"))
    subjects = {name: set(rows["subject"]) for name, rows in found.found.items()}
    both = {rows.SWAP, "BTC-USDC-SWAP"}
    assert subjects["jumps of marks"] == both
    assert subjects["jumps of the index"] == set()
    assert subjects["far from the index"] == both
    assert subjects["stale marks"] == {rows.SWAP, rows.CALL}
    assert subjects["absurd or crossed volatilities"] == {rows.CALL}
    assert subjects["marks against Black-76"] == {rows.CALL}
    notes = dict(zip(found.life["instrument_id"], found.life["note"], strict=True))
    assert notes["BTC-USDC-SWAP"] == "listed later"
    assert notes[rows.SWAP] == ""
    assert notes[rows.OLD_CALL] == "no mark at all"
    share = dict(zip(found.coverage.lines, found.coverage.share.mean(axis=1), strict=True))
    assert share["BTC-USDC-SWAP"] == pytest.approx(20 / 72)
    assert share["index BTC"] == 1.0


def test_rows_between_grid_times_are_no_coverage(tmp_path: Path) -> None:
    times = pd.DatetimeIndex(["2024-08-01T00:00Z", "2024-08-01T00:20Z", "2024-08-01T03:00Z"])
    writer = DatasetWriter(tmp_path / "d", "odd", 3600, 2, "made by hand")
    writer.instruments(rows.instruments())
    writer.index(pd.DataFrame({"time": times, "currency": "BTC", "usd": 60_000.0}))
    writer.marks(pd.DataFrame({"time": times, "instrument_id": rows.SWAP, "mark_price": 60_000.0}))
    coverage = scan(writer.finish()).coverage
    share = dict(zip(coverage.lines, coverage.share.tolist(), strict=True))
    assert share["index BTC"] == share[rows.SWAP] == [1.0, 0.0, 0.0, 1.0]


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world(tmp_path / "d")
    out = tmp_path / "report"
    assert cli.call(["dataset", "report", str(tmp_path / "d"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "jumps of marks: 2" in printed
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "<b>odd" not in page
    links = Links()
    links.feed(page)
    assert all(address.startswith(("#", "data:")) for address in links.addresses)
    assert set(re.findall(r'href="#(\w+)"', page)) <= set(re.findall(r'id="(\w+)"', page))
    assert "calendar arbitrage" in page
    assert {p.name for p in out.glob("*.png")} == {"coverage.png", "findings.png"}
    life = pd.read_csv(out / "tables" / "instruments.csv")
    assert len(life) == 4
    assert cli.call(["dataset", "report", str(tmp_path / "none"), "--out", str(out)]) == 3
