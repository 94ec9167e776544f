"""Liquidations that move prices, in whole runs of the hand-made market of eight hours."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from backtest import cluster
from backtest.config import RunConfig
from backtest.errors import RunError
from backtest.explain import explain_portfolio
from backtest.impact_rounds import STATE
from backtest.params_liquidation import load_liquidation
from backtest.reference.impact import decayed, price_move
from backtest.report.build import build_report
from backtest.run import run
from tests.unit.backtest import tiny_world
from tests.unit.backtest.test_invariances import Results, same_bits
from tests.unit.backtest.test_simulate import ALL, RULES, SIMULATE, config, poor, results


pytestmark = pytest.mark.slow
TABLES = (*ALL, "impact", "impact_rounds")
PER_MUSD = 0.1
NEAR = 1e-7
HOURS = 1.0 / 24.0


def rule_file(folder: Path, per_musd: float = PER_MUSD, **changed: Any) -> Path:
    """The default liquidation file with a linear impact of all coins."""
    text = RULES["okx"].read_text(encoding="utf-8")
    text = text.replace(
        '[impact]\nmodel = { value = "none"', '[impact]\nmodel = { value = "linear"'
    )
    for coin, value in (("BTC", "2e-05"), ("ETH", "4e-05"), ("default", "0.0005")):
        old = "[impact.linear.move_per_musd]"
        head, tail = text.split(old)
        text = (
            head
            + old
            + tail.replace(f"{coin} = {{ value = {value}", f"{coin} = {{ value = {per_musd}", 1)
        )
    for key, value in changed.items():
        lines = text.split("\n")
        (k,) = [k for k, line in enumerate(lines) if line.startswith(f"{key} = ")]
        rest = lines[k].split(", unit", 1)[1]
        lines[k] = f"{key} = {{ value = {value}, unit{rest}"
        text = "\n".join(lines)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{per_musd}-{'-'.join(map(str, changed.values()))}.toml"
    file.write_text(text, encoding="utf-8")
    return file


def moving(dataset: Path, file: Path, **keys: Any) -> RunConfig:
    return config(dataset, SIMULATE | {"rules": {"okx": file}}, **keys)


def tables(out: Path) -> Results:
    """All tables; rows of moves by time and coin."""
    found = results(out)
    for name, by in (("impact", ["time", "coin"]), ("impact_rounds", ["round"])):
        if (out / name).is_dir():
            found[name] = tiny_world.read(out, name).sort_values(by, ignore_index=True)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("impact")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Path:
    return poor(folder / "world")


@pytest.fixture(scope="module")
def static(dataset: Path, folder: Path) -> Results:
    tiny_world.replay(config(dataset, SIMULATE), folder / "static")
    return tables(folder / "static")


@pytest.fixture(scope="module")
def out(dataset: Path, folder: Path) -> Path:
    tiny_world.replay(moving(dataset, rule_file(folder)), folder / "base")
    return folder / "base"


@pytest.fixture(scope="module")
def base(out: Path) -> Results:
    return tables(out)


def manifest(out: Path) -> dict[str, Any]:
    return json.loads((out / "manifest.json").read_text())


def test_no_impact_is_the_static_run_to_the_bit(static: Results, dataset: Path, folder: Path):
    out = folder / "zero"
    tiny_world.replay(moving(dataset, rule_file(folder, 0.0)), out)
    found = tables(out)
    same_bits(static, found, ALL)
    assert (found["impact"]["move_frac"] == 0.0).all()
    assert found["impact_rounds"]["stands_still"].tolist() == [True]
    assert "impact" not in static
    assert "impact" not in manifest(folder / "static")


def test_round_0_is_the_static_run(static: Results, base: Results):
    first = base["impact_rounds"].iloc[0]
    assert first["round"] == first["largest_move_frac"] == 0
    assert first["notional_usd"] == pytest.approx(static["liquidated"]["notional_usd"].sum())
    assert first["liquidated"] == static["liquidated"]["account_id"].nunique()


def test_the_path_is_that_of_what_was_liquidated_on_it(base: Results, folder: Path):
    """The fixed point by hand: decayed moves and the reference's move of the time's net sales."""
    rules = load_liquidation(rule_file(folder)).numbers()
    sold: dict[Any, dict[str, list[float]]] = {}
    for row in base["liquidated"].to_dict("records"):
        coins, usd = (
            json.loads(row[c].replace("'", '"')) for c in ("sold_coins", "sold_delta_usd")
        )
        for coin, each in zip(coins, usd, strict=True):
            sold.setdefault(row["time"], {}).setdefault(coin, []).append(each)
    left: dict[str, float] = {}
    moved = 0
    for time in tiny_world.TIMES:
        left = decayed(left, HOURS, rules)
        for coin, usd in sold.get(time, {}).items():
            left[coin] = left.get(coin, 0.0) + price_move(sum(usd), coin, rules, 0.0)
        rows = base["impact"][base["impact"]["time"] == time]
        found = dict(zip(rows["coin"].astype(str), rows["move_frac"], strict=True))
        assert found == pytest.approx(left, abs=NEAR)
        moved += len(found)
    assert moved > 5
    assert base["impact"]["move_frac"].abs().max() > 0.005


def test_rounds_are_told(base: Results, static: Results, out: Path):
    rounds = base["impact_rounds"]
    assert rounds["round"].tolist() == list(range(len(rounds)))
    assert rounds["stands_still"].tolist() == [False] * (len(rounds) - 1) + [True]
    last = rounds.iloc[-1]
    assert last["largest_move_frac"] == base["impact"]["move_frac"].abs().max()
    assert last["notional_usd"] > static["liquidated"]["notional_usd"].sum()
    (said,) = manifest(out)["impact"]
    assert said["rounds"] == last["round"]
    assert said["stands_still"]
    assert said["model"] == "linear"


def test_explain_is_at_the_moved_prices(base: Results, out: Path):
    """Every liquidation again with the reference; every stored row of a trace at a moved time."""
    for row in base["liquidated"].to_dict("records"):
        found = explain_portfolio(out, row["account_id"], row["time"]).liquidation
        assert found is not None
        assert (found.status, found.slices) == (row["status"], row["slices"])
        assert found.equity_before_usd == pytest.approx(row["equity_before_usd"], rel=1e-9)
        assert found.equity_after_usd == pytest.approx(row["equity_after_usd"], rel=1e-9)
    for k in range(0, tiny_world.NUM_ACCOUNTS, 5):
        found = explain_portfolio(out, tiny_world.name_of(k), tiny_world.TIMES[4])
        assert found.stored is not None
        equity = found.answer["account"]["adjusted_equity"]
        assert equity == pytest.approx(found.stored["adjusted_equity"], rel=1e-9)


def test_any_number_of_buckets(base: Results, folder: Path):
    other = poor(folder / "world-3", buckets=3)
    tiny_world.replay(moving(other, rule_file(folder)), folder / "out-3")
    same_bits(base, tables(folder / "out-3"), TABLES)


def test_workers_and_short_windows(folder: Path):
    """Bitcoin falls in the fifth hour; windows before the first move are replayed once."""
    cash = tiny_world.balances()
    cash["cash"] *= 0.6
    with mock.patch.object(tiny_world, "BTC", np.where(np.arange(9) < 4, 64_000.0, 51_200.0)):
        world = tiny_world.write(folder / "crash", balances=cash)
    chosen = moving(world, rule_file(folder))
    tiny_world.replay(chosen, folder / "crash-1")
    engine = {"window_times": 3, "workers": 2, "workers_kind": "threads"}
    chosen = moving(world, rule_file(folder), engine=engine)
    with tiny_world.devices(1):
        found = run(chosen, folder / "crash-2", workers=2)
    one, other = tables(folder / "crash-1"), tables(folder / "crash-2")
    same_bits(one, other, TABLES)
    rounds, buckets = len(one["impact_rounds"]), 2
    assert rounds > 2
    assert found["cells"]["computed"] == buckets * (1 + 2 * rounds)


@pytest.mark.parametrize("calls", [1, 3])
def test_killed_in_a_round_and_run_again(base: Results, folder: Path, dataset: Path, calls: int):
    """Stopped in the middle of a round, with half of its buckets done; then as if never stopped."""
    out, engine = folder / f"killed-{calls}", {"window_times": 4}
    chosen, done = moving(dataset, rule_file(folder), engine=engine), [0]
    whole = cluster.replay_group

    def half(context: Any, buckets: Any, on_cell: Any = None) -> Any:
        done[0] += 1
        if done[0] <= calls:
            return whole(context, buckets, on_cell)
        whole(context, buckets[:1], on_cell)
        raise RunError("killed")

    with mock.patch.object(cluster, "replay_group", half), pytest.raises(RunError, match="killed"):
        tiny_world.replay(chosen, out)
    assert not (out / "manifest.json").exists()
    assert (out / STATE).is_file()
    found = tiny_world.replay(chosen, out)
    same_bits(base, tables(out), TABLES)
    assert found["cells"]["reused"] > 0
    (out / STATE).unlink()
    shutil.rmtree(out / "impact")
    tiny_world.replay(chosen, out)
    same_bits(base, tables(out), TABLES)


def test_a_finished_run_is_reused(base: Results, out: Path, folder: Path, dataset: Path):
    found = tiny_world.replay(moving(dataset, rule_file(folder)), out)
    assert found["cells"]["computed"] == 0
    same_bits(base, tables(out), TABLES)


def test_a_run_that_does_not_settle_says_so(folder: Path, dataset: Path):
    out = folder / "unsettled"
    chosen = moving(dataset, rule_file(folder, max_rounds=1.0))
    tiny_world.replay(chosen, out)
    (said,) = manifest(out)["impact"]
    assert (said["rounds"], said["stands_still"]) == (1, False)
    found = tables(out)
    assert said["largest_change_frac"] > 1e-4
    # The results are those of the last path that was replayed.
    assert found["impact_rounds"]["largest_move_frac"].iloc[-1] == pytest.approx(
        found["impact"]["move_frac"].abs().max()
    )


def test_more_impact_closes_no_less(static: Results, base: Results, folder: Path, dataset: Path):
    out = folder / "mild"
    tiny_world.replay(moving(dataset, rule_file(folder, 0.05)), out)
    slices = [
        found["liquidated"].query("time == @tiny_world.START")["slices"].sum()
        for found in (static, tables(out), base)
    ]
    assert slices == sorted(slices)
    assert slices[0] < slices[-1]


def test_the_report_says_what_prices_did(base: Results, out: Path):
    files = build_report(out)
    page = files.page.read_text(encoding="utf-8")
    assert "What liquidations did to prices" in page
    assert "Not settled" not in page
    assert "impact.png" in {file.name for file in files.figures}
    (row,) = pd.read_parquet(out / "report" / "tables" / "impact_feedback.parquet").to_dict(
        "records"
    )
    rounds = base["impact_rounds"]
    assert row["rounds"] == rounds["round"].iloc[-1]
    assert row["notional_amplification"] == pytest.approx(
        rounds["notional_usd"].iloc[-1] / rounds["notional_usd"].iloc[0]
    )
    assert row["last_move_frac"] == base["impact"]["move_frac"].abs().max()
