"""Random Bybit markets and accounts, as arrays for the engine and as portfolio files."""

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from backtest.batching import Snapshot
from backtest.market_window import MarketWindow, micros, stamp
from backtest.model_records import Currencies


BASE = pd.Timestamp("2025-03-01T08:00:00Z")
COINS = {"BTC": 90_000.0, "ETH": 2_500.0, "SOL": 140.0, "LTC": 100.0}
"""The last one is not eligible for spot hedging."""
QUOTES = ("USDT", "USDC", "USD")
FUTURE_DAYS = (0.2, 9.0, 120.0)
OPTION_DAYS = (0.2, 1.0, 9.0, 45.0, 400.0)
OPTION_SETTLES = {"BTC": ("USDT", "BTC"), "ETH": ("USDC", "ETH"), "SOL": ("USDT",)}
SPOT_PAIRS = (("BTC", "USDT"), ("ETH", "USDC"), ("LTC", "USDT"), ("SOL", "BTC"))
MULTIPLIER = 0.01
SECONDS_PER_YEAR = 365.0 * 86_400.0
HOURS = (0.0, 4.6, 4.79, 4.8, 23.8, 30.0, 9 * 24.0, 60 * 24.0)
"""Times: 12 minutes, then 36 seconds before an expiry, at it, 12 minutes before the next, ..."""
SECONDS = (0.0, 0.0, 0.7, 0.0, 0.0, 0.0, 0.0, 0.3)
TIMES = range(len(HOURS))


@dataclass(frozen=True)
class RandomAccount:
    """Positions (place, contracts, entry), orders (place, contracts, limit), balances, choices."""

    legs: list[tuple[int, float, float]]
    orders: list[tuple[int, float, float]]
    balances: dict[str, float]
    limits: dict[str, float]
    auto_borrows: bool


@cache
def instruments() -> pd.DataFrame:
    """Perpetuals and futures, linear and inverse, options of both settlements, spot pairs."""
    terms: list[tuple[Any, ...]] = []
    for coin, price in COINS.items():
        settles, option_settles = ("USDT", "USDC", coin), OPTION_SETTLES.get(coin, ())
        terms += [("perpetual", coin, settle) for settle in (*QUOTES, coin)]
        terms += [("future", coin, *each) for each in product(settles, FUTURE_DAYS)]
        strikes = [ratio * price for ratio in (0.7, 0.97, 1.0, 1.25)]
        options = product(option_settles, OPTION_DAYS, strikes, ("C", "P"))
        terms += [("option", coin, *each) for each in options]
    terms += [("spot", *pair) for pair in SPOT_PAIRS]
    frame = pd.DataFrame([_row(*each) for each in terms])
    frame["expiry"] = pd.to_datetime(frame["expiry"], utc=True)
    return frame


def _row(
    kind: str,
    coin: str,
    settle: str,
    days: float | None = None,
    strike: float = np.nan,
    side: str | None = None,
) -> dict[str, Any]:
    inverse = settle == coin and kind != "option"
    return {
        "instrument_id": f"{kind}-{coin}-{settle}-{days}-{strike}-{side}",
        "kind": kind,
        "coin": coin,
        "settle": settle,
        "style": "inverse" if inverse or kind == "option" else "linear",
        "multiplier": 100.0 if inverse else MULTIPLIER,
        "strike": strike,
        "option_type": side,
        "expiry": None if days is None else BASE + pd.Timedelta(days=days),
    }


def currencies() -> Currencies:
    return Currencies(list(COINS))


@cache
def markets(seed: int = 0) -> MarketWindow:
    """Independent markets at the times: depegs, wide bases, no volatility, holes, settlements."""
    rng = np.random.default_rng(seed)
    table, axis = instruments(), currencies()
    times = pd.DatetimeIndex(
        [
            BASE + pd.Timedelta(hours=h) + pd.Timedelta(seconds=s)
            for h, s in zip(HOURS, SECONDS, strict=True)
        ]
    )
    count = len(times)
    usd = np.ones((count, len(axis.names)))
    for quote in ("USDT", "USDC"):
        usd[:, axis.position[quote]] = rng.choice([1.0, 0.9997, 0.985, 0.93, 1.02], count)
    for coin, price in COINS.items():
        usd[:, axis.position[coin]] = price * np.exp(rng.normal(0.0, 0.15, count))
    coin = np.asarray([axis.position[c] for c in table["coin"]])
    settle = np.asarray([axis.position[c] for c in table["settle"]])
    expiry = table["expiry"].map(lambda t: np.inf if pd.isna(t) else t.timestamp()).to_numpy(float)
    now = micros(times) / 1e6
    left = np.where(np.isinf(expiry), 0.0, np.maximum(expiry[None, :] - now[:, None], 0.0))
    spot, in_coin = usd[:, coin], settle == coin
    fx = np.where(in_coin, 1.0, usd[:, settle])
    shape = left.shape
    basis = rng.choice([0.002, 0.08], shape) * rng.normal(0.0, 1.0, shape)
    forward = spot * (1 + basis) / fx
    is_option = (table["kind"] == "option").to_numpy()
    iv = np.where(rng.random(shape) < 0.06, 0.0, rng.uniform(0.1, 1.6, shape))
    fair = _coin_price(table, forward, iv, left / SECONDS_PER_YEAR)
    mark = np.where(is_option, fair * np.where(in_coin, 1.0, forward), forward)
    mark = mark * (1 + rng.normal(0.0, 0.003, shape))
    data = np.full((5, count, len(table) + 1), np.nan)
    data[0, :, 1:] = np.where(rng.random(shape) < 0.002, np.nan, mark)
    data[1, :, 1:] = np.where(is_option, forward, np.nan)
    data[2, :, 1:] = np.where(is_option, iv, np.nan)
    expired = now[:, None] >= expiry[None, :]
    data[:3, :, 1:][:, expired] = np.nan
    final = np.asarray([COINS[c] for c in table["coin"]]) * np.exp(rng.normal(0.0, 0.2, len(table)))
    data[3, :, 1:] = np.where(expired, final, np.nan)
    data[4, :, 1:] = np.where(expired, np.where(in_coin, final, 0.98), np.nan)
    return MarketWindow(micros(times), usd, *data, funding=np.zeros((count, len(table) + 1)))


def _coin_price(table: pd.DataFrame, forward: np.ndarray, iv: np.ndarray, years: np.ndarray):
    strike = table["strike"].fillna(1.0).to_numpy(float)
    sign = np.where(table["option_type"] == "P", -1.0, 1.0)
    width = np.maximum(iv * np.sqrt(years), 1e-12)
    d1 = np.log(forward / strike) / width + 0.5 * width
    return np.abs(sign * (ndtr(sign * d1) - strike / forward * ndtr(sign * (d1 - width))))


def accounts(count: int, seed: int) -> list[RandomAccount]:
    """Linear, option and wide option accounts in turn, every second three with open orders."""
    rng = np.random.default_rng(seed)
    return [_account(rng, ("linear", "options", "wide")[k % 3], k % 6 >= 3) for k in range(count)]


def _account(rng: np.random.Generator, style: str, with_orders: bool) -> RandomAccount:
    table = instruments()
    size_usd = 10.0 ** rng.uniform(3.0, 8.5)
    kind, coin_of = table["kind"].to_numpy(), table["coin"].to_numpy()
    legs: list[tuple[int, float, float]] = []
    coins = list(rng.permutation(list(COINS))[: rng.integers(1, 4)])
    optional = 0
    for coin in coins:
        plain = np.flatnonzero((coin_of == coin) & np.isin(kind, ("perpetual", "future")))
        options = np.flatnonzero((coin_of == coin) & (kind == "option"))
        chosen = list(rng.choice(plain, rng.integers(0, 3), replace=False))
        if style != "linear" and len(options) and optional < 2:
            optional += 1
            wide = rng.integers(5, 20) if style == "wide" else rng.integers(1, 6)
            chosen += list(rng.choice(options, wide, replace=False))
        legs.extend(_leg(rng, int(k), size_usd) for k in chosen)
    orders = []
    if with_orders:
        held = np.isin(coin_of, coins)
        allowed = held if style != "linear" else held & (kind != "option")
        # Orders in what is held net with it, the others open new legs.
        places = [k for k, _, _ in legs[:1]] + list(rng.choice(np.flatnonzero(allowed), 2))
        places += list(rng.choice(np.flatnonzero(kind == "spot"), rng.integers(0, 2)))
        orders = [_order(rng, int(k), size_usd) for k in places]
    return RandomAccount(legs, orders, *_cash(rng, size_usd), bool(rng.random() < 0.7))


def _leg(rng: np.random.Generator, k: int, size_usd: float) -> tuple[int, float, float]:
    row = instruments().loc[k]
    price = COINS[row["coin"]]
    one_usd = row["multiplier"] * (price if row["multiplier"] == MULTIPLIER else 1.0)
    contracts = rng.choice([-1.0, 1.0]) * size_usd * 10.0 ** rng.uniform(-2.0, 0.0) / one_usd
    entry = price * np.exp(rng.normal(0.0, 0.1))
    if row["kind"] == "option":
        entry = 0.05 * (1.0 if row["settle"] == row["coin"] else price)
    return k, float(contracts), float(entry)


def _order(rng: np.random.Generator, k: int, size_usd: float) -> tuple[int, float, float]:
    row = instruments().loc[k]
    _, contracts, limit = _leg(rng, k, 0.5 * size_usd)
    if row["kind"] == "spot":
        limit /= COINS.get(row["settle"], 1.0)
    return k, contracts, limit


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
    orders = [(a, k + 1, n, limit) for a, b in enumerate(books) for k, n, limit in b.orders]
    cash = [
        (a, axis.position[c], amount, b.limits.get(c, np.nan))
        for a, b in enumerate(books)
        for c, amount in b.balances.items()
    ]
    leg, order, row = (np.asarray(x, float).reshape(-1, 4).T for x in (legs, orders, cash))
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
        auto_borrows=np.asarray([b.auto_borrows for b in books]),
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
    needed = {k for k, _, _ in (*book.legs, *book.orders)}
    return {
        "time": stamp(int(market.times_us[time])).isoformat(),
        "index_usd": {
            n: float(market.currency_usd[time, axis.position[n]]) for n in (*QUOTES, *COINS)
        },
        "instruments": [row for k, row in enumerate(_listed()) if with_all or k in needed],
        "positions": [
            {"contracts": n, "entry_price": entry, **_quoted(k, time, market)}
            for k, n, entry in book.legs
        ],
        "orders": [
            {"contracts": n, "price": limit, **_quoted(k, time, market)}
            for k, n, limit in book.orders
        ],
        "balances": book.balances,
        "spot_limits": book.limits,
        "borrow_mode": "auto" if book.auto_borrows else "non_auto",
    }


def _quoted(k: int, time: int, market: MarketWindow) -> dict[str, Any]:
    row = instruments().loc[k]
    mark, forward, iv, final, fx = (
        None if np.isnan(x[time, k + 1]) else float(x[time, k + 1])
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
        "mark_price": mark,
        "forward": forward,
        "mark_iv": iv,
        "settlement_index_usd": None if final is None else {row["settle"]: fx, row["coin"]: final},
    }
