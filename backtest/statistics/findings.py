"""What a test says: one immutable record for all of them, with a verdict for every cell.

A cell is one element of whatever was tested, usually ``[set account]``. A verdict that a test
cannot give is a verdict of its own ("insufficient data: ..."), so that NaN never stands alone.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, UInt8

from backtest.errors import ConfigError


class BacktestKind(StrEnum):
    """The three questions that must never be mixed; every record and result carries its own.

    The core model is judged without add-ons whose risk is not in the price history; adequacy takes
    the whole requirement of real portfolios; the liquidation outcome asks whether equity was left.
    """

    CORE_MODEL = "core model"
    MARGIN_ADEQUACY = "margin adequacy"
    LIQUIDATION_OUTCOME = "liquidation outcome"


class Verdict(IntEnum):
    """What a test concludes about one cell; ``words`` is the sentence for a reader."""

    NOT_REJECTED = 0
    TOO_MANY = 1
    TOO_FEW = 2
    CLUSTERED = 3
    SPREAD_OUT = 4
    REJECTED = 5
    TOO_SEVERE = 6
    FIRST_IS_BETTER = 7
    SECOND_IS_BETTER = 8
    LOW_POWER = 9
    NO_BREACH = 10
    FEW_BREACHES = 11
    NO_CALM = 12
    NO_DIFFERENCE = 13
    FEW_TIMES = 14
    NO_OBSERVATIONS = 15
    NOT_TESTED = 16

    @property
    def words(self) -> str:
        """The verdict as a sentence."""
        return WORDS[self]


WORDS = {
    Verdict.NOT_REJECTED: "not rejected",
    Verdict.TOO_MANY: "rejected: more breaches than the target allows",
    Verdict.TOO_FEW: "rejected: fewer breaches than the target, margin is dearer than it claims",
    Verdict.CLUSTERED: "rejected: breaches come in clusters",
    Verdict.SPREAD_OUT: "rejected: breaches come more evenly than by chance",
    Verdict.REJECTED: "rejected: breaches do not come by chance",
    Verdict.TOO_SEVERE: "rejected: losses beyond the margin are larger than the model says",
    Verdict.FIRST_IS_BETTER: "rejected: the first set scores better",
    Verdict.SECOND_IS_BETTER: "rejected: the second set scores better",
    Verdict.LOW_POWER: "insufficient data: the stated alternative would often go unnoticed",
    Verdict.NO_BREACH: "insufficient data: no breach",
    Verdict.FEW_BREACHES: "insufficient data: fewer than two breaches",
    Verdict.NO_CALM: "insufficient data: fewer than two times without a breach",
    Verdict.NO_DIFFERENCE: "insufficient data: nothing varies over time",
    Verdict.FEW_TIMES: "insufficient data: too few times",
    Verdict.NO_OBSERVATIONS: "insufficient data: no observations",
    Verdict.NOT_TESTED: "insufficient data: not tested",
}
REJECTIONS = tuple(v for v in Verdict if v.words.startswith("rejected"))
INSUFFICIENT = tuple(v for v in Verdict if v.words.startswith("insufficient"))


@dataclass(frozen=True)
class Rule:
    """How a p value becomes a verdict.

    Attributes:
        alpha: Size of a test, a probability.
        min_power: Below this probability of noticing the alternative, "not rejected" would be a
            false pass and the verdict is "insufficient data" (C13 asks for 80 %).
        alternative_ratio: The breach probability that must be noticed / the target. An assumption:
            a margin that fails twice as often as promised should not pass unseen.
    """

    alpha: float = 0.05
    min_power: float = 0.8
    alternative_ratio: float = 2.0

    def __post_init__(self) -> None:
        for name in ("alpha", "min_power"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it lies between 0 and 1")
        if self.alternative_ratio <= 1.0:
            raise ConfigError(f"alternative_ratio is {self.alternative_ratio}; it is above 1")

    def alternative(self, probability: Float[np.ndarray, "*cell"]) -> Float[np.ndarray, "*cell"]:
        """Breach probability that must be noticed; at most half of the way from target to 1."""
        return np.minimum(self.alternative_ratio * probability, 0.5 * (1.0 + probability))


DEFAULT_RULE = Rule()


@dataclass(frozen=True)
class Finding:
    """One test on all cells.

    Attributes:
        kind: Which backtest the numbers belong to.
        test: Name of the test.
        rule: Size and power behind the verdicts.
        statistic: Its value; NaN only where the verdict says why.
        degrees: Degrees of freedom of the chi-square limit; 0 where the limit is another one.
        p_value: From the limit distribution, a probability.
        verdict: Codes of ``Verdict``.
        p_exact: From the finite-sample distribution, where there is one; it decides the verdict.
        p_mid: ``p_exact`` less half of the probability of what was observed.
        power: Probability of noticing the alternative of ``rule``, where it is known.
    """

    kind: BacktestKind
    test: str
    rule: Rule
    statistic: Float[np.ndarray, "*cell"]
    degrees: Int[np.ndarray, "*cell"]
    p_value: Float[np.ndarray, "*cell"]
    verdict: UInt8[np.ndarray, "*cell"]
    p_exact: Float[np.ndarray, "*cell"] | None = None
    p_mid: Float[np.ndarray, "*cell"] | None = None
    power: Float[np.ndarray, "*cell"] | None = None

    @property
    def p_decisive(self) -> Float[np.ndarray, "*cell"]:
        """The p value behind the verdict: exact where there is one."""
        return self.p_value if self.p_exact is None else self.p_exact

    @property
    def rejected(self) -> Bool[np.ndarray, "*cell"]:
        """True where the test rejects."""
        return np.isin(self.verdict, REJECTIONS)

    @property
    def insufficient(self) -> Bool[np.ndarray, "*cell"]:
        """True where the data allow no verdict."""
        return np.isin(self.verdict, INSUFFICIENT)

    @property
    def words(self) -> np.ndarray:
        """Verdicts as sentences, an array of str in the shape of the cells."""
        return np.array([v.words for v in Verdict])[self.verdict]

    def frame(self) -> pd.DataFrame:
        """One row for each cell in C order, with the kind of backtest and the words."""
        columns = {
            "backtest": self.kind.value,
            "test": self.test,
            "statistic": self.statistic.ravel(),
            "degrees": self.degrees.ravel(),
            "p_value": self.p_value.ravel(),
        }
        for name in ("p_exact", "p_mid", "power"):
            value = getattr(self, name)
            if value is not None:
                columns[name] = value.ravel()
        return pd.DataFrame(columns | {"verdict": self.words.ravel()})


@runtime_checkable
class HasKind(Protocol):
    """Whatever says which backtest it belongs to."""

    @property
    def kind(self) -> BacktestKind:
        """The kind of backtest."""
        ...


def same_kind(*records: HasKind) -> BacktestKind:
    """The kind that all records share.

    Raises:
        ConfigError: The records belong to different backtests, or there are none.
    """
    kinds = sorted({record.kind for record in records})
    if len(kinds) != 1:
        found = ", ".join(repr(kind.value) for kind in kinds) or "nothing"
        raise ConfigError(
            f"one kind of backtest at a time, got {found}; test and report them apart"
        )
    return kinds[0]


def decide(
    p: Float[np.ndarray, "*cell"],
    rejection: UInt8[np.ndarray, "*cell"],
    rule: Rule,
    *,
    power: Float[np.ndarray, "*cell"] | None = None,
    insufficient: UInt8[np.ndarray, "*cell"] | None = None,
) -> UInt8[np.ndarray, "*cell"]:
    """Verdict codes: what holds where ``p < alpha`` is in ``rejection``.

    Args:
        p: Decisive p values.
        rejection: The verdict in case of rejection.
        rule: Size, and the power below which a pass is none.
        power: Probability of noticing the alternative.
        insufficient: A verdict that goes before all others where it is not ``NOT_REJECTED``.
    """
    verdict = np.where(p < rule.alpha, rejection, np.uint8(Verdict.NOT_REJECTED)).astype(np.uint8)
    if power is not None:
        weak = (verdict == Verdict.NOT_REJECTED) & (power < rule.min_power)
        verdict[weak] = Verdict.LOW_POWER
    if insufficient is not None:
        verdict = np.where(insufficient, insufficient, verdict).astype(np.uint8)
    return verdict


def codes(
    shape: tuple[int, ...], *cases: tuple[Bool[np.ndarray, "..."], Verdict]
) -> UInt8[np.ndarray, "..."]:
    """Codes of the first case that holds in each cell, ``NOT_REJECTED`` where none does."""
    found = np.zeros(shape, dtype=np.uint8)
    for holds, verdict in reversed(cases):
        found[holds] = verdict
    return found
