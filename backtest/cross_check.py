"""Two answers of the same account, number by number: kernels against the float64 reference."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from backtest.errors import RunError


RELATIVE = 1e-9
ROUNDING = 1e-13
"""Of the account's size: what sums in another order may differ by where they cancel."""
_LARGE_THETA = 1e3
_ONLY_IN_REFERENCE = ("cells", "all", "contingency")
"""Numbers of a Bybit unit that follow from others: option part, price sums, sum of components."""


def checked(kernel: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """The kernels' answer after a comparison with the reference's, with the numbers both stand for.

    Risk units are those of the reference; one that is empty may be missing on either side.

    Args:
        kernel: what the kernels gave.
        reference: what the reference gave, with its `detail`.

    Returns:
        `{"units": ..., "account": ...}`: the kernels' numbers, and what follows from them (Bybit:
        `contingency` of units and `mm_rate`, the inverse of the margin level).

    Raises:
        RunError: a number is missing or differs; names it and both values.
    """
    known = _as_kernels(kernel, reference)
    units, theirs = dict(kernel["units"]), known["units"]
    for name in sorted({*units, *theirs}):
        if name not in theirs and _is_empty(units[name]):
            del units[name]
        elif name not in units and _is_empty(theirs[name]):
            units[name] = theirs[name]
    found = {"units": {name: units[name] for name in sorted(units)}, "account": kernel["account"]}
    cross_check(found, {**known, "detail": reference.get("detail", {})})
    for name, unit in reference["units"].items():
        if "contingency" in unit:
            found["units"][name] = {**units[name], "contingency": unit["contingency"]}
    if "mm_rate" in reference["account"]:
        rate = reference["account"]["mm_rate"]
        found["account"] = {**kernel["account"], "mm_rate": rate}
    return found


def cross_check(
    kernel: dict[str, Any],
    reference: dict[str, Any],
    *,
    relative: float = RELATIVE,
    rounding: float = ROUNDING,
) -> None:
    """Compare two answers in the shape of `pmstress margin --json`, to 1e-9 relative.

    Numbers that cancel are compared with the account's size, break-even multipliers above 1,000
    by their reciprocal.

    Args:
        kernel: what the kernels gave.
        reference: what the reference gave, with its `detail`.
        relative: relative difference allowed.
        rounding: difference allowed where numbers cancel, as a fraction of the account's size.

    Raises:
        RunError: a number is missing or differs by more; names it and both values.

    Example:
        >>> answer = {"account": {"mr8": 2.0, "status": "ok"}}
        >>> cross_check(answer, {**answer, "detail": {}})
    """
    mine = dict(_numbers(kernel))
    theirs = dict(_numbers({k: v for k, v in reference.items() if k != "detail"}))
    size = _size(reference.get("detail", {}))
    for name in sorted({*mine, *theirs}):
        if name not in mine or name not in theirs:
            side = "the kernels" if name not in mine else "the reference"
            raise RunError(f"internal check: {name} is missing in the answer of {side}")
        if not _difference(name, mine[name], theirs[name], rounding * size) <= relative:
            raise RunError(
                f"internal check: {name} is {mine[name]!r} from the kernels and "
                f"{theirs[name]!r} from the reference; please report this portfolio"
            )


def _as_kernels(kernel: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """The reference's answer in the names and the shape of the kernels'."""
    shape = _SHAPES.get(reference.get("detail", {}).get("model", ""))
    known = {key: reference[key] for key in ("units", "account")}
    return known if shape is None else shape(kernel, {**known, "detail": reference["detail"]})


def _bybit_as_kernels(kernel: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """Cells are sums over all legs of a unit; units name their portfolio only where orders are."""
    account = dict(reference["account"])
    account["borrow"] = account.pop("borrow_mmr")
    del account["mm_rate"]
    has_orders = any("binding" in unit for unit in kernel["units"].values())
    units = {}
    for name, unit in reference["units"].items():
        kept = {key: value for key, value in unit.items() if key not in _ONLY_IN_REFERENCE}
        if not has_orders and kept["binding"] == "positions":
            del kept["binding"]
        grid = reference["detail"]["units"][name]["max_loss"]
        beside = {row["price_move"]: row["linear"] + row["spot"] for row in grid["prices"]}
        kept["max_loss_cells"] = [
            {**cell, "pnl": cell["pnl"] + beside[cell["price_move"]]} for cell in unit["cells"]
        ]
        units[name] = kept
    return {"units": units, "account": account}


_SHAPES: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
    "bybit": _bybit_as_kernels
}


def _is_empty(unit: dict[str, Any]) -> bool:
    """Whether a unit requires nothing and holds nothing."""
    pnl = [value for name, value in _numbers(unit) if not name.endswith(("price_move", "vol"))]
    return not any(value for value in pnl if not isinstance(value, str))


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
    """Size of an account in USD: notional of its contracts and orders, and its collateral."""
    size = 1.0
    index = detail.get("index_usd", {})
    filled = [unit.get("legs", ()) for unit in detail.get("units", {}).values()]
    for leg in (leg for legs in (detail.get("legs", ()), *filled) for leg in legs):
        is_inverse = leg["style"] == "inverse" and leg["kind"] != "option"
        per_contract = leg["multiplier"] * (1.0 if is_inverse else index[leg["coin"]])
        size += abs(leg["contracts"] * per_contract) + abs(leg["upl"])
    for order in (row for row in detail.get("orders", ()) if "size" in row):
        is_inverse = order["settle"] == order["coin"] and order["kind"] != "option"
        size += abs(order["size"]) * (1.0 if is_inverse else index[order["coin"]])
    return size + sum(abs(row["usd"]) for row in detail.get("collateral", {}).values())
