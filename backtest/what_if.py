"""What-if calculator: one portfolio file, every charge, from the kernels that replay history."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from backtest.batching import Snapshot, Terms, batches
from backtest.engine import CHARGES, Engine, stages_over_times
from backtest.errors import ConfigError
from backtest.market_window import MICROS, MarketWindow, micros, stamp
from backtest.model_records import Currencies, contract_records, okx_parameters
from kernels.features import CASH, DELTA
from kernels.models import okx
from kernels.records import NUM_QUOTES, OPTION, Contract
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


def margin(portfolio: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
    """All charges of one portfolio (``pmstress margin`` file), USD; orders are left out.

    Args:
        portfolio: the portfolio file as a dictionary.
        numbers: ``ParameterSet.numbers()``.

    Returns:
        ``{"units": ..., "account": ...}`` in the shape of ``pmstress margin --json``.

    Raises:
        ConfigError: a key is missing or a position is in an instrument that is not listed.
    """
    instruments = _instruments(portfolio)
    positions = portfolio.get("positions", [])
    coins = [*instruments["coin"], *instruments["settle"], *portfolio.get("balances", {})]
    currencies = Currencies([str(c) for c in coins])
    contracts = contract_records(instruments, currencies)
    params = okx_parameters(numbers, currencies)
    window = _window(portfolio, instruments, positions, currencies)
    snapshot = _snapshot(portfolio, instruments, positions, currencies)
    terms = terms_of(contracts)
    (batch,) = batches(snapshot, terms, currencies)
    engine = Engine()
    (priced,) = engine.price(window, contracts, [params])
    table = jax.tree.map(lambda x: x[0], priced.tables)
    outcome = stages_over_times(batch.book, priced.tables, params)
    exposures, units, result = jax.tree.map(lambda x: x[0], outcome)
    cells = _cells(exposures, batch.book, units, table, params)
    unit_answers = {}
    for u in range(batch.shape.units):
        coin = int(batch.book.unit_coin[u, 0])
        if coin == NUM_QUOTES:
            continue
        unit_answers[currencies.names[coin]] = _unit_answer(
            u, coin, units, exposures, cells, table, params, _upl(snapshot, terms, window, coin)
        )
        unit_answers[currencies.names[coin]]["delta"] += _delta(snapshot, terms, table, coin)
    return {"units": unit_answers, "account": _account_answer(result)}


def terms_of(contracts: Contract) -> Terms:
    """Host copies of the contract terms that batching needs."""
    return Terms(
        kind=np.asarray(contracts.kind),
        is_inverse=np.asarray(contracts.is_inverse),
        multiplier=np.asarray(contracts.multiplier),
        coin=np.asarray(contracts.coin),
        settle=np.asarray(contracts.settle),
        expiry_s=np.asarray(contracts.expiry_s),
    )


def after_orders(portfolio: dict[str, Any]) -> dict[str, Any]:
    """The same portfolio with every order (or trade to try) filled at its price.

    A derivative fill adds a row in its instrument entered at the price; an option costs its
    premium in its settle currency; a spot fill moves both balances.
    """
    instruments = {i["instrument_id"]: i for i in portfolio.get("instruments", [])}
    marks = {p["instrument_id"]: p for p in portfolio.get("positions", [])}
    balances = dict(portfolio.get("balances", {}))
    positions = [dict(p) for p in portfolio.get("positions", [])]
    for order in portfolio.get("orders", []):
        name, contracts, price = order["instrument_id"], order["contracts"], order["price"]
        if name not in instruments:
            raise ConfigError(f"orders: instrument '{name}' is not in 'instruments'")
        terms = instruments[name]
        if terms["kind"] == "spot":
            amount = contracts * terms["multiplier"]
            balances[terms["coin"]] = balances.get(terms["coin"], 0.0) + amount
            balances[terms["settle"]] = balances.get(terms["settle"], 0.0) - amount * price
            continue
        quoted = {k: order[k] for k in ("mark_price", "mark_iv", "forward") if k in order}
        if name not in marks and "mark_price" not in quoted:
            raise ConfigError(
                f"orders: '{name}' has no position to take the mark from; give 'mark_price' "
                "(options: 'mark_iv' and 'forward' too) in the order"
            )
        row = {**marks.get(name, {}), **quoted, "instrument_id": name}
        positions.append(row | {"contracts": contracts, "entry_price": price})
        if terms["kind"] == "option":
            cost = contracts * terms["multiplier"] * price
            balances[terms["settle"]] = balances.get(terms["settle"], 0.0) - cost
    return {**portfolio, "positions": positions, "balances": balances, "orders": []}


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


def _price(value: Any) -> float:
    return math.nan if value is None else float(value)


def _window(
    portfolio: dict[str, Any],
    instruments: pd.DataFrame,
    positions: list[dict[str, Any]],
    currencies: Currencies,
) -> MarketWindow:
    count = len(instruments) + 1
    row_of = {name: k + 1 for k, name in enumerate(instruments["instrument_id"])}
    usd = np.full((1, len(currencies.names)), np.nan)
    for name, value in portfolio["index_usd"].items():
        if name in currencies.position:
            usd[0, currencies.position[name]] = _price(value)
    usd[0, currencies.position["USD"]] = usd[0, NUM_QUOTES] = 1.0
    quotes = np.full((5, 1, count), np.nan)
    for k, position in enumerate(positions):
        name = position["instrument_id"]
        if name not in row_of:
            raise ConfigError(f"positions[{k}]: instrument '{name}' is not in 'instruments'")
        keys = ("mark_price", "forward", "mark_iv")
        quotes[:3, 0, row_of[name]] = [_price(position.get(key)) for key in keys]
        final = position.get("settlement_index_usd")
        if final:
            contract = instruments.iloc[row_of[name] - 1]
            pair = final.get(contract["coin"]), final.get(contract["settle"], 1.0)
            quotes[3:, 0, row_of[name]] = [_price(value) for value in pair]
    return MarketWindow(
        times_us=micros(pd.DatetimeIndex([_time(portfolio)])),
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


def _snapshot(
    portfolio: dict[str, Any],
    instruments: pd.DataFrame,
    positions: list[dict[str, Any]],
    currencies: Currencies,
) -> Snapshot:
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
    )


def _cells(exposures: Any, book: Any, units: Any, table: Any, params: Any) -> np.ndarray:
    parts, start = [], 0
    for part in exposures:
        if part is None:
            continue
        rows = slice(start, start + part.coin_value.shape[0])
        coin = book.unit_coin[rows]
        usd = table.currency_usd[coin]
        one = jax.vmap(jax.vmap(lambda e, c, s, x: okx.scenario_pnl(e, c, s, x, params)))
        parts.append(one(part, coin, usd, units.spot_coin[rows])[:, 0])
        start = rows.stop
    return np.asarray(jnp.concatenate(parts))


def _delta(snapshot: Snapshot, terms: Terms, table: Any, coin: int) -> float:
    """Net delta of a unit's derivatives in coins, options not premium adjusted."""
    total = 0.0
    usd = float(table.currency_usd[coin])
    for k, n in zip(snapshot.leg_instrument, snapshot.leg_contracts, strict=True):
        if terms.coin[k] == coin:
            row = np.asarray(table.features[k])
            is_option = terms.kind[k] == OPTION
            total += n * (row[CASH].sum() / usd if is_option else row[DELTA])
    return float(total)


def _upl(snapshot: Snapshot, terms: Terms, window: MarketWindow, coin: int) -> float:
    total = 0.0
    for k, n, entry in zip(
        snapshot.leg_instrument, snapshot.leg_contracts, snapshot.leg_entry, strict=True
    ):
        is_expired = terms.expiry_s[k] <= window.times_us[0] / MICROS
        if terms.coin[k] != coin or is_expired:
            continue  # what is settled is cash, no open profit
        price = window.mark[0, k]
        fx = window.currency_usd[0, terms.settle[k]]
        gain = 1 / entry - 1 / price if terms.is_inverse[k] else price - entry
        total += n * terms.multiplier[k] * gain * fx
    return float(total)


def _unit_answer(
    u: int,
    coin: int,
    units: Any,
    exposures: Any,
    cells: np.ndarray,
    table: Any,
    params: Any,
    upl: float,
) -> dict[str, Any]:
    charges = {name: float(getattr(units.charges, name)[u, 0]) for name in CHARGES}
    del charges["mr8"]
    moves = np.asarray(params.price_moves[coin])
    grid = [
        {"price_move": float(x), "vol": vol, "pnl": float(cells[u, 3 * i + j])}
        for i, x in enumerate(moves)
        for j, vol in enumerate(okx.VOL_STATES)
    ]
    mmr = float(units.mmr_usd[u, 0])
    with_options, linear = exposures
    first = 0 if with_options is None else with_options.coin_value.shape[0]
    exposure = jax.tree.map(
        lambda x: x[u if u < first else u - first], with_options if u < first else linear
    )
    spot = float(units.spot_coin[u, 0])
    usd = float(table.currency_usd[coin])
    cash = float(sum(c[0] for c in exposure.cash_usd)) + spot * usd
    return {
        "mr1": charges.pop("mr1"),
        "mr1_cells": grid,
        **charges,
        "mmr": mmr,
        "imr": mmr * float(params.imr_factor),
        "delta": spot,
        "cash_delta": cash,
        "spot_in_use": spot,
        "upl": upl,
    }


def _account_answer(result: Any) -> dict[str, Any]:
    def number(x: Any) -> float:
        return float(x[0])

    level = number(result.margin_level)
    return {
        "equity_usd": number(result.equity_usd),
        "adjusted_equity": number(result.adjusted_equity),
        "derivatives_mmr": number(result.derivatives_mmr),
        "mr8": number(result.charges.mr8),
        "borrow_imr": number(result.borrow_imr),
        "total_mmr": number(result.total_mmr),
        "total_imr": number(result.total_imr),
        "margin_level": level if math.isfinite(level) else None,
        "status": STATUS_NAMES[int(result.status[0])],
        "theta": {name: number(getattr(result.theta, name)) for name in CHARGES},
    }
