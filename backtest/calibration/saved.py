"""A calibration's saved results, read on demand."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from backtest.calibration.config import OBJECTIVES, Objective
from backtest.errors import DataError
from backtest.report import frames
from backtest.report.reader import Results


BUNDLE = "bundle"
"""Folder of the run that verifies the choice: today, the choice, each of its moves alone."""
SENSITIVITIES = "sensitivities"
"""Table of slopes at today's rules, where a calibration asks for gradients."""
OVERFITTING_ALONE = "overfitting_by_objective"
"""Table of the probability of overfitting of each objective alone."""
TITLES: dict[Objective, str] = {
    "frequency": "Accounts liquidated per account-day",
    "episodes": "Liquidation episodes per account-day",
    "bad_debt": "Uncovered at the trigger, of gross notional a year",
    "margin": "Maintenance margin / gross notional",
    "procyclicality": "Margin rate, peak to trough",
}


class Saved:
    """What a calibration saved in its folder.

    Example:
        >>> Saved("build/calibrations/demo").summary["chosen"]     # doctest: +SKIP
        'c00012'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "calibration.json").is_file():
            raise DataError(
                f"{self.path}: calibration.json is missing, so this is no finished calibration"
            )

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Counts, the choice and the configuration."""
        return json.loads((self.path / "calibration.json").read_text(encoding="utf-8"))

    @property
    def config(self) -> dict[str, Any]:
        """The configuration with every default."""
        return self.summary["config"]

    @property
    def frontier_objectives(self) -> list[Objective]:
        """Objectives of the frontier, in order."""
        named = self.config["objectives"]["frontier"]
        return [name for name in OBJECTIVES if name in named]

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Tables by name."""
        files = sorted((self.path / "tables").glob("*.parquet"))
        return {file.stem: pd.read_parquet(file) for file in files}

    @property
    def is_verified(self) -> bool:
        """Whether the run that verifies the choice is there."""
        return (self.path / "runs" / BUNDLE).is_dir()

    @cached_property
    def bundle(self) -> Results:
        """The run that verifies the choice."""
        return Results(self.path / "runs" / BUNDLE)

    def row(self, table: str, key: str, value: str) -> dict[str, Any]:
        """The row of a table with a value in a column."""
        return next(row for row in frames.records(self.tables[table]) if row[key] == value)
