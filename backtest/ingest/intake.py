"""Takes what the sources read: every row is checked once, market rows wait for the grid.

Of ticks (``sampled``) the last of each grid time is kept, with the lowest and the highest mark.
"""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from backtest.ingest.config import IngestConfig
from backtest.ingest.contracts import Instruments
from backtest.ingest.ledger import Ledger
from backtest.ingest.staging import Staging, cells_of
from backtest.market.black import BoolArray
from backtest.market.series import SECOND_US, floats_of, rows_of
from backtest.row_rules import NOT_FINITE, UNKNOWN_INSTRUMENT, clean_index, clean_marks
from backtest.schema import NUMBER, TABLES
from backtest.tables import SOURCE_FILE, SOURCE_ROW


INDEX_RANK, SPOT_RANK, MARK_RANK, TRADE_RANK, FALLBACK_RANK = 0, 1, 0, 1, 9
"""Which of several values for one time is used: the smallest rank, then the first source."""
PLACES = 1_000
_MARK_NUMBERS = [c.name for c in TABLES["marks"].columns if c.type == NUMBER]


class Intake:
    """What all sources share."""

    def __init__(self, config: IngestConfig, base: Path, staging: Staging) -> None:
        self.config, self.base, self.staging = config, base, staging
        self.ledger = Ledger()
        self.instruments = Instruments(config.naming, config.rename)
        self.interval_us = _micros(config.interval)
        self.source, self._place = "", 0
        self._late_us = _micros(config.late) if config.late else 0

    def begin(self, source: str, place: int) -> None:
        """From now on rows are of this source."""
        self.source, self._place = source, place
        self.ledger.of(source)

    def quotes(self, frame: pd.DataFrame, rank: int, sampled: bool = False) -> None:
        """Take prices of one currency in another: ``time``, ``base``, ``quote``, ``price``."""
        named = frame.assign(
            currency=pd.Series(frame["base"]).astype("str") + "/" + frame["quote"].astype("str"),
            usd=frame["price"],
        )
        if sampled:
            named = _last(named, ["time", "currency"])
        good = self.ledger.add(self.source, "index", clean_index(self._once(named)))
        good = self._staged(good, rank, sampled)
        if sampled:
            good = _last(good, ["cell", "currency"])
        self.staging.add("quotes", good)

    def marks(self, frame: pd.DataFrame, rank: int, sampled: bool = False) -> None:
        """Take marks; a ``funding_rate`` beside one is paid at its time."""
        frame = frame.assign(**{n: np.nan for n in _MARK_NUMBERS if n not in frame.columns})
        if sampled:
            frame = _last(frame, ["time", "instrument_id"])
        checked = clean_marks(self._once(frame), self.instruments.frame())
        good = self.ledger.add(self.source, "marks", checked)
        paid = rows_of(good, ~np.isnan(floats_of(good, "funding_rate")))
        self.staging.add("funding", self._staged(paid, rank, sampled))
        good = self._staged(good, rank, sampled)
        self.staging.add("marks", _sample(good) if sampled else good)

    def funding(self, frame: pd.DataFrame, rank: int = MARK_RANK, sampled: bool = False) -> None:
        """Take funding rates by the time at which they are paid."""
        known = set(self.instruments.frame()["instrument_id"])
        frame = self._refuse(frame, np.isinf(frame["funding_rate"]), "funding_rate", NOT_FINITE)
        unknown = ~pd.Series(frame["instrument_id"]).isin(known).to_numpy(bool)
        frame = self._refuse(frame, unknown, "instrument_id", UNKNOWN_INSTRUMENT)
        if sampled:
            frame = _last(frame, ["time", "instrument_id"])
        self.staging.add("funding", self._staged(self._once(frame), rank, sampled))

    def _refuse(
        self, frame: pd.DataFrame, bad: BoolArray | pd.Series, column: str, reason: str
    ) -> pd.DataFrame:
        mask = np.asarray(bad, bool)
        if not mask.any():
            return frame
        rows = rows_of(frame, mask)
        shown = rows.assign(column=column, value=pd.Series(rows[column]).astype("str"))
        self.ledger.set_aside(self.source, "marks", shown, reason)
        return rows_of(frame, ~mask)

    def _once(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Rows that say the same as an earlier one are left out."""
        own = [str(c) for c in frame.columns if c not in (SOURCE_FILE, SOURCE_ROW)]
        again = frame.duplicated(own).to_numpy(bool)
        if again.any():
            self.ledger.of(self.source).left_out["repeated"] += int(again.sum())
            frame = rows_of(frame, ~again).reset_index(drop=True)
        return frame

    def _staged(self, frame: pd.DataFrame, rank: int, sampled: bool) -> pd.DataFrame:
        return frame.assign(
            cell=cells_of(pd.Series(frame["time"]), self.interval_us, self._late_us),
            rank=rank * PLACES + self._place,
            sampled=sampled,
            source=self.source,
        )


def _last(frame: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    return frame.drop_duplicates(key, keep="last").reset_index(drop=True)


def _sample(rows: pd.DataFrame) -> pd.DataFrame:
    """The last row of each grid time, with the lowest and the highest mark up to it."""
    rows = rows.sort_values("time", kind="stable")
    keys = ["cell", "instrument_id"]
    marks = rows.groupby(keys, observed=True)["mark_price"]
    rows = rows.assign(low=marks.transform("min"), high=marks.transform("max"))
    return _last(rows, keys)


def _micros(length: timedelta) -> int:
    return int(length.total_seconds() * SECOND_US)
