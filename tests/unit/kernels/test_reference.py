"""Kernels against the scalar reference on random portfolios, markets and times."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jaxtyping
import numpy as np
import pytest

from backtest.batching import batches
from backtest.engine import CHARGES, Engine, initial_state
from backtest.model_records import contract_records, okx_parameters
from backtest.reference import okx as reference
from backtest.what_if import terms_of
from kernels.status import STATUS_NAMES
from tests.okx_books import merged_numbers
from tests.unit.kernels import random_books


NUM_ACCOUNTS = 330
TIMES_EACH = 3
RELATIVE, OF_SCALE = 1e-9, 1e-12
NUMBERS = (
    "equity_usd",
    "adjusted_equity",
    "derivatives_mmr",
    "borrow_imr",
    "total_mmr",
    "total_imr",
)


@contextmanager
def unchecked() -> Iterator[None]:
    """Without run-time type checks, which make the scalar reference twenty times slower."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


class Scored:
    """All random accounts at all times through the engine."""

    def __init__(self) -> None:
        random_books.use_cache()
        axis = random_books.currencies()
        self.books = random_books.accounts(NUM_ACCOUNTS, seed=11)
        self.market = random_books.markets()
        self.numbers = merged_numbers()
        contracts = contract_records(random_books.instruments(), axis)
        engine = Engine(devices=[jax.local_devices()[0]])
        params = okx_parameters(self.numbers, axis)
        (priced,) = engine.price(self.market, contracts, [params])
        built = batches(random_books.snapshot(self.books), terms_of(contracts), axis)
        self.shapes = {batch.shape for batch in built}
        times = np.arange(random_books.NUM_TIMES)
        self.margin: dict[int, tuple[Any, int]] = {}
        self._expected: dict[tuple[int, int], dict[str, Any]] = {}
        for batch in built:
            size = len(batch.accounts)
            segment = np.zeros(size, int)
            result = engine.replay(batch, initial_state(size), priced, segment, times)
            for place, k in enumerate(batch.accounts):
                self.margin[int(k)] = (result.margin, place)

    def answer(self, k: int, time: int) -> dict[str, Any]:
        margin, place = self.margin[k]
        numbers = {name: float(getattr(margin, name)[time, place]) for name in NUMBERS}
        numbers["margin_level"] = float(margin.margin_level[time, place])
        for name in CHARGES:
            numbers[name] = float(getattr(margin.charges, name)[time, place])
        theta = {name: float(getattr(margin.theta, name)[time, place]) for name in CHARGES}
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
        return {**account, **sums, "margin_level": np.inf if level is None else level}

    def scale(self, k: int) -> float:
        """Gross size of everything in the account, USD, at the price it was drawn at."""
        book, table = self.books[k], random_books.instruments()
        cash = sum(abs(x) * random_books.COINS.get(c, 1.0) for c, x in book.balances.items())
        for place, contracts, _ in book.legs:
            row = table.loc[place]
            coins = row["style"] == "linear" or row["kind"] == "option"
            price = random_books.COINS[row["coin"]] if coins else 1.0
            cash += abs(contracts) * row["multiplier"] * price
        return float(cash)


@pytest.fixture(scope="module")
def scored() -> Scored:
    return Scored()


def pairs() -> list[tuple[int, int]]:
    rng = np.random.default_rng(5)
    times = [rng.choice(random_books.NUM_TIMES, TIMES_EACH, False) for _ in range(NUM_ACCOUNTS)]
    return [(k, int(t)) for k in range(NUM_ACCOUNTS) for t in times[k]]


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
    for k, time in pairs():
        answer, expected = scored.answer(k, time), scored.expected(k, time)
        if expected["status"] == "unpriced" or answer["status"] == "unpriced":
            unpriced += 1
            if answer["status"] != expected["status"]:
                problems.append(f"account {k} time {time}: {answer['status']} {expected['status']}")
            continue
        found = differences(answer, expected, scored.scale(k))
        problems.extend(f"account {k} time {time}: {text}" for text in found)
    assert not problems, f"{len(problems)}\n" + "\n".join(problems[:30])
    assert 0 < unpriced < 0.2 * len(pairs())


@pytest.mark.slow
def test_random_accounts_reach_what_they_should(scored: Scored):
    """The sample is worth something: every charge binds somewhere, debts, expiries, statuses."""
    expected = [scored.expected(k, t) for k, t in pairs()]
    priced = [e for e in expected if e["status"] != "unpriced"]
    for name in CHARGES:
        assert sum(e[name] > 0 for e in priced) > 20, name
    assert {"ok", "warning", "liquidation", "bankrupt"} <= {e["status"] for e in priced}
    assert len(scored.shapes) <= 4
