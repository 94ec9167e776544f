"""Tables of the report as rows of text for a terminal."""

from typing import Any

import pandas as pd

from . import text
from .cells import change
from .compare import OUTCOMES
from .decision import decision_table


def summary_rows(sets: list[dict[str, Any]]) -> list[list[str]]:
    """The decision table of records of ``summary_table``: metric and one text a set."""
    numbers = [{k: float("nan") if v is None else v for k, v in s.items()} for s in sets]
    table = decision_table(pd.DataFrame(numbers))
    return [
        [row[0].shown, *(f"{c.shown} ({c.note})" if c.note else c.shown for c in row[1:])]
        for row in table.rows
    ]


def group_rows(groups: list[dict[str, Any]]) -> list[list[str]]:
    """The flip table by group, each dimension named once."""
    rows: list[list[str]] = []
    before = ""
    for group in groups:
        dimension = group["dimension"]
        counts = [text.number(group[k]) for k in ("accounts", *OUTCOMES)]
        rows.append(
            [
                "" if dimension == before else dimension,
                group["group"],
                *counts,
                change(group["net"]),
            ]
        )
        before = dimension
    return rows
