"""Schedules through the main job: each time under the rules in force then, states carried on."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.dataset import Dataset
from backtest.errors import ConfigError
from backtest.market_window import micros
from backtest.plan import make_plan
from tests.unit.backtest import tiny_world as world
from tests.unit.backtest.tiny_world import NUM_ACCOUNTS, START, TIMES, name_of


pytestmark = pytest.mark.slow
FOLDER = world.PARAMS.parent
SWITCH: Any = TIMES[4]
BEFORE = START - pd.Timedelta(days=30)
PAIRS = {
    "merged": ("okx-merged-pre-2025-shocks", "okx-merged-2025-01-21"),
    "split then merged": ("okx-split-2024-06-05", "okx-merged-2025-01-21"),
    "merged then split": ("okx-merged-2025-01-21", "okx-split-2024-05-11"),
}


def schedule(file: Path, *steps: tuple[Any, str]) -> Path:
    """A schedule of sets by the times from which they hold."""
    rows = [
        f'[[steps]]\nfrom = {time.isoformat()}\nfile = "{FOLDER / name}.toml"\n'
        for time, name in steps
    ]
    file.write_text('name = "both"\n' + "".join(rows))
    return file


def accounts() -> pd.DataFrame:
    """Every third account places its spot in the USDT unit, every third in the USD unit."""
    modes = [None, "USDT", "USD"]
    return world.accounts().assign(spot_mode=[modes[k % 3] for k in range(NUM_ACCOUNTS)])


def balances() -> pd.DataFrame:
    """As ever, and everyone holds some BTC: spot to be in use."""
    cash = world.balances()
    in_coin = cash["currency"] == "BTC"
    more = cash[~in_coin].assign(currency="BTC", cash=0.7)
    return pd.concat([cash, more], ignore_index=True)


@pytest.fixture(scope="module", params=PAIRS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Results of one run of the first set, the second, and the schedule of both."""
    folder = tmp_path_factory.mktemp("schedule")
    first, second = PAIRS[request.param]
    sets = {name: FOLDER / f"{name}.toml" for name in (first, second)}
    sets["both"] = schedule(folder / "both.toml", (BEFORE, first), (SWITCH, second))
    dataset = world.write(folder / "data", accounts=accounts(), balances=balances())
    manifest = world.replay(world.config(dataset, sets=sets), folder / "out")
    tables = {name: world.read(folder / "out", name) for name in ("traces", "accounts")}
    return {"sets": (first, second), "manifest": manifest, **tables}


def traces(run: Any, name: str) -> Any:
    rows = run["traces"]
    rows = rows[rows["parameter_set"] == name].drop(columns="parameter_set")
    return rows.sort_values(["account_id", "time"], ignore_index=True)


def test_each_time_has_the_rows_of_the_set_in_force(run: Any):
    """Bit for bit: the first set before the instant, the second from it on."""
    first, second, both = (traces(run, name) for name in (*run["sets"], "both"))
    early = (both["time"] < SWITCH).to_numpy()
    assert early.sum() == 4 * NUM_ACCOUNTS
    expected = pd.concat([first[early], second[~early]]).sort_index()
    pd.testing.assert_frame_equal(both, expected, check_exact=True)
    for name in both.select_dtypes("float"):
        bits = [x[name].to_numpy().view(np.int64) for x in (both, expected)]
        assert (bits[0] == bits[1])[~both[name].isna().to_numpy()].all(), name
    assert not first["total_mmr"].equals(second["total_mmr"])
    assert not first[early]["total_mmr"].equals(second[early]["total_mmr"])
    assert not first[~early]["total_mmr"].equals(second[~early]["total_mmr"])


def test_accounts_remember_across_the_switch(run: Any):
    rows = run["accounts"]
    both = rows[rows["parameter_set"] == "both"].set_index("account_id")
    for k in range(NUM_ACCOUNTS):
        path = traces(run, "both")
        path = path[path["account_id"] == name_of(k)].reset_index(drop=True)
        worst = both.loc[name_of(k)]
        assert worst["scored"] == len(TIMES)
        assert worst["worst_margin_level"] == path["margin_level"].min()
        assert worst["worst_time"] == path.loc[path["margin_level"].idxmin(), "time"]


def test_the_manifest_lists_the_steps_met(run: Any):
    described = {row["name"]: row for row in run["manifest"]["parameter_sets"]}
    steps = described["both"]["schedule"]
    assert [step["set"] for step in steps] == list(run["sets"])
    assert described["both"]["set"] == run["sets"][1]


@pytest.mark.parametrize("pair", PAIRS)
def test_windows_are_cut_where_units_switch_and_only_there(pair: str, tmp_path: Path):
    first, second = PAIRS[pair]
    both = schedule(tmp_path / "both.toml", (BEFORE, first), (SWITCH, second))
    config = world.config(world.write(tmp_path / "d"), sets={"both": both})
    found = make_plan(config, Dataset.open(tmp_path / "d")).windows
    pieces = [(w.first, w.stop) for w in found]
    assert pieces == ([(0, 9)] if pair == "merged" else [(0, 4), (4, 9)])
    assert [w.number for w in found] == list(range(len(found)))
    assert {w.snapshot_us for w in found} == {int(micros(TIMES)[0])}


def test_a_switch_between_two_grid_times_cuts_at_the_next(tmp_path: Path):
    between = TIMES[4] - pd.Timedelta(minutes=20)
    steps = (BEFORE, "okx-split-2024-06-05"), (between, "okx-merged-2025-01-21")
    sets = {"both": schedule(tmp_path / "both.toml", *steps)}
    config = world.config(world.write(tmp_path / "d"), sets=sets, engine={"window_times": 3})
    found = make_plan(config, Dataset.open(tmp_path / "d")).windows
    assert [(w.first, w.stop) for w in found] == [(0, 3), (3, 4), (4, 7), (7, 9)]


@pytest.mark.parametrize("hours", [-5, 0, 8, 50])
def test_a_switch_at_or_outside_the_ends_cuts_no_empty_window(hours: int, tmp_path: Path):
    at = START + pd.Timedelta(hours=hours)
    steps = (BEFORE, "okx-split-2024-06-05"), (at, "okx-merged-2025-01-21")
    sets = {"both": schedule(tmp_path / "both.toml", *steps)}
    config = world.config(world.write(tmp_path / "d"), sets=sets)
    found = make_plan(config, Dataset.open(tmp_path / "d")).windows
    assert [(w.first, w.stop) for w in found] == ([(0, 8), (8, 9)] if hours == 8 else [(0, 9)])


def test_switches_and_snapshots_both_cut(tmp_path: Path):
    tables: dict[str, Any] = {
        t: pd.concat([world.TABLES[t]().assign(time=TIMES[h]) for h in (0, 4, 6)])
        for t in ("balances", "positions")
    }
    steps = (BEFORE, "okx-split-2024-06-05"), (TIMES[5], "okx-merged-2025-01-21")
    sets = {"both": schedule(tmp_path / "both.toml", *steps), "today": world.PARAMS}
    config = world.config(world.write(tmp_path / "d", **tables), sets=sets, mode="actual")
    found = make_plan(config, Dataset.open(tmp_path / "d")).windows
    hours = {int(t): k for k, t in enumerate(micros(TIMES))}
    pieces = [(w.first, w.stop, hours[w.snapshot_us]) for w in found]
    assert pieces == [(0, 4, 0), (4, 5, 4), (5, 6, 4), (6, 9, 6)]


def test_a_schedule_without_rules_for_the_start_is_refused(tmp_path: Path):
    sets = {"late": schedule(tmp_path / "late.toml", (TIMES[2], "okx-merged-2025-01-21"))}
    config = world.config(world.write(tmp_path / "d"), sets=sets)
    with pytest.raises(ConfigError, match="no rules for"):
        make_plan(config, Dataset.open(tmp_path / "d"))
