"""Tables as a page shows them: formatted cells that still sort by their numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from . import frames, text


@dataclass(frozen=True)
class Cell:
    """One cell: what is shown, what it sorts by, a second line, its role, and where it leads."""

    shown: str
    order: float | int | str | None = None
    note: str = ""
    role: str = ""
    link: str = ""
    """Fragment of this page."""


@dataclass(frozen=True)
class Column:
    """One column of a page: which data, which heading, how shown.

    ``under`` is the key of a text that stands below the value.
    """

    key: str
    heading: str
    show: Callable[[object], str] | None = None
    note: str = ""
    under: str = ""

    @property
    def is_number(self) -> bool:
        """Numbers are right-aligned and sort by value."""
        return self.show is not None


@dataclass(frozen=True)
class PageTable:
    """A table of the page; ``caption`` says what it counts and in which unit."""

    caption: str
    headings: list[tuple[str, str, bool]]  # text, note, is number
    rows: list[list[Cell]]
    note: str = ""
    folded: bool = False
    sortable: bool = True
    empty: str = "None."
    groups: list[str] = field(default_factory=list)
    plain_groups: bool = False
    """Headings of groups are names, so they are not set in capitals."""


_SHORT = 24  # names up to this length stay on one line


def page_table(
    frame: pd.DataFrame,
    columns: Sequence[Column],
    caption: str,
    limit: int | None = None,
    **options: Any,
) -> PageTable:
    """The rows of a frame as a page table, the first ``limit`` of them.

    ``links`` holds the fragments of the pages of accounts by name.
    """
    note = str(options.pop("note", ""))
    links: Mapping[str, str] = options.pop("links", {})
    if limit is not None and len(frame) > limit:
        cut = f"First {text.number(limit)} of {text.number(len(frame))} rows; all are in tables/."
        note = f"{cut} {note}".strip()
        frame = frame.head(limit)
    rows = [[_cell(c, row, links) for c in columns] for row in frames.records(frame)]
    headings = [(c.heading, c.note, c.is_number) for c in columns]
    return PageTable(caption, headings, rows, note=note, **options)


def _cell(column: Column, row: Mapping[str, Any], links: Mapping[str, str]) -> Cell:
    value, note = row[column.key], str(row[column.under]) if column.under else ""
    if column.show is None:
        shown = text.NONE if text.is_missing(value) else str(value)
        link = links.get(shown, "") if column.key == "account_id" else ""
        role = "name" if len(shown) <= _SHORT else ""
        return Cell(shown, shown, note, role, link)
    order = value if isinstance(value, int | float) and not text.is_missing(value) else None
    role = "number"
    if isinstance(value, pd.Timestamp):
        order, role = value.timestamp(), "number time"
    return Cell(column.show(value), order, note, role)


def count(value: object) -> str:
    """A whole number."""
    return text.number(_float(value))


def share(value: object) -> str:
    """A fraction as percent."""
    return text.percent(_float(value))


def money(value: object) -> str:
    """An amount of USD."""
    return text.usd(_float(value))


def ratio(value: object) -> str:
    """A dimensionless number with three significant digits."""
    return text.significant(_float(value))


def moment(value: object) -> str:
    """A UTC time; the heading names the zone."""
    return text.time(value).removesuffix(f"{text.SPACE}UTC")


def change(value: object) -> str:
    """A signed whole number."""
    number = _float(value)
    plus = "+" if number is not None and number > 0 else ""
    return plus + text.number(number)


def _float(value: object) -> float | None:
    if value is None or text.is_missing(value):
        return None
    return float(value)  # pyright: ignore[reportArgumentType]  # a number of a data frame
