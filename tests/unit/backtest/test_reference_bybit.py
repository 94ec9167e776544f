import math
from typing import Any

import pytest

from backtest.reference.bybit import CHARGES, margin, status_of
from tests.bybit_books import future, numbers_of, portfolio, stable_option, swap
from tests.okx_books import merged_numbers, option


NUMBERS = numbers_of()
S = 60_000.0
INDEX = {"BTC": S, "SOL": 150.0, "LTC": 100.0, "USDT": 1.0, "USDC": 1.0}
PAST, LATER = "2025-03-01T08:00:00Z", "2025-06-27T08:00:00Z"


def answer(*contracts: Any, **keys: Any) -> dict[str, Any]:
    return margin(portfolio(*contracts, **{"index_usd": INDEX, **keys}), NUMBERS)


def test_a_flat_account_needs_nothing():
    """1 BTC counts 85 %."""
    found = answer(balances={"USDT": 50.0, "BTC": 1.0})
    account = found["account"]
    assert account["status"] == "no_requirement"
    assert account["margin_level"] is None
    assert account["mm_rate"] is None
    assert account["equity_usd"] == 60_050.0
    assert account["adjusted_equity"] == pytest.approx(50.0 + 51_000.0)
    assert tuple(account["theta"]) == CHARGES
    assert set(account["theta"].values()) == {math.inf}
    assert found["units"]["BTC"]["mmr"] == 0.0
    assert len(found["units"]["BTC"]["cells"]) == 33
    assert found["units"]["BTC"]["binding"] == "positions"


def test_an_empty_account():
    found = answer()
    assert found["units"] == {}
    assert found["account"]["status"] == "no_requirement"
    assert found["account"]["equity_usd"] == 0.0


def test_collateral_ratios():
    """LTC 80 %, BTC 85 %, stablecoins in full; debts in full."""
    detail = answer(balances={"LTC": 10.0, "BTC": 1.0, "USDT": 5.0, "SOL": -1.0})["detail"]
    haircuts = {c: row["haircut"] for c, row in detail["collateral"].items()}
    assert haircuts == pytest.approx({"LTC": 200.0, "BTC": 9_000.0, "USDT": 0.0, "SOL": 0.0})
    assert detail["haircut_loss"] == pytest.approx(9_200.0)


@pytest.mark.parametrize(
    ("currency", "debt", "mmr", "imr"),
    [
        ("BTC", 10.0, 0.04, 0.20),
        ("BTC", 390.0, 0.04, 0.20),
        ("BTC", 391.0, 0.05, 0.21),
        ("BTC", 781.0, 0.06, 0.22),
        ("USDT", 1e6, 0.02, 0.10),
        ("USDC", 1.5e6, 0.03, 0.11),
        ("SOL", 100.0, 0.02, 0.10),
    ],
)
def test_borrowing(currency: str, debt: float, mmr: float, imr: float):
    other = "USDC" if currency == "USDT" else "USDT"
    account = answer(balances={currency: -debt, other: 1e9})["account"]
    usd = debt * INDEX[currency]
    assert account["borrow_mmr"] == account["total_mmr"] == pytest.approx(mmr * usd)
    assert account["borrow_imr"] == account["total_imr"] == pytest.approx(imr * usd)


def test_level_rate_and_multipliers_of_one_perpetual():
    """1 BTC long: 6,000 of loss, 18 of size; 12,036 of equity is twice that."""
    account = answer(swap("BTC-USDT-SWAP", 1.0, S), balances={"USDT": 12_036.0})["account"]
    assert account["total_mmr"] == pytest.approx(6_018.0)
    assert account["total_imr"] == pytest.approx(1.2 * 6_018.0)
    assert account["margin_level"] == pytest.approx(2.0)
    assert account["mm_rate"] == pytest.approx(0.5)
    assert account["theta"]["max_loss"] == pytest.approx((12_036.0 - 18.0) / 6_000.0)
    assert account["theta"]["perpetual_futures"] == pytest.approx((12_036.0 - 6_000.0) / 18.0)
    assert account["theta"]["borrow"] == math.inf
    assert account["status"] == "warning"


def test_multipliers_without_equity_are_zero():
    found = answer(swap("BTC-USDT-SWAP", 1.0, S), balances={"USDT": -10.0})["account"]
    assert set(found["theta"].values()) == {0.0}
    assert found["mm_rate"] == math.inf
    assert found["margin_level"] < 0.0
    assert found["status"] == "bankrupt"


@pytest.mark.parametrize(
    ("cash", "status"),
    [
        (-1.0, "bankrupt"),
        (300.0, "liquidation"),
        (900.0, "liquidation"),
        (903.0, "warning"),
        (2_700.0, "warning"),
        (2_800.0, "ok"),
    ],
)
def test_status_of_a_perpetual(cash: float, status: str):
    """0.15 BTC needs 902.70 USD, a debt of 1 USDT two cents more."""
    found = answer(swap("BTC-USDT-SWAP", 0.15, S), balances={"USDT": cash})["account"]
    assert found["total_mmr"] == pytest.approx(902.7 + 0.02 * max(0.0, -cash))
    assert found["status"] == status


def test_ineligible_below_a_thousand():
    assert status_of(999.0, 5.0, NUMBERS) == "ineligible"
    assert status_of(1_000.0, 5.0, NUMBERS) == "ok"
    assert status_of(999.0, None, NUMBERS) == "no_requirement"


@pytest.mark.parametrize(("cash", "due"), [(7_000.0, True), (7_100.0, False)])
def test_repayment_is_due_at_85_percent(cash: float, due: bool):
    """6,018 / 0.85 = 7,080; a debt of 1 USDC needs two cents."""
    contract = swap("BTC-USDT-SWAP", 1.0, S)
    balances = {"USDT": cash + 1.0}
    assert answer(contract, balances={**balances, "USDC": -1.0})["detail"]["repay_due"] is due
    assert answer(contract, balances=balances)["detail"]["repay_due"] is False


def test_unrealised_profit_and_option_value_are_equity():
    found = answer(
        swap("BTC-USDT-SWAP", 2.0, S, entry_price=59_000.0),
        swap("BTC-USD-SWAP", 600.0, S, entry_price=50_000.0, multiplier=100.0),
        stable_option("BTC-USDC-X-60000-C", LATER, -1.0, 900.0, mark_iv=0.5, forward=S),
        option("BTC-USD-Y-60000-C", LATER, 1.0, 0.05, mark_iv=0.5, forward=S),
        balances={"USDT": 10.0},
    )
    equities = {c: row["equity"] for c, row in found["detail"]["collateral"].items()}
    assert equities == pytest.approx({"BTC": 1.2 - 1.0 + 0.05, "USDC": -900.0, "USDT": 2_010.0})


def test_a_contract_on_a_quote_currency_has_a_unit_without_spot():
    """-1,000 USDC of perpetual beside 500 USDC: 20 % of 1,000, and no hedge."""
    found = answer(swap("USDC-USDT-SWAP", -1_000.0, 1.0), balances={"USDC": 500.0})
    assert list(found["units"]) == ["USDC"]
    assert found["units"]["USDC"]["max_loss"] == pytest.approx(200.0)
    assert found["units"]["USDC"]["spot_in_use"] == 0.0


def test_upl_of_a_unit_in_usd():
    found = answer(
        swap("BTC-USDT-SWAP", 2.0, S, entry_price=59_000.0),
        index_usd={**INDEX, "USDT": 0.999},
    )
    assert found["units"]["BTC"]["upl"] == pytest.approx(1_998.0)


def settled(contract: Any, **keys: Any) -> dict[str, Any]:
    found = answer(contract, **keys)
    assert all(row["mmr"] == 0.0 for row in found["units"].values())
    return {c: row["equity"] for c, row in found["detail"]["collateral"].items()}


def test_expired_contracts_settle():
    at = {"settlement_index_usd": {"BTC": 66_000.0, "USDT": 0.99}}
    linear = future("BTC-USDT-A", PAST, 2.0, 1.0, entry_price=S, **at)
    assert settled(linear) == pytest.approx({"USDT": 2.0 * (66_000.0 / 0.99 - S)})
    inverse = future("BTC-USD-A", PAST, 600.0, 1.0, entry_price=S, multiplier=100.0, **at)
    assert settled(inverse) == pytest.approx({"BTC": 60_000.0 * (1.0 / S - 1.0 / 66_000.0)})
    in_coin = option("BTC-USD-A-60000-C", PAST, -1.0, 0.1, **at)
    assert settled(in_coin) == pytest.approx({"BTC": -6_000.0 / 66_000.0})
    put = stable_option("BTC-USDT-A-70000-P", PAST, 1.0, 0.1, **at)
    assert settled(put) == pytest.approx({"USDT": 70_000.0 - 66_000.0 / 0.99})
    worthless = stable_option("BTC-USDT-A-60000-P", PAST, 1.0, 0.1, **at)
    assert settled(worthless) == {"USDT": 0.0}


@pytest.mark.parametrize(
    ("contracts", "keys", "missing"),
    [
        ([swap("BTC-USDT-SWAP", 1.0, S, mark_price=None)], {}, "mark_price of BTC-USDT-SWAP"),
        ([swap("BTC-USD-SWAP", 1.0, 0.0)], {}, "mark_price of BTC-USD-SWAP"),
        ([swap("BTC-USDT-SWAP", math.nan, S)], {}, "contracts of position in BTC-USDT-SWAP"),
        ([swap("XRP-USDT-SWAP", 1.0, S)], {}, "index of XRP"),
        ([], {"balances": {"XRP": 1.0}}, "index of XRP"),
        ([], {"balances": {"BTC": None}}, "balance of BTC"),
        ([future("BTC-USDT-A", PAST, 1.0, S)], {}, "settlement index of BTC for BTC-USDT-A"),
        (
            [future("BTC-USD-A", PAST, 1.0, S, mark_price=None, settlement_index_usd={"BTC": 1.0})],
            {},
            "entry_price of BTC-USD-A",
        ),
        (
            [stable_option("BTC-USDT-X-1-C", LATER, 1.0, 1.0, mark_iv=None, forward=S)],
            {},
            "mark_iv of BTC-USDT-X-1-C",
        ),
        (
            [stable_option("BTC-USDT-X-1-C", LATER, 1.0, 1.0, mark_iv=0.5, forward=None)],
            {},
            "forward of BTC-USDT-X-1-C",
        ),
    ],
)
def test_what_has_no_price_is_unpriced(contracts: list[Any], keys: dict[str, Any], missing: str):
    found = answer(*contracts, **keys)
    assert missing in found["detail"]["unpriced"]
    assert found["units"] == {}
    account = dict(found["account"])
    assert account.pop("status") == "unpriced"
    assert set(account.values()) == {None}


def test_a_row_of_no_contracts_needs_no_price():
    found = answer(swap("BTC-USDT-SWAP", 0.0, S, mark_price=None))
    assert found["account"]["status"] == "no_requirement"


def test_rows_of_one_instrument_net_and_keep_their_profit():
    instrument, row = swap("BTC-USDT-SWAP", 1.0, S, entry_price=59_000.0)
    rows = [row, {**row, "contracts": -1.0, "entry_price": 58_000.0}]
    found = answer(instruments=[instrument], positions=rows)
    assert found["account"]["derivatives_mmr"] == 0.0
    assert found["account"]["equity_usd"] == pytest.approx(1_000.0 - 2_000.0)


def one(**keys: Any) -> Any:
    instrument, position = swap("BTC-USDT-SWAP", 1.0, S)
    return {**instrument, **keys}, position


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (one(kind="spread"), "kind is 'spread'"),
        (one(kind="spot"), "spot is held in 'balances'"),
        (one(kind="future"), "a future needs an 'expiry'"),
        (one(style="quanto"), "style is 'quanto'"),
        (one(settle="ETH"), "settled in 'ETH'; allowed: 'USDT', 'USDC', 'USD'"),
        (one(style="inverse"), "settled in 'USDT'; allowed: 'BTC'"),
        (one(kind="option", settle="ETH", expiry=LATER), "allowed: 'USDT', 'USDC', 'USD', 'BTC'"),
    ],
)
def test_instruments_that_are_refused(contract: Any, message: str):
    with pytest.raises(ValueError, match=message):
        answer(contract)


def test_other_inputs_that_are_refused():
    instrument, position = one()
    with pytest.raises(ValueError, match="not among the instruments"):
        answer(positions=[position])
    with pytest.raises(ValueError, match="twice among the instruments"):
        answer(instruments=[instrument, {**instrument, "multiplier": 2.0}])
    with pytest.raises(ValueError, match="borrow_mode is 'never'"):
        answer(borrow_mode="never")
    with pytest.raises(ValueError, match="is of the model 'okx'"):
        margin(portfolio(index_usd=INDEX), merged_numbers())
    for key, text in (("option_pnl", "option_pnl is 'x'"),):
        leg = option("BTC-USD-X-1-C", LATER, 1.0, 0.5, mark_iv=0.5, forward=S)
        with pytest.raises(ValueError, match=text):
            margin(portfolio(leg, index_usd=INDEX), {**NUMBERS, key: "x"})
