"""Full margin of accounts in Numba: from the shared table, or pricing every leg anew."""

import math
import threading
from typing import Any

import numpy as np

from backtest.bench.flat import FlatBook, FlatContracts, FlatMarket, FlatRules
from backtest.bench.peers import compiled
from backtest.bench.peers.okx_numba import (
    ADJUSTED,
    BASIS,
    CASH,
    COIN,
    DELTA,
    DERIVATIVES,
    EQUITY,
    FEE_EVEN,
    FEE_ODD,
    LEVEL,
    MOVE,
    MR1,
    NUM_CELLS,
    NUM_MR1,
    NUM_OUT,
    NUM_ROW,
    VALUE,
    VEGA,
    borrowed,
    depeg_rates,
    discounted,
    marginal,
    mr9,
    price_contract,
)
from kernels.records import OPTION


BLOCK = 256
"""Accounts that a thread takes through all times at once: their legs stay in its cache."""
VEGA_GROSS, BUCKET_BASIS, BUCKET_VEGA, MR4_USD, LINEAR_DELTA, FEE = range(NUM_ROW, NUM_ROW + 6)
NUM_SUMS = NUM_ROW + 6
"""Sums of a unit: those of the row's columns, then what buckets and kinds of legs add up to."""


@compiled()
def close_bucket(sums: Any, move: Any) -> None:
    """Charge the net delta of an expiry bucket and count its net vega."""
    sums[MR4_USD] += abs(sums[BUCKET_BASIS]) * move
    sums[VEGA_GROSS] += abs(sums[BUCKET_VEGA])
    sums[BUCKET_BASIS] = 0.0
    sums[BUCKET_VEGA] = 0.0


@compiled()
def clear(has_options: Any, buffers: Any) -> None:
    """Begin a unit; sums of the quote currencies go on through the units of an account."""
    sums, value, cash, total = buffers
    for k in range(NUM_SUMS):
        sums[k] = 0.0
    for k in range(COIN):
        cash[k] = 0.0
    value[COIN] = 0.0
    if has_options:
        for c in range(NUM_CELLS):
            total[c] = 0.0


@compiled()
def add_leg(i: Any, n: Any, row: Any, cells: Any, contracts: Any, buffers: Any) -> None:
    """Add one leg to the sums of its unit."""
    sums, value, cash, total = buffers
    settle = contracts.settle[i]
    is_option = contracts.kind[i] == OPTION
    value[min(settle, COIN)] += n * row[VALUE]
    cash[2 if is_option or settle >= COIN else settle] += n * row[CASH]
    sums[DELTA] += n * row[DELTA]
    sums[BUCKET_BASIS] += n * row[BASIS]
    sums[FEE] += abs(n) * row[FEE_EVEN] + n * row[FEE_ODD]
    if is_option:
        vega = n * row[VEGA]
        sums[VEGA] += vega
        sums[BUCKET_VEGA] += vega
        weight = total.dtype.type(n)
        for c in range(NUM_CELLS):
            total[c] += weight * cells[c]
    else:
        sums[LINEAR_DELTA] += n * row[DELTA]


@compiled()
def add_legs(
    legs: Any,
    t: Any,
    reprice: Any,
    data: Any,
    rows: Any,
    cells: Any,
    buffers: Any,
) -> None:
    """Sums of one unit over its legs: columns, scenarios of the options, expiry buckets."""
    book, contracts, market, rules = data
    bucket, move = -1, 0.0
    for leg in range(legs[0], legs[1]):
        i, n = book.leg_instrument[leg], book.leg_contracts[leg]
        k = i
        if reprice:
            k = 0
            price_contract(i, t, contracts, market, rules, rows[0], cells[0])
        if contracts.bucket[i] != bucket:
            close_bucket(buffers[0], move)
            bucket, move = contracts.bucket[i], rows[k, MOVE]
        add_leg(i, n, rows[k], cells[k], contracts, buffers)
    close_bucket(buffers[0], move)


@compiled()
def stress(has_options: Any, linear_usd: Any, coin: Any, total: Any, rules: Any) -> Any:
    """MR1, MR2, MR5, MR6 of a unit."""
    extreme = rules.extreme_move[coin]
    if not has_options:
        size = abs(linear_usd)
        worst_move = rules.price_moves[coin, rules.price_moves.shape[1] - 1]
        return size * worst_move, 0.0, 0.0, rules.extreme_factor * size * extreme
    worst = 0.0
    for c in range(NUM_MR1):
        worst = min(worst, total[c] + linear_usd * rules.cell_moves[coin, c])
    up = total[NUM_MR1] + linear_usd * extreme
    down = total[NUM_MR1 + 1] - linear_usd * extreme
    rates = 0.0
    for c in range(NUM_MR1 + 2, NUM_MR1 + 6):
        rates = min(rates, float(total[c]))
    theta = max(0.0, -float(total[NUM_CELLS - 1]))
    return -worst, theta, -rates, -rules.extreme_factor * min(0.0, up, down)


@compiled()
def add_unit(
    coin: Any, base: Any, has_options: Any, usd: Any, rates: Any, rules: Any, buffers: Any, out: Any
) -> Any:
    """Charges, equity and debt of one unit, added to the account; returns the borrowing fee."""
    sums, value, cash, total = buffers
    coin_usd = usd[coin]
    equity, delta = value[COIN] + base, sums[DELTA]
    spot = 0.0
    if equity * delta < 0.0:
        spot = math.copysign(min(abs(equity), abs(delta)), equity)
    linear_usd = (sums[LINEAR_DELTA] + spot) * coin_usd
    m1, m2, m5, m6 = stress(has_options, linear_usd, coin, total, rules)
    m3 = rules.vega_rate * max(0.5 * (sums[VEGA_GROSS] - abs(sums[VEGA])), 0.0)
    near = rules.basis_near[coin] if rules.basis_charges[0] else 0.0
    m4 = sums[MR4_USD] + abs(spot * coin_usd) * near
    m7 = marginal(sums[FEE], rules.fee_tiers[coin])
    m9 = mr9(cash, rates, rules)
    worst = 0.0
    for k in range(3):
        if rules.competes[k]:
            worst = max(worst, (m1, m2, m6)[k])
    debt, fee = borrowed(equity, coin_usd, coin, rules)
    charges = m1, m2, m3, m4, m5, m6, m7, debt, m9
    for k in range(9):
        out[MR1 + k] += charges[k]
    out[DERIVATIVES] += max(worst + m3 + m4 + m5 + m9, m7)
    out[EQUITY] += equity * coin_usd
    out[ADJUSTED] += discounted(equity, coin_usd, coin, rules)
    return fee


@compiled()
def score(
    a: Any, t: Any, reprice: Any, data: Any, rows: Any, cells: Any, rates: Any, work: Any, out: Any
) -> None:
    """Margin of one account at one time into ``out``."""
    book, _, market, rules = data
    value, usd = work[1], market.usd[t]
    for k in range(NUM_OUT):
        out[k] = 0.0
    for quote in range(COIN):
        value[quote] = book.quote_base[a, quote]
    fee = 0.0
    for unit in range(book.unit_start[a], book.unit_start[a + 1]):
        legs = book.leg_start[unit], book.leg_start[unit + 1]
        coin, base, wide = book.unit_coin[unit], book.unit_base[unit], book.has_options[unit]
        clear(wide, work)
        add_legs(legs, t, reprice, data, rows, cells, work)
        fee += add_unit(coin, base, wide, usd, rates, rules, work, out)
    for quote in range(COIN):
        equity = value[quote]
        if equity != 0.0:
            debt, of_quote = borrowed(equity, usd[quote], quote, rules)
            out[MR1 + 7] += debt
            fee += of_quote
            out[EQUITY] += equity * usd[quote]
            out[ADJUSTED] += discounted(equity, usd[quote], quote, rules)
    required = out[DERIVATIVES] + out[MR1 + 7] + fee
    out[LEVEL] = out[ADJUSTED] / required if required > 0.0 else np.inf


@compiled(entry=True)
def priced_table(contracts: Any, market: Any, rules: Any, t: Any, rows: Any, cells: Any) -> None:
    """Rows and scenarios of every contract at one time."""
    for i in range(1, rows.shape[0]):
        price_contract(i, t, contracts, market, rules, rows[i], cells[i])


@compiled(entry=True)
def score_range(
    part: Any,
    reprice: Any,
    book: Any,
    contracts: Any,
    market: Any,
    rules: Any,
    rows: Any,
    cells: Any,
    out: Any,
) -> None:
    """Margins [time, account] of a range of accounts: blocks outside, times inside."""
    num_times = out.shape[0]
    rates = np.empty((num_times, 3, rules.depeg_floor.shape[0]))
    for t in range(num_times):
        depeg_rates(market.usd[t], rules, rates[t])
    data = book, contracts, market, rules
    work = np.empty(NUM_SUMS), np.empty(4), np.empty(3), np.empty(NUM_CELLS, cells.dtype)
    for start in range(part[0], part[1], BLOCK):
        for t in range(num_times):
            for a in range(start, min(start + BLOCK, part[1])):
                # Repriced legs use the first row only.
                score(a, t, reprice, data, rows[t], cells[t], rates[t], work, out[t, a - part[0]])


class NumbaPeer:
    """Both ways over one market and set of rules; every method may run in several threads.

    Margins lie in a buffer of the thread: they hold until its next call.

    Args:
        contracts: terms of the instruments.
        market: prices of the window.
        rules: numbers of the set.
        precision: dtype of the shared scenario table.
    """

    def __init__(
        self, contracts: FlatContracts, market: FlatMarket, rules: FlatRules, precision: str
    ) -> None:
        self.num_times = len(market.now_s)
        self._data = contracts, market, rules
        shape = self.num_times, len(contracts.kind)
        self._rows = np.zeros((*shape, NUM_ROW))
        self._cells = np.zeros((*shape, NUM_CELLS))
        self._precision = precision
        self._summed = self._cells.astype(precision)
        self._of_thread = threading.local()

    def price(self, t: int) -> None:
        """Fill the shared table of one time: every contract once."""
        priced_table(*self._data, t, self._rows[t], self._cells[t])
        self._summed[t] = self._cells[t]

    def margins(self, book: FlatBook, start: int, stop: int) -> np.ndarray:
        """Margins [time, account, number] of a range of accounts from the shared table."""
        out = self._room(stop - start)
        score_range((start, stop), False, book, *self._data, self._rows, self._summed, out)
        return out

    def margins_repriced(self, book: FlatBook, start: int, stop: int) -> np.ndarray:
        """The same, every leg of every account repriced in every scenario."""
        out = self._room(stop - start)
        rows = np.zeros((self.num_times, 1, NUM_ROW))
        cells = np.zeros((self.num_times, 1, NUM_CELLS), self._precision)
        score_range((start, stop), True, book, *self._data, rows, cells, out)
        return out

    def _room(self, count: int) -> np.ndarray:
        size = self.num_times * count * NUM_OUT
        room = getattr(self._of_thread, "room", None)
        if room is None or len(room) < size:
            room = np.empty(size)
            self._of_thread.room = room
        return room[:size].reshape(self.num_times, count, NUM_OUT)
