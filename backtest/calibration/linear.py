"""Which parameters scale a charge exactly, so that the curve of one replay holds for them (K9).

A parameter that moves a charge by the same factor in every account is read off the curve; any other
is replayed. What is listed here is what the OKX rules make of their numbers.

References:
    Backtesting rules, section 2.7; OKX portfolio margin rules, section 6.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scaling:
    """Leaves that together scale one charge, and why that is exact or not.

    Attributes:
        charge: the charge.
        leaves: beginnings of key paths; all that begin with one of them must move together.
        exact: whether the charge then moves by the same factor in every account.
        note: what holds, in words.
    """

    charge: str
    leaves: tuple[str, ...]
    exact: bool
    note: str


SCALINGS = (
    Scaling(
        "mr1",
        ("mr1.price_moves",),
        False,
        "MR1 follows its price moves exactly in books without options; options are repriced",
    ),
    Scaling("mr3", ("mr3.rate",), True, "MR3 is its rate times the hedged vega"),
    Scaling("mr4", ("mr4.near", "mr4.annual"), True, "MR4 is linear in both of its rates together"),
    Scaling("mr6", ("mr6.factor",), True, "MR6 is its factor times the worst extreme loss"),
    Scaling(
        "mr6",
        ("mr6.extreme_move",),
        False,
        "MR6 follows its moves exactly in books without options; options are repriced",
    ),
    Scaling(
        "mr7",
        ("mr7.linear_rate", "mr7.short_option_rate", "mr7.long_option_rate"),
        False,
        "MR7 grows faster than its rates where size tiers multiply it, and long options are capped",
    ),
    Scaling(
        "mr9",
        ("mr9.calm_rate_step", "mr9.base_rate", "mr9.size_offset", "mr9.max_rate"),
        True,
        "MR9 is linear in all of its rates together",
    ),
)


def scaling_of(leaves: Iterable[str], known: Iterable[str]) -> Scaling | None:
    """How leaves that move together scale a charge; None where they scale no single one.

    Args:
        leaves: what moves.
        known: all leaves of the parameter set.
    """
    moved, every = set(leaves), list(known)
    for scaling in SCALINGS:
        mine = {key for key in every if _is_below(key, scaling.leaves)}
        if moved == mine:
            return scaling
        if moved < mine:
            return Scaling(
                scaling.charge,
                scaling.leaves,
                False,
                f"only a part of what makes {scaling.charge.upper()} moves",
            )
    return None


def _is_below(key: str, beginnings: tuple[str, ...]) -> bool:
    return any(key == b or key.startswith(f"{b}.") for b in beginnings)
