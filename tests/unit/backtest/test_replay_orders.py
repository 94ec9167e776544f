"""Open orders of the dataset through the main job: who has none, who has some, bad rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest import what_if
from backtest.params import load_parameter_set
from tests.unit.backtest import tiny_world as world
from tests.unit.backtest.tiny_world import (
    CALL,
    ETH,
    FUTURE,
    INVERSE,
    NUM_ACCOUNTS,
    OLD_CALL,
    SOON,
    SPOT,
    SWAP,
    TIMES,
)


pytestmark = pytest.mark.slow
SPLIT = world.PARAMS.with_name("okx-split-2024-06-05.toml")
SETS = {"today": world.PARAMS, "split": SPLIT}
ORDERS = [
    ("a000", SWAP, -3.0, 64_500.0),
    ("a000", SPOT, 1.0, 64_400.0),
    ("a001", FUTURE, 2.0, 64_900.0),
    ("a001", ETH, 5.0, 3_050.0),
    ("a003", SPOT, -0.5, 63_000.0),
    ("a004", INVERSE, 150.0, 66_000.0),
    ("a005", CALL, 2.0, 0.07),
    ("a005", CALL, -5.0, 0.04),
    ("a008", OLD_CALL, -2.0, 0.05),
    ("a014", SPOT, 2.5, 66_500.0),
]
NAMES = sorted({row[0] for row in ORDERS})
NON_AUTO = "a014"
NUMBERS = ("adjusted_equity", "derivatives_mmr", "mr8", "total_mmr", "total_imr", "margin_level")


def accounts() -> pd.DataFrame:
    """Spot modes in turn, and one account that may not borrow for its orders."""
    modes = [None, "USDT", "USDC", "USD"]
    rows = world.accounts().assign(spot_mode=[modes[k % 4] for k in range(NUM_ACCOUNTS)])
    rows.loc[rows["account_id"] == NON_AUTO, "borrow_mode"] = "non_auto"
    return rows


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("orders")
    outs = {}
    for name, orders in (("without", ()), ("with", ORDERS)):
        tables = world.with_orders(*orders)
        if not orders:
            del tables["orders"]
        dataset = world.write(folder / name, accounts=accounts(), **tables)
        world.replay(world.config(dataset, sets=SETS), folder / f"out-{name}")
        outs[name] = folder / f"out-{name}"
    return outs


def test_orders_of_others_change_nothing(runs: dict[str, Path]):
    """Accounts without orders, bit for bit, under every set."""
    for table in ("traces", "accounts", "events"):
        one, other = (world.read(runs[name], table) for name in ("without", "with"))
        one, other = (
            rows[~rows["account_id"].isin(NAMES)].reset_index(drop=True) for rows in (one, other)
        )
        assert len(one) > 0 or table == "events"
        pd.testing.assert_frame_equal(one, other, check_exact=True, obj=table)


def portfolio(account: str, k: int) -> dict[str, Any]:
    """What the account is at one time, as the file of the what-if calculator."""
    now: Any = TIMES[k]
    usd: Any = world.index().pivot_table(index="time", columns="currency", values="usd")
    marks = world.marks()
    last_mark: Any = marks[marks["time"] <= now].groupby("instrument_id").last()
    contracts: Any = world.with_orders()["instruments"].astype(object)
    contracts = contracts.where(contracts.notna(), None)
    contracts["expiry"] = [None if t is None else t.isoformat() for t in contracts["expiry"]]
    quotes = {
        str(name): {
            key: None if np.isnan(row[column]) or is_gone(str(name), now) else float(row[column])
            for key, column in (
                ("mark_price", "mark_price"),
                ("forward", "forward"),
                ("mark_iv", "mark_iv"),
            )
        }
        for name, row in last_mark.iterrows()
    }
    settled = usd.loc[TIMES[3]]
    final = {c: float(settled[c]) for c in ("BTC", "USDT")}
    rows: Any = world.positions()
    held = rows[rows["account_id"] == account]
    cash = world.balances()[world.balances()["account_id"] == account]
    mode: Any = accounts().set_index("account_id").loc[account]
    return {
        "time": now.isoformat(),
        "index_usd": {str(c): float(x) for c, x in usd.loc[now].items()},
        "instruments": contracts.drop(columns="listed").to_dict("records"),
        "positions": [
            {
                "instrument_id": row["instrument_id"],
                "contracts": row["contracts"],
                "entry_price": None if np.isnan(row["entry_price"]) else row["entry_price"],
                "settlement_index_usd": final if is_gone(row["instrument_id"], now) else None,
                **quotes[row["instrument_id"]],
            }
            for row in held.to_dict("records")
        ],
        "balances": dict(zip(cash["currency"], cash["cash"], strict=True)),
        "spot_mode": mode["spot_mode"],
        "borrow_mode": mode["borrow_mode"],
        "orders": [
            {"instrument_id": name, "contracts": n, "price": price, **quotes.get(name, {})}
            for owner, name, n, price in ORDERS
            if owner == account
        ],
    }


def is_gone(name: str, now: Any) -> bool:
    return name in (FUTURE, INVERSE, OLD_CALL) and now >= SOON


@pytest.mark.parametrize("chosen", SETS)
@pytest.mark.parametrize("account", NAMES)
def test_accounts_with_orders_are_the_calculators(account: str, chosen: str, runs: dict[str, Path]):
    """Before and after the expiry of some of the contracts."""
    numbers = load_parameter_set(SETS[chosen]).numbers()
    paths = {name: world.trace(out, account) for name, out in runs.items()}
    paths = {name: rows[rows["parameter_set"] == chosen] for name, rows in paths.items()}
    for k in (0, 6):
        row = paths["with"].iloc[k]
        answer = what_if.margin(portfolio(account, k), numbers)["account"]
        assert row["status"] == answer["status"]
        for name in NUMBERS:
            expected = np.nan if answer[name] is None else answer[name]
            assert row[name] == pytest.approx(expected, rel=1e-11, nan_ok=True), (k, name)
    assert (paths["with"]["total_mmr"] >= paths["without"]["total_mmr"] - 1e-6).all()


def test_orders_leave_equity_alone_and_charge_something(runs: dict[str, Path]):
    start, paths = (
        {n: world.read(out, t) for n, out in runs.items()} for t in ("accounts", "traces")
    )
    equities = [start[name]["start_equity_usd"] for name in ("without", "with")]
    np.testing.assert_allclose(*equities, rtol=1e-12)
    more = paths["with"]["total_mmr"] > paths["without"]["total_mmr"] + 1.0
    charged = set(paths["with"].loc[more, "account_id"])
    assert {"a000", "a001", "a004", "a005"} <= charged <= set(NAMES)


def test_an_order_in_a_contract_without_a_price_makes_its_account_unpriced(tmp_path: Path):
    """Also a bought option, whose premium needs no mark; and its contract is listed."""
    marks = world.marks()
    gap = (marks["instrument_id"] == CALL) & (marks["time"] >= TIMES[2])
    orders = [("a001", CALL, 1.0, 0.05), ("a007", CALL, -1.0, 0.05)]
    dataset = world.write(tmp_path / "d", marks=marks[~gap], **world.with_orders(*orders))
    manifest = world.replay(world.config(dataset), tmp_path / "out")
    holders = NUM_ACCOUNTS // len(world.IDS)
    times = len(TIMES) - 3
    assert manifest["rows"]["unpriced"] == (holders + 2) * times
    assert manifest["unpriced_instruments"] == [
        {"instrument_id": CALL, "times": (holders + 2) * times}
    ]
    for account in ("a001", "a007"):
        status = world.trace(tmp_path / "out", account)["status"]
        assert (status == "unpriced").tolist() == [False] * 3 + [True] * times


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"instrument_id": "BTC-USDT-SWAB"}, "unknown instrument"),
        ({"contracts": np.nan}, "missing value"),
        ({"price": -1.0}, "negative price"),
        ({"price": 0.0}, "zero price"),
    ],
)
def test_a_bad_order_keeps_its_account_out(change: dict[str, Any], reason: str, tmp_path: Path):
    tables = world.with_orders(*ORDERS)
    rows = tables["orders"]
    place = rows["account_id"].eq("a004")
    for name, value in change.items():
        rows.loc[place, name] = value
    dataset = world.write(tmp_path / "d", **tables)
    manifest = world.replay(world.config(dataset), tmp_path / "out")
    assert [(r["table"], r["reason"]) for r in manifest["quarantined"]] == [("orders", reason)]
    assert manifest["rows"]["quarantined"] == len(TIMES)
    assert set(world.trace(tmp_path / "out", "a004")["status"]) == {"quarantined"}
