"""Portfolios of one bucket at one snapshot, in index form; bad rows quarantine their account."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from backtest.batching import Snapshot, Terms
from backtest.dataset import Dataset
from backtest.market_window import last_known, micros, stamp
from backtest.model_records import Currencies
from backtest.plan import OTHER_SEGMENT, UNKNOWN_SEGMENT, Plan
from backtest.row_rules import clean_balances, clean_marks, clean_positions


@dataclass(frozen=True)
class Portfolios:
    """Scored accounts of a bucket, and those that bad rows keep out.

    Fields:
        snapshot: the portfolios; segment: segment code of each account.
        quarantined: ids kept out; quarantined_segment: their segment codes.
    """

    snapshot: Snapshot
    segment: np.ndarray
    quarantined: list[str]
    quarantined_segment: np.ndarray


def read_portfolios(
    dataset: Dataset,
    plan: Plan,
    snapshot_us: int,
    bucket: int,
    instruments: pd.DataFrame,
    terms: Terms,
    currencies: Currencies,
    max_staleness_us: int,
) -> Portfolios:
    """Read one bucket's portfolios at a snapshot.

    Args:
        dataset: where they are read.
        plan: the run's plan.
        snapshot_us: time of the snapshot.
        bucket: which bucket.
        instruments: held instruments in the order of the instrument axis (without null).
        terms: their terms (with null).
        currencies: the currency axis.
        max_staleness_us: oldest mark that stands in for a missing entry price.
    """
    time = stamp(snapshot_us)
    positions = clean_positions(dataset.positions(time, bucket, with_source=True), plan.instruments)
    balances = clean_balances(
        dataset.balances(time, bucket, with_source=True), plan.currencies_known
    )
    bad = {str(x) for x in positions.rejected["account_id"]}
    bad |= {str(x) for x in balances.rejected["account_id"]}
    bad.discard("nan")
    legs = positions.good.assign(account_id=positions.good["account_id"].astype(str))
    cash = balances.good.assign(account_id=balances.good["account_id"].astype(str))
    legs, cash = legs[~legs["account_id"].isin(bad)], cash[~cash["account_id"].isin(bad)]
    ids = np.asarray(sorted(set(legs["account_id"]) | set(cash["account_id"])), dtype=str)
    row_of = pd.Series(
        np.arange(1, len(instruments) + 1), index=instruments["instrument_id"].astype(str)
    )
    leg_instrument = row_of.reindex(legs["instrument_id"].astype(str)).to_numpy(int)
    entry = legs["entry_price"].to_numpy(float)
    if np.isnan(entry).any():
        at_snapshot = _marks_at(dataset, plan, snapshot_us, row_of, max_staleness_us)
        entry = np.where(np.isnan(entry), at_snapshot[leg_instrument], entry)
    snapshot = Snapshot(
        account_ids=ids,
        leg_account=np.searchsorted(ids, legs["account_id"].to_numpy(str)),
        leg_instrument=leg_instrument,
        leg_contracts=legs["contracts"].to_numpy(float),
        leg_entry=entry,
        cash_account=np.searchsorted(ids, cash["account_id"].to_numpy(str)),
        cash_currency=cash["currency"].astype(str).map(currencies.position).to_numpy(int),
        cash=cash["cash"].to_numpy(float),
        spot_limit=cash["spot_limit"].to_numpy(float),
    )
    code_of = _segment_codes(dataset, plan, bucket)
    out = sorted(bad)
    return Portfolios(snapshot, code_of(ids), out, code_of(np.asarray(out, dtype=str)))


def _marks_at(
    dataset: Dataset, plan: Plan, time_us: int, row_of: pd.Series, max_staleness_us: int
) -> np.ndarray:
    """Mark of each held instrument at the snapshot, NaN where none is fresh enough."""
    rows = dataset.marks(stamp(time_us - max_staleness_us), stamp(time_us), with_source=True)
    rows = clean_marks(rows, plan.instruments).good
    column = rows["instrument_id"].astype(object).map(row_of)
    rows, column = rows[column.notna()], column.dropna().astype(int)
    known = last_known(
        micros(rows["time"]),
        column.to_numpy(),
        rows[["mark_price"]].to_numpy(float),
        np.asarray([time_us]),
        len(row_of) + 1,
        max_staleness_us,
    )
    return known[0, :, 0]


def _segment_codes(dataset: Dataset, plan: Plan, bucket: int):
    accounts = dataset.accounts(bucket, ["account_id", "segment"])
    position = {name: k for k, name in enumerate(plan.segments)}
    other = position.get(OTHER_SEGMENT, position[UNKNOWN_SEGMENT])
    named = accounts["segment"].astype(str).map(lambda s: position.get(s, other))
    code = pd.Series(named.to_numpy(int), index=accounts["account_id"].astype(str))
    code = code[~code.index.duplicated()]

    def codes(ids: np.ndarray) -> np.ndarray:
        return code.reindex(ids).fillna(position[UNKNOWN_SEGMENT]).to_numpy(int)

    return codes
