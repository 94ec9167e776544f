"""Parameters of liquidation as it happens: stages, slices, costs, waterfall, impact.

A file of `configs/liquidation/` holds one such section. Margin levels (trigger, safe, warning) are
not here: they are the ``levels`` of the parameter set that the account is margined under.
``Liquidation.numbers()`` has the shape of these classes with plain values.

Example:
    >>> rules = load_liquidation("configs/liquidation/okx-default.toml")  # doctest: +SKIP
    >>> rules.numbers()["slices"]["fraction"]  # doctest: +SKIP
    0.1
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from backtest.config_errors import explain, read_toml
from backtest.params_base import (
    Leaf,
    LeafRow,
    Move,
    Name,
    NotNegative,
    Positive,
    Rate,
    Strict,
    check_ascending,
    check_length,
    plain,
    walk,
)


Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveShare = Annotated[float, Field(gt=0.0, le=1.0)]
Count = Annotated[float, Field(ge=1.0)]
Stage = Literal["cancel", "ddh1", "ddh2", "basis", "reduction", "repay", "partial"]
AssetOrder = Literal["lowest_discount_first", "highest_discount_first"]
Family = Literal["USDT", "USDC", "USD", "COIN"]

STAGES: dict[str, set[str]] = {
    "okx": {"cancel", "ddh1", "ddh2", "basis", "reduction"},
    "bybit": {"repay", "cancel", "partial"},
}
"""Stages of each margin model."""


def _needs_default(name: str, table: dict[str, Any]) -> None:
    if "default" not in table:
        raise ValueError(f"'{name}.default' is missing (used for every coin not named)")


class Stages(Strict):
    """The stages in the order in which they are asked after every slice; one left out is off."""

    order: Leaf[Annotated[list[Stage], Field(min_length=1)]]

    @model_validator(mode="after")
    def _once(self) -> "Stages":
        order = self.order.value
        if len(set(order)) != len(order):
            raise ValueError("'order' names a stage more than once")
        return self


class Slices(Strict):
    """A slice: a share of the leg at the start of its step, at least ``min_usd`` of size.

    ``max_slices`` and ``max_steps`` bound one account at one time; the rest is for the next time.
    """

    fraction: Leaf[PositiveShare]
    min_usd: Leaf[Positive]
    max_slices: Leaf[Count]
    max_steps: Leaf[Count]


class Fees(Strict):
    """Fees of liquidation trades on their size, an option's at most a share of its value."""

    taker_rate: Leaf[Rate]
    spot_rate: Leaf[Rate]
    option_cap_share: Leaf[Share]


class Slippage(Strict):
    """Distance of the price from the mark.

    ``mr7``: ``mr7_share`` of the leg's MR7 rate times the multiplier of its unit (that of the
    highest ``tier`` reached, the ``average``, or ``none``). ``flat``: ``linear_rates`` by coin and
    ``option_rate`` on the size. ``none``: the mark.
    """

    model: Leaf[Literal["mr7", "flat", "none"]]
    mr7_share: Leaf[NotNegative]
    multiplier: Leaf[Literal["tier", "average", "none"]]
    linear_rates: dict[Name, Leaf[Rate]]
    option_rate: Leaf[Rate]

    @model_validator(mode="after")
    def _default(self) -> "Slippage":
        _needs_default("linear_rates", self.linear_rates)
        return self


class Ddh2(Strict):
    """Delta hedge: whether perpetuals are opened, in the order of what they settle in."""

    may_open: Leaf[bool]
    perpetuals: Leaf[list[Family]]


class Basis(Strict):
    """Basis hedge: the currency that spot is exchanged for."""

    spot_quote: Leaf[Name]


class Reduction(Strict):
    """Position reduction: whether debts are legs that can be reduced, by selling assets."""

    debts: Leaf[bool]


class Repay(Strict):
    """Repaying debts: which asset is sold first; debts below ``min_usd`` are left alone."""

    order: Leaf[AssetOrder]
    min_usd: Leaf[Positive]


class InsuranceFund(Strict):
    """The fund: what it starts with, its share of fees, and of what a closed account leaves."""

    start_usd: Leaf[NotNegative]
    fee_share: Leaf[Share]
    surplus_share: Leaf[Share]


class Adl(Strict):
    """Auto-deleveraging: due when the fund is empty or down by ``drop`` from its recent peak.

    ``capped``: no account gives more than ``cap_share`` of its equity. ``fund_last``: whether the
    fund pays, while deleveraging is due, what the accounts do not give.
    """

    policy: Leaf[Literal["none", "queue", "pro_rata", "capped"]]
    drop: Leaf[Share]
    window_days: Leaf[NotNegative]
    cap_share: Leaf[Share]
    fund_last: Leaf[bool]


class Linear(Strict):
    """Move of the price for 1,000,000 USD, by coin."""

    move_per_musd: dict[Name, Leaf[NotNegative]]

    @model_validator(mode="after")
    def _default(self) -> "Linear":
        _needs_default("move_per_musd", self.move_per_musd)
        return self


class SquareRoot(Strict):
    """``factor * daily volatility * sqrt(size / adv)``, straight below ``min_usd``."""

    factor: Leaf[NotNegative]
    adv_usd: dict[Name, Leaf[Positive]]
    min_usd: Leaf[Positive]

    @model_validator(mode="after")
    def _default(self) -> "SquareRoot":
        _needs_default("adv_usd", self.adv_usd)
        return self


class DepthTable(Strict):
    """Cumulative depth of one side of the book in USD at moves of the price."""

    moves: Leaf[Annotated[list[Move], Field(min_length=1)]]
    usd: Leaf[list[Positive]]

    @model_validator(mode="after")
    def _points(self) -> "DepthTable":
        check_length("usd", self.usd.value, len(self.moves.value), "as many as 'moves'")
        check_ascending("moves", [0.0, *self.moves.value])
        check_ascending("usd", self.usd.value)
        return self


class Depth(Strict):
    """Depth tables by coin; the depth falls with volatility, ``(reference / it) ** exponent``."""

    tables: dict[Name, DepthTable]
    reference_volatility: Leaf[Positive]
    exponent: Leaf[NotNegative]
    floor: Leaf[PositiveShare]

    @model_validator(mode="after")
    def _default(self) -> "Depth":
        _needs_default("tables", self.tables)
        return self


class Impact(Strict):
    """What liquidations do to prices; ``none`` leaves every number as it is without.

    A move is halved every ``half_life_days`` (0: gone at the next time) and is at most
    ``max_move``. Rounds end when prices change by ``tolerance`` at most, or after ``max_rounds``.
    Daily volatility is that of the index over the last ``volatility_days``.
    """

    model: Leaf[Literal["none", "linear", "square_root", "depth"]]
    moves_index: Leaf[bool]
    half_life_days: Leaf[NotNegative]
    volatility_days: Leaf[Positive]
    max_move: Leaf[Move]
    max_rounds: Leaf[Count]
    tolerance: Leaf[NotNegative]
    linear: Linear
    square_root: SquareRoot
    depth: Depth


class Liquidation(Strict):
    """Rules of liquidation as it happens, of one margin model."""

    name: Name
    model: Literal["okx", "bybit"]
    description: str = ""
    stages: Stages
    slices: Slices
    fees: Fees
    slippage: Slippage
    ddh2: Ddh2
    basis: Basis
    reduction: Reduction
    repay: Repay
    fund: InsuranceFund
    adl: Adl
    impact: Impact

    @model_validator(mode="after")
    def _of_the_model(self) -> "Liquidation":
        allowed = STAGES[self.model]
        wrong = [stage for stage in self.stages.order.value if stage not in allowed]
        if wrong:
            raise ValueError(
                f"'stages.order' names '{wrong[0]}'; allowed of the model '{self.model}': "
                + ", ".join(sorted(allowed))
            )
        if self.model == "bybit" and self.slippage.model.value == "mr7":
            raise ValueError("'slippage.model' is 'mr7'; the model 'bybit' has no MR7")
        return self

    def numbers(self) -> dict[str, Any]:
        """The tree of the file with every leaf replaced by its value (a new dict each time)."""
        return plain(self)

    def leaves(self) -> list[LeafRow]:
        """All leaves as (key path, value, unit, label, source)."""
        return list(walk(self))


def load_liquidation(path: str | Path) -> Liquidation:
    """Read and validate a liquidation file.

    Raises:
        ConfigError: names the file, the full key path, the value and what is allowed.
    """
    file = Path(path)
    tree = read_toml(file, "liquidation file")
    try:
        return Liquidation.model_validate(tree)
    except ValidationError as error:
        raise explain(error, Liquidation, str(file)) from error
