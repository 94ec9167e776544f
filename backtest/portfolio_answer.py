"""What `pmstress margin` answers: kernels and reference on one portfolio, checked.

Example:
    >>> today = "configs/params/okx-merged-2025-01-21.toml"
    >>> found = answers("configs/portfolios/options-and-spot.json", today)  # doctest: +SKIP
    >>> found.now.kernel["account"]["total_mmr"]                            # doctest: +SKIP
    13656.887208836622
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from backtest import what_if
from backtest.cross_check import checked
from backtest.engine import use_compilation_cache
from backtest.errors import ConfigError
from backtest.netting import net_positions
from backtest.parameter_records import has_split_units
from backtest.params import ParameterSet
from backtest.portfolio_file import load_portfolio, parse_portfolio
from backtest.reference import models as reference
from backtest.schedule import load_rules


@dataclass(frozen=True)
class Answer:
    """One account: numbers of the kernels, answer of the reference with every step."""

    kernel: dict[str, Any]
    reference: dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """The portfolio now, and after its trades or orders (None where it has none).

    Fields:
        now: with open orders resting.
        after: after the trades, orders still resting; without trades, after all orders.
        fills: what was filled, `trades` or `orders`.
        labels: labels of the numbers by key, for instance `{"mr3.rate": "A"}`.
        warnings: what the reader should know, a sentence each.
    """

    now: Answer
    after: Answer | None
    fills: str
    labels: dict[str, str]
    warnings: list[str]


def answers(portfolio: str | Path | dict[str, Any], params: str | Path) -> Answers:
    """Margin of a portfolio before and after its trades or orders, under any margin model.

    Args:
        portfolio: a portfolio file, or its content as a dictionary.
        params: a parameter set, or a schedule of sets: the one in force at the portfolio's time.

    Raises:
        ConfigError: something in them is not usable. RunError: kernels and reference disagree.
    """
    if isinstance(portfolio, dict):
        shown, content = "portfolio", parse_portfolio(portfolio)
    else:
        shown, content = str(portfolio), load_portfolio(portfolio)
    rules = rules_at(params, content["time"])
    numbers = rules.numbers()
    fills = "trades" if content["trades"] else "orders"
    now = answer(content, numbers, shown)
    after = None
    if content[fills]:
        after = answer(named(shown, lambda: what_if.after_fills(content)), numbers, shown)
    found = (("now", now), (f"after the {fills}", after))
    warnings = [
        f"{shown}: not priced {when}; missing or not usable: {', '.join(missing)}"
        for when, one in found
        if one is not None and (missing := one.reference["detail"]["unpriced"])
    ]
    if content["spot_mode"] is not None and not has_split_units(numbers):
        why = f"which has no effect: a risk unit of '{rules.name}' is a whole coin"
        warnings.append(f"{shown}: 'spot_mode' is '{content['spot_mode']}', {why}")
    labels = {leaf.key: leaf.label for leaf in rules.leaves()}
    return Answers(now, after, fills, labels, warnings + static_warnings(rules))


def rules_at(params: str | Path, time: str) -> ParameterSet:
    """The set of a parameter file, or of a schedule at a time (ISO 8601).

    Raises:
        ConfigError: the file is bad, or the schedule begins later.
    """
    return load_rules(params).at(datetime.fromisoformat(time))


def static_warnings(rules: ParameterSet) -> list[str]:
    """What one portfolio cannot show of a set whose numbers follow the market."""
    followed = ", ".join(rules.rules())
    if not followed:
        return []
    why = "one portfolio has no history, so they stand as written (factor 1)"
    return [f"{rules.file}: {followed} follow the market over time; {why}"]


def answer(content: dict[str, Any], numbers: dict[str, Any], shown: str) -> Answer:
    """Kernels and reference on one portfolio, its open orders resting.

    Args:
        content: what `parse_portfolio` gave.
        numbers: numbers of a parameter set of any model.
        shown: what messages call the portfolio.
    """
    netted = net_positions(content)
    found = named(shown, lambda: reference.margin(netted, numbers))
    use_compilation_cache()
    kernel = named(shown, lambda: what_if.margin(netted, numbers))
    if found["detail"]["unpriced"]:
        empty = {"units": {}, "account": found["account"]}
        status = {"units": {}, "account": {"status": kernel["account"]["status"]}}
        expected = {"units": {}, "account": {"status": found["account"]["status"]}}
        checked(status, expected)
        return Answer(empty, found)
    return Answer(checked(kernel, found), found)


def named(shown: str, compute: Callable[[], Any]) -> Any:
    """The result; an error of the input gets the name of the portfolio."""
    try:
        return compute()
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{shown}: {error}") from error
