"""Writes the report of a run: one page, its figures as PNG, its tables as Parquet and CSV."""

import csv
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from . import theme
from .attribution import figure_shapley, has_units
from .figures import FIGURES, LIQUIDATION_FIGURES, figure_flips, figure_parameter_paths
from .html import render
from .liquidations import has_liquidations
from .paths import sets_with_paths
from .procyclicality import figure_procyclicality, has_benchmarks
from .reader import Results
from .reverse import figure_reverse_stress, has_reverse_stress
from .sections import MOST_FLIPS
from .sections_schedule import path_picture
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
    """
    results = results if isinstance(results, Results) else Results(results)
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
    drawn = {name: draw(results) for name, draw in FIGURES.items() if _is_shown(name, results)}
    if has_liquidations(results):
        drawn |= {name: draw(results) for name, draw in LIQUIDATION_FIGURES.items()}
    if has_units(results):
        drawn["shapley"] = figure_shapley(results)
    if has_benchmarks(results):
        drawn["procyclicality"] = figure_procyclicality(results)
    if has_reverse_stress(results):
        drawn["reverse_stress"] = figure_reverse_stress(results)
    for i, challenger in enumerate(results.challengers[1:MOST_FLIPS], start=2):
        drawn[f"flips-{i}"] = figure_flips(results, challenger)
    for i, name in enumerate(sets_with_paths(results)):
        drawn[path_picture(i)] = figure_parameter_paths(results, name)
    pictures: dict[str, str] = {}
    for name, figure in drawn.items():
        pictures[name] = theme.to_svg(figure, name)
        (folder / f"{name}.png").write_bytes(theme.to_png(figure))
    return pictures


def _is_shown(name: str, results: Results) -> bool:
    if name == "flips":
        return bool(results.challengers)
    # Of an account that is liquidated nobody knows what it would have done.
    return name != "roc" or not has_liquidations(results)


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
