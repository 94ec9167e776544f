"""Fetching from a local server that answers as the venues do, well and badly."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest import cli
from backtest.errors import ConfigError, RunError
from backtest.fetch.config import FetchConfig, RetryConfig
from backtest.fetch.pages import JOURNAL, Journal, Page, checked, pages
from backtest.fetch.run import FetchReport, Surroundings, fetch
from backtest.fetch.transport import CcxtTransport, TemporaryError, Transport, patiently
from backtest.fetch.venues import VENUES, Series
from tests.unit.fetch.fault_server import HOUR_MS, FaultServer, PlainTransport, price, serving
from tests.unit.ingest.venue_files import make


START = datetime(2024, 12, 1, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
LATER = datetime(2025, 1, 1, tzinfo=UTC)
OKX = {"venue": "okx", "instruments": ["BTC-USDT-SWAP"], "index": ["BTC-USDT"]}


def config(*sources: dict[str, Any], days: int = 10, **retry: Any) -> FetchConfig:
    end = pd.Timestamp(START) + pd.Timedelta(days=days)
    return FetchConfig.model_validate(
        {"start": START, "end": end.to_pydatetime(), "source": sources, "retry": retry}
    )


@pytest.fixture(params=["plain", "ccxt"])
def through(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes a transport to a server."""
    opened: list[CcxtTransport] = []

    def open_to(server: FaultServer, venue: str = "okx") -> Transport:
        if request.param == "plain":
            return PlainTransport(server.url)
        pytest.importorskip("ccxt")
        opened.append(CcxtTransport(venue, server.url, timeout_s=5.0))
        return opened[-1]

    yield open_to
    for transport in opened:
        transport.close()


def world(
    transport: Transport, venue: str = "okx", waits: list[float] | None = None
) -> Surroundings:
    slept: list[float] = [] if waits is None else waits
    return Surroundings({venue: transport}, lambda: LATER, slept.append)


def fetched(report: FetchReport, kind: str, column: str = "at") -> np.ndarray:
    """A column of all pages, by time."""
    journal = Journal.read(report.folder)
    lines = [line for line in journal.lines.values() if line["kind"] == kind]
    parts = [pd.read_parquet(report.folder / line["file"]) for line in lines if line["rows"]]
    return np.asarray(pd.concat(parts).sort_values("at", ignore_index=True)[column])


def check_bars(report: FetchReport, kind: str, days: int) -> None:
    expected = START_MS + HOUR_MS * np.arange(24 * days)
    assert fetched(report, kind).tolist() == expected.tolist()
    assert fetched(report, kind, "close").tolist() == [price(int(at)) for at in expected]


SOURCES = {
    "okx": OKX | {"options": ["BTC"]},
    "bybit": {"venue": "bybit", "instruments": ["BTCUSDT"], "index": ["BTCUSDT"],
              "options": ["BTC"]},
    "deribit": {"venue": "deribit", "instruments": ["BTC-PERPETUAL"], "index": ["BTC-PERPETUAL"],
                "options": ["BTC"]},
    "binance": {"venue": "binance", "instruments": ["BTCUSDT"], "index": ["BTCUSDT"]},
}  # fmt: skip


@pytest.mark.parametrize("venue", SOURCES)
def test_every_venue_gives_every_bar(tmp_path: Path, through: Any, venue: str) -> None:
    with serving() as server:
        report = fetch(
            config(SOURCES[venue]), tmp_path / "pages", world(through(server, venue), venue)
        )
    check_bars(report, "marks", 10)
    check_bars(report, "index", 10)
    rate, hours = (0.00001, 1) if venue == "deribit" else (0.0001, 8)
    assert set(fetched(report, "funding", "rate")) == {rate}
    assert np.unique(np.diff(fetched(report, "funding"))).tolist() == [hours * HOUR_MS]
    assert all(found.missing == 0 for found in report.series.values())
    text = f"""
[ingest]
assumed_usd = {{ USDT = 1.0 }}
[[ingest.source]]
kind = "fetched"
files = ["pages/{JOURNAL}"]
"""
    made = make(tmp_path, text)
    marks = made.dataset.marks(end=pd.Timestamp(START) + pd.Timedelta(days=10))
    # A bar that opens at 00:00 is known at 01:00.
    assert marks["mark_price"].iloc[0] == price(START_MS)
    assert marks["time"].iloc[0] == pd.Timestamp("2024-12-01T01:00Z")
    index = made.dataset.index(end="2024-12-01T01:00Z")
    assert index.loc[index["currency"] == "BTC", "usd"].tolist() == [price(START_MS)]
    assert np.nansum(marks["funding_rate"].to_numpy(float)) == pytest.approx(
        rate * (239 if hours == 1 else 29), rel=0.05
    )
    if venue != "binance":
        option = made.dataset.marks(start="2024-12-14")
        option = option[option["mark_iv"].notna()].iloc[0]
        assert option["mark_iv"] == pytest.approx(0.5)
        assert option["forward"] == 61_000.0
        # OKX: 0.0355 years, so d1 = 0.2226 and 0.5881 - 60/61 x 0.5511 coins.
        known = {"okx": 0.0460, "bybit": 3000.5, "deribit": 0.05}[venue]
        assert option["mark_price"] == pytest.approx(known, rel=0.002)


def shifted(answer: Any) -> Any:
    """The venue's clock is three hours and a bit ahead."""
    ahead = 3 * HOUR_MS + 1234
    return answer | {"data": [[str(int(bar[0]) + ahead), *bar[1:]] for bar in answer["data"]]}


def half(answer: Any) -> Any:
    return answer | {"data": answer["data"][::2]}


def twice(answer: Any) -> Any:
    return answer | {"data": [bar for bar in answer["data"] for _ in (0, 1)]}


def contradicting(answer: Any) -> Any:
    first, *rest = answer["data"]
    return answer | {"data": [first, [*first[:4], "1.0", "1"], *rest]}


def no_numbers(answer: Any) -> Any:
    return answer | {"data": [[bar[0], "", "", "", "", "1"] for bar in answer["data"]]}


@pytest.mark.parametrize(
    ("fault", "asked_again"),
    [
        (429, 1),
        (500, 1),
        (502, 1),
        ("cut", 1),
        ("page before", 1),
        (shifted, 1),
        (half, 1),
        (twice, 0),
        (contradicting, 1),
        (no_numbers, 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_fault_is_got_over(tmp_path: Path, through: Any, fault: Any, asked_again: int) -> None:
    source = {"venue": "okx", "instruments": ["BTC-USDT-SWAP"], "funding": False}
    waits: list[float] = []
    with serving({1: fault}) as server:
        report = fetch(config(source), tmp_path, world(through(server), waits=waits))
        assert len(server.asked) == 4 + asked_again, "pages of 100 hours, the bounds fixed in time"
    check_bars(report, "marks", 10)
    if fault == 429:
        assert waits == [7.0], "as long as the venue says"
    elif fault not in (half, twice):
        assert waits == [1.0]


def test_many_faults_at_random(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds: list[Any] = [429, 500, "cut", "page before", shifted, half, contradicting]
    places = rng.choice(60, 30, replace=False)
    faults = {int(place): kinds[rng.integers(len(kinds))] for place in places}
    source = {"venue": "okx", "instruments": ["BTC-USDT-SWAP"], "funding": False}
    with serving(faults) as server:
        report = fetch(
            config(source, days=60, again_if_short=5), tmp_path, world(PlainTransport(server.url))
        )
    check_bars(report, "marks", 31)


def test_a_venue_that_does_not_come_back_is_left_for_later(tmp_path: Path) -> None:
    source = {"venue": "okx", "instruments": ["BTC-USDT-SWAP"], "funding": False}
    waits: list[float] = []
    settings = config(source, attempts=3)
    with serving(dict.fromkeys(range(1, 4), 500)) as server:
        around = world(PlainTransport(server.url), waits=waits)
        with pytest.raises(RunError, match="1 pages could not be fetched, what was fetched stays"):
            fetch(settings, tmp_path, around)
        assert waits == [1.0, 2.0]
        asked = len(server.asked)
        report = fetch(settings, tmp_path, around)
        assert len(server.asked) == asked + 1
    (found,) = report.series.values()
    assert (found.fetched, found.reused) == (1, 3)
    check_bars(report, "marks", 10)


def test_a_venue_that_is_gone_is_not_asked_for_every_page(tmp_path: Path) -> None:
    waits: list[float] = []
    with serving(dict.fromkeys(range(1, 50), 503)) as server:
        around = world(PlainTransport(server.url), waits=waits)
        with pytest.raises(RunError, match="pages could not be fetched"):
            fetch(config(OKX | {"options": ["BTC"]}, attempts=3), tmp_path, around)
        assert len(server.asked) == 1 + 2 * 3, "one page, then two that do not come"
        assert waits == [1.0, 2.0, 1.0, 2.0]
        server.faults.clear()
        report = fetch(config(OKX), tmp_path, around)
    assert report.series["okx marks BTC-USDT-SWAP"].reused == 1
    check_bars(report, "marks", 10)
    check_bars(report, "index", 10)


def test_pages_are_asked_for_once(tmp_path: Path) -> None:
    with serving() as server:
        around = world(PlainTransport(server.url))
        fetch(config(OKX, days=5), tmp_path, around)
        asked = len(server.asked)
        fetch(config(OKX, days=5), tmp_path, around)
        assert len(server.asked) == asked
        report = fetch(config(OKX, days=10), tmp_path, around)
        assert report.series["okx marks BTC-USDT-SWAP"].reused == 2
    assert set(np.diff(np.unique(fetched(report, "marks")))) == {HOUR_MS}


def test_a_damaged_page_or_journal_is_fetched_again(tmp_path: Path) -> None:
    source = {"venue": "okx", "instruments": ["BTC-USDT-SWAP"], "funding": False}
    with serving() as server:
        around = world(PlainTransport(server.url))
        fetch(config(source), tmp_path, around)
        first, *_, last = sorted(tmp_path.rglob("*.parquet"))
        first.write_bytes(b"gone")
        last.unlink()
        journal = tmp_path / JOURNAL
        journal.write_bytes(journal.read_bytes()[:-30])
        asked = len(server.asked)
        report = fetch(config(source), tmp_path, around)
        assert len(server.asked) == asked + 2
    check_bars(report, "marks", 10)


def test_an_interruption_keeps_what_is_there(tmp_path: Path) -> None:
    class Stop:
        def __init__(self, inner: Transport, after: int) -> None:
            self.inner, self.left = inner, after

        def __call__(self, endpoint: str, params: Any) -> Any:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return self.inner(endpoint, params)

    with serving() as server:
        plain = PlainTransport(server.url)
        with pytest.raises(KeyboardInterrupt):
            fetch(config(OKX), tmp_path, world(Stop(plain, 3)))
        report = fetch(config(OKX), tmp_path, world(plain))
    assert report.series["okx marks BTC-USDT-SWAP"].reused == 3
    check_bars(report, "marks", 10)


def test_missing_bars_are_believed_in_the_end_and_counted(tmp_path: Path) -> None:
    source = {"venue": "okx", "instruments": ["BTC-USDT-SWAP"], "funding": False}
    with serving({1: half, 2: half}) as server:
        report = fetch(config(source), tmp_path, world(PlainTransport(server.url)))
    (found,) = report.series.values()
    assert found.missing == 50
    assert found.rows == 190


def test_bars_that_are_not_over_are_left_for_the_next_run(tmp_path: Path) -> None:
    source = {"venue": "okx", "instruments": ["BTC-USDT-SWAP"], "funding": False}
    noon = datetime(2024, 12, 2, 12, 30, tzinfo=UTC)
    with serving() as server:
        plain = PlainTransport(server.url)
        report = fetch(config(source), tmp_path, Surroundings({"okx": plain}, lambda: noon))
        assert fetched(report, "marks").max() == START_MS + 35 * HOUR_MS
        # A clock that was set back changes nothing that is there.
        early = datetime(2024, 12, 1, 6, tzinfo=UTC)
        fetch(config(source), tmp_path, Surroundings({"okx": plain}, lambda: early))
        report = fetch(config(source), tmp_path, world(plain))
    assert set(fetched(report, "marks")) == set(START_MS + HOUR_MS * np.arange(240))


def test_a_page_that_is_another() -> None:
    page = Page(Series("okx", "marks", "X", "1h"), 0, 2 * HOUR_MS)
    bar = {"at": HOUR_MS, "close": 1.0, "low": 1.0, "high": 1.0}
    assert checked(page, [bar, bar, bar | {"at": 5}]) == ([bar], 1)
    with pytest.raises(TemporaryError, match="none of 1 rows is between 0 and 7200000"):
        checked(page, [bar | {"at": 9 * HOUR_MS}])
    assert checked(page, []) == ([], 0)


@pytest.mark.parametrize("venue", VENUES)
def test_pages_tile_the_window(venue: str) -> None:
    for kind in ("marks", "funding"):
        series = Series(venue, kind, "X", "1h")
        end = START_MS + 500 * HOUR_MS
        found = list(pages(series, START_MS + 5, end))
        assert found[0].start == START_MS + (HOUR_MS if kind == "marks" else 5)
        assert found[-1].end == end
        assert all(a.end == b.start for a, b in pairwise(found))


def test_waits_grow_up_to_the_most() -> None:
    waits: list[float] = []

    def ask() -> int:
        raise TemporaryError("busy", 9.0 if len(waits) == 1 else None)

    retry = RetryConfig.model_validate({"attempts": 5, "first_wait": "2s", "most_wait": "5s"})
    with pytest.raises(TemporaryError, match="busy"):
        patiently(ask, retry, waits.append)
    assert waits == [2.0, 9.0, 5.0, 5.0]


def test_without_ccxt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ccxt", None)
    with pytest.raises(ConfigError, match=r"pip install 'pm-stress\[fetch\]'"):
        CcxtTransport("okx")


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "[fetch]\nstart = 2024-12-01T00:00:00Z\nend = 2024-12-02T00:00:00Z\n[[fetch.source]]\n"
    for wrong, message in {
        'venue = "okex"\nindex = ["X"]': "key 'fetch.source[0].venue' is 'okex'; allowed: 'okx'",
        'venue = "okx"': "names nothing; give 'instruments', 'index' or 'options'",
        'venue = "okx"\nindex = ["X"]\ninterval = "2h"': "'2h'; allowed: '1m', '5m'",
        'venue = "binance"\noptions = ["BTC"]': "not of binance; allowed: okx, bybit, deribit",
    }.items():
        file = tmp_path / "fetch.toml"
        file.write_text(text + wrong)
        assert cli.call(["fetch", str(file), "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
