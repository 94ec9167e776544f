"""The whole calibration: search, choose on bounds, walk forward, verify the choice, save.

Every batch of candidates is a saved file, so a calibration that was stopped goes on with the next
batch, and ends with the same tables.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float

from backtest.calibration import objectives
from backtest.calibration.adaptive import Sampler
from backtest.calibration.config import (
    ADAPTIVE,
    OBJECTIVES,
    CalibrationConfig,
    ReverseStressSection,
    today_file,
)
from backtest.calibration.designs import Points, grid, nested_boxes, sobol
from backtest.calibration.evaluate import TODAY, Evaluator, Say
from backtest.calibration.folds import folds
from backtest.calibration.judgement import judge
from backtest.calibration.nearest import Norm
from backtest.calibration.reverse_stress import ReverseStress, reverse_stress, save
from backtest.calibration.saved import BUNDLE, SENSITIVITIES
from backtest.calibration.select import assess
from backtest.calibration.sensitivities import sensitivity_table, starts
from backtest.calibration.series import Series, joined, series_of
from backtest.calibration.space import Space
from backtest.claim import claim
from backtest.config import ReportSection, RunConfig, TracesSection
from backtest.durable import disk_of, only_user, remove_left_overs, write_json, write_table
from backtest.ensure import ensure_dataset
from backtest.program import source_hash
from backtest.report.reader import Results
from backtest.report.reverse import has_reverse_stress


CHOSEN, ONLY = "chosen", "only "
_NOT_OURS = {"parameter_sets": [], "traces": TracesSection(), "report": ReportSection()}
"""Sections of the base run that a calibration replaces."""


def calibrate(
    config: CalibrationConfig,
    base: RunConfig,
    out: Path,
    *,
    workers: int | None = None,
    fresh: bool = False,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Search, choose, verify and save; what an interrupted calibration finished is reused.

    Args:
        config: what is searched and how it is judged.
        base: the run whose data, accounts and replay are used.
        out: folder of the calibration.
        workers: buckets at once; None = as the base run says.
        fresh: empty the folder of whatever calibration or run first.
        say: receives a line at each stage.

    Returns:
        The summary, also saved as ``calibration.json``.

    Raises:
        ConfigError: a parameter that the base set does not have, or a folder of another run.
        DataError: the data cannot be replayed.
        RunError: cells failed, or the disk is full; what is finished stays.
    """
    space = Space.of(config.parameters, today_file(config, base))
    with disk_of(base.dataset.path):
        dataset = ensure_dataset(base, say)
    with disk_of(out), only_user(out):
        claim(out, _identity(config, base, space, dataset.fingerprint()), fresh)
        remove_left_overs(out)
        evaluator = Evaluator(config, base, space, out, workers=workers, say=say)
        first = np.zeros((0, len(space.names)))
        if config.gradients is not None:
            first = starts(config, space, _slopes(config, base, space, out, say))
        points, series = search(evaluator, first)
        found = judge(config, space, points, series)
        results = evaluator.replay(out / "runs" / BUNDLE, bundle(space, points[found.chosen]))
        if config.reverse_stress is not None:
            _reverse_stress(config, config.reverse_stress, results, say)
        tables = found.tables(config, space)
        tables["bundle"] = _bundle_table(evaluator, results)
        for name, frame in tables.items():
            table = pa.Table.from_pandas(frame, preserve_index=False)
            write_table(out / "tables" / f"{name}.parquet", table)
        summary = found.summary(config, space, base) | {"created_from": base.name}
        write_json(out / "calibration.json", summary)
    say(f"batches: computed {evaluator.computed:,}, reused {evaluator.reused:,}")
    return summary


def _identity(
    config: CalibrationConfig, base: RunConfig, space: Space, fingerprint: str
) -> dict[str, Any]:
    content = {
        "calibration": config.hash(),
        "base": base.model_copy(update=_NOT_OURS).hash(),
        "today": space.today.hash,
        "dataset": fingerprint,
        "code": source_hash(),
        "jax": jax.__version__,
    }
    text = json.dumps(content, sort_keys=True)
    return content | {"run_id": hashlib.sha256(text.encode()).hexdigest()[:16]}


def _slopes(
    config: CalibrationConfig, base: RunConfig, space: Space, out: Path, say: Say
) -> pd.DataFrame:
    """Sensitivities at today's rules; those that an interrupted calibration saved are reused."""
    file = out / "tables" / f"{SENSITIVITIES}.parquet"
    if not file.is_file():
        say("gradients of margin and shortfall at today's rules")
        found = sensitivity_table(config, base, space)
        write_table(file, pa.Table.from_pandas(found, preserve_index=False))
    return pd.read_parquet(file)


def _reverse_stress(
    config: CalibrationConfig, section: ReverseStressSection, results: Results, say: Say
) -> None:
    """Nearest scenarios under today's rules and the choice, kept with the run that verifies it."""
    if has_reverse_stress(results):
        return
    say("reverse stress: the nearest scenarios")
    norm = Norm(section.price_sigma_frac, section.vol_sigma_frac, section.correlation)
    asked = ReverseStress(
        section.open_interest_frac,
        section.fund_usd,
        config.objectives.closing_cost_frac,
        norm,
        most_distance=section.most_distance,
        accounts=section.accounts,
    )
    run = RunConfig.model_validate(results.manifest["config"])
    both = run.model_copy(update={"parameter_sets": run.parameter_sets[:2]})
    save(results.path, reverse_stress(both, asked))


def search(
    evaluator: Evaluator, starts: Float[np.ndarray, "start parameter"]
) -> tuple[Points, Series]:
    """All candidates and what they left behind: today's rules, the starts, those of the method."""
    config, space = evaluator.config, evaluator.space
    points: list[np.ndarray] = []
    parts: list[Series] = []
    adaptive = config.search.method in ADAPTIVE
    batches = _adaptive(evaluator, parts, starts) if adaptive else _fixed(evaluator)
    first = 0
    for number, mine in enumerate(batches):
        if first == 0:
            mine = np.concatenate([space.now[None], starts, mine])
        parts.append(evaluator.batch(number, first, mine))
        points.append(mine)
        first += len(mine)
        walk = config.walk_forward
        folds(parts[0].blocks, config.objectives.block, walk)  # a short window is refused at once
        evaluator.say(f"{first - 1:,} of {_count(config) + len(starts):,} candidates")
    return np.concatenate(points), joined(parts)


def _count(config: CalibrationConfig) -> int:
    chosen = config.search
    if chosen.points is not None:
        return chosen.points ** len(config.parameters)
    return chosen.candidates


def _fixed(evaluator: Evaluator) -> Iterator[Points]:
    config, space = evaluator.config, evaluator.space
    if config.search.points is not None:
        found = grid(space, config.search.points)
    else:
        limit = config.trust_region
        steps = config.walk_forward.folds
        boxes = nested_boxes(space, None if limit is None else limit.step_frac, steps)
        found = sobol(space, config.search.candidates, config.seed, boxes)
    for start in range(0, len(found), config.search.batch):
        yield found[start : start + config.search.batch]


def _adaptive(evaluator: Evaluator, parts: list[Series], starts: Points) -> Iterator[Points]:
    """Batches of a sampler that is told what the first training stretch gave, and no more.

    Later stretches are those on which choices are tried: a search that had seen them would not be
    tried at all.
    """
    config, space = evaluator.config, evaluator.space
    judged = config.objectives
    names = (judged.minimise,) if config.search.method == "tpe" else judged.frontier
    batch = config.search.batch
    sampler = Sampler(config.search.method, space, batch, config.seed, len(names))
    left = config.search.candidates
    while left > 0:
        asked = sampler.ask(min(batch, left))
        yield asked
        first = folds(parts[0].blocks, judged.block, config.walk_forward)[0]
        seen = assess(joined(parts).cut(first.train), config)
        if left == config.search.candidates and len(starts):
            known = slice(1, 1 + len(starts))
            sampler.add(starts, seen.matrix(names)[known], seen.violations[known])
        mine = slice(-len(asked), None)
        sampler.tell(seen.matrix(names)[mine], seen.violations[mine])
        left -= len(asked)


def bundle(space: Space, point: Float[np.ndarray, " parameter"]) -> dict[str, np.ndarray]:
    """Points of the run that verifies a choice: single moves may not add up to the whole."""
    found = {TODAY: space.now, CHOSEN: point}
    for k, name in enumerate(space.names):
        if point[k] != space.now[k]:
            alone = space.now.copy()
            alone[k] = point[k]
            found[f"{ONLY}{name}"] = alone
    return found


def _bundle_table(evaluator: Evaluator, results: Any) -> pd.DataFrame:
    """Objectives of the choice and of each of its moves alone, and their changes from today."""
    settings = evaluator.config.objectives
    names = results.set_names
    series = series_of(results, names, settings.block, settings.closing_cost_frac)
    columns: dict[str, Any] = {"parameter_set": names}
    for name in OBJECTIVES:
        found = objectives.value(series, name)
        columns |= {name: found, f"{name}_change": found - found[0]}
    return pd.DataFrame(columns)
