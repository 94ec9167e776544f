"""A local server that answers as venues do, and a transport to it; answers can be spoilt.

The shapes are those of recorded answers; prices are a function of the time, so that every page can
be checked.
"""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from backtest.fetch.transport import TemporaryError


HOUR_MS = 3_600_000
PATHS = {
    "publicGetMarketHistoryMarkPriceCandles": "/api/v5/market/history-mark-price-candles",
    "publicGetMarketHistoryIndexCandles": "/api/v5/market/history-index-candles",
    "publicGetPublicFundingRateHistory": "/api/v5/public/funding-rate-history",
    "publicGetPublicOptSummary": "/api/v5/public/opt-summary",
    "publicGetV5MarketMarkPriceKline": "/v5/market/mark-price-kline",
    "publicGetV5MarketIndexPriceKline": "/v5/market/index-price-kline",
    "publicGetV5MarketFundingHistory": "/v5/market/funding/history",
    "publicGetV5MarketTickers": "/v5/market/tickers",
    "publicGetGetTradingviewChartData": "/api/v2/public/get_tradingview_chart_data",
    "publicGetGetFundingRateHistory": "/api/v2/public/get_funding_rate_history",
    "publicGetGetBookSummaryByCurrency": "/api/v2/public/get_book_summary_by_currency",
    "fapiPublicGetMarkPriceKlines": "/fapi/v1/markPriceKlines",
    "fapiPublicGetIndexPriceKlines": "/fapi/v1/indexPriceKlines",
    "fapiPublicGetFundingRate": "/fapi/v1/fundingRate",
}


def price(at: int) -> float:
    """Close of the bar that opens at ``at`` (ms)."""
    return 60_000.0 + (at // HOUR_MS) % 1000


def bars(start: int, end: int) -> list[list[str]]:
    """Hourly bars with ``start <= open < end``, newest first."""
    first = -(-start // HOUR_MS) * HOUR_MS
    return [
        [str(at), *(f"{price(at) + d}" for d in (0.0, 50.0, -50.0, 0.0))]
        for at in reversed(range(first, end, HOUR_MS))
    ]


def _eights(start: int, end: int) -> list[int]:
    return [at for at in range(start // HOUR_MS * HOUR_MS, end, HOUR_MS)
            if at >= start and at % (8 * HOUR_MS) == 0]  # fmt: skip


def _okx(path: str, q: dict[str, str]) -> Any:
    if path.endswith("opt-summary"):
        rows: list[Any] = [
            {"instType": "OPTION", "instId": "BTC-USD-241227-60000-C", "uly": "BTC-USD",
             "bidVol": "", "askVol": "0.6", "markVol": "0.5", "fwdPx": "61000",
             "ts": "1734166000000"}
        ]  # fmt: skip
        return {"code": "0", "msg": "", "data": rows}
    start, end = int(q["before"]) + 1, int(q["after"])
    if path.endswith("funding-rate-history"):
        rows = [
            {"instType": "SWAP", "instId": q["instId"], "fundingRate": "0.0002",
             "realizedRate": "0.0001", "fundingTime": str(at)}
            for at in reversed(_eights(start, end))
        ]  # fmt: skip
    else:
        rows = [[*bar, "1"] for bar in bars(start, end)][: int(q["limit"])]
    return {"code": "0", "msg": "", "data": rows}


def _bybit(path: str, q: dict[str, str]) -> Any:
    if path.endswith("tickers"):
        rows: list[Any] = [
            {"symbol": "BTC-27DEC24-60000-C", "markPrice": "3000.5", "markIv": "0.5",
             "underlyingPrice": "61000", "indexPrice": "60900"}
        ]  # fmt: skip
    elif path.endswith("history"):
        rows = [
            {"symbol": q["symbol"], "fundingRate": "0.0001", "fundingRateTimestamp": str(at)}
            for at in reversed(_eights(int(q["startTime"]), int(q["endTime"]) + 1))
        ]
    else:
        rows = bars(int(q["start"]), int(q["end"]) + 1)[: int(q["limit"])]
    result = {"category": q["category"], "list": rows}
    return {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": 1734166000000}


def _deribit(path: str, q: dict[str, str]) -> Any:
    if path.endswith("get_book_summary_by_currency"):
        row = {"instrument_name": "BTC-27DEC24-60000-C", "mark_price": 0.05, "mark_iv": 50.0,
               "underlying_price": 61000.0, "estimated_delivery_price": 60900.0,
               "creation_timestamp": 1734166000000}  # fmt: skip
        return {"jsonrpc": "2.0", "result": [row]}
    start, end = int(q["start_timestamp"]), int(q["end_timestamp"]) + 1
    found = list(reversed(bars(start, end)))
    if path.endswith("chart_data"):
        columns = [[float(bar[i]) for bar in found] for i in range(5)]
        names = ("ticks", "open", "high", "low", "close")
        result: Any = dict(zip(names, columns, strict=True)) | {"status": "ok"}
        result["ticks"] = [int(at) for at in result["ticks"]]
    else:
        result = [
            {"timestamp": int(bar[0]), "index_price": price(int(bar[0]) - HOUR_MS),
             "interest_1h": 0.00001, "interest_8h": 0.00008}
            for bar in found
        ]  # fmt: skip
    return {"jsonrpc": "2.0", "result": result}


def _binance(path: str, q: dict[str, str]) -> Any:
    start, end = int(q["startTime"]), int(q["endTime"]) + 1
    if path.endswith("fundingRate"):
        return [
            {"symbol": q["symbol"], "fundingTime": at + 3, "fundingRate": "0.0001"}
            for at in _eights(start, end)
        ]
    rows = reversed(bars(start, end)[: int(q["limit"])])
    return [[int(bar[0]), *bar[1:], "0", int(bar[0]) + HOUR_MS - 1] for bar in rows]


def honest(path: str, query: dict[str, str]) -> Any:
    """What the venue would say."""
    for part, answer in {"/api/v5/": _okx, "/v5/": _bybit, "/api/v2/": _deribit}.items():
        if path.startswith(part):
            return answer(path, query)
    return _binance(path, query)


Spoil = Callable[[str, dict[str, str]], Any]
"""What is answered instead: a status, ``b"..."`` for a cut body, or JSON."""


class FaultServer(ThreadingHTTPServer):
    """Answers ``honest`` but for the requests, counted from 0, that have a fault."""

    daemon_threads = True

    def __init__(self, faults: Mapping[int, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults = dict(faults)
        self.asked: list[str] = []
        self.before: Any = {"code": "0", "msg": "", "data": []}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        own = self.server
        assert isinstance(own, FaultServer)
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        fault = own.faults.get(len(own.asked))
        own.asked.append(self.path)
        answer = honest(parts.path, query)
        if isinstance(fault, int):
            self._send(fault, b'{"code":"50011","msg":"Too Many Requests"}')
        elif fault == "cut":
            body = json.dumps(answer).encode()
            self._send(200, body[: len(body) // 2], len(body))
            self.close_connection = True
        elif fault == "page before":
            self._send(200, json.dumps(own.before).encode())
        else:
            answer = fault(answer) if callable(fault) else answer
            own.before = answer
            self._send(200, json.dumps(answer).encode())

    def _send(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if status == 429:
            self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # pyright: ignore[reportImplicitOverride] (typing.override needs Python 3.12)
        del format, args


@contextmanager
def serving(faults: Mapping[int, Any] | None = None) -> Iterator[FaultServer]:
    """A server in a thread."""
    server = FaultServer(faults or {})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class PlainTransport:
    """Asks the server without ccxt."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, endpoint: str, params: Mapping[str, Any]) -> Any:
        address = f"{self.url}{PATHS[endpoint]}?{urlencode(params)}"
        try:
            with urllib.request.urlopen(address, timeout=5) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                said = error.headers.get("Retry-After")
            raise TemporaryError(str(error), float(said) if said else None) from None
        except (OSError, ValueError, HTTPException) as error:
            raise TemporaryError(str(error)) from error
