"""Core-model and margin-adequacy backtests of a run's accounts, over several horizons (C1, D2-D5).

Two replays of the same frozen portfolios, never mixed. *Adequacy*: the sets as they are, the whole
requirement against what adjusted equity then loses. *Core model*: each set (of a schedule: each
step) without add-ons whose risk is not in prices, collateral in full, the stress charges against
profit and loss. The loss of a horizon is taken at its end and at its worst point.

References:
    ESMA91-372-2811 (2023). CPMI-IOSCO quantitative disclosure 6.5; ISO 20022 auth.066.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from backtest.calibration.backtests import outcomes_of
from backtest.calibration.core_model import decisions, write_core
from backtest.calibration.coverage_exceptions import exception_table
from backtest.calibration.coverage_series import (
    cumulative_table,
    excess_table,
    path_table,
    shortfall_table,
)
from backtest.calibration.coverage_tests import (
    account_p_values,
    apart,
    group_tests,
    with_zones_and_tests,
)
from backtest.config import ReportSection, RunConfig, SetSection, TracesSection
from backtest.dataset import Dataset
from backtest.durable import write_json, write_table
from backtest.ensure import ensure_dataset
from backtest.errors import ConfigError
from backtest.report import frames
from backtest.report.reader import Results
from backtest.run import run
from backtest.schedule import load_rules
from backtest.statistics.blocks import DEFAULT_PLAN, Plan
from backtest.statistics.findings import BacktestKind
from backtest.statistics.records import Outcomes
from backtest.statistics.tables import Labels, interval_table


KINDS = {"adequacy": BacktestKind.MARGIN_ADEQUACY, "core": BacktestKind.CORE_MODEL}
"""Backtests by the folder of their replay."""
GROUPINGS: tuple[tuple[str, ...], ...] = (
    (),
    ("unit",),
    ("segment",),
    ("tier",),
    ("side",),
    ("regime",),
)
POINTS = ("end", "worst")
TIERS = (0.0, 1e5, 1e6, 1e7, np.inf)
TIER_NAMES = ("below 100k", "100k to 1m", "1m to 10m", "10m and more")
"""Tiers of accounts by gross notional at the start, USD."""
LEAST_TIMES = 50
"""Fewer times do not say how long their own dependence lasts."""
NEUTRAL_FRAC = 0.1
"""Net delta / gross notional at the start up to which an account is on neither side; assumed."""
SIDES = ("long", "short", "neutral")
SEVERAL, NOTHING = "several", "none"
MOST_SHOWN = pd.Timedelta("1D")
"""Figures and exceptions are of the longest horizon up to this one, the shortest if none is."""
STABLE = ("USDT", "USDC", "USD")
"""Settlement currencies: a depeg is in the prices only where one of them moves."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class CoverageStudy:
    """What is asked: margin periods of risk, target probability of a breach, resampling."""

    horizons: tuple[str, ...] = ("1h", "4h", "12h", "1D", "3D")
    probability: float = 0.01
    plan: Plan = DEFAULT_PLAN


def coverage_study(
    config: RunConfig,
    asked: CoverageStudy,
    out: Path,
    *,
    workers: int | None = None,
    fresh: bool = False,
    say: Say = lambda text: None,
) -> dict[str, pd.DataFrame]:
    """Replay twice, table the breaches, save; finished cells of an earlier call are reused.

    Args:
        config: the run; its portfolios are frozen, its liquidation is measured.
        asked: horizons and target.
        out: folder of the study.
        workers: buckets at once; None = as configured.
        fresh: compute everything anew, also over the study of another configuration.
        say: receives a line at each stage.

    Returns:
        A table by kind of backtest: rows by horizon, point, grouping and group.

    Raises:
        ConfigError: portfolios move, or no horizon fits the window.
    """
    _check(config)
    dataset = ensure_dataset(config, say)
    sets = {"adequacy": list(config.parameter_sets), "core": _core_sets(config, dataset, out)}
    tables = {}
    for folder, kind in KINDS.items():
        changes: dict[str, Any] = {
            "name": f"{config.name} {kind.value}",
            "parameter_sets": sets[folder],
            "replay": config.replay.model_copy(update={"details": True}),
            "traces": TracesSection(accounts="all"),
            "report": ReportSection(),
        }
        changed = config.model_copy(update=changes)
        run(changed, out / folder, workers=workers, fresh=fresh, say=say)
        results = Results(out / folder)
        tables[folder] = _tables(results, kind, dataset, asked)
        for name, frame in _shown_tables(results, kind, dataset, asked, tables[folder]).items():
            _save(out, f"{folder}_{name}", frame)
        _save(out, folder, tables[folder])
    about = {"horizons": asked.horizons, "probability": asked.probability, "name": config.name}
    shown = shown_horizon(_fitting(Results(out / "adequacy"), asked.horizons))
    write_json(out / "coverage.json", about | {"shown": shown})
    return tables


def shown_horizon(horizons: Sequence[str]) -> str:
    """The horizon of figures and exceptions: the longest up to a day, the shortest if none is."""
    length = {h: pd.Timedelta(h) for h in horizons}
    short = [h for h in horizons if length[h] <= MOST_SHOWN]
    return max(short, key=lambda h: length[h]) if short else min(horizons, key=lambda h: length[h])


def _check(config: RunConfig) -> None:
    if config.replay.mode != "frozen":
        raise ConfigError(f"replay.mode is '{config.replay.mode}'; allowed for backtests: 'frozen'")
    if config.liquidation.mode != "measure":
        raise ConfigError(
            f"liquidation.mode is '{config.liquidation.mode}'; allowed for backtests: 'measure': "
            "what liquidation does to an account is another question"
        )


def _core_sets(config: RunConfig, dataset: Dataset, out: Path) -> list[SetSection]:
    """The core of each set and schedule, as files of the study; why it is what, as a table."""
    with_depeg = stablecoins_move(config, dataset)
    found = []
    for section in config.parameter_sets:
        file = out / "sets" / f"{section.name}.toml"
        file = write_core(file, section.file, with_depeg=with_depeg)
        found.append(section.model_copy(update={"file": file}))
    models = [load_rules(section.file).model for section in found]
    _save(out, "core_charges", decisions(models, with_depeg=with_depeg))
    return found


def _save(out: Path, name: str, frame: pd.DataFrame) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    write_table(out / "tables" / f"{name}.parquet", table)


def stablecoins_move(config: RunConfig, dataset: Dataset) -> bool:
    """Whether any stablecoin leaves 1 USD at the times of the replay."""
    first = config.replay.start or dataset.meta.first_time
    last = config.replay.end or dataset.meta.last_time
    index = dataset.index(first, last)
    mine = frames.rows(index, index["currency"].astype(str).isin(STABLE))
    return bool((frames.numbers(mine, "usd") != 1.0).any())


def _tables(
    results: Results, kind: BacktestKind, dataset: Dataset, asked: CoverageStudy
) -> pd.DataFrame:
    """Breaches with block intervals and verdicts, by horizon, point, grouping and group."""
    parts = []
    for horizon in _fitting(results, asked.horizons):
        for point in POINTS:
            outcomes, labels = _outcomes(results, kind, dataset, asked, horizon, point)
            plan = _plan(asked.plan, results, horizon, len(outcomes.times))
            steps = int(pd.Timedelta(horizon).total_seconds() / results.interval_seconds)
            p_values = account_p_values(apart(outcomes, steps))
            for by in GROUPINGS:
                table = interval_table(outcomes, labels, by, plan)
                group = table[by[0]].astype(str) if by else "all"
                named = {"horizon": horizon, "point": point, "grouping": by[0] if by else "total"}
                table = table.drop(columns=list(by)).assign(**named, group=group)
                # A regime is no run of times: nothing follows anything in it.
                tests = None
                if by != ("regime",):
                    tests = group_tests(p_values, labels, by[0] if by else None)
                parts.append(with_zones_and_tests(table, tests))
    frame = pd.concat(parts, ignore_index=True)
    first = ["backtest", "set", "horizon", "point", "grouping", "group"]
    return frame.reindex(columns=[*first, *(c for c in frame.columns if c not in first)])


def _outcomes(
    results: Results,
    kind: BacktestKind,
    dataset: Dataset,
    asked: CoverageStudy,
    horizon: str,
    point: str,
) -> tuple[Outcomes, Labels]:
    """Losses and margins of every traced account, with all groupings as labels."""
    outcomes, labels = outcomes_of(
        results,
        kind,
        results.set_names,
        horizon=horizon,
        probability=asked.probability,
        worst=point == "worst",
    )
    return outcomes, _with_groups(results, dataset, labels)


def _shown_tables(
    results: Results,
    kind: BacktestKind,
    dataset: Dataset,
    asked: CoverageStudy,
    coverage: pd.DataFrame,
) -> dict[str, pd.DataFrame]:
    """Tables of the figures and the exceptions, of one horizon at its worst point."""
    horizon = shown_horizon(_fitting(results, asked.horizons))
    outcomes, labels = _outcomes(results, kind, dataset, asked, horizon, "worst")
    keep = (coverage["grouping"] == "total") & (coverage["point"] == "worst")
    whole = frames.rows(coverage, keep & (coverage["horizon"] == horizon)).set_index("set")
    effective = whole["effective_observations"].reindex(list(labels.sets)).to_numpy(float)
    return {
        "paths": path_table(outcomes, labels),
        "cumulative": cumulative_table(outcomes, labels, effective),
        "excess": excess_table(outcomes, labels),
        "shortfalls": shortfall_table(outcomes, labels),
        "exceptions": exception_table(results, outcomes, labels, horizon, STABLE),
    }


def _plan(plan: Plan, results: Results, horizon: str, times: int) -> Plan:
    """Blocks of at least the overlap of windows; of just that where times are few for a rule."""
    overlap = pd.Timedelta(horizon).total_seconds() / results.interval_seconds
    block = plan.block
    if block is None and times < LEAST_TIMES:
        block = int(overlap)
    return replace(plan, min_block=max(plan.min_block, overlap), block=block)


def _fitting(results: Results, horizons: Sequence[str]) -> list[str]:
    """Horizons that are whole numbers of intervals and shorter than the window."""
    step = results.interval_seconds
    length = step * (int(results.manifest["replay"]["times"]) - 1)
    seconds = {h: pd.Timedelta(h).total_seconds() for h in horizons}
    found = [h for h, s in seconds.items() if s >= step and s % step == 0 and s <= length]
    if not found:
        raise ConfigError(
            f"horizons {', '.join(horizons)}: none is a whole number of intervals of {step:g} s "
            f"within the window of {length:g} s"
        )
    return found


def _with_groups(results: Results, dataset: Dataset, labels: Labels) -> Labels:
    """Labels with tier, side, coins and risk unit of every account beside its segment."""
    accounts = labels.accounts
    columns = ["account_id", "start_gross_notional_usd", "start_net_delta_usd"]
    start = results.accounts(columns, labels.sets[0]).set_index("account_id")
    start = start.reindex(accounts["account"]).fillna(0.0)
    gross, delta = (frames.numbers(start, c) for c in columns[1:])
    coins = _coins(results, dataset)
    held = [coins.get(name, ()) for name in accounts["account"].astype(str)]
    found = accounts.assign(
        tier=np.asarray(TIER_NAMES)[np.digitize(gross, TIERS[1:-1])],
        side=_sides(gross, delta),
        unit=[c[0] if len(c) == 1 else SEVERAL if c else NOTHING for c in held],
        coins=[" ".join(c) for c in held],
        gross_notional_usd=gross,
        net_delta_usd=delta,
    )
    return Labels(labels.sets, found, labels.regimes)


def _sides(gross_usd: np.ndarray, delta_usd: np.ndarray) -> np.ndarray:
    """Side of accounts by their net delta at the start."""
    is_neutral = np.abs(delta_usd) <= NEUTRAL_FRAC * gross_usd
    return np.asarray(SIDES)[np.where(is_neutral, 2, np.where(delta_usd > 0, 0, 1))]


def _coins(results: Results, dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Coins of the risk units that accounts hold at the start, ascending."""
    start = pd.Timestamp(results.manifest["replay"]["start"])
    times = [t for t in dataset.snapshot_times() if t <= start]
    instruments = dataset.instruments()
    coin_of = dict(
        zip(instruments["instrument_id"].astype(str), instruments["coin"].astype(str), strict=True)
    )
    found: dict[str, set[str]] = {}
    for bucket in dataset.bucket_ids():
        rows = dataset.positions(times[-1], bucket)
        names = rows["account_id"].astype(str).tolist()
        for account, instrument in zip(names, rows["instrument_id"].astype(str), strict=True):
            found.setdefault(account, set()).add(coin_of.get(instrument, NOTHING))
    return {account: tuple(sorted(coins)) for account, coins in found.items()}
