"""Looks through a dataset day by day: memory holds one day of marks."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from backtest.dataset import Dataset, utc
from backtest.market.black import FloatArray, IntArray
from backtest.market.series import SECOND_US, floats_of, names_of, rows_of, times_of
from backtest.market_report import checks
from backtest.market_report.checks import Limits, StaleRuns
from backtest.quality import CheckReport, check, clean_instruments


MOST_BINS = 160
MOST_ROWS = 40
"""Lines of the coverage map; beyond that futures and options are shown by coin."""


@dataclass
class Coverage:
    """Share of the expected grid times that have a row, by line and bin of time."""

    lines: list[str]
    edges: IntArray
    """Bounds of the bins, microseconds."""
    share: FloatArray
    """[line, bin]; NaN where nothing is expected."""


@dataclass
class MarketFindings:
    """What the report shows."""

    check: CheckReport
    found: dict[str, pd.DataFrame]
    """Findings by check."""
    life: pd.DataFrame
    """First and last mark of every instrument beside its listing and expiry."""
    coverage: Coverage
    limits: Limits = field(default_factory=Limits)


class _Lives:
    """First and last row of every subject, and by bin of time the grid's times that have a row."""

    def __init__(self, grid: IntArray, edges: IntArray) -> None:
        self.grid, self.edges = grid, edges
        self._step = int(grid[1] - grid[0]) if len(grid) > 1 else 1
        self.first: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self.bins: dict[str, IntArray] = {}

    def add(self, names: np.ndarray, micros: IntArray) -> None:
        codes, distinct = pd.factorize(names)
        # Rows between two grid times (recorded snapshots) count for the one before, once.
        cell = np.clip((micros - self.grid[0]) // self._step, 0, len(self.grid) - 1)
        seen = np.unique(np.column_stack([codes, cell]), axis=0)
        place = np.searchsorted(self.edges, self.grid[seen[:, 1]], "right") - 1
        counts = np.zeros((len(distinct), len(self.edges) - 1), np.int64)
        np.add.at(counts, (seen[:, 0], place), 1)
        first = np.full(len(distinct), np.iinfo(np.int64).max)
        last = np.zeros(len(distinct), np.int64)
        np.minimum.at(first, codes, micros)
        np.maximum.at(last, codes, micros)
        for i, name in enumerate(map(str, distinct)):
            self.first[name] = min(self.first.get(name, int(first[i])), int(first[i]))
            self.last[name] = max(self.last.get(name, int(last[i])), int(last[i]))
            self.bins[name] = self.bins.get(name, 0) + counts[i]


def scan(dataset: Dataset, limits: Limits | None = None) -> MarketFindings:
    """All checks of a dataset's market.

    Args:
        dataset: opened dataset.
        limits: what counts as a finding.
    """
    limits = limits or Limits()
    instruments = clean_instruments(dataset.instruments()).good.set_index("instrument_id")
    step = dataset.meta.interval_seconds * SECOND_US
    first, last = (utc(t).value // 1000 for t in (dataset.meta.first_time, dataset.meta.last_time))
    grid = np.arange(first, last + 1, step)
    bounds = np.linspace(first, last + step, min(MOST_BINS, len(grid)) + 1)
    edges = np.unique(bounds.astype(np.int64))
    lives, index_lives = _Lives(grid, edges), _Lives(grid, edges)
    stale = StaleRuns(limits.stale_rows)
    found: dict[str, list[pd.DataFrame]] = {}
    carried: dict[str, pd.DataFrame] = {}
    for day in sorted({part.date for part in dataset.parts("marks")} | {None}, key=str):
        if day is None:
            continue
        end = utc(day) + pd.Timedelta(days=1) - pd.Timedelta(microseconds=1)
        index = dataset.index(day, end).sort_values(by="time", kind="stable")
        marks = dataset.marks(day, end).sort_values(by="time", kind="stable")
        marks = _with_terms(marks, index, instruments)
        lives.add(names_of(marks, "instrument_id"), times_of(marks, "time"))
        index_lives.add(names_of(index, "currency"), times_of(index, "time"))
        stale.add(marks)
        for name, rows in _day(marks, index, carried, limits).items():
            found.setdefault(name, []).append(rows)
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}
    joined["stale marks"] = stale.result()
    life = _life(instruments, lives, (first, last, step))
    coverage = _coverage(life, lives, index_lives, grid)
    return MarketFindings(check(dataset), joined, life, coverage, limits)


def _with_terms(
    marks: pd.DataFrame, index: pd.DataFrame, instruments: pd.DataFrame
) -> pd.DataFrame:
    """Marks with the terms of their instrument, the index in USD and the basis to it."""
    terms = instruments.reindex(pd.Index(names_of(marks, "instrument_id"))).reset_index(drop=True)
    rows = marks.reset_index(drop=True)
    columns = ["kind", "coin", "settle", "style", "strike", "option_type", "expiry"]
    rows = rows.assign(**{name: terms[name] for name in columns})
    once = index.drop_duplicates(["time", "currency"])
    quoted = pd.MultiIndex.from_arrays([once["time"], names_of(once, "currency")])
    usd = pd.Series(floats_of(once, "usd"), quoted)

    def price(currency: pd.Series) -> FloatArray:
        keys = pd.MultiIndex.from_arrays([rows["time"], currency.astype("str")])
        return np.asarray(usd.reindex(keys), np.float64)

    coin = price(pd.Series(rows["coin"]))
    quote = np.where(rows["style"] == "inverse", 1.0, price(pd.Series(rows["settle"])))
    return rows.assign(index_usd=coin, basis=floats_of(rows, "mark_price") * quote / coin - 1.0)


def _day(
    marks: pd.DataFrame, index: pd.DataFrame, carried: dict[str, pd.DataFrame], limits: Limits
) -> dict[str, pd.DataFrame]:
    kind = names_of(marks, "kind")
    linear = rows_of(marks, (kind == "perpetual") | (kind == "future"))
    in_coins = names_of(marks, "settle") == names_of(marks, "coin")
    known = np.isfinite(floats_of(marks, "forward"))
    options = rows_of(marks, (kind == "option") & in_coins & known)
    index = index.assign(currency=names_of(index, "currency"))
    linear = linear.assign(instrument_id=names_of(linear, "instrument_id"))
    rows = {
        "jumps of marks": _jumps(linear, "instrument_id", "mark_price", carried, limits),
        "jumps of the index": _jumps(index, "currency", "usd", carried, limits),
        "far from the index": checks.off_the_index(linear, limits.basis_frac),
    }
    if (kind == "option").any():
        rows["absurd or crossed volatilities"] = checks.absurd_volatilities(
            rows_of(marks, kind == "option"), limits
        )
        rows["marks against Black-76"] = checks.against_the_model(options, limits.model_coins)
        rows["put-call parity"] = checks.parity(options, limits.parity_coins)
        rows["calendar arbitrage"] = checks.calendar(options, limits.variance_frac)
    return rows


def _jumps(
    rows: pd.DataFrame, key: str, value: str, carried: dict[str, pd.DataFrame], limits: Limits
) -> pd.DataFrame:
    rows = rows.loc[:, ["time", key, value]]
    before = carried[key] if key in carried else rows.iloc[:0]
    found = checks.jumps(rows, before, key, value, limits.jump_frac)
    both = pd.concat([before, rows], ignore_index=True)
    carried[key] = both.drop_duplicates(key, keep="last")
    return found


def _life(instruments: pd.DataFrame, lives: _Lives, grid: tuple[int, int, int]) -> pd.DataFrame:
    """Every instrument: when it was seen, when it should have been, what is odd about that."""
    start, end, step = grid
    rows: list[dict[str, object]] = []
    for terms in instruments.reset_index().to_dict(orient="records"):
        if terms["kind"] == "spot":
            continue
        name = str(terms["instrument_id"])
        first, last = lives.first.get(name), lives.last.get(name)
        row: dict[str, object] = {"instrument_id": name, "kind": terms["kind"]}
        row |= {"coin": terms["coin"], "listed": terms["listed"], "expiry": terms["expiry"]}
        row |= {"first_mark": _stamp(first), "last_mark": _stamp(last)}
        listed, expiry = _us(terms["listed"]), _us(terms["expiry"])
        row["note"] = _note((first, last), (listed, expiry), (start, end, step))
        rows.append(row)
    columns = ["instrument_id", "kind", "coin", "listed", "expiry", "first_mark", "last_mark"]
    return pd.DataFrame(rows, columns=pd.Index([*columns, "note"]))


def _note(
    seen: tuple[int | None, int | None],
    terms: tuple[int | None, int | None],
    grid: tuple[int, int, int],
) -> str:
    (first, last), (listed, expiry), (start, end, step) = seen, terms, grid
    if first is None or last is None:
        alive = (expiry is None or expiry > start) and (listed is None or listed <= end)
        return "no mark at all" if alive else ""
    if expiry is not None and last >= expiry:
        return "marked at or after its expiry"
    if listed is not None and first < listed:
        return "marked before its listing"
    if first > max(start, listed or 0) + step:
        return "listed later" if listed is None else "first mark later than its listing"
    if last < min(end, (expiry or end + step) - 1) - step:
        return "delisted" if expiry is None else "last mark well before its expiry"
    return ""


def _us(value: object) -> int | None:
    return None if pd.isna(pd.Timestamp(str(value))) else utc(str(value)).value // 1000


def _stamp(micros: int | None) -> pd.Timestamp | None:
    return None if micros is None else utc(pd.Timestamp(micros, unit="us", tz="UTC"))


def _coverage(life: pd.DataFrame, lives: _Lives, index: _Lives, grid: IntArray) -> Coverage:
    edges = lives.edges
    expected = np.histogram(grid, edges)[0].astype(np.float64)
    lines = {f"index {name}": index.bins[name] / expected for name in sorted(index.bins)}
    several = len(life) > MOST_ROWS
    groups: dict[str, list[tuple[FloatArray, FloatArray]]] = {}
    for row in life.to_dict(orient="records"):
        name, kind = str(row["instrument_id"]), str(row["kind"])
        by_coin = kind == "option" or (several and kind == "future")
        line = f"{row['coin']} {kind}s" if by_coin else name
        first, last = _us(row["listed"]), _us(row["expiry"])
        alive = (grid >= (first or 0)) & (grid < (last or np.iinfo(np.int64).max))
        if first is None and by_coin:  # a chain without listing times: from its first mark
            seen = _us(row["first_mark"])
            alive &= grid >= (grid[-1] + 1 if seen is None else seen)
        wanted = np.histogram(grid[alive], edges)[0].astype(np.float64)
        got = np.asarray(lives.bins.get(name, np.zeros(len(edges) - 1)), np.float64)
        groups.setdefault(line, []).append((got, wanted))
    for line in sorted(groups):
        got = np.sum([pair[0] for pair in groups[line]], axis=0)
        wanted = np.sum([pair[1] for pair in groups[line]], axis=0)
        lines[line] = np.where(wanted > 0, np.minimum(got / np.maximum(wanted, 1.0), 1.0), np.nan)
    return Coverage(list(lines), edges, np.array(list(lines.values()), np.float64))
