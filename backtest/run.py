"""The main job: replay every parameter set over a dataset and save a results folder."""

import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pyarrow as pa

import backtest
from backtest import cluster
from backtest.cells import CellStore, safe_name
from backtest.claim import claim
from backtest.config import RunConfig, SetSection
from backtest.dataset import Dataset
from backtest.durable import (
    disk_of,
    only_user,
    remove_left_overs,
    write_json,
    write_table,
)
from backtest.engine import use_compilation_cache
from backtest.ensure import ensure_dataset
from backtest.impact_rounds import Impact
from backtest.liquidation_rules import file_hashes, rules_of_sets
from backtest.market_window import stamp
from backtest.plan import Plan, make_plan
from backtest.program import peak_memory_mb, source_hash, versions
from backtest.replay import ReplayContext
from backtest.result_rows import summary_table
from backtest.schedule import BEGINNING, Schedule, load_rules
from backtest.set_rules import SetRules
from backtest.stages import total
from backtest.tile_programs import sum_columns
from backtest.waterfall_run import write_waterfall
from kernels.models import MODELS_BY_NAME


MAX_INDEX_ROWS = 200_000
Progress = Callable[[str], None]


def run(
    config: RunConfig,
    out: Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    fresh: bool = False,
    say: Progress = lambda text: None,
    on_cell: Callable[[int, int], None] | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    on_round: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Replay and save; finished cells of an interrupted run of the same manifest are reused.

    Args:
        config: what to run.
        out: results folder.
        workers: buckets at once; default from the configuration.
        scheduler: address of a Dask scheduler, None = workers of this machine.
        fresh: remove an existing results folder of whatever run first.
        say: receives a line at each stage.
        on_cell: receives cells done and account-times at each finished window.
        on_plan: receives the plan before the replay.
        on_round: receives the number of each further round of an impact.
        stop: ends the workers of a scheduler when it is set.

    Returns:
        The manifest, also saved as ``manifest.json``.

    Raises:
        ConfigError: ``out`` holds another run, or another process writes there.
        DataError: the data cannot be replayed.
        RunError: some cells failed, or the disk is full; what is finished stays.
    """
    clock = _Clock()
    use_compilation_cache()
    rules_of_sets(config)  # refuses before anything is written
    with disk_of(config.dataset.path):
        dataset = ensure_dataset(config, say)
    clock.lap("dataset")
    identity = identity_of(config, dataset)
    with disk_of(out), only_user(out):
        claim(out, identity, fresh)
        remove_left_overs(out)
        plan = make_plan(config, dataset)
        clock.lap("plan")
        if on_plan is not None:
            on_plan(plan)
        size = f"{plan.num_accounts:,} accounts x {len(plan.times_us):,} times"
        say(f"replaying {size} x {len(config.parameter_sets)} parameter sets")
        impact = Impact(config, plan, dataset, out)
        with cluster.replaying(
            config,
            plan,
            out,
            workers=workers or config.engine.workers,
            scheduler=scheduler,
            on_cell=on_cell,
            stop=stop,
        ) as replay:
            reports, last = impact.replay(replay, say, on_round)
        clock.lap("replay")
        _write_tables(config, plan, dataset, out)
        if config.liquidation.mode == "simulate" and config.replay.details:
            write_waterfall(ReplayContext(config, plan, out, last.moves), out)
        moved = impact.write(last)
        clock.lap("summary")
        manifest = _manifest(config, plan, dataset, identity, reports, clock)
        manifest |= {"impact": moved} if moved else {}
        write_json(out / "manifest.json", manifest)
    return manifest


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now


def identity_of(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """All that decides on the results of a run, by name, with its hash as ``run_id``."""
    sets = [load_rules(s.file) for s in config.parameter_sets]
    content = {
        "config": config.hash(),
        "parameter_sets": [s.hash for s in sets],
        "rule_files": [h for s in sets for h in _rule_file_hashes(s)],
        "dataset": dataset.fingerprint(),
        "code": source_hash(),
        "jax": jax.__version__,
        "liquidation_files": file_hashes(config),
    }
    text = json.dumps(content, sort_keys=True)
    return content | {"run_id": hashlib.sha256(text.encode()).hexdigest()[:16]}


def _rule_file_hashes(schedule: Schedule) -> list[str]:
    """Content hashes of the files that parameters follow."""
    found: list[str] = []
    for _, chosen in schedule.steps:
        for key in chosen.rules():
            file = chosen.rule_files.get(key)
            if file is not None:
                content = file.read_bytes() if file.is_file() else b""
                found.append(hashlib.sha256(content).hexdigest())
    return found


def _write_tables(config: RunConfig, plan: Plan, dataset: Dataset, out: Path) -> None:
    _write_summary(config, plan, out)
    _write_index(dataset, plan, out)
    _write_paths(config, plan, dataset, out)


def _write_summary(config: RunConfig, plan: Plan, out: Path) -> None:
    store = CellStore(out)
    num_times, num_segments = len(plan.times_us), len(plan.segments)
    for s, chosen in enumerate(config.parameter_sets):
        columns = sum_columns(MODELS_BY_NAME[load_rules(chosen.file).model])
        sums = np.zeros((num_times, num_segments, len(columns)), np.int64)
        quarantined = np.zeros((num_times, num_segments), np.int64)
        for bucket in plan.buckets:
            for window in plan.windows:
                cell = store.read(s, bucket, window.number)
                part = slice(window.first, window.stop)
                sums[part] += cell.sums
                quarantined[part] += cell.extra["quarantined_by_segment"][None, :]
        table = summary_table(chosen.name, plan, sums, quarantined, columns)
        write_table(out / "summary" / f"{safe_name(chosen.name)}.parquet", table)
    for bucket in plan.buckets:
        store.tidy(bucket)


def _write_index(dataset: Dataset, plan: Plan, out: Path) -> None:
    """Index prices for the report's pictures, thinned where the replay is long."""
    rows = dataset.index(stamp(plan.times_us[0]), stamp(plan.times_us[-1]))
    known = rows["currency"].astype(str).isin(list(plan.currencies_known))
    rows = rows.take(np.flatnonzero(known)).sort_values(by=["currency", "time"], ignore_index=True)
    thin = int(np.ceil(len(rows) / MAX_INDEX_ROWS))
    if thin > 1:
        times = pd.DatetimeIndex(rows["time"])
        rows = rows.take(np.flatnonzero(times.isin(times.unique().sort_values()[::thin])))
    rows = rows.reindex(columns=["time", "currency", "usd"])
    table = pa.Table.from_pandas(rows, preserve_index=False)
    write_table(out / "report_data" / "index.parquet", table)


def _write_paths(config: RunConfig, plan: Plan, dataset: Dataset, out: Path) -> None:
    """How parameters that follow the market moved; no file where none does."""
    tables = []
    for chosen in config.parameter_sets:
        rules = SetRules(chosen.name, chosen.file, plan.currencies, dataset, plan.times_us)
        rows = pd.DataFrame(rules.path_rows())
        if len(rows):
            rows["time"] = pd.DatetimeIndex([stamp(int(t)) for t in rows["time"]])
            tables.append(rows.assign(parameter_set=chosen.name))
    if tables:
        columns = ["parameter_set", "time", "key", "value", "driver"]
        frame = pd.concat(tables, ignore_index=True).reindex(columns=columns)
        table = pa.Table.from_pandas(frame, preserve_index=False)
        write_table(out / "report_data" / "parameter_paths.parquet", table)


def _described_sets(config: RunConfig, plan: Plan) -> list[dict[str, Any]]:
    """Every parameter set; where it is simulated with the rule of deleveraging."""
    found = [_described(chosen, plan) for chosen in config.parameter_sets]
    for entry, rules in zip(found, rules_of_sets(config), strict=False):
        entry["adl"] = {key: rules["adl"][key] for key in ("policy", "drop", "window_days")}
    return found


def _described(chosen: SetSection, plan: Plan) -> dict[str, Any]:
    """A parameter set as the manifest names it, with the provenance of its numbers counted.

    Of a schedule: the last step within the run, and every step that the run meets.
    """
    schedule = load_rules(chosen.file)
    first, last = (stamp(plan.times_us[k]).to_pydatetime() for k in (0, -1))
    steps = [(start, s) for start, s in schedule.steps if start <= last]
    loaded = schedule.at(last)
    labels = [leaf.label for leaf in loaded.leaves()]
    met = [(start, s) for start, s in steps if start > first or s is schedule.at(first)]
    model = MODELS_BY_NAME[schedule.model]
    return {
        "name": chosen.name,
        "file": chosen.file.name,
        "set": loaded.name,
        "hash": loaded.hash if len(schedule.steps) == 1 else schedule.hash,
        "model": loaded.model,
        "era": loaded.era,
        "effective": str(loaded.effective),
        "label_counts": {k: labels.count(k) for k in sorted(set(labels))},
        "charges": [{"name": name, "label": label} for name, label in model.charges.items()],
        "how": model.how,
        "levels": {k: loaded.numbers()["levels"][k] for k in ("warning", "safe")},
        "schedule": [
            {
                "from": None if start == BEGINNING else start.isoformat(),
                "set": s.name,
                "era": s.era,
                "hash": s.hash,
            }
            for start, s in met
        ],
    }


def _unpriced(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Instruments without a usable price, and how many account-times of the first set held one."""
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report["unpriced_instruments"])
    return [{"instrument_id": name, "times": count} for name, count in sorted(total.items())]


def _processes(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The processes that replayed, each at its largest."""
    found = sorted((r["process"] for r in reports), key=lambda p: p["peak_memory_mb"])
    return list({(p["host"], p["pid"]): p for p in found}.values())


def _device(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """What computed; graphics cards are counted over all processes."""
    found = _processes(reports)
    kinds = {p["platform"] for p in found}
    counts = [p["devices"] for p in found]
    return {
        "platform": "+".join(sorted(kinds)),
        "count": max(counts) if kinds == {"cpu"} else sum(counts),
    }


def _peak_memory(reports: list[dict[str, Any]]) -> int:
    """Peaks of this process and of the others that replayed, added up, MiB."""
    others = [p for p in _processes(reports) if p["pid"] != os.getpid()]
    return peak_memory_mb() + sum(p["peak_memory_mb"] for p in others)


def _manifest(
    config: RunConfig,
    plan: Plan,
    dataset: Dataset,
    identity: dict[str, Any],
    reports: list[dict[str, Any]],
    clock: _Clock,
) -> dict[str, Any]:
    names = ("in", "scored", "unpriced", "quarantined")
    return {
        "name": config.name,
        "run_id": identity["run_id"],
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config.resolved(),
        "config_hash": identity["config"],
        "parameter_sets": _described_sets(config, plan),
        "dataset": {
            "path": str(plan.dataset),
            "name": dataset.meta.name,
            "fingerprint": identity["dataset"],
            "source": dataset.meta.source,
            "interval_seconds": dataset.meta.interval_seconds,
        },
        "code": {"version": backtest.__version__, "source_hash": identity["code"]},
        "versions": versions(),
        "device": _device(reports),
        "seed": config.seed,
        "replay": {
            "mode": config.replay.mode,
            "start": str(stamp(plan.times_us[0])),
            "end": str(stamp(plan.times_us[-1])),
            "interval_seconds": plan.interval_seconds,
            "times": len(plan.times_us),
            "buckets": len(plan.buckets),
            "windows": len(plan.windows),
        },
        "accounts": plan.num_accounts - sum(r["left_out"] for r in reports),
        "accounts_left_out": sum(r["left_out"] for r in reports),
        "settled_in_float64": sum(r["settled"] for r in reports),
        "rows": {name: sum(r["rows"][name] for r in reports) for name in names},
        "input_rows": plan.input_rows,
        "quarantined": plan.quarantined,
        "quarantined_counts": plan.quarantined_counts,
        "unpriced_instruments": _unpriced(reports),
        "timings_seconds": clock.laps,
        "stage_seconds": total(r.get("stages", {}) for r in reports),
        "peak_memory_mb": _peak_memory(reports),
        "cells": {
            "computed": sum(r["computed"] for r in reports),
            "reused": sum(r["reused"] for r in reports),
            "failed": 0,
        },
    }
