"""Seeded synthetic accounts on any market dataset; all of their parameters are assumed."""

from backtest.population.build import build_population
from backtest.population.config import PopulationConfig
from backtest.population.figure import population_figure
from backtest.population.report import PopulationReport


__all__ = ["PopulationConfig", "PopulationReport", "build_population", "population_figure"]
