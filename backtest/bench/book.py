"""The reference book of the benchmark: a seeded market of 800 contracts, and its accounts.

35 in 100 accounts hold six options and three linear legs, the others three linear legs. Nothing
expires and nothing is unpriced within the window, so every account is scored at every time.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from backtest.batching import Snapshot, Terms
from backtest.market.black import option_coin_price
from backtest.market_window import MarketWindow, micros
from backtest.model_records import Currencies, contract_records
from backtest.what_if import terms_of
from kernels.records import NUM_QUOTES, Contract


START = pd.Timestamp("2025-03-03T00:00:00Z")
PRICES = {
    "BTC": 90_000.0,
    "ETH": 2_400.0,
    "SOL": 150.0,
    "XRP": 2.4,
    "DOGE": 0.21,
    "BNB": 600.0,
    "ADA": 0.8,
    "LTC": 110.0,
    "LINK": 15.0,
    "AVAX": 22.0,
}
POPULARITY = (0.34, 0.24, 0.12, 0.08, 0.06, 0.04, 0.04, 0.03, 0.03, 0.02)
"""How often a linear leg is in each coin, in the order of ``PRICES``."""
OPTION_COINS = {"BTC": 0.6, "ETH": 0.4}
"""Coins with options, and how often an account with options holds those of each."""
FUTURE_DAYS = {"USDT": (18.0, 116.0), "": (18.0, 46.0, 116.0)}
OPTION_DAYS = (11.0, 12.0, 13.0, 18.0, 25.0, 46.0, 81.0, 116.0, 207.0, 298.0)
STRIKES = np.linspace(0.6, 1.45, 18)
OPTION_SHARE, OPTION_LEGS, LINEAR_LEGS = 0.35, 6, 3
SAME_COIN = 0.6
"""How often a linear leg of an account with options is in the coin of its options."""
SECONDS_PER_YEAR = 365.0 * 86_400.0


@dataclass(frozen=True)
class World:
    """The market of the benchmark; axes and records as the engine takes them."""

    instruments: pd.DataFrame
    currencies: Currencies

    @cached_property
    def contracts(self) -> Contract:
        """Terms of every contract, the null contract first."""
        return contract_records(self.instruments, self.currencies)

    @cached_property
    def terms(self) -> Terms:
        """The same on the host, for batching."""
        return terms_of(self.contracts)

    def window(self, num_times: int, seed: int = 1) -> MarketWindow:
        """Hourly prices: random walks, volatility smiles, USDC below its peg every third time."""
        rng = np.random.default_rng(seed)
        axis, table = self.currencies, self.instruments
        times = START + pd.to_timedelta(np.arange(num_times), unit="h")
        usd = np.ones((num_times, len(axis.names)))
        usd[:, axis.position["USDT"]] = 0.9995 + rng.normal(0.0, 1e-4, num_times)
        usd[:, axis.position["USDC"]] = np.where(np.arange(num_times) % 3 == 2, 0.985, 0.9999)
        for coin, price in PRICES.items():
            steps = rng.normal(0.0, 0.008, num_times)
            usd[:, axis.position[coin]] = price * np.exp(np.cumsum(steps))
        expiry = _expiry_seconds(table)
        years = (expiry[None, :] - micros(times)[:, None] / 1e6) / SECONDS_PER_YEAR
        years = np.where(np.isinf(years), 0.0, years)
        coin, settle = (table[c].map(axis.position.get).to_numpy(int) for c in ("coin", "settle"))
        is_option = (table["kind"] == "option").to_numpy()
        spot = usd[:, coin]
        forward = spot * np.exp(0.06 * years) * (1 + rng.normal(0.0, 2e-4, years.shape))
        fx = np.where((table["style"] == "inverse").to_numpy(), 1.0, usd[:, settle])
        strikes = np.where(is_option, table["strike"].to_numpy(float), 1.0)
        iv = 0.5 + 0.35 * np.log(strikes / np.where(is_option, spot, 1.0)) ** 2
        fair = option_coin_price(
            forwards=forward,
            strikes=np.broadcast_to(strikes, forward.shape),
            volatilities=iv,
            years=years,
            is_call=np.broadcast_to((table["option_type"] == "C").to_numpy(), forward.shape),
        )
        mark = np.where(is_option, fair * (1 + rng.normal(0.0, 0.002, fair.shape)), forward / fx)

        def on_axis(values: np.ndarray) -> np.ndarray:
            return np.pad(values, ((0, 0), (1, 0)), constant_values=np.nan)

        forward, iv = (on_axis(np.where(is_option, x, np.nan)) for x in (forward, iv))
        never = np.full(forward.shape, np.nan)
        paid = np.zeros(forward.shape)
        return MarketWindow(micros(times), usd, on_axis(mark), forward, iv, never, never, paid)


def _expiry_seconds(table: pd.DataFrame) -> np.ndarray:
    expiry = pd.DatetimeIndex(table["expiry"])
    known = expiry.notna()
    return np.where(known, micros(expiry.where(known, START)) / 1e6, np.inf)


def reference_world() -> World:
    """800 contracts: eight linear ones of each of ten coins, 360 options of BTC and of ETH."""
    rows: list[dict[str, Any]] = []
    for coin, price in PRICES.items():
        rows += [_row(f"{coin}-{q}-SWAP", "perpetual", coin, q) for q in ("USDT", "USDC", coin)]
        for quote, days in FUTURE_DAYS.items():
            settle = quote or coin
            rows += [_row(f"{coin}-{settle}-{d:g}", "future", coin, settle, d) for d in days]
        for days in OPTION_DAYS if coin in OPTION_COINS else ():
            rows += [
                _row(f"{coin}-{days:g}-{ratio:.2f}-{side}", "option", coin, coin, days)
                | {"strike": ratio * price, "option_type": side}
                for ratio in STRIKES
                for side in ("C", "P")
            ]
    table = pd.DataFrame(rows)
    table["expiry"] = pd.to_datetime(table["expiry"], utc=True)
    return World(table, Currencies(list(PRICES)))


def _row(name: str, kind: str, coin: str, settle: str, days: float | None = None) -> dict[str, Any]:
    is_inverse = settle == coin
    return {
        "instrument_id": name,
        "kind": kind,
        "coin": coin,
        "settle": settle,
        "style": "inverse" if is_inverse else "linear",
        "multiplier": 100.0 if is_inverse and kind != "option" else 0.01,
        "strike": np.nan,
        "option_type": None,
        "expiry": None if days is None else START + pd.Timedelta(days=days, hours=8),
    }


def reference_book(world: World, num_accounts: int, seed: int = 0) -> Snapshot:
    """The accounts in index form, sized over four decades; some hold coins, some owe.

    Args:
        world: the market.
        num_accounts: how many; the first accounts of a larger book are other ones.
        seed: of every draw.
    """
    rng = np.random.default_rng(seed)
    has_options = rng.random(num_accounts) < OPTION_SHARE
    size_usd = 10.0 ** rng.uniform(4.0, 8.0, num_accounts)
    options = _drawn_options(world, has_options, rng)
    linear = _drawn_linear(world, options, has_options, rng)
    account, instrument = (np.concatenate(x) for x in zip(options, linear, strict=True))
    key = account * len(world.terms.kind) + instrument
    unique = np.unique(key)
    account, instrument = np.divmod(unique, len(world.terms.kind))
    price = _first_prices(world)
    notional = size_usd[account] * 10.0 ** rng.uniform(-1.5, 0.0, len(account))
    side = np.where(rng.random(len(account)) < 0.5, -1.0, 1.0)
    contracts = side * np.maximum(np.round(notional / price["one_usd"][instrument]), 1.0)
    entry = price["mark"][instrument] * np.exp(rng.normal(0.0, 0.03, len(account)))
    cash = _drawn_cash(world, size_usd, rng)
    return Snapshot(
        account_ids=np.char.add("a", np.char.zfill(np.arange(num_accounts).astype(str), 8)),
        leg_account=account,
        leg_instrument=instrument,
        leg_contracts=contracts,
        leg_entry=entry,
        cash_account=cash[0],
        cash_currency=cash[1],
        cash=cash[2],
        spot_limit=np.full(len(cash[0]), np.nan),
    )


def _drawn_options(
    world: World, has_options: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Account and instrument of the option legs: six different ones of one coin."""
    owners = np.flatnonzero(has_options)
    coins = rng.choice(list(OPTION_COINS), len(owners), p=list(OPTION_COINS.values()))
    names = world.instruments["coin"].to_numpy(str)
    is_option = (world.instruments["kind"] == "option").to_numpy()
    account, instrument = [], []
    for coin in OPTION_COINS:
        listed = np.flatnonzero(is_option & (names == coin)) + 1
        mine = owners[coins == coin]
        step = len(listed) // OPTION_LEGS
        # One from each sixth of a shuffled listing: no two alike.
        place = rng.integers(0, step, (len(mine), OPTION_LEGS)) + step * np.arange(OPTION_LEGS)
        account.append(np.repeat(mine, OPTION_LEGS))
        instrument.append(rng.permutation(listed)[place].reshape(-1))
    return np.concatenate(account), np.concatenate(instrument)


def _drawn_linear(
    world: World,
    options: tuple[np.ndarray, np.ndarray],
    has_options: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Account and instrument of three different linear legs of every account."""
    count = len(has_options)
    coin_of = world.instruments["coin"].map(list(PRICES).index).to_numpy(int)
    linear = np.flatnonzero((world.instruments["kind"] != "option").to_numpy())
    by_coin = linear.reshape(len(PRICES), -1) + 1
    coin = rng.choice(len(PRICES), (count, LINEAR_LEGS), p=POPULARITY)
    option_coin = np.zeros(count, int)
    option_coin[options[0]] = coin_of[options[1] - 1]
    hedges = has_options[:, None] & (rng.random(coin.shape) < SAME_COIN)
    coin = np.where(hedges, option_coin[:, None], coin)
    # Mostly perpetuals; the shift keeps the three legs of an account apart.
    weights = np.asarray([0.4, 0.1, 0.2, 0.06, 0.06, 0.06, 0.06, 0.06])
    choice = rng.choice(by_coin.shape[1], count, p=weights)[:, None] + np.arange(LINEAR_LEGS)
    instrument = by_coin[coin, choice % by_coin.shape[1]]
    return np.repeat(np.arange(count), LINEAR_LEGS), instrument.reshape(-1)


def _first_prices(world: World) -> dict[str, np.ndarray]:
    """Mark and USD notional of one contract of each instrument when the window begins."""
    window, terms = world.window(1), world.terms
    spot = window.currency_usd[0][terms.coin]
    one = np.where(terms.is_inverse, terms.multiplier, terms.multiplier * spot)
    return {"mark": window.mark[0], "one_usd": one}


def _drawn_cash(
    world: World, size_usd: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Account, currency and amount: USDT of all, a coin of 30 %, debts of some."""
    count = len(size_usd)
    position = world.currencies.position
    price = np.asarray(list(PRICES.values()))
    usdt = size_usd * 10.0 ** rng.uniform(-0.5, 0.3, count)
    usdt = np.where(rng.random(count) < 0.1, -0.2 * usdt, usdt)
    usdc = np.flatnonzero(rng.random(count) < 0.15)
    coins = np.flatnonzero(rng.random(count) < 0.3)
    coin = rng.choice(len(PRICES), len(coins), p=POPULARITY)
    amount = size_usd[coins] * 10.0 ** rng.uniform(-1.0, 0.0, len(coins)) / price[coin]
    amount = np.where(rng.random(len(coins)) < 0.15, -0.3 * amount, amount)
    first_coin = np.asarray([position[name] for name in PRICES])
    assert (first_coin > NUM_QUOTES).all()
    return (
        np.concatenate([np.arange(count), usdc, coins]),
        np.concatenate(
            [
                np.full(count, position["USDT"]),
                np.full(len(usdc), position["USDC"]),
                first_coin[coin],
            ]
        ),
        np.concatenate([usdt, 0.1 * size_usd[usdc], amount]),
    )
