"""Accounts, balances, positions and orders: checked against the market and written as they come."""

from pathlib import Path

import numpy as np
import pandas as pd

from backtest.dataset import Dataset, DatasetWriter, bucket_of
from backtest.ingest.cells import BAD
from backtest.ingest.config import AccountDefaults, CsvSource, OkxAccountSource
from backtest.ingest.intake import Intake
from backtest.ingest.mapping import mapped_chunks
from backtest.ingest.okx_files import read_account
from backtest.market.series import rows_of
from backtest.row_rules import DUPLICATE, cleaner, describe_rows
from backtest.schema import TABLES


TABLE_NAMES = ("accounts", "balances", "positions", "orders")


class AccountTables:
    """Writes the rows of accounts; those without a row of their own get one at the end.

    Args:
        intake: takes what is quarantined.
        writer: of the dataset.
        market: instruments, and currencies that have an index.
        existing: the dataset to which accounts are added, if it is there already.
    """

    def __init__(
        self,
        intake: Intake,
        writer: DatasetWriter,
        market: tuple[pd.DataFrame, list[str]],
        existing: Dataset | None,
    ) -> None:
        self._intake, self._writer, self._market = intake, writer, market
        self._existing = existing
        self._described: set[str] = set()
        self._held: dict[str, str] = {}
        self.rows: dict[str, int] = {}
        self.incomplete: set[str] = set()
        """Accounts that held rows which cannot be used."""
        if existing is not None and existing.has("accounts"):
            for bucket in existing.bucket_ids():
                self._described |= set(existing.accounts(bucket)["account_id"].astype("str"))

    def csv(self, source: CsvSource, paths: list[Path]) -> None:
        """Take in a mapped table."""
        for rows in mapped_chunks(source, paths, self._intake, with_bad=True):
            bad = rows.pop(BAD).to_numpy(bool)
            self._write(source.table, rows_of(rows, ~bad))
            if source.table != "accounts":
                amount = "cash" if source.table == "balances" else "contracts"
                self._spoil(source.table, rows_of(rows, bad).assign(**{amount: np.nan}))

    def okx(self, source: OkxAccountSource, paths: list[Path]) -> None:
        """Take in one account of OKX."""
        before = self._intake.ledger.quarantined
        found = read_account(source, paths, self._intake)
        if self._intake.ledger.quarantined > before:
            one = {"time": [found.time], "account_id": [found.account_id]}
            self._spoil("positions", pd.DataFrame(one).assign(contracts=np.nan))
        for table in ("balances", "positions", "orders"):
            rows: pd.DataFrame = getattr(found, table)
            if len(rows):
                self._write(table, rows, found.segment)
        if found.account_id not in self._described:
            account = found.account(self._intake.config.accounts.borrow_mode)
            self._write("accounts", account)

    def finish(self, defaults: AccountDefaults) -> int:
        """Describe the accounts that no file has described; how many."""
        missing = sorted(set(self._held) - self._described)
        if missing:
            frame = pd.DataFrame(
                {
                    "account_id": missing,
                    "segment": [self._held[name] or defaults.segment for name in missing],
                    "borrow_mode": defaults.borrow_mode,
                    "spot_mode": None,
                }
            )
            self._write("accounts", frame)
        return len(missing)

    def _write(self, table: str, rows: pd.DataFrame, segment: str = "") -> None:
        columns = TABLES[table].columns
        lacking = {c.name: np.nan for c in columns if c.name not in rows.columns}
        check = cleaner(table, *self._market)
        clean = check(rows.assign(**lacking).reset_index(drop=True))
        good = self._fresh(table, self._intake.ledger.add(self._intake.source, table, clean))
        if table != "accounts":
            self._spoil(table, clean.rejected)
        names = good["account_id"].astype("str").unique()
        if table == "accounts":
            self._described.update(names)
        else:
            self._held.update({name: self._held.get(name, segment) or segment for name in names})
        getattr(self._writer, table)(good)
        self.rows[table] = self.rows.get(table, 0) + len(good)

    def _spoil(self, table: str, rows: pd.DataFrame) -> None:
        """Write rows that cannot be used as such, so that the replay keeps their accounts out.

        Without them an account would be margined on what is left of its portfolio.
        """
        rows = rows_of(rows, (rows["account_id"].notna() & rows["time"].notna()).to_numpy(bool))
        if rows.empty:
            return
        names = rows["account_id"].astype("str").unique()
        self.incomplete.update(names)
        if self._intake.config.accounts.incomplete == "quarantine":
            self._held.update({name: self._held.get(name, "") for name in names})
            lacking = {c.name: np.nan for c in TABLES[table].columns if c.name not in rows.columns}
            getattr(self._writer, table)(rows.assign(**lacking))

    def _fresh(self, table: str, rows: pd.DataFrame) -> pd.DataFrame:
        """Without rows whose key the dataset has already; those are quarantined."""
        if self._existing is None or rows.empty:
            return rows
        key = list(TABLES[table].key)
        parts: list[pd.DataFrame] = []
        for bucket in {bucket_of(str(n), self._writer.buckets) for n in rows["account_id"]}:
            if table == "accounts":
                found = self._existing.parts(table, bucket=bucket)
                parts.append(self._existing.read_parts(table, found, key))
                continue
            for time in pd.Series(rows["time"]).unique():
                day = pd.Timestamp(time).strftime("%Y-%m-%d")
                found = self._existing.parts(table, day, day, bucket)
                parts.append(self._existing.read_parts(table, found, key))
        old = pd.concat(parts, ignore_index=True).astype({n: "str" for n in key if n != "time"})
        mine = rows.astype({n: "str" for n in key if n != "time"})
        same, here = (pd.MultiIndex.from_arrays([f[n] for n in key]) for f in (old, mine))
        twice = here.isin(same)
        if twice.any():
            bad = rows_of(rows, twice).reset_index(drop=True)
            told = describe_rows(table, bad, np.arange(len(bad)))
            shown = pd.DataFrame(
                {"_file": told["file"], "_row": told["row"], "column": ", ".join(key),
                 "value": told["key"]}
            )  # fmt: skip
            self._intake.ledger.set_aside(self._intake.source, table, shown, DUPLICATE)
        return rows_of(rows, ~twice).reset_index(drop=True)
