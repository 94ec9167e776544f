"""The night of the USDC depeg in March 2023: hedges across stablecoins are closed by DDH1."""

from pathlib import Path
from typing import Any

import pytest

from backtest import cli
from backtest.changes import with_changes
from backtest.config import RunConfig, load_config
from backtest.dataset import Dataset
from backtest.explain import explain_portfolio
from backtest.paths import PROJECT_ROOT, real_data_root
from tests.unit.backtest import tiny_world
from tests.unit.backtest.market_files import index_of


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(real_data_root() is None, reason="no real market history (PMSTRESS_DATA)"),
]
NEAR_USD = 1e-6


def night(root: Path) -> RunConfig:
    """The shipped week from the evening before to the morning after, hedgers only, no options."""
    chosen = load_config(PROJECT_ROOT / "configs" / "usdc-2023-03.toml")
    changes = {
        "dataset.path": root / "night",
        "market.start": "2023-03-10T12:00:00Z",
        "market.end": "2023-03-11T08:00:00Z",
        "market.coins": ["BTC", "ETH"],
        "market.options.coins": [],
        "population.at": "2023-03-10T18:00:00Z",
        "population.accounts": 48,
        "population.mix": {"cross_stable": 1.0},
        "population.leverage": {"cross_stable": {"low": 5.0, "high": 10.0}},
        "replay.start": "2023-03-10T18:00:00Z",
        "replay.end": "2023-03-11T08:00:00Z",
        "engine.workers": 1,
    }
    return with_changes(chosen, changes)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("depeg")
    tiny_world.replay(night(root), root / "out")
    return root / "out"


def rows(out: Path, table: str) -> Any:
    return tiny_world.read(out, table)


def test_ddh1_closes_hedges_across_stablecoins(out: Path):
    steps = rows(out, "liquidations")
    ddh1 = steps[steps["stage"] == "ddh1"]
    assert len(ddh1) >= 3
    assert set(ddh1["parameter_set"]) == {"today"}
    assert ddh1["target"].str.contains("USDT-USDC").any()
    assert (ddh1["mr9_after"] < ddh1["mr9_before"]).all()
    for _, step in ddh1.iterrows():
        # Two legs of one coin that settle in different currencies, as much USD of each.
        legs = [str(name).split("-") for name in step["instruments"]]
        assert len({leg[0] for leg in legs}) == 1
        assert len({leg[1] for leg in legs}) == 2
        bought = sum(usd for contracts, usd in signed(step) if contracts > 0)
        sold = sum(usd for contracts, usd in signed(step) if contracts < 0)
        assert bought == pytest.approx(sold, rel=1e-9)
        # MR9 is most of what the account has to hold.
        others = [step[f"mr{k}_before"] for k in range(1, 9)]
        assert step["mr9_before"] > max(others)


def signed(step: Any) -> list[tuple[float, float]]:
    """Contracts and USD of each leg of a step."""
    return list(zip(step["leg_contracts"], step["leg_notional_usd"], strict=True))


def test_it_happens_while_the_peg_is_lost(out: Path):
    steps = rows(out, "liquidations")
    usdc = index_of(Dataset.open(out.parent / "night"))["USDC"]
    ddh1 = steps[steps["stage"] == "ddh1"]
    assert usdc.iloc[0] == pytest.approx(1.0, abs=0.002)
    assert (usdc.loc[ddh1["time"]] < 0.95).all()


def test_they_end_above_the_safe_level(out: Path):
    done = rows(out, "liquidated")
    mine = done[done["parameter_set"] == "today"]
    assert (mine["level_before"] <= 1.0).all()
    assert ((mine["level_after"] > 1.1) | (mine["status"] != "safe")).all()
    paid = mine["fee_usd"] + mine["slippage_usd"] + mine["surplus_usd"] - mine["bad_debt_usd"]
    lost = mine["equity_before_usd"] - mine["equity_after_usd"]
    assert lost.to_numpy() == pytest.approx(paid.to_numpy(), abs=NEAR_USD)


def test_without_the_charge_fewer_are_liquidated(out: Path):
    done = rows(out, "liquidated")
    accounts = done.groupby("parameter_set")["account_id"].nunique()
    assert accounts.get("without MR9", 0) < accounts["today"]


def test_explain_prints_the_steps(out: Path, capsys: pytest.CaptureFixture[str]):
    steps = rows(out, "liquidations")
    step = steps[steps["stage"] == "ddh1"].iloc[0]
    account, time = step["account_id"], step["time"]
    found = explain_portfolio(out, account, time, "today").liquidation
    assert found is not None
    assert found.steps[int(step["step"]) - 1].stage == "ddh1"
    assert found.steps[-1].level_after == pytest.approx(
        steps[(steps["account_id"] == account) & (steps["time"] == time)]["level_after"].iloc[-1],
        rel=1e-9,
    )
    what = f"{account}@{time.isoformat()}"
    assert cli.call(["explain", str(out), what, "--set", "today"]) == 0
    shown = capsys.readouterr().out
    assert "Liquidation, step by step" in shown
    assert "ddh1" in shown
