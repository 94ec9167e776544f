"""Plain CSV files by a mapping of their columns to those of a table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from backtest.ingest.cells import Cells
from backtest.ingest.config import FUNDING, QUOTES, ColumnRule, CsvSource, TimeFormat
from backtest.ingest.contracts import PARSERS
from backtest.ingest.files import csv_chunks, shown_name
from backtest.ingest.intake import INDEX_RANK, MARK_RANK, Intake
from backtest.schema import NUMBER, TABLES, TIME


def mapped_chunks(
    source: CsvSource, paths: list[Path], intake: Intake, with_bad: bool = False
) -> Iterator[pd.DataFrame]:
    """Rows of the source's table, in pieces; columns that are not mapped are null.

    Rows that cannot be read are left out, or kept and marked in a column ``_bad``.
    """
    for path in paths:
        shown = shown_name(path, intake.base)
        chunks = csv_chunks(path, shown, intake.ledger, intake.source, source.delimiter)
        for chunk in chunks:
            yield _mapped(chunk, source, intake, with_bad)


def read_market_csv(source: CsvSource, paths: list[Path], intake: Intake) -> Iterator[Path]:
    """Take in market tables: ``index``, ``quotes``, ``marks``, ``funding``."""
    for path in paths:
        for rows in mapped_chunks(source, [path], intake):
            if source.table == "index":
                quoted = rows.rename(columns={"currency": "base", "usd": "price"})
                intake.quotes(quoted.assign(quote="USD"), INDEX_RANK)
            elif source.table == QUOTES:
                intake.quotes(rows, INDEX_RANK)
            elif source.table == FUNDING:
                intake.funding(rows)
            else:
                intake.marks(rows, MARK_RANK)
        yield path


def _mapped(chunk: pd.DataFrame, source: CsvSource, intake: Intake, with_bad: bool) -> pd.DataFrame:
    shown = "index" if source.table == QUOTES else source.table
    shown = "marks" if source.table == FUNDING else shown
    cells = Cells(
        chunk, intake.ledger, intake.source, shown, source.decimal, thousands=source.thousands
    )
    columns: dict[str, Any] = {}
    if source.time is not None:
        columns["time"] = _time(cells, source.time)
    for name in source.columns:
        rule = source.rule(name)
        assert rule is not None
        columns[name] = _column(cells, name, rule, source.table)
    if "instrument_id" in columns:
        columns["instrument_id"] = _instruments(columns["instrument_id"], source, intake)
    table = TABLES.get(source.table)
    for column in table.columns if table else ():
        if column.name not in columns:
            empty = {NUMBER: np.nan, TIME: pd.Series(pd.NaT, chunk.index, "datetime64[us, UTC]")}
            columns[column.name] = empty.get(column.type)
    return cells.whole(columns) if with_bad else cells.kept(columns)


def _instruments(names: pd.Series, source: CsvSource, intake: Intake) -> pd.Series:
    """Names as the dataset has them; their terms are taken in where they say them."""
    if source.venue is None:
        return intake.instruments.renamed(names)
    found = intake.instruments.ids(names, PARSERS[source.venue])
    return names.where(pd.isna(found), pd.Series(found, names.index))


def _time(cells: Cells, form: TimeFormat) -> pd.Series:
    found = cells.times(form.column, form.format, form.zone)
    return found if form.bar is None else found + pd.Timedelta(form.bar)


def _column(cells: Cells, name: str, rule: ColumnRule, table: str) -> Any:
    kind, nullable = _kind(name, table)
    if rule.column is None:
        return _constant(rule.value, kind, len(cells))
    if kind == "number":
        numbers = cells.numbers(rule.column, rule.scale, needed=not nullable)
        if rule.sign is None:
            return numbers
        return cells.signed(rule.column, numbers, rule.sign.column, rule.sign.names)
    if kind == "time":
        return cells.times(rule.column, rule.format, rule.zone, needed=not nullable)
    text = cells.names(rule.column, needed=not nullable)
    return text.replace(rule.names) if rule.names else text


def _kind(name: str, table: str) -> tuple[str, bool]:
    if table in (QUOTES, FUNDING):
        return ("number" if name in ("price", "funding_rate") else "name"), False
    column = TABLES[table].by_name[name]
    kinds = {NUMBER: "number", TIME: "time"}
    return kinds.get(column.type, "name"), column.nullable


def _constant(value: str | float | None, kind: str, count: int) -> Any:
    if kind == "number":
        return np.full(count, float(value if value is not None else np.nan))
    if kind == "time":
        return pd.Series([pd.Timestamp(str(value)).tz_convert("UTC")] * count).dt.as_unit("us")
    return pd.Series([str(value)] * count, dtype=object)
