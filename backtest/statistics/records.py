"""What goes into the tests: outcomes, breach sequences and breach counts, each of one backtest.

An account has its own clock: the times when it was observed, in order. A gap in the data is closed,
the next observed time follows the last one; transitions and durations are counted on that clock.

Axes: ``set`` parameter sets, ``account``, ``time``; ``cell`` is any shape of at least one axis.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from backtest.errors import ConfigError, DataError

from .findings import BacktestKind


CHUNK_ELEMENTS = 4_000_000
"""Elements of account-times that are unrolled at a time; bounds memory, never a result."""


def check_probability(value: float, name: str = "probability") -> float:
    """The value, if it is a probability strictly between 0 and 1."""
    if not 0.0 < value < 1.0:
        raise ConfigError(f"{name} is {value}; it lies strictly between 0 and 1")
    return float(value)


@dataclass(frozen=True)
class Counts:
    """Breaches ``x`` among ``T`` observations.

    Attributes:
        kind: Which backtest was counted.
        probability: Target probability of a breach, 1 - confidence.
        breaches: ``x``.
        observations: ``T``.
    """

    kind: BacktestKind
    probability: float
    breaches: Int[np.ndarray, "*cell"]
    observations: Int[np.ndarray, "*cell"]

    def __post_init__(self) -> None:
        check_probability(self.probability)
        if self.breaches.ndim == 0:
            raise ConfigError("counts have at least one axis; use Counts.of for single numbers")
        wrong = (self.breaches < 0) | (self.breaches > self.observations)
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise DataError(
                f"breaches exceed observations or are negative in {int(wrong.sum())} cells, first "
                f"at {at}: {self.breaches[at]} of {self.observations[at]}"
            )

    @classmethod
    def of(
        cls, kind: BacktestKind, probability: float, breaches: object, observations: object
    ) -> "Counts":
        """Counts from numbers, lists or arrays; a single number becomes one cell.

        Example:
            >>> Counts.of(BacktestKind.CORE_MODEL, 0.01, 3, 250).coverage_frac
            array([0.988])
        """
        x, n = np.broadcast_arrays(*np.atleast_1d(np.asarray(breaches), np.asarray(observations)))
        return cls(kind, probability, x.astype(np.int64), n.astype(np.int64))

    @property
    def coverage_frac(self) -> Float[np.ndarray, "*cell"]:
        """``1 - x / T``; NaN where nothing was observed."""
        safe = np.maximum(self.observations, 1)
        return np.where(self.observations > 0, 1.0 - self.breaches / safe, np.nan)

    @property
    def too_many(self) -> Bool[np.ndarray, "*cell"]:
        """True where there are more breaches than expected."""
        return self.breaches > self.observations * self.probability


@dataclass(frozen=True)
class Breaches:
    """When each account breached: the flat, ragged view of sequences.

    Attributes:
        row: Row of each breach, rows being the cells of ``[set account]`` in C order.
        day: Its place on the account's clock, 1 for the first observed time.
        observations: Observed times of each row.
    """

    row: Int[np.ndarray, " breach"]
    day: Int[np.ndarray, " breach"]
    observations: Int[np.ndarray, " row"]

    @property
    def count(self) -> Int[np.ndarray, " row"]:
        """Breaches of each row."""
        return np.bincount(self.row, minlength=self.observations.size)

    @property
    def is_first(self) -> Bool[np.ndarray, " breach"]:
        """True at the first breach of a row."""
        return np.diff(self.row, prepend=-1) != 0

    @property
    def gap(self) -> Int[np.ndarray, " breach"]:
        """Times since the breach before, or since the clock started for the first one."""
        return np.where(self.is_first, self.day, np.diff(self.day, prepend=0))

    @property
    def first_day(self) -> Int[np.ndarray, " row"]:
        """Place of the first breach; 0 where there is none."""
        return self._at(self.is_first)

    @property
    def last_day(self) -> Int[np.ndarray, " row"]:
        """Place of the last breach; 0 where there is none."""
        return self._at(np.diff(self.row, append=-1) != 0)

    def _at(self, chosen: Bool[np.ndarray, " breach"]) -> Int[np.ndarray, " row"]:
        day = np.zeros(self.observations.size, dtype=np.int64)
        day[self.row[chosen]] = self.day[chosen]
        return day


@dataclass(frozen=True)
class Sequences:
    """Breaches ``I_t`` of every account over time.

    Attributes:
        kind: Which backtest was run.
        probability: Target probability of a breach.
        hit: True where the loss was above the margin.
        observed: False where there was no outcome; ``hit`` does not count there.
    """

    kind: BacktestKind
    probability: float
    hit: Bool[np.ndarray, "set account time"]
    observed: Bool[np.ndarray, "set account time"]

    def __post_init__(self) -> None:
        check_probability(self.probability)

    @classmethod
    def of(cls, kind: BacktestKind, probability: float, hit: object) -> "Sequences":
        """Fully observed sequences from an array of shape time, (account, time) or the full one."""
        array = np.asarray(hit, dtype=bool)
        if not 1 <= array.ndim <= 3:
            raise ConfigError(
                f"hit has {array.ndim} axes; allowed: time, account and set before it"
            )
        full = array.reshape((1,) * (3 - array.ndim) + array.shape)
        return cls(kind, probability, full, np.ones_like(full))

    @property
    def cells(self) -> tuple[int, int]:
        """Number of sets and accounts."""
        return self.hit.shape[0], self.hit.shape[1]

    def counts(self) -> Counts:
        """Breaches and observations of every cell, shape ``[set account]``."""
        return Counts(
            self.kind,
            self.probability,
            np.count_nonzero(self.hit & self.observed, axis=-1),
            np.count_nonzero(self.observed, axis=-1),
        )

    def breaches(self) -> Breaches:
        """All breaches on the accounts' clocks, rows in C order of ``[set account]``."""
        times = self.hit.shape[-1]
        rows, days = [], []
        for start, hit, observed in self._chunks():
            row, time = np.nonzero(hit & observed)
            clock = np.cumsum(observed, axis=-1, dtype=np.int64) if not observed.all() else None
            rows.append(row + start)
            days.append(time + 1 if clock is None else clock[row, time])
        observed = np.count_nonzero(self.observed.reshape(-1, times), axis=-1)
        empty = np.zeros(0, dtype=np.int64)
        return Breaches(np.concatenate([empty, *rows]), np.concatenate([empty, *days]), observed)

    def _chunks(
        self,
    ) -> Iterator[tuple[int, Bool[np.ndarray, "chunk time"], Bool[np.ndarray, "chunk time"]]]:
        times = self.hit.shape[-1]
        hit, observed = (a.reshape(-1, times) for a in (self.hit, self.observed))
        step = max(1, CHUNK_ELEMENTS // max(1, times))
        for start in range(0, hit.shape[0], step):
            yield start, hit[start : start + step], observed[start : start + step]


@dataclass(frozen=True)
class Outcomes:
    """Losses against margins of every account at every time.

    A breach is ``loss > margin``, strictly. For the liquidation outcome the loss is equity after
    the liquidation with its sign turned, the margin 0.

    Attributes:
        kind: Which backtest was run.
        probability: Target probability of a breach.
        times: Start of each observation, UTC.
        loss_usd: Loss over the margin period of risk, > 0 is a loss; NaN where not observed.
        margin_usd: Margin that was held against it; NaN where not observed.
    """

    kind: BacktestKind
    probability: float
    times: np.ndarray
    loss_usd: Float[np.ndarray, "set account time"]
    margin_usd: Float[np.ndarray, "set account time"]

    def __post_init__(self) -> None:
        check_probability(self.probability)
        if self.times.shape != self.loss_usd.shape[-1:]:
            raise DataError(f"{self.times.shape} times for {self.loss_usd.shape[-1]} observations")
        if np.isinf(self.loss_usd).any():
            raise DataError("loss_usd holds infinite values; mark what was not observed with NaN")

    @property
    def observed(self) -> Bool[np.ndarray, "set account time"]:
        """True where both loss and margin are known."""
        return ~(np.isnan(self.loss_usd) | np.isnan(self.margin_usd))

    @property
    def shortfall_usd(self) -> Float[np.ndarray, "set account time"]:
        """``(loss - margin)+`` in USD; NaN where not observed."""
        return np.maximum(self.loss_usd - self.margin_usd, 0.0)

    def sequences(self) -> Sequences:
        """When each account breached."""
        return Sequences(
            self.kind, self.probability, self.loss_usd > self.margin_usd, self.observed
        )
