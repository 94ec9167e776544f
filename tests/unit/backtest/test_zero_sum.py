"""What liquidations move between accounts, fund, venue and counterparties adds up to nothing.

Toy 3.10 of the backtesting rules, by run: an account pays fees and slippage and leaves what it
cannot pay; the fund takes its share of the fees and pays losses, the venue keeps the other share;
deleveraged accounts give up profit; counterparties gain the slippage and bear what is unfunded.
"""

import math
from pathlib import Path
from typing import Any

import pytest

from backtest.liquidation_rules import rules_of_sets
from tests.unit.backtest import tiny_world
from tests.unit.backtest.test_impact_runs import moving, rule_file
from tests.unit.backtest.test_simulate_crash import falling_world


pytestmark = pytest.mark.slow
CENT = 0.01
IMPACT = ("none", "linear")
CASES = {
    "fund and deleveraging": {"fund_usd": 1_000.0, "adl_policy": "queue"},
    "endless fund": {"fund_usd": 1e12, "adl_policy": "queue"},
    "nobody": {"fund_usd": 0.0, "adl_policy": "none"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zero-sum")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Path:
    return falling_world(folder / "world")


def rows(out: Path, table: str) -> list[dict[str, Any]]:
    return tiny_world.read(out, table).to_dict("records") if (out / table).is_dir() else []


def total(found: list[dict[str, Any]], column: str) -> float:
    return math.fsum(row[column] for row in found)


@pytest.mark.parametrize("impact", IMPACT)
@pytest.mark.parametrize("case", list(CASES))
def test_all_changes_add_up_to_nothing(dataset: Path, folder: Path, case: str, impact: str) -> None:
    share = 0.0 if case == "nobody" else 0.4
    chosen = moving(dataset, rule_file(folder, fee_share=share))
    content = chosen.model_dump()
    content["liquidation"] |= {"impact_model": impact, **CASES[case]}
    chosen = type(chosen).model_validate(content)
    out = folder / f"{case}-{impact}"
    tiny_world.replay(chosen, out)
    (rules,) = rules_of_sets(chosen)
    assert rules["fund"]["fee_share"] == share
    done, steps, fund = (rows(out, name) for name in ("liquidated", "liquidations", "waterfall"))
    gave, lost = rows(out, "deleveraged"), rows(out, "bankruptcies")
    accounts = total(done, "equity_after_usd") - total(done, "equity_before_usd")
    winners = -total(gave, "haircut_usd")
    of_fund = fund[-1]["fund_after_usd"] - CASES[case]["fund_usd"]
    venue = (1.0 - share) * total(steps, "fee_usd")
    counterparties = total(steps, "slippage_usd") - total(lost, "unfunded_usd")
    # Steps of a balance of 1e12 USD are about 0.0001 USD.
    assert abs(accounts + winners + of_fund + venue + counterparties) < CENT / 2
    assert total(done, "bad_debt_usd") > 1_000.0
    assert total(steps, "fee_usd") == pytest.approx(total(done, "fee_usd"), abs=CENT / 2)
    if case == "fund and deleveraging":
        assert winners < -CENT
    elif case == "endless fund":
        assert gave == []
        assert total(lost, "unfunded_usd") == 0.0
        assert total(lost, "from_fund_usd") == pytest.approx(total(lost, "loss_usd"))
    else:
        assert gave == []
        assert of_fund == 0.0
        owed = total(done, "bad_debt_usd")
        assert total(lost, "unfunded_usd") == pytest.approx(owed, abs=CENT / 2)
    if impact == "linear":
        assert tiny_world.read(out, "impact")["move_frac"].abs().max() > 0.0
    else:
        assert not (out / "impact").exists()
