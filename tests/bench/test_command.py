"""The small benchmark end to end: peers, reference and engine agree, and the answer is complete."""

import json
from pathlib import Path

import pytest

from backtest import cli


@pytest.mark.slow
def test_small_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["bench", "--size", "small", "--only", "P1,P2,P3", "--repeats", "1", "--quiet"]
    assert cli.call([*words, "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    text = capsys.readouterr().out
    assert "Targets" in text
    record = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    assert record["schema"] == 1
    assert [m["id"] for m in record["measures"]] == ["P1", "P2", "P3"]
    assert all(m["value"] > 0 for m in record["measures"])
    assert {"cpu", "cores", "caches", "memory_gb", "versions"} <= set(record["machine"])
    assert record["book"]["instruments"] == 800
    compared = [c["what"] for c in record["checks"]]
    assert sum("reference" in what for what in compared) == 2
    assert "engine float64 and numba, all accounts" in compared
    assert sum("table" in what and "loop" in what for what in compared) == 2
    assert "scipy sparse and sums over legs" in compared
    assert {"ours float64", "ours float64, pricing", "sgemm numpy", "copy"} <= set(record["laps"])
    stages = record["profile_seconds"]["float64"]
    names = {"exposures", "charges", "binding_units", "balances", "totals", "theta", "advanced"}
    assert {*names, "sums_of"} <= set(stages)
    assert sum(c["accounts"] for c in record["shape_classes"]) == record["book"]["accounts"]
