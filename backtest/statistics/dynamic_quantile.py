"""Can breaches be predicted from what was known: the dynamic quantile test (C7).

References:
    Engle and Manganelli (2004), CAViaR, Journal of Business and Economic Statistics 22.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from backtest.errors import DataError

from .findings import DEFAULT_RULE, Finding, Rule, Verdict, codes, decide
from .records import CHUNK_ELEMENTS, Outcomes


LAGS = 4


def dynamic_quantile(outcomes: Outcomes, rule: Rule = DEFAULT_RULE, *, lags: int = LAGS) -> Finding:
    """``DQ = H'X (X'X)+ X'H / (p (1-p))``, shape ``[set account]`` (C7).

    ``Hit_t = I_t - p``; ``X = [1, VaR_t, Hit_{t-1} ... Hit_{t-lags}, y^2_{t-1}]`` with
    ``y = -loss`` and ``VaR = -margin``. A time counts where it and its ``lags`` predecessors were
    observed. Degrees of freedom are the rank of X: ``lags + 3``, fewer where the margin never moves
    or breaches never vary, because a column without information tests nothing.
    """
    if lags < 1:
        raise DataError(f"lags is {lags}; at least 1")
    sets, accounts, times = outcomes.loss_usd.shape
    rows = sets * accounts
    statistic, rank, used = (
        np.zeros(rows),
        np.zeros(rows, dtype=np.int64),
        np.zeros(rows, dtype=int),
    )
    loss, margin = (a.reshape(rows, times) for a in (outcomes.loss_usd, outcomes.margin_usd))
    observed = outcomes.observed.reshape(rows, times)
    step = max(1, CHUNK_ELEMENTS // max(1, times * (lags + 3)))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        found = _statistic(loss[part], margin[part], observed[part], outcomes.probability, lags)
        statistic[part], rank[part], used[part] = found
    hits = np.count_nonzero((loss > margin) & observed, axis=-1)
    seen = np.count_nonzero(observed, axis=-1)
    gone = codes(
        (rows,),
        (seen == 0, Verdict.NO_OBSERVATIONS),
        (used <= lags + 3, Verdict.FEW_TIMES),
        (hits == 0, Verdict.NO_BREACH),
        (hits == seen, Verdict.NO_CALM),
    )
    p = special.chdtrc(np.maximum(rank, 1), statistic)
    empty = used == 0
    many = np.full(rows, Verdict.REJECTED, dtype=np.uint8)
    return Finding(
        kind=outcomes.kind,
        test="dynamic quantile",
        rule=rule,
        statistic=np.where(empty, np.nan, statistic).reshape(sets, accounts),
        degrees=rank.reshape(sets, accounts),
        p_value=np.where(empty, np.nan, p).reshape(sets, accounts),
        verdict=decide(p, many, rule, insufficient=gone).reshape(sets, accounts),
    )


def _statistic(
    loss: Float[np.ndarray, "row time"],
    margin: Float[np.ndarray, "row time"],
    observed: Bool[np.ndarray, "row time"],
    probability: float,
    lags: int,
) -> tuple[Float[np.ndarray, " row"], Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
    """Statistic, rank of X and number of times that count, of each row."""
    if observed.shape[1] <= lags:
        none = np.zeros(loss.shape[0], dtype=np.int64)
        return none.astype(float), none, none
    hit = (loss > margin) - probability
    use = observed[:, lags:].copy()
    for lag in range(1, lags + 1):
        use &= observed[:, lags - lag : observed.shape[1] - lag]
    last = observed.shape[1]
    squared = np.nan_to_num(loss[:, lags - 1 : last - 1]) ** 2
    columns = [
        np.ones_like(squared),
        -np.nan_to_num(margin[:, lags:]),
        *(hit[:, lags - lag : last - lag] for lag in range(1, lags + 1)),
        squared,
    ]
    x = np.stack(columns, axis=-1) * use[..., None]
    norm = np.sqrt((x**2).sum(axis=1, keepdims=True))
    x = x / np.where(norm > 0, norm, 1.0)
    gram = np.swapaxes(x, -1, -2) @ x
    moment = np.einsum("rtk,rt->rk", x, hit[:, lags:] * use)
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-10 * values[:, -1:]
    inside = np.einsum("rkj,rk->rj", vectors, moment) ** 2
    total = np.where(kept, inside / np.where(kept, values, 1.0), 0.0).sum(axis=-1)
    return total / (probability * (1.0 - probability)), kept.sum(axis=-1), use.sum(axis=-1)
