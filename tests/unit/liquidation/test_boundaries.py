"""At the levels themselves and one unit in the last place around them: kernels and reference.

OKX: liquidation begins at a level of 100 % or less and goes on until it is above 110 % (rule book).
Bybit: a maintenance rate of 100 % or more, until it is 90 % or less, so 1 / 90 % itself is safe.
"""

from typing import Any

import numpy as np
import pytest

from backtest.reference.liquidation import liquidate
from tests.bybit_books import numbers_of
from tests.okx_books import merged_numbers, swap
from tests.unit.liquidation.kernel_books import liquidated, world_of
from tests.unit.liquidation.liquidation_books import book, rules_of


FOUND = book(swap("BTC-USDT-SWAP", 10.0, 1e5), balances={"USDT": 1.25e5})
MODELS = {"okx": merged_numbers, "bybit": numbers_of}
ONE_SLICE = {"slices__max_slices": 1.0}


def by_kernels(numbers: dict[str, Any], model: str, *, active: bool) -> tuple[float, int]:
    """Level before, and slices."""
    world = world_of([FOUND], numbers, rules_of(model, **ONE_SLICE))
    (done,) = liquidated(world, np.asarray([active]))
    return float(done["level"][0]), done["slices"]


def by_reference(numbers: dict[str, Any], model: str, *, active: bool) -> tuple[float, int]:
    """The same of the reference."""
    done = liquidate(FOUND, numbers, rules_of(model, **ONE_SLICE), active=active)
    return done.level_before, done.slices


def at(numbers: dict[str, Any], level: float, key: str, ulps: int) -> dict[str, Any]:
    """Numbers whose level ``key`` makes ``level`` so many units above it."""
    bound = level
    for _ in range(abs(ulps)):
        bound = float(np.nextafter(bound, 0.0 if ulps > 0 else np.inf))
    levels = {**numbers["levels"], "safe": 10.0 * level, key: bound}
    return {**numbers, "levels": levels}


@pytest.mark.parametrize("liquidation", [by_kernels, by_reference])
@pytest.mark.parametrize("model", list(MODELS))
def test_it_goes_on_until_the_safe_level_is_passed(model: str, liquidation: Any) -> None:
    numbers = MODELS[model]()
    level, _ = liquidation(numbers, model, active=True)
    slices = {
        ulps: liquidation(at(numbers, level, "safe", ulps), model, active=True)[1]
        for ulps in (-1, 0, 1)
    }
    assert slices == {-1: 1, 0: int(model == "okx"), 1: 0}


@pytest.mark.parametrize("liquidation", [by_kernels, by_reference])
@pytest.mark.parametrize("model", list(MODELS))
def test_it_begins_at_the_trigger_itself(model: str, liquidation: Any) -> None:
    numbers = MODELS[model]()
    level, _ = liquidation(numbers, model, active=False)
    slices = {
        ulps: liquidation(at(numbers, level, "liquidation", ulps), model, active=False)[1]
        for ulps in (-1, 0, 1)
    }
    assert slices == {-1: 1, 0: 1, 1: 0}
