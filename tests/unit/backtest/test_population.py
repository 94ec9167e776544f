import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from matplotlib.figure import Figure
from typer.testing import CliRunner

import backtest.dataset_writer
from backtest.cli.population import population
from backtest.dataset import Dataset
from backtest.dataset_writer import bucket_of
from backtest.errors import ConfigError
from backtest.population import (
    PopulationReport,
    build as building,
    build_population,
    population_figure,
)
from backtest.population.config import (
    Archetype,
)
from backtest.quality import check
from tests.unit.backtest.population_helpers import (
    KEYS,
    config,
    every,
    hour_of,
    market,
    same,
    tables,
    write_market,
)
from tests.unit.backtest.small_market import SmallMarket, small_market


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("market") / "bare", market())


@pytest.fixture
def root(bare: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bare, tmp_path / "dataset"))


def test_names_and_buckets_are_those_of_the_dataset() -> None:
    numbers = np.array([0, 7, 70_001, 9_999_999])
    names = building.account_ids(numbers)
    assert names.tolist() == ["A0000000", "A0000007", "A0070001", "A9999999"]
    buckets = building.account_buckets(0, 70_002, 7)
    assert [buckets[n] for n in (0, 7, 70_001)] == [bucket_of(n, 7) for n in names[:3]]


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
    with_legs = accounts["account_id"].isin(found["positions"]["account_id"])
    assert every(accounts["spot_mode"].notna() == with_legs)
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

    def once(accounts: int, lap: int) -> int:
        root = Path(shutil.copytree(bare, tmp_path / f"{accounts}-{lap}"))
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

    def peak(accounts: int) -> int:
        """The lower of two: what other threads of the process allocate meanwhile is traced too."""
        return min(once(accounts, lap) for lap in range(2))

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


@pytest.mark.parametrize("stay", [1, 2])
def test_accounts_come_and_go(root: Path, stay: int) -> None:
    every_8h = {"every_hours": 8}
    report = build_population(root, config(1_500, snapshots=every_8h, stay=stay))
    dataset, found = Dataset.open(root), tables(root)
    times = dataset.snapshot_times()
    assert check(dataset).quarantined == 0
    assert len(found["accounts"]) == found["accounts"]["account_id"].nunique() == 1_500
    assert sum(kind.accounts for kind in report.archetypes.values()) == 1_500
    at = found["balances"].groupby("account_id")["time"].unique()
    places = [sorted(times.index(time) for time in mine) for mine in at]
    assert len(places) == 1_500
    assert all(np.array_equal(np.diff(mine), np.ones(len(mine) - 1)) for mine in places)
    lives = np.bincount([len(mine) for mine in places])
    assert len(lives) == stay + 1
    assert lives[stay] == lives.max()
    present = np.bincount(np.concatenate(places))
    assert present.max() - present.min() <= stay
    assert present[0] == pytest.approx(1_500 * stay / (len(times) + stay - 1), abs=stay)
    # Whoever begins with the first snapshot holds what it would hold if it stayed.
    first = found["positions"].loc[found["positions"]["time"] == times[0]]
    build_population(root, config(1_500, snapshots=every_8h, overwrite=True))
    whole = tables(root)["positions"]
    whole = whole.loc[(whole["time"] == times[0]) & whole["account_id"].isin(first["account_id"])]
    keys = ["account_id", "instrument_id"]
    pd.testing.assert_frame_equal(
        first.sort_values(keys).reset_index(drop=True),
        whole.sort_values(keys).reset_index(drop=True),
        check_categorical=False,
    )


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
