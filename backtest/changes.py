"""Configurations with some keys changed, for programs that vary one file."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from backtest.config_errors import explain
from backtest.errors import ConfigError


Config = TypeVar("Config", bound=BaseModel)


def with_changes(config: Config, changes: Mapping[str, Any]) -> Config:
    """The configuration with other values at dotted keys, validated like a file.

    Args:
        config: a run's or a calibration's configuration.
        changes: value by key path; a list replaces the whole list, None removes a section.

    Raises:
        ConfigError: an unknown key or a value that is not allowed; names the key.

    Example:
        >>> from backtest.config import load_config
        >>> smoke = load_config("configs/smoke.toml")                        # doctest: +SKIP
        >>> with_changes(smoke, {"population.accounts": 50}).population.accounts  # doctest: +SKIP
        50
    """
    tree = config.model_dump()
    for key, value in changes.items():
        *sections, last = key.split(".")
        place: Any = tree
        for depth, name in enumerate(sections):
            place = place.get(name)
            if not isinstance(place, dict):
                where = ".".join(sections[: depth + 1])
                raise ConfigError(f"changes: key '{key}': '{where}' is no section of this file")
        place[last] = value
    try:
        return type(config).model_validate(tree)
    except ValidationError as error:
        raise explain(error, type(config), "changes") from error
