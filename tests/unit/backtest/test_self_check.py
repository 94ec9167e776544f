"""A run refuses to go on where its first tiles are not what the reference says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import backtest.replay
import backtest.set_window
from backtest import self_check
from backtest.errors import RunError
from backtest.scores import of_host
from tests.unit.backtest import tiny_world as world


pytestmark = pytest.mark.slow
SPLIT = world.PARAMS.with_name("okx-split-2024-06-05.toml")
ORDERS = [("a000", world.SWAP, -3.0, 64_500.0), ("a005", world.CALL, 2.0, 0.07)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.write(tmp_path_factory.mktemp("check") / "data", **world.with_orders(*ORDERS))


def test_every_set_and_shape_is_checked(dataset: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[Any, int]] = []
    check = self_check.check_accounts

    def counted(batch: Any, *rest: Any) -> int:
        seen.append((batch.shape, check(batch, *rest)))
        return seen[-1][1]

    monkeypatch.setattr(backtest.replay, "check_accounts", counted)
    sets = {"today": world.PARAMS, "split": SPLIT}
    chosen = world.config(dataset, sets=sets)
    world.replay(chosen, dataset.parent / "out")
    shapes = {shape for shape, _ in seen}
    assert len(shapes) >= 3
    assert len(seen) == len({s for s, _ in seen}) * 2
    assert all(count > 0 for _, count in seen)
    assert any(shape.orders for shape in shapes)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_wrong_numbers_stop_the_run(precision: str, dataset: Path, monkeypatch: pytest.MonkeyPatch):
    """Off by a part in a thousand, in one charge of one account."""
    plain = backtest.set_window._real_times

    def wrong(*arguments: Any) -> Any:
        result = plain(*arguments)
        mmr = result.margin.total_mmr.copy()
        mmr[0, 0] *= 1.001
        return replace(result, scores=of_host(replace(result.margin, total_mmr=mmr)))

    monkeypatch.setattr(backtest.set_window, "_real_times", wrong)
    out = dataset.parent / f"wrong-{precision}"
    with pytest.raises(
        RunError, match=r"self-check of account 'a\d+' failed on cpu with jax 0\.10"
    ):
        world.replay(world.config(dataset, engine={"precision": precision}), out)
    assert not list((out / "cells").rglob("*.cell"))
