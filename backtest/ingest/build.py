"""A whole ingest: instruments first, then the market on its grid, then the accounts.

A configuration with account sources only adds them to a dataset that is there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from backtest.dataset import Dataset, DatasetWriter
from backtest.durable import write_bytes
from backtest.errors import ConfigError, DataError
from backtest.ingest.accounts import TABLE_NAMES, AccountTables
from backtest.ingest.binance import read_binance
from backtest.ingest.chains import read_deribit, read_tardis
from backtest.ingest.config import (
    BinanceSource,
    CsvSource,
    DeribitSource,
    FetchedSource,
    IngestConfig,
    OkxAccountSource,
    OkxInstrumentsSource,
    Source,
    TardisSource,
    source_label,
)
from backtest.ingest.fetched import read_fetched
from backtest.ingest.files import matching
from backtest.ingest.grid import Grid, GridCounts, check_index
from backtest.ingest.intake import Intake
from backtest.ingest.ledger import NOT_A_NUMBER, NOT_A_TIME, Tally
from backtest.ingest.mapping import mapped_chunks, read_market_csv
from backtest.ingest.okx_files import read_instruments
from backtest.ingest.staging import Staging
from backtest.layout import META_FILE
from backtest.quality import clean_instruments
from backtest.row_rules import UNKNOWN_INSTRUMENT
from backtest.snapshot_times import known_snapshots, lonely_snapshots, unpaired_snapshots


QUARANTINE_FILE = "quarantine.csv"
MOST_NAMES = 5
"""Accounts that a note names."""
HINTS = {
    NOT_A_TIME: " (say how times are written: format = 'iso', 'ms', '%d/%m/%Y %H:%M' ...)",
    NOT_A_NUMBER: " (say how numbers are written: decimal = '.' or ',', thousands = ',')",
    UNKNOWN_INSTRUMENT: (
        " (say what it is: a source of table = 'instruments', or venue = 'okx' or another whose "
        "names say it)"
    ),
}
"""What a mapping may be lacking, by the reason of the first bad row."""
Progress = Callable[[int, int, str], None]
"""Called with files done, all files and the file that is next."""


@dataclass
class IngestReport:
    """What an ingest read and wrote."""

    dataset: Dataset
    tallies: dict[str, Tally]
    rows: dict[str, int] = field(default_factory=dict)
    """Rows written by table."""
    notes: list[str] = field(default_factory=list)
    quarantine: Path | None = None


def ingest(
    config: IngestConfig, base: Path, out: Path, progress: Progress | None = None
) -> IngestReport:
    """Make a dataset of files, or add accounts to one.

    Args:
        config: which files and what they are.
        base: folder that their patterns are relative to.
        out: folder of the dataset.
        progress: called before each file.

    Raises:
        ConfigError: a pattern without files, or ``out`` is not what the sources need.
        DataError: a file is not readable, lacks a column, or too many rows are quarantined.
    """
    return _Ingest(config, base, out, progress).run()


class _Ingest:
    def __init__(
        self, config: IngestConfig, base: Path, out: Path, progress: Progress | None
    ) -> None:
        self.config, self.out, self.progress = config, out, progress
        self.staging = Staging(out)
        self.intake = Intake(config, base, self.staging)
        self.labels = [source_label(source, i) for i, source in enumerate(config.source)]
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError("[[ingest.source]]: two sources have the same 'name'")
        self.paths = [matching(source.files, base) for source in config.source]
        self.done = 0
        self.rows: dict[str, int] = {}
        self.notes: list[str] = []

    def run(self) -> IngestReport:
        adds_accounts = all(_is_account(source) for source in self.config.source)
        existing = self._existing() if adds_accounts else None
        before = known_snapshots(existing) if existing is not None else set()
        try:
            writer = self._writer(existing)
            market = self._market(writer, existing)
            self._accounts(writer, market, existing)
        finally:
            self.staging.close()
        self._refuse_many()
        dataset = writer.finish()
        warnings = unpaired_snapshots(dataset) + lonely_snapshots(dataset, before)
        self.notes += [f"note: {warning}" for warning in warnings]
        return IngestReport(
            dataset, self.intake.ledger.tallies, self.rows, self.notes, self._save_quarantine()
        )

    def _existing(self) -> Dataset:
        if not (self.out / META_FILE).exists():
            raise ConfigError(
                f"{self.out}: not a dataset; the configuration has accounts only, they are added "
                "to a dataset that is there (make one first, or give sources of market data)"
            )
        return Dataset.open(self.out)

    def _writer(self, existing: Dataset | None) -> DatasetWriter:
        if existing is not None:
            return DatasetWriter.reopen(self.out)
        seconds = int(self.config.interval.total_seconds())
        name = self.config.name or self.out.resolve().name
        return DatasetWriter(self.out, name, seconds, self.config.buckets, self._provenance())

    def _provenance(self) -> dict[str, object]:
        sources = {
            label: {
                "kind": source.kind,
                "files": len(paths),
                "first": paths[0].name,
                "last": paths[-1].name,
                "bytes": sum(path.stat().st_size for path in paths if path.is_file()),
            }
            for label, source, paths in zip(
                self.labels, self.config.source, self.paths, strict=True
            )
        }
        return {
            "kind": "ingested",
            "sources": sources,
            "clock": "a value counts at the first grid time from which it is known",
            "assumed": {
                "usd": self.config.assumed_usd,
                "index_from_marks": self.config.index_from_marks,
            },
        }

    def _files(self, reader: Iterator[Path], paths: list[Path]) -> None:
        """Run a reader through its files."""
        for path in paths:
            if self.progress:
                self.progress(self.done, sum(map(len, self.paths)), path.name)
            next(reader)
            self.done += 1
            self.intake.ledger.of(self.intake.source).files += 1
        next(reader, None)

    def _sources(self) -> Iterator[tuple[Source, list[Path]]]:
        for place, source in enumerate(self.config.source):
            self.intake.begin(self.labels[place], place)
            yield source, self.paths[place]

    # -- market ------------------------------------------------------------------------------------

    def _market(
        self, writer: DatasetWriter, existing: Dataset | None
    ) -> tuple[pd.DataFrame, list[str]]:
        """Write instruments, index and marks; the instruments and the currencies with an index."""
        if existing is not None:
            return clean_instruments(existing.instruments()).good, existing.currencies()
        for source, paths in self._sources():
            self._instruments(source, paths)
        for source, paths in self._sources():
            reader = market_reader(source, paths, self.intake)
            if reader is not None:
                self._files(reader, paths)
        self._refuse_many()
        grid, currencies = Grid(self.intake), set[str]()
        marked: set[str] = set()
        for index, marks in grid.tables():
            writer.index(index)
            writer.marks(marks)
            currencies |= set(index["currency"].astype("str"))
            marked |= set(marks["instrument_id"].astype("str"))
            for table, frame in (("index", index), ("marks", marks)):
                self.rows[table] = self.rows.get(table, 0) + len(frame)
        instruments = self.intake.instruments.frame()
        coins = instruments.loc[instruments["instrument_id"].isin(list(marked)), "coin"]
        check_index(grid.counts, set(coins.astype("str")), currencies)
        if instruments.empty:
            raise DataError("no instrument: the sources have prices of currencies only; add marks")
        writer.instruments(instruments)
        self.rows["instruments"] = len(instruments)
        self.notes += _notes(grid.counts)
        return instruments, sorted(currencies | {"USD"})

    def _instruments(self, source: Source, paths: list[Path]) -> None:
        match source:
            case OkxInstrumentsSource():
                self._files(read_instruments(source, paths, self.intake), paths)
            case CsvSource(table="instruments"):
                for rows in mapped_chunks(source, paths, self.intake):
                    good = self.intake.ledger.add(
                        self.intake.source, "instruments", clean_instruments(rows)
                    )
                    self.intake.instruments.state(good.drop(columns=["_file", "_row"]))
                self.done += len(paths)
                self.intake.ledger.of(self.intake.source).files += len(paths)
            case _:
                pass

    # -- accounts ----------------------------------------------------------------------------------

    def _accounts(
        self,
        writer: DatasetWriter,
        market: tuple[pd.DataFrame, list[str]],
        existing: Dataset | None,
    ) -> None:
        accounts = AccountTables(self.intake, writer, market, existing)
        for source, paths in self._sources():
            if not _is_account(source):
                continue
            if self.progress:
                self.progress(self.done, sum(map(len, self.paths)), paths[0].name)
            if isinstance(source, CsvSource):
                accounts.csv(source, paths)
            elif isinstance(source, OkxAccountSource):
                accounts.okx(source, paths)
            self.done += len(paths)
            self.intake.ledger.of(self.intake.source).files += len(paths)
        described = accounts.finish(self.config.accounts)
        self.rows |= accounts.rows
        if described:
            self.notes.append(
                f"assumed: {described:,} accounts that no file describes have segment and borrow "
                f"mode '{self.config.accounts.borrow_mode}' of [ingest.accounts]"
            )
        if accounts.incomplete:
            self.notes.append(self._incomplete(sorted(accounts.incomplete)))

    def _incomplete(self, names: list[str]) -> str:
        shown = ", ".join(names[:MOST_NAMES]) + (" ..." if len(names) > MOST_NAMES else "")
        does = "keeps them out and counts them as quarantined"
        if self.config.accounts.incomplete == "keep":
            does = "margins what is left of them ([ingest.accounts] incomplete = 'keep')"
        return (
            f"incomplete: {len(names):,} accounts hold quarantined rows ({shown}); a replay {does}"
        )

    # -- quarantine --------------------------------------------------------------------------------

    def _refuse_many(self) -> None:
        """Refuse more quarantined rows than allowed; they are saved to be looked at."""
        ledger, most = self.intake.ledger, self.config.max_quarantined_share
        if ledger.quarantined <= most * max(ledger.read, 1):
            return
        saved = self._save_quarantine()
        first = ledger.quarantine().iloc[0]
        reasons: dict[str, int] = {}
        for tally in ledger.tallies.values():
            for reason, count in tally.reasons.items():
                reasons[reason] = reasons.get(reason, 0) + count
        shown = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        raise DataError(
            f"{ledger.quarantined:,} of {ledger.read:,} rows are quarantined ({shown}), allowed: "
            f"[ingest] max_quarantined_share = {most:g}; first: {first['file']} row "
            f"{first['row']}, column '{first['column']}', value '{first['value']}': "
            f"{first['reason']}{HINTS.get(str(first['reason']), '')}; all of them: {saved}"
        )

    def _save_quarantine(self) -> Path | None:
        rows = self.intake.ledger.quarantine()
        path = self.out / QUARANTINE_FILE
        if rows.empty:
            path.unlink(missing_ok=True)  # of an earlier attempt
            return None
        write_bytes(path, rows.to_csv(index=False).encode())
        return path


def market_reader(source: Source, paths: list[Path], intake: Intake) -> Iterator[Path] | None:
    """What takes in the market data of a source, file by file; None where it has none."""
    match source:
        case BinanceSource():
            return read_binance(source, paths, intake)
        case TardisSource():
            return read_tardis(source, paths, intake)
        case DeribitSource():
            return read_deribit(source, paths, intake)
        case CsvSource() if source.table not in ("instruments", *TABLE_NAMES):
            return read_market_csv(source, paths, intake)
        case FetchedSource():
            return read_fetched(source, paths, intake)
        case _:
            return None


def _is_account(source: Source) -> bool:
    if isinstance(source, CsvSource):
        return source.table in TABLE_NAMES
    return isinstance(source, OkxAccountSource)


def _notes(counts: GridCounts) -> list[str]:
    found = [
        f"assumed: {quote} in USD at {n:,} grid times"
        for quote, n in counts.assumed_usd.items()
        if n
    ]
    found += [
        f"assumed: the perpetual's mark as index of {coin} at {n:,} grid times"
        for coin, n in counts.index_from_marks.items()
    ]
    found += [
        f"left out: {n:,} prices in {quote} at times at which {quote} is not known in USD"
        for quote, n in counts.without_usd.items()
    ]
    return found
