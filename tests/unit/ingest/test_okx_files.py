"""Answers of OKX's API about an account, as positions, balances, orders and accounts."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from backtest.dataset import Dataset
from backtest.errors import DataError
from backtest.paths import real_data_root
from backtest.quality import check
from tests.unit.backtest import dataset_rows as rows
from tests.unit.ingest.venue_files import make, write_text


DATA = real_data_root()
CONFIG = """
[[ingest.source]]
kind = "okx_account"
account_id = "desk"
files = ["account/*"]
[ingest]
max_quarantined_share = 0.6
"""
U_TIME = str(rows.SNAPSHOT.value // 1_000_000)


def answer(data: list[dict[str, Any]]) -> str:
    return json.dumps({"code": "0", "msg": "", "data": data})


def position(name: str, size: str, side: str = "net", price: str = "64000", **more: str) -> Any:
    own = {"instId": name, "pos": size, "posSide": side, "avgPx": price, "uTime": U_TIME}
    return {"instType": "SWAP", "mgnMode": "cross", **own, **more}


def market(tmp_path: Path) -> Path:
    out = tmp_path / "dataset"
    rows.write(out, without=("accounts", "balances", "positions", "orders"))
    return out


def balance(**cash: str) -> str:
    details = [
        {"ccy": c, "cashBal": v, "clSpotInUseAmt": "", "uTime": U_TIME} for c, v in cash.items()
    ]
    return answer([{"adjEq": "1", "details": details}])


def of_desk(dataset: Dataset, table: str) -> pd.DataFrame:
    parts = dataset.parts(table)
    return dataset.read_parts(table, parts)


def test_an_account(tmp_path: Path) -> None:
    out = market(tmp_path)
    held = [
        position(rows.SWAP, "-10"),
        position(rows.CALL, "5", price="0.02", instType="OPTION"),
        position(rows.SWAP, "3", mgnMode="isolated"),
        position("BTC-USDT", "1", instType="MARGIN"),
        position(rows.OLD_CALL, "0", price=""),
    ]
    write_text(tmp_path / "account/positions.json", answer(held))
    write_text(tmp_path / "account/balance.json", balance(USDT="1000.5", BTC="-0.25"))
    settings = {"acctLv": "4", "autoLoan": False, "spotOffsetType": "3", "posMode": "net_mode"}
    write_text(tmp_path / "account/config.json", answer([settings]))
    order = {"instId": "BTC-USDT", "side": "sell", "sz": "2", "px": "65000", "accFillSz": "0.5",
             "ordType": "limit", "state": "live"}  # fmt: skip
    filled = order | {"state": "filled"}
    write_text(tmp_path / "account/orders.json", answer([order, order, filled]))
    report = make(tmp_path, CONFIG, out)
    positions = of_desk(report.dataset, "positions").set_index("instrument_id")
    assert positions["contracts"].to_dict() == {rows.SWAP: -10.0, rows.CALL: 5.0}
    assert positions["entry_price"].to_dict() == {rows.SWAP: 64_000.0, rows.CALL: 0.02}
    assert set(positions["time"]) == {rows.SNAPSHOT}
    balances = of_desk(report.dataset, "balances").set_index("currency")
    assert balances["cash"].to_dict() == {"USDT": 1000.5, "BTC": -0.25}
    (account,) = of_desk(report.dataset, "accounts").to_dict("records")
    assert account["account_id"] == "desk"
    assert (account["borrow_mode"], account["spot_mode"]) == ("non_auto", "derivatives_only")
    (resting,) = of_desk(report.dataset, "orders").to_dict("records")
    assert (resting["contracts"], resting["price"]) == (-3.0, 65_000.0)
    (tally,) = report.tallies.values()
    assert tally.left_out == {
        "isolated margin": 1, "margin position": 1, "flat position": 1, "order not open": 1,
    }  # fmt: skip


def test_long_and_short_are_one_position_with_the_same_profit(tmp_path: Path) -> None:
    """5 long at 60,000 and 8 short at 63,000: net 3 short; the profit at 61,000 is 21,000."""
    out = market(tmp_path)
    held = [position(rows.SWAP, "5", "long", "60000"), position(rows.SWAP, "8", "short", "63000")]
    write_text(tmp_path / "account/positions.json", answer(held))
    report = make(tmp_path, CONFIG, out)
    (net,) = of_desk(report.dataset, "positions").to_dict("records")
    assert net["contracts"] == -3.0
    assert net["contracts"] * (61_000 - net["entry_price"]) == pytest.approx(
        5 * (61_000 - 60_000) + -8 * (61_000 - 63_000)
    )


def test_a_csv_export_with_a_stated_time(tmp_path: Path) -> None:
    out = market(tmp_path)
    write_text(tmp_path / "account/p.csv", f"instId,pos,avgPx\n{rows.SWAP},7,\n")
    write_text(tmp_path / "account/b.csv", "ccy,cashBal\nUSDT,5\nUSDT,6\nBTC,one\nDOGE,1\n")
    with pytest.raises(DataError, match="no position or balance says its time"):
        make(tmp_path, CONFIG, out)
    text = CONFIG.replace("[ingest]\n", "").replace(
        "[[ingest.source]]",
        """
[ingest]
max_quarantined_share = 0.9
[[ingest.source]]
segment = "own"
time = 2024-08-01T22:00:00Z""",
    )
    report = make(tmp_path, text.replace("max_quarantined_share = 0.6", ""), out)
    assert of_desk(report.dataset, "positions")["contracts"].dropna().tolist() == [7.0]
    assert of_desk(report.dataset, "accounts")["segment"].tolist() == ["own"]
    # What is left of the account is no portfolio: a replay keeps it out.
    found = check(report.dataset)
    assert found.reasons["positions"] == {"missing value": 1}
    assert found.reasons["balances"] == {"duplicate key": 2, "unknown currency": 1}
    assert report.quarantine is not None
    found = pd.read_csv(report.quarantine)
    assert found["reason"].tolist() == [
        "not a number", "duplicate key", "duplicate key", "unknown currency",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"code": "50113", "msg": "Invalid Sign", "data": []}', "code 50113, Invalid Sign"),
        ("[1, 2]", "no 'data' with a list of objects"),
        ('{"code": "0"', r"p\.json: not valid JSON"),
        (answer([{"tier": "1", "mmr": "0.1"}]), "keys tier, mmr are nothing of an account"),
    ],
)
def test_what_is_no_answer_about_an_account(tmp_path: Path, text: str, message: str) -> None:
    out = market(tmp_path)
    write_text(tmp_path / "account/p.json", text)
    with pytest.raises(DataError, match=message):
        make(tmp_path, CONFIG, out)


@pytest.mark.skipif(DATA is None, reason="no recorded answers (PMSTRESS_DATA)")
def test_recorded_answers(tmp_path: Path) -> None:
    assert DATA is not None
    out = market(tmp_path)
    for name in ("http_get_account_balance", "http_get_positions"):
        text = (DATA / f"api_fixtures/nautilus_okx/{name}.json").read_text(encoding="utf-8")
        write_text(tmp_path / f"account/{name}.json", text)
    report = make(tmp_path, CONFIG, out)
    balances = of_desk(report.dataset, "balances")
    assert balances["cash"].tolist() == [94.42612990333333]
    assert balances["time"].tolist() == [pd.Timestamp(1_744_498_994_783, unit="ms", tz="UTC")]
    (tally,) = report.tallies.values()
    assert tally.left_out == {"isolated margin": 1}


@pytest.mark.skipif(DATA is None, reason="no recorded answers (PMSTRESS_DATA)")
def test_stated_terms_win_over_names(tmp_path: Path) -> None:
    assert DATA is not None
    fixtures = DATA / "api_fixtures/nautilus_okx"
    for what in ("swap", "futures", "option", "spot"):
        text = (fixtures / f"http_get_instruments_{what}.json").read_text(encoding="utf-8")
        write_text(tmp_path / f"terms/{what}.json", text)
    write_text(tmp_path / "m.csv", "t,id,p\n2024-12-16T00:00:00Z,ETH-USDT-SWAP,3900\n")
    write_text(tmp_path / "i.csv", "t,c,p\n2024-12-16T00:00:00Z,ETH,3901\n")
    text = """
[[ingest.source]]
kind = "okx_instruments"
files = ["terms/*.json"]
[[ingest.source]]
kind = "csv"
table = "marks"
files = ["m.csv"]
time = { column = "t", format = "iso" }
columns = { instrument_id = "id", mark_price = "p" }
[[ingest.source]]
kind = "csv"
table = "index"
files = ["i.csv"]
time = { column = "t", format = "iso" }
columns = { currency = "c", usd = "p" }
[ingest]
name = "terms"
"""
    dataset = make(tmp_path, text).dataset
    terms = dataset.instruments().set_index("instrument_id")
    assert terms.loc["ETH-USDT-SWAP", "multiplier"] == 0.1
    call = terms.loc["BTC-USD-241217-92000-C"]
    assert (call["multiplier"], call["strike"], call["settle"]) == (0.01, 92_000.0, "BTC")
    assert call["listed"] == pd.Timestamp(1_734_165_000, unit="s", tz="UTC")
    assert terms.loc["BTC-USD-241220", "style"] == "inverse"
    assert terms.loc["BTC-USD", "kind"] == "spot"
    assert dataset.meta.name == "terms"
