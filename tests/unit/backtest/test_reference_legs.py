from datetime import UTC, datetime
from typing import Any

import pytest

from backtest.reference.okx_legs import Book, parse_time, read_book
from tests.okx_books import future, option, portfolio, swap


QUOTES = ["USDT", "USDC", "USD"]
INDEX = {"BTC": 60_000.0, "USDT": 0.999}
PAST, COMING = "2025-03-01T08:00:00Z", "2025-06-27T08:00:00Z"
OPTION = {"mark_iv": 0.5, "forward": 61_000.0}


def read(*contracts: Any, **keys: Any) -> Book:
    return read_book(portfolio(*contracts, **{"index_usd": INDEX, **keys}), QUOTES)


def test_positions_in_one_instrument_are_netted_and_keep_their_pnl():
    one = swap("BTC-USDT-SWAP", 5.0, 60_100.0, entry_price=60_000.0)
    other = swap("BTC-USDT-SWAP", -3.0, 60_100.0, entry_price=60_300.0)
    (leg,) = read(one, other).legs
    assert leg.contracts == 2.0
    assert leg.upl_settle == pytest.approx(5.0 * 100.0 + 3.0 * 200.0)


def test_inverse_pnl_is_in_coins():
    contract = swap("BTC-USD-SWAP", 10.0, 60_000.0, multiplier=100.0, entry_price=50_000.0)
    (leg,) = read(contract).legs
    assert (leg.settle, leg.fx) == ("BTC", 60_000.0)
    assert leg.upl_settle == pytest.approx(1_000.0 * (1.0 / 50_000.0 - 1.0 / 60_000.0))


def test_a_null_entry_is_the_mark():
    (leg,) = read(swap("BTC-USDT-SWAP", 5.0, 60_100.0)).legs
    assert leg.upl_settle == 0.0


def test_time_to_expiry_is_in_seconds():
    (leg,) = read(future("BTC-USDT-F", "2025-03-01T09:00:00Z", 1.0, 60_000.0)).legs
    assert leg.days == pytest.approx(1.0 / 24.0, rel=1e-15)
    assert leg.years == pytest.approx(1.0 / 24.0 / 365.0, rel=1e-15)


def test_expired_contracts_settle_at_their_index():
    settled = {"settlement_index_usd": {"BTC": 59_940.0, "USDT": 0.999}}
    book = read(
        future("BTC-USDT-F", PAST, 2.0, 60_000.0, entry_price=61_000.0, **settled),
        future(
            "BTC-USD-F", PAST, 10.0, 60_000.0, entry_price=50_000.0, multiplier=100.0, **settled
        ),
        option("BTC-USD-D-50000-C", PAST, -3.0, 0.1, **settled, **OPTION),
        option("BTC-USD-D-50000-P", PAST, 3.0, 0.1, **settled, **OPTION),
    )
    assert book.legs == []
    assert book.missing == []
    values = [(item.currency, item.value) for item in book.settled]
    assert values == [
        ("USDT", pytest.approx(2.0 * (60_000.0 - 61_000.0))),
        ("BTC", pytest.approx(1_000.0 * (1.0 / 50_000.0 - 1.0 / 59_940.0))),
        ("BTC", pytest.approx(-3.0 * 9_940.0 / 59_940.0)),
        ("BTC", 0.0),
    ]


def test_an_expired_contract_without_entry_settles_against_its_mark():
    settled = {"settlement_index_usd": {"BTC": 59_940.0, "USDT": 0.999}}
    book = read(future("BTC-USDT-F", PAST, 2.0, 60_500.0, **settled))
    assert book.settled[0].value == pytest.approx(2.0 * (60_000.0 - 60_500.0))


def test_missing_prices_are_listed_once():
    nan = float("nan")
    book = read(
        swap("BTC-USDC-SWAP", 1.0, nan),
        option("BTC-USD-D-50000-C", COMING, 1.0, 0.1, forward=0.0, mark_iv=None),
        future("ETH-USDC-F", PAST, 1.0, 3_000.0, settlement_index_usd={"USDC": 1.0}),
    )
    assert book.missing == [
        "mark_price of BTC-USDC-SWAP",
        "index of USDC",
        "forward of BTC-USD-D-50000-C",
        "mark_iv of BTC-USD-D-50000-C",
        "settlement index of ETH for ETH-USDC-F",
    ]


def test_whole_numbers_and_null_limits_of_a_json_file_are_read():
    contract = swap("BTC-USDT-SWAP", 1, 60_000, entry_price=59_000)
    book = read(contract, balances={"USDT": 5}, spot_limits={"BTC": None, "ETH": 1})
    assert book.cash == {"USDT": 5.0}
    assert book.spot_limits == {"ETH": 1.0}
    assert book.legs[0].upl_settle == 1_000.0


def test_a_time_without_an_offset_is_utc():
    assert parse_time("2025-03-01T08:00:00") == datetime(2025, 3, 1, 8, tzinfo=UTC)
    assert parse_time("2025-03-01T09:00:00+01:00") == datetime(2025, 3, 1, 8, tzinfo=UTC)


def change(key: str, value: Any) -> Any:
    instrument, position = option("BTC-USD-D-50000-C", COMING, 1.0, 0.1, **OPTION)
    return {**instrument, key: value}, position


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kind", "spot", "spot is held in 'balances'"),
        ("style", "quanto", "style is 'quanto'"),
        ("style", "linear", "options are settled in the coin"),
        ("expiry", None, "needs an 'expiry'"),
        ("settle", "USDT", "inverse contracts settle in 'BTC'"),
    ],
)
def test_an_unusable_instrument_is_an_error(key: str, value: Any, message: str):
    with pytest.raises(ValueError, match=message):
        read(change(key, value))


def test_other_unusable_requests_are_errors():
    instrument, position = swap("BTC-USDT-SWAP", 1.0, 60_000.0)
    with pytest.raises(ValueError, match="settled in 'EUR'"):
        read(({**instrument, "settle": "EUR"}, position))
    with pytest.raises(ValueError, match="not among the instruments"):
        read(({**instrument, "instrument_id": "X"}, position))
    with pytest.raises(ValueError, match="twice among the instruments"):
        read((instrument, position), ({**instrument, "multiplier": 2.0}, position))
    with pytest.raises(ValueError, match="must be above 0"):
        read(swap("BTC-USD-SWAP", 1.0, 60_000.0, entry_price=0.0))
    with pytest.raises(ValueError, match="borrow_mode is 'manual'; allowed: 'auto', 'non_auto'"):
        read(borrow_mode="manual")
    with pytest.raises(ValueError, match="spot_mode is 'BTC'; allowed: 'derivatives_only', 'USDT'"):
        read(spot_mode="BTC")


def test_modes_have_defaults():
    book = read(borrow_mode=None, spot_mode=None)
    assert (book.auto_borrow, book.spot_mode) == (True, "derivatives_only")
    book = read(borrow_mode="non_auto", spot_mode="USD")
    assert (book.auto_borrow, book.spot_mode) == (False, "USD")
