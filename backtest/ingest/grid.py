"""From checked market rows to the tables ``index`` and ``marks``, window by window.

At each grid time a value is the last one known by then since the grid time before; nothing is
carried on (the replay does that, within its ``max_staleness``), but for the USD price of quote
currencies. Several bars in one interval give the lowest low, the highest high and the last close;
funding payments in one interval add up.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from backtest.errors import DataError
from backtest.ingest.intake import FALLBACK_RANK, PLACES, Intake
from backtest.market.black import BoolArray, FloatArray, IntArray
from backtest.market.series import (
    SECOND_US,
    Known,
    floats_of,
    names_of,
    rows_of,
    times_of,
    timestamps,
)
from backtest.row_rules import DUPLICATE, duplicated_keys
from backtest.tables import SOURCE_FILE, SOURCE_ROW


_WHERE = {SOURCE_FILE, SOURCE_ROW, "source"}


@dataclass
class GridCounts:
    """What happened on the way."""

    assumed_usd: Counter[str] = field(default_factory=Counter)
    """Grid times at which the USD price of a quote currency was assumed."""
    without_usd: Counter[str] = field(default_factory=Counter)
    """Prices that could not be told in USD, by quote currency."""
    index_from_marks: Counter[str] = field(default_factory=Counter)
    """Index prices that are marks of a perpetual, by coin."""


class Grid:
    """Makes the market tables from what the intake has staged."""

    def __init__(self, intake: Intake) -> None:
        self._intake, self._config = intake, intake.config
        self._max_age_us = int(self._config.max_age.total_seconds() * SECOND_US)
        self._carried: dict[str, Known] = {}
        self.counts = GridCounts()

    def tables(self) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
        """Rows of ``index`` and of ``marks`` of each window, ascending in time."""
        staging = self._intake.staging
        instruments = self._intake.instruments.frame().set_index("instrument_id")
        for window in staging.windows():
            quotes = self._unequal(staging.read("quotes", window), ["base", "quote"])
            marks = self._unequal(staging.read("marks", window), ["instrument_id"])
            funding = self._unequal(staging.read("funding", window), ["instrument_id"])
            table = self._marks(marks, funding, instruments)
            if self._config.index_from_marks:
                quotes = pd.concat([quotes, _as_quotes(table, instruments)], ignore_index=True)
            yield self._index(quotes, times_of(table, "time")), table

    def _left_out(self, rows: pd.DataFrame, mask: BoolArray, why: str) -> pd.DataFrame:
        """The other rows; those in the mask are counted by their source."""
        for source, count in Counter(names_of(rows, "source")[mask]).items():
            self._intake.ledger.of(str(source)).left_out[why] += count
        return rows_of(rows, ~mask)

    def _unequal(self, rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
        """Without repeated rows; rows of one source that contradict each other are quarantined."""
        for name in key:
            rows[name] = rows[name].astype("str")
        same = rows.duplicated([c for c in rows.columns if c not in _WHERE])
        later = rows["sampled"] & rows.duplicated(["time", *key, "rank"], keep="last")
        rows = self._left_out(rows, np.asarray(same | later, bool), "repeated")
        rows = rows.reset_index(drop=True)
        clash = duplicated_keys(rows, ["time", *key, "rank"])
        for source, bad in rows_of(rows, clash).groupby("source", observed=True):
            texts = zip(*(bad[name].astype("str") for name in ("time", *key)), strict=True)
            shown = bad.assign(column=", ".join(["time", *key]), value=[" ".join(t) for t in texts])
            table = "index" if "base" in key else "marks"
            self._intake.ledger.set_aside(str(source), table, shown, DUPLICATE)
        return rows_of(rows, ~clash)

    def _marks(
        self, rows: pd.DataFrame, funding: pd.DataFrame, instruments: pd.DataFrame
    ) -> pd.DataFrame:
        keys = ["cell", "instrument_id"]
        expiry = pd.DatetimeIndex(instruments["expiry"].reindex(pd.Index(rows["instrument_id"])))
        over = expiry <= timestamps(np.asarray(rows["cell"], np.int64))
        rows = self._left_out(rows, np.asarray(over, bool), "at or after expiry")
        rows = _best(rows, keys)
        groups = rows.groupby(keys)
        rows = rows.assign(low=groups["low"].transform("min"), high=groups["high"].transform("max"))
        rows = rows.drop_duplicates(keys, keep="last")
        known = _best(funding, ["time", "instrument_id"])
        paid = known.groupby(keys, as_index=False).agg({"funding_rate": "sum"})
        table = rows.merge(pd.DataFrame(paid), "left", keys)
        lost = len(paid) - int(np.count_nonzero(~np.isnan(floats_of(table, "funding_rate"))))
        if lost and len(funding):
            source = str(funding["source"].iloc[0])
            self._intake.ledger.of(source).left_out["funding without a mark"] += lost
        table = table.assign(time=timestamps(np.asarray(table["cell"], np.int64)))
        columns = ["time", "instrument_id", "mark_price", "low", "high"]
        return table.loc[:, [*columns, "forward", "mark_iv", "funding_rate"]]

    # -- index -------------------------------------------------------------------------------------

    def _index(self, rows: pd.DataFrame, mark_times: IntArray) -> pd.DataFrame:
        keys = ["cell", "base", "quote"]
        rows = _best(rows, keys).drop_duplicates(keys, keep="last")
        grid = np.union1d(rows["cell"].to_numpy(np.int64), mark_times)
        rates: dict[str, FloatArray] = {"USD": np.ones(len(grid))}
        prices: dict[str, FloatArray] = dict(rates)
        used = set(rows["quote"]) | set(self._config.assumed_usd)
        for quote in [q for q in self._config.quotes if q in used or q in set(rows["base"])]:
            if quote != "USD":
                rates[quote], prices[quote] = self._quote_usd(quote, rows, grid, rates)
        for base in sorted(set(rows["base"]) - set(rates)):
            prices[base] = self._in_usd(base, rows, grid, rates)
        self._count_unknown(rows, grid, rates)
        return _long(prices, grid)

    def _quote_usd(
        self, quote: str, rows: pd.DataFrame, grid: IntArray, rates: dict[str, FloatArray]
    ) -> tuple[FloatArray, FloatArray]:
        """USD of a quote currency: for other prices (carried on, or assumed), and for the index."""
        own = self._in_usd(quote, rows, grid, rates)
        known = Known.union(
            [self._carried.get(quote, Known.of(grid[:0], own[:0])), Known.of(grid, own)]
        )
        self._carried[quote] = Known(known.times[-1:], known.values[-1:])
        rate = known.at(grid, self._max_age_us)
        assumed = self._config.assumed_usd.get(quote)
        if assumed is None:
            return rate, own
        lacking = np.isnan(rate)
        self.counts.assumed_usd[quote] += int(lacking.sum())
        rate = np.where(lacking, assumed, rate)
        return rate, np.where(lacking, assumed, own)

    def _in_usd(
        self, base: str, rows: pd.DataFrame, grid: IntArray, rates: dict[str, FloatArray]
    ) -> FloatArray:
        """Index of a currency: in the first quote currency that has a price and is known in USD."""
        found = np.full(len(grid), np.nan)
        bases, quotes = names_of(rows, "base"), names_of(rows, "quote")
        for quote in self._config.quotes:
            if quote in rates:
                part = rows_of(rows, (bases == base) & (quotes == quote))
                at = np.searchsorted(grid, np.asarray(part["cell"], np.int64))
                value = floats_of(part, "price") * rates[quote][at]
                found[at] = np.where(np.isnan(found[at]), value, found[at])
                from_marks = np.asarray(part["rank"]) // PLACES == FALLBACK_RANK
                if from_marks.any():
                    self.counts.index_from_marks[base] += int(from_marks.sum())
        return found

    def _count_unknown(
        self, rows: pd.DataFrame, grid: IntArray, rates: dict[str, FloatArray]
    ) -> None:
        at = np.searchsorted(grid, rows["cell"].to_numpy(np.int64))
        for quote in set(rows["quote"]):
            mine = (rows["quote"] == quote).to_numpy(bool)
            rate = rates.get(quote)
            bad = int(mine.sum()) if rate is None else int(np.isnan(rate[at[mine]]).sum())
            if bad:
                self.counts.without_usd[quote] += bad


def check_index(counts: GridCounts, coins: set[str], found: set[str]) -> None:
    """Refuse a market in which a coin has no index at all; says what to add.

    Raises:
        DataError: a coin has marks and no index.
    """
    lacking = sorted(coins - found)
    if not lacking and found - {"USD"}:
        return
    what = ", ".join(lacking) or "any currency"
    if counts.without_usd:
        quote = next(iter(counts.without_usd))
        shown = ", ".join(f"{n:,} in {quote}" for quote, n in counts.without_usd.items())
        raise DataError(
            f"no index price of {what} in USD; prices that cannot be told in USD: {shown}; add a "
            f"source of {quote} in USD, or assume it: [ingest.assumed_usd] {quote} = 1.0"
        )
    raise DataError(
        f"no index price of {what}; add a source of it (spot or index prices), or take the mark of "
        "the perpetual with '[ingest] index_from_marks = true' (assumed)"
    )


def _as_quotes(marks: pd.DataFrame, instruments: pd.DataFrame) -> pd.DataFrame:
    """Marks of perpetuals as prices of their coins, of the last rank."""
    terms = instruments.reindex(pd.Index(marks["instrument_id"])).reset_index(drop=True)
    perpetual = (terms["kind"] == "perpetual").to_numpy(bool)
    quote = terms["settle"].where(terms["style"] == "linear", "USD")
    rows = pd.DataFrame(
        {
            "time": marks["time"],
            "cell": times_of(marks, "time"),
            "base": terms["coin"].astype("str"),
            "quote": quote.astype("str"),
            "price": marks["mark_price"],
            "rank": FALLBACK_RANK * PLACES,
        }
    )
    return rows_of(rows, perpetual)


def _best(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Of each key the rows of the smallest rank, by key and time."""
    best = rows.groupby(keys)["rank"].transform("min")
    chosen = rows_of(rows, np.asarray(rows["rank"] == best, bool))
    return chosen.sort_values(by=[*keys, "time"], kind="stable")


def _long(prices: dict[str, FloatArray], grid: IntArray) -> pd.DataFrame:
    matrix = np.column_stack(list(prices.values()))
    row, column = np.nonzero(np.isfinite(matrix))
    return pd.DataFrame(
        {
            "time": timestamps(grid[row]),
            "currency": pd.Categorical.from_codes(column, categories=pd.Index(list(prices))),
            "usd": matrix[row, column],
        }
    )
