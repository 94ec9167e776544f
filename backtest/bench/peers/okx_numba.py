"""OKX portfolio margin for Numba: one contract, one unit, one account at a time, on scalars.

Written from the rules like the reference, for speed: sums stay in registers or small buffers,
tiers are walked from the bottom (most amounts lie low), nothing is allocated.
"""

import math
from typing import Any

from backtest.bench.peers import compiled
from kernels.records import OPTION, PERPETUAL


VALUE, CASH, DELTA, GROSS, BASIS, MOVE, VEGA, FEE_EVEN, FEE_ODD = range(9)
NUM_ROW = 9
NUM_MR1, NUM_CELLS = 21, 28
COIN = 3
"""Place of coins behind the quote currencies in sums of value."""
LEVEL, MR1, EQUITY, ADJUSTED, DERIVATIVES = 0, 1, 10, 11, 12
NUM_OUT = 13
"""Level, MR1 ... MR9, equity, adjusted equity, requirement of the units."""
YEAR_S = 365.0 * 86_400.0


@compiled()
def ndtr(x: Any) -> Any:
    """Standard normal distribution."""
    return 0.5 * math.erfc(-x * 0.7071067811865476)


@compiled()
def coin_price(forward: Any, strike: Any, width: Any, sign: Any) -> Any:
    """Black-76 in coins; ``width`` is volatility times the square root of time."""
    if width <= 0.0:
        return max(sign * (1.0 - strike / forward), 0.0)
    d1 = math.log(forward / strike) / width + 0.5 * width
    return sign * (ndtr(sign * d1) - strike / forward * ndtr(sign * (d1 - width)))


@compiled()
def interpolated(x: Any, nodes: Any, values: Any) -> Any:
    """Linear between the nodes, flat outside; a node that is repeated at the end ends the list."""
    if x <= nodes[0]:
        return values[0]
    for k in range(1, nodes.shape[0]):
        if x < nodes[k]:
            weight = (x - nodes[k - 1]) / (nodes[k] - nodes[k - 1])
            return values[k - 1] + weight * (values[k] - values[k - 1])
    return values[nodes.shape[0] - 1]


@compiled()
def vol_shock(days: Any, vol: Any, rules: Any) -> Any:
    """Upward volatility shock of MR1, a fraction a year."""
    points = interpolated(days, rules.points_days, rules.points)
    percent = interpolated(days, rules.percent_days, rules.percent) * vol
    if rules.combine == 0:
        return points
    if rules.combine == 1:
        return percent
    return max(points, percent) if rules.combine == 2 else min(points, percent)


@compiled()
def option_cells(i: Any, t: Any, contracts: Any, market: Any, rules: Any, cells: Any) -> None:
    """USD profit of one option in the 28 scenarios: 21 of MR1, 2 of MR6, 4 of MR5, 1 of MR2."""
    coin, strike, sign = contracts.coin[i], contracts.strike[i], contracts.sign[i]
    m, spot = contracts.multiplier[i], market.usd[t, coin]
    forward, vol = market.forward[t, i], market.iv[t, i]
    years = max(contracts.expiry_s[i] - market.now_s[t], 0.0) / YEAR_S
    root = math.sqrt(years)
    base = spot * coin_price(forward, strike, vol * root, sign)
    shock = vol_shock(years * 365.0, vol, rules)
    for k in range(7):
        move = rules.price_moves[coin, k]
        index = spot if rules.pnl_in_coin else spot * (1.0 + move)
        for v in range(3):
            shocked = vol if v == 1 else max(vol + (v - 1) * shock, rules.vol_floor)
            price = coin_price(forward * (1.0 + move), strike, shocked * root, sign)
            cells[3 * k + v] = m * (index * price - base)
    for k in range(2):
        move = (1 - 2 * k) * rules.extreme_move[coin]
        index = spot if rules.pnl_in_coin else spot * (1.0 + move)
        price = coin_price(forward * (1.0 + move), strike, vol * root, sign)
        cells[NUM_MR1 + k] = m * (index * price - base)
    slope = rules.rate_slope * (1.0 - 2.0 * min(years / rules.rate_slope_span_yr, 1.0))
    p = rules.rate_parallel
    for k in range(4):
        shift = (p if k < 2 else -p) + (slope if k in (0, 2) else -slope)
        price = coin_price(forward * math.exp(shift * years), strike, vol * root, sign)
        cells[NUM_MR1 + 2 + k] = m * (spot * price - base)
    tomorrow = math.sqrt(max(years - rules.theta_days / 365.0, 0.0))
    cells[NUM_CELLS - 1] = m * (spot * coin_price(forward, strike, vol * tomorrow, sign) - base)


@compiled()
def option_row(i: Any, t: Any, contracts: Any, market: Any, rules: Any, row: Any) -> None:
    """What one option contributes besides its scenarios."""
    m, spot = contracts.multiplier[i], market.usd[t, contracts.coin[i]]
    forward, strike, vol = market.forward[t, i], contracts.strike[i], market.iv[t, i]
    sign = contracts.sign[i]
    years = max(contracts.expiry_s[i] - market.now_s[t], 0.0) / YEAR_S
    root = math.sqrt(years)
    width = vol * root
    d1 = math.log(forward / strike) / width + 0.5 * width
    delta = sign * ndtr(sign * d1)
    price = delta - sign * strike / forward * ndtr(sign * (d1 - width))
    density = math.exp(-0.5 * d1 * d1) / math.sqrt(2.0 * math.pi)
    days = max(years * 365.0, rules.vega_min_days)
    weight = math.sqrt(rules.vega_reference_days / days)
    short = m * spot * rules.fee_short_option
    long = min(m * spot * rules.fee_long_option, m * spot * price)
    row[VALUE] = m * market.mark[t, i]
    row[CASH] = m * delta * spot
    row[DELTA] = m * (delta - price)
    row[GROSS] = m * spot
    row[VEGA] = m * spot * density * root * weight
    row[FEE_EVEN], row[FEE_ODD] = 0.5 * (long + short), 0.5 * (long - short)


@compiled()
def linear_row(i: Any, t: Any, contracts: Any, market: Any, rules: Any, row: Any) -> None:
    """What one perpetual or future contributes."""
    coin, m, mark = contracts.coin[i], contracts.multiplier[i], market.mark[t, i]
    if contracts.is_inverse[i]:
        row[VALUE], row[CASH], row[DELTA] = -m / mark, m, m / mark
    else:
        fx = market.usd[t, contracts.settle[i]]
        row[VALUE], row[CASH], row[DELTA] = m * mark, m * mark * fx, m
    row[GROSS] = row[CASH]
    row[VEGA] = 0.0
    row[FEE_EVEN], row[FEE_ODD] = rules.fee_linear[coin] * abs(row[CASH]), 0.0


@compiled()
def price_contract(
    i: Any, t: Any, contracts: Any, market: Any, rules: Any, row: Any, cells: Any
) -> None:
    """Everything one contract contributes at one time, per contract held."""
    kind, coin = contracts.kind[i], contracts.coin[i]
    if kind == OPTION:
        option_row(i, t, contracts, market, rules, row)
        option_cells(i, t, contracts, market, rules, cells)
    else:
        linear_row(i, t, contracts, market, rules, row)
    row[BASIS] = row[CASH] if rules.basis_charges[kind - 1] else 0.0
    row[MOVE] = rules.basis_near[coin]
    if kind != PERPETUAL:
        years = max(contracts.expiry_s[i] - market.now_s[t], 0.0) / YEAR_S
        row[MOVE] = max(row[MOVE], rules.basis_annual[coin] * years)


@compiled()
def depeg_rates(usd: Any, rules: Any, out: Any) -> None:
    """MR9 rates [pair, tier] at one time."""
    calm_index, calm_step, stress_index = rules.depeg_calm
    for pair in range(3):
        ratio = (usd[0] / usd[2], usd[0] / usd[1], usd[1] / usd[2])[pair]
        index = min(ratio, 1.0 / ratio)
        for k in range(out.shape[1]):
            calm = calm_step * (k + 1)
            at = min(index, stress_index)
            rate = interpolated(at, rules.depeg_base[0], rules.depeg_base[1])
            rate += rules.depeg_offset[k]
            if index > stress_index:
                weight = (index - stress_index) / (calm_index - stress_index)
                rate = calm if index >= calm_index else rate + weight * (calm - rate)
            out[pair, k] = min(rate, rules.depeg_max_rate)


@compiled()
def marginal(amount: Any, tiers: Any) -> Any:
    """Progressive charge of an amount; ``tiers`` is [floor, rate, base][tier]."""
    k = 0
    while k + 1 < tiers.shape[1] and tiers[0, k + 1] < amount:
        k += 1
    return tiers[2, k] + tiers[1, k] * (amount - tiers[0, k])


@compiled()
def hedged_usd(a: Any, b: Any) -> Any:
    """What two deltas of opposite sign have in common."""
    return min(abs(a), abs(b)) if a * b < 0.0 else 0.0


@compiled()
def mr9(cash: Any, rates: Any, rules: Any) -> Any:
    """Stablecoin depeg over the pairs USDT-USD, USDT-USDC, USDC-USD."""
    if not rules.depeg_enabled:
        return 0.0
    usdt, usdc, usd, total = cash[0], cash[1], cash[2], 0.0
    for pair in range(3):
        if pair == 0:
            hedged = hedged_usd(usdt, usd)
            usdt, usd = usdt - math.copysign(hedged, usdt), usd - math.copysign(hedged, usd)
        elif pair == 1:
            hedged = hedged_usd(usdt, usdc)
            usdt, usdc = usdt - math.copysign(hedged, usdt), usdc - math.copysign(hedged, usdc)
        else:
            hedged = hedged_usd(usdc, usd)
        k = 0
        while k < rates.shape[1] and hedged > rules.depeg_floor[k]:
            total += min(hedged - rules.depeg_floor[k], rules.depeg_width[k]) * rates[pair, k]
            k += 1
    return total


@compiled()
def discounted(equity: Any, usd: Any, currency: Any, rules: Any) -> Any:
    """Collateral value in USD; a debt counts in full."""
    if equity <= 0.0:
        return equity * usd
    if rules.collateral_in_usd[currency]:
        return marginal(equity * usd, rules.collateral[currency])
    return marginal(equity, rules.collateral[currency]) * usd


@compiled()
def borrowed(equity: Any, usd: Any, currency: Any, rules: Any) -> Any:
    """Maintenance margin and fee of a debt, USD."""
    if equity >= 0.0:
        return 0.0, 0.0
    debt, tiers = -equity, rules.borrowing[currency]
    amount = debt * usd if rules.borrowing_in_usd[currency] else debt
    k = 0
    while k + 1 < tiers.shape[1] and tiers[0, k + 1] < amount:
        k += 1
    last, step, rate_step = rules.borrowing_tail[currency]
    rate = tiers[1, k]
    if step > 0.0 and amount > last:
        rate += math.ceil((amount - last) / step) * rate_step
    return debt * usd * rate, debt * usd * (1.0 + rate) * rules.borrow_fee_rate
