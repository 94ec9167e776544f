"""Triggers against what accounts did untouched: every kind of account by hand."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.report import frames
from backtest.report.classifier import Classified, classified, classifier_table
from backtest.report.figures_liquidation import figure_roc
from backtest.report.reader import Results


def at(hour: int) -> datetime:
    return datetime(2025, 3, 1, tzinfo=UTC) + timedelta(hours=hour)


EVENTS = [
    # fails five hours after its trigger
    ("fails", "liquidation", 2, 100.0),
    ("fails", "bankrupt", 7, 90.0),
    # recovers, then fails after 20 hours
    ("later", "liquidation", 1, 10.0),
    ("later", "recovered", 3, 10.0),
    ("later", "bankrupt", 21, 10.0),
    # recovers and nothing more
    ("sound", "liquidation", 4, 1_000.0),
    ("sound", "recovered", 6, 1_000.0),
    ("sound", "liquidation", 8, 2_000.0),
    # triggered when it was already below zero
    ("late", "liquidation", 5, 30.0),
    ("late", "bankrupt", 5, 30.0),
    ("unseen", "bankrupt", 9, 5.0),
    # still below the safe level at the end
    ("open", "liquidation", 23, 7.0),
]
ACCOUNTS = ["fails", "later", "sound", "late", "unseen", "open", "quiet", "calm", "never"]


def saved(folder: Path, horizon: str | None = None, events: list[Any] | None = None) -> Results:
    """As much of a results folder as the classifier reads."""
    manifest = {
        "parameter_sets": [{"name": "today"}],
        "config": {"report": {"horizon": horizon}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    scored = [5] * len(ACCOUNTS[:-1]) + [0]
    rows = EVENTS if events is None else events
    columns = ["account_id", "event", "time", "gross_notional_usd"]
    found = pd.DataFrame([(who, what, at(h), usd) for who, what, h, usd in rows], columns=columns)
    tables = {
        "accounts": pd.DataFrame({"account_id": ACCOUNTS, "scored": scored}),
        "events": found.sample(frac=1.0, random_state=1),
    }
    for name, frame in tables.items():
        if len(frame):
            (folder / name).mkdir()
            frame.assign(parameter_set="today").to_parquet(folder / name / "all.parquet")
    return Results(folder)


def test_to_the_end_of_the_run(tmp_path: Path):
    found = classified(saved(tmp_path), "today")
    assert found == Classified(
        right=2,  # fails, later
        false_alarms=1,  # sound
        late=1,
        unseen=1,
        undecided=1,  # open
        quiet=2,
        false_alarm_notional_usd=1_000.0,
    )
    assert found.true_positive_rate == 2 / 4
    assert found.false_positive_rate == 1 / 3
    assert found.precision == 2 / 3


@pytest.mark.parametrize(
    ("horizon", "right", "false_alarms", "undecided"),
    [("20h", 2, 1, 1), ("19h", 1, 2, 1), ("5h", 1, 2, 1), ("4h", 0, 2, 2), ("1h", 0, 0, 4)],
)
def test_within_a_horizon(
    horizon: str, right: int, false_alarms: int, undecided: int, tmp_path: Path
):
    found = classified(saved(tmp_path, horizon), "today")
    assert (found.right, found.false_alarms, found.undecided) == (right, false_alarms, undecided)
    assert (found.late, found.unseen, found.quiet) == (1, 1, 2)


def test_nothing_happened(tmp_path: Path):
    results = saved(tmp_path, events=[])
    found = classified(results, "today")
    assert found.quiet == len(ACCOUNTS) - 1
    assert found.false_positive_rate == 0.0
    assert math.isnan(found.true_positive_rate)
    assert np.isnan(frames.numbers(classifier_table(results), "true_positive_rate_frac")).all()
    assert len(figure_roc(results).axes) <= 1


def test_every_account_is_counted_once(tmp_path: Path):
    results = saved(tmp_path, "6h")
    (row,) = frames.records(classifier_table(results))
    kinds = ("true_positives", "false_positives", "true_negatives", "late", "unseen", "undecided")
    assert sum(row[kind] for kind in kinds) == len(ACCOUNTS) - 1
    (panel,) = figure_roc(results).axes
    lines = [np.column_stack([np.asarray(x) for x in line.get_data()]) for line in panel.lines]
    (point,) = [line for line in lines if len(line) == 1]
    rates = row["false_positive_rate_frac"], row["true_positive_rate_frac"]
    assert tuple(point[0].tolist()) == rates
