"""A crash that bankrupts accounts: who pays, and the same from the reference."""

from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from backtest import cli
from backtest.config import RunConfig
from backtest.dataset import Dataset
from backtest.explain import AccountHistory, explain_portfolio
from backtest.liquidation_rules import rules_of_sets
from backtest.params import load_parameter_set
from backtest.reference.cascade import deleveraged, happen
from backtest.reference.liquidation_trades import account_of
from backtest.reference.waterfall import Fund
from backtest.report.account_stats import account_stats
from backtest.report.build import build_report
from backtest.report.fund import AdlRules, adl_rules
from backtest.report.reader import Results
from backtest.report.tables import summary_table
from backtest.report.terminal import summary_rows
from backtest.report.verdict import caveats
from tests.unit.backtest import tiny_world
from tests.unit.backtest.test_simulate import SIMULATE, config


pytestmark = pytest.mark.slow
CRASH: Any = tiny_world.TIMES[4]
BTC = np.where(np.arange(tiny_world.HOURS + 1) < 4, 64_000.0, 51_200.0)
FUND_USD = 1_000.0
NEAR_USD = 1e-6
CENT = 0.01


def rows(out: Path, table: str) -> list[dict[str, Any]]:
    return tiny_world.read(out, table).to_dict("records")


def falling_world(root: Path) -> Path:
    """A dataset in which prices stand still for four hours, then bitcoin loses 20 %."""
    cash = tiny_world.balances()
    cash["cash"] *= 0.6
    with mock.patch.object(tiny_world, "BTC", BTC):
        return tiny_world.write(root, balances=cash)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = falling_world(tmp_path_factory.mktemp("crash") / "world")
    return config(root, SIMULATE | {"fund_usd": FUND_USD})


@pytest.fixture(scope="module")
def out(chosen: RunConfig) -> Path:
    out = chosen.dataset.path.parent / "out"
    tiny_world.replay(chosen, out)
    return out


def test_every_cent_is_paid_by_somebody(out: Path):
    done, paid = rows(out, "liquidated"), rows(out, "waterfall")
    fund = FUND_USD
    for row in paid:
        assert row["fund_before_usd"] == fund
        fund = row["fund_after_usd"]
        revenue = row["fund_before_usd"] + row["revenue_usd"] - row["from_fund_usd"]
        assert fund == pytest.approx(revenue, abs=NEAR_USD)
        borne = row["from_fund_usd"] + row["from_adl_usd"] + row["unfunded_usd"]
        assert row["loss_usd"] == pytest.approx(borne, abs=NEAR_USD)
    for one, other in (("bad_debt_usd", "loss_usd"), ("fee_usd", "fee_usd")):
        total = sum(row[one] for row in done)
        assert sum(row[other] for row in paid) == pytest.approx(total, abs=NEAR_USD)
    haircuts = sum(row["haircut_usd"] for row in rows(out, "deleveraged"))
    assert haircuts > 0.0
    assert haircuts == pytest.approx(sum(r["from_adl_usd"] for r in paid), abs=NEAR_USD)


def test_the_bad_debt_that_a_user_reads_is_what_the_waterfall_says(chosen: RunConfig, out: Path):
    """Not the equity before a liquidation: its costs push accounts below zero too."""
    results = Results(out)
    table = summary_table(results)
    row: dict[str, Any] = dict(table.to_dict("records")[0])
    losses = [each["loss_usd"] for each in rows(out, "bankruptcies")]
    assert row["bad_debt_usd"] == pytest.approx(sum(losses), abs=NEAR_USD)
    assert row["bad_debt_accounts"] == len({r["account_id"] for r in rows(out, "bankruptcies")})
    assert row["bad_debt_largest_usd"] == pytest.approx(max(losses), abs=NEAR_USD)
    assert row["shortfall_at_trigger_usd"] < sum(losses) - CENT
    lost = account_stats(results, "today").losses
    assert sum(lost["bad_debt_usd"].tolist()) == pytest.approx(sum(losses), abs=NEAR_USD)
    assert "Bad debt after liquidation" in names_of(table)
    assert "Accounts are liquidated at the trigger" in " ".join(caveats(results))
    untouched = chosen.dataset.path.parent / "measured"
    tiny_world.replay(config(chosen.dataset.path, {}), untouched)
    results = Results(untouched)
    table = summary_table(results)
    # 60 % of 20,000 of cash; a bitcoin bought at 64,500 is worth 51,205.
    assert table["bad_debt_usd"].tolist() == pytest.approx([1_295.0], abs=NEAR_USD)
    assert "Bad debt if nothing is closed" in names_of(table)
    assert "Nothing is closed when an account is triggered" in " ".join(caveats(results))


def names_of(table: pd.DataFrame) -> list[str]:
    """Metrics of the comparison as it is printed."""
    return [row[0] for row in summary_rows(table.to_dict("records"))]


def test_totals_by_account(out: Path):
    totals = {row["account_id"]: row for row in rows(out, "liquidation_totals")}
    frame: Any = pd.DataFrame(rows(out, "liquidated"))
    for account, mine in frame.groupby("account_id"):
        found = totals[str(account)]
        assert found["times"] == len(mine)
        for name in ("fee_usd", "slippage_usd", "bad_debt_usd", "notional_usd"):
            assert found[name] == pytest.approx(float(mine[name].sum()), abs=NEAR_USD)
        assert found["bankruptcies"] == (mine["status"] == "bankrupt").sum()
        assert found["seconds_to_safety"] == 0.0


def test_the_reference_pays_alike(chosen: RunConfig, out: Path):
    """All accounts at the time of the crash through ``cascade``: losses, fund, deleveraging."""
    dataset, numbers = Dataset.open(chosen.dataset.path), load_parameter_set(tiny_world.PARAMS)
    names = [tiny_world.name_of(k) for k in range(tiny_world.NUM_ACCOUNTS)]
    portfolios = {
        name: AccountHistory(dataset, chosen, name, with_hedges=True).portfolio(CRASH)
        for name in names
    }
    (rules,) = rules_of_sets(chosen)
    now: datetime = CRASH.to_pydatetime()
    moment = happen(portfolios, numbers.numbers(), rules, now=now, fund=Fund(FUND_USD))
    first = moment.outcomes[0]
    mine = next(row for row in rows(out, "waterfall") if row["time"] == CRASH)
    assert first.fund.balance_usd == pytest.approx(mine["fund_after_usd"], abs=NEAR_USD)
    lost = {row["account_id"]: row for row in rows(out, "bankruptcies") if row["time"] == CRASH}
    assert lost
    for key, theirs in (
        ("loss_usd", first.losses_usd),
        ("from_fund_usd", first.from_fund_usd),
        ("from_adl_usd", first.from_adl_usd),
        ("unfunded_usd", first.unfunded_usd),
    ):
        found = {name: row[key] for name, row in lost.items()}
        assert found == pytest.approx(theirs, abs=NEAR_USD)
    gave = {row["account_id"]: row for row in rows(out, "deleveraged") if row["time"] == CRASH}
    haircuts = {name: row["haircut_usd"] for name, row in gave.items()}
    assert haircuts == pytest.approx(first.haircuts_usd, abs=NEAR_USD)
    for name, row in gave.items():
        left = deleveraged(portfolios[name], {tiny_world.SWAP}, row["closed_frac"])
        levels = [account_of(p, numbers.numbers()).level for p in (portfolios[name], left)]
        assert [row["level_before"], row["level_after"]] == pytest.approx(levels, rel=1e-9)


def test_explain_does_what_the_run_did(out: Path):
    """Every liquidation again with the reference: same stages, same slices, same money."""
    done = rows(out, "liquidated")
    assert {row["status"] for row in done} >= {"bankrupt", "safe"}
    for row in done:
        found = explain_portfolio(out, row["account_id"], row["time"]).liquidation
        assert found is not None
        assert (found.status, found.slices) == (row["status"], row["slices"])
        assert found.fees_usd == pytest.approx(row["fee_usd"], abs=NEAR_USD)
        assert found.bad_debt_usd == pytest.approx(row["bad_debt_usd"], abs=NEAR_USD)
        assert found.equity_after_usd == pytest.approx(row["equity_after_usd"], abs=NEAR_USD)
    steps = pd.DataFrame(rows(out, "liquidations"))
    row = done[0]
    mine = steps[(steps["account_id"] == row["account_id"]) & (steps["time"] == row["time"])]
    found = explain_portfolio(out, row["account_id"], row["time"]).liquidation
    assert found is not None
    assert mine["stage"].astype(str).tolist() == [step.stage for step in found.steps]


def test_explain_at_other_times_has_no_liquidation(out: Path):
    row = next(row for row in rows(out, "liquidated") if row["status"] == "safe")
    later = explain_portfolio(out, row["account_id"], tiny_world.TIMES[-1])
    assert later.liquidation is None
    assert later.stored is not None
    level = later.answer["account"]["margin_level"]
    assert level == pytest.approx(later.stored["margin_level"], rel=1e-9)


def test_the_report_shows_them(out: Path):
    """Its numbers are those of the saved tables."""
    files = build_report(out)
    page = files.page.read_text(encoding="utf-8")
    assert "What became of liquidated accounts" in page
    assert {"fund.png", "survival.png"} <= {file.name for file in files.figures}
    assert adl_rules(Results(out), "today") == AdlRules("queue", 0.3, 1 / 3)

    def table(name: str) -> list[dict[str, Any]]:
        return pd.read_parquet(out / "report" / "tables" / f"{name}.parquet").to_dict("records")

    done, (paid,) = rows(out, "liquidated"), table("waterfall")
    assert paid["loss_usd"] == pytest.approx(sum(row["bad_debt_usd"] for row in done))
    assert paid["fund_end_usd"] == rows(out, "waterfall")[-1]["fund_after_usd"]
    (ended,) = table("liquidation_outcomes")
    accounts = {row["account_id"] for row in done}
    assert ended["accounts"] == ended["solvent"] + ended["bankrupt"] == len(accounts)
    bad_debt, notional = table("liquidation_risk")
    assert bad_debt["q99_usd"] == pytest.approx(paid["loss_usd"])
    assert notional["worst_usd"] == pytest.approx(sum(row["notional_usd"] for row in done))
    last = table("survival")[-1]
    assert pd.isna(last["segment"])
    assert last["survival"] == pytest.approx(1.0 - len(accounts) / tiny_world.NUM_ACCOUNTS)
    assert sum(row["ended"] for row in table("liquidation_stages")) == len(done)


def test_the_picture_of_a_liquidation(out: Path, capsys: pytest.CaptureFixture[str]):
    row, plot = rows(out, "liquidated")[0], out.parent / "liquidation.png"
    what = f"{row['account_id']}@{row['time'].isoformat()}"
    assert cli.call(["explain", str(out), what, "--plot", str(plot)]) == 0
    assert "Liquidation, step by step" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    other = f"{row['account_id']}@{tiny_world.TIMES[0].isoformat()}"
    assert cli.call(["explain", str(out), other, "--plot", str(plot)]) == 2
    assert "did not liquidate" in capsys.readouterr().err
