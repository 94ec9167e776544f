"""Core-model and margin-adequacy backtests of a run's accounts, over several horizons (C1, D2-D5).

Two replays of the same frozen portfolios, never mixed. *Adequacy*: the sets as they are, the whole
requirement against what adjusted equity then loses. *Core model*: each set without add-ons whose
risk is not in prices, collateral in full, the stress charges against profit and loss. The loss of a
horizon is taken at its end and at its worst point.

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

from backtest.calibration.backtests import core_leaves, outcomes_of
from backtest.calibration.space import write_set
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
from backtest.statistics.tables import Labels, interval_table


KINDS = {"adequacy": BacktestKind.MARGIN_ADEQUACY, "core": BacktestKind.CORE_MODEL}
"""Backtests by the folder of their replay."""
GROUPINGS: tuple[tuple[str, ...], ...] = ((), ("unit",), ("segment",), ("tier",), ("regime",))
POINTS = ("end", "worst")
TIERS = (0.0, 1e5, 1e6, 1e7, np.inf)
TIER_NAMES = ("below 100k", "100k to 1m", "1m to 10m", "10m and more")
"""Tiers of accounts by gross notional at the start, USD."""
LEAST_TIMES = 50
"""Fewer times do not say how long their own dependence lasts."""
SEVERAL, NOTHING = "several", "none"
STABLE = ("USDT", "USDC", "USD")
"""Settlement currencies: MR9's risk is in the prices only where one of them moves."""
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
    say: Say = lambda text: None,
) -> dict[str, pd.DataFrame]:
    """Replay twice, table the breaches, save; finished cells of an earlier call are reused.

    Args:
        config: the run; its portfolios are frozen, its liquidation is measured.
        asked: horizons and target.
        out: folder of the study.
        workers: buckets at once; None = as configured.
        say: receives a line at each stage.

    Returns:
        A table by kind of backtest: rows by horizon, point, grouping and group.

    Raises:
        ConfigError: portfolios move, no horizon fits the window, or no set has a core model.
    """
    _check(config)
    dataset = ensure_dataset(config, say)
    sets = {"adequacy": list(config.parameter_sets), "core": _core_sets(config, dataset, out)}
    tables = {}
    for folder, kind in KINDS.items():
        if not sets[folder]:
            say("core model: no set of OKX rules, so there is none")
            continue
        changes: dict[str, Any] = {
            "name": f"{config.name} {kind.value}",
            "parameter_sets": sets[folder],
            "replay": config.replay.model_copy(update={"details": True}),
            "traces": TracesSection(accounts="all"),
            "report": ReportSection(),
        }
        run(config.model_copy(update=changes), out / folder, workers=workers, say=say)
        tables[folder] = _tables(Results(out / folder), kind, dataset, asked)
        table = pa.Table.from_pandas(tables[folder], preserve_index=False)
        write_table(out / "tables" / f"{folder}.parquet", table)
    about = {"horizons": asked.horizons, "probability": asked.probability, "name": config.name}
    write_json(out / "coverage.json", about)
    return tables


def _check(config: RunConfig) -> None:
    if config.replay.mode != "frozen":
        raise ConfigError(f"replay.mode is '{config.replay.mode}'; allowed for backtests: 'frozen'")
    if config.liquidation.mode != "measure":
        raise ConfigError(
            f"liquidation.mode is '{config.liquidation.mode}'; allowed for backtests: 'measure': "
            "what liquidation does to an account is another question"
        )


def _core_sets(config: RunConfig, dataset: Dataset, out: Path) -> list[SetSection]:
    """Each OKX set without add-ons, as a file of the study; schedules have no single core."""
    found = []
    for section in config.parameter_sets:
        rules = load_rules(section.file)
        if rules.model != "okx" or len(rules.steps) != 1:
            continue
        (chosen,) = [each for _, each in rules.steps]
        leaves = core_leaves(chosen, with_depeg=_stablecoins_move(dataset))
        file = out / "sets" / f"{section.name}.toml"
        source = "core-model backtest: add-ons whose risk is not in prices are left out"
        write_set(file, f"{chosen.name} core", section.file, chosen, leaves, source)
        found.append(section.model_copy(update={"file": file}))
    return found


def _stablecoins_move(dataset: Dataset) -> bool:
    index = dataset.index(dataset.meta.first_time, dataset.meta.last_time)
    mine = frames.rows(index, index["currency"].astype(str).isin(STABLE))
    return bool((frames.numbers(mine, "usd") != 1.0).any())


def _tables(
    results: Results, kind: BacktestKind, dataset: Dataset, asked: CoverageStudy
) -> pd.DataFrame:
    """Breaches with block intervals and verdicts, by horizon, point, grouping and group."""
    parts = []
    for horizon in _fitting(results, asked.horizons):
        for point in POINTS:
            outcomes, labels = outcomes_of(
                results,
                kind,
                results.set_names,
                horizon=horizon,
                probability=asked.probability,
                worst=point == "worst",
            )
            labels = _with_groups(results, dataset, labels)
            plan = _plan(asked.plan, results, horizon, len(outcomes.times))
            for by in GROUPINGS:
                table = interval_table(outcomes, labels, by, plan)
                group = table[by[0]].astype(str) if by else "all"
                named = {"horizon": horizon, "point": point, "grouping": by[0] if by else "total"}
                parts.append(table.drop(columns=list(by)).assign(**named, group=group))
    frame = pd.concat(parts, ignore_index=True)
    first = ["backtest", "set", "horizon", "point", "grouping", "group"]
    return frame.reindex(columns=[*first, *(c for c in frame.columns if c not in first)])


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
    """Labels with tier and risk unit of every account beside its segment."""
    accounts = labels.accounts
    start = results.accounts(["account_id", "start_gross_notional_usd"], labels.sets[0])
    gross = start.set_index("account_id").reindex(accounts["account"])
    tier = np.digitize(gross["start_gross_notional_usd"].fillna(0.0), TIERS[1:-1])
    unit = pd.Series(_units(results, dataset)).reindex(accounts["account"]).fillna(NOTHING)
    found = accounts.assign(tier=np.asarray(TIER_NAMES)[tier], unit=unit.to_numpy())
    return Labels(labels.sets, found, labels.regimes)


def _units(results: Results, dataset: Dataset) -> dict[str, str]:
    """Coin of the accounts that hold one risk unit; ``several`` for the others."""
    start = pd.Timestamp(results.manifest["replay"]["start"])
    times = [t for t in dataset.snapshot_times() if t <= start]
    instruments = dataset.instruments()
    coin_of = dict(
        zip(instruments["instrument_id"].astype(str), instruments["coin"].astype(str), strict=True)
    )
    found: dict[str, str] = {}
    for bucket in dataset.bucket_ids():
        rows = dataset.positions(times[-1], bucket)
        names = rows["account_id"].astype(str).tolist()
        for account, instrument in zip(names, rows["instrument_id"].astype(str), strict=True):
            coin = coin_of.get(instrument, NOTHING)
            found[account] = coin if found.get(account, coin) == coin else SEVERAL
    return found
