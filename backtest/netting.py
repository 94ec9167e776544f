"""Rows of the same instrument become one position, the way a venue books fills.

A fill in the direction of the position moves its average entry; a fill against it closes, and what
the closed part has gained goes to the balance of the settle currency. Equity does not change.
"""

from typing import Any


def net_positions(portfolio: dict[str, Any]) -> dict[str, Any]:
    """The portfolio with one position an instrument; what is closed is realised, order kept.

    Args:
        portfolio: a `pmstress margin` file as plain data. A null entry is the mark; rows without
            either stay as they are.

    Example:
        60 contracts sold, 40 of them bought back 1,000 lower: 20 stay sold, 40,000 times the
        multiplier are gained.
    """
    terms = {row["instrument_id"]: row for row in portfolio["instruments"]}
    balances = dict(portfolio["balances"])
    positions: dict[str, dict[str, Any]] = {}
    apart: list[dict[str, Any]] = []
    for row in portfolio["positions"]:
        name = row["instrument_id"]
        if name not in positions:
            positions[name] = row
            continue
        if _entry(positions[name]) is None or _entry(row) is None:
            apart.append(row)
            continue
        positions[name], gain = _booked(positions[name], row, terms[name])
        if gain:
            settle = terms[name]["settle"]
            balances[settle] = balances.get(settle, 0.0) + gain
    return {**portfolio, "positions": [*positions.values(), *apart], "balances": balances}


def _entry(row: dict[str, Any]) -> float | None:
    entry = row.get("entry_price")
    return row.get("mark_price") if entry is None else entry


def _booked(
    held: dict[str, Any], fill: dict[str, Any], terms: dict[str, Any]
) -> tuple[dict[str, Any], float]:
    """The position after a fill, and what the fill realises in the settle currency."""
    have, more = held["contracts"], fill["contracts"]
    at, price = _entry(held), _entry(fill)
    assert at is not None
    assert price is not None
    if have * more >= 0.0:
        average = _average(have, at, more, price, inverse=_is_inverse(terms))
        return {**held, "contracts": have + more, "entry_price": average}, 0.0
    closed = have if abs(more) >= abs(have) else -more
    left = have + more
    entry = price if abs(more) > abs(have) else at
    return {**held, "contracts": left, "entry_price": entry}, _gain(closed, at, price, terms)


def _is_inverse(terms: dict[str, Any]) -> bool:
    return terms["style"] == "inverse" and terms["kind"] != "option"


def _average(have: float, at: float, more: float, price: float, *, inverse: bool) -> float:
    """Entry that keeps the total entry value: arithmetic, harmonic for inverse contracts."""
    total = have + more
    if total == 0.0:
        return at
    if inverse:
        return total / (have / at + more / price)
    return (have * at + more * price) / total


def _gain(closed: float, at: float, price: float, terms: dict[str, Any]) -> float:
    """Gain of closed contracts in the settle currency; of options the premium is paid in cash."""
    if terms["kind"] == "option":
        return 0.0
    size = closed * terms["multiplier"]
    return size * (1.0 / at - 1.0 / price) if _is_inverse(terms) else size * (price - at)
