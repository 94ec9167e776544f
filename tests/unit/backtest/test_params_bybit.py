import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backtest.errors import ConfigError
from backtest.params import load_parameter_set, parse_parameter_set
from backtest.params_base import LABELS
from backtest.paths import PROJECT_ROOT


FOLDER = PROJECT_ROOT / "configs" / "params"
NOW, BEFORE = FOLDER / "bybit-2025-01-10.toml", FOLDER / "bybit-pre-2025-01-10.toml"


def leaf(value: str, unit: str = "fraction") -> str:
    return f'{{ value = {value}, unit = "{unit}", label = "A", source = "test" }}'


def extend(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "mine.toml"
    file.write_text(f'extends = "{NOW}"\nname = "mine"\n{text}')
    return file


@pytest.mark.parametrize("file", [NOW, BEFORE], ids=lambda file: file.stem)
def test_every_number_is_labelled(file: Path) -> None:
    found = load_parameter_set(file)
    assert (found.name, found.model, found.era) == (file.stem, "bybit", "unified")
    assert len(found.leaves()) == 63
    assert found.label_counts() == {"S": 11, "P": 8, "D": 10, "A": 34}
    assert set(found.label_counts()) == set(LABELS)
    assert all(row.source for row in found.leaves())


def test_numbers() -> None:
    numbers = load_parameter_set(NOW).numbers()
    assert numbers["effective"] == "2025-01-10T08:00:00Z"
    assert numbers["quote_currencies"] == ["USDT", "USDC", "USD"]
    assert numbers["grid"]["price_range"] == {"BTC": 0.1, "ETH": 0.1, "default": 0.2}
    assert numbers["grid"]["price_steps"] == [i / 5 for i in range(-5, 6)]
    assert numbers["grid"]["near_expiry"]["window"] * 86_400.0 == 1_800.0
    assert numbers["aggregation"] == {"imr_factor": 1.2}
    assert numbers["borrowing"]["tiers"]["BTC"]["bounds"] == [390.0]
    assert numbers["collateral"]["BTC"]["rates"] == [0.85]
    levels = numbers["levels"]
    assert 1.0 / levels["repay"] == pytest.approx(0.85, rel=1e-15)
    assert 1.0 / levels["safe"] == pytest.approx(0.9, rel=1e-15)
    assert (levels["liquidation"], levels["min_equity_usd"]) == (1.0, 1_000.0)


def test_tables_shared_with_the_other_model_have_its_shape() -> None:
    mine = load_parameter_set(NOW).numbers()
    other = load_parameter_set(FOLDER / "okx-merged-2025-01-21.toml").numbers()
    for table in ("BTC", "ETH", "default"):
        assert set(mine["borrowing"]["tiers"][table]) == set(other["mr8"]["tiers"][table])
    assert set(mine["collateral"]["BTC"]) == set(other["collateral"]["BTC"])
    assert set(other["levels"]) <= set(mine["levels"])
    assert mine["borrowing"]["tiers"]["ETH"] == other["mr8"]["tiers"]["ETH"]
    assert mine["borrowing"]["tiers"]["default"] == other["mr8"]["tiers"]["default"]


def test_the_earlier_set_differs_in_two_price_ranges() -> None:
    one = {row.key: row.value for row in load_parameter_set(NOW).leaves()}
    before = load_parameter_set(BEFORE)
    changed = {row.key: row.value for row in before.leaves() if row.value != one[row.key]}
    assert changed == {"grid.price_range.BTC": 0.15, "grid.price_range.ETH": 0.15}
    assert before.effective == datetime(2023, 11, 16, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid.volatilty]\nup = 1", r"unknown key 'grid\.volatilty' .*'grid\.volatility'"),
        (f"[contingency]\nclendar_rate = {leaf('0.1')}", r"'contingency\.clendar_rate'.*calend"),
        (f"[grid]\nprice_steps = {leaf('[-1.0, 1.0]')}", r"'grid\.price_steps' must hold 0"),
        (f"[grid]\nprice_steps = {leaf('[0.0, 0.0]')}", r"'grid\.price_steps' must rise strictly"),
        (f"[grid]\nprice_steps = {leaf('[0.0, 1.2]')}", r"price_steps\.value\[1\]' is 1\.2"),
        (f"[grid.price_range]\nBTC = {leaf('1.0')}", r"'grid\.price_range\.BTC\.value' is 1\.0"),
        (f"[grid.volatility]\ndown = {leaf('1.1')}", r"'grid\.volatility\.down\.value' is 1\.1"),
        (
            f"[contingency.spot_basis]\nthreshold_rule = {leaf(repr('cap'), 'choice')}",
            r"threshold_rule\.value' is 'cap'; allowed: 'floor' or 'gate'",
        ),
        (
            f"[contingency.perpetual_futures]\nbounds_usd = {leaf('[1.0]')}",
            r"'contingency\.perpetual_futures\.rates' has 1 values, must have 2",
        ),
        (f"[levels]\nrepay = {leaf('1.05')}", r"must be ordered liquidation <= safe <= repay"),
        (
            f"[liquidation]\norder = {leaf('[' + repr('long_options') + ']', 'names')}",
            r"'liquidation\.order' must name",
        ),
        ('[borrowing.tiers.default]\nunit = "coin"', r"tiers\.default\.unit' is 'coin'"),
        ('[collateral.default]\nunit = "coin"', r"'collateral\.default\.unit' is 'coin'"),
        ('era = "merged"', r"'era' is 'merged'; allowed: 'unified'"),
    ],
)
def test_bad_set_is_named_with_file_key_and_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)^\S*mine\.toml: .*{message}"):
        load_parameter_set(extend(tmp_path, text))


@pytest.mark.parametrize(
    "table", ["grid.price_range", "contingency.spot_basis.factor", "borrowing.tiers", "collateral"]
)
def test_default_rows_are_required(table: str) -> None:
    tree = tomllib.loads(NOW.read_text())
    place = tree
    for key in table.split("."):
        place = place[key]
    del place["default"]
    with pytest.raises(ConfigError, match=rf"{table.split('.')[-1]}\.default' is missing"):
        parse_parameter_set(tree)
