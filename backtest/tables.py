"""One Parquet file in or out, checked against the schema; no knowledge of folders or partitions."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from backtest.errors import DataError
from backtest.schema import NAME, NUMBER, TIME, Column, Table


SOURCE_FILE = "_file"
SOURCE_ROW = "_row"
_UTC_NAMES = frozenset({"UTC", "Etc/UTC", "GMT", "+00:00", "Zulu"})


def from_frame(frame: pd.DataFrame, table: Table) -> pa.Table:
    """Arrow table of a frame: the schema's columns first (names as strings), then extra columns.

    Nullable columns that the frame lacks become null. NaN is stored as null.

    Raises:
        DataError: a required column is missing or has a type that cannot be stored.
    """
    arrays: dict[str, pa.Array | pa.ChunkedArray] = {}
    for column in table.columns:
        if column.name in frame.columns:
            arrays[column.name] = _encode(pd.Series(frame[column.name]), column, table)
        elif column.nullable:
            arrays[column.name] = pa.nulls(len(frame), _storage_type(column))
        else:
            raise DataError(f"table {table.name}: column '{column.name}' is missing")
    for name in map(str, frame.columns):
        if name not in arrays and name not in (SOURCE_FILE, SOURCE_ROW):
            arrays[name] = pa.array(frame[name], from_pandas=True)
    return pa.table(arrays)


def encode_names(data: pa.Table, table: Table) -> pa.Table:
    """The same rows with the schema's name columns dictionary-encoded."""
    for column in table.columns:
        if column.type == NAME:
            position = data.schema.get_field_index(column.name)
            encoded = data.column(position).combine_chunks()
            if not pa.types.is_dictionary(encoded.type):
                encoded = encoded.dictionary_encode()
            data = data.set_column(position, pa.field(column.name, NAME), encoded)
    return data


def _storage_type(column: Column) -> pa.DataType:
    return pa.string() if column.type == NAME else column.type


def _encode(series: pd.Series, column: Column, table: Table) -> pa.Array | pa.ChunkedArray:
    kind = series.dtype
    if column.type == TIME and isinstance(kind, np.dtype) and kind.kind == "M":
        raise DataError(f"table {table.name}: column '{column.name}' has times without a time zone")
    try:
        if column.type == NUMBER:
            numbers = series.to_numpy(np.float64, na_value=np.nan)
            return pa.array(numbers, NUMBER, from_pandas=True)
        if isinstance(kind, pd.CategoricalDtype):
            array = pa.array(series, from_pandas=True)
            return array.cast(_storage_type(column))
        return pa.array(series, _storage_type(column), from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"table {table.name}: column '{column.name}' holds {kind}, "
            f"which is not {column.type}: {error}"
        ) from error


def open_file(path: Path) -> pq.ParquetFile:
    """Open a Parquet file; reads its footer only."""
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error


def read_file(path: Path, table: Table, columns: Iterable[str] | None = None) -> pa.Table:
    """Rows of one file with the schema's types; extra columns are kept unless ``columns`` is given.

    Raises:
        DataError: the file is unreadable, lacks a column or has one of a wrong type.
    """
    with open_file(path) as file:
        schema = file.schema_arrow
        check_schema(schema, table, path)
        wanted = None if columns is None else [c for c in columns if c in schema.names]
        try:
            data = file.read(columns=wanted)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: not a readable Parquet file: {error}") from error
    data = data.replace_schema_metadata(None)
    for column in table.columns:
        position = data.schema.get_field_index(column.name)
        if position >= 0 and data.schema.field(position).type != column.type:
            cast = _cast(data.column(position), column, path)
            data = data.set_column(position, pa.field(column.name, column.type), cast)
    return data


def distinct_times(path: Path, table: Table) -> list[datetime]:
    """Distinct values of ``time`` in one file, from the footer where a row group has one time."""
    with open_file(path) as file:
        schema, meta = file.schema_arrow, file.metadata
        check_schema(schema, table, path)
        position = meta.schema.names.index("time")
        groups = [meta.row_group(i).column(position).statistics for i in range(meta.num_row_groups)]
        if all(s is not None and s.has_min_max and s.min == s.max for s in groups):
            return [stat.min for stat in groups]
    times = read_file(path, table, ["time"]).column("time")
    return times.drop_null().unique().to_pylist()


def check_schema(schema: pa.Schema, table: Table, path: Path) -> None:
    """Refuse a file that lacks one of the table's columns or has one of a wrong type."""
    for column in table.columns:
        places = schema.get_all_field_indices(column.name)
        if not places:
            raise DataError(
                f"{path}: column '{column.name}' is missing (table {table.name}, "
                f"{_describe(column)}); found: {', '.join(schema.names) or 'no columns'}"
            )
        if len(places) > 1:
            raise DataError(f"{path}: column '{column.name}' occurs {len(places)} times")
        actual = schema.field(places[0]).type
        if not _fits(actual, column):
            raise DataError(
                f"{path}: column '{column.name}' has type {actual}, "
                f"must be {_describe(column)} (table {table.name})"
            )


def micros(times: pa.ChunkedArray) -> np.ndarray:
    """Times as int64 microseconds since 1970; null is the smallest integer."""
    numbers = times.cast(pa.int64())
    if numbers.null_count:
        numbers = numbers.fill_null(np.iinfo(np.int64).min)
    return numbers.to_numpy()


def _describe(column: Column) -> str:
    return "string" if column.type == NAME else str(column.type)


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _fits(actual: pa.DataType, column: Column) -> bool:
    if pa.types.is_null(actual):
        return column.nullable
    if column.type == NAME:
        return _is_text(actual.value_type if pa.types.is_dictionary(actual) else actual)
    if column.type == TIME:
        return pa.types.is_timestamp(actual) and actual.tz in _UTC_NAMES
    return pa.types.is_float64(actual) or pa.types.is_integer(actual)


def _cast(values: pa.ChunkedArray, column: Column, path: Path) -> pa.ChunkedArray:
    try:
        if column.type == NAME:
            encoded = values.cast(pa.string()).combine_chunks().dictionary_encode()
            return pa.chunked_array([encoded])
        return values.cast(column.type)
    except pa.ArrowException as error:
        raise DataError(f"{path}: column '{column.name}' is not {column.type}: {error}") from error


def empty(table: Table, columns: Iterable[str] | None = None) -> pa.Table:
    """No rows, with the table's types (only ``columns`` of it where given)."""
    schema = pa.schema([pa.field(c.name, c.type) for c in table.columns])
    rows = schema.empty_table()
    return rows if columns is None else rows.select([c for c in columns if c in schema.names])


def with_source(data: pa.Table, shown: str) -> pa.Table:
    """The rows with columns ``_file`` (its name in the dataset) and ``_row`` (0-based) added."""
    count = data.num_rows
    file = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([shown]))
    data = data.append_column(pa.field(SOURCE_FILE, NAME), file)
    rows = pa.array(np.arange(count, dtype=np.int64))
    return data.append_column(pa.field(SOURCE_ROW, pa.int64()), rows)


def to_frame(data: pa.Table, plain_names: bool) -> pd.DataFrame:
    """Pandas frame; names are categoricals, or plain strings with ``plain_names``."""
    if plain_names:
        schema = pa.schema(
            [
                pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type)
                for f in data.schema
            ]
        )
        data = data.cast(schema)
    else:
        data = data.unify_dictionaries()
    return data.to_pandas(ignore_metadata=True)
