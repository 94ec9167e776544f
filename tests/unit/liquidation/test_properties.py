"""What must hold of every liquidation, on random books near the trigger."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from backtest.reference.liquidation import STATUSES, Liquidation, liquidate
from backtest.reference.liquidation_stages import EVERY_LEG
from backtest.reference.models import margin
from tests.bybit_books import numbers_of
from tests.okx_books import merged_numbers
from tests.unit.liquidation.liquidation_books import random_book, rules_of


CENT = 0.01
MODELS = ("okx", "bybit")


@cache
def parameters(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return (merged_numbers() if model == "okx" else numbers_of()), rules_of(model)


@cache
def example(model: str, seed: int) -> tuple[dict[str, Any], Liquidation]:
    numbers, rules = parameters(model)
    found = random_book(seed, numbers, lowest=-1.0 if seed % 4 == 0 else 0.4)
    return found, liquidate(found, numbers, rules)


SEEDS, FEW = (*range(9), 20), range(3)
"""Every fourth book has lost more than it had."""
every = pytest.mark.parametrize(("model", "seed"), [(m, k) for m in MODELS for k in SEEDS])
a_few = pytest.mark.parametrize(("model", "seed"), [(m, k) for m in MODELS for k in FEW])


@every
def test_equity_falls_by_costs_alone(model: str, seed: int) -> None:
    _, done = example(model, seed)
    expected = done.equity_before_usd - done.fees_usd - done.slippage_usd - done.surplus_usd
    assert done.equity_after_usd == pytest.approx(expected + done.bad_debt_usd, abs=CENT / 2)
    for step in done.steps:
        if step.stage != "bankruptcy":
            lost = step.equity_before_usd - step.equity_after_usd
            assert lost == pytest.approx(step.fee_usd + step.slippage_usd, abs=CENT / 2)


@every
def test_no_step_raises_the_maintenance_margin(model: str, seed: int) -> None:
    """Repaying may: it sells the spot that hedges; so may a slice of every leg, by its costs."""
    _, done = example(model, seed)
    for step in done.steps:
        if step.stage != "repay" and EVERY_LEG not in step.target:
            assert step.mmr_after_usd <= step.mmr_before_usd


@every
def test_it_ends_safe_or_flat(model: str, seed: int) -> None:
    _, done = example(model, seed)
    numbers, _ = parameters(model)
    assert done.status in STATUSES
    account = margin(done.portfolio_after, numbers)["account"]
    level = float("inf") if account["margin_level"] is None else account["margin_level"]
    assert level == pytest.approx(done.level_after)
    held = [row for row in done.portfolio_after["positions"] if row["contracts"] != 0.0]
    if done.status == "safe" and done.steps[-1].stage != "repay":
        safe = numbers["levels"]["safe"]
        assert level > safe or (model == "bybit" and level == safe)
    elif done.status in ("flat", "bankrupt"):
        assert held == []
    if done.status == "bankrupt":
        assert (done.equity_after_usd, done.portfolio_after["balances"]) == (0.0, {})
    assert done.status != "unfinished"


@every
def test_it_begins_at_the_trigger_only(model: str, seed: int) -> None:
    found, done = example(model, seed)
    numbers, _ = parameters(model)
    repays = any(step.stage == "repay" for step in done.steps)
    if done.level_before > numbers["levels"]["liquidation"]:
        assert repays or (done.status, done.steps) == ("untouched", [])
        assert repays or done.portfolio_after is found
    elif done.status != "untouched":
        assert done.steps


@a_few
def test_the_order_of_rows_changes_nothing(model: str, seed: int) -> None:
    found, done = example(model, seed)
    numbers, rules = parameters(model)
    order = np.random.default_rng(seed).permutation
    shuffled = {
        **found,
        **{
            key: [found[key][k] for k in order(len(found[key]))]
            for key in ("instruments", "positions", "orders")
        },
        "balances": dict(reversed(found["balances"].items())),
    }
    other = liquidate(shuffled, numbers, rules)
    assert other.status == done.status
    assert [(s.stage, s.target, s.slices) for s in other.steps] == [
        (s.stage, s.target, s.slices) for s in done.steps
    ]
    for field in ("fees_usd", "slippage_usd", "bad_debt_usd", "equity_after_usd"):
        assert getattr(other, field) == pytest.approx(getattr(done, field), abs=1e-4)


@a_few
def test_a_finished_liquidation_has_nothing_more_to_do(model: str, seed: int) -> None:
    _, done = example(model, seed)
    numbers, rules = parameters(model)
    again = liquidate(done.portfolio_after, numbers, rules, active=done.is_active)
    if done.status in ("safe", "bankrupt", "untouched"):
        assert (again.status, again.steps) == ("untouched", [])


@a_few
def test_slices_over_several_times_end_as_well(model: str, seed: int) -> None:
    """Five slices a time: what is not done goes on, and the money still adds up."""
    found, _ = example(model, seed)
    numbers, _ = parameters(model)
    rules = rules_of(model, slices__max_slices=5.0)
    times = [liquidate(found, numbers, rules)]
    while times[-1].status == "unfinished":
        last = times[-1]
        times.append(liquidate(last.portfolio_after, numbers, rules, active=last.is_active))
        assert len(times) < 200
    costs = sum(done.fees_usd + done.slippage_usd - done.bad_debt_usd for done in times)
    expected = times[0].equity_before_usd - costs
    assert times[-1].equity_after_usd == pytest.approx(expected, abs=CENT / 2)


def test_all_stages_are_seen() -> None:
    """The random books are worth something only if every stage has something to do."""
    seen = {
        (model, step.stage)
        for model in MODELS
        for seed in SEEDS
        for step in example(model, seed)[1].steps
    }
    okx = {"cancel", "ddh1", "ddh2", "basis", "reduction", "bankruptcy"}
    bybit = {"repay", "cancel", "partial", "bankruptcy"}
    assert seen == {*(("okx", name) for name in okx), *(("bybit", name) for name in bybit)}
