"""What each venue is asked, and what its answers say.

References:
    OKX API v5: public/instruments, market/history-mark-price-candles, market/history-index-candles,
    public/funding-rate-history, public/opt-summary. Bybit API v5: market/instruments-info,
    market/mark-price-kline, market/index-price-kline, market/funding/history, market/tickers.
    Deribit API 2.1: public/get_instruments, public/get_tradingview_chart_data,
    public/get_funding_rate_history (which has the index), public/get_book_summary_by_currency.
    Binance USD-M futures: markPriceKlines, indexPriceKlines, fundingRate.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from backtest.fetch.config import INTERVAL_MS
from backtest.fetch.transport import TemporaryError


Kind = Literal["marks", "index", "funding", "options"]
Row = dict[str, Any]
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


@dataclass(frozen=True)
class Series:
    """One series: bars of a mark or an index, funding rates, or snapshots of a chain."""

    venue: str
    kind: Kind
    name: str
    interval: str

    @property
    def step_ms(self) -> int | None:
        """Milliseconds from bar to bar; None where rows are not bars."""
        if self.kind == "index" and self.venue == "deribit":
            return _HOUR_MS
        return INTERVAL_MS[self.interval] if self.kind in ("marks", "index") else None


@dataclass(frozen=True)
class Question:
    """An endpoint, by ccxt's name of it, and what it is asked."""

    endpoint: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Venue:
    """How a venue is asked for a page (milliseconds, end exclusive) and for a chain as it is now.

    Rows of bars have ``at`` (open, ms), ``close``, ``low``, ``high``; funding rates ``at`` and
    ``rate``; options ``at``, ``name``, ``mark``, ``iv`` (fraction), ``forward``, ``index``.
    """

    page_rows: int
    funding_days: int
    ask: Callable[[Series, int, int], Question]
    read: Callable[[Series, Any], list[Row]]
    ask_chain: Callable[[str], Question]
    read_chain: Callable[[Any], list[Row]]

    def page_ms(self, series: Series) -> int:
        """Length of a page, so that it is never longer than the venue's limit of rows."""
        if series.kind == "funding":
            return self.funding_days * _DAY_MS
        return self.page_rows * (series.step_ms or _HOUR_MS)


def _bars(rows: Iterable[Any]) -> list[Row]:
    """Rows ``[open time, open, high, low, close, ...]``."""
    return [
        {"at": int(r[0]), "high": float(r[2]), "low": float(r[3]), "close": float(r[4])}
        for r in rows
    ]


def _part(answer: Any, *keys: str) -> Any:
    """What stands below keys; an answer without them is one that was spoilt on its way."""
    for key in keys:
        if not isinstance(answer, dict) or key not in answer:
            raise TemporaryError(f"the answer has no '{key}': {str(answer)[:80]}")
        answer = answer[key]
    return answer


# -- OKX -------------------------------------------------------------------------------------------

_OKX_BARS = {"1m": "1m", "5m": "5m", "15m": "15m", "1h": "1H", "4h": "4H", "1d": "1Dutc"}


def _ask_okx(series: Series, start: int, end: int) -> Question:
    span = {"instId": series.name, "before": str(start - 1), "after": str(end), "limit": "100"}
    if series.kind == "funding":
        return Question("publicGetPublicFundingRateHistory", span)
    what = "MarkPrice" if series.kind == "marks" else "Index"
    return Question(
        f"publicGetMarketHistory{what}Candles", span | {"bar": _OKX_BARS[series.interval]}
    )


def _read_okx(series: Series, answer: Any) -> list[Row]:
    rows = _part(answer, "data")
    if series.kind == "funding":
        return [
            {"at": int(r["fundingTime"]), "rate": float(r.get("realizedRate") or r["fundingRate"])}
            for r in rows
        ]
    return _bars(r for r in rows if str(r[-1]) != "0")  # the last bar may not be over yet


def _read_okx_chain(answer: Any) -> list[Row]:
    return [
        {
            "at": int(r["ts"]),
            "name": r["instId"],
            "mark": None,
            "iv": float(r["markVol"]),
            "forward": float(r["fwdPx"]),
            "index": None,
        }
        for r in _part(answer, "data")
        if r.get("markVol") and r.get("fwdPx")
    ]


# -- Bybit -----------------------------------------------------------------------------------------

_BYBIT_BARS = {"1m": "1", "5m": "5", "15m": "15", "1h": "60", "4h": "240", "1d": "D"}


def _category(name: str) -> str:
    return "inverse" if "USD" in name and not name.endswith(("USDT", "USDC")) else "linear"


def _ask_bybit(series: Series, start: int, end: int) -> Question:
    own = {"category": _category(series.name), "symbol": series.name}
    if series.kind == "funding":
        span = {"startTime": start, "endTime": end - 1, "limit": 200}
        return Question("publicGetV5MarketFundingHistory", own | span)
    what = "MarkPriceKline" if series.kind == "marks" else "IndexPriceKline"
    span = {"interval": _BYBIT_BARS[series.interval], "start": start, "end": end - 1, "limit": 1000}
    return Question(f"publicGetV5Market{what}", own | span)


def _read_bybit(series: Series, answer: Any) -> list[Row]:
    rows = _part(answer, "result", "list")
    if series.kind == "funding":
        return [
            {"at": int(r["fundingRateTimestamp"]), "rate": float(r["fundingRate"])} for r in rows
        ]
    return _bars(rows)


def _read_bybit_chain(answer: Any) -> list[Row]:
    at = int(_part(answer, "time"))
    return [
        {
            "at": at,
            "name": r["symbol"],
            "mark": float(r["markPrice"]),
            "iv": float(r["markIv"]),
            "forward": float(r["underlyingPrice"]),
            "index": float(r["indexPrice"]),
        }
        for r in _part(answer, "result", "list")
    ]


# -- Deribit ---------------------------------------------------------------------------------------

_DERIBIT_BARS = {"1m": "1", "5m": "5", "15m": "15", "1h": "60", "4h": "240", "1d": "1D"}


def _ask_deribit(series: Series, start: int, end: int) -> Question:
    late = _HOUR_MS if series.kind == "index" else 0  # told at the end of its hour
    span = {
        "instrument_name": series.name,
        "start_timestamp": start + late,
        "end_timestamp": end - 1 + late,
    }
    if series.kind == "marks":
        bars = {"resolution": _DERIBIT_BARS[series.interval]}
        return Question("publicGetGetTradingviewChartData", span | bars)
    return Question("publicGetGetFundingRateHistory", span)


def _read_deribit(series: Series, answer: Any) -> list[Row]:
    found = _part(answer, "result")
    if series.kind == "funding":
        return [{"at": int(r["timestamp"]), "rate": float(r["interest_1h"])} for r in found]
    if series.kind == "index":
        # The index at the end of each hour: a bar without low and high.
        return [
            {"at": int(r["timestamp"]) - _HOUR_MS, "close": float(r["index_price"])} for r in found
        ]
    columns = [_part(found, key) for key in ("ticks", "open", "high", "low", "close")]
    return _bars(zip(*columns, strict=True))


def _read_deribit_chain(answer: Any) -> list[Row]:
    return [
        {
            "at": int(r["creation_timestamp"]),
            "name": r["instrument_name"],
            "mark": float(r["mark_price"]),
            "iv": float(r["mark_iv"]) / 100.0,
            "forward": float(r["underlying_price"]),
            "index": float(r["estimated_delivery_price"]),
        }
        for r in _part(answer, "result")
        if r.get("mark_price") is not None and r.get("mark_iv") is not None
    ]


# -- Binance ---------------------------------------------------------------------------------------


def _ask_binance(series: Series, start: int, end: int) -> Question:
    span = {"startTime": start, "endTime": end - 1, "limit": 1000}
    if series.kind == "funding":
        return Question("fapiPublicGetFundingRate", span | {"symbol": series.name})
    bars = span | {"interval": series.interval}
    if series.kind == "marks":
        return Question("fapiPublicGetMarkPriceKlines", bars | {"symbol": series.name})
    return Question("fapiPublicGetIndexPriceKlines", bars | {"pair": series.name})


def _read_binance(series: Series, answer: Any) -> list[Row]:
    if not isinstance(answer, list):
        raise TemporaryError(f"the answer is no list: {str(answer)[:80]}")
    if series.kind == "funding":
        # Payments are stamped some milliseconds late.
        return [
            {"at": int(r["fundingTime"]) // 60_000 * 60_000, "rate": float(r["fundingRate"])}
            for r in answer
        ]
    return _bars(answer)


def _no_chain(answer: Any) -> list[Row]:
    raise AssertionError(f"no chains of this venue: {answer}")


VENUES: dict[str, Venue] = {
    "okx": Venue(
        100,
        4,
        _ask_okx,
        _read_okx,
        lambda coin: Question("publicGetPublicOptSummary", {"uly": f"{coin}-USD"}),
        _read_okx_chain,
    ),
    "bybit": Venue(
        1000,
        8,
        _ask_bybit,
        _read_bybit,
        lambda coin: Question("publicGetV5MarketTickers", {"category": "option", "baseCoin": coin}),
        _read_bybit_chain,
    ),
    "deribit": Venue(
        720,
        30,
        _ask_deribit,
        _read_deribit,
        lambda coin: Question(
            "publicGetGetBookSummaryByCurrency", {"currency": coin, "kind": "option"}
        ),
        _read_deribit_chain,
    ),
    "binance": Venue(
        1000, 40, _ask_binance, _read_binance, lambda coin: Question(coin, {}), _no_chain
    ),
}
"""All venues by name. Pages are as long as an answer may be (funding: were it paid every hour)."""
