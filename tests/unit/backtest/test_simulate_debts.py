"""Interest and conversion on what liquidations leave, against the reference of ``explain``."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from backtest.explain import explain_portfolio
from tests.unit.backtest import tiny_world as world
from tests.unit.backtest.test_impact_runs import rule_file
from tests.unit.backtest.test_invariances import same_bits
from tests.unit.backtest.test_simulate import ALL, SIMULATE, config, results
from tests.unit.backtest.tiny_world import ETH, START, SWAP, TIMES


pytestmark = pytest.mark.slow
SPLIT = world.PARAMS.with_name("okx-split-2024-06-05.toml")
SETS = {"today": world.PARAMS, "split": SPLIT}
BOTH: dict[str, Any] = {"interest": True, "conversion": True}
OWING, FORCED, SHORT, WINNER = "a000", "a001", "a002", "a003"
"""Owes and may; owes and is converted; owes coins; owes and gains where prices fall."""
MINE = [OWING, FORCED, SHORT, WINNER]
BTC = 64_000.0 * (1 + np.asarray([0, 0.01, -0.02, -0.05, -0.05, -0.09, -0.08, -0.30, -0.28]))
"""Falls on and on, so that who was liquidated is again; then a crash that bankrupts."""
NEAR_USD = 1e-6


def accounts() -> pd.DataFrame:
    rows = world.accounts()
    rows.loc[rows["account_id"] == FORCED, "borrow_mode"] = "non_auto"
    return rows


def with_rows(rest: Any, rows: list[tuple[Any, ...]]) -> Any:
    """Rows of a table with those of the accounts of these tests replaced."""
    rest = rest[~rest["account_id"].isin(MINE)]
    return pd.concat([rest, pd.DataFrame(rows, columns=rest.columns)], ignore_index=True)


def balances(poor: float = 0.5) -> Any:
    held = {
        OWING: {"BTC": 5.8, "USDT": -300_000.0},
        FORCED: {"BTC": 2.0, "ETH": 90.0, "USDT": -150_000.0},
        SHORT: {"BTC": 0.9, "ETH": -40.0, "USDT": 110_000.0},
        WINNER: {"ETH": 60.0, "USDT": -60_000.0},
    }
    rest = world.balances()
    rest["cash"] *= poor
    return with_rows(rest, world.cash_rows(held))


def positions() -> Any:
    rows = [
        (START, OWING, SWAP, 2.0, 64_500.0),
        (START, FORCED, SWAP, 20.0, 64_500.0),
        (START, FORCED, ETH, 10.0, 3_010.0),
        (START, SHORT, ETH, 20.0, 3_010.0),
        (START, SHORT, SWAP, 5.0, 64_500.0),
        (START, WINNER, SWAP, -3.0, 64_500.0),
    ]
    return with_rows(world.positions(), rows)


def tables() -> dict[str, Any]:
    return {"accounts": accounts(), "balances": balances(), "positions": positions()}


def written(root: Path, buckets: int = 2) -> Path:
    with mock.patch.object(world, "BTC", BTC):
        return world.write(root, buckets, **tables())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("debts") / "data")


@pytest.fixture(scope="module")
def out(dataset: Path) -> Path:
    out = dataset.parent / "out"
    world.replay(config(dataset, SIMULATE | {"fund_usd": 1.0}, sets=SETS, **BOTH), out)
    return out


def done_of(out: Path, chosen: str) -> Any:
    done = world.read(out, "liquidated")
    return done[done["parameter_set"] == chosen]


def test_debts_move_after_liquidations(out: Path):
    """Who was liquidated goes on to pay interest, or is converted again."""
    done = done_of(out, "today")
    assert {OWING, FORCED} <= set(done["account_id"])
    began = done.groupby("account_id")["time"].min()
    rows: Any = world.read(out, "accounts").query("parameter_set == 'today'")
    paid = rows.set_index("account_id")["interest_usd"]
    later = explain_portfolio(out, OWING, TIMES[-1], "today").moved["USDT"]
    sooner = explain_portfolio(out, OWING, began[OWING], "today").moved["USDT"]
    assert began[OWING] < TIMES[-2]
    assert later < sooner < 0.0
    assert paid[OWING] == pytest.approx(-later, rel=1e-9)
    events: Any = world.read(out, "events")
    sold = events[(events["event"] == "converted") & (events["account_id"] == FORCED)]
    assert (sold[sold["parameter_set"] == "today"]["time"] > began[FORCED]).any()


@pytest.mark.parametrize("account", MINE)
@pytest.mark.parametrize("chosen", SETS)
def test_every_time_is_the_references(out: Path, account: str, chosen: str):
    for time in TIMES:
        found = explain_portfolio(out, account, time, chosen)
        assert found.stored is not None
        for name in ("adjusted_equity", "mr8", "total_mmr", "total_imr", "margin_level"):
            theirs = found.answer["account"][name]
            if theirs is None:
                # Nothing is left, and nothing is required.
                assert (name, found.stored[name]) == ("margin_level", None)
            else:
                assert found.stored[name] == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("chosen", SETS)
def test_every_liquidation_is_the_references(out: Path, chosen: str):
    done = done_of(out, chosen)
    assert done["account_id"].duplicated().any()
    for row in done[done["account_id"].isin(MINE)].to_dict("records"):
        found = explain_portfolio(out, row["account_id"], row["time"], chosen).liquidation
        assert found is not None
        assert (found.status, found.slices) == (row["status"], row["slices"])
        for name, theirs in (
            ("equity_before_usd", found.equity_before_usd),
            ("equity_after_usd", found.equity_after_usd),
            ("fee_usd", found.fees_usd),
            ("slippage_usd", found.slippage_usd),
            ("bad_debt_usd", found.bad_debt_usd),
        ):
            assert row[name] == pytest.approx(theirs, abs=NEAR_USD)


def test_who_is_deleveraged_has_paid_its_interest(out: Path):
    check_deleveraged(out)


def test_who_is_deleveraged_has_paid_it_at_moved_prices(dataset: Path):
    """What debts have moved by an earlier window is that of the market as liquidations left it."""
    out = dataset.parent / "moved"
    rules = {"rules": {"okx": rule_file(dataset.parent / "rules", per_musd=0.002)}}
    simulate = SIMULATE | rules | {"fund_usd": 1.0}
    world.replay(config(dataset, simulate, sets=SETS, engine={"window_times": 2}, **BOTH), out)
    assert (world.read(out, "impact")["move_frac"] != 0.0).any()
    check_deleveraged(out)


def check_deleveraged(out: Path) -> None:
    gave = world.read(out, "deleveraged")
    assert WINNER in set(gave["account_id"])
    for row in gave.drop_duplicates(["parameter_set", "account_id"]).to_dict("records"):
        found = explain_portfolio(out, row["account_id"], row["time"], row["parameter_set"])
        level = found.answer["account"]["margin_level"]
        assert row["level_before"] == pytest.approx(level, rel=1e-9)
        assert row["equity_before_usd"] == pytest.approx(
            found.answer["account"]["equity_usd"], abs=NEAR_USD
        )


@pytest.mark.parametrize(
    "engine", [{"tile_accounts": 8, "window_times": 2}, {"window_times": 5}, {"devices": 8}]
)
def test_same_bits(dataset: Path, out: Path, engine: dict[str, int]):
    """Whatever the window, the tile, the devices: ledgers of both kinds go from one to the next."""
    other = dataset.parent / "-".join(f"{k}{v}" for k, v in engine.items())
    devices = engine.pop("devices", 1)
    chosen = config(dataset, SIMULATE | {"fund_usd": 1.0}, engine=engine, sets=SETS, **BOTH)
    world.replay(chosen, other, devices)
    same_bits(results(out), results(other), ALL)


def test_any_number_of_buckets(dataset: Path, out: Path):
    other = dataset.parent / "out-5"
    whole = written(dataset.parent / "data-5", buckets=5)
    world.replay(config(whole, SIMULATE | {"fund_usd": 1.0}, sets=SETS, **BOTH), other)
    same_bits(results(out), results(other), ALL)


def test_a_new_snapshot_starts_anew(tmp_path: Path):
    """What liquidation left and what debts moved count till the next portfolios are read."""
    content = tables()
    for name in ("balances", "positions"):
        rows = content[name]
        content[name] = pd.concat([rows, rows.assign(time=TIMES[4])], ignore_index=True)
    with mock.patch.object(world, "BTC", BTC):
        dataset = world.write(tmp_path / "data", **content)
    out = tmp_path / "out"
    world.replay(config(dataset, SIMULATE, mode="actual", engine={"window_times": 3}, **BOTH), out)
    assert (done_of(out, "today")["time"] < TIMES[4]).any()
    for account in (OWING, FORCED):
        for time in TIMES[3:7]:
            found = explain_portfolio(out, account, time)
            assert found.stored is not None
            assert found.stored["margin_level"] == pytest.approx(
                found.answer["account"]["margin_level"], rel=1e-9
            )
