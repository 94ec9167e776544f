"""What stands behind `pmstress margin`: netting of rows, the check of kernels against reference."""

from typing import Any

import pytest

from backtest.cross_check import checked, cross_check
from backtest.errors import ConfigError, RunError
from backtest.netting import net_positions
from backtest.params import load_parameter_set
from backtest.portfolio_answer import answer, answers
from backtest.reference import bybit, okx
from backtest.reference.okx import margin as reference
from tests.bybit_books import numbers_of
from tests.okx_books import PARAMS, future, merged_numbers, option, portfolio, swap
from tests.unit.kernels import bybit_random, random_books


INDEX = {"BTC": 60_000.0, "SOL": 150.0, "USDT": 0.999}
EXPIRY = "2025-06-27T08:00:00Z"


def lots(*rows: tuple[float, float], inverse: bool = False) -> dict[str, Any]:
    name, multiplier = ("BTC-USD-SWAP", 100.0) if inverse else ("BTC-USDT-SWAP", 0.01)
    contracts = [
        swap(name, n, 60_100.0, multiplier=multiplier, entry_price=entry) for n, entry in rows
    ]
    file = portfolio(*contracts, index_usd=INDEX, balances={"BTC": 2.0, "USDT": 50_000.0})
    return {**file, "instruments": file["instruments"][:1]}


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(
    "rows",
    [
        [(60.0, 62_000.0), (20.0, 58_000.0)],
        [(-60.0, 62_000.0), (40.0, 58_000.0)],
        [(-60.0, 62_000.0), (90.0, 58_000.0)],
        [(-60.0, 62_000.0), (60.0, 58_000.0)],
        [(100.0, 100.0), (-50.0, 40.0)],
        [(0.0, 62_000.0), (5.0, 61_000.0), (-7.0, 60_000.0), (3.0, 59_000.0)],
    ],
)
def test_netting_keeps_equity_and_margin(rows: list[tuple[float, float]], inverse: bool):
    before = lots(*rows, inverse=inverse)
    after = net_positions(before)
    assert len(after["positions"]) == 1
    assert after["positions"][0]["contracts"] == sum(n for n, _ in rows)
    assert after["positions"][0]["entry_price"] > 0.0
    one, two = (reference(file, merged_numbers())["account"] for file in (before, after))
    for key in ("equity_usd", "adjusted_equity", "derivatives_mmr", "total_mmr", "total_imr"):
        assert two[key] == pytest.approx(one[key], rel=1e-11), key


def test_netting_leaves_other_rows_alone():
    call = option(
        "BTC-USD-250627-60000-C", EXPIRY, 10.0, 0.1, mark_iv=0.6, forward=61_000.0, entry_price=0.1
    )
    ahead = future("BTC-USD-250627", EXPIRY, 5.0, 61_000.0, multiplier=100.0)
    file = portfolio(call, ahead, index_usd=INDEX, balances={"BTC": 1.0})
    assert net_positions(file) == file
    twice = {**file, "positions": [*file["positions"], {**call[1], "contracts": -4.0}]}
    found = net_positions(twice)
    assert [row["contracts"] for row in found["positions"]] == [6.0, 5.0]
    assert found["balances"] == {"BTC": 1.0}


def test_rows_without_a_price_are_not_netted():
    row = swap("BTC-USDT-SWAP", 1.0, 60_000.0)[1] | {"mark_price": None}
    file = lots((1.0, 60_000.0)) | {"positions": [row, row]}
    assert len(net_positions(file)["positions"]) == 2


def test_cross_check_allows_for_cancellation_and_huge_multipliers():
    leg = {"style": "linear", "kind": "perpetual", "coin": "BTC", "contracts": 100.0}
    detail = {"legs": [{**leg, "multiplier": 1.0, "upl": 0.0}], "index_usd": {"BTC": 1e5}}
    one = {"account": {"pnl": 1e-8, "theta": {"mr1": 4e9}, "level": None}}
    two = {"account": {"pnl": 0.0, "theta": {"mr1": 5e9}, "level": None}}
    cross_check(one, {**two, "detail": detail})
    with pytest.raises(RunError, match=r"account\.pnl"):
        cross_check(one, two)


@pytest.mark.parametrize(
    ("kernel", "other", "name"),
    [
        ({"status": "ok"}, {"status": "warning"}, "account.status"),
        ({"level": None}, {"level": 3.0}, "account.level"),
        ({"theta": {"mr1": 2.0}}, {"theta": {"mr1": float("inf")}}, "account.theta.mr1"),
        ({"x": float("nan")}, {"x": 1.0}, "account.x"),
        ({"x": 1.0}, {}, "account.x is missing in the answer of the reference"),
        ({}, {"x": 1.0}, "account.x is missing in the answer of the kernels"),
    ],
)
def test_cross_check_names_what_differs(kernel: Any, other: Any, name: str):
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        cross_check({"account": kernel}, {"account": other})


def bybit_answer(**keys: Any) -> dict[str, Any]:
    book = portfolio(swap("BTC-USDT-SWAP", 2.0, 60_100.0), index_usd=INDEX, **keys)
    return bybit.margin(book, numbers_of())


def as_kernels(found: dict[str, Any]) -> dict[str, Any]:
    """What the kernels would give for an account without options."""
    account = {k: v for k, v in found["account"].items() if k not in ("borrow_mmr", "mm_rate")}
    account["borrow"] = found["account"]["borrow_mmr"]
    units = {}
    for name, unit in found["units"].items():
        kept = {k: v for k, v in unit.items() if k not in ("cells", "all", "contingency")}
        del kept["binding"]
        pnl = [value for value in unit["all"] for _ in range(3)]
        kept["max_loss_cells"] = [
            {**cell, "pnl": value} for cell, value in zip(unit["cells"], pnl, strict=True)
        ]
        units[name] = kept
    return {"units": units, "account": account}


def test_bybit_answers_are_compared_in_the_kernels_shape():
    found = bybit_answer(balances={"USDT": 50_000.0})
    kernel = as_kernels(found)
    answer = checked(kernel, found)
    assert answer["account"]["mm_rate"] == found["account"]["mm_rate"]
    assert answer["units"]["BTC"]["contingency"] == found["units"]["BTC"]["contingency"]
    kernel["units"]["BTC"]["max_loss_cells"][4]["pnl"] += 1e-3
    with pytest.raises(RunError, match=r"units\.BTC\.max_loss_cells\[4\]\.pnl"):
        checked(kernel, found)


def test_an_empty_unit_may_be_missing_on_either_side():
    book = portfolio(
        swap("BTC-USDT-SWAP", 2.0, 60_100.0), index_usd=INDEX, balances={"SOL": 10.0, "USDT": 5e4}
    )
    found = okx.margin(book, merged_numbers())
    kernel = {key: found[key] for key in ("units", "account")}
    assert set(found["units"]) == {"BTC", "SOL"}
    without = {**kernel, "units": {"BTC": found["units"]["BTC"]}}
    assert checked(without, found)["units"] == found["units"]
    more = {**kernel, "units": {**found["units"], "ETH": found["units"]["SOL"]}}
    assert set(checked(more, found)["units"]) == {"BTC", "SOL"}
    with pytest.raises(RunError, match=r"units\.BTC\..* is missing in the answer of the kernels"):
        checked({**kernel, "units": {"SOL": found["units"]["SOL"]}}, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["okx-merged-2025-01-21", "okx-split-2024-06-05"])
def test_random_okx_portfolios(name: str):
    """Orders, spot modes, expired and unpriced contracts; each is checked against the reference."""
    random_books.use_cache()
    plain = random_books.with_choices(random_books.accounts(8, seed=5), seed=6)
    for k, book in enumerate(random_books.with_orders(plain, seed=7)):
        file = random_books.portfolio_file(book, 3 * k, random_books.markets())
        assert answer(file, load_parameter_set(PARAMS / f"{name}.toml").numbers(), "random")


@pytest.mark.slow
def test_random_bybit_portfolios():
    random_books.use_cache()
    for k, book in enumerate(bybit_random.accounts(8, seed=5)):
        file = bybit_random.portfolio_file(book, k, bybit_random.markets())
        assert answer(file, numbers_of(), "random")


def test_a_portfolio_may_be_a_dictionary():
    with pytest.raises(ConfigError, match=r"portfolio: unknown key 'ballances'"):
        answers({"time": "2025-03-01", "index_usd": {}, "ballances": {}}, PARAMS / "none.toml")
