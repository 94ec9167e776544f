"""Breach tables in the shape of supervisors' reports: who, how often, how badly, when (C1).

One row for each group: observations, breaches, coverage against its target, largest, average and
total shortfall, first and last breach. All but the ratios add up, so that a long history is tabled
part by part and ``merge_tables`` puts the parts together.

References:
    CPMI-IOSCO, Public quantitative disclosure standards, 6.5; ISO 20022 auth.066.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from backtest.errors import ConfigError, DataError

from .blocks import DEFAULT_PLAN, Plan, panel_intervals
from .coverage import clopper_pearson, kupiec
from .findings import DEFAULT_RULE, BacktestKind, Rule
from .records import Counts, Outcomes
from .traffic_light import traffic_light


ADDITIVE = ("observations", "breaches", "total_shortfall_usd")
_NOT_GROUPS = {"backtest", "target_coverage_frac", *ADDITIVE}


@dataclass(frozen=True)
class Labels:
    """Names of the axes of outcomes, and the groups that accounts and times belong to.

    Attributes:
        sets: Name of each parameter set.
        accounts: One row for each account, its columns the groupings: account, unit, segment ...
        regimes: Name of each time's regime; None where there are none.
    """

    sets: tuple[str, ...]
    accounts: pd.DataFrame
    regimes: np.ndarray | None = None


@dataclass(frozen=True)
class Groups:
    """Cells of a table: account groups x regimes, each with the times that belong to it.

    Attributes:
        names: One row for each group of accounts; its columns are the groupings.
        account_group: Group of each account.
        regime_names: Regimes in the table, one empty name where it does not split by them.
        regime_of: Regime of each time.
    """

    names: pd.DataFrame
    account_group: Int[np.ndarray, " account"]
    regime_names: np.ndarray
    regime_of: Int[np.ndarray, " time"]


def breach_table(outcomes: Outcomes, labels: Labels, by: Sequence[str] = ()) -> pd.DataFrame:
    """Observations and breaches of each set, split by columns of ``labels.accounts`` and regimes.

    Columns: backtest, set, the groupings of ``by``, target_coverage_frac, observations, breaches,
    total_shortfall_usd, largest_shortfall_usd, first_breach_utc, last_breach_utc, coverage_frac,
    expected_breaches, average_shortfall_usd (per breach; missing without one). Groups without
    observations have no row.

    Args:
        outcomes: Losses and margins.
        labels: Names of their axes.
        by: Columns of ``labels.accounts`` (account, unit, segment, tier ...) and ``"regime"``.
    """
    groups = _groups(outcomes, labels, by)
    parts = []
    for index, name in enumerate(labels.sets):
        parts += _set_rows(outcomes, groups, index, name, by)
    if not parts:
        raise DataError("no loss and margin were observed together; there is nothing to table")
    return _derived(pd.concat(parts, ignore_index=True))


def merge_tables(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table from those of several parts of the data with the same groupings.

    Raises:
        ConfigError: The tables belong to different backtests, targets or groupings.
    """
    kinds = sorted({str(kind) for table in tables for kind in table["backtest"].unique()})
    if len(kinds) != 1:
        raise ConfigError(f"one kind of backtest at a time, got {kinds}; keep their tables apart")
    columns = {tuple(table.columns) for table in tables}
    if len(columns) != 1:
        raise ConfigError("the tables are split by different groupings; table the parts alike")
    joined = pd.concat(tables, ignore_index=True)
    if len(joined["target_coverage_frac"].unique()) != 1:
        raise ConfigError("the tables have different targets; merge those of one target")
    keys = list(joined.columns[: list(joined.columns).index("observations")])
    grouped = joined.groupby(keys, sort=False, dropna=False)
    merged = grouped.agg(
        observations=("observations", "sum"),
        breaches=("breaches", "sum"),
        total_shortfall_usd=("total_shortfall_usd", "sum"),
        largest_shortfall_usd=("largest_shortfall_usd", "max"),
        first_breach_utc=("first_breach_utc", "min"),
        last_breach_utc=("last_breach_utc", "max"),
    )
    return _derived(merged.reset_index())


def with_tests(table: pd.DataFrame, rule: Rule = DEFAULT_RULE) -> pd.DataFrame:
    """The table of single accounts with its zone, Kupiec's p values and exact interval.

    Raises:
        ConfigError: Rows pool accounts, which these tests would take for independent witnesses.
    """
    if "account" not in table.columns:
        raise ConfigError(
            "rows pool accounts, which breach together; use interval_table, or split by 'account'"
        )
    kind, target = _one_target(table)
    counts = Counts.of(kind, target, table["breaches"], table["observations"])
    test, interval, light = kupiec(counts, rule), clopper_pearson(counts), traffic_light(counts)
    return table.assign(
        zone=light.words,
        pof_statistic=test.statistic,
        pof_p_value=test.p_value,
        pof_p_exact=test.p_exact,
        pof_p_mid=test.p_mid,
        pof_power=test.power,
        breach_rate_low=interval.low,
        breach_rate_high=interval.high,
        verdict=test.words,
    )


def interval_table(
    outcomes: Outcomes,
    labels: Labels,
    by: Sequence[str] = (),
    plan: Plan = DEFAULT_PLAN,
    rule: Rule = DEFAULT_RULE,
) -> pd.DataFrame:
    """The breach table with intervals from time blocks, right for rows that pool accounts.

    Adds breach_rate_low and breach_rate_high, block_times, design_effect,
    effective_observations, p_value and verdict.
    """
    groups = _groups(outcomes, labels, by)
    table = breach_table(outcomes, labels, by)
    rows = []
    for index in range(len(labels.sets)):
        hit, observed = _series(outcomes, groups, index)
        keep = observed.sum(axis=-1) > 0
        found = panel_intervals(
            outcomes.kind, outcomes.probability, hit[keep], observed[keep], plan, rule
        )
        rows.append(
            pd.DataFrame(
                {
                    "breach_rate_low": found.low,
                    "breach_rate_high": found.high,
                    "block_times": found.block,
                    "design_effect": found.design_effect,
                    "effective_observations": found.effective_observations,
                    "p_value": found.p_value,
                    "verdict": found.words,
                }
            )
        )
    return pd.concat([table, pd.concat(rows, ignore_index=True)], axis=1)


def _groups(outcomes: Outcomes, labels: Labels, by: Sequence[str]) -> Groups:
    sets, accounts, times = outcomes.loss_usd.shape
    if (len(labels.sets), len(labels.accounts)) != (sets, accounts):
        raise DataError(
            f"labels of {len(labels.sets)} sets and {len(labels.accounts)} accounts for outcomes "
            f"of {sets} and {accounts}"
        )
    columns = [name for name in by if name != "regime"]
    unknown = sorted({*columns} - {*labels.accounts.columns})
    taken = sorted({*columns} & _NOT_GROUPS)
    if unknown or taken or ("regime" in by and labels.regimes is None):
        wrong = unknown + taken or ["regime"]
        raise ConfigError(f"cannot split by {wrong[0]!r}; columns: {list(labels.accounts.columns)}")
    if columns:
        grouped = labels.accounts.groupby(columns, sort=True, dropna=False)
        code = grouped.ngroup().to_numpy()
        first = np.unique(code, return_index=True)[1]
        names = labels.accounts[columns].iloc[first].reset_index(drop=True)
    else:
        code, names = np.zeros(accounts, dtype=np.int64), pd.DataFrame(index=range(1))
    regimes, regime_of = np.array([""]), np.zeros(times, dtype=np.int64)
    if "regime" in by and labels.regimes is not None:
        regimes, regime_of = np.unique(labels.regimes, return_inverse=True)
    return Groups(names, code, regimes, regime_of)


def _set_rows(
    outcomes: Outcomes, groups: Groups, index: int, name: str, by: Sequence[str]
) -> list[pd.DataFrame]:
    """Additive columns of one set, a row for each group with observations."""
    loss, margin = outcomes.loss_usd[index], outcomes.margin_usd[index]
    observed = ~(np.isnan(loss) | np.isnan(margin))
    hit = (loss > margin) & observed
    size = max(len(groups.names), 1) * len(groups.regime_names)
    count = np.bincount(_cell(groups, observed), minlength=size)
    account, time = np.nonzero(hit)
    at = groups.account_group[account] * len(groups.regime_names) + groups.regime_of[time]
    short = loss[account, time] - margin[account, time]
    largest, first = np.zeros(size), np.full(size, len(outcomes.times))
    last = np.full(size, -1)
    np.maximum.at(largest, at, short)
    np.minimum.at(first, at, time)
    np.maximum.at(last, at, time)
    breaches = np.bincount(at, minlength=size)
    rows = np.flatnonzero(count)
    if not rows.size:
        return []
    split = groups.names.iloc[rows // len(groups.regime_names)].reset_index(drop=True)
    if "regime" in by:
        split["regime"] = groups.regime_names[rows % len(groups.regime_names)]
    split = split[list(by)]
    split.insert(0, "set", name)
    split.insert(0, "backtest", outcomes.kind.value)
    frame = split.assign(
        target_coverage_frac=1.0 - outcomes.probability,
        observations=count[rows],
        breaches=breaches[rows],
        total_shortfall_usd=np.bincount(at, weights=short, minlength=size)[rows],
        largest_shortfall_usd=largest[rows],
        first_breach_utc=_dates(outcomes.times, first, breaches)[rows],
        last_breach_utc=_dates(outcomes.times, last, breaches)[rows],
    )
    return [frame]


def _series(outcomes: Outcomes, groups: Groups, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Breaches and observations of every cell at every time, shape (cell, time)."""
    loss, margin = outcomes.loss_usd[index], outcomes.margin_usd[index]
    observed = ~(np.isnan(loss) | np.isnan(margin))
    return _by_time(groups, (loss > margin) & observed), _by_time(groups, observed)


def _by_time(
    groups: Groups, mask: Bool[np.ndarray, "account time"]
) -> Int[np.ndarray, "cell time"]:
    size, regimes, times = len(groups.names), len(groups.regime_names), mask.shape[1]
    account, time = np.nonzero(mask)
    cell = groups.account_group[account] * regimes + groups.regime_of[time]
    flat = np.bincount(cell * times + time, minlength=size * regimes * times)
    return flat.reshape(size * regimes, times)


def _cell(groups: Groups, mask: Bool[np.ndarray, "account time"]) -> Int[np.ndarray, " entry"]:
    account, time = np.nonzero(mask)
    return groups.account_group[account] * len(groups.regime_names) + groups.regime_of[time]


def _dates(
    times: np.ndarray, at: Int[np.ndarray, " cell"], breaches: Int[np.ndarray, " cell"]
) -> np.ndarray:
    stamps = np.asarray(times, dtype="datetime64[us]")
    return np.where(breaches > 0, stamps[np.clip(at, 0, len(stamps) - 1)], np.datetime64("NaT"))


def _derived(table: pd.DataFrame) -> pd.DataFrame:
    """Adds what follows from the columns that add up."""
    breaches = table["breaches"].to_numpy()
    total = table["total_shortfall_usd"].to_numpy()
    with_breach = np.where(breaches > 0, breaches, 1)
    return table.assign(
        coverage_frac=1.0 - table["breaches"] / table["observations"],
        expected_breaches=table["observations"] * (1.0 - table["target_coverage_frac"]),
        average_shortfall_usd=np.where(breaches > 0, total / with_breach, np.nan),
    )


def _one_target(table: pd.DataFrame) -> tuple[BacktestKind, float]:
    kinds, targets = table["backtest"].unique(), table["target_coverage_frac"].unique()
    if len(kinds) != 1 or len(targets) != 1:
        raise ConfigError("a table has one kind of backtest and one target; test them apart")
    return BacktestKind(kinds[0]), 1.0 - float(targets[0])
