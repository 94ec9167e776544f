"""One account at one time of a finished run: its portfolio then, and the reference's answer."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from backtest.cells import safe_name
from backtest.config import RunConfig, SetSection
from backtest.dataset import Dataset, bucket_of, utc
from backtest.errors import ConfigError, DataError
from backtest.explain_liquidation import SimulatedPast, liquidated_us
from backtest.liquidation_rules import hedging_perpetuals, rules_of_sets
from backtest.market_window import (
    MICROS,
    MarketSource,
    MarketWindow,
    grid_times,
    micros,
    stamp,
)
from backtest.model_records import Currencies
from backtest.moves import NOTHING, Moves, moved_market
from backtest.portfolio_at import Holdings, MarketView, added, portfolio_at
from backtest.reference import models as reference
from backtest.reference.liquidation import Liquidation
from backtest.reference.okx_debts import debt_step
from backtest.row_rules import clean_balances, clean_instruments, clean_orders, clean_positions
from backtest.set_rules import SetRules


@dataclass(frozen=True)
class Explained:
    """What ``pmstress explain`` prints.

    Fields:
        portfolio: the account as a ``pmstress margin`` file, marks and index as known at the time,
            with what the run's liquidations have moved them by.
        answer: the float64 reference's answer with every intermediate number.
        moved: what debts have moved since the snapshot by currency, in its units.
        stored: the row of ``traces`` at that time, None where the run did not trace the account.
        parameter_set, numbers, labels: the rules used and where each number comes from.
        liquidation: what the reference does at that time to an account that the run liquidated.
    """

    parameter_set: str
    portfolio: dict[str, Any]
    numbers: dict[str, Any]
    labels: dict[str, str]
    answer: dict[str, Any]
    stored: dict[str, Any] | None
    moved: dict[str, float]
    liquidation: Liquidation | None = None


def explain_portfolio(
    results: Path, account: str, time: pd.Timestamp, set_name: str | None = None
) -> Explained:
    """Recompute one account at one time with the readable reference.

    Args:
        results: results folder of a run; its dataset must still be where it was.
        account: account id.
        time: a time of the run's grid, UTC.
        set_name: parameter set, default the first of the run.

    Raises:
        ConfigError: unknown account or set, or a time off the grid.
        DataError: the dataset is gone, or the account is quarantined.
    """
    manifest = json.loads((results / "manifest.json").read_text(encoding="utf-8"))
    config = RunConfig.model_validate(manifest["config"])
    entry = set_section(config, results, set_name)
    dataset = Dataset.open(Path(manifest["dataset"]["path"]))
    simulates = config.liquidation.mode == "simulate"
    moves = saved_moves(config, results, entry) if simulates else NOTHING
    past = AccountHistory(dataset, config, account, with_hedges=simulates, moves=moves)
    rules = SetRules(entry.name, entry.file, Currencies([]), dataset, past.grid_us)
    portfolio = past.portfolio(utc(time))
    time_us = int(micros(pd.DatetimeIndex([utc(time)]))[0])
    moved = past.moved_by_debts(time_us, rules)
    portfolio["balances"] = added(portfolio["balances"], moved)
    liquidation = None
    if simulates:
        which = config.parameter_sets.index(entry)
        liquidated = SimulatedPast(
            past, rules, rules_of_sets(config)[which], liquidated_us(results, entry.name, account)
        )
        portfolio, liquidation, moved = liquidated.at(time_us)
    loaded, numbers = rules.set_at(time_us), rules.numbers_at(time_us)
    return Explained(
        parameter_set=entry.name,
        portfolio=portfolio,
        numbers=numbers,
        labels={leaf.key: leaf.label for leaf in loaded.leaves()},
        answer=reference.margin(portfolio, numbers),
        stored=stored_row(results, entry.name, account, utc(time)),
        moved=moved,
        liquidation=liquidation,
    )


def set_section(config: RunConfig, results: Path, name: str | None) -> SetSection:
    """A parameter set of a run by its name, the first one without a name."""
    for chosen in config.parameter_sets:
        if name is None or chosen.name == name:
            return chosen
    known = ", ".join(s.name for s in config.parameter_sets)
    raise ConfigError(f"{results}: no parameter set '{name}'; this run has {known}")


def stored_row(results: Path, name: str, account: str, time: pd.Timestamp) -> dict[str, Any] | None:
    """Row of ``traces`` of one account at one time, None where the run did not trace it."""
    at = (pc.field("account_id") == account) & (pc.field("time") == time)
    # Files one by one: sets of different models have different columns.
    for file in sorted((results / "traces").glob("*.parquet")):
        rows = pq.read_table(file, filters=(pc.field("parameter_set") == name) & at).to_pylist()
        if rows:
            return rows[0]
    return None


def saved_moves(config: RunConfig, results: Path, entry: SetSection) -> Moves:
    """What the liquidations of a parameter set have moved prices by in a run.

    Raises:
        DataError: the run did not save it.
    """
    rule = rules_of_sets(config)[config.parameter_sets.index(entry)]["impact"]
    if rule["model"] == "none":
        return NOTHING
    file = results / "impact" / f"{safe_name(entry.name)}.parquet"
    if not file.is_file():
        raise DataError(f"{file}: is missing; run again to write it")
    rows = pq.read_table(file).to_pandas()
    keys = zip(micros(rows["time"]).tolist(), rows["coin"].astype(str), strict=True)
    moves = dict(zip(keys, rows["move_frac"].astype(float), strict=True))
    return Moves.of(moves, moves_index=rule["moves_index"])


class AccountHistory:
    """Portfolios of one account as of any time of a run's grid.

    ``moves`` are what liquidations have moved prices by; none if absent.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: RunConfig,
        account: str,
        *,
        with_hedges: bool = False,
        moves: Moves = NOTHING,
    ) -> None:
        self._moves = moves
        self.dataset, self.config, self.account = dataset, config, account
        self._with_hedges = with_hedges
        self._instruments = clean_instruments(dataset.instruments(with_source=True)).good
        self._bucket = self._find_bucket()
        self._staleness_us = int(pd.Timedelta(config.replay.max_staleness).total_seconds() * MICROS)
        interval = config.replay.interval
        interval_us = int(pd.Timedelta(interval).total_seconds() * MICROS) if interval else None
        start = config.replay.start or dataset.meta.first_time
        end = config.replay.end or dataset.meta.last_time
        self.grid_us = grid_times(dataset, utc(start), utc(end), interval_us)
        snapshots = micros(pd.DatetimeIndex(dataset.snapshot_times()))
        if config.replay.mode == "frozen":
            snapshots = snapshots[snapshots <= self.grid_us[0]][-1:]
        self._snapshots_us = snapshots
        self._sources: dict[int, tuple[MarketSource, Holdings]] = {}

    def _find_bucket(self) -> int:
        likely = bucket_of(self.account, self.dataset.meta.buckets)
        buckets = self.dataset.bucket_ids()
        for bucket in sorted(buckets, key=lambda b: b != likely):
            ids = self.dataset.accounts(bucket, ["account_id"])["account_id"].astype(str)
            if self.account in set(ids):
                return bucket
        raise ConfigError(f"{self.dataset.root}: no account '{self.account}'")

    def portfolio(self, time: pd.Timestamp) -> dict[str, Any]:
        """The account as a ``pmstress margin`` file; what is unpriced is null."""
        time_us = int(micros(pd.DatetimeIndex([time]))[0])
        if time_us not in self.grid_us:
            nearest = stamp(self.grid_us[np.argmin(np.abs(self.grid_us - time_us))])
            raise ConfigError(f"{time} is not on the run's grid; the nearest time is {nearest}")
        return next(self._portfolios(np.asarray([time_us])))

    def portfolio_of(self, held_us: int, time_us: int) -> dict[str, Any]:
        """What the account holds at one time of the grid, at the market of another."""
        source, holdings = self._at_snapshot(self.snapshot_us(held_us))
        window = self._market(source, np.asarray([time_us]))
        return portfolio_at(
            holdings, MarketView(window, source.instruments, source.currencies.names), 0
        )

    def moved_by_debts(
        self, time_us: int, rules: SetRules, left: tuple[Holdings, int] | None = None
    ) -> dict[str, float]:
        """What interest and conversions have moved by a time, units.

        ``left`` is what a liquidation has left and when, microseconds: they moved nothing of it
        before. Without it they begin at the snapshot.
        """
        replay = self.config.replay
        if not (replay.interest or replay.conversion):
            return {}
        snapshot_us = self.snapshot_us(time_us)
        if left is None:
            holdings, since = self._at_snapshot(snapshot_us)[1], snapshot_us
            later = self.grid_us >= snapshot_us
        else:
            holdings, since = left
            later = self.grid_us > since
        times = self.grid_us[later & (self.grid_us <= time_us)]
        hours = np.diff(np.concatenate([[since], times]) // (3600 * MICROS))
        moved: dict[str, float] = {}
        for now, passed, portfolio in zip(
            times.tolist(), hours.tolist(), self._portfolios(times, holdings), strict=True
        ):
            portfolio["balances"] = added(portfolio["balances"], moved)
            step = debt_step(
                portfolio,
                rules.numbers_at(now),
                added(holdings.cash, moved),
                hours=float(passed) if replay.interest else 0.0,
                converts=replay.conversion,
            )
            moved = added(moved, step.changes)
        return moved

    def _portfolios(
        self, times_us: np.ndarray, holdings: Holdings | None = None
    ) -> Iterator[dict[str, Any]]:
        """Portfolios at grid times of one snapshot, without what debts have moved."""
        source, held = self._at_snapshot(self.snapshot_us(int(times_us[-1])))
        window = self._market(source, times_us)
        view = MarketView(window, source.instruments, source.currencies.names)
        for k in range(len(times_us)):
            yield portfolio_at(holdings or held, view, k)

    def holdings(self, time_us: int) -> Holdings:
        """What the account holds in the snapshot of a time."""
        return self._at_snapshot(self.snapshot_us(time_us))[1]

    def view(self, time_us: int) -> MarketView:
        """The market at a time, on the axis of the holdings."""
        source, _ = self._at_snapshot(self.snapshot_us(time_us))
        window = self._market(source, np.asarray([time_us]))
        return MarketView(window, source.instruments, source.currencies.names)

    def _market(self, source: MarketSource, times_us: np.ndarray) -> MarketWindow:
        """The market that the account saw at some times."""
        market = source.window(times_us)
        return moved_market(market, self._moves, source.instruments, source.currencies)

    def snapshot_us(self, time_us: int) -> int:
        """Snapshot that a time belongs to."""
        return int(self._snapshots_us[self._snapshots_us <= time_us][-1])

    def _at_snapshot(self, snapshot_us: int) -> tuple[MarketSource, Holdings]:
        if snapshot_us in self._sources:
            return self._sources[snapshot_us]
        time = stamp(snapshot_us)
        known = self.dataset.currencies()
        positions = self._mine(
            clean_positions(
                self.dataset.positions(time, self._bucket, with_source=True), self._instruments
            )
        )
        balances = self._mine(
            clean_balances(self.dataset.balances(time, self._bucket, with_source=True), known)
        )
        positions = positions.sort_values("instrument_id", ignore_index=True)
        orders = self._mine(
            clean_orders(
                self.dataset.orders(time, self._bucket, with_source=True), self._instruments
            )
        )
        ids = positions["instrument_id"].astype(str).tolist()
        ordered = orders["instrument_id"].astype(str).tolist()
        ids += sorted(set(ordered) - set(ids))
        hedges = self._hedges(ids) if self._with_hedges else []
        ids += hedges
        by_id = self._instruments.set_index(self._instruments["instrument_id"].astype(str))
        instruments = by_id.loc[ids].reset_index(drop=True)
        axis = Currencies(
            [*balances["currency"].astype(str), *instruments["coin"], *instruments["settle"]]
        )
        source = MarketSource(
            dataset=self.dataset,
            instruments=instruments,
            all_instruments=self._instruments,
            currencies=axis,
            snapshot_us=snapshot_us,
            max_staleness_us=self._staleness_us,
            with_funding=self.config.replay.funding,
        )
        entry = positions["entry_price"].to_numpy(float)
        if np.isnan(entry).any():
            marks = source.window(np.asarray([snapshot_us])).mark[0, 1 : len(entry) + 1]
            entry = np.where(np.isnan(entry), marks, entry)
        limits = balances.dropna(subset=["spot_limit"])
        opened = np.arange(len(ids) - len(hedges), len(ids)) + 1
        holdings = Holdings(
            instrument=np.concatenate([np.arange(1, len(positions) + 1), opened]),
            contracts=np.append(positions["contracts"].to_numpy(float), np.zeros(len(hedges))),
            entry=np.append(entry, np.full(len(hedges), np.nan)),
            cash=_by_currency(balances, "cash"),
            spot_limits=_by_currency(limits, "spot_limit"),
            orders=[
                (ids.index(name) + 1, float(contracts), float(price))
                for name, contracts, price in zip(
                    ordered, orders["contracts"], orders["price"], strict=True
                )
            ],
            borrow_mode=self._chosen("borrow_mode") or "auto",
            spot_mode=self._chosen("spot_mode"),
        )
        self._sources[snapshot_us] = source, holdings
        return self._sources[snapshot_us]

    def _hedges(self, ids: list[str]) -> list[str]:
        """Perpetuals in the coins of some instruments that are not among them."""
        names = self._instruments["instrument_id"].astype(str).to_numpy()
        mine = hedging_perpetuals(self._instruments, np.isin(names, ids))
        return [str(name) for name in names[mine & ~np.isin(names, ids)]]

    def _chosen(self, column: str) -> str | None:
        rows = self.dataset.accounts(self._bucket)
        mine = rows.loc[rows["account_id"].astype(str) == self.account, column].dropna()
        return str(mine.iloc[0]) if len(mine) else None

    def _mine(self, clean: Any) -> pd.DataFrame:
        bad = clean.rejected["account_id"].astype(str) == self.account
        if bad.any():
            reason = clean.quarantined["reason"][bad.to_numpy()].iloc[0]
            raise DataError(f"account '{self.account}' is quarantined: {reason}")
        good = clean.good
        return good[good["account_id"].astype(str) == self.account].reset_index(drop=True)


def _by_currency(rows: pd.DataFrame, column: str) -> dict[str, float]:
    names = rows["currency"].astype(str)
    return dict(zip(names, rows[column].astype(float), strict=True))
