"""The dataset of a run: opened, or built from the run's own sections where it is absent."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from backtest.config import RunConfig
from backtest.dataset import Dataset
from backtest.durable import write_json
from backtest.errors import ConfigError, DataError
from backtest.market.build import build_market
from backtest.population.build import build_population


BUILT_FILE = "built_from.json"
"""Beside a dataset that a run built: hashes of the sections that it was built from."""


def ensure_dataset(config: RunConfig, say: Callable[[str], None]) -> Dataset:
    """The run's dataset; built first where it is absent and the configuration says how."""
    root = config.dataset.path
    if not (root / "dataset.json").is_file():
        if config.market is None:
            raise DataError(
                f"{root}: no dataset there, and the configuration has no [market] to build it"
            )
        say(f"building the market of '{config.name}' in {root}")
        # Under its own name in a folder beside: a dataset is called as its folder is.
        beside = root.with_name(f".{root.name}.building")
        shutil.rmtree(beside, ignore_errors=True)
        partial = beside / root.name
        build_market(config.market, partial)
        _note_built(partial, "market", config.market)
        partial.rename(root)
        beside.rmdir()
    dataset = Dataset.open(root)
    if not dataset.has("balances"):
        if config.population is None:
            raise DataError(
                f"{root}: the dataset has no accounts, and the configuration has no [population]"
            )
        say(f"drawing {config.population.accounts:,} accounts")
        build_population(root, config.population)
        _note_built(root, "population", config.population)
        dataset = Dataset.open(root)
    _check_built(config, root)
    return dataset


ADDED_LATER = ("stay", "volatility_step")
"""Keys that older datasets do not know: where they are not set, nothing has changed."""


def _section_hash(section: BaseModel) -> str:
    keys = section.model_dump(mode="json")
    known = {key: value for key, value in keys.items() if key not in ADDED_LATER or value}
    text = json.dumps(known, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _built(root: Path) -> dict[str, str]:
    file = root / BUILT_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _note_built(root: Path, name: str, section: BaseModel) -> None:
    write_json(root / BUILT_FILE, _built(root) | {name: _section_hash(section)})


def _check_built(config: RunConfig, root: Path) -> None:
    """Refuse a dataset that was built from sections that have been changed since."""
    built = _built(root)
    for name, section in (("market", config.market), ("population", config.population)):
        if section is not None and built.get(name, _section_hash(section)) != _section_hash(
            section
        ):
            raise ConfigError(
                f"{root}: was built from another [{name}] section than the configuration has now; "
                "remove the folder to build it anew, or choose another dataset.path"
            )
