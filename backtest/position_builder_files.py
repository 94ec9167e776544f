"""What the position builder reads: the body of a request and a market file, checked.

Rows are those of the venue's API v5, numbers as texts or numbers; whole answers of an endpoint
(`{"code": "0", "data": [...]}`) stand for their rows.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from backtest.config_errors import explain
from backtest.errors import ConfigError


Name = Annotated[str, Field(min_length=1)]
Price = Annotated[float, Field(gt=0)]
SECONDS_PER_YEAR = 365.0 * 86_400.0
Checked = TypeVar("Checked", bound=BaseModel)


def _none_if_empty(value: Any) -> Any:
    return None if value == "" else value


def _rows_of(value: Any) -> Any:
    """The rows of an answer; those of an account balance are one level deeper."""
    if not isinstance(value, dict) or "data" not in value:
        return value
    rows = value["data"]
    if isinstance(rows, list) and rows and isinstance(rows[0], dict) and "details" in rows[0]:
        return [row for one in rows for row in one["details"]]
    return rows


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Row(BaseModel):
    # The venue's rows carry many more keys than are needed.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


OptionalPrice = Annotated[Price | None, BeforeValidator(_none_if_empty)]


class SimulatedPosition(_Request):
    """A position of the request, in contracts; `lever` is of another account mode."""

    instId: Name
    pos: float
    avgPx: OptionalPrice = None
    lever: str | float | None = None


class SimulatedAsset(_Request):
    """A balance of the request, units of the currency; below 0 for a debt."""

    ccy: Name
    amt: float


class BuilderRequest(_Request):
    """Body of a request; `spotOffsetType` was dropped when risk units were merged."""

    acctLv: Literal["4"] = "4"
    inclRealPosAndEq: bool = True
    lever: str | float | None = None
    spotOffsetType: Literal["1", "2", "3", "4", ""] = ""
    simPos: list[SimulatedPosition] = []
    simAsset: list[SimulatedAsset] = []
    greeksType: Literal["BS", "PA", "CASH"] = "BS"
    idxVol: Annotated[
        Annotated[float, Field(ge=-0.99, le=1.0)] | None, BeforeValidator(_none_if_empty)
    ] = None


class InstrumentRow(_Row):
    """Terms of a contract; `expTime` in milliseconds."""

    instId: Name
    instType: Literal["SWAP", "FUTURES", "OPTION"]
    settleCcy: Name
    ctVal: Price
    ctMult: OptionalPrice = None
    ctType: Literal["linear", "inverse", ""] = ""
    stk: OptionalPrice = None
    optType: Literal["C", "P", ""] = ""
    expTime: OptionalPrice = None

    @property
    def coin(self) -> str:
        """The coin of the contract, the first part of its name."""
        return self.instId.split("-")[0]

    def terms(self) -> dict[str, Any]:
        """The contract as in a portfolio file."""
        kinds = {"SWAP": "perpetual", "FUTURES": "future", "OPTION": "option"}
        is_inverse = self.instType == "OPTION" or self.ctType == "inverse"
        expiry = None
        if self.expTime is not None and self.instType != "SWAP":
            expiry = datetime.fromtimestamp(self.expTime / 1000.0, tz=UTC).isoformat()
        return {
            "instrument_id": self.instId,
            "kind": kinds[self.instType],
            "coin": self.coin,
            "settle": self.settleCcy,
            "style": "inverse" if is_inverse else "linear",
            "multiplier": self.ctVal * (self.ctMult or 1.0),
            "strike": self.stk,
            "option_type": self.optType or None,
            "expiry": expiry,
        }


class IndexRow(_Row):
    """Index of a pair such as BTC-USDT."""

    instId: Name
    idxPx: Price


class MarkRow(_Row):
    """Mark price, in the unit of the contract."""

    instId: Name
    markPx: Annotated[float, Field(ge=0)]


class OptionRow(_Row):
    """Mark volatility (a fraction a year) and forward of an option, USD."""

    instId: Name
    markVol: Annotated[float, Field(ge=0)]
    fwdPx: Price


class RealPosition(_Row):
    """A position that the account really has."""

    instId: Name
    pos: float
    avgPx: OptionalPrice = None


class RealBalance(_Row):
    """Cash that the account really has."""

    ccy: Name
    cashBal: float


class RealAccount(_Request):
    """What the account really has, taken in where the request says so."""

    positions: Annotated[list[RealPosition], BeforeValidator(_rows_of)] = []
    balances: Annotated[list[RealBalance], BeforeValidator(_rows_of)] = []


class Market(_Request):
    """The market at one time, `ts` in milliseconds, and optionally the real account."""

    ts: Annotated[float, Field(gt=0)]
    instruments: Annotated[list[InstrumentRow], BeforeValidator(_rows_of)]
    index: Annotated[list[IndexRow], BeforeValidator(_rows_of)]
    marks: Annotated[list[MarkRow], BeforeValidator(_rows_of)]
    options: Annotated[list[OptionRow], BeforeValidator(_rows_of)] = []
    account: RealAccount | None = None


def checked(kind: type[Checked], content: Any, shown: str) -> Checked:
    """The content as a request or market.

    Raises:
        ConfigError: an unknown or missing key, or a bad value; with the name of the file.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{shown}: is {type(content).__name__}; allowed: a JSON object")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise explain(error, kind, shown) from None


class Held(NamedTuple):
    """A position of the account; `key` is where it stands in its file."""

    key: str
    instrument_id: str
    contracts: float
    entry: float | None
    is_real: bool


def holdings(
    asked: BuilderRequest, given: Market, shown: tuple[str, str]
) -> tuple[list[Held], dict[str, float]]:
    """Positions, real ones first, and balances; real balances replace the simulated ones."""
    held = [
        Held(f"{shown[0]}: key 'simPos[{k}].instId'", row.instId, row.pos, row.avgPx, False)
        for k, row in enumerate(asked.simPos)
    ]
    if not asked.inclRealPosAndEq:
        balances: dict[str, float] = {}
        for asset in asked.simAsset:
            balances[asset.ccy] = balances.get(asset.ccy, 0.0) + asset.amt
        return held, balances
    if given.account is None:
        raise ConfigError(
            f"{shown[0]}: key 'inclRealPosAndEq' is true (its default), but {shown[1]} has no "
            "'account'; allowed: false, or a market file with 'account'"
        )
    real = [
        Held(
            f"{shown[1]}: key 'account.positions[{k}].instId'", row.instId, row.pos, row.avgPx, True
        )
        for k, row in enumerate(given.account.positions)
    ]
    return [*real, *held], {row.ccy: row.cashBal for row in given.account.balances}
