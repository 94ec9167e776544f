"""Counter-based random numbers: a draw depends on (seed, account number, name of the draw) only.

Every named draw has its own SplitMix64 sequence; the account number is the counter. So an account
is the same in any chunk, bucket or population size, and accounts can be made in any order.

References:
    Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtri

from backtest.population.arrays import Floats, Ints
from backtest.population.config import Leverage


_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_QUANTILES = 4096


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state ^= state >> np.uint64(30)
    state *= _MIX1
    state ^= state >> np.uint64(27)
    state *= _MIX2
    state ^= state >> np.uint64(31)
    return state


@lru_cache(maxsize=64)
def _beta_quantiles(a: float, b: float) -> tuple[Floats, Floats]:
    grid = np.linspace(0.0, 1.0, _QUANTILES + 1)
    return grid, betaincinv(a, b, grid)


class Draws:
    """Random numbers of some accounts; ``salt`` separates snapshots and purposes."""

    def __init__(self, seed: int, number: Ints, salt: str = "") -> None:
        self.number = number
        self._seed = seed
        self.salt = salt
        self._counter = (number.astype(np.uint64) + np.uint64(1)) * _GAMMA

    def __len__(self) -> int:
        return len(self.number)

    def of(self, row: Ints) -> "Draws":
        """The draws of some of the accounts (rows of this object)."""
        return Draws(self._seed, self.number[row], self.salt)

    def uniform(self, name: str) -> Floats:
        """One number in (0, 1) for each account."""
        text = f"{self._seed}/{self.salt}/{name}".encode()
        key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
        bits = _mix(self._counter + np.uint64(key)) >> np.uint64(12)
        return (bits.astype(np.float64) + 0.5) * 2.0**-52

    def matrix(self, name: str, count: int) -> Floats:
        """``count`` numbers in (0, 1) for each account, one column a draw."""
        columns = [self.uniform(f"{name}/{i}") for i in range(count)]
        return np.stack(columns, axis=1) if columns else np.zeros((len(self), 0))

    def between(self, name: str, low: float, high: float) -> Floats:
        """One number in (low, high) for each account."""
        return low + (high - low) * self.uniform(name)

    def normal(self, name: str) -> Floats:
        """One standard normal number for each account."""
        return ndtri(self.uniform(name))

    def sign(self, name: str, positive: float = 0.5) -> Floats:
        """+1 with the chance ``positive``, else -1."""
        return np.where(self.uniform(name) < positive, 1.0, -1.0)

    def below(self, name: str, count: Ints | int) -> Ints:
        """An integer in [0, count) for each account; ``count`` may differ by account."""
        return (self.uniform(name) * count).astype(np.int64)

    def choice(self, name: str, weights: Floats) -> Ints:
        """An index drawn with the given weights (at least one above 0) for each account."""
        edges = np.cumsum(weights)
        found = np.searchsorted(edges, self.uniform(name) * edges[-1], side="right")
        return np.minimum(found, int(np.flatnonzero(weights)[-1])).astype(np.int64)

    def leverage(self, name: str, law: Leverage) -> Floats:
        """Leverage of each account, dimensionless."""
        grid, quantile = _beta_quantiles(law.a, law.b)
        beta = np.interp(self.uniform(name), grid, quantile)
        return law.low * (law.high / law.low) ** beta
