"""Saved results of a run as tables, pictures, comparisons and explanations."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Group, RenderableType

from backtest.api.margins import Margin, as_text
from backtest.config import RunConfig
from backtest.dataset import Dataset, TimeLike, utc
from backtest.errors import ConfigError
from backtest.explain import AccountHistory, Explained, explain_portfolio
from backtest.explain_liquidation import render_liquidation
from backtest.explain_text import render_margin, render_stored
from backtest.liquidation_figure import liquidation_figure
from backtest.market_window import stamp
from backtest.report import figures, reader
from backtest.report.build import build_report
from backtest.report.compare import flip_table, flipped_accounts
from backtest.report.comparison import comparison
from backtest.report.tables import all_tables, summary_table


@dataclass(frozen=True)
class Comparison:
    """Two parameter sets on the same accounts and prices; what `pmstress compare` prints.

    Fields:
        content: everything as plain data, as `pmstress compare --json`.
        sets: one column a set: rates with their intervals, bad debt, margin.
        groups: the flip table by who the accounts are; net = newly liquidated - saved.
        flipped: accounts that one set liquidates and the other does not, the largest first.
    """

    content: dict[str, Any]
    sets: pd.DataFrame
    groups: pd.DataFrame
    flipped: pd.DataFrame

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        return self.content["verdict"]["sentence"]

    @property
    def points(self) -> dict[str, str]:
        """What the verdict rests on, a sentence each."""
        return self.content["verdict"]["points"]

    def pairs(self) -> pd.Series:
        """Accounts by who liquidates them: both, only_champion, only_challenger, neither."""
        found = self.content["pairs"]
        names = ("both", "only_champion", "only_challenger", "neither")
        return pd.Series({name: found[name] for name in names}, name="accounts")


@dataclass(frozen=True)
class Explanation:
    """One account at one time of a run, recomputed by the float64 reference.

    Fields:
        margin: charges, scenarios and totals.
        portfolio: the account as a portfolio file, marks and index as the run knew them.
        found: the steps, the stored numbers, the liquidation of that time.
    """

    margin: Margin
    portfolio: dict[str, Any]
    found: Explained

    def stored(self) -> pd.Series | None:
        """What the run saved of that time; None where it did not trace the account."""
        stored = self.found.stored
        return None if stored is None else pd.Series(stored, name="stored", dtype=object)

    def text(self) -> str:
        """Every step, as `pmstress explain` prints it."""
        parts: list[RenderableType] = [render_margin(self.found.answer, labels=self.found.labels)]
        if self.found.stored is not None:
            parts.append(render_stored(self.found.answer, self.found.stored))
        if self.found.liquidation is not None:
            parts.append(render_liquidation(self.found.liquidation))
        return as_text(Group(*parts))

    def figure(self) -> Figure:
        """The liquidation of that time where there was one, else the stress grid."""
        done = self.found.liquidation
        return self.margin.figure() if done is None else liquidation_figure(done)


class RunResults(reader.Results):
    """Saved results of one run, read on demand: a table, a set, a few columns at a time.

    ``summary``, ``accounts``, ``events``, ``traces``, ``index``, ``parameter_paths`` and
    ``simulated`` give pandas; ``lazy`` the same as a dask frame. All of it is Parquet below
    ``path``, for any other tool.

    Example:
        >>> results = RunResults("build/runs/demo")             # doctest: +SKIP
        >>> results.accounts(["account_id", "episodes"], "today")  # doctest: +SKIP
        >>> results.figure("timeline")                          # doctest: +SKIP
    """

    def lazy(self, table: str, parameter_set: str | None = None) -> dd.DataFrame:
        """A table as a dask frame, nothing read yet; a partition a file.

        Args:
            table: ``accounts``, ``events``, ``summary``, ``traces``, or a table of liquidations.
            parameter_set: rows of one set; None = all, where their charges are the same.

        Raises:
            ConfigError: an unknown table or set, or sets of several models at once.
        """
        named = self.set_names if parameter_set is None else [self.check_set(parameter_set)]
        if len(self.alike(named)) > 1:
            raise ConfigError(
                f"{self.path}: the sets {', '.join(named)} have different charges; "
                "name one as 'parameter_set'"
            )
        files = self.files(table, parameter_set)
        if not files:
            known = ", ".join(sorted({p.parent.name for p in self.path.glob("*/*.parquet")}))
            raise ConfigError(f"{self.path}: no table '{table}'; this run has {known}")
        meta = reader.file_frame(files[0]).iloc[:0]
        read = functools.partial(reader.file_frame, parameter_set=parameter_set)
        return dd.from_map(read, files, meta=meta)

    @property
    def figure_names(self) -> list[str]:
        """Names that ``figure`` takes for this run."""
        return list(figures.shown(self))

    def figure(self, name: str) -> Figure:
        """A figure of the report.

        Raises:
            ConfigError: there is none of that name; lists those there are.
        """
        drawers = figures.shown(self)
        if name not in drawers:
            raise ConfigError(f"no figure '{name}'; this run has {', '.join(drawers)}")
        return drawers[name](self)

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the report by name."""
        return all_tables(self)

    def compare(self, champion: str | None = None, challenger: str | None = None) -> Comparison:
        """Two parameter sets, account by account.

        Args:
            champion: set of today; the run's champion if None.
            challenger: set to judge; the run's first other set if None.

        Raises:
            ConfigError: an unknown set, twice the same, or a run of one set.
        """
        left = champion or self.champion
        others = [name for name in self.set_names if name != left]
        if challenger is None and not others:
            raise ConfigError(f"{self.path}: the run has one parameter set, {left!r}")
        right = challenger or others[0]
        content = comparison(self, left, right)
        sets = summary_table(self, left, [right]).set_index("parameter_set").T
        groups = flip_table(self, left, right)
        return Comparison(content, sets, groups, flipped_accounts(self, left, right))

    def explain(
        self, account_id: str, time: TimeLike, parameter_set: str | None = None
    ) -> Explanation:
        """Every step of one account's margin at one time of the run's grid.

        Args:
            account_id: account.
            time: UTC where it has no zone.
            parameter_set: the run's first one if None.

        Raises:
            ConfigError: unknown account or set, or a time off the grid (names the nearest).
            DataError: the run's dataset is not where it was.
        """
        found = explain_portfolio(self.path, account_id, utc(time), parameter_set)
        return Explanation(Margin(found.answer, found.labels), found.portfolio, found)

    def portfolios(
        self, account_id: str, times: pd.DatetimeIndex | None = None
    ) -> Iterator[tuple[pd.Timestamp, dict[str, Any]]]:
        """An account at times of the grid, as portfolio files: snapshot, marks and index then.

        What interest, conversions or simulated liquidations have moved, prices too, is left out.

        Args:
            account_id: account.
            times: times of the grid, ascending; all of them if None.

        Raises:
            ConfigError: unknown account, or a time off the grid.
        """
        config = RunConfig.model_validate(self.manifest["config"])
        dataset = Dataset.open(Path(self.manifest["dataset"]["path"]))
        history = AccountHistory(dataset, config, account_id)
        chosen = map(stamp, history.grid_us.tolist()) if times is None else map(utc, times)
        for time in chosen:
            yield time, history.portfolio(time)

    def report(self) -> Path:
        """Rebuild the report; returns its page."""
        return build_report(self).page


def open_results(folder: str | Path) -> RunResults:
    """Saved results of a finished run.

    Raises:
        DataError: no results folder.
    """
    return RunResults(folder)
