"""Where the files of a dataset lie: folders, partitions and ``dataset.json``; opens no Parquet."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from backtest.errors import DataError
from backtest.schema import SCHEMA_VERSION, TABLES, Table


META_FILE = "dataset.json"
MARKER_FILE = ".building.json"


class DatasetMeta(BaseModel):
    """Content of ``dataset.json``; unknown keys are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int
    name: str
    interval_seconds: int = Field(gt=0)
    first_time: AwareDatetime
    last_time: AwareDatetime
    buckets: int = Field(gt=0)
    source: str | dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One Parquet file of a table: path, name relative to the dataset, values of its folders."""

    path: Path
    shown: str
    date: str | None = None
    bucket: int | None = None


def read_meta(root: Path) -> DatasetMeta:
    """Read and validate ``dataset.json``."""
    path = root / META_FILE
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{root}: not a dataset: '{META_FILE}' is missing") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable: {error}") from error
    try:
        meta = DatasetMeta.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "(top level)"
        raise DataError(f"{path}: key '{key}': {first['msg']}") from error
    if meta.schema_version != SCHEMA_VERSION:
        raise DataError(
            f"{path}: key 'schema_version' is {meta.schema_version}, "
            f"this version reads {SCHEMA_VERSION}"
        )
    return meta


def table_parts(
    root: Path,
    table: Table,
    first_date: str | None = None,
    last_date: str | None = None,
    bucket: int | None = None,
) -> Iterator[Part]:
    """Files of a table in a stable order, between two dates (inclusive) and of one bucket.

    Looks only into the folders that it needs and opens no file.

    Raises:
        DataError: a folder is not of the form ``date=YYYY-MM-DD`` or ``bucket=3``.
    """
    single = root / f"{table.name}.parquet"
    if not table.partitions and single.is_file():
        yield Part(single, single.name)
        return
    days = first_date or "", last_date or "9999-12-31"
    for folder, date_text, number in _folders(root / table.name, table.partitions, days):
        if bucket is not None and number not in (None, bucket):
            continue
        shown = folder.relative_to(root).as_posix()
        for name in _names(folder):
            if name.endswith(".parquet"):
                yield Part(folder / name, f"{shown}/{name}", date_text, number)


def _folders(
    folder: Path,
    levels: tuple[str, ...],
    days: tuple[str, str],
    date_text: str | None = None,
    bucket: int | None = None,
) -> Iterator[tuple[Path, str | None, int | None]]:
    if not levels:
        yield folder, date_text, bucket
        return
    for name in _names(folder):
        level, _, shown = name.partition("=")
        # Years of days are not looked at one by one: a window needs a few of them.
        if levels[0] == level == "date" and _is_date(shown) and not days[0] <= shown <= days[1]:
            continue
        child = folder / name
        if child.is_dir():
            value = _level_value(child, levels[0])
            if levels[0] == "date":
                yield from _folders(child, levels[1:], days, value, bucket)
            else:
                yield from _folders(child, levels[1:], days, date_text, int(value))


def all_parts(root: Path) -> list[Part]:
    """Files of all tables."""
    return [part for table in TABLES.values() for part in table_parts(root, table)]


def _names(folder: Path) -> list[str]:
    """Names in a folder in order, without hidden and temporary ones."""
    if not folder.is_dir():
        return []
    return sorted(name for name in os.listdir(folder) if not name.startswith((".", "_")))


def _level_value(folder: Path, level: str) -> str:
    name, _, value = folder.name.partition("=")
    is_number = value.isascii() and value.isdigit()
    good = is_number if level == "bucket" else _is_date(value)
    if name != level or not good:
        example = "bucket=3" if level == "bucket" else "date=2024-08-01"
        raise DataError(f"{folder}: partition folder must look like '{example}'")
    return value


def _is_date(value: str) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False
