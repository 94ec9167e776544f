"""What accounts choose besides their book: where spot offsets in split units, resting orders."""

import numpy as np
import pandas as pd

from backtest.population.arrays import Floats, Ints
from backtest.population.books import Books
from backtest.population.config import Orders
from backtest.population.draws import Draws
from backtest.population.universe import Universe


SPOT_MODES = ("USDT", "USDC", "USD")
"""By settlement family; inverse contracts and coin-settled options are in the last one."""


def spot_modes(books: Books, universe: Universe) -> list[str | None]:
    """Split unit that each account places its spot in: where most of its notional settles."""
    legs = books.legs
    family = np.minimum(universe.market.slot[legs.instrument], len(SPOT_MODES) - 1)
    size = np.nan_to_num(np.abs(legs.contracts) * universe.notional[legs.instrument])
    total = np.zeros((len(books.number), len(SPOT_MODES)))
    np.add.at(total, (legs.account, family), size)
    chosen = np.argmax(total, axis=1)
    return [SPOT_MODES[k] if total[row, k] > 0 else None for row, k in enumerate(chosen)]


def resting_orders(
    books: Books, universe: Universe, config: Orders, draws: Draws
) -> tuple[Ints, Ints, Floats, Floats]:
    """Limit orders in instruments that accounts hold: (account row, instrument, contracts, price).

    A share of the accounts has one to ``most`` orders, each a part of the position in one of its
    legs, in either direction, away from the mark.
    """
    legs = books.legs
    first = np.searchsorted(legs.account, np.arange(len(books.number)), "left")
    count = np.searchsorted(legs.account, np.arange(len(books.number)), "right") - first
    how_many = 1 + draws.below("orders/count", config.most)
    trades = (draws.uniform("orders/has") < config.share) & (count > 0)
    parts = []
    for k in range(config.most):
        account = np.flatnonzero(trades & (how_many > k))
        mine = draws.of(account)
        leg = first[account] + mine.below(f"orders/{k}/leg", count[account])
        instrument = legs.instrument[leg]
        side = mine.sign(f"orders/{k}/side")
        part = mine.between(f"orders/{k}/part", 0.1, 1.0)
        size = np.maximum(np.round(np.abs(legs.contracts[leg]) * part, 2), 0.01)
        away = mine.between(f"orders/{k}/away", 0.1, 1.0) * config.distance
        price = universe.mark[instrument] * (1.0 - side * away)
        priced = np.isfinite(price) & (price > 0)
        parts.append([x[priced] for x in (account, instrument, side * size, price)])
    account, instrument, contracts, price = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    order = np.lexsort((price, instrument, account))
    return account[order], instrument[order], contracts[order], price[order]


def order_rows(
    when: pd.DatetimeIndex,
    names: pd.Categorical,
    ids: pd.Categorical,
    contracts: Floats,
    price: Floats,
) -> pd.DataFrame:
    """Rows of the table ``orders``."""
    return pd.DataFrame(
        {
            "time": when,
            "account_id": names,
            "instrument_id": ids,
            "contracts": contracts,
            "price": price,
        }
    )
