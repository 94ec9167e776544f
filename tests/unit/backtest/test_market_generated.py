from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import QuantLib as ql
from pydantic import TypeAdapter, ValidationError

from backtest.dataset import Dataset
from backtest.errors import ConfigError
from backtest.market.build import build_market
from backtest.market.config import GeneratedConfig, HistoryConfig, MarketConfig
from backtest.market.simulate import COINS, simulate
from tests.unit.backtest.market_files import (
    assert_same_until,
    index_of,
    instruments_of,
    marks_of,
    source_of,
)


START: Any = pd.Timestamp("2025-03-03T00:00Z")
SHORT: dict[str, Any] = {
    "start": START,
    "end": START + pd.Timedelta("4D"),
    "coins": ["BTC", "ETH", "SOL"],
    "crash": {"after": "1D", "duration": "6h", "depth": 0.25},
    "depeg": {"after": "2D", "duration": "24h", "depth": 0.08},
}


def market(**keys: object) -> GeneratedConfig:
    return GeneratedConfig.model_validate({"kind": "generated"} | SHORT | keys)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_market(market(), tmp_path_factory.mktemp("generated") / "market")


def test_same_seed_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    again = build_market(market(), tmp_path / "market")
    assert again.fingerprint() == dataset.fingerprint()
    other = build_market(market(seed=2), tmp_path / "other" / "market")
    assert not np.allclose(index_of(other)["BTC"][1:], index_of(dataset)["BTC"][1:])


def test_ending_earlier_changes_nothing_before(dataset: Dataset, tmp_path: Path) -> None:
    end = START + pd.Timedelta("35h")
    short = build_market(market(end=end), tmp_path / "short")
    assert_same_until(short, dataset, end)


def test_put_call_parity_and_quantlib(dataset: Dataset) -> None:
    marks = marks_of(dataset).join(instruments_of(dataset), on="instrument_id")
    options = marks[marks["kind"] == "option"].reset_index()
    options["years"] = (options["expiry"] - options["time"]).dt.total_seconds() / 86400 / 365
    pairs = options.pivot_table(
        index=["time", "coin", "expiry", "strike"],
        columns="option_type",
        values=["mark_price", "forward", "mark_iv"],
        observed=True,
    )
    assert len(pairs) * 2 == len(options)
    strike = pairs.index.get_level_values("strike")
    parity = 1 - strike / pairs["forward", "C"]
    np.testing.assert_allclose(
        pairs["mark_price", "C"] - pairs["mark_price", "P"], parity, atol=1e-12
    )
    np.testing.assert_array_equal(pairs["mark_iv", "C"], pairs["mark_iv", "P"])
    for row in options.iloc[:: len(options) // 50].itertuples():
        kind = ql.Option.Call if row.option_type == "C" else ql.Option.Put
        deviation = row.mark_iv * np.sqrt(row.years)
        expected = ql.blackFormula(kind, row.strike, row.forward, deviation) / row.forward
        assert row.mark_price == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_marks_only_while_alive(dataset: Dataset) -> None:
    marks = marks_of(dataset).join(
        instruments_of(dataset)[["listed", "expiry"]], on="instrument_id"
    )
    times = marks.index.get_level_values("time")
    dated = marks["expiry"].notna().to_numpy()
    assert (times[dated] >= marks["listed"][dated]).all()
    assert (times[dated] < marks["expiry"][dated]).all()
    assert not marks["mark_price"].isna().any()
    assert (marks["mark_price"] >= 0).all()


def test_every_option_listed_is_marked_until_expiry(dataset: Dataset) -> None:
    options = instruments_of(dataset).query("kind == 'option'")
    counts = marks_of(dataset).groupby("instrument_id").size()
    last = dataset.meta.last_time
    for name, row in options.iloc[::40].iterrows():
        until = min(row["expiry"] - pd.Timedelta("1h"), pd.Timestamp(last))
        assert counts[name] == (until - row["listed"]) / pd.Timedelta("1h") + 1


def test_crash_and_depeg(dataset: Dataset) -> None:
    index = index_of(dataset)
    fall = index["BTC"][START + pd.Timedelta("30h")] / index["BTC"][START + pd.Timedelta("24h")]
    assert 0.6 < fall < 0.85
    assert index["USDC"].min() == pytest.approx(0.92)
    assert index["USDC"].idxmin() == START + pd.Timedelta("54h")
    assert index["USDC"].iloc[-1] == 1.0
    assert (index[["USDT", "USD"]] == 1.0).all().all()


def test_volatility_steps_and_nothing_else_changes(tmp_path: Path) -> None:
    """Returns are trebled as they are drawn, and options marked up; before it nothing differs."""
    calm: dict[str, object] = {"crash": None, "depeg": None, "jumps_a_year": 0}
    step = {"after": "30h", "factor": 3.0, "duration": "12h"}
    grid = np.arange(97, dtype=np.int64) * 3_600_000_000
    without = simulate(market(**calm), grid)
    stepped = simulate(market(**calm, volatility_step=step), grid)
    ratio = stepped.volatility / without.volatility
    inside = (np.arange(97) >= 30) & (np.arange(97) < 42)
    np.testing.assert_allclose(ratio, np.where(inside, 3.0, 1.0), rtol=1e-15)
    longrun = COINS["BTC"].volatility_ann
    drawn = []
    for one in (without, stepped):
        sigma = one.volatility[:-1] * longrun * np.sqrt(1.0 / 24.0 / 365.0)
        drawn.append((np.diff(np.log(one.price_usd[:, 0])) + 0.5 * sigma**2) / sigma)
    np.testing.assert_allclose(drawn[0], drawn[1], atol=1e-9)
    np.testing.assert_array_equal(stepped.price_usd[:31], without.price_usd[:31])
    built = build_market(market(**calm, volatility_step=step), tmp_path / "stepped")
    before, after = (
        marks_of(built)["mark_iv"].xs(START + pd.Timedelta(hours=h), level="time").mean()
        for h in (29, 41)
    )
    assert after > 1.2 * before


def test_usdc_perpetual_follows_the_depeg(dataset: Dataset) -> None:
    index, marks = index_of(dataset), marks_of(dataset)["mark_price"].unstack()
    ratio = marks["BTC-USDC-SWAP"] * index["USDC"] / marks["BTC-USDT-SWAP"]
    np.testing.assert_allclose(ratio, index["USDT"], rtol=1e-12)
    np.testing.assert_allclose(marks["BTC-USD-SWAP"], marks["BTC-USDT-SWAP"], rtol=1e-12)


def test_funding_is_paid_at_payment_times_only(dataset: Dataset) -> None:
    marks = marks_of(dataset)
    paid = marks[marks["funding_rate"].notna()].reset_index()
    assert set(paid["time"].dt.hour) == {0, 8, 16}
    perpetuals = instruments_of(dataset).query("kind == 'perpetual'").index
    assert set(paid["instrument_id"]) == set(perpetuals)
    assert len(paid) == len(perpetuals) * (3 * 4 + 1)
    assert paid["funding_rate"].abs().max() <= 0.0075


def test_bars_hold_their_mark(dataset: Dataset) -> None:
    marks = marks_of(dataset)
    bars = marks[marks["low"].notna()]
    assert (bars["low"] <= bars["mark_price"]).all()
    assert (bars["high"] >= bars["mark_price"]).all()


def test_default_market_is_small_and_builds(tmp_path: Path) -> None:
    built = build_market(GeneratedConfig(kind="generated"), tmp_path / "demo")
    assert index_of(built).shape == (14 * 24 + 1, 8)
    alive = source_of(built)["options"]["alive_at_once"]["BTC"]
    assert 100 <= alive["min"] <= 300


def test_other_interval_and_single_coin(tmp_path: Path) -> None:
    config = market(coins=["BTC"], interval="5min", end=START + pd.Timedelta("3h"))
    built = build_market(config, tmp_path / "good")
    assert set(instruments_of(built)["coin"]) == {"BTC"}
    with pytest.raises(ConfigError, match=r"options: ETH; allowed here: \['BTC'\]"):
        build_market(market(coins=["BTC"], options={"coins": ["ETH"]}), tmp_path / "bad")
    assert built.meta.interval_seconds == 300
    assert len(index_of(built)) == 37


def test_kind_chooses_the_model() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(MarketConfig)
    found = adapter.validate_python({"kind": "history", "start": START, "end": SHORT["end"]})
    assert isinstance(found, HistoryConfig)
    with pytest.raises(ValidationError, match="kind"):
        adapter.validate_python({"kind": "gird"})
    with pytest.raises(ValidationError, match="Extra inputs"):
        adapter.validate_python({"kind": "generated", "sed": 1})
    with pytest.raises(ValidationError, match="must be after start"):
        adapter.validate_python({"kind": "generated", "start": START, "end": START})
    with pytest.raises(ValidationError, match="same coin twice"):
        adapter.validate_python({"kind": "generated", "coins": ["BTC", "BTC"]})
