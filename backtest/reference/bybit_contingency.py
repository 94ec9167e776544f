"""The five contingency components of one risk unit, USD, each >= 0.

They are added to the worst loss of the grid. `delta` and `vega` are in coins, see `bybit_legs`.

Assumed where the rule text is silent:

* the delta of an option is `N(d1)` (put `N(d1) - 1`), not premium adjusted, however it settles;
* a settlement family is the quote currency that a contract pays in; inverse contracts and options
  settled in the coin are in the family USD;
* expiries are told apart by their time, then counted in floored days;
* the price of a leg in the basis is its mark in USD (`P fx`, inverse `P`), of an option its
  forward in USD (`F fx` where it settles in a quote currency);
* size tiers of perpetuals and futures are marginal, in USD of gross size of the unit.
"""

from typing import Any, NamedTuple

from backtest.reference.bybit_grid import Unit, of_coin
from backtest.reference.bybit_legs import Leg
from backtest.reference.okx_charges import Charge, Numbers
from backtest.reference.okx_fees import marginal_tiers


class Sides(NamedTuple):
    """Two sides of a calendar spread: hedged amount in coins and the average days apart."""

    hedged: float
    day_difference: float
    detail: dict[str, Any]


def sides(buckets: dict[str, dict[str, float]]) -> Sides:
    """Split buckets `{name: {"days", "amount"}}` into a long and a short side.

    `hedged` is the smaller side; the days of a side are the average of its buckets, weighted by
    amount; one side alone hedges nothing.

    Example:
        0.044327 coins long at 26.4 days on average, 0.001 short at 0 days: 0.001 over 26.4 days.
    """
    found: dict[str, dict[str, float]] = {}
    for name, sign in (("long", 1.0), ("short", -1.0)):
        rows = [row for row in buckets.values() if sign * row["amount"] > 0.0]
        amount = sum((sign * row["amount"] for row in rows), 0.0)
        days = sum((sign * row["amount"] * row["days"] for row in rows), 0.0)
        found[name] = {"amount": amount, "days": days / amount if amount > 0.0 else 0.0}
    hedged = min(found["long"]["amount"], found["short"]["amount"])
    difference = abs(found["long"]["days"] - found["short"]["days"]) if hedged > 0.0 else 0.0
    return Sides(hedged, difference, {"buckets": buckets, **found})


def short_options(unit: Unit, numbers: Numbers) -> Charge:
    """Short options, USD: `net short options * coefficient * index`.

    Calls and puts are netted apart, each over all strikes and expiries of the unit.

    Source: contingency, formula [S], netting and coefficient [A].
    Example: a put spread of equal size: 0.
    """
    rate = numbers["contingency"]["short_option_rate"]
    net = {
        kind: sum((leg.size for leg in unit.options if leg.option_type == kind), 0.0)
        for kind in ("C", "P")
    }
    short = sum(max(0.0, -size) for size in net.values())
    return Charge(short * rate * unit.index, {"net": net, "short": short, "rate": rate})


def vega_spread(unit: Unit, numbers: Numbers) -> Charge:
    """Vega spread, USD: `day difference * hedged vega * factor * index`.

    Buckets are expiries, `vega` in coins for 1.00 of volatility.

    Source: contingency, formula [S], factor [A].
    Example: 2 coins long at 30 days, 1 short at 10: 20 x 1 x 0.05 % x index.
    """
    rate = numbers["contingency"]["vega_spread_rate"]
    buckets: dict[str, dict[str, float]] = {}
    for leg in unit.options:
        _put(buckets, _bucket(leg), leg.whole_days, leg.vega)
    split = sides(buckets)
    value = split.day_difference * split.hedged * rate * unit.index
    hedge = {"hedged": split.hedged, "day_difference": split.day_difference}
    return Charge(value, {**split.detail, **hedge, "rate": rate})


def stablecoin_spread(unit: Unit, numbers: Numbers) -> Charge:
    """USDT-USDC-USD spread, USD: one coin long in one currency and short in another.

    `(sum_g |delta_g| - |sum_g delta_g|) / 2 * factor * index` over settlement families, options
    in, spot hedge out.

    Source: contingency, formula [S], factor [A].
    Example: 1 coin long in USDT, 0.4 short in USDC at 60,000: 0.4 x 1 % x 60,000 = 240.
    """
    rate = numbers["contingency"]["stablecoin_spread_rate"]
    deltas = dict.fromkeys(numbers["quote_currencies"], 0.0)
    for leg in unit.legs:
        family = "USD" if leg.coin_settled else leg.settle
        deltas[family] = deltas.get(family, 0.0) + leg.delta
    hedged = max(0.0, (sum(map(abs, deltas.values())) - abs(sum(deltas.values()))) / 2.0)
    return Charge(hedged * rate * unit.index, {"deltas": deltas, "hedged": hedged, "rate": rate})


def delta_spread(unit: Unit, numbers: Numbers) -> Charge:
    """Delta spread, USD: calendar and spot basis.

    Calendar: net delta of spot (0 days), perpetuals (0 days) and each expiry (days floored), spot
    and perpetuals apart: `day difference * hedged delta * index * 0.03 %`.

    Source: contingency, [S]; buckets [D: B1].
    """
    rate = numbers["contingency"]["calendar_rate"]
    buckets: dict[str, dict[str, float]] = {}
    if unit.spot_in_use != 0.0:
        _put(buckets, "spot", 0.0, unit.spot_in_use)
    for leg in unit.legs:
        _put(buckets, _bucket(leg), leg.whole_days, leg.delta)
    split = sides(buckets)
    calendar = split.day_difference * split.hedged * unit.index * rate
    basis = spot_basis(unit, numbers)
    detail = {
        **split.detail,
        "hedged": split.hedged,
        "day_difference": split.day_difference,
        "rate": rate,
        "calendar": calendar,
        "spot_basis": basis.detail,
    }
    return Charge(calendar + basis.value, detail)


def spot_basis(unit: Unit, numbers: Numbers) -> Charge:
    """Spot basis part of the delta spread, USD, of the spot that hedges.

    `hedged spot USD * min(max(weighted basis, 5 %) * basis factor, cap)`: weighted basis the
    average of `|price / index - 1|` over the legs opposite to the hedge, weights `|delta|`; cap
    0.94 x the coin's collateral ratio.

    Source: contingency, factor and threshold [S], cap [D: B1], floor and form of the cap [A].
    Example: 70.50 USD hedged far above the cap of 0.94 x 0.85: 56.33 USD (B1).
    """
    if unit.spot_in_use == 0.0:
        return Charge(0.0, {"hedged_usd": 0.0, "value": 0.0})
    rule = numbers["contingency"]["spot_basis"]
    # By sign: the product of a tiny delta and a tiny spot is zero.
    side = -1.0 if unit.spot_in_use > 0.0 else 1.0
    opposite = [leg for leg in unit.legs if leg.delta * side > 0.0]
    weight = sum(abs(leg.delta) for leg in opposite)
    basis = sum(abs(leg.delta) * abs(_price_usd(leg) / unit.index - 1.0) for leg in opposite)
    basis = basis / weight if weight > 0.0 else 0.0
    used = _used_basis(basis, rule)
    factor = of_coin(rule["factor"], unit.name)
    collateral = numbers["collateral"]
    ratio = collateral.get(unit.name, collateral["default"])["rates"][0]
    cap = rule["cap_share"] * ratio
    hedged_usd = abs(unit.spot_in_use) * unit.index
    value = hedged_usd * min(used * factor, cap)
    detail = {
        "hedged_usd": hedged_usd,
        "weighted_basis": basis,
        "used_basis": used,
        "factor": factor,
        "collateral_ratio": ratio,
        "cap": cap,
        "value": value,
    }
    return Charge(value, detail)


def perpetual_futures(unit: Unit, numbers: Numbers) -> Charge:
    """Perpetuals and futures, USD: `sum |size| * factor * index`, gross.

    Size in coins, of inverse contracts `n m / P`; marginal size tiers where the set has them.

    Source: contingency, formula [S], factor [D: B1].
    Example: 0.038 coins at index 70,500.40 USD: 0.80370 USD (B1).
    """
    rule = numbers["contingency"]["perpetual_futures"]
    gross = sum((abs(leg.delta) for leg in unit.legs if not leg.is_option), 0.0) * unit.index
    tiers = marginal_tiers(gross, rule["bounds_usd"], rule["rates"])
    value = float(sum(part["value"] for part in tiers))
    return Charge(value, {"gross_usd": gross, "tiers": tiers})


def _used_basis(basis: float, rule: dict[str, Any]) -> float:
    """Basis that is charged: at least the threshold, or none up to the threshold (`gate`)."""
    threshold, choice = rule["threshold"], rule["threshold_rule"]
    if choice == "floor":
        return max(basis, threshold)
    if choice != "gate":
        raise ValueError(f"threshold_rule is {choice!r}; allowed: floor, gate")
    return basis if basis > threshold else 0.0


def _price_usd(leg: Leg) -> float:
    """Price of one coin through the leg, USD."""
    price = leg.forward if leg.is_option else leg.mark
    return price if leg.coin_settled else price * leg.fx


def _bucket(leg: Leg) -> str:
    """Name of the calendar bucket of a leg: its expiry time as ISO text, or `perpetuals`."""
    return leg.expiry.isoformat() if leg.expiry else "perpetuals"


def _put(buckets: dict[str, dict[str, float]], name: str, days: float, amount: float) -> None:
    row = buckets.setdefault(name, {"days": days, "amount": 0.0})
    row["amount"] += amount
