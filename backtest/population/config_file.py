"""Read the section ``[population]`` of a configuration file."""

from pathlib import Path

from backtest.config_errors import read_section
from backtest.population.config import PopulationConfig


def load_population_config(path: Path) -> PopulationConfig:
    """Section ``[population]`` of a TOML file.

    Raises:
        ConfigError: no such file or section, broken TOML, an unknown key or a bad value.
    """
    return read_section(path, "population", PopulationConfig, "; it may be empty")
