"""Writes the report of a run: one page, its figures as PNG, its tables as Parquet and CSV."""

import csv
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from backtest.errors import DataError

from . import theme
from .figures import shown
from .html import render
from .reader import Results
from .tables import all_tables


@dataclass(frozen=True)
class ReportFiles:
    """What was written."""

    page: Path
    figures: list[Path]
    tables: list[Path]


def build_report(results: Results | str | Path) -> ReportFiles:
    """Rebuilds ``report/`` of a results folder from its saved results.

    The folder is written beside and then put in place, so a reader never sees half a report.

    Example:
        >>> build_report("runs/crash").page           # doctest: +SKIP
        PosixPath('runs/crash/report/index.html')

    Raises:
        DataError: the run saved no details.
    """
    results = results if isinstance(results, Results) else Results(results)
    if not results.has_details:
        raise DataError(
            f"{results.path}: was replayed with replay.details = false, so it has no report; "
            "a report needs true"
        )
    target, fresh = results.path / "report", results.path / f".report-{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "tables").mkdir(parents=True)
    try:
        pictures = _write_figures(results, fresh)
        _write_tables(all_tables(results), fresh / "tables")
        (fresh / "index.html").write_text(render(results, pictures), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    figures = [target / f"{name}.png" for name in pictures]
    return ReportFiles(target / "index.html", figures, sorted((target / "tables").iterdir()))


def _write_figures(results: Results, folder: Path) -> dict[str, str]:
    """Writes each figure as PNG and returns its inline SVG by name."""
    pictures: dict[str, str] = {}
    for name, draw in shown(results).items():
        figure = draw(results)
        pictures[name] = theme.to_svg(figure, name)
        (folder / f"{name}.png").write_bytes(theme.to_png(figure))
    return pictures


def _write_tables(tables: dict[str, pd.DataFrame], folder: Path) -> None:
    for name, frame in tables.items():
        frame.to_parquet(folder / f"{name}.parquet", index=False, compression="zstd")
        frame.to_csv(
            folder / f"{name}.csv",
            index=False,
            quoting=csv.QUOTE_MINIMAL,
            date_format="%Y-%m-%dT%H:%M:%SZ",
            encoding="utf-8",
        )
