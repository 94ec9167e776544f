"""Pages of a series: which there are, whether an answer is the page asked for, the journal.

The journal has a line for each finished page with the hash of its file. A page whose line or file
is damaged is asked for again; a page that is whole is never asked for twice.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from backtest.durable import append_line, file_hash, write_table
from backtest.fetch.transport import TemporaryError
from backtest.fetch.venues import VENUES, Row, Series


JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Page:
    """One page: rows with ``start <= at < end`` (milliseconds)."""

    series: Series
    start: int
    end: int

    @property
    def key(self) -> str:
        """What the journal calls it."""
        s = self.series
        return f"{s.venue} {s.kind} {s.name} {s.interval} {self.start} {self.end}"

    @property
    def expected(self) -> int | None:
        """Bars in it; None where rows are not bars."""
        step = self.series.step_ms
        return None if step is None else (self.end - self.start) // step


def pages(series: Series, start: int, end: int) -> Iterator[Page]:
    """Pages of whole bars from ``start`` to ``end``; their bounds do not depend on either.

    The first and the last one are cut, so that a later run with another end asks for new ones only.
    """
    step = series.step_ms or 1
    first, last = -(-start // step) * step, end // step * step
    length = VENUES[series.venue].page_ms(series)
    at = first // length * length
    while at < last:
        page = Page(series, max(at, first), min(at + length, last))
        if page.start < page.end:
            yield page
        at += length


def checked(page: Page, rows: list[Row]) -> tuple[list[Row], int]:
    """The page's rows by time, each once, and how many rows were of other times.

    Raises:
        TemporaryError: all rows are of other times (an old page again, a clock that jumped), or two
            rows of one time differ.
    """
    step = page.series.step_ms
    found: dict[int, Row] = {}
    outside = 0
    for row in rows:
        at = row["at"]
        if not page.start <= at < page.end or (step and at % step):
            outside += 1
        elif found.setdefault(at, row) != row:
            raise TemporaryError(f"two different rows of {at}")
    if rows and not found:
        raise TemporaryError(
            f"none of {len(rows)} rows is between {page.start} and {page.end}: the first is of "
            f"{rows[0]['at']}"
        )
    return [found[at] for at in sorted(found)], outside


@dataclass
class Journal:
    """What has been fetched into a folder."""

    folder: Path
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Journal":
        """The journal of a folder; lines that a crash has cut are passed over."""
        journal = cls(folder)
        path = folder / JOURNAL
        if path.exists():
            for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    line = json.loads(text)
                    journal.lines[str(line["key"])] = line
                except (ValueError, KeyError, TypeError):
                    continue
        return journal

    def has(self, key: str) -> bool:
        """Whether a page is there, whole."""
        line = self.lines.get(key)
        return line is not None and file_hash(self.folder / line["file"]) == line["sha256"]

    def add(self, key: str, name: str, rows: list[Row], about: dict[str, Any]) -> None:
        """Keep a page: its file first, then its line."""
        table = pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False)
        digest = write_table(self.folder / name, table)
        line = {"key": key, "file": name, "sha256": digest, "rows": len(rows), **about}
        append_line(self.folder / JOURNAL, json.dumps(line).encode())
        self.lines[key] = line
