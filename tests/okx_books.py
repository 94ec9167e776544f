"""Numbers of the OKX parameter sets for tests, and portfolio files from short forms."""

from pathlib import Path
from typing import Any

from backtest.params import load_parameter_set


PARAMS = Path(__file__).parents[1] / "configs" / "params"


def merged_numbers() -> dict[str, Any]:
    """The rules of 2025-01-21, merged era, as plain numbers."""
    return load_parameter_set(PARAMS / "okx-merged-2025-01-21.toml").numbers()


def split_like_numbers(**mr4: Any) -> dict[str, Any]:
    """Merged units with the moves and tiers that held between 2024-06-05 and 2025-01.

    The venue has never run this mix; units of one settlement currency give the numbers that the
    rules of that time gave. Keyword arguments replace keys of `mr4`.
    """
    numbers = load_parameter_set(PARAMS / "okx-merged-pre-2025-shocks.toml").numbers()
    numbers["mr4"] |= {
        "near": {"G1": 0.006, "G2": 0.008, "G3": 0.010},
        "annual": {"G1": 0.10, "G2": 0.35, "G3": 0.40},
        **mr4,
    }
    return numbers


def swap(name: str, contracts: float, mark: float, **more: Any) -> tuple[dict[str, Any], ...]:
    """Instrument and position of a perpetual `COIN-QUOTE-SWAP`; QUOTE `USD` is inverse."""
    coin, quote, _ = name.split("-")
    inverse = quote == "USD"
    return _contract(name, "perpetual", coin, coin if inverse else quote, contracts, mark, more)


def future(name: str, expiry: str, contracts: float, mark: float | None, **more: Any):
    """Instrument and position of an expiry future `COIN-QUOTE-DATE`."""
    coin, quote, _ = name.split("-")
    settle = coin if quote == "USD" else quote
    return _contract(name, "future", coin, settle, contracts, mark, {**more, "expiry": expiry})


def option(name: str, expiry: str, contracts: float, mark: float, **more: Any):
    """Instrument and position of an option `COIN-USD-DATE-STRIKE-TYPE`."""
    coin, _, _, strike, kind = name.split("-")
    extra = {"expiry": expiry, "strike": float(strike), "option_type": kind}
    return _contract(name, "option", coin, coin, contracts, mark, {**more, **extra})


def portfolio(*contracts: tuple[dict[str, Any], ...], **keys: Any) -> dict[str, Any]:
    """A portfolio file of instrument and position pairs; other keys as they are given."""
    return {
        "time": "2025-03-01T08:00:00Z",
        "instruments": [instrument for instrument, _ in contracts],
        "positions": [position for _, position in contracts],
        "balances": {},
        "spot_limits": {},
        "borrow_mode": "auto",
        "spot_mode": None,
        "orders": [],
        **keys,
    }


def _contract(
    name: str,
    kind: str,
    coin: str,
    settle: str,
    contracts: float,
    mark: float | None,
    more: dict[str, Any],
) -> tuple[dict[str, Any], ...]:
    instrument = {
        "instrument_id": name,
        "kind": kind,
        "coin": coin,
        "settle": settle,
        "style": "inverse" if settle == coin else "linear",
        "multiplier": more.pop("multiplier", 1.0),
        "strike": more.pop("strike", None),
        "option_type": more.pop("option_type", None),
        "expiry": more.pop("expiry", None),
    }
    position = {
        "instrument_id": name,
        "contracts": contracts,
        "entry_price": None,
        "mark_price": mark,
        "mark_iv": None,
        "forward": None,
        **more,
    }
    return instrument, position
