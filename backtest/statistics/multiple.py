"""Many accounts at once: p values adjusted so that chance alone accuses few of them (C12).

Holm bounds the probability of a single false accusation; Benjamini-Hochberg bounds the share of
false ones where accounts depend positively, as they do in a crash; Benjamini-Yekutieli whatever the
dependence.

References:
    Holm (1979), Scandinavian J. Statistics 6; Benjamini and Hochberg (1995), JRSS B 57;
    Benjamini and Yekutieli (2001), Annals of Statistics 29.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from backtest.errors import ConfigError

from .findings import INSUFFICIENT, BacktestKind, Finding


Method = Literal["holm", "benjamini-hochberg", "benjamini-yekutieli"]


@dataclass(frozen=True)
class Family:
    """Adjusted p values of one test over the last axis of its cells.

    Attributes:
        finding: What was adjusted.
        method: How.
        adjusted: Adjusted p values; NaN where the test gave none, as ``finding.verdict`` says.
        tested: Hypotheses of each family.
    """

    finding: Finding
    method: Method
    adjusted: Float[np.ndarray, "*family account"]
    tested: np.ndarray

    @property
    def kind(self) -> BacktestKind:
        """Which backtest was tested."""
        return self.finding.kind

    @property
    def survives(self) -> Bool[np.ndarray, "*family account"]:
        """True where the rejection survives the adjustment."""
        return self.adjusted < self.finding.rule.alpha


def adjust(
    p: Float[np.ndarray, "*family account"], method: Method
) -> Float[np.ndarray, "*family account"]:
    """Adjusted p values over the last axis; NaN are no hypotheses and stay NaN.

    With p(1) <= ... <= p(m): Holm ``max_{j<=i} (m-j+1) p(j)``; Benjamini-Hochberg
    ``min_{j>=i} m p(j) / j``; Benjamini-Yekutieli the same times ``sum_{j<=m} 1/j``.
    """
    order = np.argsort(p, axis=-1)  # NaN last
    ranked = np.take_along_axis(p, order, axis=-1)
    m = np.count_nonzero(~np.isnan(p), axis=-1)[..., None]
    j = np.arange(1, p.shape[-1] + 1)
    if method == "holm":
        scaled = np.maximum.accumulate(np.maximum(m - j + 1, 1) * ranked, axis=-1)
    elif method in ("benjamini-hochberg", "benjamini-yekutieli"):
        factor = m / j
        if method == "benjamini-yekutieli":
            factor = factor * np.concatenate([[0.0], np.cumsum(1.0 / j)])[m]
        filled = np.where(np.isnan(ranked), np.inf, factor * ranked)
        scaled = np.minimum.accumulate(filled[..., ::-1], axis=-1)[..., ::-1]
        scaled = np.where(np.isnan(ranked), np.nan, scaled)
    else:
        raise ConfigError(f"method is {method!r}; allowed: {Method.__args__}")
    found = np.empty(p.shape)
    np.put_along_axis(found, order, np.minimum(scaled, 1.0), axis=-1)
    return found


def over_accounts(finding: Finding, method: Method = "benjamini-hochberg") -> Family:
    """Adjusts the decisive p values of a finding; every set is a family of its own."""
    p = finding.p_decisive
    return Family(finding, method, adjust(p, method), np.count_nonzero(~np.isnan(p), axis=-1))


def worst_accounts(
    family: Family, sets: Sequence[str], accounts: Sequence[str], limit: int = 50
) -> pd.DataFrame:
    """Accounts whose rejection survives, the smallest adjusted p value first.

    Columns: backtest, test, method, set, account, statistic, p_value (decisive), p_adjusted,
    verdict. An account that could not be tested is never listed.
    """
    finding = family.finding
    if family.adjusted.shape != (len(sets), len(accounts)):
        raise ConfigError(
            f"cells {family.adjusted.shape} for {len(sets)} sets and {len(accounts)} accounts"
        )
    chosen = family.survives & ~np.isin(finding.verdict, INSUFFICIENT)
    at_set, at_account = np.nonzero(chosen)
    order = np.lexsort((at_account, at_set, family.adjusted[chosen]))[:limit]
    at = (at_set[order], at_account[order])
    return pd.DataFrame(
        {
            "backtest": finding.kind.value,
            "test": finding.test,
            "method": family.method,
            "set": np.asarray(sets)[at[0]],
            "account": np.asarray(accounts)[at[1]],
            "statistic": finding.statistic[at],
            "p_value": finding.p_decisive[at],
            "p_adjusted": family.adjusted[at],
            "verdict": finding.words[at],
        }
    )
