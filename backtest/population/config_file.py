"""Read the section ``[population]`` of a configuration file."""

from pathlib import Path

from pydantic import ValidationError

from backtest.config_errors import explain, read_toml
from backtest.errors import ConfigError
from backtest.population.config import PopulationConfig


def load_population_config(path: Path) -> PopulationConfig:
    """Section ``[population]`` of a TOML file.

    Raises:
        ConfigError: no such file or section, broken TOML, an unknown key or a bad value.
    """
    section = read_toml(path).get("population")
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: section [population] is missing; it may be empty")
    try:
        return PopulationConfig.model_validate(section)
    except ValidationError as error:
        raise explain(error, PopulationConfig, str(path), ("population",)) from error
