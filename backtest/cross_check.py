"""Two answers of the same account, number by number: kernels against the float64 reference."""

import math
from collections.abc import Iterator
from typing import Any

from backtest.errors import RunError


RELATIVE = 1e-9
_ROUNDING = 1e-13
"""Of the account's size: what sums in another order may differ by where they cancel."""
_LARGE_THETA = 1e3


def cross_check(kernel: dict[str, Any], reference: dict[str, Any]) -> None:
    """Compare two answers in the shape of `pmstress margin --json`, to 1e-9 relative.

    Numbers that cancel are compared with the account's size, break-even multipliers above 1,000
    by their reciprocal.

    Args:
        kernel: what the kernels gave.
        reference: what the reference gave, with its `detail`.

    Raises:
        RunError: a number is missing or differs by more than 1e-9; names it and both values.

    Example:
        >>> answer = {"account": {"mr8": 2.0, "status": "ok"}}
        >>> cross_check(answer, {**answer, "detail": {}})
    """
    mine = dict(_numbers(kernel))
    theirs = dict(_numbers({k: v for k, v in reference.items() if k != "detail"}))
    rounding = _ROUNDING * _size(reference.get("detail", {}))
    for name in sorted({*mine, *theirs}):
        if name not in mine or name not in theirs:
            side = "the kernels" if name not in mine else "the reference"
            raise RunError(f"internal check: {name} is missing in the answer of {side}")
        if not _difference(name, mine[name], theirs[name], rounding) <= RELATIVE:
            raise RunError(
                f"internal check: {name} is {mine[name]!r} from the kernels and "
                f"{theirs[name]!r} from the reference; please report this portfolio"
            )


def _numbers(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf by its path, for example `units.BTC.mr1_cells[3].pnl`."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _numbers(value, f"{path}.{key}" if path else key)
    elif isinstance(tree, list):
        for k, value in enumerate(tree):
            yield from _numbers(value, f"{path}[{k}]")
    else:
        yield path, tree


def _difference(name: str, one: Any, two: Any, rounding: float) -> float:
    if isinstance(one, bool | str | None) or isinstance(two, bool | str | None):
        return 0.0 if one == two else math.inf
    a, b = float(one), float(two)
    if a == b:
        return 0.0
    if ".theta." in name and min(a, b) > _LARGE_THETA:
        return abs(1.0 / a - 1.0 / b)
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    if abs(a - b) <= rounding:
        return 0.0
    return abs(a - b) / max(abs(a), abs(b))


def _size(detail: dict[str, Any]) -> float:
    """Size of an account in USD: notional of its contracts and its collateral."""
    size = 1.0
    index = detail.get("index_usd", {})
    for leg in detail.get("legs", ()):
        per_contract = leg["multiplier"]
        if leg["style"] == "linear" or leg["kind"] == "option":
            per_contract *= index[leg["coin"]]
        size += abs(leg["contracts"] * per_contract) + abs(leg["upl"])
    return size + sum(abs(row["usd"]) for row in detail.get("collateral", {}).values())
