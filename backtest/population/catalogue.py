"""Instruments and currencies of a market as arrays; nothing here depends on the time."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from backtest.errors import DataError
from backtest.population.arrays import Bools, Floats, Ints, Names, floats, microseconds, names


PERPETUAL, FUTURE, OPTION = 0, 1, 2
NEVER = np.iinfo(np.int64).max
STABLE = ("USDT", "USDC", "USD")
_SPOT = -1
_KINDS = {"perpetual": PERPETUAL, "future": FUTURE, "option": OPTION, "spot": _SPOT}
_SIGNS = {"C": 1.0, "P": -1.0}


@dataclass(frozen=True)
class Catalogue:
    """All derivatives of a market, sorted by coin; currencies and coins by position.

    ``multiplier`` is in coins (USD for inverse), ``listed`` and ``expiry`` in UTC microseconds,
    ``option_sign`` +1 call, -1 put, 0 otherwise, ``slot`` the settlement family (0 USDT, 1 USDC,
    2 USD or other linear, 3 inverse, or coin-settled option).
    """

    ids: Names
    kind: Ints
    coin: Ints
    settle: Ints
    slot: Ints
    multiplier: Floats
    strike: Floats
    option_sign: Floats
    listed: Ints
    expiry: Ints
    coins: tuple[str, ...]
    currencies: tuple[str, ...]
    coin_currency: Ints
    position: dict[str, int]

    @property
    def inverse(self) -> Bools:
        """Which contracts are inverse perpetuals or futures."""
        return (self.slot == 3) & (self.kind != OPTION)

    def currency(self, name: str) -> int:
        """Position of a currency, -1 where the market has none of the name."""
        return self.currencies.index(name) if name in self.currencies else -1


def make_catalogue(instruments: pd.DataFrame, currencies: Iterable[str]) -> Catalogue:
    """Arrays of the derivatives of ``instruments``; spot and incomplete rows are left out.

    Args:
        instruments: table ``instruments`` of a dataset.
        currencies: currencies that may be held besides coins and settlement currencies.

    Raises:
        DataError: a kind of instrument is unknown.
    """
    kinds = names(instruments, "kind")
    unknown = set(kinds) - set(_KINDS)
    if unknown:
        raise DataError(f"instruments: unknown kind {sorted(map(str, unknown))}")
    kind = np.array([_KINDS[name] for name in kinds], np.int64)
    all_ids, all_coins = names(instruments, "instrument_id"), names(instruments, "coin")
    rows = np.array(
        sorted(
            np.flatnonzero(_usable(instruments, kind)).tolist(),
            key=lambda row: (all_coins[row], all_ids[row]),
        ),
        np.int64,
    )
    frame, kind, ids = instruments.iloc[rows], kind[rows], all_ids[rows]
    coin, settle = all_coins[rows], names(frame, "settle")
    coins = tuple(sorted(set(coin)))
    every = tuple(sorted({*currencies, *settle, *coins, "USDT"}))
    place = {name: i for i, name in enumerate(every)}
    coin_place = {name: i for i, name in enumerate(coins)}
    return Catalogue(
        ids=ids,
        kind=kind,
        coin=np.array([coin_place[name] for name in coin], np.int64),
        settle=np.array([place[name] for name in settle], np.int64),
        slot=_slots(kind, coin, settle, names(frame, "style")),
        multiplier=floats(frame, "multiplier"),
        strike=np.nan_to_num(floats(frame, "strike")),
        option_sign=np.array([_SIGNS.get(t, 0.0) for t in names(frame, "option_type")]),
        listed=microseconds(frame, "listed", np.iinfo(np.int64).min),
        expiry=microseconds(frame, "expiry", NEVER),
        coins=coins,
        currencies=every,
        coin_currency=np.array([place[name] for name in coins], np.int64),
        position={name: i for i, name in enumerate(ids)},
    )


def _usable(frame: pd.DataFrame, kind: Ints) -> Bools:
    """Derivatives whose row is complete; a broken row is never traded."""
    good = (kind != _SPOT) & (floats(frame, "multiplier") > 0.0)
    good &= (kind == PERPETUAL) | (microseconds(frame, "expiry", NEVER) != NEVER)
    typed = np.array([name in _SIGNS for name in names(frame, "option_type")], np.bool_)
    good &= (kind != OPTION) | (typed & (floats(frame, "strike") > 0.0))
    for name in ("instrument_id", "coin", "settle"):
        good &= np.array([value is not None for value in names(frame, name)], np.bool_)
    return good


def _slots(kind: Ints, coin: Names, settle: Names, style: Names) -> Ints:
    family = {"USDT": 0, "USDC": 1}
    slot = np.array([family.get(name, 2) for name in settle], np.int64)
    inverse = (style == "inverse") & (kind != OPTION)
    return np.where(inverse | ((kind == OPTION) & (coin == settle)), 3, slot)
