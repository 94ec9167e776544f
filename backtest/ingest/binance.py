"""Binance's public data: bars and funding rates in monthly or daily zips.

A bar is known at its end. Times are milliseconds, since 2025 microseconds for spot; both are read.
Index bars and spot bars make the index, mark bars the marks; trade bars are marks only where there
are no mark bars. A funding rate is paid at the minute of its time.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from backtest.errors import ConfigError
from backtest.ingest.cells import Cells
from backtest.ingest.config import BinanceSource
from backtest.ingest.contracts import binance
from backtest.ingest.files import csv_chunks, shown_name
from backtest.ingest.intake import INDEX_RANK, MARK_RANK, SPOT_RANK, TRADE_RANK, Intake


_KLINE = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
    "taker_buy_volume", "taker_buy_quote_volume", "ignore",
)  # fmt: skip
_FUNDING = ("calc_time", "funding_interval_hours", "last_funding_rate")
_NAME = re.compile(
    r"(?P<symbol>[A-Z0-9_]+)-(?P<what>fundingRate|\d+(?:mo|[smhdw]))-\d{4}-\d{2}(?:-\d{2})?"
)
_DATA = ("klines", "markPriceKlines", "indexPriceKlines", "fundingRate")


@dataclass(frozen=True)
class _File:
    symbol: str
    market: str
    data: str


def read_binance(source: BinanceSource, paths: list[Path], intake: Intake) -> Iterator[Path]:
    """Take in the files, one after the other."""
    for path in paths:
        shown = shown_name(path, intake.base)
        what = _what(path, shown, source)
        headless = _FUNDING if what.data == "fundingRate" else _KLINE
        chunks = csv_chunks(path, shown, intake.ledger, intake.source, headless=headless)
        for chunk in chunks:
            if what.data == "fundingRate":
                _funding(chunk, what, source, intake)
            elif what.market == "spot" or what.data == "indexPriceKlines":
                _index(chunk, what, intake)
            else:
                _marks(chunk, what, source, intake)
        yield path


def _what(path: Path, shown: str, source: BinanceSource) -> _File:
    """Symbol, market and data of a file, by its path where the configuration does not say."""
    named = _NAME.fullmatch(path.stem)
    if named is None:
        raise ConfigError(
            f"{shown}: not a name of Binance's public data such as 'BTCUSDT-1h-2024-08.zip'"
        )
    folders = path.parts
    market = source.market or ("spot" if "spot" in folders else None)
    market = market or next((m for m in ("um", "cm") if m in folders), None)
    data = "fundingRate" if named["what"] == "fundingRate" else source.data
    data = data or next((d for d in _DATA if d in folders), None)
    if market == "spot":
        data = data or "klines"
    for key, value, allowed in (
        ("market", market, "'spot', 'um', 'cm'"),
        ("data", data, ", ".join(map(repr, _DATA))),
    ):
        if value is None:
            raise ConfigError(
                f"{shown}: its path does not say what it is; give the source '{key}': {allowed}"
            )
    return _File(named["symbol"], market or "", data or "")


def _bars(chunk: pd.DataFrame, intake: Intake, table: str) -> tuple[Cells, pd.Series]:
    """The rows, and when each bar was known: its close time is the last moment in it."""
    cells = Cells(chunk, intake.ledger, intake.source, table)
    ends = cells.times("close_time", "epoch")
    return cells, (ends + pd.Timedelta(microseconds=1)).dt.ceil("s")


def _index(chunk: pd.DataFrame, what: _File, intake: Intake) -> None:
    cells, known = _bars(chunk, intake, "index")
    pair = binance(what.symbol, "spot")
    if pair is None:
        file = str(chunk["_file"].iloc[0])
        raise ConfigError(f"{file}: '{what.symbol}' is no pair of a coin and a quote currency")
    price = cells.numbers("close", needed=True)
    rows = {"time": known, "base": pair.coin, "quote": pair.settle, "price": price}
    intake.quotes(cells.kept(rows), SPOT_RANK if what.market == "spot" else INDEX_RANK)


def _marks(chunk: pd.DataFrame, what: _File, source: BinanceSource, intake: Intake) -> None:
    cells, known = _bars(chunk, intake, "marks")
    rows = {
        "time": known,
        "instrument_id": _id(what, source, intake, chunk),
        "mark_price": cells.numbers("close", needed=True),
        "low": cells.numbers("low"),
        "high": cells.numbers("high"),
    }
    intake.marks(cells.kept(rows), TRADE_RANK if what.data == "klines" else MARK_RANK)


def _funding(chunk: pd.DataFrame, what: _File, source: BinanceSource, intake: Intake) -> None:
    cells = Cells(chunk, intake.ledger, intake.source, "marks")
    rows = {
        "time": cells.times("calc_time", "epoch").dt.floor("min"),
        "instrument_id": _id(what, source, intake, chunk),
        "funding_rate": cells.numbers("last_funding_rate", needed=True),
    }
    intake.funding(cells.kept(rows))


def _id(what: _File, source: BinanceSource, intake: Intake, chunk: pd.DataFrame) -> np.ndarray:
    parse = _PARSERS[what.market]
    names = pd.Series([what.symbol] * len(chunk))
    found = intake.instruments.ids(names, parse, source.naming)
    if len(found) and found[0] is None:
        file = str(chunk["_file"].iloc[0])
        raise ConfigError(f"{file}: '{what.symbol}' is no symbol of market '{what.market}'")
    return found


_PARSERS = {market: partial(binance, market=market) for market in ("um", "cm")}
"""One function a market, so that what names mean is remembered."""
