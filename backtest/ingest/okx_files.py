"""What OKX says about an account and its contracts: answers of API v5 as JSON, or CSV exports.

A file holds one or more answers (``{"code": "0", "data": [...]}``) or rows as they stand in them;
what a row is, is seen by its keys. Assumed: ``cashBal`` is below zero for a debt; positions with an
isolated margin are not part of the portfolio, and margin positions are in the balances already,
so both are left out; long and short positions in one contract are one net position with the same
profit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from backtest.config_errors import explain
from backtest.dataset import utc
from backtest.errors import DataError
from backtest.ingest.cells import Cells
from backtest.ingest.config import OkxAccountSource, OkxInstrumentsSource
from backtest.ingest.contracts import okx
from backtest.ingest.files import csv_chunks, json_content, shown_name
from backtest.ingest.intake import Intake
from backtest.market.series import floats_of, instant, rows_of
from backtest.market.state import instrument_table
from backtest.position_builder import SPOT_MODES
from backtest.position_builder_files import InstrumentRow
from backtest.row_rules import NOT_ALLOWED, UNKNOWN_INSTRUMENT
from backtest.tables import SOURCE_FILE, SOURCE_ROW


_KINDS = {
    "positions": ("instId", "pos"),
    "orders": ("instId", "side", "sz", "px"),
    "balances": ("ccy", "cashBal"),
    "settings": ("acctLv",),
}
"""Keys by which the rows of an account are known."""


@dataclass
class AccountRows:
    """One account as its files say it; times are filled in where the source states one."""

    account_id: str
    segment: str
    time: pd.Timestamp
    positions: pd.DataFrame
    balances: pd.DataFrame
    orders: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def account(self, borrow_mode: str) -> pd.DataFrame:
        """Its row of the table ``accounts``."""
        loan = self.settings.get("autoLoan")
        if loan not in (None, ""):
            borrow_mode = "auto" if str(loan).lower() == "true" else "non_auto"
        return pd.DataFrame(
            {
                "account_id": [self.account_id],
                "segment": [self.segment],
                "borrow_mode": [borrow_mode],
                "spot_mode": [SPOT_MODES.get(str(self.settings.get("spotOffsetType")))],
            }
        )


def read_account(source: OkxAccountSource, paths: list[Path], intake: Intake) -> AccountRows:
    """The account's rows of all its files.

    Raises:
        DataError: a file is no answer about an account, or no row says when it was.
    """
    rows: dict[str, list[pd.DataFrame]] = {kind: [] for kind in _KINDS}
    for path in paths:
        for frame in _frames(path, intake):
            rows[_kind_of(frame)].append(frame)
    joined = {kind: _joined(parts) for kind, parts in rows.items()}
    time = source.time and pd.Timestamp(source.time).tz_convert("UTC")
    if time is None:
        time = _latest([joined["positions"], joined["balances"]], intake)
    if time is None:
        raise DataError(
            f"{intake.source}: no position or balance says its time (uTime); give the source 'time'"
        )
    common: dict[str, Any] = {"time": time.as_unit("us"), "account_id": source.account_id}
    settings = joined["settings"]
    return AccountRows(
        source.account_id,
        source.segment or intake.config.accounts.segment,
        common["time"],
        _positions(joined["positions"], intake).assign(**common),
        _balances(joined["balances"], intake).assign(**common),
        _orders(joined["orders"], intake).assign(**common),
        {str(k): v for k, v in settings.iloc[-1].items()} if len(settings) else {},
    )


def read_instruments(
    source: OkxInstrumentsSource, paths: list[Path], intake: Intake
) -> Iterator[Path]:
    """Take in the terms of contracts; spot pairs are found by their names."""
    del source
    for path in paths:
        shown = shown_name(path, intake.base)
        found: list[dict[str, object]] = []
        for place, row in enumerate(_json_rows(json_content(path, shown), shown)):
            intake.ledger.of(intake.source).read += 1
            if row.get("instType") in ("SPOT", "MARGIN"):
                intake.instruments.ids(pd.Series([str(row.get("instId"))]), okx)
                continue
            try:
                terms = InstrumentRow.model_validate(row)
            except ValidationError as error:
                raise DataError(
                    str(explain(error, InstrumentRow, shown, ("data", place)))
                ) from None
            since = str(row.get("listTime") or "")
            listed = instant(int(since) * 1_000) if since.isdigit() else None
            found.append({**terms.terms(), "listed": listed})
        if found:
            stated = instrument_table(found)
            stated["instrument_id"] = intake.instruments.renamed(pd.Series(stated["instrument_id"]))
            intake.instruments.state(stated)
        yield path


def _frames(path: Path, intake: Intake) -> Iterator[pd.DataFrame]:
    shown = shown_name(path, intake.base)
    if ".csv" in path.suffixes:
        yield from csv_chunks(path, shown, intake.ledger, intake.source)
        return
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for place, row in enumerate(_json_rows(json_content(path, shown), shown)):
        for own in row["details"] if isinstance(row.get("details"), list) else [row]:
            key = tuple(sorted(own))
            groups.setdefault(key, []).append(own | {SOURCE_FILE: shown, SOURCE_ROW: place + 1})
    intake.ledger.of(intake.source).read += sum(map(len, groups.values()))
    for rows in groups.values():
        yield pd.DataFrame(rows)


def _json_rows(content: Any, shown: str) -> list[dict[str, Any]]:
    """The rows of an answer, of several answers, or of a list of rows.

    Raises:
        DataError: the answer is an error of the venue, or no rows are found.
    """
    if isinstance(content, dict) and "data" in content:
        if str(content.get("code", "0")) != "0":
            raise DataError(
                f"{shown}: the venue's answer is an error: code {content['code']}, "
                f"{content.get('msg') or 'no message'}"
            )
        content = content["data"]
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(f"{shown}: not an answer of the venue: no 'data' with a list of objects")
    if content and all("data" in row for row in content):
        return [row for one in content for row in _json_rows(one, shown)]
    return content


def _kind_of(frame: pd.DataFrame) -> str:
    for kind, keys in _KINDS.items():
        if set(keys) <= set(frame.columns):
            return kind
    file = frame[SOURCE_FILE].iloc[0] if len(frame) else "a file"
    known = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in _KINDS.items())
    own = [str(c) for c in frame.columns if c not in (SOURCE_FILE, SOURCE_ROW)]
    raise DataError(
        f"{file}: rows with the keys {', '.join(own[:12])} are nothing of an account; known by "
        f"these keys are {known}"
    )


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    if not parts:
        return pd.DataFrame({SOURCE_FILE: [], SOURCE_ROW: []})
    return pd.concat(parts, ignore_index=True)


def _cells(frame: pd.DataFrame, table: str, columns: list[str], intake: Intake) -> Cells:
    """The rows as text; keys that some rows lack are empty."""
    text = frame.reindex(columns=[*columns, SOURCE_FILE, SOURCE_ROW])
    for name in columns:
        text[name] = text[name].astype(object).where(text[name].notna(), "").astype("str")
    return Cells(text, intake.ledger, intake.source, table)


def _latest(frames: list[pd.DataFrame], intake: Intake) -> pd.Timestamp | None:
    found: list[pd.Timestamp] = []
    for frame in frames:
        if "uTime" in frame.columns:
            times = _cells(frame, "positions", ["uTime"], intake).times("uTime", "ms", needed=False)
            found += [utc(times.max())] if times.notna().any() else []
    return max(found, default=None)


def _ids(cells: Cells, intake: Intake) -> np.ndarray:
    names = cells.names("instId")
    found = intake.instruments.ids(names, okx)
    cells.reject(pd.isna(found) & names.notna().to_numpy(bool), "instId", UNKNOWN_INSTRUMENT)
    return found


def _positions(frame: pd.DataFrame, intake: Intake) -> pd.DataFrame:
    columns = ["instId", "instType", "pos", "posSide", "avgPx", "mgnMode"]
    left_out = intake.ledger.of(intake.source).left_out
    cells = _cells(frame, "positions", columns, intake)
    isolated = cells.text("mgnMode").eq("isolated").to_numpy(bool)
    margin = cells.text("instType").eq("MARGIN").to_numpy(bool) & ~isolated
    for name, mask in (("isolated margin", isolated), ("margin position", margin)):
        if mask.any():
            left_out[name] += int(mask.sum())
    held = rows_of(frame, ~(isolated | margin)).reset_index(drop=True)
    cells = _cells(held, "positions", columns, intake)
    size = cells.numbers("pos", needed=True)
    side = cells.text("posSide")
    cells.reject(~side.isin(["", "net", "long", "short"]).to_numpy(bool), "posSide", NOT_ALLOWED)
    size = np.where(side == "short", -np.abs(size), size)
    rows = cells.kept(
        {"instrument_id": _ids(cells, intake), "contracts": size,
         "entry_price": cells.numbers("avgPx")}
    )  # fmt: skip
    flat = floats_of(rows, "contracts") == 0.0
    if flat.any():
        left_out["flat position"] += int(flat.sum())
    return _netted(rows_of(rows, ~flat), intake)


def _netted(rows: pd.DataFrame, intake: Intake) -> pd.DataFrame:
    """One row a contract: the entry price that gives both sides' profit together."""
    if not rows["instrument_id"].duplicated().any():
        return rows
    terms = intake.instruments.frame().set_index("instrument_id")
    terms = terms.reindex(pd.Index(rows["instrument_id"]))
    inverse = np.asarray((terms["style"] == "inverse") & (terms["kind"] != "option"), bool)
    price = floats_of(rows, "entry_price")
    value = floats_of(rows, "contracts") * np.where(inverse, 1.0 / price, price)
    groups = rows.assign(value=value, inverse=inverse).groupby("instrument_id", sort=False)
    net = groups.agg(
        contracts=("contracts", "sum"),
        value=("value", lambda v: v.sum(skipna=False)),
        inverse=("inverse", "first"),
        **{name: (name, "first") for name in (SOURCE_FILE, SOURCE_ROW)},
    ).reset_index()
    gone = floats_of(net, "contracts") == 0.0
    if gone.any():
        intake.ledger.of(intake.source).left_out["long and short cancel"] += int(gone.sum())
        net = rows_of(net, ~gone)
    mean = floats_of(net, "value") / floats_of(net, "contracts")
    net = net.assign(entry_price=np.where(net["inverse"], 1.0 / mean, mean))
    return net.drop(columns=["value", "inverse"])


def _balances(frame: pd.DataFrame, intake: Intake) -> pd.DataFrame:
    cells = _cells(frame, "balances", ["ccy", "cashBal", "clSpotInUseAmt"], intake)
    return cells.kept(
        {
            "currency": cells.names("ccy"),
            "cash": cells.numbers("cashBal", needed=True),
            "spot_limit": cells.numbers("clSpotInUseAmt"),
        }
    )


def _orders(frame: pd.DataFrame, intake: Intake) -> pd.DataFrame:
    columns = ["instId", "side", "sz", "px", "accFillSz", "ordType", "state"]
    cells = _cells(frame, "orders", columns, intake)
    open_ = cells.text("state").isin(["", "live", "partially_filled"])
    priced = cells.text("px").ne("")
    left_out = intake.ledger.of(intake.source).left_out
    for name, mask in (("order not open", ~open_), ("order without a price", open_ & ~priced)):
        if mask.any():
            left_out[name] += int(mask.sum())
    kept = rows_of(frame, np.asarray(open_ & priced, bool))
    cells = _cells(kept.reset_index(drop=True), "orders", columns, intake)
    side = cells.text("side")
    cells.reject(~side.isin(["buy", "sell"]).to_numpy(bool), "side", NOT_ALLOWED)
    size = cells.numbers("sz", needed=True) - np.nan_to_num(cells.numbers("accFillSz"))
    rows = cells.kept(
        {
            "instrument_id": _ids(cells, intake),
            "contracts": np.where(side == "sell", -size, size),
            "price": cells.numbers("px", needed=True),
        }
    )
    if rows.empty:
        return rows
    same = rows.groupby(["instrument_id", "price"], sort=False, as_index=False)
    return same.agg(
        contracts=("contracts", "sum"), _file=(SOURCE_FILE, "first"), _row=(SOURCE_ROW, "first")
    )
