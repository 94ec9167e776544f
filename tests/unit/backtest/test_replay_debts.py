"""Interest and conversion through the main job, against the reference that ``explain`` walks."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from backtest.explain import explain_portfolio
from tests.unit.backtest import tiny_world as world
from tests.unit.backtest.tiny_world import ETH, START, SWAP, TIMES


pytestmark = pytest.mark.slow
SPLIT = world.PARAMS.with_name("okx-split-2024-06-05.toml")
SETS = {"today": world.PARAMS, "split": SPLIT}
BOTH: dict[str, Any] = {"interest": True, "conversion": True}
OWING, FORCED, BROKE, FREE = "a000", "a001", "a002", "a003"
"""Owes and may; owes and is converted; owes more than it has; owes within its quota."""


def accounts() -> pd.DataFrame:
    rows = world.accounts()
    rows.loc[rows["account_id"].isin([FORCED, BROKE, FREE]), "borrow_mode"] = "non_auto"
    return rows


def balances() -> Any:
    held = {
        OWING: {"BTC": 8.0, "USDT": -300_000.0},
        FORCED: {"BTC": 2.0, "ETH": 90.0, "USDT": -150_000.0},
        BROKE: {"BTC": 0.4, "ETH": -60.0, "USDT": 3_000.0},
        FREE: {"BTC": 3.0, "USDT": -9_000.0},
    }
    rest = world.balances()
    rest = rest[~rest["account_id"].isin(list(held))]
    rows = world.cash_rows(held)
    return pd.concat([rest, pd.DataFrame(rows, columns=rest.columns)], ignore_index=True)


def positions() -> Any:
    """Those who owe hold perpetuals, whose losses add to the debt."""
    rest = world.positions()
    rest = rest[~rest["account_id"].isin([OWING, FORCED, BROKE, FREE])]
    rows = [
        (START, OWING, SWAP, 2.0, 64_500.0),
        (START, FORCED, SWAP, 1.0, 64_500.0),
        (START, FORCED, ETH, 10.0, 3_010.0),
        (START, BROKE, ETH, 5.0, 3_010.0),
        (START, FREE, SWAP, 3.0, 64_500.0),
    ]
    return pd.concat([rest, pd.DataFrame(rows, columns=rest.columns)], ignore_index=True)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tables: dict[str, Any] = {
        "accounts": accounts(),
        "balances": balances(),
        "positions": positions(),
    }
    return world.write(tmp_path_factory.mktemp("debts") / "data", **tables)


@pytest.fixture(scope="module")
def moved(dataset: Path) -> Path:
    out = dataset.parent / "moved"
    world.replay(world.config(dataset, sets=SETS, **BOTH), out)
    return out


@pytest.mark.parametrize("account", [OWING, FORCED, BROKE, FREE])
@pytest.mark.parametrize("chosen", SETS)
def test_every_time_is_the_references(moved: Path, account: str, chosen: str):
    for k in (0, 1, 3, len(TIMES) - 1):
        found = explain_portfolio(moved, account, TIMES[k], chosen)
        assert found.stored is not None
        for name in ("adjusted_equity", "mr8", "total_mmr", "total_imr", "margin_level"):
            assert found.stored[name] == pytest.approx(found.answer["account"][name], rel=1e-9)


def test_accounts_with_debts_and_orders_are_the_references(tmp_path: Path):
    """What debts move has times; what orders cost does not."""
    orders = [(OWING, SWAP, 3.0, 66_000.0), (FORCED, world.SPOT, 1.5, 65_000.0)]
    tables: dict[str, Any] = {"accounts": accounts(), "balances": balances()}
    tables |= {"positions": positions()} | world.with_orders(*orders)
    dataset = world.write(tmp_path / "data", **tables)
    world.replay(world.config(dataset, **BOTH), tmp_path / "out")
    for account in (OWING, FORCED):
        for k in (0, 1, len(TIMES) - 1):
            found = explain_portfolio(tmp_path / "out", account, TIMES[k])
            assert found.stored is not None
            assert found.portfolio["orders"]
            for name in ("adjusted_equity", "mr8", "total_mmr", "total_imr", "margin_level"):
                assert found.stored[name] == pytest.approx(found.answer["account"][name], rel=1e-9)
    rows: Any = world.read(tmp_path / "out", "accounts").set_index("account_id")
    assert rows.loc[FORCED, "conversions"] >= 1
    assert rows.loc[OWING, "interest_usd"] > 0


def test_what_each_account_paid(moved: Path):
    rows: Any = world.read(moved, "accounts").query("parameter_set == 'today'")
    rows = rows.set_index("account_id")
    quiet = rows.drop(index=[OWING, FORCED, BROKE, FREE])
    assert (quiet[["interest_usd", "converted_usd", "conversions"]] == 0).all(axis=None)
    assert rows.loc[OWING, "interest_usd"] == pytest.approx(280_000 * 0.000069 / 24 * 8, rel=0.05)
    assert rows.loc[OWING, "conversions"] == 0
    assert rows.loc[FORCED, "conversions"] >= 1
    assert rows.loc[FORCED, "converted_usd"] == pytest.approx(150_000, rel=0.1)
    # All of its BTC and USDT goes, and the rest of the debt stays.
    assert rows.loc[BROKE, "converted_usd"] == pytest.approx(0.4 * 64_000 + 3_000, rel=0.1)
    explained = explain_portfolio(moved, BROKE, TIMES[-1], "today")
    assert explained.portfolio["balances"]["ETH"] < -40
    assert explained.portfolio["balances"]["BTC"] == pytest.approx(0, abs=1e-12)
    # Losses carry the debt above the quota and back: paid off once it was above.
    assert rows.loc[FREE, "conversions"] == 0 or rows.loc[FREE, "converted_usd"] > 20_000
    events: Any = world.read(moved, "events")
    sold = events[(events["event"] == "converted") & (events["parameter_set"] == "today")]
    counted = sold.groupby("account_id").size()
    assert counted.to_dict() == rows["conversions"][rows["conversions"] > 0].to_dict()


def test_nothing_moves_unless_switched_on(dataset: Path, moved: Path):
    out = dataset.parent / "still"
    world.replay(world.config(dataset, sets=SETS), out)
    one, other = world.read(out, "traces"), world.read(moved, "traces")
    touched = one["account_id"].isin([OWING, FORCED, BROKE, FREE])
    pd.testing.assert_frame_equal(one[~touched], other[~touched], check_exact=True)
    level = [t.loc[touched, "margin_level"].to_numpy() for t in (one, other)]
    assert (level[0] != level[1]).any()
    accounts: Any = world.read(out, "accounts")
    assert (accounts[["interest_usd", "converted_usd", "conversions"]] == 0).all(axis=None)


@pytest.mark.parametrize("engine", [{"tile_accounts": 8, "window_times": 2}, {"devices": 8}])
def test_same_bits(dataset: Path, moved: Path, engine: dict[str, int]):
    """Whatever the window, the tile, the devices; each window starts from the ledger before."""
    out = dataset.parent / "-".join(engine)
    devices = engine.pop("devices", 1)
    world.replay(world.config(dataset, engine=engine, **BOTH), out, devices)
    for table in ("traces", "accounts", "events"):
        one, other = world.read(moved, table), world.read(out, table)
        one = one[one["parameter_set"] == "today"].reset_index(drop=True)
        pd.testing.assert_frame_equal(one, other, check_exact=True, obj=table)


def test_a_new_snapshot_starts_anew(tmp_path: Path):
    """Its cash holds what debts have moved; what was paid before stays counted."""
    later = TIMES[4]
    tables: dict[str, Any] = {"accounts": accounts()}
    for name, rows in (("balances", balances()), ("positions", positions())):
        tables[name] = pd.concat([rows, rows.assign(time=later)], ignore_index=True)
    dataset = world.write(tmp_path / "data", **tables)
    world.replay(world.config(dataset, mode="actual", **BOTH), tmp_path / "out")
    rows: Any = world.read(tmp_path / "out", "accounts").set_index("account_id")
    assert rows.loc[FORCED, "conversions"] >= 2
    assert rows.loc[FORCED, "converted_usd"] == pytest.approx(300_000, rel=0.1)
    found = explain_portfolio(tmp_path / "out", FORCED, TIMES[6])
    assert found.stored is not None
    assert found.stored["margin_level"] == pytest.approx(
        found.answer["account"]["margin_level"], rel=1e-9
    )
    # Three full hours after the first snapshot's first time, four after the second's.
    before = explain_portfolio(tmp_path / "out", OWING, TIMES[3]).moved["USDT"]
    after = explain_portfolio(tmp_path / "out", OWING, TIMES[7]).moved["USDT"]
    assert after == pytest.approx(before, rel=0.2)
