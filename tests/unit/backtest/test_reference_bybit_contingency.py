import math
from typing import Any

import pytest

from backtest.reference.bybit import CONTINGENCY, margin
from tests.bybit_books import future, numbers_of, portfolio, stable_option, swap
from tests.okx_books import option


NUMBERS = numbers_of()
S = 60_000.0
INDEX = {"BTC": S, "SOL": 150.0, "USDT": 1.0, "USDC": 1.0}
IN_10, IN_30, IN_40 = (f"2025-{date}T08:00:00Z" for date in ("03-11", "03-31", "04-10"))
DENSITY = 1.0 / math.sqrt(2.0 * math.pi)


def unit(*contracts: Any, coin: str = "BTC", numbers: Any = NUMBERS, **keys: Any) -> dict[str, Any]:
    found = margin(portfolio(*contracts, **{"index_usd": INDEX, **keys}), numbers)
    return {**found["units"][coin], "detail": found["detail"]["units"][coin]}


def with_contingency(**keys: Any) -> dict[str, Any]:
    return {**NUMBERS, "contingency": {**NUMBERS["contingency"], **keys}}


def atm(expiry: str, contracts: float, kind: str = "C") -> Any:
    """At the money without volatility: delta N(0) = 0.5, vega sqrt(T) / sqrt(2 pi)."""
    name = f"BTC-USDT-{expiry[5:10].replace('-', '')}-60000-{kind}"
    return stable_option(name, expiry, contracts, 0.0, mark_iv=0.0, forward=S)


def test_margin_is_the_worst_loss_and_the_sum_of_the_components():
    found = unit(
        swap("BTC-USDT-SWAP", 3.0, S),
        future("BTC-USDC-250411", IN_40, -2.0, S),
        atm(IN_30, -1.0),
        atm(IN_10, 1.0),
        balances={"BTC": -0.1},
    )
    assert all(found[name] > 0.0 for name in CONTINGENCY if name != "short_options")
    assert found["contingency"] == pytest.approx(sum(found[name] for name in CONTINGENCY))
    assert found["mmr"] == pytest.approx(found["max_loss"] + found["contingency"])
    assert found["imr"] == 1.2 * found["mmr"]


def test_short_options_net_over_strikes_and_expiries_but_not_over_types():
    """Calls -3 + 1, puts + 5: 2 short of 60,000 USD at 0.5 %."""
    found = unit(atm(IN_10, -3.0), atm(IN_30, 1.0), atm(IN_40, 5.0, "P"))
    assert found["short_options"] == pytest.approx(2.0 * 0.005 * S)
    both = unit(atm(IN_10, -3.0), atm(IN_40, -5.0, "P"))
    assert both["short_options"] == pytest.approx(8.0 * 0.005 * S)
    assert unit(atm(IN_10, 3.0))["short_options"] == 0.0


def test_vega_spread_of_two_expiries():
    """Vega at 10 days is half of that at 40: it is hedged, 30 days apart."""
    small = DENSITY * math.sqrt(10.0 / 365.0)
    found = unit(atm(IN_40, 1.0), atm(IN_10, -1.0))
    assert found["vega_spread"] == pytest.approx(30.0 * small * 0.0005 * S)
    assert unit(atm(IN_40, 1.0), atm(IN_10, 1.0))["vega_spread"] == 0.0
    assert unit(atm(IN_40, 1.0), atm(IN_40, -1.0, "P"))["vega_spread"] == 0.0


def test_vega_spread_of_three_expiries():
    """Long side averages its days by vega; the short one is the smaller."""
    vegas = {days: DENSITY * math.sqrt(days / 365.0) for days in (10, 30, 40)}
    found = unit(atm(IN_40, 1.0), atm(IN_30, 1.0), atm(IN_10, -1.0))
    days = (40 * vegas[40] + 30 * vegas[30]) / (vegas[40] + vegas[30])
    assert found["vega_spread"] == pytest.approx((days - 10.0) * vegas[10] * 0.0005 * S)


def test_stablecoin_spread():
    """USDT + 1, USDC - 0.4, USD - 0.3: (1.7 - 0.3) / 2 = 0.7 coins at 1 %."""
    found = unit(
        swap("BTC-USDT-SWAP", 1.0, S),
        swap("BTC-USDC-SWAP", -0.4, S),
        swap("BTC-USD-SWAP", -180.0, S, multiplier=100.0),
        balances={"BTC": -1.0},
    )
    assert found["stablecoin_spread"] == pytest.approx(0.7 * 0.01 * S)
    assert found["spot_in_use"] == pytest.approx(-0.3)


def test_options_are_in_the_family_they_settle_in():
    """0.5 delta of a call in the coin (USD) against a perpetual in USDT; in USDT nothing."""
    short = swap("BTC-USDT-SWAP", -0.5, S)
    in_coin = option("BTC-USD-X-60000-C", IN_30, 1.0, 0.0, mark_iv=0.0, forward=S)
    assert unit(short, in_coin)["stablecoin_spread"] == pytest.approx(0.5 * 0.01 * S)
    assert unit(short, atm(IN_30, 1.0))["stablecoin_spread"] == 0.0


def test_delta_spread_of_two_expiries_and_perpetuals():
    """Long 2 at 30 days, short 1 at 10 and 0.5 at 0: 1.5 hedged over 30 - 10 / 1.5 days."""
    found = unit(
        future("BTC-USDT-A", IN_30, 2.0, S),
        future("BTC-USDT-B", IN_10, -1.0, S),
        swap("BTC-USDT-SWAP", -0.5, S),
    )
    assert found["delta_spread"] == pytest.approx((30.0 - 10.0 / 1.5) * 1.5 * S * 0.0003)


def test_delta_spread_floors_days_and_nets_within_an_expiry():
    """29 whole days left at 09:00; the call of the same expiry takes 0.5 from the future."""
    found = unit(
        future("BTC-USDT-A", IN_30, 2.0, S),
        atm(IN_30, -1.0),
        swap("BTC-USDT-SWAP", -4.0, S),
        time="2025-03-01T09:00:00Z",
    )
    assert found["delta_spread"] == pytest.approx(29.0 * 1.5 * S * 0.0003)


def test_perpetuals_of_all_currencies_are_one_bucket():
    found = unit(swap("BTC-USDT-SWAP", 1.0, S), swap("BTC-USDC-SWAP", -1.0, S))
    assert found["delta_spread"] == 0.0


def test_spot_and_perpetual_have_no_days_between_them_but_a_basis():
    """1 coin hedged: 5 % of threshold x 45 %."""
    found = unit(swap("BTC-USDT-SWAP", -1.0, S), balances={"BTC": 1.0})
    assert found["delta_spread"] == pytest.approx(S * 0.05 * 0.45)
    assert found["detail"]["delta_spread"]["calendar"] == 0.0


def test_spot_does_not_net_with_perpetuals():
    """Spot + 1 and future + 1 against perpetual - 3: 2 hedged, 15 days apart on average."""
    found = unit(
        swap("BTC-USDT-SWAP", -3.0, S), future("BTC-USDT-A", IN_30, 1.0, S), balances={"BTC": 1.0}
    )
    calendar = 15.0 * 2.0 * S * 0.0003
    assert found["detail"]["delta_spread"]["calendar"] == pytest.approx(calendar)
    assert found["delta_spread"] == pytest.approx(calendar + S * 0.05 * 0.45)


@pytest.mark.parametrize(
    ("mark", "charged"),
    [(S, 0.05 * 0.45), (1.10 * S, 0.10 * 0.45), (0.9 * S, 0.10 * 0.45), (4.0 * S, 0.94 * 0.85)],
)
def test_spot_basis_floor_and_cap(mark: float, charged: float):
    found = unit(swap("BTC-USDT-SWAP", -2.0, mark), balances={"BTC": 1.0})
    assert found["delta_spread"] == pytest.approx(S * charged)


def test_spot_basis_is_an_average_over_the_legs_opposite_to_the_hedge():
    """-2 at + 10 % and an option of delta - 0.5 at a forward + 20 %; the long leg is left out."""
    put = stable_option("BTC-USDT-X-72000-P", IN_30, 1.0, 0.0, mark_iv=0.0, forward=1.2 * S)
    found = unit(
        swap("BTC-USDT-SWAP", -2.0, 1.1 * S),
        swap("BTC-USDC-SWAP", 1.0, 3.0 * S),
        put,
        balances={"BTC": 1.0},
    )
    basis = (2.0 * 0.1 + 0.5 * 0.2) / 2.5
    detail = found["detail"]["delta_spread"]["spot_basis"]
    assert detail["weighted_basis"] == pytest.approx(basis)
    assert detail["value"] == pytest.approx(S * basis * 0.45)


def test_spot_that_hedges_next_to_nothing():
    """A delta and a spot whose product is too small for a number."""
    found = unit(swap("BTC-USDT-SWAP", -1e-200, 61_000.0), balances={"BTC": 1.0})
    detail = found["detail"]["delta_spread"]["spot_basis"]
    assert 0.0 <= detail["value"] < 1e-180


def test_spot_basis_in_usd_of_the_settlement_currency():
    """A mark of 60,000 USDT at 0.9 USD is 10 % below the index."""
    leg = swap("BTC-USDT-SWAP", -1.0, S)
    found = unit(leg, balances={"BTC": 1.0}, index_usd={**INDEX, "USDT": 0.9})
    assert found["delta_spread"] == pytest.approx(S * 0.1 * 0.45)


def test_spot_basis_of_an_altcoin():
    """Factor 60 %, cap 0.94 x 0.80."""
    for mark, charged in ((150.0, 0.05 * 0.6), (600.0, 0.94 * 0.8)):
        found = unit(swap("SOL-USDT-SWAP", -10.0, mark), coin="SOL", balances={"SOL": 4.0})
        assert found["delta_spread"] == pytest.approx(600.0 * charged)


@pytest.mark.parametrize(("mark", "basis"), [(1.04 * S, 0.0), (1.06 * S, 0.06)])
def test_threshold_as_a_gate(mark: float, basis: float):
    rule = {**NUMBERS["contingency"]["spot_basis"], "threshold_rule": "gate"}
    leg = swap("BTC-USDT-SWAP", -1.0, mark)
    found = unit(leg, balances={"BTC": 1.0}, numbers=with_contingency(spot_basis=rule))
    assert found["delta_spread"] == pytest.approx(S * basis * 0.45)


def test_perpetuals_and_futures_are_charged_gross():
    """1 + 0.5 coins, and 30,000 USD of inverse at a mark of 75,000 (0.4 coins)."""
    found = unit(
        swap("BTC-USDT-SWAP", 1.0, S),
        future("BTC-USDT-A", IN_30, -0.5, S),
        swap("BTC-USD-SWAP", 300.0, 75_000.0, multiplier=100.0),
        atm(IN_30, 7.0),
    )
    assert found["perpetual_futures"] == pytest.approx(1.9 * 0.0003 * S)


def test_size_tiers_of_perpetuals_and_futures():
    """120,000 USD: 100,000 at 0.03 %, 20,000 at 0.1 %."""
    tiers = {"bounds_usd": [100_000.0], "rates": [0.0003, 0.001]}
    found = unit(swap("BTC-USDT-SWAP", -2.0, S), numbers=with_contingency(perpetual_futures=tiers))
    assert found["perpetual_futures"] == pytest.approx(30.0 + 20.0)
