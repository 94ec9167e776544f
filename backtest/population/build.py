"""Stream a population to a market dataset, bucket by bucket, with bounded memory."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from backtest.dataset import Dataset
from backtest.dataset_writer import DatasetWriter
from backtest.errors import ConfigError
from backtest.population.arrays import Floats, Ints, Names
from backtest.population.books import Books, Maker, draw_equity, make_books
from backtest.population.choices import order_rows, resting_orders, spot_modes
from backtest.population.config import ARCHETYPES, PopulationConfig
from backtest.population.draws import Draws
from backtest.population.evolve import next_books
from backtest.population.health import HealthModel
from backtest.population.market_view import MarketView
from backtest.population.registry import KINDS, Mix, resolve_mix
from backtest.population.report import (
    DELTA_EDGES,
    EQUITY_EDGES_USD,
    LEVEL_EDGES,
    LEVERAGE_EDGES,
    PopulationReport,
    Tally,
)
from backtest.schema import TABLES


CHUNK_ACCOUNTS = 65_536
CHUNK_CELLS = 4_000_000
_LEAST_CHUNK = 1_024
DIGITS = 7
ACCOUNT_TABLES = ("accounts", "positions", "balances", "orders")
Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)


def account_ids(number: Ints) -> Names:
    """Names of accounts: ``A`` and the number in seven digits.

    Example:
        >>> account_ids(np.array([12])).tolist()
        ['A0000012']
    """
    return _letters(number).view(f"S{DIGITS + 1}").ravel().astype(str).astype(object)


def _letters(number: Ints) -> npt.NDArray[np.uint8]:
    """Letters of the names of accounts, one row a name."""
    digits = number[:, None] // 10 ** np.arange(DIGITS - 1, -1, -1) % 10 + ord("0")
    return np.column_stack([np.full(len(number), ord("A")), digits]).astype(np.uint8)


def account_buckets(first: int, last: int, buckets: int) -> npt.NDArray[np.int16]:
    """Bucket ``crc32(account_id) mod buckets`` of the accounts ``first`` to ``last - 1``."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, np.uint32(0xEDB88320) ^ (table >> 1), table >> 1)
    out = np.empty(last - first, np.int16)
    for start in range(first, last, CHUNK_ACCOUNTS):
        number = np.arange(start, min(start + CHUNK_ACCOUNTS, last), dtype=np.int64)
        crc = np.full(len(number), 0xFFFFFFFF, np.uint32)
        for letter in _letters(number).T:
            crc = table[(crc ^ letter) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
        bucket = (crc ^ np.uint32(0xFFFFFFFF)) % np.uint32(buckets)
        out[number - first] = bucket
    return out


def stays(number: Ints, snapshots: int, stay: int | None) -> tuple[Ints, Ints]:
    """First snapshot of accounts, and the one at which they are gone.

    Every snapshot has as many accounts but for rounding: some have begun before the first one.

    Example:
        >>> [x.tolist() for x in stays(np.arange(4), 3, 2)]
        [[0, 0, 1, 2], [1, 2, 3, 3]]
    """
    stay = snapshots if stay is None else min(stay, snapshots)
    if stay == snapshots:
        return np.zeros_like(number), np.full_like(number, snapshots)
    begins = number % (snapshots + stay - 1) - (stay - 1)
    return np.maximum(begins, 0), np.minimum(begins + stay, snapshots)


def build_population(
    dataset_root: Path, config: PopulationConfig, progress: Progress | None = None
) -> PopulationReport:
    """Add synthetic accounts to a market dataset; saves and returns the report.

    What an account holds depends on the seed, its number, the market and the configuration, but
    not on buckets, chunks or how many accounts there are.

    Args:
        dataset_root: folder of a finished market dataset.
        config: section ``[population]``.
        progress: called with (accounts done, accounts in all) after every chunk.

    Raises:
        ConfigError: the dataset has accounts already and ``overwrite`` is off, or a snapshot time
            or the mix does not fit the market.

    Example:
        >>> build_population(root, PopulationConfig(accounts=1000))  # doctest: +SKIP
    """
    began = time.perf_counter()
    DatasetWriter.reopen(dataset_root)  # removes what an interrupted build had added
    dataset = Dataset.open(dataset_root)
    _refuse_or_clear(dataset, config.overwrite, clear=False)
    stage = _Stage(dataset, config)
    _refuse_or_clear(dataset, config.overwrite, clear=True)
    writer = DatasetWriter.reopen(dataset_root, config.bucket_count())
    tally, done = Tally(), 0
    rows = {name: 0 for name in ACCOUNT_TABLES[:3]}
    for numbers in _chunks(config, stage.chunk):
        stage.write(writer, numbers, tally, rows)
        done += len(numbers)
        if progress is not None:
            progress(done, config.accounts)
    writer.finish()
    seconds = time.perf_counter() - began
    report = _report(dataset.meta.name, config, stage, tally, rows, seconds)
    report.save(dataset_root)
    return report


def _report(
    name: str,
    config: PopulationConfig,
    stage: "_Stage",
    tally: Tally,
    rows: dict[str, int],
    seconds: float,
) -> PopulationReport:
    return PopulationReport(
        name=name,
        accounts=config.accounts,
        buckets=config.bucket_count(),
        snapshots=[time.to_pydatetime() for time in stage.times],
        rows=rows,
        seconds=round(seconds, 3),
        left_out=stage.mix.left_out,
        archetypes=tally.summaries(),
        equity_edges_usd=EQUITY_EDGES_USD.tolist(),
        leverage_edges=LEVERAGE_EDGES.tolist(),
        delta_edges=DELTA_EDGES.tolist(),
        level_edges=[*LEVEL_EDGES[:-1].tolist(), None],
        config=config,
    )


def _refuse_or_clear(dataset: Dataset, overwrite: bool, clear: bool) -> None:
    """Refuse a dataset that has accounts, or remove them when that is asked for."""
    present = [name for name in ACCOUNT_TABLES if dataset.has(name)]
    if present and not overwrite:
        raise ConfigError(
            f"{dataset.root}: has accounts already (table '{present[0]}'); "
            "set population.overwrite = true to replace them"
        )
    for name in ACCOUNT_TABLES if clear else ():
        shutil.rmtree(dataset.root / name, ignore_errors=True)


def _chunks(config: PopulationConfig, most: int) -> Iterator[Ints]:
    """Account numbers bucket by bucket, at most ``most`` at a time."""
    bucket = account_buckets(0, config.accounts, config.bucket_count())
    order = np.argsort(bucket, kind="stable").astype(np.int32)
    ends = np.cumsum(np.bincount(bucket, minlength=config.bucket_count()))
    for first, last in zip([0, *ends[:-1]], ends, strict=True):
        for start in range(first, last, most):
            yield order[start : min(start + most, last)].astype(np.int64)


class _Stage:
    """Markets of all snapshots, and the work on one chunk of accounts."""

    def __init__(self, dataset: Dataset, config: PopulationConfig) -> None:
        view = MarketView(dataset, config)
        self._config = config
        self.times = view.snapshot_times()
        self._makers: list[Maker] = []
        self._settle: list[Floats] = []
        for step, when in enumerate(self.times):
            begins = step == 0 or config.stay is not None
            universe = view.universe(when, config.entry.lookback_hours if begins else 0.0)
            self._makers.append(Maker(universe, HealthModel(universe, config.health), config))
            if step > 0:
                self._settle.append(view.settlement(self.times[step - 1], when))
        self.mix: Mix = resolve_mix(self._makers[0].universe, config)
        if self.mix.left_out:
            _log.info("archetypes not possible on this market: %s", sorted(self.mix.left_out))
        width = len(view.market.currencies)
        self.chunk = max(_LEAST_CHUNK, min(CHUNK_ACCOUNTS, CHUNK_CELLS // width))
        self._ids = pd.CategoricalDtype(pd.Index(view.market.ids, dtype=object))
        self._currencies = pd.CategoricalDtype(list(view.market.currencies))

    def write(
        self, writer: DatasetWriter, number: Ints, tally: Tally, rows: dict[str, int]
    ) -> None:
        """Make the books of some accounts at their snapshots and hand them to the writer."""
        begins, ends = stays(number, len(self.times), self._config.stay)
        for first, stop in np.unique(np.stack([begins, ends], axis=1), axis=0).tolist():
            mine = number[(begins == first) & (ends == stop)]
            self._write(writer, mine, range(first, stop), tally, rows)

    def _write(
        self,
        writer: DatasetWriter,
        number: Ints,
        steps: range,
        tally: Tally,
        rows: dict[str, int],
    ) -> None:
        """The same of accounts that come and go together."""
        names = pd.CategoricalDtype(pd.Index(account_ids(number), dtype=object))
        maker = self._makers[steps[0]]
        books = self._first(number, maker)
        tally.add(books, maker.universe)
        accounts = self._accounts(names, books, maker)
        writer.accounts(accounts)
        rows["accounts"] += len(accounts)
        for step in steps:
            if step > steps[0]:
                before = self._makers[step - 1].universe
                settle = self._settle[step - 1]
                books = next_books(books, before, self._makers[step], settle, step)
            positions = self._positions(names, books, self.times[step])
            balances = self._balances(names, books, self.times[step])
            writer.positions(positions)
            writer.balances(balances)
            if self._config.orders.share > 0:
                writer.orders(self._orders(names, books, step))
            rows["positions"] += len(positions)
            rows["balances"] += len(balances)

    def _first(self, number: Ints, maker: Maker) -> Books:
        draws = Draws(self._config.seed, number, "start")
        archetype = draws.choice("archetype", self.mix.weights)
        equity = draw_equity(draws, self._config.size, archetype)
        return make_books(maker, draws, archetype, equity)

    def _accounts(self, names: pd.CategoricalDtype, books: Books, maker: Maker) -> pd.DataFrame:
        draws = Draws(self._config.seed, books.number, "account")
        tied = np.array([KINDS[name].tied for name in ARCHETYPES])[books.archetype]
        share = self._config.non_auto_share * np.where(tied, 0.25, 1.0)
        modes = pd.CategoricalDtype(list(_allowed("borrow_mode")))
        non_auto = (draws.uniform("borrow_mode") < share).astype(np.int8)
        return pd.DataFrame(
            {
                "account_id": pd.Categorical.from_codes(np.arange(len(books.number)), dtype=names),
                "segment": pd.Categorical.from_codes(
                    books.archetype, dtype=pd.CategoricalDtype(list(ARCHETYPES))
                ),
                "borrow_mode": pd.Categorical.from_codes(non_auto, dtype=modes),
                "spot_mode": pd.Series(spot_modes(books, maker.universe), dtype=object),
            }
        )

    def _positions(
        self, names: pd.CategoricalDtype, books: Books, when: pd.Timestamp
    ) -> pd.DataFrame:
        legs = books.legs
        return pd.DataFrame(
            {
                "time": _constant(when, len(legs.account)),
                "account_id": pd.Categorical.from_codes(legs.account, dtype=names),
                "instrument_id": pd.Categorical.from_codes(legs.instrument, dtype=self._ids),
                "contracts": legs.contracts,
                "entry_price": legs.entry,
            }
        )

    def _orders(self, names: pd.CategoricalDtype, books: Books, step: int) -> pd.DataFrame:
        draws = Draws(self._config.seed, books.number, f"orders {step}")
        universe = self._makers[step].universe
        account, instrument, contracts, price = resting_orders(
            books, universe, self._config.orders, draws
        )
        return order_rows(
            _constant(self.times[step], len(account)),
            pd.Categorical.from_codes(account, dtype=names),
            pd.Categorical.from_codes(instrument, dtype=self._ids),
            contracts,
            price,
        )

    def _balances(
        self, names: pd.CategoricalDtype, books: Books, when: pd.Timestamp
    ) -> pd.DataFrame:
        limited = np.isfinite(books.limit)
        account, currency = np.nonzero(books.shown | limited)
        limit = np.where(limited, books.limit, np.nan)[account, currency]
        return pd.DataFrame(
            {
                "time": _constant(when, len(account)),
                "account_id": pd.Categorical.from_codes(account, dtype=names),
                "currency": pd.Categorical.from_codes(currency, dtype=self._currencies),
                "cash": books.cash[account, currency],
                "spot_limit": limit,
            }
        )


def _allowed(column: str) -> tuple[str, ...]:
    return TABLES["accounts"].by_name[column].allowed


def _constant(when: pd.Timestamp, count: int) -> pd.DatetimeIndex:
    stamp = when.as_unit("us").tz_localize(None).to_datetime64()
    return pd.DatetimeIndex(np.full(count, stamp)).tz_localize("UTC")
