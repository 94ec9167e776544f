"""Aggregation of the charges, and how much of each charge an account could bear.

Works on plain charges `{"mr1": USD, ..., "mr9": USD}`, one mapping a unit; a missing charge is 0.
"""

import math


UNIT_CHARGES = ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr9")
CHARGES = ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr8", "mr9")
ADDED = ("mr3", "mr4", "mr5", "mr9")
TIE = 1e-10
"""Portfolios of a unit whose MMR is this near the largest, as a fraction, count as equal."""


def unit_mmr(charges: dict[str, float], worst: list[str]) -> float:
    """Maintenance margin of a unit, USD.

    `max( max(MR1, MR2, MR6) + MR3 + MR4 + MR5 + MR9, MR7 )`; `worst` names the charges of the
    inner maximum (the shorter formula of one source document has MR1 alone).

    Source: rule text section 5, [S][D: V1].

    Example:
        >>> unit_mmr({"mr1": 40, "mr6": 50, "mr4": 6, "mr7": 20}, ["mr1", "mr2", "mr6"])
        56.0
    """
    stress = max(charges.get(name, 0.0) for name in worst)
    added = sum(charges.get(name, 0.0) for name in ADDED)
    return float(max(stress + added, charges.get("mr7", 0.0)))


def binding_portfolio(mmrs: dict[str, float]) -> str:
    """Name of the portfolio that a unit is charged for: the first of those with the largest MMR.

    An order that adds nothing, for example in an option far out of the money, leaves two MMRs that
    differ by rounding alone: these count as equal, so that the answer does not hang on it.

    Example:
        >>> binding_portfolio({"positions": 80.0, "positions+sells": 80.00000000000003})
        'positions'
    """
    largest = max(mmrs.values())
    return next(name for name, mmr in mmrs.items() if mmr >= largest * (1.0 - TIE))


def break_even(
    units: list[dict[str, float]], mr8: float, budget: float, worst: list[str]
) -> dict[str, float]:
    """Break-even multiplier of every charge, dimensionless, `{"mr1": theta, ..., "mr9": theta}`.

    `theta_k = sup{theta >= 0 : budget >= total MMR with MR_k scaled by theta in every unit}`: 0 if
    the account cannot bear the rest even without the charge, infinite if it bears any multiple.

    Args:
        units: The charges of each unit, USD.
        mr8: Borrowing charge of the account, USD.
        budget: Adjusted equity less the borrow fee, USD.
        worst: Charges of the inner maximum, see `unit_mmr`.

    Source: rule text section 7; one unit agrees with the closed forms of the theta toy.
    """
    total = float(sum(unit_mmr(unit, worst) for unit in units))
    ramps = {name: [_ramp(unit, name, worst) for unit in units] for name in UNIT_CHARGES}
    ramps["mr8"] = [(0.0, mr8)]
    flat = {
        name: sum(unit_mmr({**unit, name: 0.0}, worst) for unit in units) + mr8
        for name in UNIT_CHARGES
    }
    flat["mr8"] = total
    return {name: root(flat[name], ramps[name], budget) for name in CHARGES}


def root(flat: float, ramps: list[tuple[float, float]], budget: float) -> float:
    """Largest `theta >= 0` with `flat + sum slope * max(0, theta - start) <= budget`.

    The left side is convex and piecewise linear: walk over the starts in order.

    Args:
        flat: Value at `theta = 0`, USD.
        ramps: `(start, slope >= 0)` of each unit; the slope in USD for 1.00 of theta.
        budget: USD.

    Example:
        >>> root(10.0, [(1.0, 20.0), (2.0, 20.0)], 50.0)
        2.5
    """
    if flat > budget:
        return 0.0
    theta, value, slope = 0.0, flat, 0.0
    for start, steeper in sorted(ramp for ramp in ramps if ramp[1] > 0.0):
        reached = value + slope * (start - theta)
        if reached > budget:
            break
        theta, value, slope = start, reached, slope + steeper
    return theta + (budget - value) / slope if slope > 0.0 else math.inf


def _ramp(charges: dict[str, float], name: str, worst: list[str]) -> tuple[float, float]:
    """From which theta on, and how fast, the MMR of a unit grows with charge `name`."""
    size = charges.get(name, 0.0)
    if size <= 0.0 or (name not in worst and name not in ADDED and name != "mr7"):
        return 0.0, 0.0
    floor = unit_mmr({**charges, name: 0.0}, worst)
    if name == "mr7":
        return floor / size, size
    added = sum(charges.get(other, 0.0) for other in ADDED if other != name)
    others = [charges.get(other, 0.0) for other in worst if other != name]
    beside = added if name in worst else added + max(others)
    return max(0.0, floor - beside) / size, size
