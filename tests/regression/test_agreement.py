"""Kernels against the float64 reference on a whole population of all archetypes.

Every account is compared at ``PMSTRESS_AGREEMENT_TIMES`` of the 48 times (default 1, each account
at another time; 48 compares all, which takes the reference about ten minutes on two cores).
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import jax
import numpy as np
import pytest

from backtest.batching import Snapshot, batches
from backtest.config import RunConfig
from backtest.dataset import Dataset
from backtest.engine import CHARGES, margins_over_times, use_compilation_cache
from backtest.market.build import build_market
from backtest.params import load_parameter_set
from backtest.paths import PROJECT_ROOT
from backtest.plan import make_plan
from backtest.population.build import build_population
from backtest.portfolio_at import Holdings, MarketView, portfolio_at
from backtest.portfolios import read_portfolios
from backtest.reference import okx as reference
from backtest.replay import ReplayContext
from kernels.status import STATUS_NAMES


ACCOUNTS = int(os.environ.get("PMSTRESS_AGREEMENT_ACCOUNTS", "10000"))
TIMES = int(os.environ.get("PMSTRESS_AGREEMENT_TIMES", "1"))
PARAMETERS = PROJECT_ROOT / "configs" / "params" / "okx-merged-2025-01-21.toml"
TOTALS = ("derivatives_mmr", "total_mmr", "total_imr", "adjusted_equity", "equity_usd")
RELATIVE = 1e-9
UNDETERMINED = 1 / RELATIVE


def configuration(root: Any) -> RunConfig:
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
            "population": {"accounts": ACCOUNTS, "seed": 11, "buckets": 1},
            "parameter_sets": [{"name": "today", "file": PARAMETERS}],
            "engine": {"window_times": 24},
        }
    )


def reference_numbers(portfolio: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
    answer = reference.margin(portfolio, numbers)
    units, account = answer["units"].values(), answer["account"]
    sums = {c: sum(u[c] for u in units) for c in CHARGES if c != "mr8"} | {"mr8": account["mr8"]}
    totals = {name: account[name] for name in (*TOTALS, "margin_level", "status")}
    return sums | totals | {f"theta_{k}": v for k, v in account["theta"].items()}


def compare_chunk(work: list[tuple[Any, ...]]) -> list[str]:
    """Differences between the reference and what the kernels gave, as readable lines."""
    numbers = load_parameter_set(PARAMETERS).numbers()
    wrong = []
    for name, portfolio, found in work:
        expected = reference_numbers(portfolio, numbers)
        if found["status"] != expected["status"]:
            wrong.append(f"{name}: status {found['status']} != {expected['status']}")
            continue
        scale = max(abs(expected["equity_usd"]), expected["total_mmr"], 1.0)
        for key, value in expected.items():
            if key == "status":
                continue
            got = found[key]
            if key.startswith("theta") and value > UNDETERMINED:
                # The charge is below 1e-9 of the account: its multiplier is rounding noise.
                same = got > UNDETERMINED
            elif value is None or np.isinf(value):
                same = got is None or not np.isfinite(got)
            else:
                # Money within 1e-9 of the account's size; ratios within 1e-9 of themselves.
                money = not (key.startswith("theta") or key == "margin_level")
                size = scale if money else max(abs(value), 1.0)
                same = abs(got - value) <= RELATIVE * size
            if not same:
                wrong.append(f"{name}: {key} {got!r} != {value!r}")
    return wrong


def _found(margin: Any, t: int, a: int) -> dict[str, Any]:
    found = {c: float(getattr(margin.charges, c)[t, a]) for c in CHARGES}
    found |= {name: float(getattr(margin, name)[t, a]) for name in (*TOTALS, "margin_level")}
    found |= {f"theta_{c}": float(getattr(margin.theta, c)[t, a]) for c in CHARGES}
    return found | {"status": STATUS_NAMES[int(margin.status[t, a])]}


@pytest.mark.slow
def test_kernels_agree_with_reference_on_a_population(tmp_path):
    use_compilation_cache()
    config = configuration(tmp_path / "market")
    assert config.market is not None
    assert config.population is not None
    build_market(config.market, config.dataset.path)
    build_population(config.dataset.path, config.population)
    dataset = Dataset.open(config.dataset.path)
    plan = make_plan(config, dataset)
    context = ReplayContext(config, plan, tmp_path / "out")
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
    snapshot = portfolios.snapshot
    assert len(snapshot.account_ids) == ACCOUNTS
    names = context.currencies.names
    held = _all_holdings(snapshot, names)
    work = []
    statuses: set[str] = set()
    for window in plan.windows:
        times = np.arange(window.first, window.stop)
        market = axis.source.window(plan.times_us[times])
        view = MarketView(market, axis.instruments, names)
        priced = context.priced(window)[0]
        for batch in batches(snapshot, axis.terms, context.currencies):
            margin = margins_over_times(batch.book, priced.tables, priced.params)
            host = type(margin)(**{k: _host(v) for k, v in margin.__dict__.items()})
            for a, account in enumerate(batch.accounts):
                for t in range(len(times)):
                    if (account + window.first + t) % len(plan.times_us) < TIMES:
                        found = _found(host, t, a)
                        statuses.add(found["status"])
                        name = f"{snapshot.account_ids[account]} time {times[t]}"
                        work.append((name, portfolio_at(held[account], view, t), found))
    assert len(work) == ACCOUNTS * TIMES
    chunks = [work[k : k + 500] for k in range(0, len(work), 500)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        wrong = [line for lines in pool.map(compare_chunk, chunks) for line in lines]
    assert not wrong, "\n".join(wrong[:20])
    assert {"ok", "warning", "liquidation"} <= statuses


def _all_holdings(snapshot: Snapshot, names: list[str]) -> list[Holdings]:
    by_account: list[list[int]] = [[] for _ in range(ACCOUNTS)]
    for k, account in enumerate(snapshot.leg_account):
        by_account[account].append(k)
    cash: list[dict[str, float]] = [{} for _ in range(ACCOUNTS)]
    limits: list[dict[str, float]] = [{} for _ in range(ACCOUNTS)]
    columns = snapshot.cash_account, snapshot.cash_currency, snapshot.cash, snapshot.spot_limit
    for account, currency, amount, limit in zip(*columns, strict=True):
        cash[account][names[currency]] = float(amount)
        if np.isfinite(limit):
            limits[account][names[currency]] = float(limit)
    return [
        Holdings(
            snapshot.leg_instrument[legs],
            snapshot.leg_contracts[legs],
            snapshot.leg_entry[legs],
            cash[account],
            limits[account],
        )
        for account, legs in enumerate(by_account)
    ]


def _host(value: Any) -> Any:
    return jax.tree.map(np.asarray, value)
