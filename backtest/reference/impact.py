"""What liquidations do to prices: move, decay, and the fixed point of the two in one time step.

Quantities are USD of cash delta that was traded, positive for buying; moves are fractions of the
price with the same sign. Impact is off by default, and then every number is what it is without.

Assumed where the sources are silent: the mark moves and the index does not (`impact.moves_index`);
forwards move with the marks, options are revalued at their volatility; a move decays by half in
`impact.half_life_days` and is added to what is left of earlier ones.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backtest.reference import black76
from backtest.reference.liquidation_trades import Rules
from backtest.reference.okx_legs import SECONDS_PER_DAY, parse_time


MODELS = ("none", "linear", "square_root", "depth")
MILLION = 1e6


@dataclass(frozen=True)
class Cascade:
    """Rounds of a price and what is liquidated at it.

    `rounds` holds the drop of every round, the shock first; `amplification` is the last over the
    first; `converged` whether the last two agree. A drop that grows without bound is not.
    """

    rounds: list[float]
    converged: bool

    @property
    def final(self) -> float:
        """Drop after the last round, a fraction."""
        return self.rounds[-1]

    @property
    def amplification(self) -> float:
        """Drop with feedback over drop without; 1 where there is no shock."""
        return self.final / self.rounds[0] if self.rounds[0] else 1.0


def price_move(quantity_usd: float, coin: str, rules: Rules, daily_volatility: float) -> float:
    """Move of a price by a quantity, a fraction of it, with the sign of the quantity.

    Linear `lambda Q`; square root `Y sigma sqrt(Q / ADV)`, a straight line below its least size,
    where the root is too steep; depth: the price to which `Q` eats
    through the book, depths scaled by `depth_scale`, beyond the last one at its slope.

    Args:
        quantity_usd: Net quantity, negative for selling.
        coin: Its numbers are used, or the default ones.
        rules: The liquidation rules; `impact` is used.
        daily_volatility: Of the coin, a fraction a day.

    Source: backtesting 2.6.
    Example: selling 2,000,000 USD, linear at 0.1 % a million: -0.2 %.
    """
    rule = rules["impact"]
    size = abs(quantity_usd)
    if rule["model"] == "none" or size == 0.0:
        return 0.0
    if rule["model"] == "linear":
        move = _of(rule["linear"]["move_per_musd"], coin) * size / MILLION
    elif rule["model"] == "square_root":
        adv = _of(rule["square_root"]["adv_usd"], coin)
        least = rule["square_root"]["min_usd"]
        root = math.sqrt(max(size, least) / adv) * min(1.0, size / least)
        move = rule["square_root"]["factor"] * daily_volatility * root
    elif rule["model"] == "depth":
        table = _of(rule["depth"]["tables"], coin)
        scale = depth_scale(daily_volatility, rule["depth"])
        move = _through(size, table["moves"], [scale * usd for usd in table["usd"]])
    else:
        raise ValueError(f"impact.model is {rule['model']!r}; allowed: {', '.join(MODELS)}")
    return math.copysign(min(move, rule["max_move"]), quantity_usd)


def depth_scale(daily_volatility: float, rule: dict[str, Any]) -> float:
    """How much of its usual depth the book has: less when the market moves more.

    `(reference / volatility) ^ exponent`, at least `floor` and at most 1.

    Example:
        Reference 3 %, exponent 1: at 6 % a day half of the depth.
    """
    if daily_volatility <= 0.0:
        return 1.0
    scale = (rule["reference_volatility"] / daily_volatility) ** rule["exponent"]
    return min(1.0, max(rule["floor"], scale))


def decayed(moves: Mapping[str, float], days: float, rules: Rules) -> dict[str, float]:
    """What is left of earlier moves after some days: `move * 2^(-days / half life)`.

    Without a half life nothing is left at the next time.
    """
    half_life = rules["impact"]["half_life_days"]
    share = 0.5 ** (days / half_life) if half_life > 0.0 else float(days <= 0.0)
    return {coin: move * share for coin, move in moves.items() if move * share != 0.0}


def moved(portfolio: dict[str, Any], moves: Mapping[str, float], rules: Rules) -> dict[str, Any]:
    """A portfolio file at prices moved by coin; the very same file where nothing moves."""
    moves = {coin: move for coin, move in moves.items() if move != 0.0}
    if not moves:
        return portfolio
    terms = {item["instrument_id"]: item for item in portfolio.get("instruments", [])}
    rows = {
        key: [_moved_row(row, terms[row["instrument_id"]], portfolio, moves) for row in old]
        for key in ("positions", "orders")
        if (old := portfolio.get(key))
    }
    found = {**portfolio, **rows}
    if rules["impact"]["moves_index"]:
        found["index_usd"] = {
            currency: usd if usd is None else usd * (1.0 + moves.get(currency, 0.0))
            for currency, usd in portfolio["index_usd"].items()
        }
    return found


def fixed_point(
    shock: float,
    liquidated: Callable[[float], float],
    impact: Callable[[float], float],
    rules: Rules,
) -> Cascade:
    """Rounds `s_(k+1) = s_0 + impact(liquidated(s_k))` until they stand still.

    Args:
        shock: First drop `s_0`, a fraction.
        liquidated: USD that are liquidated at a drop, not falling.
        impact: Drop by a liquidated amount, not falling.
        rules: The liquidation rules; `impact.max_rounds` and `impact.tolerance` are used.

    Source: backtesting 2.6.
    Example: shock 5 %, 2e-9 a USD, 1e8 USD per unit of drop: 5, 6, 6.2, ... to 6.25 %.
    """
    rounds = [shock]
    for _ in range(int(rules["impact"]["max_rounds"])):
        rounds.append(shock + impact(liquidated(rounds[-1])))
        if not math.isfinite(rounds[-1]):
            return Cascade(rounds, False)
        if abs(rounds[-1] - rounds[-2]) <= rules["impact"]["tolerance"]:
            return Cascade(rounds, True)
    return Cascade(rounds, False)


def tipping_point(
    shock: float,
    liquidated: Callable[[float], float],
    impact: Callable[[float], float],
    rules: Rules,
    *,
    limit: float = 1.0,
    highest: float = 1e6,
) -> float:
    """Smallest multiple of the impact at which the drop passes a limit; infinite if none does.

    The drop rises with the multiple, so halving the interval finds it, to 1e-6 of itself.
    """

    def tips(multiple: float) -> bool:
        found = fixed_point(shock, liquidated, lambda usd: multiple * impact(usd), rules)
        return not found.converged or found.final > limit

    if not tips(highest):
        return math.inf
    low, high = 0.0, highest
    while high - low > 1e-6 * high:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if tips(middle) else (middle, high)
    return high


def _of(table: dict[str, Any], coin: str) -> Any:
    return table.get(coin, table["default"])


def _through(size: float, moves: list[float], depths: list[float]) -> float:
    """Move at which the cumulative depth is the size, linear between the points and beyond."""
    points = [(0.0, 0.0), *zip(depths, moves, strict=True)]
    for k in range(1, len(points)):
        (low, start), (high, end) = points[k - 1], points[k]
        if size <= high or k == len(points) - 1:
            return start + (end - start) * (size - low) / (high - low)
    return 0.0


def _moved_row(
    row: dict[str, Any], terms: dict[str, Any], portfolio: dict[str, Any], moves: dict[str, float]
) -> dict[str, Any]:
    """A row of positions or orders at moved prices; entries and limits stay.

    The change of an option's model price is added to its mark, which stays at 0 or above. An entry
    that is null is the mark before the move.
    """
    move = moves.get(terms["coin"], 0.0)
    mark, forward, sigma = row.get("mark_price"), row.get("forward"), row.get("mark_iv")
    if not move or mark is None:
        return row
    if terms["kind"] != "option":
        entry = {"entry_price": mark} if row.get("entry_price", 0.0) is None else {}
        return {**row, **entry, "mark_price": mark * (1.0 + move)}
    if forward is None or sigma is None:
        return row
    left = parse_time(terms["expiry"]) - parse_time(portfolio["time"])
    years = left.total_seconds() / SECONDS_PER_DAY / black76.DAYS_PER_YEAR
    if years <= 0.0:
        return row
    strike, kind, new = float(terms["strike"]), terms["option_type"], forward * (1.0 + move)
    in_coins = terms["settle"] == terms["coin"]
    before, after = (
        black76.coin_price(kind, each, strike, sigma, years) * (1.0 if in_coins else each)
        for each in (forward, new)
    )
    return {**row, "mark_price": max(0.0, mark + after - before), "forward": new}
