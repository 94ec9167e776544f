"""Which liquidation rules a run has: the file of each margin model and what the run sets itself."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from backtest.config import LiquidationSection, RunConfig
from backtest.errors import ConfigError
from backtest.params_liquidation import Liquidation, load_liquidation
from backtest.schedule import load_rules
from kernels.records import QUOTES


def rules_of_sets(config: RunConfig) -> list[dict[str, Any]]:
    """Plain numbers of the liquidation of each parameter set; none where a run only measures.

    Raises:
        ConfigError: a file is missing or of another model, or asks for what a run cannot do.
    """
    if config.liquidation.mode == "measure":
        return []
    models = [load_rules(chosen.file).model for chosen in config.parameter_sets]
    return [_numbers(config.liquidation, model) for model in models]


def file_hashes(config: RunConfig) -> list[str]:
    """Content hashes of the liquidation files that a run uses."""
    if config.liquidation.mode == "measure":
        return []
    files = [file for _, file in sorted(config.liquidation.rules.items())]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@cache
def _loaded(file: Path) -> Liquidation:
    return load_liquidation(file)


def _numbers(section: LiquidationSection, model: str) -> dict[str, Any]:
    file = section.rules.get(model)
    if file is None:
        raise ConfigError(
            f"liquidation.rules names no file for the margin model '{model}' of a parameter set; "
            f"for example {model} = 'liquidation/{model}-default.toml'"
        )
    rules = _loaded(file)
    if rules.model != model:
        raise ConfigError(
            f"liquidation.rules.{model}: {file} is of the model '{rules.model}'; allowed: '{model}'"
        )
    numbers = rules.numbers()
    if section.fund_usd is not None:
        numbers["fund"]["start_usd"] = section.fund_usd
    if section.adl_policy is not None:
        numbers["adl"]["policy"] = section.adl_policy
    if section.impact_model is not None:
        numbers["impact"]["model"] = section.impact_model
    return scaled(numbers, section.impact_scale)


def scaled(numbers: dict[str, Any], scale: float) -> dict[str, Any]:
    """The numbers with another size of the impact, the very same ones at a scale of 1.

    Linear: moves a USD times the scale; square root: its factor; depth: a book so much thinner. At
    0 nothing that is traded moves a price. Bounds and decay stay.
    """
    if scale == 1.0:
        return numbers
    rule = dict(numbers["impact"])
    moves = rule["linear"]["move_per_musd"]
    rule["linear"] = {"move_per_musd": {coin: scale * x for coin, x in moves.items()}}
    root = rule["square_root"]
    rule["square_root"] = root | {"factor": scale * root["factor"]}
    tables = rule["depth"]["tables"]
    with np.errstate(divide="ignore"):
        thinner = {
            coin: table | {"usd": (np.asarray(table["usd"]) / scale).tolist()}
            for coin, table in tables.items()
        }
    rule["depth"] = rule["depth"] | {"tables": thinner}
    return numbers | {"impact": rule}


def hedging_perpetuals(instruments: pd.DataFrame, held: np.ndarray) -> np.ndarray:
    """Which instruments are perpetuals in the coins of those that are held.

    A liquidation may hedge in them, whoever holds them.
    """
    coin = instruments["coin"].astype(str).to_numpy()
    settle = instruments["settle"].astype(str).to_numpy()
    is_perpetual = instruments["kind"].astype(str).to_numpy() == "perpetual"
    is_known = np.isin(settle, QUOTES) | (settle == coin)
    return is_perpetual & is_known & np.isin(coin, coin[held])
