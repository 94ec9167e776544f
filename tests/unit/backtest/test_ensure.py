"""A run builds its dataset once and refuses one that was built from other sections."""

from pathlib import Path
from typing import Any

import pytest

from backtest.config import RunConfig
from backtest.ensure import ensure_dataset
from backtest.errors import ConfigError, DataError


GENERATED = {"kind": "generated", "start": "2025-01-01T00:00:00Z", "end": "2025-01-02T00:00:00Z"}


def config(root: Path, market: dict[str, Any] | None, accounts: int | None) -> RunConfig:
    population = None if accounts is None else {"accounts": accounts, "buckets": 1}
    return RunConfig.model_validate(
        {
            "name": "ensured",
            "dataset": {"path": root / "dataset"},
            "market": market,
            "population": population,
            "parameter_sets": [{"name": "today", "file": "unused.toml"}],
        }
    )


def test_a_dataset_is_built_once_and_refused_when_its_sections_change(tmp_path: Path):
    said: list[str] = []
    chosen = config(tmp_path, GENERATED, 20)
    first = ensure_dataset(chosen, said.append)
    assert len(said) == 2
    assert first.meta.name == "dataset"
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    before = first.fingerprint()
    assert ensure_dataset(chosen, said.append).fingerprint() == before
    assert len(said) == 2
    for market, accounts, section in (
        (GENERATED | {"seed": 99}, 20, "market"),
        (GENERATED, 21, "population"),
    ):
        with pytest.raises(ConfigError, match=rf"another \[{section}\] section"):
            ensure_dataset(config(tmp_path, market, accounts), said.append)
    # Without the sections there is nothing to compare: the dataset is taken as it is.
    assert ensure_dataset(config(tmp_path, None, None), said.append).fingerprint() == before


def test_what_cannot_be_built_is_said(tmp_path: Path):
    with pytest.raises(DataError, match=r"no \[market\] to build it"):
        ensure_dataset(config(tmp_path, None, 20), lambda text: None)
    with pytest.raises(DataError, match=r"no \[population\]"):
        ensure_dataset(config(tmp_path, GENERATED, None), lambda text: None)
