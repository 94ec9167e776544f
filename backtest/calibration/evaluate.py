"""A batch of candidates through one replay; what it left behind is one saved file.

A batch is there whole or not at all: its series first, then the note that names its points and the
hash of the series. A batch that was interrupted goes on with the cells that its run finished.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from backtest.calibration.config import CalibrationConfig
from backtest.calibration.series import Series, series_of
from backtest.calibration.space import Space
from backtest.config import ReportSection, RunConfig, SetSection, TracesSection
from backtest.durable import file_hash, write_json
from backtest.report.reader import Results
from backtest.run import run


TODAY = "today"
Say = Callable[[str], None]


def candidate_name(number: int) -> str:
    """Name of a candidate; the first one is today's rules."""
    return f"c{number:05d}" if number else TODAY


class Evaluator:
    """Replays candidates of one calibration.

    Args:
        config: the calibration.
        base: the run whose data, accounts and replay are used.
        space: what is searched.
        out: folder of the calibration.
        workers: buckets at once; None = as the base run says.
        say: receives a line at each stage.
    """

    def __init__(
        self,
        config: CalibrationConfig,
        base: RunConfig,
        space: Space,
        out: Path,
        *,
        workers: int | None = None,
        say: Say = lambda text: None,
    ) -> None:
        self.config, self.base, self.space, self.out = config, base, space, out
        self.workers, self.say = workers, say
        self.computed = self.reused = 0

    def batch(
        self, number: int, first: int, points: Float[np.ndarray, "candidate parameter"]
    ) -> Series:
        """Sums of candidates ``first``, ``first + 1`` ...; saved ones where the file is whole."""
        file = self.out / "batches" / f"{number:05d}.parquet"
        note = file.with_suffix(".json")
        content = {"first": first, "points": points.tolist()}
        if _is_whole(note, content, file):
            self.reused += 1
            return Series.read(file)
        names = [candidate_name(first + k) for k in range(len(points))]
        folder = self.out / "runs" / f"{number:05d}"
        sets = dict(zip(names, points, strict=True))
        results = self.replay(folder, sets, details=False)
        objectives = self.config.objectives
        found = series_of(results, names, objectives.block, objectives.closing_cost_frac)
        digest = found.write(file)
        write_json(note, content | {"sha256": digest})
        shutil.rmtree(folder, ignore_errors=True)
        self.computed += 1
        return found

    def replay(self, folder: Path, sets: dict[str, np.ndarray], *, details: bool = True) -> Results:
        """One run of some points by name, in one pass over the accounts.

        Without ``details`` it has what ``series_of`` reads, and nothing that a report needs.
        """
        sections = []
        for name, point in sets.items():
            file = self.out / "sets" / f"{name}.toml"
            self.space.write(file, name, point)
            sections.append(SetSection(name=name, file=file))
        rows = {"break_even": details, "details": details}
        changes: dict[str, Any] = {
            "name": f"{self.config.name} {folder.name}",
            "replay": self.base.replay.model_copy(update=rows),
            "parameter_sets": sections,
            "traces": TracesSection(),
            "report": ReportSection(champion=next(iter(sets))),
        }
        run(self.base.model_copy(update=changes), folder, workers=self.workers, say=self.say)
        return Results(folder)


def _is_whole(note: Path, content: dict[str, Any], file: Path) -> bool:
    try:
        saved = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return False
    if not isinstance(saved, dict) or any(saved.get(k) != v for k, v in content.items()):
        return False
    return saved.get("sha256") == file_hash(file)
