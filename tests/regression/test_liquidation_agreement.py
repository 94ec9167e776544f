"""Liquidation in the kernels against the reference on random accounts of a few markets.

By default some tens of accounts under each of three rule books; ``PMSTRESS_LIQUIDATION_ACCOUNTS``
takes another number of accounts of each,
``PMSTRESS_TEST_PROCESSES`` more processes for the reference.
"""

import os
from collections import Counter
from typing import Any

import pytest

from backtest.liquidation_ledger import LiquidationLedger
from backtest.params import load_parameter_set
from backtest.reference.liquidation import Liquidation, liquidate
from backtest.reference.liquidation_stages import EVERY_LEG
from tests.okx_books import PARAMS
from tests.processes import mapped
from tests.unit.liquidation.kernel_books import (
    at_prices,
    differences,
    fallen,
    liquidated_from,
    world_of,
)
from tests.unit.liquidation.liquidation_books import random_books, rules_of


GIVEN = os.environ.get("PMSTRESS_LIQUIDATION_ACCOUNTS")
CASES = (
    ("okx-merged-2025-01-21", "okx", 16),
    ("okx-split-2024-06-05", "okx", 16),
    ("bybit-2025-01-10", "bybit", 16),
)
CRASH = (1.0, 0.93, 0.85)
"""Prices of the coins at the times of the crash, relative to those before it."""
MARKET = 80
"""Accounts of one market."""
CENT = 0.01


def of_reference(work: tuple[Any, Any, Any, bool]) -> Liquidation:
    portfolio, numbers, rules, active = work
    return liquidate(portfolio, numbers, rules, active=active)


def entered(portfolio: dict[str, Any]) -> dict[str, Any]:
    """Without positions whose entry price is the mark of whatever time it is."""
    rows = [
        {
            **row,
            "entry_price": row["mark_price"] if row["entry_price"] is None else row["entry_price"],
        }
        for row in portfolio["positions"]
    ]
    return {**portfolio, "positions": rows}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model", "count"), CASES, ids=[case[0] for case in CASES])
def test_kernels_do_what_the_reference_does(name: str, model: str, count: int) -> None:
    """Through a crash: what one time leaves is where the next one begins."""
    numbers = load_parameter_set(PARAMS / f"{name}.toml").numbers()
    rules, count = rules_of(model), int(GIVEN) if GIVEN else count
    wrong, seen, liquidated = [], Counter[str](), 0
    for seed in range(-(-count // MARKET)):
        some = min(MARKET, count - seed * MARKET)
        books = [entered(each) for each in random_books(1_000 + seed, some, numbers)]
        world = world_of(books, numbers, rules)
        ledger = LiquidationLedger.empty(len(books))
        active = [False] * len(books)
        for factor in CRASH:
            union = fallen(world.union, factor)
            books = [at_prices(each, union) for each in books]
            found, ledger = liquidated_from(world.at(factor), ledger)
            work = [(x, numbers, rules, a) for x, a in zip(books, active, strict=True)]
            expected = mapped(of_reference, work, chunk=10)
            for k, (one, got) in enumerate(zip(expected, found, strict=True)):
                where = f"market {seed}, account {k}, prices x {factor}:"
                wrong += [f"{where} {line}" for line in differences(one, got)]
                wrong += [f"{where} {line}" for line in broken(one, got, numbers)]
                seen.update(step["stage"] for step in got["steps"])
                liquidated += bool(got["steps"])
            books = [one.portfolio_after for one in expected]
            active = [one.is_active for one in expected]
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong[:20])
    assert set(seen) >= {*rules["stages"]["order"], "bankruptcy"} - {"ddh1"}
    assert liquidated > count


def broken(expected: Liquidation, got: dict[str, Any], numbers: dict[str, Any]) -> list[str]:
    """What must hold of every liquidation and does not."""
    wrong = []
    for step, other in zip(expected.steps, got["steps"], strict=False):
        rises = other["mmr_usd"][1] > other["mmr_usd"][0]
        if rises and step.stage != "repay" and EVERY_LEG not in step.target:
            wrong.append(f"{step.stage}: the margin rises from {other['mmr_usd'][0]}")
        lost = other["equity_usd"][0] - other["equity_usd"][1]
        costs = other["fee_usd"] + other["slippage_usd"]
        if step.stage != "bankruptcy" and abs(lost - costs) > CENT / 2:
            wrong.append(f"{step.stage}: lost {lost}, costs {costs}")
    repays = bool(got["steps"]) and got["steps"][-1]["stage"] == "repay"
    if got["status"] == "safe" and not repays and got["level"][1] <= numbers["levels"]["safe"]:
        wrong.append(f"safe at {got['level'][1]}")
    if got["status"] in ("flat", "bankrupt") and got["contracts"]:
        wrong.append(f"{got['status']} with {got['contracts']}")
    return wrong
