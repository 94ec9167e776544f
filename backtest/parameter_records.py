"""Parameter sets of any margin model as kernel records; another model is another entry here."""

from collections.abc import Callable
from typing import Any

from backtest.bybit_records import bybit_parameters
from backtest.model_records import Currencies
from backtest.okx_records import okx_parameters


RECORDS: dict[str, Callable[[dict[str, Any], Currencies], Any]] = {
    "okx": okx_parameters,
    "bybit": bybit_parameters,
}
"""By the ``model`` key of a parameter file."""

SPLIT_ERAS = frozenset({"split"})
"""Eras whose risk units are by coin and settlement currency."""


def parameter_record(numbers: dict[str, Any], currencies: Currencies) -> Any:
    """Kernel record of a parameter set (``ParameterSet.numbers()``) of any model."""
    return RECORDS[numbers["model"]](numbers, currencies)


def has_split_units(numbers: dict[str, Any]) -> bool:
    """Whether the set's risk units are by coin and settlement currency."""
    return numbers["era"] in SPLIT_ERAS
