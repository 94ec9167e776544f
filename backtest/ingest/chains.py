"""Option chains and tickers: CSV files of Tardis and of Deribit.

Volatilities are in percent there and fractions here; option marks are in coins. Ticks are sampled:
the last one of each interval counts.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from backtest.errors import DataError
from backtest.ingest.cells import Cells
from backtest.ingest.config import DeribitSource, TardisSource
from backtest.ingest.contracts import PARSERS, deribit
from backtest.ingest.files import csv_chunks, shown_name
from backtest.ingest.intake import FALLBACK_RANK, INDEX_RANK, MARK_RANK, Intake
from backtest.market.expiries import EXPIRY_HOUR
from backtest.market.series import floats_of, rows_of
from backtest.row_rules import NOT_ALLOWED, UNKNOWN_INSTRUMENT
from backtest.tables import SOURCE_FILE, SOURCE_ROW


PERCENT = 0.01
_ALIASES = {
    "time": ("ts", "timestamp", "time", "snapshot_time", "creation_timestamp", "datetime"),
    "name": ("instrument_name", "symbol", "instrument"),
    "coin": ("currency", "base_currency", "coin"),
    "expiry": ("expiry", "expiration", "expiration_timestamp"),
    "strike": ("strike", "strike_price"),
    "side": ("right", "option_type", "type"),
    "mark": ("mark_price",),
    "iv": ("mark_iv",),
    "forward": ("forward", "underlying_price"),
    "index": ("index_price", "estimated_delivery_price"),
}
"""What people call the columns of a Deribit chain."""


def read_tardis(source: TardisSource, paths: list[Path], intake: Intake) -> Iterator[Path]:
    """Take in the files, one after the other."""
    for path in paths:
        shown = shown_name(path, intake.base)
        for chunk in csv_chunks(path, shown, intake.ledger, intake.source):
            is_chain = "strike_price" in chunk.columns
            data = source.data or ("options_chain" if is_chain else "derivative_ticker")
            if data == "options_chain":
                _tardis_chain(chunk, source, intake)
            else:
                _tardis_ticker(chunk, source, intake)
        yield path


def _tardis_ids(cells: Cells, source: TardisSource, intake: Intake) -> np.ndarray:
    """Instrument of each row; unknown exchanges and names are quarantined."""
    exchange = cells.text("exchange").str.strip()
    names = cells.names("symbol")
    cells.reject(~exchange.isin(list(PARSERS)).to_numpy(bool), "exchange", NOT_ALLOWED)
    found = np.full(len(cells), None, object)
    for venue in set(exchange) & set(PARSERS):
        here = (exchange == venue).to_numpy(bool) & ~cells.bad
        found[here] = intake.instruments.ids(pd.Series(names[here]), PARSERS[venue], source.naming)
    cells.reject(pd.isna(found), "symbol", UNKNOWN_INSTRUMENT)
    return found


def _tardis_chain(chunk: pd.DataFrame, source: TardisSource, intake: Intake) -> None:
    cells = Cells(chunk, intake.ledger, intake.source, "marks")
    rows = {
        "time": cells.times("timestamp", "us"),
        "instrument_id": _tardis_ids(cells, source, intake),
        "mark_price": cells.numbers("mark_price", needed=True),
        "forward": cells.numbers("underlying_price"),
        "mark_iv": cells.numbers("mark_iv", PERCENT),
    }
    intake.marks(cells.kept(rows), MARK_RANK, sampled=True)


def _tardis_ticker(chunk: pd.DataFrame, source: TardisSource, intake: Intake) -> None:
    cells = Cells(chunk, intake.ledger, intake.source, "marks")
    times = cells.times("timestamp", "us")
    ids = _tardis_ids(cells, source, intake)
    mark = cells.numbers("mark_price")
    index = cells.numbers("index_price")
    rate = cells.numbers("funding_rate")
    paid = cells.times("funding_timestamp", "us", needed=False)
    rows = cells.kept(
        {
            "time": times,
            "instrument_id": ids,
            "mark_price": mark,
            "index": index,
            "funding_rate": rate,
            "paid": paid,
        }
    )
    intake.marks(
        rows_of(rows, ~np.isnan(floats_of(rows, "mark_price"))).drop(
            columns=["index", "funding_rate", "paid"]
        ),
        MARK_RANK,
        sampled=True,
    )
    terms = intake.instruments.frame().set_index("instrument_id")
    terms = terms.reindex(pd.Index(rows["instrument_id"])).reset_index(drop=True)
    quote = terms["settle"].where(terms["style"] == "linear", "USD")
    indexed = rows.assign(base=terms["coin"], quote=quote, price=rows["index"])
    intake.quotes(rows_of(indexed, ~np.isnan(floats_of(rows, "index"))), INDEX_RANK, sampled=True)
    stated = np.isfinite(floats_of(rows, "funding_rate"))
    dated = np.asarray(rows["paid"].notna(), bool)
    due = stated & np.asarray(rows["time"] <= rows["paid"], bool)
    intake.funding(rows_of(rows.assign(time=rows["paid"]), due), sampled=True)
    unknown = int(np.count_nonzero(stated & ~dated))
    if unknown:
        # A rate without the time of its payment (Deribit pays all the time) cannot be dated.
        intake.ledger.of(intake.source).left_out["funding rate without a time"] += unknown


def read_deribit(source: DeribitSource, paths: list[Path], intake: Intake) -> Iterator[Path]:
    """Take in the files, one after the other."""
    for path in paths:
        shown = shown_name(path, intake.base)
        for chunk in csv_chunks(path, shown, intake.ledger, intake.source):
            _deribit_chain(chunk, source, intake)
        yield path


def _deribit_chain(chunk: pd.DataFrame, source: DeribitSource, intake: Intake) -> None:
    cells = Cells(chunk, intake.ledger, intake.source, "marks")
    found = {
        what: next((name for name in names if cells.has(name)), None)
        for what, names in _ALIASES.items()
    }
    names = _deribit_names(cells, found)
    ids = intake.instruments.ids(names, deribit, source.naming)
    cells.reject(
        pd.isna(ids) & names.notna().to_numpy(bool), found["name"] or "strike", UNKNOWN_INSTRUMENT
    )
    rows = {
        "time": _any_time(cells, _needed(found, "time", cells)),
        "instrument_id": ids,
        "mark_price": cells.numbers(_needed(found, "mark", cells), needed=True),
        "forward": cells.numbers(_needed(found, "forward", cells)),
        "mark_iv": cells.numbers(_needed(found, "iv", cells), PERCENT),
        "coin": names.str.split(r"[-_]", n=1, regex=True).str[0],
    }
    if found["index"]:
        rows["price"] = cells.numbers(found["index"])
    kept = cells.kept(rows)
    intake.marks(kept.drop(columns=["coin", "price"], errors="ignore"), MARK_RANK, sampled=True)
    if found["index"]:
        quoted = rows_of(kept.assign(base=kept["coin"]), ~np.isnan(floats_of(kept, "price")))
        # Rows of one snapshot were taken at slightly different moments: their median.
        groups = quoted.groupby(["time", "base"], as_index=False)
        index = groups.agg({"price": "median", SOURCE_FILE: "first", SOURCE_ROW: "first"})
        intake.quotes(pd.DataFrame(index).assign(quote="USD"), FALLBACK_RANK - 1, sampled=True)


def _needed(found: dict[str, str | None], what: str, cells: Cells) -> str:
    name = found[what]
    if name is None:
        cells.text(" or ".join(_ALIASES[what]))
        raise DataError(f"column '{what}' is missing")
    return name


def _deribit_names(cells: Cells, found: dict[str, str | None]) -> pd.Series:
    """Names as Deribit writes them, made of their parts where the file has no names."""
    if found["name"]:
        return cells.names(found["name"])
    coin = cells.names(_needed(found, "coin", cells))
    strike = cells.numbers(_needed(found, "strike", cells), needed=True)
    side = cells.names(_needed(found, "side", cells)).str[:1].str.upper()
    expiry = _any_time(cells, _needed(found, "expiry", cells))
    off = expiry.notna() & (expiry.dt.hour * 60 + expiry.dt.minute != EXPIRY_HOUR * 60)
    midnight = (expiry.dt.normalize() == expiry).to_numpy(bool)
    cells.reject(off.to_numpy(bool) & ~midnight, str(found["expiry"]), NOT_ALLOWED)
    day = expiry.dt.strftime("%d%b%y").str.upper().str.lstrip("0")
    number = pd.Series([np.format_float_positional(k, trim="-").replace(".", "d") for k in strike])
    return coin + "-" + day + "-" + number + "-" + side


def _any_time(cells: Cells, column: str) -> pd.Series:
    """Times as texts, or as numbers since 1970."""
    first = cells.text(column).iloc[0] if len(cells) else ""
    return cells.times(column, "epoch" if str(first).strip().isdigit() else "iso")
