"""Cores of parameter sets and schedules: what stays, what goes, and numbers worked by hand."""

from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from backtest.calibration.core_model import CORE_MODELS, core_leaves, decisions, write_core
from backtest.params import MODELS, ParameterSet, load_parameter_set
from backtest.reference import bybit
from backtest.schedule import BEGINNING, load_rules
from kernels.models import MODELS_BY_NAME
from tests.bybit_books import future, portfolio, stable_option, swap
from tests.okx_books import PARAMS


BYBIT = PARAMS / "bybit-2025-01-10.toml"
OKX = PARAMS / "okx-merged-2025-01-21.toml"
HISTORY = PARAMS / "schedules" / "okx-history.toml"
CHANGE = datetime(2025, 1, 10, 8, tzinfo=UTC)
SCHEDULE = f"""name = "bybit by date"

[[steps]]
from = 2023-11-16T00:00:00Z
file = "{PARAMS / "bybit-pre-2025-01-10.toml"}"

[[steps]]
from = 2025-01-10T08:00:00Z
file = "{BYBIT}"
"""


def core_of(chosen: ParameterSet, **asked: bool) -> dict[str, Any]:
    """Numbers of the core of a set."""
    return chosen.replaced("core", core_leaves(chosen, **asked), "a test").numbers()


def calendar_book() -> dict[str, Any]:
    """2 BTC of a perpetual against 1 BTC of a future of ten days, and a debt of 1,000 USDT."""
    return portfolio(
        swap("BTC-USDT-SWAP", 2.0, 60_000.0),
        future("BTC-USDC-11MAR25", "2025-03-11T08:00:00Z", -1.0, 60_000.0),
        index_usd={"BTC": 60_000.0, "USDT": 1.0, "USDC": 1.0},
        balances={"BTC": 1.0, "USDT": -1_000.0},
    )


def charges_of(book: dict[str, Any], numbers: dict[str, Any]) -> dict[str, float]:
    """Charges of the account that are not zero, USD, to the cent."""
    found = bybit.margin(book, numbers)["detail"]["charges"]
    return {name: round(value, 2) for name, value in found.items() if value}


@pytest.mark.parametrize("model", MODELS)
def test_every_charge_of_every_model_is_decided_once(model: str):
    core = CORE_MODELS[model]
    assert not core.stays.keys() & core.add_ons.keys()
    assert core.stays.keys() | core.add_ons.keys() == MODELS_BY_NAME[model].charges.keys()
    assert all(core.stays.values())
    assert all(add_on.why for add_on in core.add_ons.values())


def test_decisions_of_the_models_in_a_study():
    calm, moving = (decisions(["bybit", "bybit"], with_depeg=d) for d in (False, True))
    assert dict(zip(calm["charge"], calm["core"], strict=True)) == {
        "Stress grid loss": "stays",
        "Short options": "left out",
        "Vega spread": "stays",
        "USDT-USDC-USD spread": "left out",
        "Delta spread": "stays",
        "Perpetuals and futures": "left out",
        "Borrowing": "left out",
    }
    changed = moving[moving["core"] != calm["core"]]
    assert changed["charge"].tolist() == ["USDT-USDC-USD spread"]
    assert changed["why"].tolist() == ["a stablecoin moves in the replay"]


@pytest.mark.parametrize("file", [OKX, BYBIT], ids=["okx", "bybit"])
def test_what_is_left_out_names_leaves_of_the_model(file: Path):
    chosen = load_parameter_set(file)
    keys = [row.key for row in chosen.leaves()]
    for add_on in CORE_MODELS[chosen.model].add_ons.values():
        for pattern in add_on.leaves:
            assert any(fnmatchcase(key, pattern) for key in keys), pattern


def test_an_okx_core_has_no_add_ons():
    """MR7, MR8 and the depeg charge are gone, MR1 stays, collateral counts in full."""
    today = load_parameter_set(OKX)
    numbers, before = core_of(today), today.numbers()
    assert set(numbers["mr7"]["linear_rate"].values()) == {0.0}
    assert numbers["mr7"]["short_option_rate"] == numbers["mr7"]["long_option_rate"] == 0.0
    assert numbers["mr7"]["tiers"] == before["mr7"]["tiers"]
    assert numbers["mr8"]["fee_rate"] == 0.0
    assert all(set(t["mmr"]) == {0.0} for t in numbers["mr8"]["tiers"].values())
    assert numbers["mr9"]["enabled"] is False
    assert core_leaves(today, with_depeg=True).keys() == core_leaves(today).keys() - {"mr9.enabled"}
    for name in CORE_MODELS["okx"].stays:
        assert numbers[name] == before[name]
    assert all(t["rates"] == [1.0] for t in numbers["collateral"].values())


def test_a_bybit_core_by_hand():
    """Loss at -10 % of 1 BTC net 6,000; calendar 1 BTC x 10 days x 0.03 % x 60,000 = 180."""
    today, book = load_parameter_set(BYBIT), calendar_book()
    calendar = {"max_loss": 6_000.0, "delta_spread": 180.0}
    assert charges_of(book, today.numbers()) == calendar | {
        "stablecoin_spread": 600.0,  # 1 BTC long in USDT and short in USDC, 1 %
        "perpetual_futures": 54.0,  # 3 BTC gross, 0.03 %
        "borrow": 20.0,  # 1,000 USDT, 2 %
    }
    assert charges_of(book, core_of(today)) == calendar
    depeg = charges_of(book, core_of(today, with_depeg=True))
    assert depeg == calendar | {"stablecoin_spread": 600.0}
    account = bybit.margin(book, core_of(today))["account"]
    assert account["derivatives_mmr"] == pytest.approx(6_180.0, rel=1e-12)
    assert account["total_mmr"] == account["derivatives_mmr"]
    assert account["adjusted_equity"] == pytest.approx(59_000.0, rel=1e-12)  # BTC in full


def test_short_options_go_and_the_spread_of_vega_stays():
    today = load_parameter_set(BYBIT)
    quoted = {"mark_iv": 0.6, "forward": 60_000.0}
    book = portfolio(
        stable_option("BTC-USDT-11MAR25-60000-C", "2025-03-11T08:00:00Z", -2.0, 2_400.0, **quoted),
        stable_option("BTC-USDT-30MAY25-60000-C", "2025-05-30T08:00:00Z", 1.0, 7_100.0, **quoted),
        index_usd={"BTC": 60_000.0, "USDT": 1.0, "USDC": 1.0},
        balances={"USDT": 100_000.0},
    )
    whole, core = (charges_of(book, n) for n in (today.numbers(), core_of(today)))
    assert whole.pop("short_options") == 300.0  # 1 call net short, 0.5 %
    assert whole["vega_spread"] > 0.0
    assert core == whole


def test_the_core_of_a_schedule_changes_at_its_date(tmp_path: Path):
    """The price range of BTC goes from 15 to 10 %: 9,000 USD of loss, then 6,000; 180 stay."""
    before = tmp_path / "before.toml"
    before.write_text(SCHEDULE)
    rules = load_rules(write_core(tmp_path / "sets" / "mine.toml", before))
    assert rules.name == "bybit by date core"
    assert [start for start, _ in rules.steps] == [start for start, _ in load_rules(before).steps]
    assert [chosen.name for _, chosen in rules.steps] == [
        "bybit-pre-2025-01-10 core",
        "bybit-2025-01-10 core",
    ]
    for time, loss in ((CHANGE - timedelta(microseconds=1), 9_000.0), (CHANGE, 6_000.0)):
        found = charges_of(calendar_book(), rules.at(time).numbers())
        assert found == {"max_loss": loss, "delta_spread": 180.0}


def test_a_long_schedule_keeps_its_steps(tmp_path: Path):
    """Every step of the history of OKX: no fee floor, its own basis, its own time."""
    whole = load_rules(HISTORY)
    core = load_rules(write_core(tmp_path / "okx-history.toml", HISTORY, with_depeg=True))
    assert len(core.steps) == len(whole.steps) == 7
    for (start, mine), (old_start, old) in zip(core.steps, whole.steps, strict=True):
        assert (start, mine.era, mine.effective) == (old_start, old.era, old.effective)
        numbers = mine.numbers()
        assert set(numbers["mr7"]["linear_rate"].values()) == {0.0}
        assert numbers["mr4"] == old.numbers()["mr4"]
        assert numbers["mr9"] == old.numbers()["mr9"]


def test_a_schedule_of_one_step_stays_a_schedule(tmp_path: Path):
    file = tmp_path / "one.toml"
    file.write_text("[[steps]]".join(SCHEDULE.split("[[steps]]")[::2]))
    core = load_rules(write_core(tmp_path / "sets" / "one.toml", file))
    assert [start for start, _ in core.steps] == [CHANGE]


def test_what_the_core_sets_follows_no_market(tmp_path: Path):
    """Collateral that follows volatility counts in full at every time; the grid still follows."""
    rule = "driver = 'realised_volatility', currency = 'BTC', reference = 0.5, cap = 1.05"
    leaf = f"unit = 'fraction'\nlabel = 'A'\nsource = 'a test'\nrule = {{ {rule} }}\n"
    file = tmp_path / "following.toml"
    text = f"extends = '{BYBIT}'\nname = 'following'\n"
    text += f"[collateral.BTC.rates]\nvalue = [0.85]\n{leaf}"
    text += f"[grid.volatility.up]\nvalue = 0.24\n{leaf}"
    file.write_text(text)
    ((start, core),) = load_rules(write_core(tmp_path / "sets" / "core.toml", file)).steps
    assert start == BEGINNING
    assert set(core.rules()) == {"grid.volatility.up"}
    assert core.numbers()["collateral"]["BTC"]["rates"] == [1.0]
