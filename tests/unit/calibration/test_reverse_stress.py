"""The nearest scenario: known shapes, accounts against the reference after the same move."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from backtest.calibration.liquidation_profile import liquidation_profile, save_profile
from backtest.calibration.nearest import LOWEST, Norm, cast, nearest
from backtest.calibration.reverse_stress import (
    ReverseStress,
    Shocks,
    reverse_stress,
    save,
    shocked,
)
from backtest.calibration.standing import Standing
from backtest.config import RunConfig
from backtest.dataset import Dataset
from backtest.errors import ConfigError
from backtest.explain import AccountHistory
from backtest.market_window import stamp
from backtest.params import load_parameter_set
from backtest.reference import models as reference
from backtest.reference.black76 import coin_price
from backtest.report.reader import Results
from backtest.report.reverse import nearest_table
from tests.unit.backtest import tiny_world as world


NORM = Norm(0.04, 0.15, 0.3)


def half_plane(price: float, vol: float) -> Any:
    """Grows along one direction, as the loss of a book without curvature does."""

    def measure(points: np.ndarray) -> np.ndarray:
        return (points @ (price, vol))[:, None]

    return measure


def exact_distance(price: float, vol: float, level: float, norm: Norm) -> float:
    """Distance from no move to the line ``price x + vol v = level``."""
    a, b = price * norm.price_sigma_frac, vol * norm.vol_sigma_frac
    return level / np.sqrt(a * a + 2.0 * norm.correlation * a * b + b * b)


@pytest.mark.parametrize(("price", "vol"), [(-1.0, 0.0), (1.0, 0.2), (-2.0, 0.4), (0.0, 1.0)])
def test_a_straight_edge_is_found_where_it_is(price: float, vol: float):
    measure = half_plane(price, vol)
    net = cast(measure, NORM, 72, 16, 8.0)
    found = nearest(net, measure, 0, 0.15)
    assert found is not None
    want = exact_distance(price, vol, 0.15, NORM)
    # never nearer than it is, and at most the spread of rays and the cut of a crossing further
    assert want - 1e-12 <= found.distance <= want / np.cos(np.pi / 72) + found.resolution
    assert found.values[0] >= 0.15 - 1e-12
    at = np.array([[found.price_move_frac, found.vol_move_frac]])
    assert NORM.distance(at)[0] == pytest.approx(found.distance)


@given(st.floats(0.005, 0.2), st.floats(0.01, 1.0), st.floats(-0.9, 0.9), st.integers(3, 40))
def test_rays_lie_at_distance_one(price: float, vol: float, rho: float, count: int):
    norm = Norm(price, vol, rho)
    assert norm.distance(norm.rays(count)) == pytest.approx(np.ones(count))


def test_what_is_reached_at_once_or_never():
    measure = half_plane(1.0, 0.0)
    net = cast(measure, NORM, 8, 4, 3.0)
    now = nearest(net, measure, 0, -0.1)
    assert now is not None
    assert now.distance == 0.0
    assert nearest(net, measure, 0, 5.0) is None


def test_nothing_loses_more_than_it_is_worth():
    seen: list[np.ndarray] = []

    def measure(points: np.ndarray) -> np.ndarray:
        seen.append(points)
        return points[:, :1]

    net = cast(measure, NORM, 8, 4, 40.0)
    assert (np.concatenate(seen) >= LOWEST).all()
    assert np.isnan(net.values).any()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("reverse")
    return world.config(world.write(folder / "data"), engine={"window_times": 4})


@pytest.fixture(scope="module")
def standing(base: RunConfig) -> Standing:
    return Standing(base)


def test_a_market_without_a_move_is_the_market(standing: Standing):
    """Also of contracts without a quote: what is missing stays missing."""
    time_us = int(standing.times_us[5])  # some have expired
    market = standing.market(time_us, np.asarray([time_us]))
    same = shocked(market, standing.contracts(time_us), np.zeros((2, 2)))
    assert np.isnan(market.mark).any()
    for name in ("currency_usd", "forward_usd", "iv", "settlement"):
        for k in range(2):
            assert np.array_equal(getattr(same, name)[k], getattr(market, name)[0], equal_nan=True)
    assert same.mark[1] == pytest.approx(market.mark[0], rel=1e-12, nan_ok=True)


def moved(portfolio: dict[str, Any], price: float, vol: float) -> dict[str, Any]:
    """The portfolio file after a move, marks of options by the reference's own model."""
    coins = {"BTC", "ETH"}
    quoted = {k: v for k, v in portfolio["index_usd"].items() if v is not None}
    index = {k: v * (1.0 + price if k in coins else 1.0) for k, v in quoted.items()}
    terms = {i["instrument_id"]: i for i in portfolio["instruments"]}
    now = pd.Timestamp(portfolio["time"])
    rows = []
    for row in portfolio["positions"]:
        about, new = terms[row["instrument_id"]], dict(row)
        if about["kind"] == "option":
            years = max((pd.Timestamp(about["expiry"]) - now).total_seconds(), 0.0) / 31_536_000.0
            new["forward"] = row["forward"] * (1.0 + price)
            new["mark_iv"] = row["mark_iv"] * (1.0 + vol)
            before, after = (
                coin_price(about["option_type"], q["forward"], about["strike"], q["mark_iv"], years)
                for q in (row, new)
            )
            new["mark_price"] = max(row["mark_price"] + after - before, 0.0)
        else:
            new["mark_price"] = row["mark_price"] * (1.0 + price)
        rows.append(new)
    return {**portfolio, "index_usd": index, "positions": rows}


@pytest.mark.slow
def test_accounts_after_a_move_are_those_of_the_reference(base: RunConfig, standing: Standing):
    time_us, cost = int(standing.times_us[2]), 0.02
    measure = Shocks(standing, "today", time_us, cost)
    scenarios = np.array([[0.0, 0.0], [-0.3, 0.5], [0.25, -0.2], [-0.6, 1.0], [0.5, 0.0]])
    found = measure(scenarios)
    numbers = load_parameter_set(world.PARAMS).numbers()
    dataset = Dataset.open(base.dataset.path)
    portfolios = [
        AccountHistory(dataset, base, world.name_of(k)).portfolio(stamp(time_us))
        for k in range(world.NUM_ACCOUNTS)
    ]
    gross = np.array([gross_usd(p) for p in portfolios])
    for (price, vol), (share, draw) in zip(scenarios.tolist(), found.tolist(), strict=True):
        after = [moved(p, price, vol) for p in portfolios]
        accounts = [reference.margin(p, numbers)["account"] for p in after]
        levels = [a["margin_level"] for a in accounts]
        gone = np.array([level is not None and level <= 1.0 for level in levels])
        short = np.array(
            [
                max(cost * gross_usd(p) - a["equity_usd"], 0.0)
                for p, a in zip(after, accounts, strict=True)
            ]
        )
        assert share == pytest.approx(gross[gone].sum() / gross.sum(), rel=1e-9, abs=1e-12)
        assert draw == pytest.approx(short[gone].sum(), rel=1e-9, abs=1e-6)
    assert 0.0 < found[1, 0] < 1.0
    assert found[:, 1].max() > 0.0


@pytest.mark.slow
def test_the_profile_is_that_of_the_reference(base: RunConfig, tmp_path: Path):
    """Every account margined again by the reference after some of the moves."""
    time, cost = world.TIMES[2], 0.02
    found = liquidation_profile(base, time, closing_cost_frac=cost)
    assert found["price_move_frac"].tolist() == pytest.approx(np.linspace(-0.5, 0.5, 41))
    numbers = load_parameter_set(world.PARAMS).numbers()
    dataset = Dataset.open(base.dataset.path)
    portfolios = [
        AccountHistory(dataset, base, world.name_of(k)).portfolio(time)
        for k in range(world.NUM_ACCOUNTS)
    ]
    gross = np.array([gross_usd(p) for p in portfolios])
    counts = set()
    for row in found.iloc[[0, 8, 20, 28, 40]].to_dict("records"):
        after = [moved(p, row["price_move_frac"], 0.0) for p in portfolios]
        accounts = [reference.margin(p, numbers)["account"] for p in after]
        levels = [a["margin_level"] for a in accounts]
        gone = np.array([level is not None and level <= 1.0 for level in levels])
        short = [
            max(cost * gross_usd(p) - a["equity_usd"], 0.0)
            for p, a in zip(after, accounts, strict=True)
        ]
        assert row["liquidated_usd"] == pytest.approx(gross[gone].sum(), rel=1e-9)
        assert row["fund_draw_usd"] == pytest.approx(np.array(short)[gone].sum(), rel=1e-9)
        assert row["accounts_liquidated"] == gone.sum()
        assert row["gross_notional_usd"] == pytest.approx(gross.sum(), rel=1e-9)
        assert row["accounts"] == len(portfolios)
        counts.add(int(gone.sum()))
    assert len(counts) > 2
    save_profile(tmp_path, found)
    again = pd.read_parquet(tmp_path / "report_data" / "liquidation_profile.parquet")
    assert again["liquidated_usd"].tolist() == found["liquidated_usd"].tolist()


def gross_usd(portfolio: dict[str, Any]) -> float:
    """Gross notional as the README defines it: options by the index, inverse by their face."""
    terms = {i["instrument_id"]: i for i in portfolio["instruments"]}
    total = 0.0
    for row in portfolio["positions"]:
        about, n = terms[row["instrument_id"]], abs(row["contracts"])
        size = n * about["multiplier"]
        if about["kind"] == "option":
            total += size * portfolio["index_usd"][about["coin"]]
        elif about["style"] == "inverse":
            total += size
        else:
            total += size * row["mark_price"] * portfolio["index_usd"][about["settle"]]
    return total


@pytest.mark.slow
def test_a_run_keeps_its_nearest_scenarios(base: RunConfig, tmp_path: Path):
    world.replay(base, tmp_path / "out")
    asked = ReverseStress((0.02, 0.1), 1e9, norm=NORM, most_distance=8.0, rays=8, radii=4)
    found, nets = reverse_stress(base, asked)
    distance = found["distance"].to_numpy()
    assert distance[0] <= distance[1]
    reached = found["open_interest_frac"].to_numpy()[:2]
    assert (reached >= found["level"].to_numpy()[:2]).all()
    assert found["distance"].isna().tolist() == [False, False, True]  # nobody owes a billion
    assert len(nets) == 1 + 8 * 4
    save(tmp_path / "out", (found, nets))
    table = nearest_table(Results(tmp_path / "out"))
    assert table["level"].tolist() == [0.02, 0.1, 1e9]
    with pytest.raises(ConfigError, match="not on the run's grid"):
        reverse_stress(base, asked, world.START + pd.Timedelta("30min"))
    with pytest.raises(ConfigError, match="above 0, at most 1"):
        reverse_stress(base, ReverseStress((1.5,)))
