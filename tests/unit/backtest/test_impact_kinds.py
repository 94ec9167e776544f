"""Liquidations that move prices: other models, other impacts, worker processes, small accounts."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backtest.config import RunConfig
from backtest.explain import explain_portfolio
from backtest.liquidation_rules import rules_of_sets
from backtest.reference.impact import decayed, price_move
from backtest.run import run
from tests.unit.backtest import tiny_world
from tests.unit.backtest.test_impact_runs import TABLES, manifest, tables
from tests.unit.backtest.test_invariances import same_bits
from tests.unit.backtest.test_simulate import config
from tests.unit.backtest.test_simulate_crash import BTC, falling_world


pytestmark = pytest.mark.slow
ROOT = tiny_world.ROOT / "configs"
BYBIT = {"bybit": ROOT / "params" / "bybit-2025-01-10.toml"}
FILES = {model: ROOT / "liquidation" / f"{model}-default.toml" for model in ("okx", "bybit")}
SCALES = {"linear": 5_000.0, "square_root": 10.0, "depth": 300.0}
"""Multiples at which the few accounts of the world move prices by some percent."""
NEAR = 1e-7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Path:
    return falling_world(folder / "world")


def chosen(dataset: Path, impact: str = "linear", **keys: Any) -> RunConfig:
    model = "bybit" if keys.get("sets") == BYBIT else "okx"
    section = {
        "mode": "simulate",
        "rules": {model: FILES[model]},
        "impact_model": impact,
        "impact_scale": SCALES[impact],
    }
    return config(dataset, section, **keys)


@pytest.fixture(scope="module")
def base(dataset: Path, folder: Path) -> Path:
    tiny_world.replay(chosen(dataset), folder / "base")
    return folder / "base"


def volatility(k: int, prices: np.ndarray) -> float:
    """Of a day, by hand: squared returns until a time, scaled to 24 hours."""
    returns = np.diff(np.log(prices[: k + 1]))
    return math.sqrt(float((returns**2).sum()) * 24.0 / k) if k else 0.0


def settles(out: Path, given: RunConfig, least_move: float = 0.005) -> None:
    """Prices stand still, and are those that the reference makes of what was liquidated on them."""
    (said,) = manifest(out)["impact"]
    assert said["stands_still"]
    assert said["rounds"] > 1
    found, (rules,) = tables(out), rules_of_sets(given)
    sold: dict[Any, dict[str, list[float]]] = {}
    for row in tiny_world.read(out, "liquidated").to_dict("records"):
        for coin, usd in zip(row["sold_coins"], row["sold_delta_usd"], strict=True):
            sold.setdefault(row["time"], {}).setdefault(coin, []).append(usd)
    paths = {"BTC": BTC, "ETH": tiny_world.ETH_USD}
    left: dict[str, float] = {}
    for k, time in enumerate(tiny_world.TIMES):
        left = decayed(left, 1.0 / 24.0, rules)
        for coin, usd in sold.get(time, {}).items():
            move = price_move(sum(usd), coin, rules, volatility(k, paths[coin]))
            left[coin] = left.get(coin, 0.0) + move
        rows = found["impact"][found["impact"]["time"] == time]
        moves = dict(zip(rows["coin"].astype(str), rows["move_frac"], strict=True))
        kept = {coin: move for coin, move in left.items() if coin in moves or abs(move) > NEAR}
        assert moves == pytest.approx(kept, abs=NEAR)
    assert found["impact"]["move_frac"].abs().max() > least_move


@pytest.mark.parametrize("impact", list(SCALES))
def test_every_impact_in_a_whole_run(dataset: Path, folder: Path, base: Path, impact: str):
    given, out = chosen(dataset, impact), folder / impact
    if impact == "linear":
        out = base
    else:
        tiny_world.replay(given, out)
    settles(out, given)


def test_bybit(dataset: Path, folder: Path):
    """Another margin model: the same rounds, and the reference at the moved prices."""
    given, out = chosen(dataset, sets=BYBIT), folder / "bybit"
    tiny_world.replay(given, out)
    settles(out, given)
    for row in tables(out)["liquidated"].to_dict("records"):
        found = explain_portfolio(out, row["account_id"], row["time"]).liquidation
        assert found is not None
        assert (found.status, found.slices) == (row["status"], row["slices"])
        assert found.equity_before_usd == pytest.approx(row["equity_before_usd"], rel=1e-9)
        assert found.equity_after_usd == pytest.approx(row["equity_after_usd"], rel=1e-9)


def test_worker_processes(dataset: Path, folder: Path, base: Path, monkeypatch: pytest.MonkeyPatch):
    """Two processes over all rounds: the bits of one; every round tells its cells and itself."""
    monkeypatch.setenv("XLA_FLAGS", "")
    lines, rounds, cells = list[str](), list[int](), [0]

    def on_cell(count: int, _: int) -> None:
        cells[0] += count

    given = chosen(dataset, engine={"workers": 2, "workers_kind": "processes"})
    with tiny_world.devices(1):
        run(
            given,
            folder / "processes",
            workers=2,
            say=lines.append,
            on_cell=on_cell,
            on_round=rounds.append,
        )
    same_bits(tables(base), tables(folder / "processes"), TABLES)
    (said,) = json.loads((base / "manifest.json").read_text())["impact"]
    last = said["rounds"]
    assert rounds == list(range(1, last + 1))
    told = [line for line in lines if line.startswith("impact of today, round ")]
    assert [line.split("round ")[1].split(":")[0] for line in told] == [
        str(k) for k in range(last + 1)
    ]
    assert told[-1].endswith("prices stand still")
    assert cells[0] == 2 * (last + 1)


def test_accounts_that_are_left_out_move_nothing(dataset: Path, folder: Path, base: Path):
    """With less equity than ``replay.min_equity_usd`` at the start they trade nothing at all."""
    accounts = tables(base)["accounts"]
    hit = accounts["account_id"].isin(tables(base)["liquidated"]["account_id"])
    least = float(accounts[hit]["start_equity_usd"].median())
    given, out = chosen(dataset, min_equity_usd=least), folder / "least"
    tiny_world.replay(given, out)
    settles(out, given, least_move=0.0005)
    before, after = (set(tables(x)["liquidated"]["account_id"]) for x in (base, out))
    small = accounts[accounts["start_equity_usd"] < least]["account_id"]
    assert manifest(out)["accounts_left_out"] == len(small)
    assert before & set(small)
    assert not after & set(small)
    assert after
