"""Parameter sets that are replayed together give what each of them gives alone, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.batching import Batch
from backtest.engine import Engine
from backtest.replay import MOST_TOGETHER
from backtest.report.build import build_report
from backtest.window_records import WindowTables
from kernels.records import Table
from tests.unit.backtest import generated_world, tiny_world
from tests.unit.backtest.tiny_world import PARAMS


pytestmark = pytest.mark.slow
TABLES = ("traces", "events", "event_units", "accounts", "summary")
OVERLAY = """
extends = "{base}"
name = "{name}"
description = "example"

[{key}]
value = {value}
unit = "fraction"
label = "A"
source = "example"
"""
MODES: dict[str, dict[str, Any]] = {
    "float64": {},
    "float32": {"engine": {"precision": "float32"}},
    "debts": {"interest": True, "conversion": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Path:
    return generated_world.add_accounts(generated_world.market(folder / "data"), buckets=2)


@pytest.fixture(scope="module")
def sets(folder: Path) -> dict[str, Path]:
    """Three that go together, and one with other risk units."""
    changed = {
        "wider": ("mr1.price_moves.G1", "[0.0, 0.05, 0.1, 0.15]"),
        "basis": ("mr4.near.G1", "0.02"),
    }
    files = {"today": PARAMS}
    for name, (key, value) in changed.items():
        files[name] = folder / f"{name}.toml"
        text = OVERLAY.format(base=PARAMS, name=name, key=key, value=value)
        files[name].write_text(text)
    return files | {"split": PARAMS.parent / "okx-split-2025-01-15.toml"}


@pytest.mark.parametrize("mode", MODES)
def test_together_is_alone(
    mode: str, folder: Path, dataset: Path, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    groups = []
    plain = Engine.replay_together

    def counted(self: Engine, batch: Batch, states: list[Any], *others: Any) -> Any:
        groups.append(len(states))
        return plain(self, batch, states, *others)

    monkeypatch.setattr(Engine, "replay_together", counted)
    whole = folder / f"{mode}-together"
    tiny_world.replay(tiny_world.config(dataset, sets=sets, **MODES[mode]), whole)
    assert set(groups) == {1, 3}
    groups.clear()
    for name, file in sets.items():
        alone = folder / f"{mode}-{name}"
        tiny_world.replay(tiny_world.config(dataset, sets={name: file}, **MODES[mode]), alone)
        for table in TABLES:
            _same_bits(_of_set(whole, table, name), _of_set(alone, table, name), (name, table))
        shutil.rmtree(alone)
    assert set(groups) == {1}


def _of_set(out: Path, table: str, name: str) -> pd.DataFrame:
    rows = tiny_world.read(out, table)
    mine = rows[rows["parameter_set"] == name].reset_index(drop=True)
    assert len(mine)
    return mine


def _same_bits(one: pd.DataFrame, other: pd.DataFrame, what: tuple[str, str]) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True, obj=str(what))
    for name in one.select_dtypes("float"):
        bits = [x[name].to_numpy().view(np.int64) for x in (one, other)]
        nan = one[name].isna().to_numpy()
        assert (bits[0] == bits[1])[~nan].all(), (*what, name)


def test_multipliers_may_be_left_out(folder: Path, dataset: Path, sets: dict[str, Path]):
    """All else is the same, and the report says nothing of what is not there."""
    outs = [folder / "with", folder / "without"]
    for out, wanted in zip(outs, (True, False), strict=True):
        tiny_world.replay(tiny_world.config(dataset, sets=sets, break_even=wanted), out)
    for table in TABLES:
        one, other = (tiny_world.read(out, table) for out in outs)
        names = [name for name in one if name.startswith("theta_")]
        assert bool(names) == (table == "accounts")
        assert other[names].isna().all(axis=None)
        one, other = one.drop(columns=names), other.drop(columns=names)
        pd.testing.assert_frame_equal(one, other, check_exact=True, obj=table)
    pages = [build_report(out).page.read_text() for out in outs]
    assert ["Elasticity" in page for page in pages] == [True, False]
    assert ["How close the rest were" in page for page in pages] == [True, False]
    assert not (outs[1] / "report" / "figures" / "break_even.png").exists()


def test_more_sets_than_go_together(folder: Path, dataset: Path):
    """Ten sets are two groups; each set has its own numbers."""
    moves = [round(0.01 + 0.002 * k, 3) for k in range(MOST_TOGETHER + 2)]
    files = {}
    for k, move in enumerate(moves):
        files[f"s{k}"] = folder / f"s{k}.toml"
        text = OVERLAY.format(base=PARAMS, name=f"s{k}", key="mr4.near.G1", value=move)
        files[f"s{k}"].write_text(text)
    out = folder / "ten"
    tiny_world.replay(tiny_world.config(dataset, sets=files), out)
    summary: Any = tiny_world.read(out, "summary")
    charge = summary.groupby("parameter_set")["mr4"].sum()[list(files)].to_numpy()
    assert (np.diff(charge) > 0).all()


def test_what_once_differed_stays_apart():
    """So that a window in which it is alike needs no program of its own."""
    engine = Engine()
    one, other = (_tables(rates) for rates in ([0.0, 1.0], [0.0, 2.0]))
    alike = engine.together([one, one])
    assert not any(alike.differs)
    differing = engine.together([one, other])
    assert sum(differing.differs) == 1
    again = engine.together([one, one])
    assert again.differs == differing.differs
    np.testing.assert_array_equal(np.asarray(again.tables.rates), [[[0.0, 1.0]], [[0.0, 1.0]]])
    assert np.asarray(again.tables.features).ndim == 2


def _tables(rates: list[float]) -> WindowTables:
    nothing = np.asarray([[np.nan]])
    names = ("features", "columns", "scenarios", "order_terms")
    tables: Any = dict.fromkeys(names, nothing) | {"rates": np.asarray([rates])}
    tables["currency_usd"] = np.ones(4)
    return WindowTables(Table(**tables), {"a": np.ones(1)})
