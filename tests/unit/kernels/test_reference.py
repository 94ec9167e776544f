"""Kernels against the scalar reference on random portfolios, orders, markets and times.

Every parameter set of the two eras meets the same markets: merged and split risk units, accounts
with and without open orders.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from backtest.batching import batches
from backtest.engine import Engine, initial_state, over_times
from backtest.leg_lists import Terms
from backtest.model_records import contract_records
from backtest.okx_records import okx_parameters
from backtest.parameter_records import has_split_units
from backtest.params import load_parameter_set
from backtest.reference import okx as reference
from backtest.what_if import PORTFOLIOS, terms_of
from kernels.models.okx import CHARGES, MODEL
from kernels.records import Contract
from kernels.status import STATUS_NAMES
from tests.multipliers import multipliers_over_times
from tests.okx_books import PARAMS
from tests.processes import unchecked
from tests.unit.kernels import random_books
from tests.unit.kernels.random_books import RandomAccount


RELATIVE, OF_SCALE = 1e-9, 1e-12
NUMBERS = (
    "equity_usd",
    "adjusted_equity",
    "derivatives_mmr",
    "borrow_imr",
    "total_mmr",
    "total_imr",
)


@dataclass(frozen=True)
class Sample:
    """Accounts without and with orders, and at how many times each is compared."""

    plain: int
    with_orders: int
    times: int


SAMPLES = {
    "okx-merged-2025-01-21": Sample(330, 120, 3),
    "okx-split-2024-06-05": Sample(150, 120, 2),
    "okx-split-2024-05-11": Sample(150, 120, 2),
}


@cache
def shared() -> tuple[Engine, Contract, Terms]:
    """One engine and one instrument axis for all parameter sets."""
    random_books.use_cache()
    contracts = contract_records(random_books.instruments(), random_books.currencies())
    return Engine(devices=[jax.local_devices()[0]]), contracts, terms_of(contracts)


def books_of(sample: Sample) -> list[RandomAccount]:
    plain = random_books.with_choices(random_books.accounts(330, seed=11), seed=12)
    ordering = random_books.with_orders(plain[: sample.with_orders], seed=13)
    return [*plain[: sample.plain], *ordering]


class Scored:
    """All random accounts at all times through the engine, under one parameter set."""

    def __init__(self, name: str) -> None:
        self.sample = SAMPLES[name]
        self.books = books_of(self.sample)
        self.market = random_books.markets()
        self.numbers = load_parameter_set(PARAMS / f"{name}.toml").numbers()
        engine, contracts, terms = shared()
        axis = random_books.currencies()
        params = over_times(okx_parameters(self.numbers, axis), random_books.NUM_TIMES)
        (priced,) = engine.price(self.market, contracts, [params])
        self.is_split = has_split_units(self.numbers)
        few = random_books.FEW_SHAPES
        held = random_books.snapshot(self.books)
        built = batches(held, terms, axis, split=self.is_split, shapes=few)
        self.shapes = {batch.shape for batch in built}
        times = np.arange(random_books.NUM_TIMES)
        self.margin: dict[int, tuple[Any, Any, int]] = {}
        self._expected: dict[tuple[int, int], dict[str, Any]] = {}
        for batch in built:
            size = len(batch.accounts)
            segment = np.zeros(size, int)
            state = initial_state(size, MODEL)
            result = engine.replay(batch, state, priced, segment, times)
            theta = multipliers_over_times(engine, batch, priced)
            for place, k in enumerate(batch.accounts):
                self.margin[int(k)] = (result.margin, theta, place)

    def pairs(self) -> list[tuple[int, int]]:
        """Accounts and the times at which they are compared."""
        rng = np.random.default_rng(5)
        count, each = len(self.books), self.sample.times
        times = [rng.choice(random_books.NUM_TIMES, each, False) for _ in range(count)]
        return [(k, int(t)) for k in range(count) for t in times[k]]

    def answer(self, k: int, time: int) -> dict[str, Any]:
        margin, multipliers, place = self.margin[k]
        numbers = {name: float(getattr(margin, name)[time, place]) for name in NUMBERS}
        numbers["margin_level"] = float(margin.margin_level[time, place])
        for name in CHARGES:
            numbers[name] = float(margin.charges[name][time, place])
        theta = {name: float(multipliers[name][time, place]) for name in CHARGES}
        status = STATUS_NAMES[int(margin.status[time, place])]
        return {**numbers, "status": status, "theta": theta}

    def expected(self, k: int, time: int) -> dict[str, Any]:
        if (k, time) not in self._expected:
            self._expected[k, time] = self._reference(k, time)
        return self._expected[k, time]

    def _reference(self, k: int, time: int) -> dict[str, Any]:
        file = random_books.portfolio_file(self.books[k], time, self.market, with_all=False)
        with unchecked():
            answer = reference.margin(file, self.numbers)
        account = answer["account"]
        if account["status"] == "unpriced":
            return account
        units = answer["units"].values()
        sums = {n: sum(u[n] for u in units) for n in CHARGES if n != "mr8"}
        level = account["margin_level"]
        bindings = {unit.get("binding", "positions") for unit in units}
        more = {"margin_level": np.inf if level is None else level, "bindings": bindings}
        return {**account, **sums, **more, "spot": any(unit["spot_in_use"] for unit in units)}


@pytest.fixture(scope="module", params=SAMPLES)
def scored(request: pytest.FixtureRequest) -> Scored:
    return Scored(request.param)


def wrong(name: str, found: float, expected: float, room: float) -> str | None:
    if np.isinf(expected) and found == expected:
        return None
    if abs(found - expected) <= RELATIVE * abs(expected) + room:
        return None
    return f"{name}: kernel {found!r}, reference {expected!r}"


def differences(answer: dict[str, Any], expected: dict[str, Any], scale: float) -> list[str]:
    room = OF_SCALE * scale
    found = [wrong(n, answer[n], expected[n], room) for n in (*NUMBERS, *CHARGES)]
    required = expected["total_mmr"]
    if required > 1e3 * room:
        level = expected["margin_level"]
        at_risk = room * (1 + abs(level)) / required
        found.append(wrong("margin_level", answer["margin_level"], level, at_risk))
        if answer["status"] != expected["status"]:
            found.append(f"status {answer['status']} != {expected['status']}")
    for name in CHARGES:
        if expected[name] > 1e3 * room:
            theta = expected["theta"][name]
            at_risk = room * (1 + min(theta, 1e12)) / expected[name]
            found.append(wrong(f"theta {name}", answer["theta"][name], theta, at_risk))
    return [text for text in found if text is not None]


@pytest.mark.slow
def test_every_number_of_random_accounts(scored: Scored):
    problems = []
    unpriced = 0
    for k, time in scored.pairs():
        answer, expected = scored.answer(k, time), scored.expected(k, time)
        if expected["status"] == "unpriced" or answer["status"] == "unpriced":
            unpriced += 1
            if answer["status"] != expected["status"]:
                problems.append(f"account {k} time {time}: {answer['status']} {expected['status']}")
            continue
        found = differences(answer, expected, random_books.gross_usd(scored.books[k]))
        problems.extend(f"account {k} time {time}: {text}" for text in found)
    assert not problems, f"{len(problems)}\n" + "\n".join(problems[:30])
    assert 0 < unpriced < 0.2 * len(scored.pairs())


@pytest.mark.slow
def test_random_accounts_reach_what_they_should(scored: Scored):
    """The sample is worth something: every charge binds somewhere, debts, expiries, statuses.

    Each portfolio of the accounts with orders binds in some unit.
    """
    expected = {pair: scored.expected(*pair) for pair in scored.pairs()}
    priced = {pair: e for pair, e in expected.items() if e["status"] != "unpriced"}
    for name in CHARGES:
        # Split units hold one settlement currency each: nothing to offset across currencies.
        expects_none = name == "mr9" and scored.is_split
        charged = sum(e[name] > 0 for e in priced.values())
        assert charged == 0 if expects_none else charged > 20, name
    assert {"ok", "warning", "liquidation", "bankrupt"} <= {e["status"] for e in priced.values()}
    assert sum(e["spot"] for e in priced.values()) > 20
    ordering = [e for (k, _), e in priced.items() if scored.books[k].orders]
    for name in PORTFOLIOS:
        assert sum(name in e["bindings"] for e in ordering) > 20, name
    # Wider than every class: split units come in many, and each such width is another program.
    assert len(scored.shapes - set(random_books.FEW_SHAPES)) <= (2 if scored.is_split else 0)
