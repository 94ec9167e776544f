"""Pages that ``pmstress fetch`` has kept, read by their journal.

A bar counts at its end, a funding rate at the moment of its payment, a chain at the time that the
venue gave it. Option marks that a venue does not publish are Black-76 at its volatility (derived).
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from backtest.errors import DataError
from backtest.fetch.pages import Journal
from backtest.ingest.config import FetchedSource
from backtest.ingest.contracts import Parser, binance, bybit, deribit, okx
from backtest.ingest.files import shown_name
from backtest.ingest.intake import INDEX_RANK, MARK_RANK, SPOT_RANK, TRADE_RANK, Intake
from backtest.market.black import YEAR_US, option_coin_price
from backtest.market.series import SECOND_US, floats_of, names_of, rows_of, times_of, timestamps
from backtest.row_rules import UNKNOWN_INSTRUMENT
from backtest.tables import SOURCE_FILE, SOURCE_ROW


def _binance(name: str) -> Any:
    return binance(name, "cm" if "USD_" in name else "um")


_PARSERS: dict[str, Parser] = {"okx": okx, "bybit": bybit, "deribit": deribit, "binance": _binance}
_PAIRS: dict[str, Parser] = {
    "okx": okx,
    "bybit": partial(binance, market="spot"),
    "binance": partial(binance, market="spot"),
    "deribit": deribit,
}
_MS = SECOND_US // 1000


def read_fetched(source: FetchedSource, paths: list[Path], intake: Intake) -> Iterator[Path]:
    """Take in the pages of the journals, one journal after the other.

    Raises:
        DataError: a page is not what the journal says.
    """
    for path in paths:
        journal = Journal.read(path.parent)
        if not journal.lines:
            raise DataError(f"{shown_name(path, intake.base)}: no page in this journal")
        for key, line in journal.lines.items():
            if not journal.has(key):
                raise DataError(
                    f"{path.parent / line['file']}: not as it was fetched; run pmstress fetch again"
                )
            frame = pd.read_parquet(path.parent / line["file"])
            if len(frame):
                intake.ledger.of(intake.source).read += len(frame)
                frame[SOURCE_FILE] = shown_name(path.parent / line["file"], intake.base)
                frame[SOURCE_ROW] = np.arange(len(frame))
                _READERS[line["kind"]](frame, line, source, intake)
        yield path


def _times(frame: pd.DataFrame, line: dict[str, Any]) -> pd.DatetimeIndex:
    """When the rows were known."""
    return timestamps((np.asarray(frame["at"], np.int64) + (line["step_ms"] or 0)) * _MS)


def _named(
    frame: pd.DataFrame, names: pd.Series, venue: str, source: FetchedSource, intake: Intake
) -> pd.DataFrame:
    """The rows with their instrument; those whose names say nothing are quarantined."""
    ids = intake.instruments.ids(names, _PARSERS[venue], source.naming)
    bad = np.asarray(pd.isna(ids), bool)
    shown = rows_of(frame.assign(column="name", value=names.to_numpy(object)), bad)
    intake.ledger.set_aside(intake.source, "marks", shown, UNKNOWN_INSTRUMENT)
    return rows_of(frame.assign(instrument_id=ids), ~bad)


def _marks(
    frame: pd.DataFrame, line: dict[str, Any], source: FetchedSource, intake: Intake
) -> None:
    rows = frame.assign(time=_times(frame, line), mark_price=frame["close"]).drop(
        columns=["at", "close"]
    )
    names = pd.Series([line["name"]] * len(rows))
    rows = _named(rows, names, line["venue"], source, intake)
    intake.marks(rows, TRADE_RANK if line["venue"] == "deribit" else MARK_RANK)


def _index(
    frame: pd.DataFrame, line: dict[str, Any], source: FetchedSource, intake: Intake
) -> None:
    pair = _PAIRS[line["venue"]](line["name"])
    if pair is None:
        raise DataError(f"{frame[SOURCE_FILE].iloc[0]}: '{line['name']}' is no pair")
    quote = "USD" if pair.is_inverse else pair.settle
    rows = frame.assign(time=_times(frame, line), base=pair.coin, quote=quote, price=frame["close"])
    intake.quotes(rows.drop(columns=["at", "close", "low", "high"], errors="ignore"), INDEX_RANK)


def _funding(
    frame: pd.DataFrame, line: dict[str, Any], source: FetchedSource, intake: Intake
) -> None:
    rows = frame.assign(time=_times(frame, line), funding_rate=frame["rate"])
    names = pd.Series([line["name"]] * len(rows))
    rows = _named(rows.drop(columns=["at", "rate"]), names, line["venue"], source, intake)
    intake.funding(rows)


def _options(
    frame: pd.DataFrame, line: dict[str, Any], source: FetchedSource, intake: Intake
) -> None:
    rows = frame.assign(
        time=_times(frame, line),
        mark_price=frame["mark"].astype("float64"),
        mark_iv=frame["iv"],
    )
    rows = _named(rows, pd.Series(frame["name"]), line["venue"], source, intake)
    rows = _with_marks(rows, intake)
    keep = ["time", "instrument_id", "mark_price", "forward", "mark_iv", SOURCE_FILE, SOURCE_ROW]
    intake.marks(pd.DataFrame(rows[keep]), MARK_RANK, sampled=True)
    quoted = rows.assign(price=rows["index"].astype("float64"))
    quoted = rows_of(quoted, np.isfinite(floats_of(quoted, "price")))
    if len(quoted):
        quoted = quoted.assign(base=line["name"], quote="USD")
        columns = ["time", "base", "quote", "price", SOURCE_FILE, SOURCE_ROW]
        intake.quotes(pd.DataFrame(quoted[columns]), SPOT_RANK, sampled=True)


def _with_marks(rows: pd.DataFrame, intake: Intake) -> pd.DataFrame:
    """Marks in coins by Black-76 where the venue gives none."""
    lacking = np.isnan(floats_of(rows, "mark_price"))
    if not lacking.any():
        return rows
    terms = intake.instruments.frame().set_index("instrument_id")
    terms = terms.reindex(pd.Index(rows["instrument_id"])).reset_index(drop=True)
    years = (times_of(terms, "expiry") - times_of(rows, "time")) / YEAR_US
    value = option_coin_price(
        forwards=floats_of(rows, "forward"),
        strikes=floats_of(terms, "strike"),
        volatilities=floats_of(rows, "mark_iv"),
        years=np.maximum(years, 0.0),
        is_call=names_of(terms, "option_type") == "C",
    )
    return rows.assign(mark_price=np.where(lacking, value, floats_of(rows, "mark_price")))


_READERS = {"marks": _marks, "index": _index, "funding": _funding, "options": _options}
