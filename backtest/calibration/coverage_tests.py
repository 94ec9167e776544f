"""Zones and tests of the coverage table, for rows that pool accounts which breach together.

The zone counts with the effective number of observations. The tests are made of every account on
its own, on losses that do not overlap, and put together by Simes, whose p value holds where
accounts depend on each other positively, as those of one market do.

References:
    Simes (1986), Biometrika 73; Sarkar (1998), Annals of Statistics 26.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from backtest.statistics.coverage import kupiec
from backtest.statistics.dynamic_quantile import dynamic_quantile
from backtest.statistics.findings import INSUFFICIENT, Finding, Verdict
from backtest.statistics.independence import conditional_coverage, transitions
from backtest.statistics.multiple import adjust
from backtest.statistics.records import Outcomes
from backtest.statistics.tables import Labels
from backtest.statistics.traffic_light import effective_zones


TESTS = ("pof", "cc", "dq")
"""Kupiec's number of breaches, Christoffersen's conditional coverage, the dynamic quantile."""


def apart(outcomes: Outcomes, steps: int) -> Outcomes:
    """Every ``steps``-th start, so that losses of a horizon of that length do not overlap."""
    loss, margin = (a[..., ::steps] for a in (outcomes.loss_usd, outcomes.margin_usd))
    return Outcomes(outcomes.kind, outcomes.probability, outcomes.times[::steps], loss, margin)


def account_p_values(outcomes: Outcomes) -> dict[str, Float[np.ndarray, "set account"]]:
    """What each test says of each account; 1 where it cannot, NaN without observations."""
    sequences = outcomes.sequences()
    seen = outcomes.observed.any(axis=-1)
    found = {
        "pof": kupiec(sequences.counts()),
        "cc": conditional_coverage(transitions(sequences)),
        "dq": dynamic_quantile(outcomes),
    }
    return {name: np.where(seen, _p(each), np.nan) for name, each in found.items()}


def _p(finding: Finding) -> np.ndarray:
    # Low power doubts a pass, not the p value; few breaches leave a test of their number.
    known = (Verdict.LOW_POWER, Verdict.FEW_BREACHES)
    silent = np.isin(finding.verdict, [v for v in INSUFFICIENT if v not in known])
    return np.where(silent, 1.0, np.nan_to_num(finding.p_decisive, nan=1.0))


def simes(p: Float[np.ndarray, " account"]) -> float:
    """One p value of several: ``min over i of m p(i) / i``; NaN of none."""
    known = p[~np.isnan(p)]
    return float(adjust(known, "benjamini-hochberg").min()) if len(known) else float("nan")


def group_tests(
    p_values: dict[str, Float[np.ndarray, "set account"]], labels: Labels, by: str | None
) -> pd.DataFrame:
    """``pof_p``, ``cc_p`` and ``dq_p`` of each set and group of accounts."""
    groups = np.full(len(labels.accounts), "all") if by is None else _names(labels, by)
    rows = []
    for s, name in enumerate(labels.sets):
        for group in np.unique(groups):
            mine = groups == group
            tests = {f"{test}_p": simes(p_values[test][s][mine]) for test in TESTS}
            rows.append({"set": name, "group": str(group), **tests})
    return pd.DataFrame(rows)


def with_zones_and_tests(table: pd.DataFrame, tests: pd.DataFrame | None) -> pd.DataFrame:
    """The table with the zone of each row and, by set and group, with tests where there are any."""
    effective = table["effective_observations"].to_numpy(float)
    share = (table["breaches"] / table["observations"]).to_numpy(float)
    target = 1.0 - table["target_coverage_frac"].to_numpy(float)
    table = table.assign(zone=effective_zones(share * effective, effective, target))
    if tests is None:
        return table.assign(**{f"{name}_p": np.nan for name in TESTS})
    return table.merge(tests, on=["set", "group"], how="left", validate="many_to_one")


def _names(labels: Labels, by: str) -> np.ndarray:
    return labels.accounts[by].astype(str).to_numpy()
