"""Accounts, contracts, prices and rules as plain arrays: what the peers compute from."""

from typing import Any, NamedTuple

import numpy as np

from backtest.batching import Snapshot
from backtest.bench.book import World
from backtest.market_window import MarketWindow
from kernels.records import NUM_QUOTES, PERPETUAL


class FlatBook(NamedTuple):
    """Accounts as lists of units, units as lists of legs.

    Fields:
        unit_start: first unit of each account, and the end of the last one's.
        unit_coin, unit_base: coin, and cash plus entry value in it.
        leg_start: first leg of each unit; legs are sorted by expiry, perpetuals first.
        leg_instrument, leg_contracts: the legs.
        has_options: whether each unit holds any.
        quote_base: cash plus entry value [account, quote].
    """

    unit_start: np.ndarray
    unit_coin: np.ndarray
    unit_base: np.ndarray
    leg_start: np.ndarray
    leg_instrument: np.ndarray
    leg_contracts: np.ndarray
    has_options: np.ndarray
    quote_base: np.ndarray


class FlatContracts(NamedTuple):
    """Terms by instrument (0 = null); ``bucket`` numbers the expiries, perpetuals share one."""

    kind: np.ndarray
    is_inverse: np.ndarray
    multiplier: np.ndarray
    strike: np.ndarray
    sign: np.ndarray
    expiry_s: np.ndarray
    coin: np.ndarray
    settle: np.ndarray
    bucket: np.ndarray


class FlatMarket(NamedTuple):
    """Prices by time: [time], [time, instrument] and USD [time, currency]."""

    now_s: np.ndarray
    mark: np.ndarray
    forward: np.ndarray
    iv: np.ndarray
    usd: np.ndarray


class FlatRules(NamedTuple):
    """Numbers of one OKX set, arrays [currency, ...]; ``cell_moves`` are those of the MR1 cells."""

    price_moves: np.ndarray
    cell_moves: np.ndarray
    points_days: np.ndarray
    points: np.ndarray
    percent_days: np.ndarray
    percent: np.ndarray
    combine: int
    vol_floor: float
    pnl_in_coin: bool
    theta_days: float
    vega_rate: float
    vega_reference_days: float
    vega_min_days: float
    basis_near: np.ndarray
    basis_annual: np.ndarray
    basis_charges: np.ndarray
    rate_parallel: float
    rate_slope: float
    rate_slope_span_yr: float
    extreme_move: np.ndarray
    extreme_factor: float
    fee_linear: np.ndarray
    fee_short_option: float
    fee_long_option: float
    fee_tiers: np.ndarray
    competes: np.ndarray
    depeg_enabled: bool
    depeg_floor: np.ndarray
    depeg_width: np.ndarray
    depeg_calm: np.ndarray
    depeg_base: np.ndarray
    depeg_offset: np.ndarray
    depeg_max_rate: float
    collateral: np.ndarray
    collateral_in_usd: np.ndarray
    borrowing: np.ndarray
    borrowing_tail: np.ndarray
    borrowing_in_usd: np.ndarray
    borrow_fee_rate: float


def flat_book(snapshot: Snapshot, world: World) -> FlatBook:
    """Accounts in the layout of the peers; orders and spot limits are not part of the book."""
    terms, currencies = world.terms, len(world.currencies.names)
    instrument, contracts = snapshot.leg_instrument, snapshot.leg_contracts
    entry, m = snapshot.leg_entry, terms.multiplier[snapshot.leg_instrument]
    value = np.where(terms.is_inverse[instrument], contracts * m / entry, -contracts * m * entry)
    value = np.where(terms.is_option[instrument], 0.0, value)
    account = np.concatenate([snapshot.cash_account, snapshot.leg_account])
    currency = np.concatenate([snapshot.cash_currency, terms.settle[instrument]])
    amount = np.concatenate([snapshot.cash, value])
    in_quote = currency < NUM_QUOTES
    quote_base = np.zeros((len(snapshot.account_ids), NUM_QUOTES))
    np.add.at(quote_base, (account[in_quote], currency[in_quote]), amount[in_quote])

    coin_key = (account.astype(np.int64) * currencies + currency)[~in_quote]
    leg_key = snapshot.leg_account.astype(np.int64) * currencies + terms.coin[instrument]
    key = np.union1d(coin_key[amount[~in_quote] != 0], leg_key)
    base = np.zeros(len(key))
    held = np.isin(coin_key, key)
    np.add.at(base, np.searchsorted(key, coin_key[held]), amount[~in_quote][held])
    expiry = np.where(terms.kind == PERPETUAL, -1.0, terms.expiry_s)
    order = np.lexsort((instrument, expiry[instrument], leg_key))
    unit = np.searchsorted(key, leg_key[order])
    has_options = np.zeros(len(key), bool)
    has_options[unit[terms.is_option[instrument[order]]]] = True
    accounts = np.arange(len(snapshot.account_ids) + 1)
    return FlatBook(
        unit_start=np.searchsorted(key // currencies, accounts).astype(np.int64),
        unit_coin=(key % currencies).astype(np.int32),
        unit_base=base,
        leg_start=np.searchsorted(unit, np.arange(len(key) + 1)).astype(np.int64),
        leg_instrument=instrument[order].astype(np.int32),
        leg_contracts=contracts[order],
        has_options=has_options,
        quote_base=quote_base,
    )


def flat_contracts(world: World) -> FlatContracts:
    """Terms of every contract."""
    contracts, terms = world.contracts, world.terms
    expiry = np.where(terms.kind == PERPETUAL, -1.0, terms.expiry_s)
    return FlatContracts(
        kind=terms.kind.astype(np.int32),
        is_inverse=terms.is_inverse,
        multiplier=terms.multiplier,
        strike=np.asarray(contracts.strike_usd),
        sign=terms.call_sign,
        expiry_s=terms.expiry_s,
        coin=terms.coin.astype(np.int32),
        settle=terms.settle.astype(np.int32),
        bucket=np.unique(expiry, return_inverse=True)[1].astype(np.int32),
    )


def flat_market(window: MarketWindow) -> FlatMarket:
    """Prices of a window."""
    now_s = window.times_us / 1e6
    return FlatMarket(now_s, window.mark, window.forward_usd, window.iv, window.currency_usd)


def flat_rules(params: Any) -> FlatRules:
    """Numbers of an OKX parameter record; tier tables as [currency, kind, tier]."""
    rules = params.account
    same: dict[str, Any] = {
        name: _plain(getattr(params, name)) for name in FlatRules._fields if hasattr(params, name)
    }
    # An empty table of volatility shocks leaves the choice to the other one.
    choice = int(params.combine)
    choice = 1 if not bool(params.has_points) else choice
    choice = 0 if not bool(params.has_percent) else choice
    charged = (params.basis_charges_spot, params.basis_charges_perpetuals, True)
    lending = rules.borrowing
    special: dict[str, Any] = {
        "cell_moves": np.repeat(_plain(params.price_moves), 3, axis=1),
        "combine": choice,
        "basis_charges": np.asarray([*map(bool, charged), bool(params.basis_charges_options)]),
        "fee_tiers": _marginal(params.fee_tiers),
        "competes": np.asarray([bool(params.worst_of[k]) for k in ("mr1", "mr2", "mr6")]),
        "depeg_floor": _plain(params.depeg_floor_usd),
        "depeg_width": _plain(params.depeg_width_usd),
        "depeg_calm": np.asarray(
            [params.depeg_calm_index, params.depeg_calm_rate_step, params.depeg_stress_index]
        ),
        "depeg_base": np.stack([params.depeg_base_index, params.depeg_base_rate]),
        "collateral": _marginal(rules.collateral),
        "collateral_in_usd": _plain(rules.collateral_in_usd),
        "borrowing": np.stack([lending.floor, lending.mmr, lending.imr], axis=1),
        "borrowing_tail": np.stack(
            [lending.last, lending.tail_step, lending.tail_rate_step], axis=1
        ),
        "borrowing_in_usd": _plain(rules.borrowing_in_usd),
        "borrow_fee_rate": float(rules.borrow_fee_rate),
    }
    return FlatRules(**(same | special))


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    return array.item() if array.ndim == 0 else array


def _marginal(tiers: Any) -> np.ndarray:
    return np.stack([tiers.floor, tiers.rate, tiers.base], axis=1)
