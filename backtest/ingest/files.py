"""Files as streams of rows: plain, gzipped and zipped CSV in pieces, JSON answers whole."""

import csv
import gzip
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pv

from backtest.errors import ConfigError, DataError
from backtest.ingest.ledger import WRONG_FIELDS, Ledger
from backtest.tables import SOURCE_FILE, SOURCE_ROW


BLOCK_BYTES = 1 << 22
_PEEK = 1 << 16
_BROKEN = (OSError, EOFError, zlib.error, zipfile.BadZipFile, pa.ArrowException)


def matching(patterns: Sequence[str], base: Path) -> list[Path]:
    """Files of the patterns (``**`` for any folders), by name, each once.

    Raises:
        ConfigError: a pattern that no file matches.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        place = Path(pattern).expanduser()
        root, rest = (
            (Path(place.anchor), place.relative_to(place.anchor))
            if (place.is_absolute())
            else (base, place)
        )
        files = sorted(path for path in root.glob(str(rest)) if path.is_file())
        if not files:
            raise ConfigError(f"no file matches '{pattern}' (looked in {root.resolve()})")
        found.update(dict.fromkeys(files))
    return list(found)


def shown_name(path: Path, base: Path) -> str:
    """The file's name relative to the configuration, where it lies below it."""
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()


@contextmanager
def _whole(shown: str) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise DataError(f"{shown}: not readable: {error}") from error


def streams(path: Path, shown: str) -> Iterator[tuple[str, Any]]:
    """The text files in a file: itself, or the members of a zip, decompressed as they are read."""
    with _whole(shown):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for member in sorted(archive.namelist()):
                    if not member.endswith("/"):
                        with archive.open(member) as file:
                            yield f"{shown}!{member}", file
        elif path.suffix == ".gz":
            with gzip.open(path) as file:
                yield shown, file
        else:
            with path.open("rb") as file:
                yield shown, file


def csv_chunks(
    path: Path,
    shown: str,
    ledger: Ledger,
    source: str,
    delimiter: str = ",",
    headless: Sequence[str] | None = None,
) -> Iterator[pd.DataFrame]:
    """Rows of a CSV file as text, in pieces, with ``_file`` and ``_row`` (1: the first line).

    Args:
        path: the file.
        shown: what messages call it.
        ledger: takes the rows with too many or too few fields.
        source: which source the file is of.
        delimiter: what stands between fields.
        headless: columns of files that may lack a header, which is seen by its first field.
    """
    for name, file in streams(path, shown):
        with _whole(name):
            first = file.peek(_PEEK).split(b"\n", 1)[0].decode("utf-8-sig").rstrip("\r")
        if not first:
            ledger.of(source).left_out["empty file"] += 1
            continue
        header = next(csv.reader([first], delimiter=delimiter))
        start = 2
        if headless is not None and header[0] != headless[0]:
            header, start = list(headless), 1
        else:
            file.readline()
        if len(set(header)) < len(header):
            twice = next(c for c in header if header.count(c) > 1)
            raise DataError(f"{name}: column '{twice}' occurs more than once")
        if not file.peek(1):
            continue
        with _whole(name):
            yield from _pieces(_Rows(name, header, start), file, ledger, source, delimiter)


class _Rows:
    """Counts the lines of one file while pieces of it are read."""

    def __init__(self, name: str, header: list[str], start: int) -> None:
        self.name, self.header, self.start = name, header, start
        self.skipped: list[Any] = []
        self.done = 0

    def skip(self, row: Any) -> str:
        self.skipped.append(row)
        return "skip"

    def lines(self, count: int) -> np.ndarray:
        """Lines of the next rows: those before that were skipped count."""
        found = np.arange(self.done, self.done + count) + self.start
        for row in self.skipped:
            found[found >= row.number + self.start - 1] += 1
        self.done += count
        return found

    def skipped_frame(self, rows: list[Any]) -> pd.DataFrame:
        """The skipped rows as the quarantine wants them."""
        return pd.DataFrame(
            {
                SOURCE_FILE: self.name,
                SOURCE_ROW: [row.number + self.start - 1 for row in rows],
                "column": "",
                "value": [
                    f"{row.actual_columns} fields instead of {row.expected_columns}: {row.text}"[
                        :200
                    ]
                    for row in rows
                ],
            }
        )


def _pieces(
    rows: _Rows, file: Any, ledger: Ledger, source: str, delimiter: str
) -> Iterator[pd.DataFrame]:
    reader = pv.open_csv(
        file,
        pv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=rows.header),
        pv.ParseOptions(delimiter=delimiter, invalid_row_handler=rows.skip),
        pv.ConvertOptions(
            column_types=dict.fromkeys(rows.header, pa.string()), strings_can_be_null=False
        ),
    )
    told = 0
    tally = ledger.of(source)
    for batch in reader:
        frame = batch.to_pandas()
        frame[SOURCE_FILE] = pd.Categorical.from_codes(
            np.zeros(len(frame), np.int8), categories=pd.Index([rows.name])
        )
        frame[SOURCE_ROW] = rows.lines(len(frame))
        fresh, told = rows.skipped[told:], len(rows.skipped)
        tally.read += len(frame) + len(fresh)
        ledger.set_aside(source, "", rows.skipped_frame(fresh), WRONG_FIELDS)
        yield frame
    fresh = rows.skipped[told:]
    tally.read += len(fresh)
    ledger.set_aside(source, "", rows.skipped_frame(fresh), WRONG_FIELDS)


def json_content(path: Path, shown: str) -> Any:
    """Content of a JSON file.

    Raises:
        DataError: not JSON; with line and column.
    """
    found: list[Any] = []
    for name, file in streams(path, shown):
        try:
            found.append(json.loads(file.read().decode("utf-8-sig")))
        except ValueError as error:
            raise DataError(f"{name}: not valid JSON: {error}") from None
    return found[0] if len(found) == 1 else found
