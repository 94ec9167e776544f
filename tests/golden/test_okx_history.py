"""Published numbers of the split era, through the schedule of the dated rules: V3, V4, V5."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backtest.paths import PROJECT_ROOT
from backtest.reference import breakeven
from backtest.reference.okx import margin
from backtest.reference.okx_fees import marginal_tiers
from backtest.schedule import load_rules
from tests.okx_books import option, portfolio, swap


VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "okx_pm.json").read_text())
RULES = load_rules(PROJECT_ROOT / "configs" / "params" / "schedules" / "okx-history.toml")
SPOT_ENTERS = datetime(2024, 6, 5, 4, tzinfo=UTC)


def v3(time: datetime, mark: float) -> dict[str, Any]:
    """10 BTC, 1,000 contracts of 0.01 sold, a resting buy of 5 BTC at the index; fx 1."""
    index = VECTORS["V3"]["solved_prices"]["index"]
    spot = {
        "instrument_id": "BTC-USDT",
        "kind": "spot",
        "coin": "BTC",
        "settle": "USDT",
        "style": "linear",
        "multiplier": 1.0,
        **dict.fromkeys(("strike", "option_type", "expiry")),
    }
    book = portfolio(
        swap("BTC-USDT-SWAP", -1000.0, mark, multiplier=0.01),
        time=time,
        index_usd={"BTC": index, "USDT": 1.0},
        balances={"BTC": 10.0, "USDT": 400_000.0},
        spot_mode="USDT",
        orders=[{"instrument_id": "BTC-USDT", "contracts": 5.0, "price": index}],
    )
    book["instruments"].append(spot)
    return margin(book, RULES.at(time).numbers())


@pytest.mark.parametrize(
    ("key", "time"),
    [
        ("before_2024_06_05", SPOT_ENTERS - timedelta(microseconds=1)),
        ("after_2024_06_05", SPOT_ENTERS),
    ],
)
def test_v3(key: str, time: datetime):
    mark = VECTORS["V3"]["solved_prices"]["mark_" + key.partition("_")[0]]
    units = v3(time, mark)["units"]
    assert list(units) == ["BTC-USDT"]
    unit = units["BTC-USDT"]
    assert unit["spot_in_use"] == 10.0
    assert unit["binding"] == "positions"
    for name, expected in VECTORS["V3"][key].items():
        assert unit[name] == pytest.approx(expected, abs=VECTORS["V3"]["tolerance_absolute"]), name


def test_v4_what_holds_exactly():
    vector, index = VECTORS["V4"], 38_400.0
    data = {"multiplier": 0.1, "mark_iv": 0.7, "forward": 38_500.0}
    contract = option("BTC-USD-220325-50000-C", "2022-03-25T08:00:00Z", -1.0, 0.005, **data)
    time = datetime(2022, 3, 7, tzinfo=UTC)
    units = margin(
        portfolio(contract, time=time, index_usd={"BTC": index}), RULES.at(time).numbers()
    )["units"]
    assert list(units) == ["BTC-USD"]
    unit = units["BTC-USD"]
    assert unit["mr3"] == vector["mr3"]
    assert unit["mr4"] == vector["mr4"]
    assert unit["mr7"] / index == pytest.approx(vector["mr7"], rel=1e-12)
    assert unit["imr"] / unit["mmr"] == pytest.approx(vector["imr_over_mmr"], rel=1e-12)


@pytest.mark.parametrize("name", ["2021-12-24", "2023-07-12", "2024-06-05", "2025-01-06"])
def test_v5_marginal_multiplier(name: str):
    vector = VECTORS["V5"]
    rules = next(chosen for _, chosen in RULES.steps if chosen.name == f"okx-split-{name}")
    tiers = rules.numbers()["mr7"]["tiers"]["G1"]
    slices = marginal_tiers(float(vector["mr7_raw"]), tiers["bounds_usd"], tiers["multipliers"])
    mr7 = sum(part["value"] for part in slices)
    assert mr7 == vector["mr7"]
    charges = {"mr1": float(vector["stress_part"]), "mr7": mr7}
    assert breakeven.unit_mmr(charges, ["mr1", "mr2", "mr6"]) == vector["mmr"]
