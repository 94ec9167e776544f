"""Portfolios of one bucket at one snapshot, in index form; bad rows quarantine their account."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from backtest.batching import Snapshot, Terms
from backtest.dataset import Dataset
from backtest.leg_lists import SPOT_FAMILIES
from backtest.market_window import last_known, micros, stamp
from backtest.model_records import Currencies
from backtest.plan import OTHER_SEGMENT, UNKNOWN_SEGMENT, Plan
from backtest.row_rules import clean_balances, clean_marks, clean_orders, clean_positions


@dataclass(frozen=True)
class Portfolios:
    """Scored accounts of a bucket, and those that bad rows keep out.

    Fields:
        snapshot: the portfolios; segment: segment code of each account.
        quarantined: ids kept out; quarantined_segment: their segment codes.
        left_out: accounts that the run does not ask for.
    """

    snapshot: Snapshot
    segment: np.ndarray
    quarantined: list[str]
    quarantined_segment: np.ndarray
    left_out: int = 0

    def only(self, keep: np.ndarray) -> "Portfolios":
        """Without the accounts that the mask does not keep; they are counted as left out."""
        kept = self.snapshot.only(keep), self.segment[keep]
        return replace(
            self, snapshot=kept[0], segment=kept[1], left_out=int(np.count_nonzero(~keep))
        )


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
    orders = clean_orders(dataset.orders(time, bucket, with_source=True), plan.instruments)
    bad |= {str(x) for x in orders.rejected["account_id"]}
    details = dataset.accounts(bucket)
    bad.discard("nan")
    legs, leg_ids = _without(positions.good, bad)
    cash, cash_ids = _without(balances.good, bad)
    resting, order_ids = _without(orders.good, bad)
    ids = np.unique(np.concatenate([leg_ids, cash_ids, order_ids]))
    row_of = pd.Series(
        np.arange(1, len(instruments) + 1), index=instruments["instrument_id"].astype(str)
    )
    leg_instrument = np.asarray(row_of.reindex(legs["instrument_id"].astype(str)), dtype=int)
    entry = np.asarray(legs["entry_price"], dtype=float)
    if np.isnan(entry).any():
        at_snapshot = _marks_at(dataset, plan, snapshot_us, row_of, max_staleness_us)
        entry = np.where(np.isnan(entry), at_snapshot[leg_instrument], entry)
    snapshot = Snapshot(
        account_ids=ids,
        leg_account=np.searchsorted(ids, leg_ids),
        leg_instrument=leg_instrument,
        leg_contracts=np.asarray(legs["contracts"], dtype=float),
        leg_entry=entry,
        cash_account=np.searchsorted(ids, cash_ids),
        cash_currency=np.asarray([currencies.position[str(c)] for c in cash["currency"]], int),
        cash=np.asarray(cash["cash"], dtype=float),
        spot_limit=np.asarray(cash["spot_limit"], dtype=float),
        order_account=np.searchsorted(ids, order_ids),
        order_instrument=np.asarray(
            row_of.reindex(resting["instrument_id"].astype(str)), dtype=int
        ),
        order_contracts=np.asarray(resting["contracts"], dtype=float),
        order_price=np.asarray(resting["price"], dtype=float),
        spot_family=_chosen(details, "spot_mode", ids, SPOT_FAMILIES, -1),
        auto_borrows=_chosen(details, "borrow_mode", ids, {"non_auto": False}, True),
    )
    code_of = _segment_codes(details, plan)
    out = sorted(bad)
    return Portfolios(snapshot, code_of(ids), out, code_of(np.asarray(out, dtype=str)))


def _chosen(
    details: pd.DataFrame, column: str, ids: np.ndarray, codes: dict[str, Any], empty: Any
) -> np.ndarray:
    """What accounts chose, by code; ``empty`` where they chose nothing or are not listed."""
    names = details["account_id"].astype(str)
    chosen = dict(zip(names, details[column].astype(str), strict=True))
    return np.asarray([codes.get(chosen.get(str(i), ""), empty) for i in ids], type(empty))


def _without(rows: pd.DataFrame, bad: set[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of accounts that are not bad, and their account ids."""
    ids = np.asarray(rows["account_id"].astype(str), dtype=str)
    kept = np.flatnonzero(~np.isin(ids, sorted(bad)))
    return rows.take(kept), ids[kept]


def _marks_at(
    dataset: Dataset, plan: Plan, time_us: int, row_of: pd.Series, max_staleness_us: int
) -> np.ndarray:
    """Mark of each held instrument at the snapshot, NaN where none is fresh enough."""
    rows = dataset.marks(stamp(time_us - max_staleness_us), stamp(time_us), with_source=True)
    rows = clean_marks(rows, plan.instruments).good
    column = np.asarray(row_of.reindex(rows["instrument_id"].astype(str)), dtype=float)
    held = np.flatnonzero(~np.isnan(column))
    rows = rows.take(held)
    known = last_known(
        micros(pd.DatetimeIndex(rows["time"])),
        column[held].astype(int),
        np.asarray(rows[["mark_price"]], dtype=float),
        np.asarray([time_us]),
        len(row_of) + 1,
        max_staleness_us,
    )
    return known[0, :, 0]


def _segment_codes(accounts: pd.DataFrame, plan: Plan) -> Callable[[np.ndarray], np.ndarray]:
    """Segment codes of account ids."""
    position = {name: k for k, name in enumerate(plan.segments)}
    other = position.get(OTHER_SEGMENT, position[UNKNOWN_SEGMENT])
    code: dict[str, int] = {}
    for account, segment in zip(accounts["account_id"], accounts["segment"], strict=True):
        code.setdefault(str(account), position.get(str(segment), other))
    unknown = position[UNKNOWN_SEGMENT]

    def codes(ids: np.ndarray) -> np.ndarray:
        return np.asarray([code.get(str(i), unknown) for i in ids], dtype=int)

    return codes
