"""The explanation of Bybit's rules: every number of the reference's answer is in the text."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backtest.explain import stored_row
from backtest.explain_bybit import CONTINGENCY
from backtest.explain_text import account_numbers, render_margin, render_stored
from backtest.reference import bybit
from kernels.models.bybit import CHARGES
from tests.bybit_books import numbers_of, portfolio, spot, stable_option, swap
from tests.unit.backtest.test_explain_text import text


INDEX = {"BTC": 60_000.0, "USDT": 0.999, "USDC": 1.0}
NEAR, FAR = "2025-03-28T08:00:00Z", "2025-06-27T08:00:00Z"


def answer(**keys: Any) -> dict[str, Any]:
    book = portfolio(
        swap("BTC-USDT-SWAP", -3.0, 60_100.0, entry_price=62_000.0),
        swap("BTC-USDC-SWAP", 1.0, 60_050.0),
        stable_option("BTC-USDT-N-60000-C", NEAR, -2.0, 2_400.0, mark_iv=0.5, forward=60_300.0),
        stable_option("BTC-USDT-F-55000-P", FAR, 1.5, 3_100.0, mark_iv=0.6, forward=61_500.0),
        **{"index_usd": INDEX, "balances": {"BTC": 2.0, "USDT": 40_000.0, "USDC": -9e3}, **keys},
    )
    return bybit.margin(book, numbers_of())


def with_orders(**keys: Any) -> dict[str, Any]:
    book = portfolio(
        swap("BTC-USDT-SWAP", -3.0, 60_100.0),
        index_usd=INDEX,
        balances={"USDT": 60_000.0},
        orders=[
            {"instrument_id": "BTC-USDT-SWAP", "contracts": -5.0, "price": 59_000.0},
            {"instrument_id": "BTC-USDT", "contracts": 2.0, "price": 58_000.0},
        ],
        **keys,
    )
    book["instruments"].append(spot("BTC-USDT"))
    return bybit.margin(book, numbers_of())


def test_every_number_of_the_answer_is_shown():
    found = answer()
    shown = text(render_margin(found), width=220)
    unit, detail = found["units"]["BTC"], found["detail"]["units"]["BTC"]
    for key in ("max_loss", *CONTINGENCY, "contingency", "mmr", "imr", "upl", "cash_delta"):
        assert f"{unit[key]:,.2f}" in shown, key
    for cell in unit["cells"]:
        assert f"{cell['pnl'] + 0.0:,.2f}" in shown
    for price in detail["max_loss"]["prices"]:
        for key in ("linear", "spot", "all"):
            assert f"{price[key] + 0.0:,.2f}" in shown, key
    for key in ("equity_usd", "adjusted_equity", "borrow_mmr", "total_mmr", "total_imr"):
        assert f"{found['account'][key]:,.2f}" in shown, key
    assert f"{100.0 * found['account']['mm_rate']:,.2f} %" in shown
    assert "USDC 9,000.00 x 2 %" in shown
    assert "Vega spread" in shown
    assert "Delta spread, coins" in shown
    assert "spot 0.00" not in shown


def test_the_worst_price_and_its_volatility_are_marked():
    found = answer()
    worst = found["detail"]["units"]["BTC"]["max_loss"]["worst"]
    lines = text(render_margin(found), width=220).splitlines()
    (line,) = [line for line in lines if " <" in line and "marked" not in line]
    assert f"{worst['all']:,.2f} <" in line
    assert f"{worst['options']:,.2f} <" in line
    assert line.count("<") == 2


def test_without_options_the_grid_is_short():
    found = with_orders()
    shown = text(render_margin(found))
    assert "options down" not in shown
    assert "no options" in shown
    assert "no spot that hedges" in shown


def test_orders_their_loss_and_what_they_may_borrow():
    found = with_orders()
    shown = text(render_margin(found), width=220)
    unit = found["detail"]["units"]["BTC"]
    assert unit["binding"] == "positions+sells"
    mmrs = ", ".join(f"{name} {value:,.2f}" for name, value in unit["portfolios"].items())
    assert f"open orders: MMR of {mmrs}; the largest is charged" in shown
    assert "below are the steps of positions+sells" in shown
    assert f"order loss {-found['detail']['order_loss']:,.2f}" in shown
    assert "orders may take USDT 116,000 (debt 56,000)" in shown
    covered = with_orders()["detail"]["borrow"]["liabilities"]
    assert set(covered) == {"USDT"}


def test_assumed_numbers_are_marked_where_they_matter():
    labels = {"option_pnl": "A", "contingency.short_option_rate": "A", "grid.price_range.BTC": "P"}
    lines = text(render_margin(answer(), labels=labels), width=250).splitlines()
    marked = [line for line in lines if "[A]" in line]
    assert len(marked) == 2
    assert "short options" in marked[0]


def test_an_account_without_equity_and_one_in_debt():
    lost = answer(balances={"USDT": -20_000.0})
    assert lost["account"]["mm_rate"] == float("inf")
    assert "no equity is left" in text(render_margin(lost))
    due = answer(balances={"USDT": 21_000.0, "USDC": -100.0})
    assert due["detail"]["repay_due"]
    assert re.search(r"repayment +in debt at a margin level of 117\.65 % or less", _wide(due))


def _wide(found: dict[str, Any]) -> str:
    return text(render_margin(found), width=200)


def test_stored_names_are_those_of_the_kernels():
    found = answer()
    numbers = account_numbers(found)
    assert list(numbers)[: len(CHARGES)] == list(CHARGES)
    assert numbers["borrow"] == found["account"]["borrow_mmr"]
    shown = text(render_stored(found, {**numbers, "delta_spread": 0.0, "mr1": None}))
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}
    assert lines["max_loss"][-1] == "0.0e+00"
    assert lines["delta_spread"][-1] == "1.0e+00"
    assert "mr1" not in lines


def test_stored_rows_of_sets_of_different_models(tmp_path: Path):
    time: Any = pd.Timestamp("2025-03-04T05:00Z")
    folder = tmp_path / "traces"
    assert stored_row(tmp_path, "a", "x", time) is None
    folder.mkdir()
    for name, charge in (("a", "max_loss"), ("b", "mr1")):
        row = {"parameter_set": name, "account_id": "x", "time": time, charge: 2.0}
        pq.write_table(pa.Table.from_pylist([row]), folder / f"{name}.parquet")
    assert (stored_row(tmp_path, "a", "x", time) or {})["max_loss"] == 2.0
    assert (stored_row(tmp_path, "b", "x", time) or {})["mr1"] == 2.0
    assert stored_row(tmp_path, "b", "y", time) is None


def test_before_and_after_shows_the_rate():
    shown = text(render_margin(answer(), after=answer(balances={"USDT": 90_000.0})))
    assert re.search(r"mm_rate +[\d.]+ % +[\d.]+ % +[+-][\d.]+ %", shown)
    assert "BTC perpetual_futures" in shown


@pytest.mark.parametrize("index", [{"BTC": 60_000.0}, {"USDT": 1.0, "USDC": 1.0}])
def test_an_unpriced_account_says_what_is_missing(index: dict[str, float]):
    found = answer(index_usd=index)
    shown = text(render_margin(found))
    assert "Not priced. Missing or not usable:" in shown
    assert account_numbers(found)["max_loss"] is None
