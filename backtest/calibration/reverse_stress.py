"""Reverse stress: the nearest sudden move that liquidates a share of open interest or the fund.

Every account is scored as it stands at one time after prices of all coins have moved by one
fraction and volatilities of all options by another; stablecoins stay. Forwards and marks move with
their coin; an option keeps what its mark is above its model price. An account at or below the
liquidation level counts with its gross notional before the move, and draws on the fund what its
equity does not cover of closing it. Nobody trades and no price reacts, so this is the first round
of what such a move would do.

References:
    EMIR RTS 153/2013, article 57. Backtesting rules, K14.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float

from backtest.calibration.nearest import (
    MOST_DISTANCE,
    OPEN_INTEREST_FRAC,
    Norm,
    Points,
    cast,
    nearest,
)
from backtest.calibration.standing import Standing
from backtest.config import RunConfig
from backtest.durable import write_table
from backtest.engine import initial_state, over_times
from backtest.errors import ConfigError
from backtest.market.black import option_coin_price
from backtest.market_window import MICROS, MarketWindow, stamp
from backtest.parameter_records import parameter_record
from backtest.scores import Scores
from kernels.features import SECONDS_PER_YEAR
from kernels.models import model_of
from kernels.records import NULL_CURRENCY, NUM_QUOTES, OPTION, Contract


NUMBERS = ("open_interest_frac", "fund_draw_usd")
"""What is measured of a scenario: share of gross notional liquidated, and what is uncovered."""
AMOUNTS = ("liquidated_usd", "fund_draw_usd", "accounts_liquidated")
"""The same as amounts: gross notional before the move, what is uncovered, accounts."""
TABLE, NET_TABLE = "reverse_stress", "reverse_stress_net"
"""Tables of ``report_data``: the nearest scenarios, and all that were looked at."""


@dataclass(frozen=True)
class ReverseStress:
    """What is asked.

    Attributes:
        open_interest_frac: shares of gross notional whose liquidation is looked for.
        fund_usd: the fund to be emptied; None = not asked.
        closing_cost_frac: cost of closing an account, of its gross notional then.
        norm: what distance means.
        most_distance, rays, radii: the net of scenarios.
        accounts: about how many are drawn, None = all.
    """

    open_interest_frac: tuple[float, ...] = OPEN_INTEREST_FRAC
    fund_usd: float | None = None
    closing_cost_frac: float = 0.0
    norm: Norm = field(default_factory=Norm)
    most_distance: float = MOST_DISTANCE
    rays: int = 24
    radii: int = 15
    accounts: int | None = None


def reverse_stress(
    config: RunConfig, asked: ReverseStress, time: pd.Timestamp | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The nearest scenarios of every parameter set of a run, and the nets they were found on.

    Args:
        config: the run; its dataset is there.
        asked: levels and norm.
        time: when accounts are taken as they stand; the run's first time if absent.

    Returns:
        Rows by set and level, NaN where no scenario within reach gets there; rows by set and
        scenario of the net.
    """
    standing = Standing(config, asked.accounts, config.seed)
    time_us = int(standing.times_us[0]) if time is None else standing.grid_time(time)
    found, nets = [], []
    for name in (s.name for s in config.parameter_sets):
        measure = Shocks(standing, name, time_us, asked.closing_cost_frac)
        net = cast(measure, asked.norm, asked.rays, asked.radii, asked.most_distance)
        about = {"parameter_set": name, "time": stamp(time_us)}
        for number, level in _levels(asked):
            at = nearest(net, measure, NUMBERS.index(number), level)
            row: dict[str, Any] = about | {"number": number, "level": level}
            columns = ("price_move_frac", "vol_move_frac", "distance", "resolution")
            row |= {c: np.nan if at is None else getattr(at, c) for c in columns}
            values = np.full(len(NUMBERS), np.nan) if at is None else at.values
            found.append(row | dict(zip(NUMBERS, values.tolist(), strict=True)))
        points = net.points.reshape(-1, 2)
        values = net.values.reshape(len(points), -1)
        moves = {"price_move_frac": points[:, 0], "vol_move_frac": points[:, 1]}
        moves |= {n: values[:, k] for k, n in enumerate(NUMBERS)}
        moves["distance"] = np.tile(net.radii, len(net.rays))
        nets.append(pd.DataFrame(about | moves).drop_duplicates(list(moves), ignore_index=True))
    return pd.DataFrame(found), pd.concat(nets, ignore_index=True)


def save(folder: Path, tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """Write what ``reverse_stress`` found into the results folder of its run."""
    for name, frame in zip((TABLE, NET_TABLE), tables, strict=True):
        table = pa.Table.from_pandas(frame, preserve_index=False)
        write_table(folder / "report_data" / f"{name}.parquet", table)


def _levels(asked: ReverseStress) -> list[tuple[str, float]]:
    shares = asked.open_interest_frac
    wrong = [x for x in shares if not 0.0 < x <= 1.0]
    if wrong:
        raise ConfigError(f"open interest {wrong[0]:g}: allowed: above 0, at most 1")
    found = [(NUMBERS[0], share) for share in shares]
    if asked.fund_usd is not None:
        found.append((NUMBERS[1], asked.fund_usd))
    return found


class Shocks:
    """What scenarios do to the accounts of a run under one parameter set (``NUMBERS``).

    Args:
        standing: accounts and prices.
        name: parameter set.
        time_us: when accounts are taken as they stand.
        closing_cost_frac: cost of closing an account, of its gross notional.
    """

    def __init__(
        self, standing: Standing, name: str, time_us: int, closing_cost_frac: float
    ) -> None:
        self._engine, self._cost = standing.context.engine, closing_cost_frac
        self._contracts = standing.contracts(time_us)
        self._market = standing.market(time_us, np.asarray([time_us]))
        numbers = standing.rules(name).numbers_at(time_us)
        self._record = jax.tree.map(np.asarray, parameter_record(numbers, standing.currencies))
        self._held = list(standing.batches(time_us, name))
        # As many scenarios at once as a replay has times: they share its compiled programs.
        self._size = standing.config.engine.window_times

    def __call__(self, points: Points) -> Float[np.ndarray, "scenario number"]:
        """Share of open interest liquidated and draw on the fund, USD, of each scenario."""
        found = self.amounts(points)[:, : len(NUMBERS)]
        found[:, 0] /= self.gross_usd or 1.0
        return found

    @property
    def gross_usd(self) -> float:
        """Gross notional of all priced accounts before the move."""
        return sum(float(np.nansum(x)) for x in self._gross)

    @property
    def accounts(self) -> int:
        """Priced accounts."""
        return sum(int(np.isfinite(x).sum()) for x in self._gross)

    def amounts(self, points: Points) -> Float[np.ndarray, "scenario amount"]:
        """``AMOUNTS`` of each scenario."""
        parts = [np.zeros((0, len(AMOUNTS)))]
        for start in range(0, len(points), self._size):
            some = points[start : start + self._size]
            parts.append(self._amounts(np.resize(some, (self._size, 2)))[: len(some)])
        return np.concatenate(parts)

    @cached_property
    def _gross(self) -> list[np.ndarray]:
        """Gross notional of the accounts of each batch before the move, NaN where unpriced."""
        found = []
        for margin in self._scored(np.zeros((self._size, 2))):
            priced = ~np.isnan(margin.field("margin_level")[0])
            found.append(np.where(priced, margin.field("gross_notional_usd")[0], np.nan))
        return found

    def _amounts(self, points: Points) -> Float[np.ndarray, "scenario amount"]:
        level_at = float(self._record.account.liquidation_level)
        total = np.zeros((len(points), len(AMOUNTS)))
        for margin, before in zip(self._scored(points), self._gross, strict=True):
            gone = (margin.field("margin_level") <= level_at) & np.isfinite(before)
            cost = self._cost * margin.field("gross_notional_usd")
            short = np.maximum(cost - margin.field("equity_usd"), 0.0)
            for k, amount in enumerate((before, short, 1.0)):
                total[:, k] += np.where(gone, amount, 0.0).sum(axis=1)
        return total

    def _scored(self, points: Points) -> Iterator[Scores]:
        """Scores of each batch, scenarios where a replay has times."""
        count, model = len(points), model_of(self._record)
        window = shocked(self._market, self._contracts, points)
        (priced,) = self._engine.price(window, self._contracts, [over_times(self._record, count)])
        for batch in self._held:
            accounts = len(batch.accounts)
            state, segment = initial_state(accounts, model), np.zeros(accounts, int)
            yield self._engine.replay(batch, state, priced, segment, np.arange(count)).scores


def shocked(market: MarketWindow, contracts: Contract, points: Points) -> MarketWindow:
    """The market of one time after each of some scenarios, which take the place of times.

    Args:
        market: one time.
        contracts: its instrument axis.
        points: price moves and relative moves of volatility.
    """
    count = len(points)
    price, vol = (1.0 + points[:, k, None] for k in range(2))
    is_coin = np.arange(market.currency_usd.shape[1]) > NULL_CURRENCY
    usd = np.where(is_coin, market.currency_usd * price, market.currency_usd)
    forward, iv = market.forward_usd * price, market.iv * vol
    mark = market.mark * price
    options = np.flatnonzero(np.asarray(contracts.kind) == OPTION)
    mark[:, options] = _option_marks(market, contracts, options, usd, forward, iv)
    still = {
        name: np.repeat(getattr(market, name), count, axis=0)
        for name in ("settlement", "settlement_fx", "funding")
    }
    times = np.repeat(market.times_us, count)
    return MarketWindow(times, usd, mark, forward, iv, **still)


def _option_marks(
    market: MarketWindow,
    contracts: Contract,
    options: np.ndarray,
    usd: np.ndarray,
    forward: np.ndarray,
    iv: np.ndarray,
) -> np.ndarray:
    """Marks of options in the scenarios, in coins or in units of the quote they settle in."""
    terms = {k: np.asarray(getattr(contracts, k))[options] for k in ("strike_usd", "expiry_s")}
    settle = np.asarray(contracts.settle)[options]
    coin = np.asarray(contracts.coin)[options]
    years = np.maximum(terms["expiry_s"] - market.times_us[0] / MICROS, 0.0) / SECONDS_PER_YEAR

    def model(forwards: np.ndarray, vols: np.ndarray, rates: np.ndarray) -> np.ndarray:
        in_coins = option_coin_price(
            forwards=forwards[:, options],
            strikes=terms["strike_usd"],
            volatilities=vols[:, options],
            years=years,
            is_call=np.asarray(contracts.call_sign)[options] > 0,
        )
        return in_coins * np.where(settle < NUM_QUOTES, rates[:, coin] / rates[:, settle], 1.0)

    now = model(market.forward_usd, market.iv, market.currency_usd)
    moved = model(forward, iv, usd)
    return np.maximum(moved + market.mark[:, options] - now, 0.0)
