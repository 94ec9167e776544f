from typing import Any

import pytest

from backtest.reference.okx_borrowing import convert, hourly_interest
from tests.okx_books import merged_numbers


INDEX = {"BTC": 60_000.0, "ETH": 3_000.0, "XYZ": 2.0, "USDT": 1.0, "USDC": 0.5, "USD": 1.0}
BORROWING = merged_numbers()["borrowing"]


def numbers(**borrowing: Any) -> dict[str, Any]:
    found = merged_numbers()
    found["borrowing"] |= borrowing
    return found


def sales(found: Any) -> list[Any]:
    return [(sale["sold"], pytest.approx(sale["amount"]), sale["bought"]) for sale in found.sales]


def test_interest_on_what_is_above_the_quota():
    debts = {"USDT": 44_000.0, "BTC": 1.0, "ETH": 7.0, "USDC": 5_000.0, "XYZ": 9.0}
    found = hourly_interest(debts, BORROWING["quotas"], BORROWING["daily_rates"], 2.0)
    assert found == pytest.approx(
        {"USDT": 24_000.0 * 0.000069 / 12.0, "ETH": 2.0 * 0.000055 / 12.0}
    )
    assert found["USDT"] == pytest.approx(0.138)


def test_interest_of_a_currency_that_no_table_names():
    found = hourly_interest({"XYZ": 10.0}, {"default": 4.0}, {"default": 0.24}, 1.0)
    assert found == pytest.approx({"XYZ": 0.06})


def test_interest_takes_no_negative_span():
    assert hourly_interest({"XYZ": 1.0}, {"default": 0.0}, {"default": 1.0}, 0.0) == {}
    with pytest.raises(ValueError, match="hours is -1; allowed: 0 or more"):
        hourly_interest({}, {"default": 0.0}, {"default": 0.0}, -1.0)


@pytest.mark.parametrize("debt", [0.0, 19_000.0, 20_000.0])
def test_a_debt_within_its_quota_stays(debt: float):
    found = convert({"BTC": 1.0, "USDT": -debt}, INDEX, numbers())
    assert (found.changes, found.sales) == ({}, [])


def test_just_enough_is_sold():
    found = convert({"BTC": 1.0, "USDT": -30_000.0}, INDEX, numbers())
    assert found.changes == pytest.approx({"BTC": -0.5, "USDT": 30_000.0})
    assert sales(found) == [("BTC", 0.5, "USDT")]


def test_through_usdt_into_another_coin():
    """8 ETH owed are 24,000 USD: 0.4 BTC through 24,000 USDT."""
    found = convert({"BTC": 1.0, "ETH": -8.0}, INDEX, numbers())
    assert found.changes == pytest.approx({"BTC": -0.4, "ETH": 8.0})
    assert sales(found) == [("BTC", 0.4, "USDT"), ("USDT", 24_000.0, "ETH")]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("lowest_discount_first", [("XYZ", 5_000.0, "USDT"), ("BTC", 0.5, "USDT")]),
        ("highest_discount_first", [("USDC", 80_000.0, "USDT")]),
    ],
)
def test_order_of_the_assets(order: str, expected: list[Any]):
    """Rates 0.8 (XYZ), 0.98 (BTC), 1.0 (USDC)."""
    assets = {"USDC": 100_000.0, "BTC": 0.5, "XYZ": 5_000.0}
    found = convert({**assets, "USDT": -40_000.0}, INDEX, numbers(conversion_order=order))
    assert sales(found) == expected
    assert found.changes["USDT"] == pytest.approx(40_000.0)


def test_until_nothing_is_left():
    found = convert({"BTC": 0.5, "XYZ": 5_000.0, "USDT": -60_000.0}, INDEX, numbers())
    assert found.changes == pytest.approx({"XYZ": -5_000.0, "BTC": -0.5, "USDT": 40_000.0})


def test_a_large_holding_has_the_lower_rate():
    """100 BTC count 0.97 on average, 1 ETH 0.98; ETH is untouched."""
    found = convert({"BTC": 100.0, "ETH": 1.0, "USDT": -60_000.0}, INDEX, numbers())
    assert found.changes == pytest.approx({"BTC": -1.0, "USDT": 60_000.0})


def test_the_largest_debt_first():
    """0.5 BTC for 12,000 USD of USDC and 30,000 of USDT: the latter whole, nothing for USDC."""
    debts = {"USDC": -24_000.0, "USDT": -30_000.0}
    found = convert({"BTC": 0.5, **debts}, INDEX, numbers())
    assert found.changes == pytest.approx({"BTC": -0.5, "USDT": 30_000.0})
    assert convert({"BTC": 0.7, **debts}, INDEX, numbers()).changes == pytest.approx(
        {"BTC": -0.7, "USDT": 30_000.0, "USDC": 24_000.0}
    )


def test_only_what_can_be_sold_is():
    found = convert(
        {"BTC": 1.0, "ETH": 5.0, "USDT": -30_000.0},
        INDEX,
        numbers(),
        sellable={"BTC": 0.25, "ETH": 50.0},
    )
    assert found.changes == pytest.approx({"BTC": -0.25, "ETH": -5.0, "USDT": 30_000.0})


def test_every_step_costs():
    """8 ETH through two steps at 10 %: 24,000 / 0.81 USD of BTC."""
    found = convert({"BTC": 1.0, "ETH": -8.0}, INDEX, numbers(conversion_cost=0.1))
    assert found.changes == pytest.approx({"BTC": -24_000.0 / 0.81 / 60_000.0, "ETH": 8.0})
    assert [sale["received"] for sale in found.sales] == pytest.approx([24_000.0 / 0.9, 8.0])
    found = convert({"BTC": 0.5, "USDT": -30_000.0}, INDEX, numbers(conversion_cost=0.1))
    assert found.changes == pytest.approx({"BTC": -0.5, "USDT": 27_000.0})


def test_an_unknown_order_is_an_error():
    with pytest.raises(ValueError, match="conversion_order is 'any'; allowed: lowest_discount_"):
        convert({"BTC": 1.0}, INDEX, numbers(conversion_order="any"))
