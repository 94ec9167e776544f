"""Core-model and margin-adequacy backtests of a whole run, and their page."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backtest.calibration.coverage_exceptions import cause
from backtest.calibration.coverage_page import build_coverage_page, sentence, totals
from backtest.calibration.coverage_study import (
    GROUPINGS,
    SEVERAL,
    CoverageStudy,
    coverage_study,
    shown_horizon,
    stablecoins_move,
)
from backtest.config import LiquidationSection, RunConfig, SetSection
from backtest.dataset import Dataset
from backtest.errors import ConfigError, DataError
from backtest.params import load_parameter_set
from backtest.statistics.blocks import Plan
from tests.unit.backtest import tiny_world as world


pytestmark = pytest.mark.slow
FIGURES = ("coverage", "margin", "breaches", "severity")
CHANGE = world.START + np.timedelta64(4, "h")
ASKED = CoverageStudy(("1h", "3h", "7D"), 0.05, Plan(resamples=100))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("coverage")
    return world.config(world.write(folder / "data"), mode="frozen")


@pytest.fixture(scope="module")
def out(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    with world.devices(1):
        tables = coverage_study(base, ASKED, folder, workers=1)
    assert set(tables) == {"adequacy", "core"}
    return folder


def read(out: Path, name: str) -> Any:
    import pandas as pd

    return pd.read_parquet(out / "tables" / f"{name}.parquet")


def test_both_backtests_stand_apart(out: Path):
    for name, kind in (("adequacy", "margin adequacy"), ("core", "core model")):
        frame = read(out, name)
        assert set(frame["backtest"]) == {kind}
        assert set(frame["horizon"]) == {"1h", "3h"}  # the window holds no week
        assert set(frame["grouping"]) == {"total", *(by[0] for by in GROUPINGS if by)}


def test_losses_and_breaches_are_those_of_the_traces(out: Path):
    trace: Any = world.read(out / "adequacy", "traces")
    trace = trace.sort_values(["account_id", "time"])
    equity = trace.pivot(index="account_id", columns="time", values="adjusted_equity").to_numpy()
    margin = trace.pivot(index="account_id", columns="time", values="total_mmr").to_numpy()
    loss = equity[:, :-3] - equity[:, 3:]
    falls = [equity[:, : loss.shape[1]] - equity[:, k : k + loss.shape[1]] for k in (1, 2, 3)]
    for point, found in (("end", loss), ("worst", np.max(falls, axis=0))):
        mine = totals(read(out, "adequacy"))
        row = mine[(mine["horizon"] == "3h") & (mine["point"] == point)].iloc[0]
        held = margin[:, : loss.shape[1]]
        known = ~np.isnan(found) & ~np.isnan(held)
        assert row["observations"] == known.sum()
        assert row["breaches"] == (found > held)[known].sum()


def test_groups_add_up(out: Path):
    frame = read(out, "core")
    whole = totals(frame).set_index(["horizon", "point"])["observations"]
    for by in ("unit", "segment", "tier", "regime"):
        parts = frame[frame["grouping"] == by].groupby(["horizon", "point"])["observations"].sum()
        assert parts.to_dict() == whole.to_dict(), by
    units = set(frame[frame["grouping"] == "unit"]["group"])
    assert units == {"BTC", "ETH"}
    assert SEVERAL not in units


def test_the_core_has_no_add_ons_and_the_whole_has(out: Path):
    core = load_parameter_set(out / "sets" / "today.toml").numbers()
    assert core["mr8"]["fee_rate"] == 0.0
    assert core["mr9"]["enabled"] is False  # no stablecoin moves in this world
    trace: Any = world.read(out / "core", "traces")
    assert (trace["mr7"].fillna(0.0) == 0.0).all()


def test_short_windows_give_no_verdict(out: Path):
    verdicts = set(totals(read(out, "adequacy"))["verdict"])
    assert any(words.startswith(("insufficient data", "rejected")) for words in verdicts)


def test_the_page_keeps_them_apart(out: Path):
    page = build_coverage_page(out)
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") >= 2
    for words in ("Margin adequacy", "Core model", "Exceptions", "at the worst point"):
        assert words in text
    assert sentence(read(out, "adequacy"), 0.05).startswith("Under today")
    for words in ("by side", "Largest charges", "Zone", "no probability integral transform"):
        assert words in text
    figures = [f"{f}_{k}.png" for f in FIGURES for k in ("adequacy", "core")]
    for name in (*figures, "tables/core.csv", "tables/core_exceptions.csv"):
        assert (page.parent / name).is_file()


def test_the_figures_are_of_the_longest_horizon_up_to_a_day(out: Path):
    assert shown_horizon(["1h", "12h", "1D", "3D"]) == "1D"
    assert shown_horizon(["7D", "3D"]) == "3D"
    assert json.loads((out / "coverage.json").read_bytes())["shown"] == "3h"
    whole = totals(read(out, "adequacy"))
    row = whole[(whole["horizon"] == "3h") & (whole["point"] == "worst")].iloc[0]
    last = read(out, "adequacy_cumulative").iloc[-1]
    assert (last["observations"], last["breaches"]) == (row["observations"], row["breaches"])
    assert read(out, "adequacy_shortfalls")["breaches"].sum() == row["breaches"]
    paths = read(out, "adequacy_paths")
    assert sorted(paths["unit"].unique()) == ["BTC", "ETH"]
    assert paths["account"].nunique() == 2


def test_exceptions_say_who_lost_what_and_why(out: Path):
    found = read(out, "adequacy_exceptions")
    assert found["account"].is_unique
    assert found["shortfall_usd"].is_monotonic_decreasing
    row = found.iloc[0]
    assert row["shortfall_usd"] == totals(read(out, "adequacy"))["largest_shortfall_usd"].max()
    assert row["loss_usd"] - row["margin_usd"] == pytest.approx(row["shortfall_usd"])
    assert row["charges"].startswith("MR")
    trace: Any = world.trace(out / "adequacy", row["account"])
    at = trace[trace["time"] == row["time"]].iloc[0]
    assert at["total_mmr"] == row["margin_usd"]
    prices = dict(BTC=world.BTC, ETH=world.ETH_USD)[row["coin"]]
    first = world.TIMES.get_loc(row["time"])
    moves = prices[first : first + 4] / prices[first] - 1.0
    assert row["coin_move_frac"] == pytest.approx(moves[np.abs(moves).argmax()])


def test_causes():
    assert cause(0.5, 0.2) == "price"
    assert cause(0.4, 0.01) == "stablecoin"
    assert cause(-1.0, 0.001) == "other"


def test_a_study_of_before_says_what_it_does_not_have(out: Path, tmp_path: Path):
    old = tmp_path / "old"
    shutil.copytree(out, old)
    for file in (old / "tables").glob("*_*.parquet"):
        file.unlink()
    for name in ("adequacy", "core"):
        file = old / "tables" / f"{name}.parquet"
        frame = read(old, name).drop(columns=["zone", "pof_p", "cc_p", "dq_p"])
        frame.to_parquet(file, index=False)
    text = build_coverage_page(old).read_text(encoding="utf-8")
    assert text.count("run it again in a new folder") >= 6


def test_what_cannot_be_tested_is_refused(base: RunConfig, tmp_path: Path):
    moving = base.model_copy(update={"replay": base.replay.model_copy(update={"mode": "actual"})})
    with pytest.raises(ConfigError, match=r"replay\.mode is 'actual'"):
        coverage_study(moving, ASKED, tmp_path)
    closing = base.model_copy(update={"liquidation": LiquidationSection(mode="simulate")})
    with pytest.raises(ConfigError, match=r"liquidation\.mode is 'simulate'"):
        coverage_study(closing, ASKED, tmp_path)
    with pytest.raises(DataError, match=r"coverage\.json is missing"):
        build_coverage_page(tmp_path)


def test_a_study_of_another_configuration_is_replaced_only_where_asked(
    base: RunConfig, out: Path, tmp_path: Path
):
    """The other configuration is a schedule of Bybit rules, whose core changes at its date.

    Account a001 holds 1 ETH of a perpetual and nothing else: its core is 15 % of the mark, 10 %
    from four hours on; the whole has 0.03 % of the size at the index on top.
    """
    folder = Path(shutil.copytree(out, tmp_path / "study"))
    rules = tmp_path / "bybit.toml"
    steps = (("bybit-pre-2025-01-10", world.START), ("bybit-2025-01-10", CHANGE))
    text = "".join(
        f'\n[[steps]]\nfrom = {start.isoformat()}\nfile = "{world.PARAMS.parent / name}.toml"\n'
        for name, start in steps
    )
    rules.write_text('name = "by date"\n' + text)
    sets = [SetSection(name="by date", file=rules)]
    changes: dict[str, Any] = {"name": "other", "seed": base.seed + 1, "parameter_sets": sets}
    other = base.model_copy(update=changes)
    with world.devices(1):
        with pytest.raises(ConfigError, match="replace it with --fresh"):
            coverage_study(other, ASKED, folder, workers=1)
        tables = coverage_study(other, ASKED, folder, workers=1, fresh=True)
    assert set(tables) == {"adequacy", "core"}
    assert json.loads((folder / "core" / "manifest.json").read_text())["seed"] == base.seed + 1
    mark = world.ETH_USD + 1.0
    loss = np.where(world.TIMES < CHANGE, 0.15, 0.10) * mark
    core, whole = (world.trace(folder / name, "a001") for name in ("core", "adequacy"))
    np.testing.assert_allclose(core["derivatives_mmr"], loss, rtol=1e-12)
    np.testing.assert_allclose(whole["total_mmr"], loss + 0.0003 * world.ETH_USD, rtol=1e-12)
    page = build_coverage_page(folder)
    text = page.read_text(encoding="utf-8")
    for words in ("by date", "charges that stay and that are left out", "Perpetuals and futures"):
        assert words in text
    assert (page.parent / "tables" / "core_charges.csv").is_file()


def test_a_depeg_counts_at_the_times_of_the_replay_alone(tmp_path: Path):
    rows = world.index()
    rows.loc[(rows["currency"] == "USDT") & (rows["time"] == world.TIMES[2]), "usd"] = 0.97
    base = world.config(world.write(tmp_path / "data", index=rows), mode="frozen")
    dataset = Dataset.open(base.dataset.path)
    assert stablecoins_move(base, dataset)
    later = base.replay.model_copy(update={"start": world.TIMES[3].to_pydatetime()})
    assert not stablecoins_move(base.model_copy(update={"replay": later}), dataset)
