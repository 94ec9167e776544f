"""Numbers of the Bybit parameter sets for tests, and portfolio files from short forms."""

from typing import Any

from backtest.params import load_parameter_set
from tests.okx_books import PARAMS, future, option, portfolio, swap


__all__ = ["future", "numbers_of", "portfolio", "spot", "stable_option", "swap"]


def numbers_of(name: str = "bybit-2025-01-10") -> dict[str, Any]:
    """A parameter set of the model as plain numbers."""
    return load_parameter_set(PARAMS / f"{name}.toml").numbers()


def stable_option(name: str, expiry: str, contracts: float, mark: float, **more: Any):
    """Instrument and position of an option `COIN-QUOTE-DATE-STRIKE-TYPE`, settled in the quote."""
    instrument, position = option(name, expiry, contracts, mark, **more)
    return {**instrument, "settle": name.split("-")[1], "style": "inverse"}, position


def spot(name: str) -> dict[str, Any]:
    """Instrument of a spot pair `COIN-QUOTE`, for orders."""
    coin, quote = name.split("-")
    return {
        "instrument_id": name,
        "kind": "spot",
        "coin": coin,
        "settle": quote,
        "style": "linear",
        "multiplier": 1.0,
        "strike": None,
        "option_type": None,
        "expiry": None,
    }
