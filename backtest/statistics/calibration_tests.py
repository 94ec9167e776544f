"""VaR and ES together: Nolde and Ziegel's conditional calibration, a traffic light for ES (C8).

As in ``severity``: ``y`` is profit and loss, VaR and ES are negative numbers of the same unit.

References:
    Nolde and Ziegel (2017), Elicitability and backtesting, Annals of Applied Statistics 11.
    Costanzino and Curran (2018), A simple traffic light approach to backtesting expected shortfall,
    Risks 6(1).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy import special

from .findings import DEFAULT_RULE, BacktestKind, Finding, Rule, Verdict, codes, decide
from .records import check_probability
from .severity import Tail
from .traffic_light import RED_FROM, YELLOW_FROM, Zone


LEAST_TIMES = 20
"""Times below which the limit distributions are not taken."""


def conditional_calibration(tail: Tail, rule: Rule = DEFAULT_RULE) -> Finding:
    """Simple conditional calibration of VaR and ES, chi-square with two degrees of freedom.

    With ``v_1 = alpha - I`` and ``v_2 = ES - VaR + I (VaR - y) / alpha``, both of mean zero for a
    correct model and here divided by ES: ``T = n m' S^-1 m``, m the mean and S the second moments.
    Two-sided: the verdict says on which side the tail misses.
    """
    seen = tail.observed
    hit, scale = tail.hit, np.where(seen, -tail.es, 1.0)
    with np.errstate(invalid="ignore"):
        first = np.where(seen, tail.alpha - hit, 0.0)
        beyond = tail.es - tail.var + np.where(hit, tail.var - tail.pnl, 0.0) / tail.alpha
        second = np.where(seen, beyond, 0.0) / scale
    times = seen.sum(axis=-1)
    n = np.maximum(times, 1)
    moments = np.stack([first, second], axis=-1)
    mean = moments.sum(axis=-2) / n[..., None]
    spread = np.einsum("...ti,...tj->...ij", moments, moments) / n[..., None, None]
    determinant = np.linalg.det(spread)
    flat = determinant <= 1e-15
    safe = np.where(flat[..., None, None], np.eye(2), spread)
    solved = np.linalg.solve(safe, mean[..., None])[..., 0]
    statistic = n * np.einsum("...i,...i->...", mean, solved)
    p = special.chdtrc(2, statistic)
    gone = codes(
        times.shape,
        (times == 0, Verdict.NO_OBSERVATIONS),
        (times < LEAST_TIMES, Verdict.FEW_TIMES),
        (np.count_nonzero(hit, axis=-1) == 0, Verdict.NO_BREACH),
        (flat, Verdict.NO_DIFFERENCE),
    )
    side = np.where(
        mean[..., 1] > 0.0,
        np.uint8(Verdict.TOO_SEVERE),
        np.where(mean[..., 0] < 0.0, np.uint8(Verdict.TOO_MANY), np.uint8(Verdict.TOO_FEW)),
    ).astype(np.uint8)
    return Finding(
        kind=tail.kind,
        test="Nolde and Ziegel",
        rule=rule,
        statistic=np.where(gone > 0, np.nan, statistic),
        degrees=np.full(times.shape, 2),
        p_value=np.where(gone > 0, np.nan, p),
        verdict=decide(p, side, rule, insufficient=gone),
    )


@dataclass(frozen=True)
class ShortfallLight:
    """Zones of expected shortfall.

    Attributes:
        kind: Which backtest was run.
        statistic: ``sum (1 - U / alpha)+``, each breach by how deep in the tail it is.
        cumulative: Probability of at most that under the model, normal limit; NaN where unknown.
        zone: Codes of ``Zone``, with the levels of the Basel light.
        times: Observed times.
    """

    kind: BacktestKind
    statistic: Float[np.ndarray, "*cell"]
    cumulative: Float[np.ndarray, "*cell"]
    zone: UInt8[np.ndarray, "*cell"]
    times: Int[np.ndarray, "*cell"]


def shortfall_light(
    kind: BacktestKind, alpha: float, ranks: Float[np.ndarray, "*cell time"]
) -> ShortfallLight:
    """Traffic light of ES from realised ranks.

    A correct model gives the statistic mean ``T alpha / 2`` and variance
    ``T alpha (4 - 3 alpha) / 12``.

    Args:
        kind: which backtest was run.
        alpha: tail probability of ES.
        ranks: ``U_t = P_t(y_t)`` in [0, 1]; NaN where not observed.
    """
    check_probability(alpha, "alpha")
    seen = ~np.isnan(ranks)
    depth = np.maximum(1.0 - np.where(seen, ranks, 1.0) / alpha, 0.0)
    times = seen.sum(axis=-1)
    statistic = depth.sum(axis=-1)
    enough = times >= LEAST_TIMES
    n = np.maximum(times, 1)
    spread = np.sqrt(n * alpha * (4.0 - 3.0 * alpha) / 12.0)
    cumulative = np.where(enough, special.ndtr((statistic - 0.5 * n * alpha) / spread), np.nan)
    known = np.nan_to_num(cumulative)
    zone = np.where(known >= RED_FROM, Zone.RED, np.where(known >= YELLOW_FROM, Zone.YELLOW, 0))
    zone = np.where(enough, zone, Zone.NONE).astype(np.uint8)
    return ShortfallLight(kind, statistic, cumulative, zone, times)
