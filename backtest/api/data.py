"""Datasets: built for a run, checked row by row, summed up."""

from collections.abc import Callable
from pathlib import Path

from backtest import quality
from backtest.config import RunConfig, load_config
from backtest.dataset import Dataset
from backtest.ensure import ensure_dataset


def build_dataset(
    config: RunConfig | str | Path, *, say: Callable[[str], None] = lambda text: None
) -> Dataset:
    """The dataset of a run, built where it is absent: market, then accounts.

    Raises:
        ConfigError: the dataset was built from other sections than the configuration has now.
        DataError: there is nothing to build it from, or the source data are unusable.
    """
    chosen = config if isinstance(config, RunConfig) else load_config(config)
    return ensure_dataset(chosen, say)


def check_dataset(dataset: Dataset | str | Path) -> quality.CheckReport:
    """Every row of a dataset checked: unusable ones by reason, gaps, coverage; changes nothing.

    Raises:
        DataError: no dataset, or a table is missing.
    """
    return quality.check(_opened(dataset))


def describe_dataset(dataset: Dataset | str | Path) -> quality.Description:
    """What a dataset holds: times, rows and bytes of its tables, instruments, accounts, source.

    Raises:
        DataError: no dataset, or a table is missing.
    """
    return quality.describe(_opened(dataset))


def _opened(dataset: Dataset | str | Path) -> Dataset:
    return dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
