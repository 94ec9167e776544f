"""Charges by size tiers, MR7 ... MR9, and the tiers that value collateral.

Marginal tiers charge every slice of an amount at the rate of its own tier; borrowing tiers charge
the whole amount at the rate of the tier it ends in. An exact bound belongs to the lower tier.
"""

import math
from typing import Any

import numpy as np

from backtest.reference.okx_charges import Charge, Numbers, Unit, leg_cash, model_price
from backtest.reference.okx_legs import Leg


def marginal_tiers(amount: float, bounds: list[float], rates: list[float]) -> list[dict[str, Any]]:
    """Slices of an amount: tier `k` takes what lies between bounds `k - 1` and `k`.

    A rate more than there are bounds is for everything above the last bound; without it the
    amount above is in no tier.

    Example:
        30,000 with bounds [10,000, 70,000] and rates [1, 2, 4]: 10,000 x 1 + 20,000 x 2 (V5).
    """
    slices = []
    lower = 0.0
    for upper, rate in zip([*bounds, math.inf], rates, strict=False):
        part = min(amount, upper) - lower
        if part <= 0.0:
            break
        slices.append({"amount": part, "rate": rate, "value": part * rate})
        lower = upper
    return slices


def mr7_leg(leg: Leg, group: str, numbers: Numbers) -> dict[str, Any]:
    """`rate * size` of a leg in USD: the raw minimum charge before the multiplier.

    Linear and inverse `rate |cash|`; short option `rate |n| m S`; long option the smaller of
    `rate n m S` and the model value `n m V` of the position.
    """
    rule = numbers["mr7"]
    if not leg.is_option:
        rate = rule["coin_linear_rate"].get(leg.coin, rule["linear_rate"][group])
        size = abs(leg_cash(leg))
        value = rate * size
    else:
        short = leg.contracts < 0.0
        rate = rule["short_option_rate" if short else "long_option_rate"]
        size = abs(leg.size) * leg.index
        value = rate * size
        if not short:
            value = min(value, leg.size * model_price(leg) * leg.index)
    return {"instrument_id": leg.instrument_id, "rate": rate, "size": size, "value": value}


def mr7(unit: Unit, numbers: Numbers) -> Charge:
    """MR7 minimum charge, USD: gross over derivative legs, spot free, marginal multiplier.

    `raw = sum rate * size`; `MR7 = sum over tiers of the slice of raw times the multiplier`.

    Source: section 6; [D: V1, V3], [P: V4] short options, long options and gross [A].
    Example: 9,704.90 USD of BTC perpetual x 0.45 % = 43.67 USD, multiplier 1 (V1); raw 30,000 in
    the tiers until 2025-01-15: 50,000 (V5).
    """
    legs = [mr7_leg(leg, unit.group, numbers) for leg in unit.legs]
    raw = float(sum(leg["value"] for leg in legs))
    tiers = numbers["mr7"]["tiers"][unit.group]
    slices = marginal_tiers(raw, tiers["bounds_usd"], tiers["multipliers"])
    return Charge(
        float(sum(part["value"] for part in slices)), {"legs": legs, "raw": raw, "tiers": slices}
    )


def borrow_rates(liability: float, index: float, currency: str, numbers: Numbers) -> dict[str, Any]:
    """Tier rates `mmr` and `imr` of a liability (units of its currency, positive).

    Above the last bound the rates grow by `tail_rate_step` for every `tail_step` (linear tail) or
    every factor `tail_ratio` (doubling tail) begun.

    Example:
        BTC 105 coins: 10 % / 20 %; 106 coins: 11 % / 21 %; 141 coins: 12 % / 22 %.
    """
    tiers = numbers["mr8"]["tiers"]
    tier = tiers.get(currency, tiers["default"])
    amount = liability * index if tier["unit"] == "usd" else liability
    for bound, mmr, imr in zip(tier["bounds"], tier["mmr"], tier["imr"], strict=True):
        if amount <= bound:
            return {"mmr": mmr, "imr": imr, "amount": amount, "unit": tier["unit"]}
    steps = _tail_steps(amount, tier) * tier["tail_rate_step"]
    mmr, imr = tier["mmr"][-1] + steps, tier["imr"][-1] + steps
    return {"mmr": mmr, "imr": imr, "amount": amount, "unit": tier["unit"]}


def _tail_steps(amount: float, tier: dict[str, Any]) -> int:
    """Number of tail tiers begun above the last bound."""
    last = tier["bounds"][-1]
    if tier["tail_step"] > 0.0:
        return math.ceil((amount - last) / tier["tail_step"])
    if tier["tail_ratio"] <= 1.0:
        return 0
    steps = 0
    while amount > last:
        last *= tier["tail_ratio"]
        steps += 1
    return steps


def mr8(
    equities: dict[str, float],
    indexes: dict[str, float],
    numbers: Numbers,
    outgoing: dict[str, float] | None = None,
) -> Charge:
    """MR8 borrowing of the account, USD: `sum tierMMR_c(liab_c) liab_c S_c`.

    `liab_c = max(0, out_c - equity_c)`: debts, unrealised losses included, and what the orders
    would have to borrow; the whole liability takes the rate of the tier it falls in. The detail
    holds `imr` (the same with tierIMR) and `fee`, `sum liab_usd (1 + tierMMR) 0.1 %`, both USD.

    Args:
        equities: Equity by currency, in its units, negative for a debt.
        indexes: USD per unit of every currency in `equities` and `outgoing`.
        numbers: The parameter set.
        outgoing: `out_c`, what open orders pay out in auto-borrow mode; none otherwise.

    Source: section 6, [D: V1] USDT tier 1, [P] BTC, others [A]; orders [A].
    Example: 78,589.37 USDT owed at 0.99954: 2 % = 1,571.06 USD, IMR 10 % = 7,855.32 USD (V1).
    """
    out = outgoing or {}
    rows: dict[str, dict[str, Any]] = {}
    for currency in sorted({*equities, *out}):
        liability = out.get(currency, 0.0) - equities.get(currency, 0.0)
        if liability > 0.0:
            rates = borrow_rates(liability, indexes[currency], currency, numbers)
            usd = liability * indexes[currency]
            rows[currency] = {"liability": liability, "liability_usd": usd, **rates}
    fee_rate = numbers["mr8"]["fee_rate"]
    detail = {
        "liabilities": rows,
        "outgoing": out,
        "imr": float(sum(row["imr"] * row["liability_usd"] for row in rows.values())),
        "fee": sum(row["liability_usd"] * (1.0 + row["mmr"]) for row in rows.values()) * fee_rate,
        "fee_rate": fee_rate,
    }
    return Charge(float(sum(row["mmr"] * row["liability_usd"] for row in rows.values())), detail)


def depeg_rate(tier: int, index: float, numbers: Numbers) -> float:
    """MR9 rate of size tier `tier` (1, 2, ...) at a pair index, a fraction.

    At and above the calm index `0.5 % * tier`; at and below the stress index `base + offset`;
    linear between; never above the cap. An index above 1 is measured by its inverse.

    Example:
        Tier 2 at 0.985: halfway between 1 % and 2.5 %, 1.75 % (V6).
    """
    rule = numbers["mr9"]
    level = min(index, 1.0 / index)
    calm, stress = rule["calm_index"], rule["stress_index"]
    calm_rate = rule["calm_rate_step"] * tier
    base = float(np.interp(min(level, stress), rule["base_index"], rule["base_rate"]))
    stress_rate = base + rule["size_offset"][tier - 1]
    weight = min(max((level - stress) / (calm - stress), 0.0), 1.0)
    return min(rule["max_rate"], stress_rate + weight * (calm_rate - stress_rate))


def settlement_groups(unit: Unit, numbers: Numbers) -> dict[str, float]:
    """Net cash delta in USD by settlement group; inverse contracts and options count as USD."""
    groups = dict.fromkeys(numbers["quote_currencies"], 0.0)
    for leg in unit.legs:
        groups["USD" if leg.style == "inverse" else leg.settle] += leg_cash(leg)
    return groups


def mr9(unit: Unit, indexes: dict[str, float], numbers: Numbers) -> Charge:
    """MR9 stablecoin depeg, USD: one coin long in one settlement currency, short in another.

    Pairs in their order: `hedged = min(|a|, |b|)` if the signs oppose, taken off both before the
    next pair; the charge is the marginal tier charge of every hedged amount. Spot takes no part.

    Source: section 6, [P, V6]; size bounds above 10M and the offsets [A].
    Example: 10M USD hedged at index 0.985: 1M x 0.75 % + 4M x 1.75 % + 5M x 2.5 % = 202,500 (V6).
    """
    rule = numbers["mr9"]
    groups = settlement_groups(unit, numbers)
    left, pairs = dict(groups), []
    for one, other in rule["pairs"] if rule["enabled"] else []:
        if left[one] * left[other] >= 0.0:
            continue
        hedged = min(abs(left[one]), abs(left[other]))
        for currency in (one, other):
            left[currency] -= math.copysign(hedged, left[currency])
        index = indexes[one] / indexes[other]
        pair = mr9_pair(hedged, index, numbers)
        pairs.append({"pair": f"{one}-{other}", "hedged": hedged, "index": index, **pair})
    total = sum(pair["value"] for pair in pairs)
    return Charge(float(total), {"groups": groups, "pairs": pairs})


def mr9_pair(hedged: float, index: float, numbers: Numbers) -> dict[str, Any]:
    """Marginal charge in USD of a hedged amount at a pair index: `tiers` and `value`."""
    bounds = numbers["mr9"]["bounds_usd"]
    rates = [depeg_rate(tier + 1, index, numbers) for tier in range(len(bounds) + 1)]
    tiers = marginal_tiers(hedged, bounds, rates)
    return {"tiers": tiers, "value": sum(part["value"] for part in tiers)}


def discounted(equity: float, index: float, currency: str, numbers: Numbers) -> dict[str, Any]:
    """Equity of a currency as collateral, USD: positive by discount tiers, negative in full.

    Source: section 7, BTC tiers [P, V8]; ETH and stablecoins [A]; beyond the last bound 0.
    Example: 110 BTC count as 106.3625 BTC (V8).
    """
    if equity <= 0.0:
        return {"tiers": [], "value": equity * index}
    table = numbers["collateral"].get(currency, numbers["collateral"]["default"])
    unit_value = index if table["unit"] == "coin" else 1.0
    amount = equity if table["unit"] == "coin" else equity * index
    tiers = marginal_tiers(amount, table["bounds"], table["rates"])
    value = sum(part["value"] for part in tiers) * unit_value
    return {"tiers": tiers, "unit": table["unit"], "value": value}
