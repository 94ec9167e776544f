"""What a population turned out to be: counts, sums and histograms by archetype."""

from datetime import datetime
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from backtest.durable import write_bytes
from backtest.population.arrays import Floats, Ints, sum_by
from backtest.population.books import Books
from backtest.population.catalogue import OPTION
from backtest.population.config import ARCHETYPES, Archetype, PopulationConfig
from backtest.population.universe import Universe


EQUITY_EDGES_USD = np.logspace(3, 9, 61)
LEVERAGE_EDGES = np.concatenate([[0.0], np.logspace(-2, 2, 33)])
DELTA_EDGES = np.linspace(-6.0, 6.0, 97)
LEVEL_EDGES = np.array([0.0, 1.0, 1.1, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, np.inf])
REPORT_FILE = "population.json"


class Summary(BaseModel):
    """One archetype at the first snapshot; sums in USD, histograms by the report's edges."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accounts: int
    legs: int
    equity_usd: float
    gross_notional_usd: float
    option_notional_usd: float
    net_delta_usd: float
    equity_counts: list[int]
    leverage_counts: list[int]
    delta_counts: list[int]
    level_counts: list[int]
    """By estimated margin level; accounts without a requirement are in the last class."""


class PopulationReport(BaseModel):
    """Result of a build, saved as ``population.json`` beside the dataset.

    ``left_out``: weights of archetypes that the market cannot hold, spread over the others.
    Leverage is gross notional over equity, delta the derivatives' net USD delta over equity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    accounts: int
    buckets: int
    snapshots: list[datetime]
    rows: dict[str, int]
    seconds: float
    left_out: dict[Archetype, float]
    archetypes: dict[Archetype, Summary]
    equity_edges_usd: list[float]
    leverage_edges: list[float]
    delta_edges: list[float]
    level_edges: list[float | None]
    config: PopulationConfig

    @property
    def equity_usd(self) -> float:
        """Equity of all accounts at the first snapshot, USD."""
        return sum(s.equity_usd for s in self.archetypes.values())

    def save(self, folder: Path) -> Path:
        """Write ``population.json`` into ``folder``."""
        path = folder / REPORT_FILE
        write_bytes(path, (self.model_dump_json(indent=1) + "\n").encode())
        return path

    @classmethod
    def load(cls, folder: Path) -> "PopulationReport":
        """Read ``population.json`` of ``folder``."""
        return cls.model_validate_json((folder / REPORT_FILE).read_text())


class Tally:
    """Adds up books chunk by chunk; memory does not grow with the number of accounts."""

    def __init__(self) -> None:
        kinds = len(ARCHETYPES)
        self._sums: dict[str, Floats] = {}
        self._counts: dict[str, Ints] = {}
        self._kinds = kinds

    def add(self, books: Books, universe: Universe) -> None:
        """Count some accounts at the first snapshot."""
        legs, count = books.legs, len(books.number)
        usd = np.abs(legs.contracts) * universe.notional[legs.instrument]
        option = universe.market.kind[legs.instrument] == OPTION
        gross = sum_by(legs.account, usd, count)
        equity = np.maximum(books.equity, 1e-9)
        sums = {
            "accounts": np.ones(count),
            "legs": sum_by(legs.account, np.ones(len(usd)), count),
            "equity_usd": books.equity,
            "gross_notional_usd": gross,
            "option_notional_usd": sum_by(legs.account, usd * option, count),
            "net_delta_usd": books.estimate.delta,
        }
        for name, values in sums.items():
            by_kind = sum_by(books.archetype, values, self._kinds)
            self._sums[name] = self._sums[name] + by_kind if name in self._sums else by_kind
        delta = np.clip(books.estimate.delta / equity, DELTA_EDGES[0], DELTA_EDGES[-1])
        self._count("equity_counts", books, books.equity, EQUITY_EDGES_USD)
        self._count("leverage_counts", books, gross / equity, LEVERAGE_EDGES)
        self._count("delta_counts", books, delta, DELTA_EDGES)
        self._count("level_counts", books, books.estimate.level, LEVEL_EDGES)

    def _count(self, name: str, books: Books, values: Floats, edges: Floats) -> None:
        bins = len(edges) - 1
        place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
        found = np.bincount(books.archetype * bins + place, minlength=self._kinds * bins)
        table = found.reshape(self._kinds, bins).astype(np.int64)
        self._counts[name] = self._counts[name] + table if name in self._counts else table

    def summaries(self) -> dict[Archetype, Summary]:
        """Summary of every archetype that has accounts."""
        out: dict[Archetype, Summary] = {}
        for code, name in enumerate(ARCHETYPES):
            if self._sums["accounts"][code] > 0:
                sums = {key: float(values[code]) for key, values in self._sums.items()}
                counts = {key: table[code].tolist() for key, table in self._counts.items()}
                out[name] = Summary.model_validate(sums | counts)
        return out
