"""The answer to a portfolio in the shape of OKX's position builder; see `position_builder`."""

import math
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from backtest.errors import ConfigError
from backtest.portfolio_answer import Answer
from backtest.position_builder_files import (
    SECONDS_PER_YEAR,
    BuilderRequest,
    Market,
    checked,
    holdings,
)
from backtest.reference import black76


_SCENARIOS = {"down": "volShockDown", "same": "volSame", "up": "volShockUp"}
_VOL_WORDS = {"down": "down", "same": "unchange", "up": "up"}
_GREEKS = ("delta", "gamma", "theta", "vega")
_TIE = 1e-12
"""Cells whose PnL differs by less, relatively, are equally bad."""


class _Row(NamedTuple):
    """A position in the response; `units` are the names its risk unit may have."""

    units: tuple[str, str]
    notional_usd: float
    greeks: dict[str, float | None]
    shown: dict[str, Any]


def to_response(
    found: Answer,
    portfolio: dict[str, Any],
    request: dict[str, Any],
    market: dict[str, Any],
    *,
    before: Answer | None = None,
) -> dict[str, Any]:
    """The answer to a portfolio as the venue's response; numbers are texts.

    Args:
        found: the answer.
        portfolio: what `from_request` made of the request.
        request: body of the request.
        market: market file.
        before: the answer without `idxVol`, where the request has one.

    Raises:
        ConfigError: a price is missing.
    """
    if missing := found.reference["detail"]["unpriced"]:
        raise ConfigError(f"market: not priced; missing or not usable: {', '.join(missing)}")
    asked, given = checked(BuilderRequest, request, "request"), checked(Market, market, "market")
    rows = _position_rows(portfolio, asked, given, with_before=before is not None)
    account, units = found.kernel["account"], found.kernel["units"]
    equity, notional = account["adjusted_equity"], math.fsum(row.notional_usd for row in rows)
    data = {
        "eq": text(equity),
        "totalMmr": text(account["total_mmr"]),
        "totalImr": text(account["total_imr"]),
        "borrowMmr": text(account["mr8"]),
        "derivMmr": text(account["derivatives_mmr"]),
        "marginRatio": text(account["margin_level"]),
        "upl": text(math.fsum(unit["upl"] for unit in units.values())),
        "acctLever": text(notional / equity if equity else None),
        "ts": text(given.ts),
        "assets": _assets(found, portfolio),
        "riskUnitData": [
            _risk_unit(name, found, before, [r for r in rows if name in r.units], asked.greeksType)
            for name in units
        ],
        "positions": [],
    }
    return {"code": "0", "data": [data], "msg": ""}


def text(value: float | None) -> str:
    """A number the way the venue writes it: no exponent, no trailing zeros; empty for none.

    Example:
        >>> text(-78980.0), text(1e-07), text(None)
        ('-78980', '0.0000001', '')
    """
    if value is None or not math.isfinite(value):
        return ""
    if value == int(value):
        return str(int(value))
    return format(Decimal(repr(float(value))), "f")


def _position_rows(
    portfolio: dict[str, Any], asked: BuilderRequest, given: Market, *, with_before: bool
) -> list[_Row]:
    held, _ = holdings(asked, given, ("request", "market"))
    instruments = {row["instrument_id"]: row for row in portfolio["instruments"]}
    types = {row.instId: row.instType for row in given.instruments}
    marks = {row.instId: row.markPx for row in given.marks}
    pairs = {row.instId: row.idxPx * (1.0 + (asked.idxVol or 0.0)) for row in given.index}
    rows = []
    for source, position in zip(held, portfolio["positions"], strict=True):
        terms, name = instruments[source.instrument_id], source.instrument_id
        coin, size = terms["coin"], position["contracts"] * terms["multiplier"]
        inverse = terms["style"] == "inverse" and terms["kind"] != "option"
        mark = position["mark_price"]
        entry = mark if position["entry_price"] is None else position["entry_price"]
        per_coin = pairs.get(f"{coin}-USD", portfolio["index_usd"][coin])
        notional = abs(size) * (1.0 if inverse else per_coin)
        greeks = _greeks(terms, position, portfolio, asked.greeksType)
        quote = "USD" if terms["style"] == "inverse" else terms["settle"]
        shown = {
            "instId": name,
            "instType": types[name],
            "amt": text(position["contracts"]),
            "posSide": "net",
            "avgPx": text(position["entry_price"]),
            "markPxBf": text(marks[name]) if with_before else "",
            "markPx": text(mark),
            "floatPnl": text(size * ((1.0 / entry - 1.0 / mark) if inverse else mark - entry)),
            "notionalUsd": text(notional),
            **{key: text(greeks[key]) for key in _GREEKS},
            "isRealPos": source.is_real,
        }
        rows.append(_Row((coin, f"{coin}-{quote}"), notional, greeks, shown))
    return rows


def _greeks(
    terms: dict[str, Any], position: dict[str, Any], portfolio: dict[str, Any], kind: str
) -> dict[str, float | None]:
    """Delta, gamma, theta a day and vega for 1 % of volatility, in the convention asked for."""
    size, mark = position["contracts"] * terms["multiplier"], position["mark_price"]
    index, fx = portfolio["index_usd"][terms["coin"]], portfolio["index_usd"][terms["settle"]]
    if terms["kind"] != "option":
        inverse = terms["style"] == "inverse"
        coins, usd = (size / mark, size) if inverse else (size, size * mark * fx)
        return {**dict.fromkeys(_GREEKS, 0.0), "delta": usd if kind == "CASH" else coins}
    left = datetime.fromisoformat(terms["expiry"]) - datetime.fromisoformat(portfolio["time"])
    years = left.total_seconds() / SECONDS_PER_YEAR
    market = position["forward"], terms["strike"], position["mark_iv"], years
    option = terms["option_type"], *market
    if kind == "PA":
        each = (
            black76.delta_pa(*option),
            black76.gamma_pa(*option),
            black76.theta_pa(*market),
            black76.vega_pa(*market) / 100.0,
        )
        return dict(zip(_GREEKS, (size * one for one in each), strict=True))
    delta = size * black76.delta_bs(*option)
    cash = kind == "CASH"
    return {
        "delta": delta * index if cash else delta,
        "gamma": None if cash else size * black76.gamma_bs(*market, index),
        "theta": size * black76.theta_bs(*market, index),
        "vega": size * black76.vega_bs(*market, index) / 100.0,
    }


def _assets(found: Answer, portfolio: dict[str, Any]) -> list[dict[str, str]]:
    """Equity, spot in use and margin of debts, a row a currency."""
    detail = found.reference["detail"]
    used: dict[str, float] = {}
    for name, unit in found.kernel["units"].items():
        coin = name.split("-")[0]
        used[coin] = used.get(coin, 0.0) + unit["spot_in_use"]
    currencies = {c for row in portfolio["instruments"] for c in (row["coin"], row["settle"])}
    rows = []
    for currency in sorted({*currencies, *portfolio["balances"]}):
        debt = detail["mr8"]["liabilities"].get(currency, {"imr": 0.0, "liability_usd": 0.0})
        equity = detail["collateral"].get(currency, {"equity": 0.0})["equity"]
        rows.append(
            {
                "ccy": currency,
                "availEq": text(equity),
                "spotInUse": text(used.get(currency, 0.0)),
                "borrowMmr": "",
                "borrowImr": text(debt["imr"] * debt["liability_usd"]),
            }
        )
    return rows


def _risk_unit(
    name: str, found: Answer, before: Answer | None, rows: list[_Row], greeks: str
) -> dict[str, Any]:
    """One risk unit of the response."""
    unit, steps = found.kernel["units"][name], found.reference["detail"]["units"][name]
    earlier = None if before is None else before.kernel["units"].get(name)
    index, spot = steps["index"], unit["spot_in_use"]
    spot_delta = spot * index if greeks == "CASH" else spot
    totals: dict[str, float | None] = {}
    for key in _GREEKS:
        each = [row.greeks[key] for row in rows] + ([spot_delta] if key == "delta" else [])
        known = [value for value in each if value is not None]
        totals[key] = math.fsum(known) if len(known) == len(each) else None
    portfolios = [row.shown for row in rows]
    if spot:
        portfolios.append(_spot_row(name.split("-")[0], spot, index, spot_delta))
    scenarios: dict[str, dict[str, str]] = {key: {} for key in _SCENARIOS.values()}
    for cell in unit["mr1_cells"]:
        scenarios[_SCENARIOS[cell["vol"]]][text(cell["price_move"])] = text(cell["pnl"])
    worst, extreme = _worst(unit["mr1_cells"]), steps["mr6"]["worst"]
    return {
        "riskUnit": name,
        "indexUsd": text(index),
        "mmrBf": text(earlier and earlier["mmr"]),
        "mmr": text(unit["mmr"]),
        "imrBf": text(earlier and earlier["imr"]),
        "imr": text(unit["imr"]),
        "upl": text(unit["upl"]),
        **{f"mr{k}": text(unit[f"mr{k}"]) for k in range(1, 8)},
        "mr8": text(found.kernel["account"]["mr8"]),
        "mr9": text(unit["mr9"]),
        "mr1Scenarios": scenarios,
        "mr1FinalResult": {
            "pnl": text(worst["pnl"]),
            "spotShock": text(worst["price_move"]),
            "volShock": _VOL_WORDS[worst["vol"]],
        },
        "mr6FinalResult": {
            "pnl": text(extreme["pnl"]),
            "spotShock": text(extreme["price_move"]),
        },
        **{key: text(totals[key]) for key in _GREEKS},
        "portfolios": portfolios,
    }


def _spot_row(coin: str, amount: float, index: float, delta: float) -> dict[str, Any]:
    """Spot in use as a position of its unit."""
    return {
        "instId": coin,
        "instType": "SPOT",
        "amt": text(amount),
        "posSide": "",
        "avgPx": "",
        "markPxBf": "",
        "markPx": text(index),
        "floatPnl": "",
        "notionalUsd": text(abs(amount) * index),
        **{key: "" for key in _GREEKS},
        "delta": text(delta),
        "isRealPos": False,
    }


def _worst(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The cell of the largest loss; of equally bad ones that with the volatility up."""
    least = min(cell["pnl"] for cell in cells)
    size = max(abs(cell["pnl"]) for cell in cells)
    equal = [cell for cell in cells if cell["pnl"] <= least + _TIE * size]
    return max(equal, key=lambda cell: (cell["vol"] == "up", cell["vol"] == "same"))
