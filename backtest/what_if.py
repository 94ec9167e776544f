"""What-if calculator: one portfolio file, every charge, from the kernels that replay history."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import pandas as pd

from backtest.batching import Snapshot, batches
from backtest.engine import Engine, over_times
from backtest.errors import ConfigError
from backtest.leg_lists import SPOT_FAMILIES, USD_FAMILY, Terms
from backtest.market_window import MICROS, MarketWindow, micros, stamp
from backtest.model_records import Currencies, contract_records
from backtest.parameter_records import has_split_units, parameter_record
from backtest.tile_programs import VOL_STATES, stages, unit_grids
from kernels.features import CASH, DELTA
from kernels.model import MarginModel
from kernels.models import model_of
from kernels.records import NULL_CURRENCY, NUM_QUOTES, QUOTES, Book, Contract
from kernels.status import STATUS_NAMES


INSTRUMENT_KEYS = (
    "instrument_id",
    "kind",
    "coin",
    "settle",
    "style",
    "multiplier",
    "strike",
    "option_type",
    "expiry",
)


PORTFOLIOS = ("positions", "positions+buys", "positions+sells")
"""What a unit with open orders may be charged for."""


def margin(portfolio: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
    """All charges of one portfolio (``pmstress margin`` file) under any margin model, USD.

    Args:
        portfolio: the portfolio file as a dictionary; its open orders count as such.
        numbers: ``ParameterSet.numbers()``.

    Returns:
        ``{"units": ..., "account": ...}`` in the shape of ``pmstress margin --json``.

    Raises:
        ConfigError: a key is missing or a position is in an instrument that is not listed.
    """
    instruments = _instruments(portfolio)
    coins = [*instruments["coin"], *instruments["settle"], *portfolio.get("balances", {})]
    currencies = Currencies([str(c) for c in coins])
    contracts = contract_records(instruments, currencies)
    window = _window(portfolio, instruments, currencies, _clock_us(portfolio, numbers))
    snapshot = _snapshot(portfolio, instruments, currencies)
    is_split = has_split_units(numbers)
    (batch,) = batches(snapshot, terms_of(contracts), currencies, split=is_split)
    params = over_times(parameter_record(numbers, currencies), 1)
    (priced,) = Engine().price(window, contracts, [params])
    table = jax.tree.map(lambda x: x[..., 0], priced.tables)
    now = jax.tree.map(lambda x: x[0], params)
    exposures, units, account, theta = stages(batch.book, table, now, np.asarray(True))
    held = batch.book, snapshot, terms_of(contracts), window
    found = _Found(exposures, units, account, theta, table, now, *held)
    names = [
        (u, _unit_name(currencies, batch.book, u, is_split))
        for u in range(batch.shape.units)
        if batch.book.unit_coin[u, 0] != NULL_CURRENCY
    ]
    answers = {n: _unit_answer(found, u) for u, n in sorted(names, key=lambda pair: pair[1])}
    return {"units": answers, "account": _account_answer(found)}


@dataclass(frozen=True)
class _Found:
    """What the kernels give for one account at one time, and what it is made of."""

    exposures: Any
    units: Any
    account: Any
    theta: dict[str, Any]
    table: Any
    params: Any
    book: Book
    snapshot: Snapshot
    terms: Terms
    window: MarketWindow

    @cached_property
    def grids(self) -> np.ndarray:
        """Profit in the grid cells, [unit, account, cell]."""
        stages = self.exposures, self.units, self.book, self.table, self.params
        return np.asarray(unit_grids(*stages))

    @property
    def model(self) -> MarginModel:
        return model_of(self.params)


def _unit_name(currencies: Currencies, book: Book, u: int, is_split: bool) -> str:
    coin = currencies.names[int(book.unit_coin[u, 0])]
    return f"{coin}-{QUOTES[int(book.unit_family[u, 0])]}" if is_split else coin


def terms_of(contracts: Contract) -> Terms:
    """Host copies of the contract terms that batching needs."""
    return Terms(
        kind=np.asarray(contracts.kind),
        is_inverse=np.asarray(contracts.is_inverse),
        multiplier=np.asarray(contracts.multiplier),
        call_sign=np.asarray(contracts.call_sign),
        coin=np.asarray(contracts.coin),
        settle=np.asarray(contracts.settle),
        expiry_s=np.asarray(contracts.expiry_s),
    )


def after_fills(portfolio: dict[str, Any]) -> dict[str, Any]:
    """The same portfolio after its trades, orders still resting; without any, after its orders.

    A derivative fill adds a row in its instrument entered at its price; an option costs its
    premium in its settle currency; a spot fill moves both balances. Orders in expired contracts
    are void.
    """
    key = "trades" if portfolio.get("trades") else "orders"
    instruments = {i["instrument_id"]: i for i in portfolio.get("instruments", [])}
    marks = {p["instrument_id"]: p for p in portfolio.get("positions", [])}
    balances = dict(portfolio.get("balances", {}))
    positions = [dict(p) for p in portfolio.get("positions", [])]
    for fill in portfolio.get(key, []):
        name, contracts, price = fill["instrument_id"], fill["contracts"], fill["price"]
        if name not in instruments:
            raise ConfigError(f"{key}: instrument '{name}' is not in 'instruments'")
        terms = instruments[name]
        if terms["kind"] == "spot":
            amount = contracts * terms["multiplier"]
            balances[terms["coin"]] = balances.get(terms["coin"], 0.0) + amount
            balances[terms["settle"]] = balances.get(terms["settle"], 0.0) - amount * price
            continue
        if _has_expired(terms, portfolio):
            continue
        quoted = {k: fill[k] for k in ("mark_price", "mark_iv", "forward") if k in fill}
        if name not in marks and "mark_price" not in quoted:
            raise ConfigError(
                f"{key}: '{name}' has no position to take the mark from; give 'mark_price' "
                "(options: 'mark_iv' and 'forward' too) in the row"
            )
        row = {**marks.get(name, {}), **quoted, "instrument_id": name}
        positions.append(row | {"contracts": contracts, "entry_price": price})
        if terms["kind"] == "option":
            cost = contracts * terms["multiplier"] * price
            balances[terms["settle"]] = balances.get(terms["settle"], 0.0) - cost
    return {**portfolio, "positions": positions, "balances": balances, key: []}


def _has_expired(terms: dict[str, Any], portfolio: dict[str, Any]) -> bool:
    if not terms.get("expiry"):
        return False
    expiry = micros(pd.DatetimeIndex(pd.to_datetime([terms["expiry"]], utc=True)))
    return int(expiry[0]) <= int(micros(pd.DatetimeIndex([_time(portfolio)]))[0])


def _instruments(portfolio: dict[str, Any]) -> pd.DataFrame:
    rows = portfolio.get("instruments", [])
    for k, row in enumerate(rows):
        missing = [key for key in INSTRUMENT_KEYS[:6] if key not in row]
        if missing:
            raise ConfigError(f"instruments[{k}]: '{missing[0]}' is missing")
    frame = pd.DataFrame(rows, columns=list(INSTRUMENT_KEYS))
    frame["strike"] = frame["strike"].astype(float)
    frame["expiry"] = pd.to_datetime(frame["expiry"], utc=True)
    return frame


def _rows(portfolio: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Positions or orders, each in an instrument that the file lists."""
    rows = portfolio.get(key) or []
    known = {row["instrument_id"] for row in portfolio.get("instruments", [])}
    for k, row in enumerate(rows):
        if row["instrument_id"] not in known:
            raise ConfigError(
                f"{key}[{k}]: instrument '{row['instrument_id']}' is not in 'instruments'"
            )
    return rows


def _price(value: Any) -> float:
    return math.nan if value is None else float(value)


def _window(
    portfolio: dict[str, Any], instruments: pd.DataFrame, currencies: Currencies, clock_us: int
) -> MarketWindow:
    count = len(instruments) + 1
    row_of = {name: k + 1 for k, name in enumerate(instruments["instrument_id"])}
    usd = np.full((1, len(currencies.names)), np.nan)
    for name, value in portfolio["index_usd"].items():
        if name in currencies.position:
            usd[0, currencies.position[name]] = _price(value)
    usd[0, currencies.position["USD"]] = usd[0, NUM_QUOTES] = 1.0
    quotes = np.full((5, 1, count), np.nan)
    # The first row of an instrument says what it is worth, a position before an order.
    for position in reversed([*_rows(portfolio, "positions"), *_rows(portfolio, "orders")]):
        name = position["instrument_id"]
        keys = ("mark_price", "forward", "mark_iv")
        quotes[:3, 0, row_of[name]] = [_price(position.get(key)) for key in keys]
        final = position.get("settlement_index_usd")
        if final:
            contract = instruments.iloc[row_of[name] - 1]
            pair = final.get(contract["coin"]), final.get(contract["settle"], 1.0)
            quotes[3:, 0, row_of[name]] = [_price(value) for value in pair]
    return MarketWindow(
        times_us=np.asarray([clock_us]),
        currency_usd=usd,
        mark=quotes[0],
        forward_usd=quotes[1],
        iv=quotes[2],
        settlement=quotes[3],
        settlement_fx=quotes[4],
        funding=np.zeros((1, count)),
    )


def _time(portfolio: dict[str, Any]) -> pd.Timestamp:
    times = pd.DatetimeIndex(pd.to_datetime([portfolio["time"]], utc=True))
    return stamp(int(micros(times)[0]))


def _clock_us(portfolio: dict[str, Any], numbers: dict[str, Any]) -> int:
    """Time that expiries are counted from, in whole seconds where the model says so."""
    time_us = int(micros(pd.DatetimeIndex([_time(portfolio)]))[0])
    in_seconds = numbers.get("grid", {}).get("whole_seconds", False)
    return time_us - time_us % MICROS if in_seconds else time_us


def _snapshot(
    portfolio: dict[str, Any], instruments: pd.DataFrame, currencies: Currencies
) -> Snapshot:
    positions, orders = _rows(portfolio, "positions"), _rows(portfolio, "orders")
    row_of = {name: k + 1 for k, name in enumerate(instruments["instrument_id"])}
    balances, limits = portfolio.get("balances", {}), portfolio.get("spot_limits", {})
    held = sorted({*balances, *limits} & set(currencies.position))
    # Rows of one instrument are netted: the entry that keeps their total entry value.
    entry = [
        _price(p.get("mark_price")) if p.get("entry_price") is None else float(p["entry_price"])
        for p in positions
    ]
    frame = pd.DataFrame(
        {
            "instrument": [row_of[p["instrument_id"]] for p in positions],
            "contracts": [float(p["contracts"]) for p in positions],
            "entry": entry,
        }
    )
    return Snapshot(
        account_ids=np.asarray(["portfolio"]),
        leg_account=np.zeros(len(frame), int),
        leg_instrument=frame["instrument"].to_numpy(int),
        leg_contracts=frame["contracts"].to_numpy(float),
        leg_entry=frame["entry"].to_numpy(float),
        cash_account=np.zeros(len(held), int),
        cash_currency=np.asarray([currencies.position[name] for name in held], int),
        cash=np.asarray([float(balances.get(name, 0.0)) for name in held]),
        spot_limit=np.asarray([_price(limits.get(name)) for name in held]),
        order_account=np.zeros(len(orders), int),
        order_instrument=np.asarray([row_of[o["instrument_id"]] for o in orders], int),
        order_contracts=np.asarray([float(o["contracts"]) for o in orders]),
        order_price=np.asarray([float(o["price"]) for o in orders]),
        spot_family=np.asarray([SPOT_FAMILIES.get(portfolio.get("spot_mode") or "", -1)]),
        auto_borrows=np.asarray([portfolio.get("borrow_mode") != "non_auto"]),
    )


def _upl(found: _Found, u: int) -> float:
    """Open profit of the unit's positions, USD; what is settled is cash, no open profit."""
    snapshot, terms, window = found.snapshot, found.terms, found.window
    coin, family = (int(x[u, 0]) for x in (found.book.unit_coin, found.book.unit_family))
    total = 0.0
    for k, n, entry in zip(
        snapshot.leg_instrument, snapshot.leg_contracts, snapshot.leg_entry, strict=True
    ):
        settles = int(terms.settle[k])
        of_unit = not found.book.shares_coins or min(settles, USD_FAMILY) == family
        is_expired = terms.expiry_s[k] <= window.times_us[0] / MICROS
        if terms.coin[k] != coin or is_expired or not of_unit:
            continue
        price = window.mark[0, k]
        fx = window.currency_usd[0, settles]
        gain = 1 / entry - 1 / price if terms.is_inverse[k] else price - entry
        total += n * terms.multiplier[k] * gain * fx
    return float(total)


def _deltas(found: _Found, u: int) -> tuple[float, float]:
    """Net delta in coins (options not premium adjusted) and cash delta in USD, spot included."""
    book, p = found.book, int(found.units.portfolio[u, 0])
    legs = [(book.leg_instrument[p, u, :, 0], book.leg_contracts[p, u, :, 0])]
    if u < book.option_instrument.shape[1]:
        legs.append((book.option_instrument[p, u, :, 0], book.option_contracts[p, u, :, 0]))
    usd = float(found.table.currency_usd[int(book.unit_coin[u, 0])])
    spot = float(found.units.spot_coin[u, 0])
    delta, cash = spot, spot * usd
    for instruments, contracts in legs:
        rows = np.asarray(found.table.features)[instruments]
        of_cash = rows[:, CASH].sum(axis=1)
        is_option = found.terms.is_option[instruments]
        delta += float(contracts @ np.where(is_option, of_cash / usd, rows[:, DELTA]))
        cash += float(contracts @ of_cash)
    return delta, cash


def _unit_answer(found: _Found, u: int) -> dict[str, Any]:
    model, coin = found.model, int(found.book.unit_coin[u, 0])
    charges = {name: float(found.units.charges[name][u, 0]) for name in model.charges}
    del charges[model.borrow_charge]
    cells = found.grids[u, 0]
    grid = [
        {"price_move": float(x), "vol": vol, "pnl": float(cells[3 * i + j])}
        for i, x in enumerate(np.asarray(model.grid_moves(found.params))[coin])
        for j, vol in enumerate(VOL_STATES)
    ]
    mmr = float(found.units.mmr_usd[u, 0])
    first, *others = charges
    delta, cash = _deltas(found, u)
    answer: dict[str, Any] = {
        first: charges[first],
        f"{first}_cells": grid,
        **{name: charges[name] for name in others},
        "mmr": mmr,
        "imr": mmr * float(found.params.account.imr_factor),
        "delta": delta,
        "cash_delta": cash,
        "spot_in_use": float(found.units.spot_coin[u, 0]),
        "upl": _upl(found, u),
    }
    if len(found.snapshot.order_account):
        answer["binding"] = PORTFOLIOS[int(found.units.portfolio[u, 0])]
    return answer


def _account_answer(found: _Found) -> dict[str, Any]:
    result, model = found.account, found.model

    def number(x: Any) -> float:
        return float(x[0])

    level = number(result.margin_level)
    return {
        "equity_usd": number(result.equity_usd),
        "adjusted_equity": number(result.adjusted_equity),
        "derivatives_mmr": number(result.derivatives_mmr),
        model.borrow_charge: number(result.charges[model.borrow_charge]),
        "borrow_imr": number(result.borrow_imr),
        "total_mmr": number(result.total_mmr),
        "total_imr": number(result.total_imr),
        "margin_level": level if math.isfinite(level) else None,
        "status": STATUS_NAMES[int(result.status[0])],
        "theta": {name: number(found.theta[name]) for name in model.charges},
    }
