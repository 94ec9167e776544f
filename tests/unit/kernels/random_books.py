"""Random markets and portfolios, as arrays for the engine and as portfolio files."""

import os
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from backtest.batching import Shape, Snapshot
from backtest.engine import use_compilation_cache
from backtest.leg_lists import SPOT_FAMILIES
from backtest.market_window import MarketWindow, micros, stamp
from backtest.model_records import Currencies


REPOSITORY = Path(__file__).parents[3]
BASE = pd.Timestamp("2025-03-01T08:00:00Z")
COINS = {"BTC": 90_000.0, "ETH": 2_500.0, "SOL": 140.0, "FOO": 0.7}
QUOTES = ("USDT", "USDC", "USD")
NUM_TIMES = 24
SECONDS_PER_YEAR = 365.0 * 86_400.0
FUTURE_DAYS = (0.2, 9.0, 120.0, 500.0)
OPTION_DAYS = (0.2, 0.8, 9.0, 45.0, 400.0)
PAIRS = ("BTC-USDT", "ETH-USDC", "SOL-USD", "FOO-USDT", "ETH-BTC")
SPOT_MODES = (None, "derivatives_only", *QUOTES)
Order = tuple[int, float, float]
"""Instrument, contracts and limit of an open order."""


FEW_SHAPES = (Shape(4, 4, 2, 16), Shape(8, 8, 2, 64), Shape(8, 8, 2, 64, 3, 16))
"""Classes for tests that are not about classes: few programs are compiled."""


def use_cache() -> None:
    """Compiled programs under `build/`, so that a second test run starts at once."""
    os.environ.setdefault("PMSTRESS_CACHE", str(REPOSITORY / "build" / "cache"))
    use_compilation_cache()


@cache
def instruments() -> pd.DataFrame:
    """Perpetuals in three quotes and inverse, futures, options of BTC and ETH; spot pairs last."""
    rows: list[dict[str, Any]] = []
    for coin, price in COINS.items():
        rows += [_terms(f"{coin}-{quote}-SWAP", "perpetual", coin, quote) for quote in QUOTES]
        rows.append(_terms(f"{coin}-INVERSE-SWAP", "perpetual", coin, coin))
        for days in FUTURE_DAYS:
            rows.append(_terms(f"{coin}-USDT-F{days}", "future", coin, "USDT", days))
            rows.append(_terms(f"{coin}-INVERSE-F{days}", "future", coin, coin, days))
        for days in OPTION_DAYS if coin in ("BTC", "ETH") else ():
            rows += [
                _terms(f"{coin}-{days}-{ratio}-{side}", "option", coin, coin, days)
                | {"strike": ratio * price, "option_type": side}
                for ratio in (0.6, 0.95, 1.0, 1.3)
                for side in ("C", "P")
            ]
    for pair in PAIRS:
        coin, quote = pair.split("-")
        rows.append(_terms(pair, "spot", coin, quote) | {"multiplier": 1.0})
    frame = pd.DataFrame(rows)
    frame["expiry"] = pd.to_datetime(frame["expiry"], utc=True)
    return frame


def _terms(
    name: str, kind: str, coin: str, settle: str, days: float | None = None
) -> dict[str, Any]:
    inverse = settle == coin
    return {
        "instrument_id": name,
        "kind": kind,
        "coin": coin,
        "settle": settle,
        "style": "inverse" if inverse else "linear",
        "multiplier": 100.0 if inverse and kind != "option" else 0.01,
        "strike": np.nan,
        "option_type": None,
        "expiry": None if days is None else BASE + pd.Timedelta(days=days),
    }


def currencies() -> Currencies:
    return Currencies(list(COINS))


@cache
def markets(seed: int = 0) -> MarketWindow:
    """Independent markets at `NUM_TIMES` times: calm, crashed, depegged, with holes."""
    rng = np.random.default_rng(seed)
    table, axis = instruments(), currencies()
    # The index prices a spot pair, no mark does.
    table = table.iloc[: len(table) - len(PAIRS)]
    hours = np.concatenate([np.arange(14) * 2.0, np.arange(1, NUM_TIMES - 13) * 61.0])
    times = pd.DatetimeIndex([BASE + pd.Timedelta(hours=h) for h in hours])
    count = len(table) + 1
    usd = np.ones((NUM_TIMES, len(axis.names)))
    for quote in ("USDT", "USDC"):
        levels = [1.0, 0.9995, 0.989, 0.985, 0.93, 0.7, 1.02]
        usd[:, axis.position[quote]] = rng.choice(levels, NUM_TIMES)
    for coin, price in COINS.items():
        usd[:, axis.position[coin]] = price * np.exp(rng.normal(0.0, 0.3, NUM_TIMES))
    coin = np.asarray([axis.position[c] for c in table["coin"]])
    settle = np.asarray([axis.position[c] for c in table["settle"]])
    kind, inverse = table["kind"].to_numpy(), (table["style"] == "inverse").to_numpy()
    expiry = table["expiry"].map(lambda t: np.inf if pd.isna(t) else t.timestamp()).to_numpy(float)
    now = micros(times) / 1e6
    years = np.maximum(expiry[None, :] - now[:, None], 0.0) / SECONDS_PER_YEAR
    spot, fx = usd[:, coin], np.where(inverse, 1.0, usd[:, settle])
    carry = rng.normal(0.05, 0.05, (NUM_TIMES, len(table)))
    forward = spot * np.exp(carry * np.where(np.isinf(years), 0.0, years))
    noise = 1 + rng.normal(0.0, 0.003, forward.shape)
    is_option = kind == "option"
    iv = np.where(rng.random(forward.shape) < 0.08, 0.0, rng.uniform(0.1, 1.6, forward.shape))
    fair = _coin_price(table, forward, iv, years)
    holes = rng.random(forward.shape) < 0.003
    mark = np.where(is_option[None, :], fair, forward / fx) * noise
    data = np.full((5, NUM_TIMES, count), np.nan)
    data[0, :, 1:] = np.where(holes, np.nan, mark)
    data[1, :, 1:] = np.where(is_option[None, :], forward, np.nan)
    data[2, :, 1:] = np.where(is_option[None, :], iv, np.nan)
    expired = now[:, None] >= expiry[None, :]
    data[:3, :, 1:][:, expired] = np.nan
    final = np.asarray([COINS[c] for c in table["coin"]]) * np.exp(rng.normal(0.0, 0.2, len(table)))
    data[3, :, 1:] = np.where(expired, final[None, :], np.nan)
    data[4, :, 1:] = np.where(expired, np.where(inverse, final, 0.998)[None, :], np.nan)
    data = np.pad(data, ((0, 0), (0, 0), (0, len(PAIRS))), constant_values=np.nan)
    return MarketWindow(micros(times), usd, *data, funding=np.zeros(data.shape[1:]))


def _coin_price(table: pd.DataFrame, forward: np.ndarray, iv: np.ndarray, years: np.ndarray):
    strike = table["strike"].fillna(1.0).to_numpy(float)
    sign = np.where(table["option_type"] == "P", -1.0, 1.0)
    width = np.maximum(iv * np.sqrt(np.where(np.isinf(years), 0.0, years)), 1e-12)
    d1 = np.log(forward / strike) / width + 0.5 * width
    return np.abs(sign * (ndtr(sign * d1) - strike / forward * ndtr(sign * (d1 - width))))


@dataclass(frozen=True)
class RandomAccount:
    """Positions (instrument, contracts, entry), balances, spot limits, orders of one account."""

    legs: list[tuple[int, float, float]]
    balances: dict[str, float]
    limits: dict[str, float]
    orders: list[Order] = field(default_factory=list)
    borrow_mode: str = "auto"
    spot_mode: str | None = None


def accounts(count: int, seed: int) -> list[RandomAccount]:
    """Linear, option and wide option accounts in turn, sizes over six decades."""
    rng = np.random.default_rng(seed)
    return [_account(rng, ("linear", "options", "wide")[k % 3]) for k in range(count)]


def with_choices(books: list[RandomAccount], seed: int) -> list[RandomAccount]:
    """The same accounts, each with a spot mode and a borrow mode."""
    rng = np.random.default_rng(seed)
    spot_modes = rng.choice(len(SPOT_MODES), len(books))
    borrow_modes = rng.choice(["auto", "auto", "non_auto"], len(books))
    return [
        replace(book, spot_mode=SPOT_MODES[mode], borrow_mode=str(borrows))
        for book, mode, borrows in zip(books, spot_modes, borrow_modes, strict=True)
    ]


def with_orders(books: list[RandomAccount], seed: int) -> list[RandomAccount]:
    """The same accounts in two of their coins, each with up to four or up to twelve orders."""
    rng = np.random.default_rng(seed)
    return [_ordering(rng, book, (4, 12)[k % 2]) for k, book in enumerate(books)]


def _ordering(rng: np.random.Generator, book: RandomAccount, most: int) -> RandomAccount:
    """Orders in held contracts, in a few others of the same coins, and in spot pairs.

    A coin gets at most one new contract without optionality, which keeps units narrow.
    """
    table = instruments()
    coin_of, kind = table["coin"].to_numpy(str), table["kind"].to_numpy(str)
    held = sorted({coin_of[k] for k, _, _ in book.legs}) or ["BTC"]
    coins = list(rng.choice(held, min(2, len(held)), replace=False))
    legs = [leg for leg in book.legs if coin_of[leg[0]] in coins]
    if most == 4:
        legs = legs[:4]
    # The legs are up to a tenth of the account's size each, so are its orders.
    size_usd = gross_usd(replace(book, legs=legs)) + 1e3
    open_to = [k for k, _, _ in legs] * 2
    for coin in coins:
        mine = coin_of == coin
        linear = np.flatnonzero(mine & np.isin(kind, ["perpetual", "future"]))
        options = np.flatnonzero(mine & (kind == "option"))
        open_to += [int(rng.choice(linear))] * 2
        open_to += rng.choice(options, 3).tolist() if len(options) else []
    open_to += np.flatnonzero(kind == "spot").tolist()
    chosen = rng.choice(open_to, rng.integers(1, most + 1))
    return replace(book, legs=legs, orders=[_order(rng, int(k), size_usd) for k in chosen])


def _order(rng: np.random.Generator, k: int, size_usd: float) -> Order:
    row = instruments().loc[k]
    coin_usd, settle_usd = COINS[row["coin"]], COINS.get(row["settle"], 1.0)
    limit = coin_usd / (settle_usd if row["kind"] == "spot" else 1.0)
    limit = 0.05 if row["kind"] == "option" else limit
    contracts = rng.choice([-1.0, 1.0]) * size_usd * 10.0 ** rng.uniform(-2.5, -0.3)
    return k, float(contracts / _one_usd(row)), float(limit * np.exp(rng.normal(0.0, 0.1)))


def _one_usd(row: Any) -> float:
    """Size of one contract at the price that accounts were drawn at, USD."""
    in_usd = row["style"] == "inverse" and row["kind"] != "option"
    return row["multiplier"] * (1.0 if in_usd else COINS[row["coin"]])


def gross_usd(book: RandomAccount) -> float:
    """Gross size of everything in an account, USD, at the price it was drawn at."""
    table = instruments()
    cash = sum(abs(x) * COINS.get(c, 1.0) for c, x in book.balances.items())
    rows = [*book.legs, *book.orders]
    return float(cash + sum(abs(n) * _one_usd(table.loc[k]) for k, n, _ in rows))


def _account(rng: np.random.Generator, style: str) -> RandomAccount:
    table = instruments()
    size_usd = 10.0 ** rng.uniform(3.5, 9.5)
    coins = list(COINS)
    if style != "linear":
        coins = ["BTC", "ETH"][: rng.integers(1, 3)] + coins[2 : 2 + rng.integers(0, 3)]
    legs: list[tuple[int, float, float]] = []
    for coin in coins:
        mine = (table["coin"] == coin).to_numpy()
        options = np.flatnonzero(mine & (table["kind"] == "option").to_numpy())
        futures = np.flatnonzero(mine & (table["kind"] == "future").to_numpy())
        swaps = np.flatnonzero(mine & (table["kind"] == "perpetual").to_numpy())
        chosen = [rng.choice(swaps, rng.integers(0, 4), replace=False)]
        if style == "linear" or not len(options):
            room = 4 - len(chosen[0]) if style == "options" else rng.integers(1, 5)
            chosen.append(rng.choice(futures, room, replace=False))
        else:
            wide = rng.integers(9, 30) if style == "wide" else rng.integers(2, 7)
            chosen.append(rng.choice(options, wide, replace=False))
            chosen.append(rng.choice(futures, rng.integers(0, 3), replace=False))
        legs.extend(_leg(rng, int(k), size_usd) for k in np.concatenate(chosen))
    return RandomAccount(legs, *_cash(rng, size_usd))


def _leg(rng: np.random.Generator, k: int, size_usd: float) -> tuple[int, float, float]:
    row = instruments().loc[k]
    contracts = rng.choice([-1.0, 1.0]) * size_usd * 10.0 ** rng.uniform(-2.0, 0.0)
    contracts /= _one_usd(row)
    entry = 0.05 if row["kind"] == "option" else COINS[row["coin"]] * np.exp(rng.normal(0.0, 0.1))
    return k, float(contracts), float(entry)


def _cash(rng: np.random.Generator, size_usd: float) -> tuple[dict[str, float], dict[str, float]]:
    balances: dict[str, float] = {}
    for name in (*QUOTES, *COINS):
        if rng.random() < 0.5:
            amount = size_usd * 10.0 ** rng.uniform(-2.0, 0.3) / COINS.get(name, 1.0)
            balances[name] = float(rng.choice([-0.3, 1.0, 1.0]) * amount)
    held = [name for name in balances if name in COINS]
    limits = {n: float(rng.choice([0.0, abs(balances[n]) / 3])) for n in held if rng.random() < 0.3}
    return balances, limits


def snapshot(books: list[RandomAccount]) -> Snapshot:
    """All accounts in index form."""
    axis = currencies()
    legs = [(a, k + 1, n, entry) for a, b in enumerate(books) for k, n, entry in b.legs]
    cash = [
        (a, axis.position[c], amount, b.limits.get(c, np.nan))
        for a, b in enumerate(books)
        for c, amount in b.balances.items()
    ]
    orders = [(a, k + 1, n, limit) for a, b in enumerate(books) for k, n, limit in b.orders]
    leg, row, order = (np.asarray(x, float).reshape(-1, 4).T for x in (legs, cash, orders))
    return Snapshot(
        account_ids=np.asarray([f"a{k:05d}" for k in range(len(books))]),
        leg_account=leg[0].astype(int),
        leg_instrument=leg[1].astype(int),
        leg_contracts=leg[2],
        leg_entry=leg[3],
        cash_account=row[0].astype(int),
        cash_currency=row[1].astype(int),
        cash=row[2],
        spot_limit=row[3],
        order_account=order[0].astype(int),
        order_instrument=order[1].astype(int),
        order_contracts=order[2],
        order_price=order[3],
        spot_family=np.asarray([SPOT_FAMILIES.get(b.spot_mode or "", -1) for b in books], int),
        auto_borrows=np.asarray([b.borrow_mode == "auto" for b in books], bool),
    )


@cache
def _listed() -> list[dict[str, Any]]:
    return [
        {**row, "expiry": None if pd.isna(row["expiry"]) else row["expiry"].isoformat()}
        for row in instruments().to_dict("records")
    ]


def portfolio_file(
    book: RandomAccount, time: int, market: MarketWindow, *, with_all: bool = True
) -> dict[str, Any]:
    """The same account at one time as the file of the what-if calculator.

    ``with_all`` lists every instrument, held or not, so that one program serves all portfolios.
    """
    axis = currencies()
    held = {k for k, _, _ in (*book.legs, *book.orders)}
    return {
        "time": stamp(int(market.times_us[time])).isoformat(),
        "index_usd": {n: float(market.currency_usd[time, axis.position[n]]) for n in axis.names[:3]}
        | {n: float(market.currency_usd[time, axis.position[n]]) for n in COINS},
        "instruments": [row for k, row in enumerate(_listed()) if with_all or k in held],
        "positions": [
            _quoted(k, time, market) | {"contracts": contracts, "entry_price": entry}
            for k, contracts, entry in book.legs
        ],
        "balances": book.balances,
        "spot_limits": book.limits,
        "borrow_mode": book.borrow_mode,
        "spot_mode": book.spot_mode,
        "orders": [
            _quoted(k, time, market) | {"contracts": contracts, "price": limit}
            for k, contracts, limit in book.orders
        ],
    }


def _quoted(k: int, time: int, market: MarketWindow) -> dict[str, Any]:
    """An instrument with its prices at one time, as rows of positions and orders have them."""
    row = instruments().loc[k]
    price, forward, iv, final, final_fx = (
        x[time, k + 1]
        for x in (
            market.mark,
            market.forward_usd,
            market.iv,
            market.settlement,
            market.settlement_fx,
        )
    )
    return {
        "instrument_id": row["instrument_id"],
        "mark_price": _or_none(price),
        "forward": _or_none(forward),
        "mark_iv": _or_none(iv),
        "settlement_index_usd": None
        if np.isnan(final)
        else {row["settle"]: float(final_fx), row["coin"]: float(final)},
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
