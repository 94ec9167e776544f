"""Impact: the toys of the backtesting rules (3.10), each form by hand, decay, moved portfolios."""

from collections.abc import Callable
from typing import Any

import pytest

from backtest.reference.impact import (
    decayed,
    depth_scale,
    fixed_point,
    moved,
    price_move,
    tipping_point,
)
from tests.okx_books import option, swap
from tests.unit.liquidation.liquidation_books import book, rules_of


RULES = rules_of(impact__tolerance=1e-15, impact__max_rounds=1000.0)


def uniform(usd_per_drop: float) -> Callable[[float], float]:
    return lambda drop: usd_per_drop * drop


def test_uniform_thresholds_amplify_by_a_geometric_series() -> None:
    """Shock 5 %, 2e-9 a USD, 1e8 USD a unit of drop: 0.05 / (1 - 0.2) (toy 3.10)."""
    found = fixed_point(0.05, uniform(1e8), lambda usd: 2e-9 * usd, RULES)
    assert found.rounds[:6] == pytest.approx([0.05, 0.06, 0.062, 0.0624, 0.06248, 0.062496])
    assert (found.final, found.amplification) == pytest.approx((0.0625, 1.25))
    assert found.converged


def test_a_feedback_of_one_has_no_fixed_point() -> None:
    """Product of impact and density 1: every round adds the shock again (toy 3.10)."""
    found = fixed_point(0.05, uniform(1e8), lambda usd: 1e-8 * usd, RULES)
    assert not found.converged
    assert found.final == pytest.approx(0.05 * 1001)


def test_the_tipping_point_of_uniform_thresholds() -> None:
    """0.05 / (1 - 0.2 k) passes a drop of 50 % at k = 4.5, and 1e3 just below 5."""
    args = (0.05, uniform(1e8), lambda usd: 2e-9 * usd, RULES)
    assert tipping_point(*args, limit=0.5) == pytest.approx(4.5, rel=1e-5)
    assert tipping_point(0.05, uniform(0.0), lambda usd: 2e-9 * usd, RULES) == float("inf")


@pytest.mark.parametrize(
    ("thresholds", "liquidated", "final"),
    [
        ((0.05, 0.065, 0.09), 1, 0.06),
        ((0.05, 0.059, 0.09), 2, 0.08),
        ((0.05, 0.059, 0.079), 3, 0.12),
    ],
)
def test_three_longs(thresholds: tuple[float, ...], liquidated: int, final: float) -> None:
    """Notionals 1, 2 and 4 million, 1e-8 a USD, shock 5 % (toy 3.10)."""
    notionals = (1e6, 2e6, 4e6)

    def sold(drop: float) -> float:
        return sum(n for n, at in zip(notionals, thresholds, strict=True) if drop >= at)

    found = fixed_point(0.05, sold, lambda usd: 1e-8 * usd, RULES)
    assert found.final == pytest.approx(final)
    assert sold(found.final) == sum(notionals[:liquidated])


def test_no_impact_is_the_shock_itself() -> None:
    found = fixed_point(0.05, uniform(1e8), lambda _: 0.0, RULES)
    assert found.rounds == [0.05, 0.05]
    assert price_move(-1e9, "BTC", rules_of(), 0.05) == 0.0


def test_more_shock_and_more_impact_never_give_less() -> None:
    finals = [
        fixed_point(shock, uniform(1e8), lambda usd, k=k: k * usd, RULES).final
        for shock, k in ((0.05, 1e-9), (0.05, 2e-9), (0.06, 2e-9), (0.06, 5e-9))
    ]
    assert finals == sorted(finals)


def moves(model: str, **changed: Any) -> dict[str, Any]:
    return rules_of(impact__model=model, **changed)


def test_linear_impact() -> None:
    """BTC 0.002 % a million: selling 50 million moves it by -0.1 %."""
    assert price_move(-5e7, "BTC", moves("linear"), 0.03) == pytest.approx(-0.001)


def test_square_root_impact() -> None:
    """4 % a day, 200 million of 20 billion: 4 % x sqrt(0.01) = 0.4 %; straight below 10,000."""
    rules = moves("square_root")
    assert price_move(2e8, "BTC", rules, 0.04) == pytest.approx(0.004)
    least = price_move(1e4, "BTC", rules, 0.04)
    assert price_move(5e3, "BTC", rules, 0.04) == pytest.approx(0.5 * least)


def test_depth_impact_grows_with_volatility() -> None:
    """115 million lie halfway between 80 (0.5 %) and 150 (1 %): 0.75 %; half the depth: 1.8 %.

    At twice the reference volatility the points are 40, 75 and 125 million at 0.5, 1 and 2 %, so
    115 million lie at 1 % + 40 / 50 x 1 %. Beyond the last point at its slope.
    """
    rules = moves("depth")
    assert price_move(-1.15e8, "BTC", rules, 0.03) == pytest.approx(-0.0075)
    assert price_move(-1.15e8, "BTC", rules, 0.06) == pytest.approx(-0.018)
    assert price_move(7.5e8, "BTC", rules, 0.0) == pytest.approx(0.05 + 0.03)
    assert price_move(1e15, "BTC", rules, 0.0) == rules["impact"]["max_move"]
    assert depth_scale(10.0, rules["impact"]["depth"]) == 0.1


def test_a_move_halves_in_its_half_life() -> None:
    """Half an hour: after an hour a quarter is left."""
    left = decayed({"BTC": -0.02, "ETH": 0.0}, 1.0 / 24.0, rules_of())
    assert left == pytest.approx({"BTC": -0.005})
    assert decayed({"BTC": -0.02}, 1.0 / 24.0, rules_of(impact__half_life_days=0.0)) == {}


def test_nothing_moves_without_moves() -> None:
    found = book(swap("BTC-USDT-SWAP", 1.0, 1e5))
    assert moved(found, {}, rules_of()) is found
    assert moved(found, {"BTC": 0.0}, rules_of()) is found


def test_marks_move_and_the_index_only_if_told() -> None:
    """-10 %: the mark of a perpetual; its entry, null before, is the old mark."""
    found = book(swap("BTC-USDT-SWAP", 1.0, 1e5), swap("ETH-USDT-SWAP", 1.0, 3e3))
    after = moved(found, {"BTC": -0.1}, rules_of())
    assert [row["mark_price"] for row in after["positions"]] == [9e4, 3e3]
    assert [row["entry_price"] for row in after["positions"]] == [1e5, None]
    assert after["index_usd"]["BTC"] == 1e5
    assert (
        moved(found, {"BTC": -0.1}, rules_of(impact__moves_index=True))["index_usd"]["BTC"] == 9e4
    )


def test_options_are_revalued_at_the_moved_forward() -> None:
    """A call deep in the money: c = 1 - K / F, so 0.5 becomes 1 - 50,000 / 90,000."""
    call = option("BTC-USD-F-50000-C", "2025-03-11T08:00:00Z", 1.0, 0.5, forward=1e5, mark_iv=0.2)
    row = moved(book(call), {"BTC": -0.1}, rules_of())["positions"][0]
    assert row["forward"] == 9e4
    assert row["mark_price"] == pytest.approx(1.0 - 5 / 9, rel=1e-6)
