"""OKX's position builder from here: its request becomes a portfolio, the answer its response.

The shapes are those of `POST /api/v5/account/position-builder` (API v5). What a request cannot
say comes from a market file, made of rows as the venue's public endpoints give them::

    {"ts": "1736936801642",
     "instruments": [...],              # public/instruments: instId, instType, ctVal, ctMult, ...
     "index": [...],                    # market/index-tickers: instId (BTC-USDT), idxPx
     "marks": [...],                    # public/mark-price: instId, markPx
     "options": [...],                  # public/opt-summary: instId, markVol, fwdPx
     "account": {"positions": [...],    # account/positions: instId, pos, avgPx
                 "balances": [...]}}    # account/balance: ccy, cashBal

Left empty (`""`) as the venue does: `borrowMmr` of assets, `mmrBf`, `imrBf` and `markPxBf` without
`idxVol`, Greeks of spot but its delta. Left empty because nobody publishes how it is found:
`gamma` of options where the Greeks are `CASH`. `positions` is of another account mode, always an
empty list.

Assumed: a coin's index is COIN-USDT times USDT-USD [D: V1], else COIN-USD, else through USDC;
Greeks `CASH` are in USD, theta and vega those of `BS`; perpetuals and futures have a delta only,
the same in `BS` and `PA`; `idxVol` moves every coin, mark and forward by the same fraction, options
are repriced at their mark volatility; notional is at the index COIN-USD where there is one, and
`acctLever` its sum over `eq` [D: V1]; `mr1FinalResult` names volatility up where the worst cells
are equal [D: V1]; spot in use is a row called after its coin.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backtest.config_errors import nearest
from backtest.errors import ConfigError
from backtest.portfolio_answer import answer, rules_at, static_warnings
from backtest.portfolio_file import parse_portfolio
from backtest.position_builder_files import (
    SECONDS_PER_YEAR,
    BuilderRequest,
    Held,
    InstrumentRow,
    Market,
    checked,
    holdings,
)
from backtest.position_builder_response import to_response
from backtest.reference import black76


__all__ = ["from_request", "respond", "to_response"]


SPOT_MODES = {"1": "USDT", "2": "USD", "3": "derivatives_only", "4": "USDC"}
_QUOTES = ("USDT", "USDC", "USD")


def respond(
    request: Any, market: Any, params: str | Path, shown: tuple[str, str] = ("request", "market")
) -> tuple[dict[str, Any], list[str]]:
    """The response to a request under a parameter set of OKX, and warnings.

    Args:
        request: body of the request.
        market: market file, see the module.
        params: parameter set, or schedule: the set in force at the market's time.
        shown: what messages call the request and the market.

    Raises:
        ConfigError: something in them is not usable.
    """
    portfolio = from_request(request, market, shown)
    rules = rules_at(params, portfolio["time"])
    if rules.model != "okx":
        raise ConfigError(f"{params}: key 'model' is '{rules.model}'; allowed here: 'okx'")
    found = answer(portfolio, rules.numbers(), shown[0])
    before = None
    if request.get("idxVol"):
        unmoved = from_request({**request, "idxVol": ""}, market, shown)
        before = answer(unmoved, rules.numbers(), shown[0])
    response = to_response(found, portfolio, request, market, before=before)
    return response, static_warnings(rules)


def from_request(
    request: Any, market: Any, shown: tuple[str, str] = ("request", "market")
) -> dict[str, Any]:
    """The portfolio file that a request describes, `idxVol` applied.

    Raises:
        ConfigError: an unknown key, instrument or price; or real positions are asked for and the
            market has no `account`.
    """
    asked, given = checked(BuilderRequest, request, shown[0]), checked(Market, market, shown[1])
    held, balances = holdings(asked, given, shown)
    terms = _terms(held, given, shown)
    share = asked.idxVol or 0.0
    time = datetime.fromtimestamp(given.ts / 1000.0, tz=UTC)
    currencies = {*balances, *(c for t in terms.values() for c in (t.coin, t.settleCcy))}
    portfolio = {
        "time": time.isoformat(),
        "index_usd": {
            c: _index_usd(c, given, shown[1]) * (1.0 if c in _QUOTES else 1.0 + share)
            for c in sorted(currencies)
        },
        "instruments": [row.terms() for row in terms.values()],
        "positions": [
            {
                "instrument_id": row.instrument_id,
                "contracts": row.contracts,
                "entry_price": row.entry,
                **_quote(terms[row.instrument_id], given, share, shown[1]),
            }
            for row in held
        ],
        "balances": balances,
        "spot_mode": SPOT_MODES.get(asked.spotOffsetType),
    }
    return parse_portfolio(portfolio, shown[0])


def _terms(held: list[Held], given: Market, shown: tuple[str, str]) -> dict[str, InstrumentRow]:
    """Terms of every instrument held."""
    known = {row.instId: row for row in given.instruments}
    for row in held:
        if row.instrument_id not in known:
            near = nearest(row.instrument_id, known)
            hint = f"; did you mean '{near}'?" if near else ";"
            raise ConfigError(
                f"{row.key} is '{row.instrument_id}'{hint} allowed: the 'instruments' of {shown[1]}"
            )
    return {row.instrument_id: known[row.instrument_id] for row in held}


def _index_usd(currency: str, given: Market, shown: str) -> float:
    """Index price of a currency, USD."""
    pairs = {row.instId: row.idxPx for row in given.index}
    if currency == "USD":
        return 1.0
    if f"{currency}-USDT" in pairs and "USDT-USD" in pairs and currency not in _QUOTES:
        return pairs[f"{currency}-USDT"] * pairs["USDT-USD"]
    if f"{currency}-USD" in pairs:
        return pairs[f"{currency}-USD"]
    if f"{currency}-USDC" in pairs and "USDC-USD" in pairs and currency not in _QUOTES:
        return pairs[f"{currency}-USDC"] * pairs["USDC-USD"]
    needed = f"'{currency}-USD'"
    if currency not in _QUOTES:
        needed = f"'{currency}-USDT' and 'USDT-USD', or {needed}"
    raise ConfigError(f"{shown}: 'index' has no price of {currency}; needed: {needed}")


def _quote(
    terms: InstrumentRow, given: Market, share: float, shown: str
) -> dict[str, float | None]:
    """Mark, volatility and forward of a contract after all prices have moved by a share."""
    name = terms.instId
    marks = {row.instId: row.markPx for row in given.marks}
    options = {row.instId: row for row in given.options}
    if name not in marks:
        raise ConfigError(f"{shown}: 'marks' has no row of '{name}'")
    if terms.instType != "OPTION":
        return {"mark_price": marks[name] * (1.0 + share), "mark_iv": None, "forward": None}
    if name not in options:
        raise ConfigError(f"{shown}: 'options' has no row of '{name}'")
    sigma, forward, mark = options[name].markVol, options[name].fwdPx * (1.0 + share), marks[name]
    if share and terms.expTime and terms.stk:
        years = max(0.0, (terms.expTime - given.ts) / 1000.0 / SECONDS_PER_YEAR)
        mark = black76.coin_price(terms.optType, forward, terms.stk, sigma, years)
    return {"mark_price": mark, "mark_iv": sigma, "forward": forward}
