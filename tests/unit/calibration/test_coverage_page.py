"""The opening sentence of the page of backtests, from tables made by hand."""

import pandas as pd

from backtest.calibration.coverage_page import sentence
from backtest.statistics.findings import Verdict


MANY, FEW, BLIND = (v.words for v in (Verdict.TOO_MANY, Verdict.FEW_TIMES, Verdict.LOW_POWER))


def table(*rows: tuple[str, float, str]) -> pd.DataFrame:
    """Rows over all accounts: horizon, coverage, verdict."""
    frame = pd.DataFrame(list(rows), columns=["horizon", "coverage_frac", "verdict"])
    other = frame.assign(set="other", coverage_frac=0.0)
    return pd.concat([frame.assign(set="today"), other]).assign(point="worst", grouping="total")


def test_the_finding_is_of_the_lowest_coverage():
    found = sentence(table(("1h", 0.97, MANY), ("4h", 0.95, MANY)), 0.01)
    assert found.startswith("Under today margin covers 95")
    assert "of the losses of 4h (at the worst point), its lowest; the target is 99" in found
    assert found.endswith(f": {MANY}.")


def test_a_horizon_with_a_verdict_goes_first():
    rows = ("1h", 0.97, MANY), ("4h", 0.98, "not rejected"), ("3D", 0.5, FEW)
    found = sentence(table(*rows), 0.01)
    assert "of the losses of 1h (at the worst point), the lowest of those with a verdict" in found
    assert found.endswith(f": {MANY}.")


def test_no_verdict_at_all_is_said():
    found = sentence(table(("1h", 0.97, BLIND), ("3D", 0.5, FEW), ("7D", 0.9, FEW)), 0.01)
    start = (
        "Under today no horizon has a verdict (the stated alternative would often go unnoticed, "
        "too few times); margin covers 50"
    )
    assert found.startswith(start)
    assert "of the losses of 3D (at the worst point), its lowest; the target is 99" in found
