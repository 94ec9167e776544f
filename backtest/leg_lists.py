"""Positions and open orders of many accounts as sorted leg lists: the first step of batching."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernels.records import NUM_QUOTES, OPTION, PERPETUAL, QUOTES, SPOT


if TYPE_CHECKING:
    from backtest.batching import Snapshot

SPOT_FAMILIES = {name: k for k, name in enumerate(QUOTES)}
"""Split units that an account may place its spot in; every other choice is none."""

USD_FAMILY = NUM_QUOTES - 1
"""Settlement family of contracts settled in a coin, and the only one of merged units."""


@dataclass(frozen=True)
class Terms:
    """Contract terms that batching needs, by instrument index (0 = null)."""

    kind: np.ndarray
    is_inverse: np.ndarray
    multiplier: np.ndarray
    call_sign: np.ndarray
    coin: np.ndarray
    settle: np.ndarray
    expiry_s: np.ndarray

    @property
    def is_option(self) -> np.ndarray:
        """Whether each contract is an option."""
        return self.kind == OPTION


@dataclass(frozen=True)
class UnitKeys:
    """Numbers that sort risk units by account, coin and settlement family."""

    num_currencies: int
    split: bool

    def coin(self, account: np.ndarray, coin: np.ndarray) -> np.ndarray:
        """Key of an account and a coin."""
        return account.astype(np.int64) * self.num_currencies + coin

    def unit(self, account: np.ndarray, instrument: np.ndarray, terms: Terms) -> np.ndarray:
        """Key of the unit that a contract belongs to."""
        settle = terms.settle[instrument]
        family = np.where(settle < NUM_QUOTES, settle, USD_FAMILY) if self.split else USD_FAMILY
        return self.coin(account, terms.coin[instrument]) * NUM_QUOTES + family

    def lone_unit(self, coin_key: np.ndarray) -> np.ndarray:
        """Key of the unit of a coin without contracts."""
        return coin_key * NUM_QUOTES + USD_FAMILY

    def coin_of(self, unit_key: np.ndarray) -> np.ndarray:
        """Key of a unit's account and coin."""
        return unit_key // NUM_QUOTES

    def parts(self, unit_key: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Account, coin and family of units."""
        coin_key, family = np.divmod(unit_key, NUM_QUOTES)
        account, coin = np.divmod(coin_key, self.num_currencies)
        return account, coin, family


@dataclass(frozen=True)
class Orders:
    """Open orders sorted by account, and what they do to the coins of their units.

    Fields:
        price: limit as ``features.order_terms`` takes it (inverse: -1 / limit).
        out_currency, out_amount: what the order may have to borrow, units of the currency.
        direction: +1 adds delta to its unit, -1 takes delta from it.
        coin_key, coin_direction, coin_amount: spot coming in and going out by account and coin.
    """

    account: np.ndarray
    ordinal: np.ndarray
    instrument: np.ndarray
    contracts: np.ndarray
    price: np.ndarray
    pays_premium: np.ndarray
    out_currency: np.ndarray
    out_amount: np.ndarray
    direction: np.ndarray
    is_spot: np.ndarray
    coin_key: np.ndarray
    coin_direction: np.ndarray
    coin_amount: np.ndarray

    @staticmethod
    def of(snapshot: "Snapshot", terms: Terms, keys: UnitKeys) -> "Orders":
        """Sort the orders; an order of nothing is left out."""
        held = np.flatnonzero(snapshot.order_contracts != 0)
        row = (snapshot.order_contracts, snapshot.order_price, snapshot.order_instrument)
        held = held[np.lexsort((*(x[held] for x in row), snapshot.order_account[held]))]
        account, instrument = snapshot.order_account[held], snapshot.order_instrument[held]
        n, limit = snapshot.order_contracts[held], snapshot.order_price[held]
        first = np.searchsorted(account, account, "left")
        is_spot, is_option = terms.kind[instrument] == SPOT, terms.is_option[instrument]
        coins = n * terms.multiplier[instrument]
        is_bought = n > 0
        pays = is_spot | (is_option & is_bought)
        in_settle = np.where(is_bought, coins * limit, 0.0)
        in_coin = np.where(is_spot & ~is_bought, -coins, 0.0)
        may_borrow = pays & snapshot.auto_borrows[account]
        sold_spot = is_spot & ~is_bought
        coin, settle = terms.coin[instrument], terms.settle[instrument]
        with np.errstate(divide="ignore"):
            price = np.where(terms.is_inverse[instrument], -1.0 / limit, limit)
        # A pair between two coins moves both: the second one against the first.
        spot_key = np.concatenate([keys.coin(account, coin), keys.coin(account, settle)])
        amount = np.concatenate([coins, -coins * limit])
        moves = np.concatenate([is_spot, is_spot & (settle >= NUM_QUOTES)])
        return Orders(
            account=account,
            ordinal=np.arange(len(account)) - first,
            instrument=instrument,
            contracts=n,
            price=price,
            pays_premium=is_option & is_bought,
            out_currency=np.where(sold_spot, coin, settle),
            out_amount=np.where(may_borrow, np.where(sold_spot, in_coin, in_settle), 0.0),
            direction=np.sign(n) * np.where(is_option, terms.call_sign[instrument], 1.0),
            is_spot=is_spot,
            coin_key=spot_key[moves],
            coin_direction=np.sign(amount[moves]),
            coin_amount=amount[moves],
        )

    def spot_coins(self, portfolio: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys, ascending, and coins that spot orders bring into a portfolio."""
        mine = self.coin_direction == (0, 1, -1)[portfolio]
        order = np.lexsort((self.coin_amount[mine], self.coin_key[mine]))
        unique, row = np.unique(self.coin_key[mine][order], return_inverse=True)
        total = np.zeros(len(unique))
        np.add.at(total, row, self.coin_amount[mine][order])
        return unique, total


@dataclass(frozen=True)
class Legs:
    """Open legs of one portfolio sorted by account, unit, expiry bucket and instrument."""

    account: np.ndarray
    unit_key: np.ndarray
    instrument: np.ndarray
    contracts: np.ndarray
    is_wide: np.ndarray
    ordinal: np.ndarray
    closes: np.ndarray
    option_units: np.ndarray

    @staticmethod
    def of_portfolios(
        snapshot: "Snapshot", orders: Orders, terms: Terms, keys: UnitKeys
    ) -> list["Legs"]:
        """Legs of the positions, and of these with the orders of each direction filled."""
        rows = snapshot.leg_account, snapshot.leg_instrument, snapshot.leg_contracts
        netted = [_netted(*rows, len(terms.kind))]
        if len(orders.account):
            has_orders = np.isin(snapshot.leg_account, orders.account)
            of_order = orders.account, orders.instrument, orders.contracts
            for direction in (1.0, -1.0):
                fills = ~orders.is_spot & (orders.direction == direction)
                both = [
                    np.concatenate([x[has_orders], y[fills]])
                    for x, y in zip(rows, of_order, strict=True)
                ]
                netted.append(_netted(both[0], both[1], both[2], len(terms.kind)))
        unit_keys = [keys.unit(account, instrument, terms) for account, instrument, _ in netted]
        option_units = np.unique(
            np.concatenate(
                [
                    key[terms.is_option[instrument]]
                    for key, (_, instrument, _) in zip(unit_keys, netted, strict=True)
                ]
            )
        )
        return [
            Legs._sorted(key, *legs, option_units, terms)
            for key, legs in zip(unit_keys, netted, strict=True)
        ]

    @staticmethod
    def _sorted(
        key: np.ndarray,
        account: np.ndarray,
        instrument: np.ndarray,
        contracts: np.ndarray,
        option_units: np.ndarray,
        terms: Terms,
    ) -> "Legs":
        perpetual = terms.kind[instrument] == PERPETUAL
        is_wide = np.isin(key, option_units) & ~perpetual
        expiry = np.where(perpetual, -1.0, terms.expiry_s[instrument])
        order = np.lexsort((instrument, expiry, is_wide, key))
        account, key, instrument = account[order], key[order], instrument[order]
        contracts, is_wide, expiry = contracts[order], is_wide[order], expiry[order]
        new_list = np.ones(len(key), bool)
        new_list[1:] = (key[1:] != key[:-1]) | (is_wide[1:] != is_wide[:-1])
        start = np.flatnonzero(new_list)
        ordinal = np.arange(len(key)) - np.repeat(start, np.diff(np.append(start, len(key))))
        closes = np.ones(len(key), bool)
        closes[:-1] = new_list[1:] | (expiry[1:] != expiry[:-1])
        return Legs(account, key, instrument, contracts, is_wide, ordinal, closes, option_units)


def _netted(
    account: np.ndarray, instrument: np.ndarray, contracts: np.ndarray, num_instruments: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Account, instrument and net contracts of each open position; rows of one net first."""
    key = account.astype(np.int64) * num_instruments + instrument
    order = np.lexsort((contracts, key))
    unique, row = np.unique(key[order], return_inverse=True)
    net = np.zeros(len(unique))
    np.add.at(net, row, contracts[order])
    held = net != 0
    return (unique // num_instruments)[held], (unique % num_instruments)[held], net[held]
