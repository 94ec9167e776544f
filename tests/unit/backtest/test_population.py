import json
import shutil
import tracemalloc
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from hypothesis import given, settings, strategies as st
from matplotlib.figure import Figure
from pydantic import ValidationError
from scipy.stats import kstest
from typer.testing import CliRunner

import backtest.dataset_writer
from backtest.cli.population import population
from backtest.dataset import Dataset
from backtest.dataset_writer import DatasetWriter, bucket_of
from backtest.errors import ConfigError
from backtest.params import load_parameter_set
from backtest.paths import PROJECT_ROOT
from backtest.population import (
    PopulationConfig,
    PopulationReport,
    build as building,
    build_population,
    population_figure,
)
from backtest.population.books import Books, Legs, Maker, carried_usd, draw_equity, make_books
from backtest.population.catalogue import OPTION, PERPETUAL, Catalogue, make_catalogue
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
from backtest.population.health import HealthModel
from backtest.population.registry import resolve_mix
from backtest.population.universe import Universe, make_universe
from backtest.quality import check
from backtest.reference import okx
from tests.unit.backtest.small_market import SmallMarket, small_market


PARAMETERS = PROJECT_ROOT / "configs/params/okx-merged-2025-01-21.toml"
KEYS = {
    "accounts": ["account_id"],
    "positions": ["time", "account_id", "instrument_id"],
    "balances": ["time", "account_id", "currency"],
}


@cache
def market() -> SmallMarket:
    return small_market(24)


def write_market(root: Path, frames: SmallMarket) -> Path:
    writer = DatasetWriter(root, "small", 3600, 1, "made by hand")
    writer.instruments(frames.instruments)
    writer.index(frames.index)
    writer.marks(frames.marks)
    writer.finish()
    return root


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("market") / "bare", market())


@pytest.fixture
def root(bare: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bare, tmp_path / "dataset"))


def config(accounts: int, **more: Any) -> PopulationConfig:
    return PopulationConfig.model_validate({"accounts": accounts, "seed": 7, **more})


def every(condition: Any) -> bool:
    return bool(np.all(np.asarray(condition)))


def tables(root: Path) -> dict[str, pd.DataFrame]:
    """Account tables of all buckets and snapshots, in the order of their keys."""
    dataset = Dataset.open(root)
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in KEYS}
    for bucket in dataset.bucket_ids():
        parts["accounts"].append(dataset.accounts(bucket))
        for time in dataset.snapshot_times():
            parts["positions"].append(dataset.positions(time, bucket))
            parts["balances"].append(dataset.balances(time, bucket))
    out: dict[str, pd.DataFrame] = {}
    for name, frames in parts.items():
        frame = pd.concat(
            [f.astype({c: object for c in KEYS[name] if c != "time"}) for f in frames]
        )
        out[name] = frame.astype({c: object for c in frame if frame[c].dtype == "category"})
        out[name] = out[name].sort_values(KEYS[name]).reset_index(drop=True)
    return out


def same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    for name in KEYS:
        pd.testing.assert_frame_equal(one[name], other[name], check_exact=True)


def hour_of(frames: SmallMarket, hour: int) -> pd.Timestamp:
    return frames.times.tolist()[hour]


def universe_of(frames: SmallMarket, hour: int = 0) -> tuple[Catalogue, Universe]:
    catalogue = make_catalogue(frames.instruments, ["USDT", "USDC", "USD", "BTC", "ETH"])
    made = make_universe(catalogue, frames.index, frames.marks, hour_of(frames, hour), 1.0, 1.0)
    return catalogue, made


@cache
def maker_at(hour: int, drop: float = 0.0) -> Maker:
    settings_ = config(1)
    _, universe = universe_of(small_market(24, drop=drop) if drop else market(), hour)
    return Maker(universe, HealthModel(universe, settings_.health), settings_)


def books_of(maker: Maker, count: int, settings_: PopulationConfig | None = None) -> Books:
    settings_ = settings_ or maker.config
    maker = Maker(maker.universe, HealthModel(maker.universe, settings_.health), settings_)
    draws = Draws(settings_.seed, np.arange(count, dtype=np.int64), "start")
    archetype = draws.choice("archetype", resolve_mix(maker.universe, settings_).weights)
    return make_books(maker, draws, archetype, draw_equity(draws, settings_.size, archetype))


def of_kind(books: Books, name: str) -> tuple[np.ndarray, Legs]:
    rows = books.archetype == list(map(str, ARCHETYPES)).index(name)
    return np.flatnonzero(rows), books.legs.keep(rows[books.legs.account])


# -- numbers -------------------------------------------------------------------------------------


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


def test_names_and_buckets_are_those_of_the_dataset() -> None:
    numbers = np.array([0, 7, 70_001, 9_999_999])
    names = building.account_ids(numbers)
    assert names.tolist() == ["A0000000", "A0000007", "A0070001", "A9999999"]
    buckets = building.account_buckets(0, 70_002, 7)
    assert [buckets[n] for n in (0, 7, 70_001)] == [bucket_of(n, 7) for n in names[:3]]


# -- the dataset ---------------------------------------------------------------------------------


def test_a_population_is_a_valid_dataset(root: Path) -> None:
    report = build_population(root, config(2_000, buckets=3))
    checked = check(Dataset.open(root))
    assert checked.quarantined == 0
    assert checked.expired_positions == 0
    found = tables(root)
    for name, key in KEYS.items():
        assert not found[name].duplicated(key).any()
        assert len(found[name]) == report.rows[name]
    accounts = found["accounts"]
    assert accounts["account_id"].tolist() == building.account_ids(np.arange(2_000)).tolist()
    assert set(found["balances"]["account_id"]) == set(accounts["account_id"])
    assert every(accounts["spot_mode"].isna())
    assert set(accounts["borrow_mode"]) == {"auto", "non_auto"}
    flat = set(accounts.loc[accounts["segment"] == "flat", "account_id"])
    assert flat
    assert not flat & set(found["positions"]["account_id"])
    dataset = Dataset.open(root)
    for bucket in dataset.bucket_ids():
        names = dataset.accounts(bucket)["account_id"]
        assert {bucket_of(str(name), 3) for name in names} == {bucket}


def test_positions_are_in_living_priced_instruments_and_whole_lots(root: Path) -> None:
    build_population(root, config(2_000))
    positions, frames = tables(root)["positions"], market()
    now = hour_of(frames, 0)
    known = frames.instruments.set_index("instrument_id")
    held = known.loc[positions["instrument_id"].unique()]
    assert every(held["kind"] != "spot")
    assert every(held["expiry"].isna() | (held["expiry"] > now + pd.Timedelta(days=1)))
    priced = frames.marks.loc[frames.marks["time"] == now, "instrument_id"]
    assert set(held.index) <= set(priced)
    contracts = positions["contracts"].to_numpy()
    lots = contracts * 100
    np.testing.assert_allclose(lots, np.round(lots), atol=1e-6)
    large = contracts[np.abs(contracts) >= 50]
    assert every(large == np.round(large))
    assert every(contracts != 0)


def test_the_same_seed_gives_the_same_accounts_and_another_seed_others(
    bare: Path, tmp_path: Path
) -> None:
    prints: list[str] = []
    for seed in (7, 7, 8):
        root = Path(shutil.copytree(bare, tmp_path / str(len(prints))))
        build_population(root, config(300, seed=seed))
        prints.append(Dataset.open(root).fingerprint())
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("accounts", "buckets", "chunk"), [(1_000, 7, 65_536), (1_000, 1, 90), (2_500, 4, 700)]
)
def test_accounts_do_not_depend_on_buckets_chunks_or_how_many_there_are(
    bare: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accounts: int,
    buckets: int,
    chunk: int,
) -> None:
    more: dict[str, Any] = {
        "at": hour_of(market(), 12).to_pydatetime(),
        "snapshots": {"every_hours": 6},
    }
    one = Path(shutil.copytree(bare, tmp_path / "one"))
    other = Path(shutil.copytree(bare, tmp_path / "other"))
    build_population(one, config(1_000, buckets=1, **more))
    monkeypatch.setattr(building, "CHUNK_ACCOUNTS", chunk)
    monkeypatch.setattr(building, "_LEAST_CHUNK", 1)
    build_population(other, config(accounts, buckets=buckets, **more))
    found = tables(other)
    first = {
        name: frame.iloc[np.flatnonzero(frame["account_id"] < "A0001000")].reset_index(drop=True)
        for name, frame in found.items()
    }
    same(tables(one), first)


@pytest.mark.parametrize("accounts", [1, 10])
def test_few_accounts_work(root: Path, accounts: int) -> None:
    report = build_population(root, config(accounts))
    assert report.accounts == accounts
    assert len(tables(root)["accounts"]) == accounts
    population_figure(report)


def test_the_mix_is_respected(root: Path) -> None:
    mix = {"directional": 3.0, "covered_call": 1.0, "flat": 1.0, "market_maker": 0.0}
    report = build_population(root, config(3_000, mix=mix))
    assert set(report.archetypes) == {"directional", "covered_call", "flat"}
    assert report.left_out == {}
    wanted: tuple[tuple[Archetype, float], ...] = (
        ("directional", 0.6),
        ("covered_call", 0.2),
        ("flat", 0.2),
    )
    for name, share in wanted:
        spread = 4 * np.sqrt(share * (1 - share) / 3_000)
        assert abs(report.archetypes[name].accounts / 3_000 - share) < spread


def test_what_a_market_cannot_hold_is_spread_over_the_others(tmp_path: Path) -> None:
    root = write_market(tmp_path / "linear", small_market(2, ("SOL", "DOGE"), options=False))
    report = build_population(root, config(2_000))
    assert set(report.left_out) == {
        "short_strangle",
        "covered_call",
        "hedged_volatility",
        "option_calendar",
    }
    assert sum(s.accounts for s in report.archetypes.values()) == 2_000
    assert check(Dataset.open(root)).quarantined == 0


def test_a_mix_that_the_market_cannot_hold_is_refused(tmp_path: Path) -> None:
    root = write_market(tmp_path / "linear", small_market(2, ("BTC",), options=False))
    with pytest.raises(ConfigError, match="short_strangle"):
        build_population(root, config(10, mix={"short_strangle": 1.0}))
    with pytest.raises(ConfigError, match="leveraged_altcoin"):
        build_population(root, config(10, mix={"leveraged_altcoin": 1.0}))


def test_nothing_after_the_snapshot_matters(bare: Path, tmp_path: Path) -> None:
    frames, at = market(), hour_of(market(), 12)
    rng = np.random.default_rng(0)
    index, marks = frames.index.copy(), frames.marks.copy()
    for table, column in ((index, "usd"), (marks, "mark_price"), (marks, "mark_iv")):
        later = (table["time"] > at).to_numpy()
        table.loc[later, column] *= rng.uniform(0.2, 5.0, later.sum())
    changed = SmallMarket(frames.instruments, index, marks, frames.times)
    other = write_market(tmp_path / "other", changed)
    one = Path(shutil.copytree(bare, tmp_path / "one"))
    for root in (one, other):
        build_population(root, config(500, at=at.to_pydatetime()))
    same(tables(one), tables(other))


def test_entry_prices_are_null_or_near_past_marks(root: Path) -> None:
    at = hour_of(market(), 20)
    build_population(root, config(2_000, at=at.to_pydatetime()))
    positions = tables(root)["positions"]
    entry = positions["entry_price"].to_numpy()
    assert 0.2 < np.isnan(entry).mean() < 0.35
    marks = market().marks
    past = marks[marks["time"] <= at].groupby("instrument_id")["mark_price"].agg(["min", "max"])
    low, high = (past.loc[positions["instrument_id"], name].to_numpy() for name in ("min", "max"))
    known = ~np.isnan(entry)
    assert every(entry[known] >= low[known] * 0.98)
    assert every(entry[known] <= high[known] * 1.02)
    perp = positions["instrument_id"].str.endswith("SWAP").to_numpy() & known
    now = marks[marks["time"] == at].set_index("instrument_id")["mark_price"]
    moved = entry[perp] / now.loc[positions.loc[perp, "instrument_id"]].to_numpy() - 1.0
    assert np.abs(moved).max() > 0.008


# -- refusing, replacing, going on -----------------------------------------------------------------


def test_existing_accounts_are_replaced_only_when_asked(root: Path) -> None:
    build_population(root, config(200, buckets=2))
    with pytest.raises(ConfigError, match="overwrite"):
        build_population(root, config(100))
    assert len(tables(root)["accounts"]) == 200
    build_population(root, config(100, buckets=5, overwrite=True))
    assert len(tables(root)["accounts"]) == 100
    assert Dataset.open(root).meta.buckets == 5


def test_an_interrupted_build_can_be_run_again(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Path(shutil.copytree(bare, tmp_path / "one"))
    other = Path(shutil.copytree(bare, tmp_path / "other"))
    monkeypatch.setattr(backtest.dataset_writer, "FLUSH_ROWS", 100)

    def stop(done: int, total: int) -> None:
        if 2 * done > total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_population(other, config(400, buckets=4), stop)
    for root in (one, other):
        build_population(root, config(400, buckets=4))
    same(tables(one), tables(other))


def test_memory_does_not_grow_with_the_number_of_accounts(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "CHUNK_ACCOUNTS", 500)
    monkeypatch.setattr(building, "_LEAST_CHUNK", 1)
    monkeypatch.setattr(backtest.dataset_writer, "FLUSH_ROWS", 2_500)
    seen: list[int] = []

    def peak(accounts: int) -> int:
        root = Path(shutil.copytree(bare, tmp_path / str(accounts)))
        before = 0

        def note(done: int, total: int) -> None:
            nonlocal before
            seen.append(done - before)
            before = done
            assert total == accounts

        tracemalloc.start()
        build_population(root, config(accounts, buckets=2), note)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    few, many = peak(1_000), peak(4_000)
    assert max(seen) <= 500
    assert many < 1.25 * few


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"at": "2023-01-01T00:00:00Z"}, "population.at"),
        ({"snapshots": ["2025-01-01T00:00:00Z"]}, "population.snapshots"),
        (
            {"at": "2024-08-01T12:00:00Z", "snapshots": ["2024-08-01T06:00:00Z"]},
            "before the first snapshot",
        ),
    ],
)
def test_times_outside_the_market_are_refused(root: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_population(root, config(10, **more))
    assert not Dataset.open(root).has("accounts")


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


# -- the books -------------------------------------------------------------------------------------


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


def test_limits_on_spot_in_use_and_borrow_modes(root: Path) -> None:
    build_population(root, config(3_000))
    found = tables(root)
    limited = found["balances"].dropna(subset="spot_limit")
    assert 0.06 < len(set(limited["account_id"])) / 3_000 < 0.10
    assert every(limited["spot_limit"] >= 0)
    assert 0.0 in limited["spot_limit"].tolist()
    assert 0.0 in limited["cash"].tolist()
    modes = found["accounts"]["borrow_mode"].tolist()
    assert 0.25 < modes.count("non_auto") / len(modes) < 0.4


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
    units = building_units(after, legs)
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


def portfolio(maker: Maker, books: Books, row: int) -> dict[str, Any]:
    """One account in the shape of a portfolio file."""
    universe, frames = maker.universe, market()
    names = universe.market.currencies
    legs = books.legs.keep(books.legs.account == row)
    known = frames.instruments.astype(object).where(frames.instruments.notna(), None)
    rows = {str(r["instrument_id"]): dict(r) for r in known.to_dict("records")}
    instruments, positions = [], []
    for at, contracts, entry in zip(legs.instrument, legs.contracts, legs.entry, strict=True):
        instrument = rows[str(universe.market.ids[at])]
        if instrument["expiry"] is not None:
            instrument["expiry"] = instrument["expiry"].isoformat()
        instruments.append(instrument)
        option = universe.market.kind[at] == OPTION
        positions.append(
            {
                "instrument_id": universe.market.ids[at],
                "contracts": float(contracts),
                "entry_price": float(entry if np.isfinite(entry) else universe.mark[at]),
                "mark_price": float(universe.mark[at]),
                "mark_iv": float(universe.iv[at]) if option else None,
                "forward": float(universe.forward[at]) if option else None,
            }
        )
    return {
        "time": hour_of(frames, 12).isoformat(),
        "index_usd": {n: float(v) for n, v in zip(names, universe.usd, strict=True)},
        "instruments": instruments,
        "positions": positions,
        "balances": {n: float(v) for n, v in zip(names, books.cash[row], strict=True)},
        "spot_limits": {
            n: float(v) for n, v in zip(names, books.limit[row], strict=True) if np.isfinite(v)
        },
        "borrow_mode": "auto",
        "spot_mode": None,
        "orders": [],
    }


def building_units(maker: Maker, legs: Legs) -> Any:
    from backtest.population.health import group_units

    return group_units(maker.universe, legs.account, legs.instrument, legs.contracts)


# -- later snapshots -------------------------------------------------------------------------------


def test_later_snapshots_hold_whole_books_that_change_a_little(root: Path) -> None:
    build_population(root, config(1_500, snapshots={"every_hours": 8}))
    dataset, found = Dataset.open(root), tables(root)
    times = dataset.snapshot_times()
    assert times == market().times.tolist()[::8]
    assert check(dataset).quarantined == 0
    assert check(dataset).expired_positions == 0
    names = set(found["accounts"]["account_id"])
    books = {
        t: f.set_index(["account_id", "instrument_id"])["contracts"]
        for t, f in found["positions"].groupby("time")
    }
    for time in times:
        at = found["balances"]["time"] == time
        assert set(found["balances"].loc[at, "account_id"]) == names
    first, second = books[times[0]], books[times[1]]
    both = first.index.intersection(second.index)
    assert 0.85 < len(both) / len(first) < 1.0
    changed = np.mean(np.asarray(first[both]) != np.asarray(second[both]))
    assert 0.02 < float(changed) < 0.10
    assert len(second.index.difference(first.index)) > 0


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
        before.config.model_copy(update={"trading": Trading(cash_share=0.0, open_share=0.0)}),
    )
    after = next_books(books, before.universe, late, settle, 1)
    assert not len(after.legs.account)
    inverse, linear, call = (market_.position[name] for name in ids)
    coins = size[inverse] * 100.0 * (1 / entry[inverse] - 1 / price)
    coins += size[call] * 0.01 * (price - 60_800.0) / price
    stable = size[linear] * 0.01 * (price - entry[linear])
    assert after.cash[0, place["BTC"]] == pytest.approx(coins, abs=2e-8)
    assert after.cash[0, place["USDT"]] == pytest.approx(stable, abs=0.01)


# -- any configuration -----------------------------------------------------------------------------


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


# -- report, figure, command -----------------------------------------------------------------------


def test_the_report_is_saved_and_adds_up(root: Path) -> None:
    report = build_population(root, config(1_000))
    assert PopulationReport.load(root) == report
    assert json.loads((root / "population.json").read_text())["config"]["seed"] == 7
    kinds = report.archetypes.values()
    assert sum(s.accounts for s in kinds) == 1_000
    assert sum(s.legs for s in kinds) == report.rows["positions"]
    for name in ("equity_counts", "leverage_counts", "delta_counts", "level_counts"):
        assert sum(sum(getattr(s, name)) for s in kinds) == 1_000


def test_the_figure_has_all_six_parts(root: Path) -> None:
    figure = population_figure(build_population(root, config(500)))
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 6
    assert all(axes.get_title(loc="left") for axes in figure.axes)


@pytest.fixture
def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(population)
    return app


def test_the_command_adds_accounts_and_a_picture(
    root: Path, tmp_path: Path, command: typer.Typer
) -> None:
    file = tmp_path / "run.toml"
    file.write_text('name = "x"\n[population]\naccounts = 300\nseed = 3\n[market]\nkind = "any"\n')
    done = CliRunner().invoke(command, [str(file), "--out", str(root)])
    assert done.exit_code == 0, done.output
    assert "directional" in done.output
    assert (root / "population.png").read_bytes().startswith(b"\x89PNG")
    again = CliRunner().invoke(command, [str(file), "--out", str(root), "--quiet"])
    assert isinstance(again.exception, ConfigError)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[market]\n", "section \\[population\\] is missing"),
        ("[population]\nacounts = 3\n", "did you mean 'population.accounts'"),
        ("[population\n", "TOML"),
    ],
)
def test_the_command_says_what_is_wrong(
    root: Path, tmp_path: Path, command: typer.Typer, text: str, words: str
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    done = CliRunner().invoke(command, [str(file), "--out", str(root)])
    assert isinstance(done.exception, ConfigError)
    with pytest.raises(ConfigError, match=words):
        raise done.exception


def test_the_command_has_help_with_an_example(command: typer.Typer) -> None:
    done = CliRunner().invoke(command, ["--help"])
    assert done.exit_code == 0
    assert "Example" in done.output


def test_snapshots_can_be_listed_or_every_so_many_hours() -> None:
    assert config(1).snapshots == "start"
    assert config(1, snapshots={"every_hours": 2.0}).snapshots == Every(every_hours=2.0)
    times = config(1, snapshots=["2024-08-01T06:00:00Z"]).snapshots
    assert isinstance(times, tuple)
    assert len(times) == 1
