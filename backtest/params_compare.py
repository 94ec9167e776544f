"""What differs between two parameter sets, and rules in words."""

from typing import Any

from backtest.params import LABELS, LeafRow, ParameterSet


def differences(one: ParameterSet, two: ParameterSet) -> list[dict[str, Any]]:
    """What differs: ``key``, ``what`` (value, unit, provenance, or a head key), ``a`` and ``b``.

    A key that only one set has is None in the other.
    """
    found: list[dict[str, Any]] = []
    left, right = _by_key(one), _by_key(two)
    texts, others = _texts(one.numbers()), _texts(two.numbers())
    for key in [key for key in {**texts, **others} if key not in {**left, **right}]:
        a, b = texts.get(key), others.get(key)
        if a != b and key not in ("name", "description"):
            found.append({"key": key, "what": "value", "a": a, "b": b})
    for key in list(left) + [key for key in right if key not in left]:
        found.extend(_differences_of(key, left.get(key), right.get(key)))
    return found


def _texts(tree: dict[str, Any], path: str = "") -> dict[str, str]:
    """Texts of a tree of numbers by key path: head keys, units of tiers, choices."""
    texts: dict[str, str] = {}
    for name, node in tree.items():
        if isinstance(node, dict):
            texts |= _texts(node, f"{path}{name}.")
        elif isinstance(node, str):
            texts[f"{path}{name}"] = node
    return texts


def _by_key(found: ParameterSet) -> dict[str, LeafRow]:
    return {row.key: row for row in found.leaves()}


def _differences_of(key: str, a: LeafRow | None, b: LeafRow | None) -> list[dict[str, Any]]:
    if a is None or b is None:
        values = (a.value if a else None, b.value if b else None)
        return [{"key": key, "what": "value", "a": values[0], "b": values[1]}]
    pairs = {
        "value": (a.value, b.value),
        "unit": (a.unit, b.unit),
        "provenance": (LABELS[a.label], LABELS[b.label]),
        "rule": (rule_text(a), rule_text(b)),
    }
    return [
        {"key": key, "what": what, "a": old, "b": new}
        for what, (old, new) in pairs.items()
        if old != new
    ]


def rule_text(row: LeafRow) -> str | None:
    """A rule in one line: what it follows, between which factors, how fast."""
    rule = row.rule
    if rule is None:
        return None
    follows = f"{rule.file}:{rule.column}" if rule.driver == "series" else f"{rule.currency}"
    text = f"{rule.driver} of {follows} over {rule.lookback} / {rule.reference:g}"
    text = f"({text}, {rule.floor:g} to {rule.cap:g}"
    if rule.band:
        text += f", moves beyond {rule.band:.0%}"
    if rule.max_change_per_hour is not None:
        text += f", at most {rule.max_change_per_hour:.0%} an hour"
    return text + ")"
