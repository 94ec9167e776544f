"""One pass over the accounts of a set: every number of the report that needs no pairing.

Accounts stream by in batches and leave counts, sums and histograms behind, so memory does not grow
with the number of accounts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa

from backtest.statistics.frequency_curve import MULTIPLIERS, count_up_to

from . import frames
from .reader import Results


LEVEL_GRID = np.union1d(np.logspace(-1, 2, 301), [1.0, 1.1, 3.0])
"""Margin levels (ratio, 1 = 100 %) at which the distribution of worst levels is counted."""
BREAK_EVEN_POINTS = (0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
THETA_GRID = MULTIPLIERS
"""Multipliers of a charge at which break-even curves are counted, with the points of tables."""
TOP_LOSSES = 50
SEGMENT_SUMS = (
    "scored",
    "liquidated",
    "episodes",
    "bad_debt_usd",
    "start_gross_usd",
    "liquidated_gross_usd",
)
_COLUMNS = (
    "account_id",
    "segment",
    "scored",
    "unpriced",
    "quarantined",
    "episodes",
    "first_liquidation_time",
    "worst_time",
    "worst_margin_level",
    "worst_equity_usd",
    "bad_debt_usd",
    "interest_usd",
    "converted_usd",
    "start_gross_notional_usd",
    "worst_total_mmr",
)


@dataclass
class AccountStats:
    """Counts and USD sums over the accounts of one parameter set.

    An account counts as scored if it was scored at one time or more, and as liquidated if it was
    scored and had one episode or more. ``names`` are the charges of the set; ``charges`` holds
    ``worst_total_mmr`` and ``worst_<charge>`` of liquidated accounts, summed, USD.
    """

    names: tuple[str, ...]
    rows: int = 0
    scored: int = 0
    liquidated: int = 0
    liquidated_solvent: int = 0
    episodes: int = 0
    scored_times: int = 0
    unpriced_times: int = 0
    quarantined_times: int = 0
    bad_debt_usd: float = 0.0
    bad_debt_accounts: int = 0
    bad_debt_largest_usd: float = 0.0
    interest_usd: float = 0.0
    converted_usd: float = 0.0
    converted_accounts: int = 0
    without_level: int = 0
    start_gross_usd: float = 0.0
    first_times: pd.Series = field(default_factory=lambda: pd.Series(dtype=np.int64))
    level_counts: np.ndarray = field(default_factory=lambda: np.zeros(len(LEVEL_GRID), np.int64))
    theta_counts: dict[str, np.ndarray] = field(init=False)
    charges: dict[str, float] = field(init=False)
    segments: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SEGMENT_SUMS)))
    losses: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __post_init__(self) -> None:
        self.theta_counts = {k: np.zeros(len(THETA_GRID), np.int64) for k in self.names}
        worst = ("worst_total_mmr", *(f"worst_{k}" for k in self.names))
        self.charges = dict.fromkeys(worst, 0.0)

    @property
    def share(self) -> float:
        """Liquidated accounts / scored accounts; NaN where none was scored."""
        return self.liquidated / self.scored if self.scored else float("nan")

    def liquidated_at(self, charge: str, multiplier: float) -> int:
        """Accounts liquidated if ``charge`` were scaled by a ``multiplier`` of ``THETA_GRID``."""
        return int(self.theta_counts[charge][int(np.searchsorted(THETA_GRID, multiplier))])


def account_stats(results: Results, parameter_set: str) -> AccountStats:
    """Statistics of one parameter set, computed once per ``Results``."""
    key = ("account_stats", parameter_set)
    if key not in results.memo:
        stats = AccountStats(tuple(c.name for c in results.charges(parameter_set)))
        for batch in _batches(results, parameter_set, stats.names):
            _add(stats, batch)
        results.memo[key] = stats
    return results.memo[key]


def _batches(
    results: Results, parameter_set: str, names: tuple[str, ...]
) -> Iterator[pd.DataFrame]:
    columns = [*_COLUMNS, *(f"worst_{k}" for k in names), *(f"theta_{k}" for k in names)]
    for batch in results.account_batches(columns, parameter_set):
        yield pa.Table.from_batches([batch]).to_pandas()


def _add(stats: AccountStats, batch: pd.DataFrame) -> None:
    stats.rows += len(batch)
    stats.scored_times += frames.count(batch, "scored")
    stats.unpriced_times += frames.count(batch, "unpriced")
    stats.quarantined_times += frames.count(batch, "quarantined")
    batch = frames.rows(batch, batch["scored"].to_numpy() > 0)
    liquidated = batch["episodes"].to_numpy() > 0
    debt = frames.numbers(batch, "bad_debt_usd")
    stats.scored += len(batch)
    stats.liquidated += int(liquidated.sum())
    stats.liquidated_solvent += int((liquidated & (debt <= 0)).sum())
    stats.episodes += frames.count(batch, "episodes")
    stats.bad_debt_usd += float(debt.sum())
    stats.bad_debt_accounts += int((debt > 0).sum())
    stats.bad_debt_largest_usd = max(stats.bad_debt_largest_usd, float(debt.max(initial=0.0)))
    stats.interest_usd += frames.total(batch, "interest_usd")
    stats.converted_usd += frames.total(batch, "converted_usd")
    stats.converted_accounts += int((batch["converted_usd"].to_numpy() > 0).sum())
    stats.start_gross_usd += frames.total(batch, "start_gross_notional_usd")
    first = frames.counted(batch["first_liquidation_time"])
    stats.first_times = stats.first_times.add(first, fill_value=0).astype(np.int64)
    _add_distributions(stats, batch)
    for name in stats.charges:
        stats.charges[name] += float(np.nansum(frames.numbers(batch, name)[liquidated]))
    _add_segments(stats, batch, liquidated)
    _add_losses(stats, frames.rows(batch, debt > 0))


def _add_losses(stats: AccountStats, losers: pd.DataFrame) -> None:
    if len(losers):
        kept = pd.concat([stats.losses, losers]) if len(stats.losses) else losers
        stats.losses = frames.ordered(kept, "bad_debt_usd", ascending=False).head(TOP_LOSSES)


def _add_distributions(stats: AccountStats, batch: pd.DataFrame) -> None:
    level = frames.numbers(batch, "worst_margin_level")
    stats.without_level += int(np.isnan(level).sum())
    stats.level_counts += count_up_to(LEVEL_GRID, level)
    for charge in stats.names:
        stats.theta_counts[charge] += count_up_to(
            THETA_GRID, frames.numbers(batch, f"theta_{charge}")
        )


def _add_segments(stats: AccountStats, batch: pd.DataFrame, liquidated: np.ndarray) -> None:
    gross = frames.numbers(batch, "start_gross_notional_usd")
    frame = pd.DataFrame(
        {
            "segment": frames.names(batch, "segment").fillna("(no segment)"),
            "scored": 1.0,
            "liquidated": liquidated.astype(float),
            "episodes": frames.numbers(batch, "episodes"),
            "bad_debt_usd": frames.numbers(batch, "bad_debt_usd"),
            "start_gross_usd": gross,
            "liquidated_gross_usd": np.where(liquidated, gross, 0.0),
        }
    )
    sums = frames.summed(frame, "segment", SEGMENT_SUMS)
    before = stats.segments
    stats.segments = before.add(sums, fill_value=0.0) if len(before) else sums
