import io
import math
from typing import Any

import pytest
from rich.console import Console, RenderableType

from backtest.explain_parts import assumed, percent
from backtest.explain_text import account_numbers, render_margin, render_stored
from backtest.params import load_parameter_set
from backtest.reference.okx import margin
from tests.okx_books import PARAMS, future, merged_numbers, option, portfolio, swap


EXPIRY = "2025-06-27T08:00:00Z"
OPTION = {"mark_iv": 0.6, "forward": 61_000.0, "multiplier": 0.01}
INDEX = {"BTC": 60_000.0, "SOL": 150.0, "USDT": 0.985, "USDC": 1.0}


def text(shown: RenderableType, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def answer(perpetuals: float = -30.0, **keys: Any) -> dict[str, Any]:
    book = portfolio(
        swap("BTC-USDT-SWAP", perpetuals, 60_100.0, multiplier=0.1, entry_price=62_000.0),
        swap("BTC-USD-SWAP", 900.0, 60_050.0, multiplier=100.0),
        option("BTC-USD-250627-60000-C", EXPIRY, -100.0, 0.12, **OPTION),
        **{"index_usd": INDEX, "balances": {"BTC": 3.0, "USDC": 5_000.0, "SOL": -10.0}, **keys},
    )
    return margin(book, merged_numbers())


def test_every_number_of_the_answer_is_shown():
    found = answer()
    shown = text(render_margin(found))
    for unit in found["units"].values():
        for key in ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr9", "mmr", "imr", "upl"):
            assert f"{unit[key]:,.2f}" in shown, key
        for cell in unit["mr1_cells"]:
            assert f"{cell['pnl'] + 0.0:,.2f}" in shown
    for key in ("equity_usd", "adjusted_equity", "mr8", "total_mmr", "total_imr"):
        assert f"{found['account'][key]:,.2f}" in shown or key == "equity_usd", key
    assert f"margin level {100.0 * found['account']['margin_level']:,.2f} %" in shown
    assert "BTC-USD-250627-60000-C" in shown


def test_the_worst_cell_is_marked_once_a_unit():
    found = answer()
    shown = text(render_margin(found))
    worst = found["detail"]["units"]["BTC"]["mr1"]["worst"]
    assert f"{worst['pnl']:,.2f} <" in shown
    assert sum(line.rstrip().endswith(" <") or " < " in line for line in shown.splitlines()) == len(
        found["units"]
    )


def test_the_aggregation_reads_like_the_rule_book():
    unit = answer()["units"]["BTC"]
    shown = text(render_margin(answer()), width=200)
    assert f"MMR = max( max(MR1 {unit['mr1']:,.2f}, MR2 {unit['mr2']:,.2f}, MR6 " in shown
    assert f"MR7 {unit['mr7']:,.2f} )" in shown
    assert f"IMR = 1.3 x {unit['mmr']:,.2f} = {unit['imr']:,.2f} USD" in shown


def test_assumed_numbers_are_marked():
    assert "[A]" not in text(render_margin(answer()))
    shown = text(render_margin(answer(), labels={"mr5.slope": "A", "mr3.rate": "P"}))
    lines = [line for line in shown.splitlines() if "[A]" in line]
    assert len(lines) == 2
    assert "MR5 interest rate" in lines[0]
    assert "does not publish" in lines[1]


@pytest.mark.parametrize(
    ("labels", "path", "mark"),
    [
        ({"mr3.rate": "A"}, "mr3.rate", " [A]"),
        ({"mr3": "A"}, "mr3.rate", " [A]"),
        ({"mr3.rate": "A"}, "mr3", " [A]"),
        ({"mr3.rate": "P"}, "mr3", ""),
        ({"mr35.rate": "A"}, "mr3", ""),
        ({}, "mr3", ""),
    ],
)
def test_a_mark_holds_below_and_above_its_path(labels: dict[str, str], path: str, mark: str):
    assert assumed(labels, path) == mark


def test_before_and_after():
    before, after = answer(), answer(perpetuals=-50.0)
    shown = text(render_margin(after, before=before))
    change = after["account"]["total_mmr"] - before["account"]["total_mmr"]
    (line,) = [line for line in shown.splitlines() if line.strip().startswith("total_mmr")]
    assert line.split() == [
        "total_mmr",
        f"{before['account']['total_mmr']:,.2f}",
        f"{after['account']['total_mmr']:,.2f}",
        f"{change:+,.2f}",
    ]


def test_open_orders_and_split_units():
    """The portfolio that is charged, what fills would lose, and what orders may borrow."""
    numbers = load_parameter_set(PARAMS / "okx-split-2024-06-05.toml").numbers()
    call = "BTC-USD-250627-60000-C"
    book = portfolio(
        swap("BTC-USDT-SWAP", -30.0, 60_100.0, multiplier=0.1),
        option(call, EXPIRY, 5.0, 0.12, **OPTION),
        index_usd=INDEX,
        balances={"BTC": 3.0, "USDT": 20_000.0},
        orders=[
            {"instrument_id": "BTC-USDT-SWAP", "contracts": -20.0, "price": 59_000.0},
            {"instrument_id": call, "contracts": 10.0, "price": 0.13},
            {"instrument_id": "BTC-USDT", "contracts": 1.0, "price": 59_500.0},
        ],
        spot_mode="USDT",
    )
    spot = {**book["instruments"][0], "instrument_id": "BTC-USDT", "kind": "spot"}
    book["instruments"].append({**spot, "multiplier": 1.0})
    found = margin(book, numbers)
    shown = text(render_margin(found), width=200)
    assert "Unit BTC-USD " in shown
    assert "Unit BTC-USDT " in shown
    mmrs = found["detail"]["units"]["BTC-USDT"]["portfolios"]
    listed = ", ".join(f"{name} {value:,.2f}" for name, value in mmrs.items())
    assert f"open orders: MMR of {listed}; the largest is charged" in shown
    assert "below are the steps of positions+sells" in shown
    loss, premium = found["detail"]["order_loss"], found["detail"]["premium"]
    assert f"- order loss {loss:,.2f} - premium of bought options {premium:,.2f}" in shown
    assert "orders may take BTC 0.013 (covered), USDT 59,500 (debt 39,500)" in shown


def test_an_unpriced_account_says_what_is_missing():
    found = answer(index_usd={"BTC": 60_000.0})
    shown = text(render_margin(found))
    assert "unpriced" in shown
    assert "index of USDT" in shown
    assert "index of SOL" in shown
    assert "MR1" not in shown
    assert "-" in text(render_margin(answer(), before=found))


def test_a_flat_account_and_an_expired_leg():
    settled = {"settlement_index_usd": {"BTC": 59_000.0, "USDT": 1.0}}
    contract = future("BTC-USDT-F", "2025-03-01T08:00:00Z", 2.0, 6e4, entry_price=6e4, **settled)
    book = portfolio(contract, index_usd=INDEX, balances={"USDT": 5_000.0, "BTC": 1.0})
    shown = text(render_margin(margin(book, merged_numbers())))
    assert "no_requirement" in shown
    assert "unbounded" in shown
    assert "BTC-USDT-F" in shown
    assert "-2,000" in shown


def test_stored_numbers_beside_the_reference():
    found = answer()
    numbers = account_numbers(found)
    assert numbers["mr1"] == sum(unit["mr1"] for unit in found["units"].values())
    assert numbers["mr8"] == found["account"]["mr8"]
    stored = {**numbers, "mr4": numbers["mr4"] * (1.0 + 1e-6), "account_id": "a"}
    del stored["mr9"]
    shown = text(render_stored(found, stored))
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}
    assert lines["mr4"][-1] == "1.0e-06"
    assert lines["mr1"][-1] == "0.0e+00"
    assert lines["status"] == ["status", "ok", "ok"]
    assert "mr9" not in lines
    assert not math.isnan(numbers["margin_level"])


def test_percent_takes_the_digits_it_needs():
    assert [percent(0.0045), percent(-0.12, sign=True), percent(0.12, sign=True)] == [
        "0.45 %",
        "-12 %",
        "+12 %",
    ]
