"""What a section of the report is made of, and cells that several sections build."""

from collections.abc import Callable
from dataclasses import dataclass, field

from . import text
from .cells import Cell, PageTable


@dataclass(frozen=True)
class Picture:
    """A figure by its name in the report folder, with the text below it."""

    name: str
    caption: str
    challenger: str | None = None


@dataclass(frozen=True)
class Section:
    """One section of the page."""

    anchor: str
    title: str
    intro: str
    pictures: list[Picture] = field(default_factory=list)
    tables: list[PageTable] = field(default_factory=list)


def head(name: str) -> str:
    """A set's name as a heading."""
    return text.shorten(name, 24)


def number_cell(show: Callable[[object], str], value: object, note: str = "") -> Cell:
    """A cell with a number that sorts by its value."""
    order = value if isinstance(value, int | float) and not text.is_missing(value) else None
    return Cell(show(value), order, note, "number")
