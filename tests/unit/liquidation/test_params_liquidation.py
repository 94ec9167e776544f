"""The liquidation files load, keep their provenance, and refuse what does not fit."""

from pathlib import Path

import pytest

from backtest.errors import ConfigError
from backtest.params_liquidation import STAGES, load_liquidation
from tests.unit.liquidation.liquidation_books import RULES


FILES = sorted(RULES.glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_named_after_its_section(path: Path) -> None:
    found = load_liquidation(path)
    assert found.name == path.stem
    assert set(found.stages.order.value) == STAGES[found.model]
    assert all(row.source for row in found.leaves())
    assert found.numbers()["impact"]["model"] == "none"


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("okx", "fraction = { value = 0.1", "fraction = { value = 0.0", "slices.fraction.value"),
        ("okx", '"ddh1", "ddh2"', '"ddh1", "ddh1"', "more than once"),
        ("okx", '"ddh1", "ddh2"', '"partial", "ddh2"', "stages.order' names 'partial'"),
        (
            "bybit",
            '[slippage]\nmodel = { value = "flat"',
            '[slippage]\nmodel = { value = "mr7"',
            "no MR7",
        ),
        ("okx", "[adl]\npolicy", "[adl]\npolcy", "polcy"),
        ("okx", "0.05], unit", "0.0005], unit", "must rise strictly"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, file: str, old: str, new: str, says: str
) -> None:
    text = (RULES / f"{file}-default.toml").read_text(encoding="utf-8")
    assert old in text
    broken = tmp_path / "broken.toml"
    broken.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=says) as error:
        load_liquidation(broken)
    assert "broken.toml" in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such liquidation file"):
        load_liquidation(tmp_path / "none.toml")
