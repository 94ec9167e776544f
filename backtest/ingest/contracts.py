"""What a venue's name of a contract says about its terms, and how the dataset calls it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pandas as pd

from backtest.ingest.config import Naming
from backtest.market.config import INVERSE_MULTIPLIERS, MULTIPLIERS, OPTION_MULTIPLIERS
from backtest.market.expiries import EXPIRY_HOUR
from backtest.market.state import instrument_table


_STABLE = "USDT|USDC|FDUSD|BUSD|TUSD"
_PAIR = re.compile(rf"(?P<coin>[A-Z0-9]+?)(?P<quote>{_STABLE}|USD|EUR|BTC)")
_BINANCE = re.compile(
    rf"(?P<coin>[A-Z0-9]+?)(?P<quote>{_STABLE}|USD)(?:_(?:(?P<perp>PERP)|(?P<day>\d{{6}})))?"
)
_DERIBIT = re.compile(
    rf"(?P<coin>[A-Z0-9]+)(?:_(?P<quote>{_STABLE}))?-(?:(?P<perp>PERPETUAL)|(?P<day>\d{{1,2}}"
    r"[A-Z]{3}\d{2})(?:-(?P<strike>\d+(?:d\d+)?)-(?P<side>[CP]))?)"
)
_OKX = re.compile(
    rf"(?P<coin>[A-Z0-9]+)-(?P<quote>{_STABLE}|USD|EUR|BTC)(?:-(?:(?P<perp>SWAP)|(?P<day>\d{{6}})"
    r"(?:-(?P<strike>\d+(?:\.\d+)?)-(?P<side>[CP]))?))?"
)
_BYBIT_OPTION = re.compile(
    rf"(?P<coin>[A-Z0-9]+)-(?P<day>\d{{1,2}}[A-Z]{{3}}\d{{2}})-(?P<strike>\d+(?:\.\d+)?)"
    rf"-(?P<side>[CP])(?:-(?P<quote>{_STABLE}))?"
)
_BYBIT_FUTURE = re.compile(
    rf"(?P<coin>[A-Z0-9]+?)(?P<quote>{_STABLE}|USD)?-(?P<day>\d{{1,2}}[A-Z]{{3}}\d{{2}})"
)
_DERIBIT_INVERSE = {"BTC": 10.0}
"""USD a contract of Deribit's inverse futures and perpetuals; others 1."""
_BYBIT_INVERSE = 1.0


@dataclass(frozen=True)
class Contract:
    """Terms of a contract as far as its name says them.

    ``multiplier`` is in coins (USD for inverse ones); ``settle`` of spot is its quote currency.
    """

    kind: str
    coin: str
    settle: str
    is_inverse: bool = False
    multiplier: float = 1.0
    strike: float | None = None
    option_type: str | None = None
    expiry: datetime | None = None


Parser = Callable[[str], Contract | None]


def binance(name: str, market: str) -> Contract | None:
    """A symbol of Binance: ``spot``, ``um`` (linear) or ``cm`` (inverse) futures."""
    if market == "spot":
        pair = _PAIR.fullmatch(name)
        return pair and Contract("spot", pair["coin"], pair["quote"])
    found = _BINANCE.fullmatch(name)
    if found is None or (market == "cm") != (found["quote"] == "USD"):
        return None
    kind = "future" if found["day"] else "perpetual"
    expiry = _expiry(found["day"], "%y%m%d")
    if market == "cm":
        size = INVERSE_MULTIPLIERS.get(found["coin"], 10.0)
        return Contract(kind, found["coin"], found["coin"], True, size, expiry=expiry)
    return Contract(kind, found["coin"], found["quote"], expiry=expiry)


def deribit(name: str) -> Contract | None:
    """An instrument of Deribit; ``BTC_USDC-...`` are the linear ones."""
    found = _DERIBIT.fullmatch(name)
    if found is None:
        return None
    coin, quote, expiry = found["coin"], found["quote"], _expiry(found["day"], "%d%b%y")
    if found["strike"]:
        strike = float(found["strike"].replace("d", "."))
        return Contract("option", coin, quote or coin, True, 1.0, strike, found["side"], expiry)
    kind = "future" if found["day"] else "perpetual"
    if quote:
        return Contract(kind, coin, quote, expiry=expiry)
    return Contract(kind, coin, coin, True, _DERIBIT_INVERSE.get(coin, 1.0), expiry=expiry)


def okx(name: str) -> Contract | None:
    """An instrument of OKX, with the venue's contract sizes (assumed 1 coin for other coins)."""
    found = _OKX.fullmatch(name)
    if found is None:
        return None
    coin, quote, expiry = found["coin"], found["quote"], _expiry(found["day"], "%y%m%d")
    if found["strike"]:
        size, strike = OPTION_MULTIPLIERS.get(coin, 1.0), float(found["strike"])
        return Contract("option", coin, coin, True, size, strike, found["side"], expiry)
    if not found["perp"] and not found["day"]:
        return Contract("spot", coin, quote)
    kind = "future" if found["day"] else "perpetual"
    if quote == "USD":
        size = INVERSE_MULTIPLIERS.get(coin, 10.0)
        return Contract(kind, coin, coin, True, size, expiry=expiry)
    return Contract(kind, coin, quote, multiplier=MULTIPLIERS.get(coin, 1.0), expiry=expiry)


def bybit(name: str) -> Contract | None:
    """A derivative of Bybit; options are settled in USDC unless the name says USDT."""
    if found := _BYBIT_OPTION.fullmatch(name):
        expiry, strike = _expiry(found["day"], "%d%b%y"), float(found["strike"])
        settle = found["quote"] or "USDC"
        return Contract("option", found["coin"], settle, True, 1.0, strike, found["side"], expiry)
    if name.endswith("PERP"):
        return Contract("perpetual", name.removesuffix("PERP"), "USDC")
    if found := _BYBIT_FUTURE.fullmatch(name):
        expiry = _expiry(found["day"], "%d%b%y")
        return Contract("future", found["coin"], found["quote"] or "USDC", expiry=expiry)
    found = _PAIR.fullmatch(name)
    if found is None or found["quote"] in ("EUR", "BTC"):
        return None
    if found["quote"] == "USD":
        return Contract("perpetual", found["coin"], found["coin"], True, _BYBIT_INVERSE)
    return Contract("perpetual", found["coin"], found["quote"])


PARSERS: Mapping[str, Parser] = {
    "deribit": deribit,
    "okex": okx,
    "okex-swap": okx,
    "okex-futures": okx,
    "okex-options": okx,
    "okx": okx,
    "bybit": bybit,
    "bybit-options": bybit,
    "binance": partial(binance, market="spot"),
    "binance-futures": partial(binance, market="um"),
    "binance-delivery": partial(binance, market="cm"),
}
"""How each venue (as Tardis calls it) names its contracts."""


def _expiry(day: str | None, pattern: str) -> datetime | None:
    """08:00 UTC of the day in a name."""
    if day is None:
        return None
    try:
        return datetime.strptime(day, pattern).replace(hour=EXPIRY_HOUR, tzinfo=UTC)
    except ValueError:
        return None


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def okx_name(contract: Contract) -> str | None:
    """What OKX would call the contract; None for options that OKX does not have."""
    quote = "USD" if contract.is_inverse else contract.settle
    name = f"{contract.coin}-{quote}"
    if contract.kind == "spot":
        return name
    if contract.kind == "perpetual":
        return f"{name}-SWAP"
    if contract.expiry is None or (contract.kind == "option" and contract.settle != contract.coin):
        return None
    name = f"{name}-{contract.expiry:%y%m%d}"
    if contract.kind == "future":
        return name
    return f"{name}-{_number(contract.strike or 0.0)}-{contract.option_type}"


class Instruments:
    """The instruments that the files speak of; explicit terms win over those read from names."""

    def __init__(self, naming: Naming, rename: Mapping[str, str]) -> None:
        self._naming: Naming = naming
        self._rename = dict(rename)
        self._found: dict[str, dict[str, object]] = {}
        self._stated: list[pd.DataFrame] = []
        self._known: dict[tuple[Parser, Naming, str], str | None] = {}

    def ids(self, names: pd.Series, parse: Parser, naming: Naming | None = None) -> np.ndarray:
        """Instrument id of each name, None where the name is not one of the venue's."""
        codes, distinct = pd.factorize(names)
        found = [self._id(str(name), parse, naming or self._naming) for name in distinct]
        return np.array([*found, None], object)[codes]

    def _id(self, name: str, parse: Parser, naming: Naming) -> str | None:
        key = (parse, naming, name)
        if key not in self._known:
            contract = parse(name)
            self._known[key] = None if contract is None else self._enter(name, contract, naming)
        return self._known[key]

    def _enter(self, name: str, contract: Contract, naming: Naming) -> str | None:
        called = okx_name(contract) if naming == "okx" else None
        if called is not None:
            contract = okx(called) or contract
        chosen = self._rename.get(name, called or name)
        if contract.kind in ("future", "option") and contract.expiry is None:
            return None
        self._found.setdefault(
            chosen,
            {
                "instrument_id": chosen,
                "kind": contract.kind,
                "coin": contract.coin,
                "settle": contract.settle,
                "style": "inverse" if contract.is_inverse else "linear",
                "multiplier": contract.multiplier,
                "strike": contract.strike,
                "option_type": contract.option_type,
                "expiry": contract.expiry,
            },
        )
        return chosen

    def renamed(self, names: pd.Series) -> pd.Series:
        """Names as the dataset has them."""
        return names.replace(self._rename) if self._rename else names

    def state(self, rows: pd.DataFrame) -> None:
        """Take in stated terms."""
        self._stated.append(rows)

    def frame(self) -> pd.DataFrame:
        """Rows of the table ``instruments``, by id."""
        stated = pd.concat(self._stated, ignore_index=True) if self._stated else pd.DataFrame()
        named = set(stated["instrument_id"]) if len(stated) else set[str]()
        derived = instrument_table([r for n, r in sorted(self._found.items()) if n not in named])
        both = [part for part in (stated, derived) if len(part)]
        if not both:
            return derived
        return pd.concat(both, ignore_index=True).sort_values("instrument_id", ignore_index=True)
