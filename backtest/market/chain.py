"""Builds a market dataset whose options are the ones really listed, from chain snapshots.

At a snapshot marks, volatilities and forwards are the recorded ones. Between snapshots each option
keeps its volatility and its forward moves with the index; how far that had drifted from the truth
at each next snapshot is measured and written to ``drift.parquet``.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from backtest.dataset import Dataset
from backtest.durable import write_table
from backtest.errors import ConfigError
from backtest.market.bars import data_root
from backtest.market.black import YEAR_US, FloatArray, IntArray, option_coin_price
from backtest.market.config import ChainConfig
from backtest.market.derivatives import mark_sources
from backtest.market.history import real_state
from backtest.market.series import Known, floats_of, microseconds_of, names_of, rows_of, timestamps
from backtest.market.snapshots import Snapshots, read_snapshots
from backtest.market.state import CoinState, MarkBlock, MarketState
from backtest.market.writing import write_market


DRIFT_FILE = "drift.parquet"
MIN_RELATIVE_MARK = 0.001
"""Marks below (coins) are left out of relative drift: a tick would be many percent."""


def build_chain(config: ChainConfig, out: Path) -> Dataset:
    """Build the dataset under ``out`` (a folder that does not hold one)."""
    root = data_root(config.source)
    if not config.option_coins or not set(config.option_coins) <= set(config.coins):
        raise ConfigError(
            f"[market] chain_coins: {list(config.option_coins)}; one or more of {config.coins}"
        )
    snapshots = read_snapshots(root, config)
    first = microseconds_of(config.start)
    inside = [s.times[s.times >= first] for s in snapshots.values()]
    extra = np.unique(np.concatenate(inside)) if config.include_snapshot_times else inside[0][:0]
    state, provenance = real_state(root, config, extra)
    coins = dict(state.coins)
    for coin, chain in snapshots.items():
        coins[coin] = _at_snapshots(state, coins[coin], chain)
    provenance["index_at_snapshots"] = {
        c: _index_basis(state, state.coins[c], s) for c, s in snapshots.items()
    }
    state = replace(state, coins=coins)
    options = [ChainOptionMarks(state, s, config) for s in snapshots.values()]
    drift = pd.concat([drift_table(s) for s in snapshots.values()], ignore_index=True)
    provenance["options"] = _provenance(config, snapshots, drift)
    dataset = write_market(out, state, [*mark_sources(state, config), *options], provenance)
    write_table(out / DRIFT_FILE, pa.Table.from_pandas(drift, preserve_index=False))
    return dataset


class ChainOptionMarks:
    """Options of one coin from its snapshots."""

    def __init__(self, state: MarketState, chain: Snapshots, config: ChainConfig) -> None:
        self._times = state.times
        self._index = state.coins[chain.coin].index_usd
        self._chain = chain
        known = Known(chain.times, chain.index_usd)
        age = int(config.max_age.total_seconds() * 1_000_000)
        self._used = known.rows(state.times, age)

    @property
    def instruments(self) -> pd.DataFrame:
        """Option rows of the table ``instruments``."""
        return self._chain.instruments

    def block(self, first: int, last: int) -> MarkBlock:
        """Marks, forwards and volatilities of grid rows ``first`` to ``last`` (exclusive)."""
        chain, used, times = self._chain, self._used[first:last], self._times[first:last]
        index = self._index[first:last]
        live = (used >= 0) & np.isfinite(index)
        row, column = np.nonzero(
            live[:, None]
            & np.isfinite(chain.forward[used])
            & (times[:, None] < chain.expiry[None, :])
        )
        at = used[row]
        moved = index / chain.index_usd[used]
        iv = chain.iv[at, column]
        forward, mark = carried_marks(chain, at, column, moved[row], times[row])
        exact = times[row] == chain.times[at]
        mark = np.where(exact, chain.mark[at, column], mark)
        forward = np.where(exact, chain.forward[at, column], forward)
        keep = np.isfinite(mark)
        return MarkBlock(
            row[keep] + first, column[keep], mark[keep], forward=forward[keep], iv=iv[keep]
        )


def carried_marks(
    chain: Snapshots, at: IntArray, column: IntArray, moved: FloatArray, times: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Forward (USD) and mark (coins) of options carried from a snapshot.

    Args:
        chain: snapshots of the coin.
        at: snapshot carried from, one a row.
        column: option, one a row.
        moved: index now by index at the snapshot.
        times: time, microseconds.
    """
    forward = chain.forward[at, column] * moved
    mark = option_coin_price(
        forwards=forward,
        strikes=chain.strike[column],
        volatilities=chain.iv[at, column],
        years=np.maximum(chain.expiry[column] - times, 0) / YEAR_US,
        is_call=chain.is_call[column],
    )
    return forward, np.where(np.isfinite(chain.iv[at, column]), mark, np.nan)


def drift_table(chain: Snapshots) -> pd.DataFrame:
    """How far marks carried from one snapshot were from the recorded ones of the next.

    Returns:
        Columns ``time``, ``previous``, ``coin``, ``instrument_id``, ``carried_mark`` and
        ``real_mark`` (coins), ``drift_coin``, ``drift_frac`` (null below the smallest mark),
        ``carried_iv`` and ``real_iv`` (fraction a year).
    """
    both = np.isfinite(chain.iv[:-1]) & np.isfinite(chain.mark[1:])
    at, column = np.nonzero(both)
    moved = chain.index_usd[1:] / chain.index_usd[:-1]
    times = chain.times[1:]
    _, carried = carried_marks(chain, at, column, moved[at], times[at])
    real = chain.mark[1:][at, column]
    relative = np.where(
        real >= MIN_RELATIVE_MARK, carried / np.where(real > 0, real, 1.0) - 1, np.nan
    )
    return pd.DataFrame(
        {
            "time": timestamps(times[at]),
            "previous": timestamps(chain.times[:-1][at]),
            "coin": chain.coin,
            "instrument_id": chain.instruments["instrument_id"].to_numpy()[column],
            "carried_mark": carried,
            "real_mark": real,
            "drift_coin": carried - real,
            "drift_frac": relative,
            "carried_iv": chain.iv[:-1][at, column],
            "real_iv": chain.iv[1:][at, column],
        }
    )


def _at_snapshots(state: MarketState, own: CoinState, chain: Snapshots) -> CoinState:
    """The coin with the snapshots' index, and its perpetual at its last known premium there."""
    row = np.searchsorted(chain.times, state.times)
    hit = chain.times[np.minimum(row, len(chain.times) - 1)] == state.times
    row = np.where(hit, np.minimum(row, len(chain.times) - 1), 0)
    index = np.where(hit, chain.index_usd[row], own.index_usd)
    cross = state.cash_usd["USDT"]
    premium = Known.of(state.times, own.perp_usdt * cross / own.index_usd)
    held = premium.at(state.times, 2 * state.interval_us) * index / cross
    mark = np.where(np.isnan(own.perp_usdt) & hit, held, own.perp_usdt)
    return replace(own, index_usd=index, perp_usdt=mark)


def _index_basis(state: MarketState, own: CoinState, chain: Snapshots) -> dict[str, object]:
    """Recorded index against the bars' around it, for the provenance record."""
    on_bars = np.isfinite(own.index_usd)
    inside = (chain.times >= state.times[on_bars][0]) & (chain.times <= state.times[on_bars][-1])
    between = np.interp(
        chain.times[inside].astype(float),
        state.times[on_bars].astype(float),
        own.index_usd[on_bars],
    )
    basis = chain.index_usd[inside] / between - 1.0
    return {
        "what": "real: median index of the snapshot; perpetuals there at their last premium; other "
        "coins have no row at these times",
        "snapshot_to_interpolated_bars_median": round(float(np.median(basis)), 6),
        "snapshot_to_interpolated_bars_max_abs": round(float(np.abs(basis).max()), 6),
    }


def _provenance(
    config: ChainConfig, snapshots: dict[str, Snapshots], drift: pd.DataFrame
) -> dict[str, object]:
    found: dict[str, object] = {
        "marks": f"real at snapshots: {config.chain}.parquet; between them derived: own volatility "
        "kept, forward moved with the index, Black-76",
        "multiplier": "assumed: contracts of 0.01 BTC and 0.1 ETH (the recording venue trades 1)",
        "drift_table": DRIFT_FILE,
    }
    for coin, chain in snapshots.items():
        seen = np.isfinite(chain.forward)
        alive = (chain.listed <= chain.times[:, None]) & (chain.times[:, None] < chain.expiry)
        own = rows_of(drift, names_of(drift, "coin") == coin)
        found[coin] = {
            "snapshots": len(chain.times),
            "options": len(chain.strike),
            "alive_at_once": {"min": int(seen.sum(1).min()), "max": int(seen.sum(1).max())},
            "without_volatility": chain.rejected_iv,
            "absent_from_a_later_snapshot": int((alive & ~seen).sum()),
            "drift_coin": _spread(floats_of(own, "drift_coin")),
            f"drift_frac_of_marks_from_{MIN_RELATIVE_MARK}": _spread(floats_of(own, "drift_frac")),
            "drift_iv": _spread(floats_of(own, "carried_iv") - floats_of(own, "real_iv")),
        }
    return found


def _spread(values: FloatArray) -> dict[str, float]:
    sizes = np.abs(values[np.isfinite(values)])
    if len(sizes) == 0:
        return {}
    return {
        "median": round(float(np.median(sizes)), 6),
        "p95": round(float(np.quantile(sizes, 0.95)), 6),
        "max": round(float(sizes.max()), 6),
    }
