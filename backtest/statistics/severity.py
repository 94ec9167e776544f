"""How bad breaches are: Acerbi and Szekely's Z1, Z2, Z3 and McNeil and Frey's residuals (C8).

Here ``y`` is profit and loss; VaR and ES are negative numbers of the same unit. Statistics are 0 in
expectation for a correct model; below 0 the expected shortfall is too small.

P values come from draws under the model: ``y / ES`` of a location-free model does not depend on its
scale, so draws of the standardised distribution serve all cells with the same number of times.

References:
    Acerbi and Szekely (2014), Backtesting expected shortfall, Risk.
    McNeil and Frey (2000), J. Empirical Finance 7.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from backtest.errors import ConfigError

from .findings import DEFAULT_RULE, BacktestKind, Finding, Rule, Verdict, codes, decide
from .records import check_probability


Quantile = Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]]


@dataclass(frozen=True)
class Shape:
    """Standardised distribution under the null: normal, or Student's t with ``dof``.

    Attributes:
        dof: Degrees of freedom, above 1; infinite is the normal.
    """

    dof: float = np.inf

    def __post_init__(self) -> None:
        if not self.dof > 1.0:
            raise ConfigError(f"dof is {self.dof}; above 1, below which there is no mean")

    def quantile(self, u: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Quantile function."""
        return special.ndtri(u) if np.isinf(self.dof) else special.stdtrit(self.dof, u)

    def expected_shortfall(self, alpha: float) -> float:
        """Mean of the worst ``alpha`` of outcomes, a negative number.

        Normal: ``-phi(q) / alpha``; t: ``-f(q) (dof + q^2) / ((dof - 1) alpha)``.
        """
        q = float(self.quantile(np.array([alpha]))[0])
        if np.isinf(self.dof):
            return -float(np.exp(-0.5 * q * q) / np.sqrt(2.0 * np.pi)) / alpha
        v = self.dof
        log = special.gammaln((v + 1) / 2) - special.gammaln(v / 2) - 0.5 * np.log(v * np.pi)
        density = float(np.exp(log - (v + 1) / 2 * np.log1p(q * q / v)))
        return -density * (v + q * q) / ((v - 1) * alpha)


NORMAL = Shape()


@dataclass(frozen=True)
class Tail:
    """Outcomes with the model's tail.

    Attributes:
        kind: Which backtest was run.
        alpha: Tail probability of VaR and ES.
        pnl: ``y``, > 0 a gain; NaN where not observed.
        var: Value at risk, < 0, the model's quantile.
        es: Expected shortfall, < 0.
    """

    kind: BacktestKind
    alpha: float
    pnl: Float[np.ndarray, "*cell time"]
    var: Float[np.ndarray, "*cell time"]
    es: Float[np.ndarray, "*cell time"]

    def __post_init__(self) -> None:
        check_probability(self.alpha, "alpha")
        if self.pnl.ndim < 2:
            raise ConfigError(
                "a tail has an axis of cells before that of time; add one of length 1"
            )
        for name in ("var", "es"):
            if (getattr(self, name) >= 0.0).any():
                raise ConfigError(f"{name} has values of 0 or more; here a loss is negative")

    @property
    def observed(self) -> Bool[np.ndarray, "*cell time"]:
        """True where all three numbers are known."""
        return ~(np.isnan(self.pnl) | np.isnan(self.var) | np.isnan(self.es))

    @property
    def hit(self) -> Bool[np.ndarray, "*cell time"]:
        """True where the loss was worse than VaR."""
        return (self.pnl < self.var) & self.observed


def z1(
    tail: Tail,
    rule: Rule = DEFAULT_RULE,
    *,
    shape: Shape = NORMAL,
    draws: int = 20_000,
    seed: int = 0,
) -> Finding:
    """``Z1 = 1 - mean(y / ES | breach)``: how bad breaches are, whatever their number."""
    total, breaches, times = _sums(tail)
    statistic = 1.0 - total / np.maximum(breaches, 1)

    def null(length: int) -> Float[np.ndarray, " draw"]:
        drawn, number = _null(length, tail.alpha, shape, draws, seed)
        return (1.0 - drawn / np.maximum(number, 1))[number > 0]

    return _judged("Z1", tail.kind, rule, statistic, (breaches, times), null)


def z2(
    tail: Tail,
    rule: Rule = DEFAULT_RULE,
    *,
    shape: Shape = NORMAL,
    draws: int = 20_000,
    seed: int = 0,
) -> Finding:
    """``Z2 = 1 - sum(y I / ES) / (T alpha)``: number and size of breaches together.

    Its 5 % critical value is about -0.70 for 250 times at 2.5 %, nearly whatever the distribution.
    Without a breach it is 1.
    """
    total, breaches, times = _sums(tail)
    statistic = 1.0 - total / (np.maximum(times, 1) * tail.alpha)

    def null(length: int) -> Float[np.ndarray, " draw"]:
        return 1.0 - _null(length, tail.alpha, shape, draws, seed)[0] / (length * tail.alpha)

    return _judged("Z2", tail.kind, rule, statistic, (np.maximum(breaches, 1), times), null)


def z2_critical(
    times: int, alpha: float, level: float = 0.05, shape: Shape = NORMAL, draws: int = 100_000
) -> float:
    """Value of Z2 below which it rejects at ``level``."""
    total = _null(times, alpha, shape, draws, 0)[0]
    return float(np.quantile(1.0 - total / (times * alpha), level))


def z3(
    kind: BacktestKind,
    alpha: float,
    ranks: Float[np.ndarray, "*cell time"],
    rule: Rule = DEFAULT_RULE,
    *,
    shape: Shape = NORMAL,
    draws: int = 20_000,
    seed: int = 0,
) -> Finding:
    """``Z3 = 1 - ES_k(q(U)) / E[ES_k(q(V))]``: expected shortfall from realised ranks.

    ``ES_k`` is the mean of the ``k = floor(T alpha)`` worst of T values (at least one), q the
    standardised quantile, V independent uniforms. In general every time's own quantiles are
    averaged; a model without location has its scale cancel, so that ranks say it all.

    Args:
        kind: Which backtest was run.
        alpha: Tail probability.
        ranks: ``U_t = P_t(y_t)`` in (0, 1); NaN where not observed.
        rule: Size of the test.
        shape: Standardised distribution.
        draws: Draws of the distribution under the model.
        seed: Of the draws.
    """
    check_probability(alpha, "alpha")
    ranks = np.atleast_2d(ranks)
    times = np.count_nonzero(~np.isnan(ranks), axis=-1)
    ordered = shape.quantile(np.sort(ranks, axis=-1))  # NaN last
    worst = np.maximum(np.floor(times * alpha + 1e-9), 1).astype(np.int64)
    first = np.arange(ranks.shape[-1]) < np.minimum(worst, times)[..., None]
    mean = np.where(first, ordered, 0.0).sum(axis=-1) / worst
    expected = np.full(times.shape, -1.0)
    for n in np.unique(times[times > 0]).tolist():
        expected[times == n] = expected_tail_mean(n, max(int(n * alpha + 1e-9), 1), shape)

    def null(length: int) -> Float[np.ndarray, " draw"]:
        k = max(int(length * alpha + 1e-9), 1)
        drawn = _tail_means(length, k, shape, draws, seed)
        return 1.0 - drawn / expected_tail_mean(length, k, shape)

    return _judged("Z3", kind, rule, 1.0 - mean / expected, (np.ones_like(times), times), null)


@functools.lru_cache(maxsize=256)
def expected_tail_mean(times: int, worst: int, shape: Shape) -> float:
    """``E[mean of the k smallest of T draws] = (T / k) int I_{1-u}(T-k, k) q(u) du``, < 0."""
    z = np.linspace(-30.0, 12.0, 200_001)
    u = special.ndtr(z)
    inside = (u > 0.0) & (u < 1.0)
    z, u = z[inside], u[inside]
    weight = (
        special.betaincc(worst, max(times - worst, 1e-9), u) if times > worst else np.ones(u.size)
    )
    density = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
    return float(np.trapezoid(weight * shape.quantile(u) * density, z) * times / worst)


def mcneil_frey(
    tail: Tail,
    scale: Float[np.ndarray, "*cell time"],
    rule: Rule = DEFAULT_RULE,
    *,
    draws: int = 2_000,
    seed: int = 0,
) -> Finding:
    """Mean of ``(y - ES) / sigma`` on breach days is 0, against below 0, by a bootstrap.

    Residuals are centred and drawn with replacement; the statistic is their t-value. Ten breaches
    or so are needed for the bootstrap to mean anything; with fewer than two there is no answer.
    """
    shape = tail.pnl.shape[:-1]
    residual = ((tail.pnl - tail.es) / scale).reshape(-1, tail.pnl.shape[-1])
    hit = tail.hit.reshape(residual.shape)
    rng = np.random.default_rng(seed)
    statistic, p = np.full(len(residual), np.nan), np.full(len(residual), np.nan)
    for i, row in enumerate(residual):
        values = row[hit[i]]
        if values.size > 1 and np.ptp(values) > 0.0:
            statistic[i], p[i] = _centred_bootstrap(values, rng, draws)
    count = np.count_nonzero(hit, axis=-1)
    gone = codes(
        count.shape,
        (np.count_nonzero(tail.observed.reshape(hit.shape), axis=-1) == 0, Verdict.NO_OBSERVATIONS),
        (count == 0, Verdict.NO_BREACH),
        (count < 2, Verdict.FEW_BREACHES),
        (np.isnan(p), Verdict.NO_DIFFERENCE),
    )
    severe = np.full(count.shape, Verdict.TOO_SEVERE, dtype=np.uint8)
    verdict = decide(np.nan_to_num(p, nan=1.0), severe, rule, insufficient=gone)
    return Finding(
        kind=tail.kind,
        test="McNeil and Frey",
        rule=rule,
        statistic=statistic.reshape(shape),
        degrees=np.zeros(shape, dtype=np.int64),
        p_value=p.reshape(shape),
        verdict=verdict.reshape(shape),
    )


def _centred_bootstrap(
    values: Float[np.ndarray, " breach"], rng: np.random.Generator, draws: int
) -> tuple[float, float]:
    n = values.size
    observed = float(values.mean() / (values.std(ddof=1) / np.sqrt(n)))
    sample = rng.choice(values - values.mean(), size=(draws, n))
    spread = sample.std(axis=1, ddof=1) / np.sqrt(n)
    means = sample.mean(axis=1)
    t = means / np.where(spread > 0.0, spread, 1e-300 + 1e-12 * np.abs(means))
    return observed, (1.0 + float(np.count_nonzero(t <= observed))) / (draws + 1.0)


def _sums(
    tail: Tail,
) -> tuple[Float[np.ndarray, "*cell"], Int[np.ndarray, "*cell"], Int[np.ndarray, "*cell"]]:
    """Sum of ``y / ES`` over breaches, their number, and observed times."""
    ratio = np.where(tail.hit, tail.pnl / tail.es, 0.0)
    observed = np.count_nonzero(tail.observed, axis=-1)
    return ratio.sum(axis=-1), np.count_nonzero(tail.hit, axis=-1), observed


@functools.lru_cache(maxsize=64)
def _null(
    times: int, alpha: float, shape: Shape, draws: int, seed: int
) -> tuple[Float[np.ndarray, " draw"], Int[np.ndarray, " draw"]]:
    """Sum of ``y / ES`` over breaches and their number in draws of a correct model."""
    rng = np.random.default_rng(seed)
    number = rng.binomial(times, alpha, draws)
    depth = shape.quantile(rng.random(int(number.sum())) * alpha) / shape.expected_shortfall(alpha)
    ends = np.concatenate([[0.0], np.cumsum(depth)])
    stop = np.cumsum(number)
    return ends[stop] - ends[stop - number], number


@functools.lru_cache(maxsize=64)
def _tail_means(
    times: int, worst: int, shape: Shape, draws: int, seed: int
) -> Float[np.ndarray, " draw"]:
    """Mean of the ``worst`` smallest of ``times`` draws; their ranks are ratios of gammas."""
    rng = np.random.default_rng(seed)
    found = np.empty(draws)
    step = max(1, 2_000_000 // worst)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        waits = np.cumsum(rng.standard_exponential((size, worst)), axis=1)
        rest = rng.standard_gamma(times + 1 - worst, (size, 1))
        found[start : start + size] = shape.quantile(waits / (waits[:, -1:] + rest)).mean(axis=1)
    return found


def _judged(
    test: str,
    kind: BacktestKind,
    rule: Rule,
    statistic: Float[np.ndarray, "*cell"],
    seen: tuple[Int[np.ndarray, "*cell"], Int[np.ndarray, "*cell"]],
    null: Callable[[int], Float[np.ndarray, " draw"]],
) -> Finding:
    """Left-tail p values ``(1 + #{null <= observed}) / (1 + draws)`` for each number of times."""
    breaches, times = seen
    known = (times > 0) & (breaches > 0)
    p = np.full(times.shape, np.nan)
    for n in np.unique(times[known]).tolist():
        here = known & (times == n)
        ranked = np.sort(null(n))
        at = np.searchsorted(ranked, statistic[here], side="right")
        p[here] = (1.0 + at) / (1.0 + ranked.size)
    gone = codes(
        times.shape, (times == 0, Verdict.NO_OBSERVATIONS), (breaches == 0, Verdict.NO_BREACH)
    )
    severe = np.full(times.shape, Verdict.TOO_SEVERE, dtype=np.uint8)
    return Finding(
        kind=kind,
        test=test,
        rule=rule,
        statistic=np.where(known, statistic, np.nan),
        degrees=np.zeros(times.shape, dtype=np.int64),
        p_value=p,
        verdict=decide(np.nan_to_num(p, nan=1.0), severe, rule, insufficient=gone),
    )
