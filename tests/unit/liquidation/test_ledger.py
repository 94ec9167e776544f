"""What liquidations left goes on: the ledger put into the next window's portfolios."""

from dataclasses import replace

import numpy as np
import pytest

from backtest.liquidation_ledger import LiquidationLedger
from tests.okx_books import merged_numbers
from tests.unit.liquidation.kernel_books import liquidated_from, world_of
from tests.unit.liquidation.liquidation_books import random_books, rules_of


@pytest.mark.slow
def test_accounts_go_on_with_what_is_left() -> None:
    """Margined again from the ledger: same level, equity, positions and cash as at the end.

    Half of them stop after four slices and go on.
    """
    numbers, rules = merged_numbers(), rules_of(slices__max_slices=4.0)
    books = random_books(5, 16, numbers, options=False)
    for k, each in enumerate(books):
        each["spot_limits"] = {"BTC": 0.1 * k} if k % 2 else {}
    world = world_of(books, numbers, rules)
    first, ledger = liquidated_from(world, LiquidationLedger.empty(len(books)))
    second, _ = liquidated_from(world, ledger)
    assert {one["status"] for one in first} >= {"safe", "unfinished", "untouched"}
    for k, (one, two) in enumerate(zip(first, second, strict=True)):
        assert ledger.is_changed[k] == (one["status"] not in ("untouched", "unpriced"))
        assert ledger.is_active[k] == one["is_active"]
        assert two["level"][0] == pytest.approx(one["level"][1], rel=1e-9)
        assert two["equity_usd"][0] == pytest.approx(one["equity_usd"][1], abs=1e-6)
        if two["status"] == "untouched":
            assert two["contracts"] == pytest.approx(one["contracts"])
            held = {name: x for name, x in one["cash"].items() if abs(x) > 1e-9}
            again = {name: x for name, x in two["cash"].items() if abs(x) > 1e-9}
            assert again == pytest.approx(held)


def test_rows_follow_their_accounts() -> None:
    ledger = replace(
        LiquidationLedger.empty(4),
        is_changed=np.asarray([False, False, True, False]),
        cash_account=np.asarray([2]),
        cash_currency=np.asarray([0]),
        cash=np.asarray([5.0]),
    )
    some = ledger.only(np.asarray([True, False, True, False]))
    assert (some.is_changed.tolist(), some.cash_account.tolist()) == ([False, True], [1])
    assert not len(ledger.only(np.asarray([True, True, False, True])).cash)
    assert set(some.arrays()) == set(LiquidationLedger.__dataclass_fields__)
