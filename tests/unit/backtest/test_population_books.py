from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError
from scipy.stats import kstest

from backtest.params import load_parameter_set
from backtest.population import (
    PopulationConfig,
)
from backtest.population.books import Legs, Maker, carried_usd, draw_equity
from backtest.population.catalogue import OPTION, PERPETUAL
from backtest.population.config import (
    ARCHETYPES,
    DEFAULT_LEVERAGE,
    Archetype,
    Every,
    Leverage,
    Size,
    Trading,
)
from backtest.population.draws import Draws
from backtest.population.evolve import entries_filled, next_books
from backtest.population.health import group_units
from backtest.reference import okx
from tests.unit.backtest.population_helpers import (
    PARAMETERS,
    books_of,
    config,
    every,
    maker_at,
    of_kind,
    portfolio,
)


def test_draws_are_uniform_and_depend_on_the_account_alone() -> None:
    draws = Draws(3, np.arange(50_000), "s")
    numbers = draws.uniform("x")
    assert kstest(numbers, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(numbers, draws.uniform("y"))[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.02
    rows = np.array([49_999, 17, 3])
    assert every(draws.of(rows).uniform("x") == numbers[rows])
    assert not np.any(Draws(4, np.arange(50_000), "s").uniform("x") == numbers)
    assert kstest(draws.normal("z"), "norm").pvalue > 1e-4


def test_draws_choose_by_weight_and_never_what_has_none() -> None:
    chosen = Draws(0, np.arange(40_000)).choice("c", np.array([0.0, 1.0, 3.0, 0.0]))
    assert set(chosen.tolist()) == {1, 2}
    assert abs(float(np.mean(chosen == 2)) - 0.75) < 0.01


def test_leverage_is_heavy_at_both_ends_where_asked() -> None:
    drawn = Draws(0, np.arange(40_000)).leverage("l", Leverage(low=0.1, high=10.0, a=0.5, b=0.5))
    assert drawn.min() >= 0.1
    assert drawn.max() <= 10.0
    place = np.histogram(np.log10(drawn), bins=4, range=(-1, 1))[0]
    assert place[0] > 1.5 * place[1]
    assert place[3] > 1.5 * place[2]


def test_sizes_have_a_log_normal_body_and_a_pareto_tail() -> None:
    size = Size(whale_share=0.05, scale={})
    draws = Draws(1, np.arange(200_000))
    equity = draw_equity(draws, size, np.zeros(200_000, np.int64))
    assert equity.min() >= size.min_usd
    assert equity.max() <= size.max_usd
    whales = equity[draws.uniform("whale") < size.whale_share]
    assert whales.min() >= size.whale_min_usd
    beyond = np.mean(whales > 10 * size.whale_min_usd)
    assert beyond == pytest.approx(10**-size.whale_alpha, rel=0.15)


def test_cash_profits_and_options_add_up_to_the_equity() -> None:
    maker = maker_at(12)
    books = books_of(maker, 3_000)
    usd = np.nan_to_num(maker.universe.usd)
    worth = (books.cash * usd).sum(axis=1) + carried_usd(maker.universe, books.legs, 3_000).sum(
        axis=1
    )
    np.testing.assert_allclose(worth, books.equity, atol=0.05)


def test_archetypes_are_what_they_say() -> None:
    maker = maker_at(12)
    books, market_ = books_of(maker, 12_000), maker.universe.market
    kind, slot, sign = (getattr(market_, n) for n in ("kind", "slot", "option_sign"))
    delta = books.estimate.delta / books.equity
    for name in ("short_strangle", "covered_call"):
        _, legs = of_kind(books, name)
        calls = (kind[legs.instrument] == OPTION) & (sign[legs.instrument] > 0)
        assert every(legs.contracts[calls] < 0)
    rows, legs = of_kind(books, "covered_call")
    held = books.cash[legs.account, market_.coin_currency[market_.coin[legs.instrument]]]
    assert np.mean(held > 0) > 0.98
    rows, legs = of_kind(books, "cross_stable")
    assert every(kind[legs.instrument] == PERPETUAL)
    usdt = slot[legs.instrument] == 0
    one, other = (
        np.bincount(legs.account[m], np.sign(legs.contracts[m]), 12_000)[rows]
        for m in (usdt, ~usdt)
    )
    assert np.mean(one == -other) > 0.99
    rows, legs = of_kind(books, "inverse_calendar")
    assert market_.inverse[legs.instrument].all()
    rows, legs = of_kind(books, "leveraged_altcoin")
    majors = [market_.coins.index(c) for c in ("BTC", "ETH")]
    assert not np.isin(market_.coin[legs.instrument], majors).any()
    rows, _ = of_kind(books, "borrower")
    assert ((books.cash[rows] < -1e-9).any(axis=1)).mean() > 0.98
    for name, most in (("hedged_volatility", 0.1), ("cross_stable", 0.4), ("market_maker", 0.6)):
        rows, _ = of_kind(books, name)
        assert np.quantile(np.abs(delta[rows]), 0.9) < most
    rows, _ = of_kind(books, "directional")
    assert np.quantile(np.abs(delta[rows]), 0.9) > 2.0
    rows, legs = of_kind(books, "market_maker")
    count = np.bincount(legs.account, minlength=12_000)[rows]
    assert count.max() > 30
    assert count.max() <= 64
    assert not len(of_kind(books, "flat")[1].account)


def test_accounts_start_healthy_by_the_estimate() -> None:
    books = books_of(maker_at(0), 20_000)
    level = books.estimate.level
    assert level.min() > 1.1
    assert np.mean(level < 1.5) < 0.05
    assert np.mean(level < 3.0) > 0.05


@pytest.mark.parametrize(
    ("drop", "low", "high"), [(0.1, 0.003, 0.03), (0.2, 0.02, 0.07), (0.3, 0.03, 0.12)]
)
def test_a_crash_liquidates_a_few_percent_by_the_estimate(
    drop: float, low: float, high: float
) -> None:
    before, after = maker_at(0, drop), maker_at(24, drop)
    books = books_of(before, 20_000)
    legs = entries_filled(books.legs, before.universe)
    legs = legs.keep(after.universe.priced[legs.instrument])
    worth = books.cash * np.nan_to_num(after.universe.usd) + carried_usd(
        after.universe, legs, 20_000
    )
    units = group_units(after.universe, legs.account, legs.instrument, legs.contracts)
    level = after.model.estimate(units, worth, books.limit).level
    assert low < np.mean(level <= 1.0) < high


def test_accounts_start_healthy_by_the_reference_rules() -> None:
    numbers = load_parameter_set(PARAMETERS).numbers()
    maker = maker_at(12)
    books = books_of(maker, 80)
    answers = [okx.margin(portfolio(maker, books, row), numbers)["account"] for row in range(80)]
    levels = np.array([a["margin_level"] or np.inf for a in answers])
    assert levels.min() > 1.1
    assert np.mean(levels < 3.0) < 0.3
    equity = np.array([a["equity_usd"] for a in answers])
    np.testing.assert_allclose(equity, books.equity, atol=0.1)


def test_trading_at_the_mark_keeps_the_equity() -> None:
    before, after = maker_at(0), maker_at(24)
    trading = Trading(cash_share=0.0, trade_share=0.5, close_share=0.1, open_share=0.5)
    after = Maker(after.universe, after.model, after.config.model_copy(update={"trading": trading}))
    books = books_of(before, 4_000)
    legs = entries_filled(books.legs, before.universe)
    no_expiry = np.full(len(after.universe.market.ids), np.nan)
    held = books.cash * np.nan_to_num(after.universe.usd) + carried_usd(after.universe, legs, 4_000)
    moved = next_books(books, before.universe, after, no_expiry, 1)
    assert np.mean(np.bincount(moved.legs.account, minlength=4_000) == 0) > 0.08
    np.testing.assert_allclose(moved.equity, held.sum(axis=1), rtol=1e-9, atol=0.05)


def test_expired_contracts_are_settled_into_cash() -> None:
    market_ = maker_at(0).universe.market
    place = {c: market_.currency(c) for c in ("BTC", "USDT")}
    ids = ["BTC-USD-240809", "BTC-USDT-240809", "BTC-USD-24080908-60800-C"]
    rows = np.array(sorted(market_.position[name] for name in ids))
    before = maker_at(0)
    legs = Legs(
        np.zeros(3, np.int64), rows, np.array([3.0, -2.0, 5.0]), np.array([64e3, 0.01, 63e3])
    )
    legs.entry[rows == market_.position[ids[2]]] = 0.01
    empty = books_of(before, 1, config(1, mix={"flat": 1.0}))
    books = replace(empty, legs=legs, cash=np.zeros_like(empty.cash))
    size = dict(zip(rows.tolist(), legs.contracts.tolist(), strict=True))
    entry = dict(zip(rows.tolist(), legs.entry.tolist(), strict=True))
    settle = np.full(len(market_.ids), np.nan)
    price = 66_000.0
    settle[rows] = price
    late = Maker(
        replace(before.universe, time=int(market_.expiry[rows].max())),
        before.model,
        before.config.model_copy(
            update={"trading": Trading(cash_share=0.0, open_share=0.0, roll_share=0.0)}
        ),
    )
    after = next_books(books, before.universe, late, settle, 1)
    assert not len(after.legs.account)
    inverse, linear, call = (market_.position[name] for name in ids)
    coins = size[inverse] * 100.0 * (1 / entry[inverse] - 1 / price)
    coins += size[call] * 0.01 * (price - 60_800.0) / price
    stable = size[linear] * 0.01 * (price - entry[linear])
    assert after.cash[0, place["BTC"]] == pytest.approx(coins, abs=2e-8)
    assert after.cash[0, place["USDT"]] == pytest.approx(stable, abs=0.01)


def mixes() -> st.SearchStrategy[dict[Archetype, float]]:
    weights = st.dictionaries(st.sampled_from(ARCHETYPES), st.floats(0.0, 10.0), min_size=1)
    return weights.filter(lambda mix: any(w > 0 for w in mix.values()))


@settings(max_examples=25)
@given(
    mix=mixes(),
    seed=st.integers(0, 2**70),
    count=st.integers(1, 300),
    median=st.floats(2e3, 1e7),
    leverage=st.floats(0.01, 200.0),
    legs=st.integers(10, 100),
    limit=st.floats(0.0, 1.0),
    weights=st.dictionaries(st.sampled_from(["USDT", "USDC", "BTC", "XXX"]), st.floats(0, 5)),
)
def test_any_configuration_gives_sane_books(
    mix: dict[Archetype, float],
    seed: int,
    count: int,
    median: float,
    leverage: float,
    legs: int,
    limit: float,
    weights: dict[str, float],
) -> None:
    wild = {name: Leverage(low=leverage, high=2 * leverage) for name in ARCHETYPES}
    made = PopulationConfig.model_validate(
        {
            "mix": mix,
            "seed": seed,
            "size": {"median_usd": median, "min_usd": 1e3},
            "leverage": wild,
            "max_legs": legs,
            "spot_limit_share": limit,
            "collateral": {"weights": weights},
        }
    )
    maker = maker_at(12)
    books = books_of(maker, count, made)
    assert np.isfinite(books.cash).all()
    assert every(books.legs.contracts != 0)
    key = books.legs.account * 10_000 + books.legs.instrument
    assert every(np.diff(key) > 0)
    assert maker.universe.open[books.legs.instrument].all()
    assert books.shown.any(axis=1).all()
    assert every(books.limit >= 0)
    assert np.bincount(books.legs.account, minlength=1).max() <= legs
    assert {ARCHETYPES[k] for k in books.archetype} <= {n for n, w in mix.items() if w > 0}
    assert books.estimate.level.min() > 1.0


@pytest.mark.parametrize(
    "bad",
    [
        {"accounts": 0},
        {"accounts": 10_000_001},
        {"acounts": 5},
        {"mix": {"flat": 0.0}},
        {"mix": {"strangle": 1.0}},
        {"leverage": {"directional": {"low": 3.0, "high": 1.0}}},
        {"size": {"min_usd": 1e9}},
        {"at": "2024-08-01T00:00:00"},
        {"snapshots": "hourly"},
        {"health": {"min_level": 0.5}},
    ],
)
def test_bad_configurations_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PopulationConfig.model_validate(bad)


def test_every_archetype_has_a_leverage() -> None:
    assert set(DEFAULT_LEVERAGE) == set(ARCHETYPES)
    law = PopulationConfig(leverage={"flat": Leverage(low=2.0, high=3.0)})
    assert law.leverage_of("flat").low == 2.0
    assert law.leverage_of("borrower") == DEFAULT_LEVERAGE["borrower"]


def test_snapshots_can_be_listed_or_every_so_many_hours() -> None:
    assert config(1).snapshots == "start"
    assert config(1, snapshots={"every_hours": 2.0}).snapshots == Every(every_hours=2.0)
    times = config(1, snapshots=["2024-08-01T06:00:00Z"]).snapshots
    assert isinstance(times, tuple)
    assert len(times) == 1
