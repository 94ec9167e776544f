"""Which parameter set is better: consistent scores and Diebold and Mariano's comparison (C9).

Counts of breaches cannot rank sets; a score that the true quantile minimises can. Lower is better.
``y`` is profit and loss; VaR and ES are negative numbers of the same unit.

References:
    Gneiting (2011), Making and evaluating point forecasts, JASA 106.
    Patton, Ziegel and Chen (2019), Dynamic semiparametric models for ES, J. Econometrics 211.
    Diebold and Mariano (1995), Comparing predictive accuracy, J. Business and Econ. Statistics 13.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special

from backtest.errors import ConfigError, DataError

from .findings import DEFAULT_RULE, BacktestKind, Finding, Rule, Verdict, codes, decide, same_kind
from .records import check_probability


@dataclass(frozen=True)
class Losses:
    """Scores over time of one kind of backtest; lower is better.

    Attributes:
        kind: Which backtest was scored.
        score: Name of the score.
        values: Unit of the score (USD for the tick loss, none for FZ0); NaN where not observed.
    """

    kind: BacktestKind
    score: str
    values: Float[np.ndarray, "*cell time"]

    def pooled(self, weights: Float[np.ndarray, "*cell"] | None = None) -> "Losses":
        """Weighted mean over all cells at each time, shape ``[time]``: a panel as one series.

        Accounts move together; pooling before the comparison leaves the dependence in the series.
        """
        flat = self.values.reshape(-1, self.values.shape[-1])
        weight = np.ones(len(flat)) if weights is None else weights.ravel()
        known = ~np.isnan(flat)
        total = (known * weight[:, None]).sum(axis=0)
        summed = (np.where(known, flat, 0.0) * weight[:, None]).sum(axis=0)
        mean = np.where(total > 0, summed / np.where(total > 0, total, 1.0), np.nan)
        return Losses(self.kind, self.score, mean)


def tick_loss(
    kind: BacktestKind,
    pnl: Float[np.ndarray, "*cell time"],
    var: Float[np.ndarray, "*cell time"],
    alpha: float,
) -> Losses:
    """``(y - VaR) (alpha - I)``, >= 0, in the unit of profit and loss."""
    check_probability(alpha, "alpha")
    return Losses(kind, "tick", (pnl - var) * np.where(pnl < var, alpha - 1.0, alpha))


def fz0_loss(
    kind: BacktestKind,
    pnl: Float[np.ndarray, "*cell time"],
    var: Float[np.ndarray, "*cell time"],
    es: Float[np.ndarray, "*cell time"],
    alpha: float,
) -> Losses:
    """``-I (VaR - y) / (alpha ES) + VaR / ES + ln(-ES) - 1``, joint in VaR and ES; no unit.

    Raises:
        DataError: ES is not negative, or above VaR.
    """
    check_probability(alpha, "alpha")
    if (es >= 0.0).any() or (es > var).any():
        raise DataError("es is negative and at most var: it is the mean of what lies beyond var")
    breach = np.maximum(var - pnl, 0.0)
    return Losses(kind, "FZ0", -breach / (alpha * es) + var / es + np.log(-es) - 1.0)


def diebold_mariano(
    first: Losses, second: Losses, rule: Rule = DEFAULT_RULE, *, lags: int | None = None
) -> Finding:
    """``DM = mean d / sqrt(V / n)``, ``d = first - second``; > 0 where the second set is better.

    V is the long-run variance with Bartlett weights (Newey and West), ``lags`` of them or
    ``floor(4 (n / 100)^(2/9))``; times without both scores are left out and count as no covariance.
    The p value is two-sided, Student's t with n - 1 degrees.

    Args:
        first: Scores of one set.
        second: Scores of the other set, of the same cells and times.
        rule: Size of the test.
        lags: At least the overlap of loss windows less one, where they overlap.
    """
    kind = same_kind(first, second)
    if first.score != second.score or first.values.shape != second.values.shape:
        raise ConfigError(
            f"scores {first.score!r} {first.values.shape} and {second.score!r} "
            f"{second.values.shape} do not compare; take the same score, accounts and times"
        )
    d = np.atleast_2d(first.values - second.values)
    known = ~np.isnan(d)
    n = known.sum(axis=-1)
    mean = np.where(known, d, 0.0).sum(axis=-1) / np.maximum(n, 1)
    variance = _long_run_variance(np.where(known, d - mean[..., None], 0.0), n, lags)
    scale = np.abs(np.where(known, d, 0.0)).max(axis=-1)
    flat = variance <= (1e-12 * scale) ** 2
    statistic = mean / np.sqrt(np.where(flat, 1.0, variance) / np.maximum(n, 1))
    gone = codes(
        n.shape,
        (n == 0, Verdict.NO_OBSERVATIONS),
        (n < 2, Verdict.FEW_TIMES),
        (flat, Verdict.NO_DIFFERENCE),
    )
    p = 2.0 * special.stdtr(np.maximum(n - 1, 1), -np.abs(statistic))
    side = np.where(mean > 0, Verdict.SECOND_IS_BETTER, Verdict.FIRST_IS_BETTER).astype(np.uint8)
    return Finding(
        kind=kind,
        test=f"Diebold-Mariano, {first.score}",
        rule=rule,
        statistic=np.where(gone > 0, np.nan, statistic),
        degrees=np.maximum(n - 1, 0),
        p_value=np.where(gone > 0, np.nan, p),
        verdict=decide(p, side, rule, insufficient=gone),
    )


def _long_run_variance(
    deviation: Float[np.ndarray, "*cell time"], n: np.ndarray, lags: int | None
) -> Float[np.ndarray, "*cell"]:
    """``g_0 + 2 sum_k (1 - k / (lags + 1)) g_k``, ``g_k`` autocovariances with divisor n; >= 0."""
    times = deviation.shape[-1]
    rule = np.floor(4.0 * (np.maximum(n, 1) / 100.0) ** (2.0 / 9.0)).astype(np.int64)
    used = rule if lags is None else np.full(n.shape, lags)
    used = np.minimum(used, times - 1)
    total = np.einsum("...t,...t->...", deviation, deviation)
    for k in range(1, int(used.max(initial=0)) + 1):
        weight = np.maximum(1.0 - k / (used + 1.0), 0.0)
        total = total + 2.0 * weight * np.einsum(
            "...t,...t->...", deviation[..., k:], deviation[..., :-k]
        )
    return np.maximum(total, 0.0) / np.maximum(n, 1)
