"""The charges of one risk unit that come from moving the market: MR1 ... MR6.

Each function takes a unit and the numbers of a parameter set and gives a `Charge`: the margin in
USD (never negative) and what it was made of. PnL is positive for a gain. Symbols as in `okx_legs`;
`delta` is the USD delta in coins, `cash` the mark-based cash delta in USD.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from backtest.reference import black76
from backtest.reference.okx_legs import Leg


Numbers = dict[str, Any]
VOL_STATES = ("down", "same", "up")


class Charge(NamedTuple):
    """A charge in USD, `value >= 0`, and its make-up for `explain`."""

    value: float
    detail: dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """One risk unit: the derivatives of a coin and the spot of it that is in use (coins)."""

    name: str
    group: str
    index: float
    legs: list[Leg]
    spot_in_use: float

    @property
    def options(self) -> list[Leg]:
        """The option legs."""
        return [leg for leg in self.legs if leg.is_option]


def group_of(coin: str, numbers: Numbers) -> str:
    """Asset group of a coin: `G1`, `G2`, or `G3` for every coin that is not listed."""
    return next((g for g, coins in numbers["groups"].items() if coin in coins), "G3")


def option_price(leg: Leg, *, forward: float, sigma: float, days: float) -> float:
    """`c` in coins for one coin of an option leg under given market data."""
    years = days / black76.DAYS_PER_YEAR
    return black76.coin_price(leg.option_type, forward, leg.strike, sigma, years)


def model_price(leg: Leg) -> float:
    """`c` at the mark volatility and the forward of the leg, coins."""
    return option_price(leg, forward=leg.forward, sigma=leg.sigma, days=leg.days)


def leg_delta(leg: Leg) -> float:
    """USD delta in coins: linear `n m`, inverse `n m / P`, option `n m N(d1)`, put `- n m`."""
    if leg.is_option:
        return leg.size * black76.delta_bs(
            leg.option_type, leg.forward, leg.strike, leg.sigma, leg.years
        )
    return leg.size / leg.mark if leg.style == "inverse" else leg.size


def leg_delta_pa(leg: Leg) -> float:
    """As `leg_delta`, options premium adjusted (`n m (N(d1) - c)`): what spot is held against."""
    return leg_delta(leg) - (leg.size * model_price(leg) if leg.is_option else 0.0)


def leg_cash(leg: Leg) -> float:
    """Cash delta in USD: linear `n m P fx`, inverse `n m`, option `delta S`.

    Example:
        -10 contracts of 0.01 BTC at 97,093.7 USDT, fx 0.99954: -9,704.9037 USD (V1).
    """
    if leg.is_option:
        return leg_delta(leg) * leg.index
    return leg.size if leg.style == "inverse" else leg.size * leg.mark * leg.fx


def spot_in_use(legs: list[Leg], equity: float, limit: float | None) -> float:
    """Coins of spot that offset the derivatives of their unit (section 3), signed as the spot.

    With `D` the net premium-adjusted delta of the derivatives and `E` the equity of the coin:
    `E > 0 > D`: `+min(|E|, |D|, lim)`; `E < 0 < D`: `-min(|E|, |D|, lim)`; otherwise 0.

    Example:
        10 coins of spot against -4 coins of perpetual: +4.
    """
    net = sum(leg_delta_pa(leg) for leg in legs)
    if equity * net >= 0.0:
        return 0.0
    size = min(abs(equity), abs(net), math.inf if limit is None else limit)
    return math.copysign(size, equity)


def vol_shock(sigma: float, days: float, numbers: Numbers) -> float:
    """Size of the MR1 volatility shock in points (0.30 = 30), from the time to expiry.

    Nodes `days -> points` and `days -> percent of sigma`, linear between them and flat outside;
    `combine` takes the points, the percent, or the larger or smaller of the nodes that exist.

    Example:
        45 days with nodes 30 d -> 0.20, 60 d -> 0.15: 0.175.
    """
    nodes = numbers["mr1"]["volatility"]
    found = {}
    if nodes["points_days"]:
        found["points"] = float(np.interp(days, nodes["points_days"], nodes["points"]))
    if nodes["percent_days"]:
        share = float(np.interp(days, nodes["percent_days"], nodes["percent"]))
        found["percent"] = share * sigma
    combine = nodes["combine"]
    if combine in ("max", "min"):
        return (max if combine == "max" else min)(found.values(), default=0.0)
    if combine not in ("points", "percent"):
        raise ValueError(
            f"mr1.volatility.combine is {combine!r}; allowed: points, percent, max, min"
        )
    return found.get(combine, 0.0)


def shocked_sigma(leg: Leg, state: str, numbers: Numbers) -> float:
    """Volatility in a state of MR1: `sigma -+ shock`, not below the floor; `same` is untouched."""
    if state == "same":
        return leg.sigma
    shock = vol_shock(leg.sigma, leg.days, numbers)
    moved = leg.sigma + (shock if state == "up" else -shock)
    return max(moved, numbers["mr1"]["volatility"]["floor"])


def leg_pnl(leg: Leg, move: float, state: str, numbers: Numbers) -> float:
    """PnL in USD of a leg when index and forward move by `move` (0.04 = +4 %).

    Futures and perpetuals `delta S x`. Option, `option_pnl = "usd_shocked"`:
    `n m (c' S (1 + x) - c S)`; `"coin"`: `n m (c' - c) S`.
    """
    if not leg.is_option:
        return leg_delta(leg) * leg.index * move
    base = model_price(leg)
    moved = option_price(
        leg,
        forward=leg.forward * (1.0 + move),
        sigma=shocked_sigma(leg, state, numbers),
        days=leg.days,
    )
    if numbers["option_pnl"] == "coin":
        return leg.size * (moved - base) * leg.index
    if numbers["option_pnl"] != "usd_shocked":
        raise ValueError(f"option_pnl is {numbers['option_pnl']!r}; allowed: usd_shocked, coin")
    return leg.size * (moved * (1.0 + move) - base) * leg.index


def unit_pnl(unit: Unit, move: float, state: str, numbers: Numbers) -> float:
    """PnL in USD of a unit: its legs and its spot in use, `spot S x`."""
    spot = unit.spot_in_use * unit.index * move
    return spot + sum(leg_pnl(leg, move, state, numbers) for leg in unit.legs)


def mr1(unit: Unit, numbers: Numbers) -> Charge:
    """MR1 spot x volatility shock, USD: worst loss over 7 prices x 3 volatilities.

    `max(0, -min PnL(x, v))`; the volatility state is common to all options of the unit.

    Source: rule text section 6, [S]; prices [P], volatility nodes beyond the first [A].
    Example: -0.1 BTC of perpetual at index 97,034.24 USD, +12 %: 1,164.41 USD (V1).
    """
    sizes = numbers["mr1"]["price_moves"][unit.group]
    moves = sorted({sign * size + 0.0 for size in sizes for sign in (-1.0, 1.0)})
    cells: list[dict[str, Any]] = [
        {"price_move": move, "vol": state, "pnl": unit_pnl(unit, move, state, numbers)}
        for move in moves
        for state in VOL_STATES
    ]
    worst = min(cells, key=_mr1_order)
    shocks = [
        {
            "instrument_id": leg.instrument_id,
            "sigma": leg.sigma,
            **{state: shocked_sigma(leg, state, numbers) for state in ("down", "up")},
        }
        for leg in unit.options
    ]
    detail = {"cells": cells, "worst": worst, "volatilities": shocks}
    return Charge(max(0.0, -worst["pnl"]), detail)


def _mr1_order(cell: dict[str, Any]) -> tuple[float, bool, float]:
    """The worst cell first; among equals unchanged volatility, then the smaller move."""
    return cell["pnl"], cell["vol"] != "same", abs(cell["price_move"])


def mr2(unit: Unit, numbers: Numbers) -> Charge:
    """MR2 theta, USD: what the options lose when a day passes.

    `max(0, sum n m (V(T) - V(T - 1 day)))`, price and volatility unchanged; with a day or less
    left the later value is the intrinsic one on the forward.

    Source: section 6, [S]; the floor at 0 is [A].
    """
    days = numbers["mr2"]["days"]
    legs = []
    for leg in unit.options:
        later = option_price(
            leg, forward=leg.forward, sigma=leg.sigma, days=max(0.0, leg.days - days)
        )
        loss = leg.size * (model_price(leg) - later) * leg.index
        legs.append({"instrument_id": leg.instrument_id, "loss": loss})
    return Charge(max(0.0, sum(leg["loss"] for leg in legs)), {"days": days, "legs": legs})


def mr3(unit: Unit, numbers: Numbers) -> Charge:
    """MR3 vega term structure, USD: vega of one expiry hedged with another.

    `w_e = vega_e sqrt(30 / max(days_e, 1))`, `vega_e = sum n m S phi(d1) sqrt(T)` (USD for 1.00 of
    volatility); `MR3 = rate (sum |w_e| - |sum w_e|) / 2`.

    Source: section 6, formula [A]; zero with one expiry [P: V4].
    """
    rule = numbers["mr3"]
    vegas: dict[str, dict[str, float]] = {}
    for leg in unit.options:
        row = vegas.setdefault(_expiry_name(leg), {"days": leg.days, "vega": 0.0})
        row["vega"] += leg.size * black76.vega_bs(
            leg.forward, leg.strike, leg.sigma, leg.years, leg.index
        )
    for row in vegas.values():
        scale = math.sqrt(rule["reference_days"] / max(row["days"], rule["min_days"]))
        row["weighted"] = row["vega"] * scale
    weights = [row["weighted"] for row in vegas.values()]
    hedged = max(0.0, (sum(map(abs, weights)) - abs(sum(weights))) / 2.0)
    detail = {"expiries": vegas, "hedged": hedged, "rate": rule["rate"]}
    return Charge(rule["rate"] * hedged, detail)


def mr4(unit: Unit, numbers: Numbers) -> Charge:
    """MR4 basis, USD: the buckets of the unit move apart.

    `sum_b |d_b| max(near, annual T_b)`, `d_b` the net cash delta of spot in use, of all perpetuals
    and of each expiry (futures and options together); `T = 0` for spot and perpetuals.

    Source: section 6, [D: V1, V3]; the maximum and the buckets [A].
    Example: -9,704.90 USD of perpetual x 0.2 % = 19.41 USD (V1).
    """
    rule = numbers["mr4"]
    buckets: dict[str, dict[str, float]] = {}
    if rule["charge_spot"] and unit.spot_in_use != 0.0:
        spot = unit.spot_in_use * unit.index
        buckets["spot"] = {"years": 0.0, "cash_delta": spot}
    for leg in unit.legs:
        charged = {
            "perpetual": rule["charge_perpetuals"],
            "option": rule["charge_options"],
            "future": True,
        }
        if charged[leg.kind]:
            name = "perpetuals" if leg.kind == "perpetual" else _expiry_name(leg)
            row = buckets.setdefault(name, {"years": leg.years, "cash_delta": 0.0})
            row["cash_delta"] += leg_cash(leg)
    near, annual = rule["near"][unit.group], rule["annual"][unit.group]
    for row in buckets.values():
        row["move"] = max(near, annual * row["years"])
        row["charge"] = abs(row["cash_delta"]) * row["move"]
    total = sum(row["charge"] for row in buckets.values())
    return Charge(float(total), {"near": near, "annual": annual, "buckets": buckets})


def mr5(unit: Unit, numbers: Numbers) -> Charge:
    """MR5 interest rate, USD: the forward curve of the options turns about the index.

    `r(T) = ln(F/S)/T`, `dr = +-p +- s (1 - 2 min(T / 1 year, 1))`, `F' = S exp((r + dr) T)`,
    which is `F exp(dr T)`; `MR5 = max(0, -min over the 4 sign pairs)` of `n m (c' - c) S`.

    Source: section 6, two factors [S], their sizes and shapes [A].
    """
    rule = numbers["mr5"]
    cells = []
    for parallel in (-rule["parallel"], rule["parallel"]):
        for slope in (-rule["slope"], rule["slope"]):
            pnl = 0.0
            for leg in unit.options:
                tilt = 1.0 - 2.0 * min(leg.years / rule["slope_span_years"], 1.0)
                forward = leg.forward * math.exp((parallel + slope * tilt) * leg.years)
                moved = option_price(leg, forward=forward, sigma=leg.sigma, days=leg.days)
                pnl += leg.size * (moved - model_price(leg)) * leg.index
            cells.append({"parallel": parallel, "slope": slope, "pnl": pnl})
    worst = min(cells, key=lambda cell: cell["pnl"])
    return Charge(max(0.0, -worst["pnl"]), {"cells": cells, "worst": worst})


def mr6(unit: Unit, numbers: Numbers) -> Charge:
    """MR6 extreme move, USD: half of the worst loss at plus or minus `X`.

    `0.5 max(0, -min(PnL(+X), PnL(-X)))`, volatility unchanged, `X` twice the largest MR1 move.

    Source: section 6, [D: V1, half].
    Example: -0.1 BTC at 97,034.24 USD, X = 24 %: 0.5 x 2,328.82 = 1,164.41 USD (V1).
    """
    rule = numbers["mr6"]
    extreme = rule["extreme_move"][unit.group]
    cells = [
        {"price_move": move, "pnl": unit_pnl(unit, move, "same", numbers)}
        for move in (-extreme, extreme)
    ]
    worst = min(cells, key=lambda cell: cell["pnl"])
    detail = {"cells": cells, "worst": worst, "factor": rule["factor"]}
    return Charge(rule["factor"] * max(0.0, -worst["pnl"]), detail)


def _expiry_name(leg: Leg) -> str:
    """Expiry time of a dated leg as ISO text, the name of its bucket."""
    return leg.expiry.isoformat() if leg.expiry else "perpetuals"
