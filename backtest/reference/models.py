"""The readable reference of every margin model, by the ``model`` key of its numbers."""

from collections.abc import Callable
from typing import Any

from backtest.reference import bybit, okx


MARGINS: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
    "okx": okx.margin,
    "bybit": bybit.margin,
}


def margin(portfolio: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
    """Every charge, the margin level and the status of one account at one time, any model.

    Raises:
        ValueError: the portfolio or the numbers are not usable; the message says why.
    """
    return MARGINS[numbers["model"]](portfolio, numbers)
