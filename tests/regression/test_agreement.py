"""Kernels against the float64 reference on a whole population of all archetypes.

By default 6,000 accounts under today's rules, 2,000 under rules of split risk units and 300 under
those of Bybit, each at one of the 48 times, every account at another.
``PMSTRESS_AGREEMENT_TIMES`` compares each at more times (48 compares all),
``PMSTRESS_AGREEMENT_ACCOUNTS`` takes another number of accounts, and
``PMSTRESS_AGREEMENT_PARAMETERS`` one parameter set of ``configs/params`` for all of them. 10,000
accounts at 48 times take the reference about ten minutes on two cores;
``PMSTRESS_TEST_PROCESSES`` says how many processes it takes.
"""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from backtest.batching import Snapshot, batches
from backtest.config import RunConfig
from backtest.dataset import Dataset
from backtest.engine import Engine, initial_state, use_compilation_cache
from backtest.market.build import build_market
from backtest.params import load_parameter_set
from backtest.paths import PROJECT_ROOT
from backtest.plan import Plan, make_plan
from backtest.population.build import build_population
from backtest.portfolio_at import Holdings, MarketView, portfolio_at
from backtest.portfolios import read_portfolios
from backtest.reference import models as reference
from backtest.replay import ReplayContext
from kernels.model import MarginModel
from kernels.models import MODELS_BY_NAME
from kernels.records import QUOTES
from kernels.status import STATUS_NAMES
from tests.multipliers import multipliers_over_times
from tests.processes import mapped


ACCOUNTS = int(os.environ.get("PMSTRESS_AGREEMENT_ACCOUNTS", "6000"))
TIMES = int(os.environ.get("PMSTRESS_AGREEMENT_TIMES", "1"))
PARAMETERS = os.environ.get("PMSTRESS_AGREEMENT_PARAMETERS")
OF_SET = {
    "okx-merged-2025-01-21": ACCOUNTS,
    "okx-split-2024-06-05": min(ACCOUNTS, 2_000),
    "bybit-2025-01-10": min(ACCOUNTS, 300),
}
"""Accounts compared under each set by default."""
SETS = [PARAMETERS] if PARAMETERS else list(OF_SET)
TOTALS = ("derivatives_mmr", "total_mmr", "total_imr", "adjusted_equity", "equity_usd")
RELATIVE = 1e-9
LARGE_THETA = 1e3
Work = list[tuple[str, dict[str, Any], dict[str, Any]]]
"""Name, portfolio file and what the kernels gave of each account and time."""


def configuration(root: Any) -> RunConfig:
    folder = PROJECT_ROOT / "configs" / "params"
    return RunConfig.model_validate(
        {
            "name": "agreement",
            "dataset": {"path": root},
            "market": {
                "kind": "generated",
                "seed": 3,
                "start": "2025-03-03T00:00:00Z",
                "end": "2025-03-04T23:00:00Z",
                "coins": ["BTC", "ETH", "SOL", "XRP"],
                "crash": {"after": "18h", "duration": "8h", "depth": 0.25},
                "depeg": {"currency": "USDC", "after": "30h", "duration": "10h", "depth": 0.08},
            },
            "population": {
                "accounts": ACCOUNTS,
                "seed": 11,
                "buckets": 1,
                "orders": {"share": 0.2, "most": 4},
            },
            "parameter_sets": [{"name": n, "file": folder / f"{n}.toml"} for n in SETS],
            "engine": {"window_times": 24},
        }
    )


def reference_numbers(portfolio: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
    answer, model = reference.margin(portfolio, numbers), MODELS_BY_NAME[numbers["model"]]
    units, account = answer["units"].values(), answer["account"]
    borrow = account["mr8"] if "mr8" in account else account["borrow_mmr"]
    sums = {c: sum(u[c] for u in units) for c in model.charges if c != model.borrow_charge}
    sums |= {model.borrow_charge: borrow}
    totals = {name: account[name] for name in (*TOTALS, "margin_level", "status")}
    return sums | totals | {f"theta_{k}": v for k, v in account["theta"].items()}


def same_number(key: str, got: float, value: float | None, scale: float) -> bool:
    """Money within 1e-9 of the account's size, ratios within 1e-9 of themselves.

    Break-even multipliers above 1,000 are compared by their reciprocal, the charge as a share of
    what the account could bear: a charge of 1e-6 of the account or less carries the rounding of
    the account's size, and its multiplier, budget over charge, that many times more of it.
    """
    if value is None:
        return not np.isfinite(got)
    if key.startswith("theta") and min(got, value) > LARGE_THETA:
        return abs(1.0 / got - 1.0 / value) <= RELATIVE
    if np.isinf(value):
        return not np.isfinite(got)
    is_ratio = key.startswith("theta") or key == "margin_level"
    return abs(got - value) <= RELATIVE * (max(abs(value), 1.0) if is_ratio else scale)


def compare_chunk(numbers: dict[str, Any], work: Work) -> list[str]:
    """Differences between the reference and what the kernels gave, as readable lines."""
    wrong = []
    for name, portfolio, found in work:
        expected = reference_numbers(portfolio, numbers)
        if found["status"] != expected["status"]:
            wrong.append(f"{name}: status {found['status']} != {expected['status']}")
            continue
        scale = max(abs(expected["equity_usd"]), expected["total_mmr"], 1.0)
        wrong += [
            f"{name}: {key} {found[key]!r} != {value!r}"
            for key, value in expected.items()
            if key != "status" and not same_number(key, found[key], value, scale)
        ]
    return wrong


@dataclass(frozen=True)
class World:
    """A generated market with a population, planned and read."""

    plan: Plan
    context: ReplayContext
    snapshot: Snapshot


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    use_compilation_cache()
    folder = tmp_path_factory.mktemp("agreement")
    config = configuration(folder / "market")
    assert config.market is not None
    assert config.population is not None
    build_market(config.market, config.dataset.path)
    build_population(config.dataset.path, config.population)
    dataset = Dataset.open(config.dataset.path)
    plan = make_plan(config, dataset)
    context = ReplayContext(config, plan, folder / "out")
    axis = context.axis(plan.windows[0].snapshot_us)
    portfolios = read_portfolios(
        dataset,
        plan,
        plan.windows[0].snapshot_us,
        0,
        axis.instruments,
        axis.terms,
        context.currencies,
        context.max_staleness_us,
    )
    assert len(portfolios.snapshot.account_ids) == ACCOUNTS
    assert len(np.unique(portfolios.snapshot.order_account)) > 0.1 * ACCOUNTS
    return World(plan, context, portfolios.snapshot)


@pytest.mark.slow
@pytest.mark.parametrize("s", range(len(SETS)), ids=SETS)
def test_kernels_agree_with_reference_on_a_population(s: int, world: World):
    count = ACCOUNTS if PARAMETERS else OF_SET[SETS[s]]
    work = scored(world, s, world.snapshot.only(np.arange(ACCOUNTS) < count))
    assert len(work) == count * TIMES
    numbers = load_parameter_set(world.context.config.parameter_sets[s].file).numbers()
    chunks = [work[k : k + 500] for k in range(0, len(work), 500)]
    lines = mapped(partial(compare_chunk, numbers), chunks)
    wrong = [line for some in lines for line in some]
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong[:20])
    assert {"ok", "warning", "liquidation"} <= {found["status"] for _, _, found in work}


def scored(world: World, s: int, snapshot: Snapshot) -> Work:
    """What the kernels give under one set, each account at ``TIMES`` times of its own."""
    plan, context = world.plan, world.context
    axis, names = context.axis(plan.windows[0].snapshot_us), context.currencies.names
    held = all_holdings(snapshot, names)
    engine = Engine(devices=[jax.local_devices()[0]])
    split, model = context.rules[s].is_split(int(plan.times_us[0])), context.rules[s].model
    built = batches(snapshot, axis.terms, context.currencies, split=split)
    work: Work = []
    for window in plan.windows:
        times = np.arange(window.first, window.stop)
        view = MarketView(axis.source.window(plan.times_us[times]), axis.instruments, names)
        priced = context.priced(window)[s]
        for batch in built:
            size = len(batch.accounts)
            state, segment = initial_state(size, model), np.zeros(size, int)
            margin = engine.replay(batch, state, priced, segment, times).margin
            theta = multipliers_over_times(engine, batch, priced)
            for a, account in enumerate(batch.accounts):
                for t in range(len(times)):
                    if (account + window.first + t) % len(plan.times_us) < TIMES:
                        name = f"{snapshot.account_ids[account]} time {times[t]}"
                        portfolio = portfolio_at(held[account], view, t)
                        work.append((name, portfolio, found_numbers(margin, theta, model, t, a)))
    return work


def found_numbers(margin: Any, theta: Any, model: MarginModel, t: int, a: int) -> dict[str, Any]:
    found = {c: float(margin.charges[c][t, a]) for c in model.charges}
    found |= {name: float(getattr(margin, name)[t, a]) for name in (*TOTALS, "margin_level")}
    found |= {f"theta_{c}": float(theta[c][t, a]) for c in model.charges}
    return found | {"status": STATUS_NAMES[int(margin.status[t, a])]}


def all_holdings(snapshot: Snapshot, names: list[str]) -> list[Holdings]:
    count = len(snapshot.account_ids)
    rows: list[list[list[int]]] = [[[], [], []] for _ in range(count)]
    columns = snapshot.leg_account, snapshot.cash_account, snapshot.order_account
    for table, accounts in enumerate(columns):
        for k, account in enumerate(accounts):
            rows[account][table].append(k)
    return [holdings(snapshot, names, account, *rows[account]) for account in range(count)]


def holdings(
    snapshot: Snapshot, names: list[str], account: int, legs: Any, cash: Any, orders: Any
) -> Holdings:
    currency = [names[k] for k in snapshot.cash_currency[cash]]
    limits = dict(zip(currency, snapshot.spot_limit[cash].tolist(), strict=True))
    order = snapshot.order_instrument, snapshot.order_contracts, snapshot.order_price
    family = int(snapshot.spot_family[account])
    return Holdings(
        snapshot.leg_instrument[legs],
        snapshot.leg_contracts[legs],
        snapshot.leg_entry[legs],
        dict(zip(currency, snapshot.cash[cash].tolist(), strict=True)),
        {name: limit for name, limit in limits.items() if np.isfinite(limit)},
        list(zip(*(x[orders].tolist() for x in order), strict=True)),
        "auto" if snapshot.auto_borrows[account] else "non_auto",
        None if family < 0 else QUOTES[family],
    )
