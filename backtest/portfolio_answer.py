"""What `pmstress margin` answers: kernels and reference on one portfolio file, checked."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backtest import what_if
from backtest.cross_check import cross_check
from backtest.engine import use_compilation_cache
from backtest.errors import ConfigError
from backtest.netting import net_positions
from backtest.params import load_parameter_set
from backtest.portfolio_file import load_portfolio
from backtest.reference import okx as reference


@dataclass(frozen=True)
class Answer:
    """One account: numbers of the kernels, answer of the reference with every step."""

    kernel: dict[str, Any]
    reference: dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """The portfolio now, and after its orders (None where it has none)."""

    now: Answer
    after: Answer | None
    labels: dict[str, str]
    warnings: list[str]


def answers(portfolio: Path, params: Path) -> Answers:
    """Both answers of a portfolio file under a parameter file.

    Raises:
        ConfigError: a file is bad. RunError: kernels and reference disagree.
    """
    use_compilation_cache()
    rules = load_parameter_set(params)
    content, numbers = load_portfolio(portfolio), rules.numbers()
    filled = _named(portfolio, lambda: what_if.after_orders(content))
    now = _answer(portfolio, net_positions({**content, "orders": []}), numbers)
    after = _answer(portfolio, net_positions(filled), numbers) if content["orders"] else None
    warnings = [
        f"{portfolio}: not priced {when}; missing or not usable: {', '.join(missing)}"
        for when, answer in (("now", now), ("after the orders", after))
        if answer is not None and (missing := answer.reference["detail"]["unpriced"])
    ]
    labels = {leaf.key: leaf.label for leaf in rules.leaves()}
    return Answers(now, after, labels, warnings)


def _answer(file: Path, content: dict[str, Any], numbers: dict[str, Any]) -> Answer:
    found = _named(file, lambda: reference.margin(content, numbers))
    kernel = _named(file, lambda: what_if.margin(content, numbers))
    if found["detail"]["unpriced"]:
        status = kernel["account"]["status"]
        cross_check({"status": status}, {"status": found["account"]["status"]})
        return Answer({"units": {}, "account": found["account"]}, found)
    cross_check(kernel, found)
    return Answer(kernel, found)


def _named(file: Path, compute: Callable[[], Any]) -> Any:
    """The result; an error of the input gets the name of the file."""
    try:
        return compute()
    except (ConfigError, NotImplementedError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from error
