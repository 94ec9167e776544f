"""Core-model and margin-adequacy backtests of a run whose accounts were traced.

The two are never mixed. *Adequacy* asks whether the whole requirement covers what the account then
loses. *Core model* asks whether the stress charges do: add-ons whose risk is not in prices would
flatter it, so it is a run of its own under the sets of ``core_model``, which decides charge by
charge.

References:
    ESMA91-372-2811 (2023), backtesting of CCP margin models; backtesting rules, 0.1 and 2.1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from backtest.errors import ConfigError, DataError
from backtest.report.reader import Results
from backtest.statistics.findings import BacktestKind
from backtest.statistics.records import Outcomes
from backtest.statistics.tables import Labels, breach_table


_MARGIN = {
    BacktestKind.CORE_MODEL: "derivatives_mmr",
    BacktestKind.MARGIN_ADEQUACY: "total_mmr",
}
REGIMES = ("calm", "middle", "stress")
"""Thirds of times by the size of the index move of the hours before."""


def outcomes_of(
    results: Results,
    kind: BacktestKind,
    names: Sequence[str],
    *,
    horizon: str,
    probability: float,
    worst: bool = False,
) -> tuple[Outcomes, Labels]:
    """Losses over a horizon against the margin at its start, of every traced account.

    The loss is what adjusted equity falls by from ``t`` to ``t + horizon``, or to its lowest point
    within; portfolios are frozen, so nothing else moves it. Windows overlap where the horizon is
    longer than the interval of the replay.

    Args:
        results: a run with traces; for the core model, under sets without add-ons.
        kind: core model or margin adequacy.
        names: parameter sets.
        horizon: margin period of risk, a whole number of intervals.
        probability: target probability of a breach.
        worst: take the lowest point within the horizon, not its end.

    Raises:
        ConfigError: portfolios are not frozen, the horizon is no multiple of the interval, or the
            kind is another one.
        DataError: no account was traced.
    """
    if kind not in _MARGIN:
        raise ConfigError(f"'{kind.value}' is no backtest of margin against losses")
    if (results.manifest.get("replay") or {}).get("mode") != "frozen":
        raise ConfigError(f"{results.path}: portfolios change; the replay must be 'frozen'")
    steps = pd.Timedelta(horizon).total_seconds() / results.interval_seconds
    if steps != int(steps) or steps < 1:
        raise ConfigError(
            f"the horizon {horizon} is no whole number of intervals of "
            f"{results.interval_seconds:g} s"
        )
    tables = [_paths(results, name, _MARGIN[kind]) for name in names]
    accounts, times = tables[0][0], tables[0][1]
    losses, margins = [], []
    for found, when, equity, margin in tables:
        if not (found.equals(accounts) and when.equals(times)):
            raise DataError(f"{results.path}: the sets traced different accounts or times")
        losses.append(_losses(equity, int(steps), worst))
        margins.append(margin[:, : losses[-1].shape[1]])
    starts = times[: losses[0].shape[1]].tz_convert(None).to_numpy().astype("datetime64[us]")
    outcomes = Outcomes(kind, probability, starts, np.stack(losses), np.stack(margins))
    who = results.accounts(["account_id", "segment"], names[0]).set_index("account_id")
    rows = who.reindex(accounts).reset_index(names="account")
    return outcomes, Labels(tuple(names), rows, _regimes(results, times[: len(starts)], horizon))


def breach_tables(
    outcomes: Outcomes,
    labels: Labels,
    by: Sequence[Sequence[str]] = ((), ("segment",), ("regime",)),
) -> dict[str, pd.DataFrame]:
    """Breach tables by each grouping: in total, by segment, by regime, or as asked for."""
    return {" and ".join(g) or "total": breach_table(outcomes, labels, g) for g in by}


def _paths(
    results: Results, name: str, column: str
) -> tuple[pd.Index, pd.DatetimeIndex, np.ndarray, np.ndarray]:
    """Accounts, times, adjusted equity and margin [account, time]; NaN where unpriced."""
    if not results.has("traces"):
        raise DataError(f'{results.path}: no account was traced; set traces.accounts = "all"')
    rows = results.traces(parameter_set=name)
    whole = {
        c: rows.pivot(index="account_id", columns="time", values=c)
        for c in ("adjusted_equity", column)
    }
    equity = whole["adjusted_equity"]
    margin = whole[column].to_numpy(float)
    return equity.index, pd.DatetimeIndex(equity.columns), equity.to_numpy(float), margin


def _losses(equity: np.ndarray, steps: int, worst: bool) -> np.ndarray:
    """Fall of equity after ``steps`` times, or the largest within them, [account, start]."""
    count = equity.shape[1] - steps
    if count < 1:
        raise DataError(f"{equity.shape[1]} times hold no horizon of {steps} intervals")
    falls = [equity[:, :count] - equity[:, k : k + count] for k in range(1, steps + 1)]
    return np.max(falls, axis=0) if worst else falls[-1]


def _regimes(results: Results, times: pd.DatetimeIndex, horizon: str) -> np.ndarray:
    """Third of each time by the mean absolute index move before it, known at that time."""
    table: Any = results.index().pivot(index="time", columns="currency", values="usd").sort_index()
    moves = (table / table.shift(1) - 1.0).abs().mean(axis=1).rolling(horizon).mean()
    at = moves.reindex(times, method="ffill").to_numpy(float)
    known = np.nan_to_num(at)
    edges = np.quantile(known, [1 / 3, 2 / 3])
    return np.asarray(REGIMES)[np.searchsorted(edges, known, side="left")]
