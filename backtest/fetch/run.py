"""A whole fetch: every page that is not there yet, one after the other."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from backtest.durable import only_user, remove_left_overs
from backtest.errors import RunError
from backtest.fetch.config import FetchConfig, SourceConfig
from backtest.fetch.pages import Journal, Page, checked, pages
from backtest.fetch.transport import CcxtTransport, TemporaryError, Transport, patiently
from backtest.fetch.venues import VENUES, Kind, Row, Series


Clock = Callable[[], datetime]
Say = Callable[[str], None]


@dataclass
class SeriesReport:
    """What there is of one series after a run."""

    fetched: int = 0
    reused: int = 0
    rows: int = 0
    missing: int = 0
    """Bars that the venue does not have."""
    outside: int = 0
    """Rows that were of other times than asked for."""
    failed: list[str] = field(default_factory=list)


@dataclass
class FetchReport:
    """What a fetch did, by series."""

    folder: Path
    series: dict[str, SeriesReport] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        """Pages that could not be had."""
        return [text for report in self.series.values() for text in report.failed]


@dataclass(frozen=True)
class Surroundings:
    """What a fetch uses of the world; tests give their own.

    ``transports`` by venue; ccxt where a venue is not in it.
    """

    transports: Mapping[str, Transport] = field(default_factory=dict)
    clock: Clock = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep
    say: Say = lambda text: None


def fetch(config: FetchConfig, out: Path, world: Surroundings | None = None) -> FetchReport:
    """Fetch what is not in the folder yet.

    Args:
        config: series and times.
        out: folder of pages and their journal.
        world: transports, clock and messages.

    Raises:
        ConfigError: a venue refuses a question, or another fetch is writing here.
        RunError: some pages could not be had; what was fetched stays.
    """
    world = world or Surroundings()
    with only_user(out):
        remove_left_overs(out)
        report = _Fetch(config, out, world).run()
    if report.failed:
        raise RunError(
            f"{out}: {len(report.failed)} pages could not be fetched, what was fetched stays, run "
            f"again to go on; first: {report.failed[0]}"
        )
    return report


class _Fetch:
    def __init__(self, config: FetchConfig, out: Path, world: Surroundings) -> None:
        self.config, self.world = config, world
        self.journal = Journal.read(out)
        self.report = FetchReport(out)
        self.transports = dict(world.transports)
        self.refused: dict[str, int] = {}
        """Pages in a row that each venue has not given."""

    def run(self) -> FetchReport:
        own: list[CcxtTransport] = []
        try:
            for source in self.config.source:
                if source.venue not in self.transports:
                    own.append(CcxtTransport(source.venue))
                    self.transports[source.venue] = own[-1]
                for series in series_of(source):
                    self._series(series)
                for coin in source.options:
                    self._chain(source, coin)
        finally:
            for transport in own:
                transport.close()
        return self.report

    def _series(self, series: Series) -> None:
        found = self.report.series.setdefault(_title(series), SeriesReport())
        end = min(self.config.end, self.world.clock())
        span = _milliseconds(self.config.start), _milliseconds(end)
        for page in pages(series, *span):
            if self.journal.has(page.key):
                line = self.journal.lines[page.key]
                found.reused += 1
            elif self._is_gone(series.venue):
                found.failed.append(f"{page.key}: not asked for, {series.venue} does not answer")
                continue
            else:
                try:
                    rows, outside = self._page(page)
                except TemporaryError as error:
                    found.failed.append(f"{page.key}: {error}")
                    self._refused(series.venue, page.key, error)
                    continue
                self.refused[series.venue] = 0
                found.fetched += 1
                found.outside += outside
                self._keep(page, rows)
                line = self.journal.lines[page.key]
            found.rows += line["rows"]
            found.missing += max((page.expected or 0) - line["rows"], 0)

    def _is_gone(self, venue: str) -> bool:
        return self.refused.get(venue, 0) >= self.config.retry.give_up_after

    def _refused(self, venue: str, key: str, error: TemporaryError) -> None:
        self.refused[venue] = self.refused.get(venue, 0) + 1
        self.world.say(f"{key}: given up for now: {error}")
        if self._is_gone(venue):
            self.world.say(f"{venue} does not answer; the rest of it is left for the next run")

    def _keep(self, page: Page, rows: list[Row]) -> None:
        series = page.series
        name = f"{_folder(series)}/{page.start}-{page.end}.parquet"
        about = {"venue": series.venue, "kind": series.kind, "name": series.name}
        self.journal.add(page.key, name, rows, about | {"step_ms": series.step_ms})
        self.world.say(f"{page.key}: {len(rows)} rows")

    def _page(self, page: Page) -> tuple[list[Row], int]:
        """The rows of a page; asked for again while bars are missing in it."""
        best: tuple[list[Row], int] = ([], 0)
        for _ in range(self.config.retry.again_if_short + 1):
            rows, outside = patiently(
                lambda: self._ask(page), self.config.retry, self.world.sleep, self.world.say
            )
            if len(rows) >= len(best[0]):
                best = rows, outside
            if len(rows) == page.expected or (page.expected is None and rows):
                break
        return best

    def _ask(self, page: Page) -> tuple[list[Row], int]:
        venue = VENUES[page.series.venue]
        question = venue.ask(page.series, page.start, page.end)
        answer = self.transports[page.series.venue](question.endpoint, question.params)
        with _readable():
            rows = venue.read(page.series, answer)
        return checked(page, rows)

    def _chain(self, source: SourceConfig, coin: str) -> None:
        """One snapshot of a chain; its time is the venue's."""
        venue = VENUES[source.venue]
        series = Series(source.venue, "options", coin, source.interval)
        found = self.report.series.setdefault(_title(series), SeriesReport())
        if self._is_gone(source.venue):
            found.failed.append(f"{_title(series)}: not asked for, {source.venue} does not answer")
            return

        def ask() -> list[Row]:
            question = venue.ask_chain(coin)
            with _readable():
                return venue.read_chain(
                    self.transports[source.venue](question.endpoint, question.params)
                )

        try:
            rows = patiently(ask, self.config.retry, self.world.sleep, self.world.say)
        except TemporaryError as error:
            found.failed.append(f"{_title(series)}: {error}")
            return
        if rows:
            at = max(row["at"] for row in rows)
            about = {"venue": source.venue, "kind": "options", "name": coin, "step_ms": None}
            key = f"{source.venue} options {coin} {at}"
            if not self.journal.has(key):
                self.journal.add(key, f"{_folder(series)}/{at}.parquet", rows, about)
                found.fetched += 1
            found.rows += len(rows)


@contextmanager
def _readable() -> Iterator[None]:
    """A value that is not what it should be was spoilt on its way: asking again may help."""
    try:
        yield
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise TemporaryError(f"the answer cannot be read: {error!r}") from error


def series_of(source: SourceConfig) -> Iterator[Series]:
    """The series that a source names."""
    kinds: list[Kind] = ["marks", "funding"] if source.funding else ["marks"]
    for name in source.instruments:
        for kind in kinds:
            if kind == "marks" or _is_perpetual(name):
                yield Series(source.venue, kind, name, source.interval)
    for name in source.index:
        yield Series(source.venue, "index", name, source.interval)


def _is_perpetual(name: str) -> bool:
    """Whether a name has no day of expiry in it."""
    last = name.replace("_", "-").rpartition("-")[2]
    return "-" not in name.replace("_", "-") or last in ("SWAP", "PERPETUAL", "PERP")


def _folder(series: Series) -> str:
    return f"{series.venue}/{series.kind}/{series.name}-{series.interval}"


def _title(series: Series) -> str:
    return f"{series.venue} {series.kind} {series.name}"


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)
