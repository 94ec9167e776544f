"""What the figures of a backtest are drawn from: margin and loss, counts and sizes of breaches.

Tables, so that every number in a picture can be read. All of them are of one horizon, at its worst
point, and of one kind of backtest.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from backtest.statistics.records import Outcomes
from backtest.statistics.tables import Labels
from backtest.statistics.traffic_light import zone_edges


MOST_BENCHMARKS = 6
MOST_QUANTILES = 200
BINS_A_DECADE = 4
"""Of the histogram of shortfalls, whose axis is logarithmic."""


def benchmarks(outcomes: Outcomes, labels: Labels) -> np.ndarray:
    """Positions of the benchmark portfolios: the largest account of each risk unit.

    Largest by gross notional at the start, so that no loss decides who is shown; of the accounts
    that are observed longest. The units with the largest such accounts, six at most.
    """
    seen = np.count_nonzero(outcomes.observed, axis=(0, 2))
    known = labels.accounts.assign(at=np.arange(len(seen)), seen=seen)
    known = known.take(np.flatnonzero(seen > 0))
    ranked = known.sort_values(
        ["seen", "gross_notional_usd", "account"], ascending=[False, False, True], kind="stable"
    )
    best = ranked.drop_duplicates("unit").sort_values(
        ["gross_notional_usd", "unit"], ascending=[False, True], kind="stable"
    )
    return best["at"].to_numpy()[:MOST_BENCHMARKS]


def path_table(outcomes: Outcomes, labels: Labels) -> pd.DataFrame:
    """Margin and loss of the benchmark portfolios, a row a set, portfolio and time.

    Columns: set, unit, account, gross_notional_usd (at the start), time, margin_usd, loss_usd (> 0
    a loss), is_breach.
    """
    parts = []
    for at in benchmarks(outcomes, labels).tolist():
        who = labels.accounts.iloc[at]
        for s, name in enumerate(labels.sets):
            keep = outcomes.observed[s, at]
            loss, margin = (a[s, at][keep] for a in (outcomes.loss_usd, outcomes.margin_usd))
            columns = {
                "set": name,
                "unit": str(who["unit"]),
                "account": str(who["account"]),
                "gross_notional_usd": float(who["gross_notional_usd"]),
                "time": outcomes.times[keep],
                "margin_usd": margin,
                "loss_usd": loss,
                "is_breach": loss > margin,
            }
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def cumulative_table(
    outcomes: Outcomes, labels: Labels, effective: Float[np.ndarray, " set"]
) -> pd.DataFrame:
    """Breaches of all accounts so far beside what is expected, a row a set and time.

    The edges of the zones are those of ``effective`` observations over the whole window, spread
    over time as the observations are: accounts that breach together are one witness, not many.

    Args:
        outcomes: losses and margins.
        labels: names of the sets.
        effective: effective observations of each set (``tables.interval_table``).
    """
    parts = []
    for s, name in enumerate(labels.sets):
        observed = outcomes.observed[s]
        hit = (outcomes.loss_usd[s] > outcomes.margin_usd[s]) & observed
        seen = np.cumsum(observed.sum(axis=0))
        each = float(effective[s]) / max(float(seen[-1]), 1.0)
        green, yellow = zone_edges(each * seen, outcomes.probability)
        columns = {
            "set": name,
            "time": outcomes.times,
            "observations": seen,
            "breaches": np.cumsum(hit.sum(axis=0)),
            "expected": outcomes.probability * seen,
            "green_to": green / each,
            "yellow_to": yellow / each,
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def excess_table(outcomes: Outcomes, labels: Labels) -> pd.DataFrame:
    """Quantiles of the excess of breaches over margin beside those of an exponential.

    A row a set and quantile: level, excess (loss / margin - 1), exponential (of the same mean),
    breaches (all of the set with a margin above 0). All breaches where they are few.
    """
    parts = []
    for s, name in enumerate(labels.sets):
        loss, margin = outcomes.loss_usd[s], outcomes.margin_usd[s]
        hit = (loss > margin) & outcomes.observed[s] & (margin > 0)
        excess = np.sort(loss[hit] / margin[hit] - 1.0)
        count = len(excess)
        if not count:
            continue
        last = min(count, MOST_QUANTILES)
        at = np.unique(np.round(np.linspace(0, count - 1, last)).astype(int))
        level = (at + 0.5) / count
        columns = {
            "set": name,
            "level": level,
            "excess": excess[at],
            "exponential": -np.log1p(-level) * excess.mean(),
            "breaches": count,
        }
        parts.append(pd.DataFrame(columns))
    names = ["set", "level", "excess", "exponential", "breaches"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)


def shortfall_table(outcomes: Outcomes, labels: Labels) -> pd.DataFrame:
    """How many shortfalls of which size, a row a set and bin: from_usd, to_usd, breaches."""
    names = ["set", "from_usd", "to_usd", "breaches"]
    parts = []
    for s, name in enumerate(labels.sets):
        short = outcomes.shortfall_usd[s]
        sizes = np.log10(short[np.nan_to_num(short) > 0]) * BINS_A_DECADE
        if not len(sizes):
            continue
        low = int(np.floor(sizes.min()))
        count = np.bincount(np.floor(sizes).astype(int) - low)
        edges = 10.0 ** ((low + np.arange(len(count) + 1)) / BINS_A_DECADE)
        columns = {"set": name, "from_usd": edges[:-1], "to_usd": edges[1:], "breaches": count}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)
