"""The curve of one replay against replays with the charge really scaled, at ten multipliers."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.params import load_parameter_set
from backtest.report.break_even import curves, elasticity_table, near_flips
from backtest.report.reader import Results
from backtest.statistics.frequency_curve import POINTS, FrequencyCurve
from tests.unit.backtest import tiny_world as world
from tests.unit.backtest.tiny_world import CALL, ETH, FUTURE, IDS, INVERSE, OLD_CALL, SWAP


pytestmark = pytest.mark.slow
FACTORS = (0.5, 0.75, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 1.5, 2.0)
LEAVES = {
    "mr1": [f"mr1.price_moves.G{k}" for k in (1, 2, 3)],
    "mr4": [f"mr4.{part}.G{k}" for part in ("near", "annual") for k in (1, 2, 3)],
    "mr6": ["mr6.factor"],
}
"""What scales each charge; MR1 with its moves only where there are no options."""
SOME = FACTORS if os.environ.get("PMSTRESS_CHECK_ALL") else (0.8, 1.25, 2.0)
RUN = {"mr6": FACTORS, "mr4": SOME, "mr1": SOME}
"""Multipliers replayed; each set takes a second."""
NEED = {SWAP: 7_900.0, ETH: 370.0, FUTURE: 7_900.0, INVERSE: 0.021, OLD_CALL: 0.12, CALL: 0.16}
"""About what the position of an account requires, in the currency of its balance."""
EACH = 20
NAMES = [f"b{k:03d}" for k in range(EACH * len(IDS))]
LINEAR = [name for k, name in enumerate(NAMES) if IDS[k % 6] not in (OLD_CALL, CALL)]


def tables() -> dict[str, pd.DataFrame]:
    """Accounts with one position each, from half to twice of what it requires."""
    ids, accounts, cash, held = range(len(NAMES)), [], [], []
    for k in ids:
        contract, step = IDS[k % 6], k // 6
        coin = "BTC" if contract in (INVERSE, OLD_CALL, CALL) else "USDT"
        accounts.append((NAMES[k], "auto", None, f"s{k % 2}"))
        share = 0.5 + 1.5 * step / EACH
        cash.append((world.START, NAMES[k], coin, share * NEED[contract], np.nan))
        size = (100.0 if contract == INVERSE else 1.0) * (-1) ** step
        entry = {SWAP: world.BTC[0], FUTURE: world.BTC[0], INVERSE: world.BTC[0]}
        price = 3_000.0 if contract == ETH else entry.get(contract, np.nan)
        held.append((world.START, NAMES[k], contract, size, price))
    names = {
        "accounts": ["account_id", "borrow_mode", "spot_mode", "segment"],
        "balances": ["time", "account_id", "currency", "cash", "spot_limit"],
        "positions": ["time", "account_id", "instrument_id", "contracts", "entry_price"],
    }
    rows = {"accounts": accounts, "balances": cash, "positions": held}
    return {name: pd.DataFrame(rows[name], columns=names[name]) for name in names}


def scaled(folder: Path, charge: str, factor: float) -> Path:
    """Today's rules with the leaves of one charge times a factor."""
    rows = {row.key: row for row in load_parameter_set(world.PARAMS).leaves()}
    text = f'extends = {json.dumps(str(world.PARAMS))}\nname = "{charge} x {factor:g}"\n'
    for key in LEAVES[charge]:
        value: Any = rows[key].value
        new = [x * factor for x in value] if isinstance(value, list) else value * factor
        text += f'[{key}]\nvalue = {new}\nunit = "{rows[key].unit}"\nlabel = "A"\nsource = "test"\n'
    file = folder / f"{charge}-{factor:g}.toml"
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("curve")
    dataset = world.write(folder / "data", buckets=1, **tables())
    sets = {"today": world.PARAMS}
    sets |= {f"{c} x {f:g}": scaled(folder, c, f) for c in RUN for f in RUN[c]}
    config = world.config(dataset, sets=sets)
    world.replay(config.model_copy(update={"traces": type(config.traces)()}), folder / "out")
    return Results(folder / "out")


def hit(results: Results, name: str, among: list[str]) -> set[str]:
    frame = results.accounts(["account_id", "episodes"], name)
    found = frame[frame["episodes"].to_numpy() > 0]["account_id"]
    return set(found) & set(among)


@pytest.mark.parametrize("charge", ["mr4", "mr6"])
def test_one_replay_gives_the_whole_curve(results: Results, charge: str):
    curve = curves(results, "today")[charge]
    theta = results.accounts(["account_id", f"theta_{charge}"], "today")
    counts = []
    for factor in RUN[charge]:
        again = hit(results, f"{charge} x {factor:g}", NAMES)
        assert len(again) == curve.count(factor), factor
        assert again == set(theta[theta[f"theta_{charge}"] <= factor]["account_id"])
        counts.append(len(again))
    assert len(set(counts)) > 1, "the multipliers change nothing here"


def test_price_moves_scale_linear_books_and_not_options(results: Results):
    theta = results.accounts(["account_id", "theta_mr1"], "today").set_index("account_id")
    linear = theta.loc[LINEAR, "theta_mr1"].to_numpy(float)
    curve = FrequencyCurve.of(linear)
    others = sorted(set(NAMES) - set(LINEAR))
    wrong = 0
    for factor in SOME:
        name = f"mr1 x {factor:g}"
        # MR6 has the same loss on linear books, so a smaller MR1 saves nobody.
        assert len(hit(results, name, LINEAR)) == curve.count(factor)
        by_curve = set(theta.index[theta["theta_mr1"].to_numpy() <= factor]) & set(others)
        wrong += len(by_curve ^ hit(results, name, others))
    assert wrong > 0, "options scale linearly here: the warning in the report is idle"


def test_the_report_names_who_is_about_to_flip(results: Results):
    found = near_flips(results, "today")
    assert len(found)
    now, raised = hit(results, "today", NAMES), hit(results, "mr6 x 1.1", NAMES)
    frame = results.accounts(["account_id", "theta_mr6"], "today").set_index("account_id")
    near = found.set_index("account_id")
    for name in raised - now:
        assert near.loc[name, "direction"] == "newly liquidated"
        assert 1.0 < float(near.loc[name, "multiplier"]) <= float(frame.loc[name, "theta_mr6"])
    assert set(near.index[near["direction"].to_numpy() == "saved"]) <= now
    table = elasticity_table(results)
    row = table[(table["parameter_set"] == "today") & (table["charge"] == "mr6")].iloc[0]
    assert row["newly_liquidated"] == len(raised - now)
    assert row["at_1"] == len(now) / len(NAMES)
    assert set(FACTORS) <= set(POINTS)
