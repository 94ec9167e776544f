"""The stress grid of one risk unit: 11 prices by 3 volatility states, and the worst loss.

PnL in USD, positive for a gain; a move of 0.04 is +4 %. Symbols as in `bybit_legs`.

Assumed where the rule text is silent:

* the PnL of an inverse contract, coins at the shocked mark revalued at the shocked index, is
  `n m (1/P - 1/(P(1 + x))) S (1 + x) = n m x S / P`, linear in the move;
* an option settled in the coin is worth `c S` in USD, `c` the Black-76 price over the forward:
  published mark at the index, model price at the index moved as its forward (`option_pnl =
  "usd_shocked"`) or at the current one (`"coin"`);
* the spot hedge is taken against equity of the coin (option value and unrealised PnL in the coin
  included), within the user's limit on spot where the portfolio has one;
* shocked volatility is not negative.
"""

import math
from dataclasses import dataclass
from typing import Any

from backtest.reference import black76
from backtest.reference.bybit_legs import SECONDS_PER_DAY, Leg
from backtest.reference.okx_charges import Charge, Numbers


VOL_STATES = ("down", "same", "up")


@dataclass(frozen=True)
class Unit:
    """One risk unit: the derivatives of a coin and the coins of spot that hedge them (signed)."""

    name: str
    index: float
    legs: list[Leg]
    spot_in_use: float

    @property
    def options(self) -> list[Leg]:
        """The option legs."""
        return [leg for leg in self.legs if leg.is_option]


def of_coin(table: dict[str, float], coin: str) -> float:
    """The number of a coin, `default` for a coin that is not named."""
    return table.get(coin, table["default"])


def spot_in_use(
    legs: list[Leg], coin: str, equity: float, limit: float | None, numbers: Numbers
) -> float:
    """Coins of spot that hedge the derivatives of their unit, signed as the spot.

    With `D` the net delta of the derivatives and `E` the equity of the coin (negative = debt),
    opposite in sign: `min(|E|, |D|, limit)`; otherwise, and for a coin that is not eligible, 0.

    Example:
        A debt of 0.001 BTC against 0.0443 coins of delta: -0.001 (B1).
    """
    rule = numbers["spot_hedge"]
    net = sum(leg.delta for leg in legs)
    if not rule["enabled"] or coin not in rule["coins"] or equity * net >= 0.0:
        return 0.0
    size = min(abs(equity), abs(net), math.inf if limit is None else limit)
    return math.copysign(size, equity)


def price_moves(coin: str, numbers: Numbers) -> list[float]:
    """Price moves of the grid, from the lowest to the highest: range times step.

    Example:
        BTC since 2025-01-10: -0.10, -0.08, ..., 0.10.
    """
    grid = numbers["grid"]
    return [of_coin(grid["price_range"], coin) * step for step in grid["price_steps"]]


def expiry_share(leg: Leg, numbers: Numbers) -> float:
    """Share of the shock that an option still takes, `seconds left / 1,800` at the very end.

    Source: stress grid, [S].
    Example: 900 seconds before expiry 0.5, so 15 % becomes 7.5 %.
    """
    window = numbers["grid"]["near_expiry"]["window"] * SECONDS_PER_DAY
    return min(1.0, leg.seconds_left / window) if window > 0.0 else 1.0


def shocked_sigma(leg: Leg, state: str, numbers: Numbers) -> float:
    """Volatility in a state: `IV (1 + up (30/D)^0.30)`, `IV (1 - down (30/D)^0.30)`, `IV`.

    `D` is the number of days left, rounded up, at least 1; the shock shrinks in the last seconds
    only where `near_expiry.scale_volatility` says so.

    Source: stress grid, [D: B1].
    Example: 186 days, up: 1 + 0.24 x (30/186)^0.30 = 1.1389.
    """
    if state == "same":
        return leg.sigma
    rule = numbers["grid"]["volatility"]
    days = max(float(math.ceil(leg.seconds_left / SECONDS_PER_DAY)), rule["min_days"])
    size = (rule["reference_days"] / days) ** rule["exponent"]
    size *= rule["up"] if state == "up" else -rule["down"]
    if numbers["grid"]["near_expiry"]["scale_volatility"]:
        size *= expiry_share(leg, numbers)
    return max(0.0, leg.sigma * (1.0 + size))


def option_pnl(leg: Leg, move: float, state: str, numbers: Numbers) -> float:
    """PnL of an option against its published mark, USD.

    Settled in a quote currency: `n m (Black76(F (1 + x), K, IV', T) - P) fx`. Settled in the
    coin: `n m (c' (1 + x) - P) S`, or without the factor `1 + x`, see the module.

    Source: stress grid, [D: B1, to 5e-9 USD]; coin-settled [A].
    """
    own_move = move * expiry_share(leg, numbers)
    forward = leg.forward * (1.0 + own_move)
    sigma = shocked_sigma(leg, state, numbers)
    coins = black76.coin_price(leg.option_type, forward, leg.strike, sigma, leg.years)
    if not leg.coin_settled:
        return leg.size * (coins * forward - leg.mark) * leg.fx
    choice = numbers["option_pnl"]
    if choice not in ("usd_shocked", "coin"):
        raise ValueError(f"option_pnl is {choice!r}; allowed: usd_shocked, coin")
    index_move = own_move if choice == "usd_shocked" else 0.0
    return leg.size * (coins * (1.0 + index_move) - leg.mark) * leg.index


def linear_pnl(leg: Leg, move: float) -> float:
    """PnL of a perpetual or future, USD: linear `n m P x fx` (mark price, not index).

    Inverse: `n m (1/P - 1/(P (1 + x)))` coins at the shocked index `S (1 + x)`.

    Source: stress grid, linear [D: B1], inverse [A].
    """
    if leg.style == "inverse":
        coins = leg.size * (1.0 / leg.mark - 1.0 / (leg.mark * (1.0 + move)))
        return coins * leg.index * (1.0 + move)
    return leg.size * leg.mark * move * leg.fx


def spot_pnl(unit: Unit, move: float) -> float:
    """Gain of the spot hedge, USD: `h S x`, 0 where it loses.

    Source: stress grid, [D: B1].
    """
    return max(0.0, unit.spot_in_use * unit.index * move)


def max_loss(unit: Unit, numbers: Numbers) -> Charge:
    """Worst loss over the grid, USD: `max(0, -min_x ALL(x))`.

    `ALL(x) = linear(x) + min over volatility states of options(x, v) + spot(x)`, the state common
    to all options of the unit.

    Source: stress grid, [P] scenarios, [D: B1] sums.
    """
    cells: list[dict[str, Any]] = []
    prices: list[dict[str, Any]] = []
    for move in price_moves(unit.name, numbers):
        row: list[dict[str, Any]] = [
            {
                "price_move": move,
                "vol": state,
                "pnl": sum((option_pnl(leg, move, state, numbers) for leg in unit.options), 0.0),
            }
            for state in VOL_STATES
        ]
        worst = min(row, key=lambda cell: (cell["pnl"], cell["vol"] != "same"))
        linear = sum((linear_pnl(leg, move) for leg in unit.legs if not leg.is_option), 0.0)
        spot = spot_pnl(unit, move)
        prices.append(
            {
                "price_move": move,
                "linear": linear,
                "options": worst["pnl"],
                "spot": spot,
                "vol": worst["vol"],
                "all": linear + worst["pnl"] + spot,
            }
        )
        cells += row
    worst_price = min(prices, key=lambda price: (price["all"], abs(price["price_move"])))
    shocks = [
        {
            "instrument_id": leg.instrument_id,
            "sigma": leg.sigma,
            "price_share": expiry_share(leg, numbers),
            **{state: shocked_sigma(leg, state, numbers) for state in ("down", "up")},
        }
        for leg in unit.options
    ]
    detail = {"cells": cells, "prices": prices, "worst": worst_price, "volatilities": shocks}
    return Charge(max(0.0, -worst_price["all"]), detail)
