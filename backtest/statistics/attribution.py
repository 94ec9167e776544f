"""What margin and liquidations are made of: shares, changes, exact Shapley values (K11-K13).

A requirement takes maxima of its charges, so charges need not add up to it and their order matters.
Shapley's value is the one split that adds up and knows no order.

References:
    Shapley (1953), A value for n-person games. Backtesting rules, K11, K12, K13.
"""

from collections.abc import Callable, Mapping, Sequence
from math import factorial

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from backtest.errors import ConfigError


MOST_CHARGES = 12
"""Charges of which all subsets are looked at: 4,096 of them."""
Charges = Mapping[str, Float[np.ndarray, "*unit"]]
Requirement = Callable[[Charges], Float[np.ndarray, "*unit"]]


def okx_requirement(
    worst: Sequence[str] = ("mr1", "mr2", "mr6"),
    added: Sequence[str] = ("mr3", "mr4", "mr5", "mr9"),
    floor: str = "mr7",
    beside: str = "mr8",
) -> Requirement:
    """``max(max(MR1, MR2, MR6) + MR3 + MR4 + MR5 + MR9, MR7) + MR8``; missing charges are 0."""

    def requirement(charges: Charges) -> Float[np.ndarray, "*unit"]:
        size = np.shape(next(iter(charges.values())))

        def of(name: str) -> Float[np.ndarray, "*unit"]:
            return np.asarray(charges.get(name, np.zeros(size)), dtype=float)

        stress = np.max([of(name) for name in worst], axis=0)
        total = stress + np.sum([of(name) for name in added], axis=0)
        return np.maximum(total, of(floor)) + of(beside)

    return requirement


def summed_requirement(charges: Charges) -> Float[np.ndarray, "*unit"]:
    """The sum of all charges, as of models in which none competes."""
    return np.sum([np.asarray(values, dtype=float) for values in charges.values()], axis=0)


def shapley(
    charges: Charges, value: Callable[[Charges], np.ndarray]
) -> dict[str, Float[np.ndarray, "*value"]]:
    """Each charge's exact share in ``value(all charges) - value(no charges)``.

    Args:
        charges: charges of every unit or account, USD.
        value: what charges make, for instance ``okx_requirement()``, or whether it exceeds equity;
            a charge that does not take part is 0. It may add up units: its answer has any shape.

    Returns:
        Shares by charge; they add up.
    """
    names = list(charges)
    if len(names) > MOST_CHARGES:
        raise ConfigError(f"{len(names)} charges; allowed: {MOST_CHARGES}, all subsets are taken")
    count = len(names)
    none = {name: np.zeros_like(np.asarray(charges[name], dtype=float)) for name in names}
    found = []
    for code in range(1 << count):
        some = {name: charges[name] for k, name in enumerate(names) if code >> k & 1}
        found.append(np.asarray(value({**none, **some}), dtype=float))
    shares: dict[str, np.ndarray] = {}
    for k, name in enumerate(names):
        total = np.zeros_like(found[0])
        for code in range(1 << count):
            if not code >> k & 1:
                size = code.bit_count()
                weight = factorial(size) * factorial(count - size - 1) / factorial(count)
                total = total + weight * (found[code | 1 << k] - found[code])
        shares[name] = total
    return shares


def liquidation_shapley(
    charges: Charges, equity: Float[np.ndarray, " account"], requirement: Requirement
) -> dict[str, Float[np.ndarray, " account"]]:
    """What caused each liquidation: shares of the charges in "equity does not cover them", 0 to 1.

    Of accounts that are liquidated they add up to 1, of the others to 0 (and to 0 where equity is
    gone without any charge, which no charge has caused).
    """

    def liquidated(some: Charges) -> Bool[np.ndarray, " account"]:
        return equity <= requirement(some)

    return shapley(charges, liquidated)


def shares(charges: Charges) -> pd.DataFrame:
    """Sum of each charge over units, USD, and its share of the sum of all."""
    total = {name: float(np.nansum(values)) for name, values in charges.items()}
    whole = sum(total.values())
    frame = pd.DataFrame({"charge": list(total), "usd": list(total.values())})
    return frame.assign(of_all_frac=frame["usd"] / (whole or np.nan))


def waterfall(values: Sequence[tuple[str, float]], measured: float | None = None) -> pd.DataFrame:
    """An ordered explanation of a change: what each step moved, and what no step explains.

    Args:
        values: name and requirement after each step, in order; the first is the start. For a
            day-on-day change: yesterday, then positions, prices, volatilities, time, parameters.
        measured: requirement at the end as measured; the last step's if absent.

    Returns:
        Columns step, value, change; last the residual (0 where every step was taken) and the total.
    """
    if len(values) < 2:
        raise ConfigError("a waterfall has a start and at least one step")
    names, levels = [name for name, _ in values], np.array([value for _, value in values])
    end = float(levels[-1]) if measured is None else measured
    changes = np.diff(levels, prepend=levels[0])
    rows = [*zip(names, levels.tolist(), changes.tolist(), strict=True)]
    rows += [("residual", end, end - float(levels[-1])), ("total", end, end - float(levels[0]))]
    return pd.DataFrame(rows, columns=["step", "value", "change"])
