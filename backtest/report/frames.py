"""Small typed steps on data frames, so that every number has one obvious type."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import pandas as pd


def rows(frame: pd.DataFrame, keep: Any) -> pd.DataFrame:
    """Rows where ``keep`` is true, numbered from zero."""
    return cast("pd.DataFrame", frame[np.asarray(keep, dtype=bool)]).reset_index(drop=True)


def numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """A column as float64; null is NaN."""
    return np.asarray(frame[column].to_numpy(dtype=float, na_value=np.nan))


def names(frame: pd.DataFrame, column: str) -> pd.Series:
    """A column of names as a series."""
    return cast("pd.Series", frame[column])


def total(frame: pd.DataFrame, column: str) -> float:
    """Sum of a column of amounts."""
    return float(np.nansum(numbers(frame, column)))


def count(frame: pd.DataFrame, column: str) -> int:
    """Sum of a column of counts, exact."""
    return int(np.sum(frame[column].to_numpy()))


def summed(frame: pd.DataFrame, by: str, columns: Iterable[str]) -> pd.DataFrame:
    """Sums of columns by the values of another, which becomes the index."""
    return cast("pd.DataFrame", frame.groupby(by, sort=True)[list(columns)].sum())


def sized(frame: pd.DataFrame, by: list[str], name: str) -> pd.DataFrame:
    """Number of rows for each combination of ``by``."""
    sizes = cast("pd.Series", frame.groupby(by, sort=True, dropna=False).size())
    sizes.name = name
    return sizes.reset_index()


def ordered(
    frame: pd.DataFrame, by: str | list[str], ascending: bool | list[bool] = True
) -> pd.DataFrame:
    """The frame in stable order, numbered from zero."""
    columns = [by] if isinstance(by, str) else by
    directions = [ascending] * len(columns) if isinstance(ascending, bool) else ascending
    out = frame.sort_values(by=columns, ascending=directions, kind="stable")
    return cast("pd.DataFrame", out).reset_index(drop=True)


def renamed(frame: pd.DataFrame, column: str, words: Mapping[str, str]) -> pd.DataFrame:
    """The frame with the values of a column replaced by words, others kept."""
    found = [words.get(v, v) for v in frame[column].tolist()]
    return frame.assign(**{column: pd.Series(found, index=frame.index, dtype=object)})


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries."""
    return cast("list[dict[str, Any]]", frame.to_dict("records"))


def counted(values: Any) -> pd.Series:
    """How often each value occurs."""
    return cast("pd.Series", pd.Series(values).value_counts())
