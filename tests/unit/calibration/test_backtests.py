"""Losses against margins from traces: hand-made paths."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.calibration.backtests import breach_tables, outcomes_of
from backtest.errors import ConfigError, DataError
from backtest.report.reader import Results
from backtest.statistics.findings import BacktestKind


CORE, ADEQUACY = BacktestKind.CORE_MODEL, BacktestKind.MARGIN_ADEQUACY
TIMES: Any = pd.date_range("2025-03-01", periods=6, freq="h", tz="UTC")
EQUITY = {"a": [100.0, 90.0, 60.0, 80.0, 80.0, 80.0], "b": [50.0, 50.0, 45.0, 50.0, 50.0, np.nan]}
MARGIN = 15.0


def folder(root: Path, mode: str = "frozen", **tables: pd.DataFrame) -> Results:
    """A results folder with two traced accounts."""
    rows = [
        {"parameter_set": "s", "account_id": a, "time": t, "adjusted_equity": e,
         "derivatives_mmr": MARGIN, "total_mmr": 2.0 * MARGIN}
        for a, path in EQUITY.items()
        for t, e in zip(TIMES, path, strict=True)
    ]  # fmt: skip
    names = pd.DataFrame({"parameter_set": "s", "account_id": ["a", "b"], "segment": ["x", "y"]})
    usd = 100.0 + np.array([0.0, 0.0, 0.0, 10.0, 20.0, 40.0])
    index = pd.DataFrame({"time": TIMES, "currency": "BTC", "usd": usd})
    content = {"traces": pd.DataFrame(rows), "accounts": names, "report_data": index} | tables
    for name, frame in content.items():
        file = root / name / ("index.parquet" if name == "report_data" else "0.parquet")
        file.parent.mkdir(parents=True)
        frame.to_parquet(file, index=False)
    replay = {"mode": mode, "interval_seconds": 3600}
    manifest = {"parameter_sets": [{"name": "s"}], "replay": replay}
    (root / "manifest.json").write_text(json.dumps(manifest))
    return Results(root)


def test_losses_at_the_end_and_at_the_worst_point(tmp_path: Path):
    results = folder(tmp_path)
    end, labels = outcomes_of(results, CORE, ["s"], horizon="3h", probability=0.01)
    assert end.loss_usd[0, 0].tolist() == [20.0, 10.0, -20.0]
    assert end.loss_usd[0, 1, :2].tolist() == [0.0, 0.0]
    assert np.isnan(end.loss_usd[0, 1, 2])
    worst, _ = outcomes_of(results, CORE, ["s"], horizon="3h", probability=0.01, worst=True)
    assert worst.loss_usd[0, 0].tolist() == [40.0, 30.0, -20.0]
    assert worst.loss_usd[0, 1, 0] == 5.0
    assert labels.accounts["segment"].tolist() == ["x", "y"]
    assert end.times.tolist() == TIMES[:3].tz_convert(None).to_numpy("datetime64[us]").tolist()


def test_each_backtest_has_its_own_margin(tmp_path: Path):
    results = folder(tmp_path)
    core, labels = outcomes_of(results, CORE, ["s"], horizon="1h", probability=0.01)
    adequacy, _ = outcomes_of(results, ADEQUACY, ["s"], horizon="1h", probability=0.01)
    assert (core.margin_usd == MARGIN).all()
    assert (adequacy.margin_usd == 2.0 * MARGIN).all()
    tables: Any = breach_tables(core, labels)
    total = tables["total"].iloc[0]
    assert (total["backtest"], total["observations"], total["breaches"]) == ("core model", 9, 1)
    assert total["largest_shortfall_usd"] == 15.0  # 90 to 60 against 15
    by_segment = tables["segment"].set_index("segment")
    assert by_segment["breaches"].to_dict() == {"x": 1, "y": 0}
    assert tables["regime"]["observations"].sum() == 9
    assert breach_tables(adequacy, labels)["total"]["breaches"].tolist() == [0]


def test_what_cannot_be_judged_is_refused(tmp_path: Path):
    results = folder(tmp_path / "a")
    for changes, words in (
        ({"horizon": "90min"}, "no whole number of intervals"),
        ({"kind": BacktestKind.LIQUIDATION_OUTCOME}, "no backtest of margin"),
    ):
        content: dict[str, Any] = {"kind": CORE, "horizon": "1h"} | changes
        with pytest.raises(ConfigError, match=words):
            outcomes_of(results, names=["s"], probability=0.01, **content)
    with pytest.raises(DataError, match="hold no horizon"):
        outcomes_of(results, CORE, ["s"], horizon="6h", probability=0.01)
    moving = folder(tmp_path / "b", mode="actual")
    with pytest.raises(ConfigError, match="frozen"):
        outcomes_of(moving, CORE, ["s"], horizon="1h", probability=0.01)
