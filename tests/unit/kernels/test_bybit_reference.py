"""Kernels of the Bybit model against the scalar reference on random accounts, markets, times."""

from typing import Any

import jax
import numpy as np
import pytest

from backtest.batching import Shape, batches
from backtest.bybit_records import bybit_parameters
from backtest.engine import Engine, initial_state, over_times
from backtest.model_records import contract_records
from backtest.reference import bybit as reference
from backtest.what_if import margin as what_if_margin, terms_of
from kernels.models.bybit import CHARGES, MODEL
from kernels.status import STATUS_NAMES
from tests.bybit_books import numbers_of
from tests.multipliers import multipliers_over_times
from tests.processes import unchecked
from tests.unit.kernels import bybit_random
from tests.unit.kernels.random_books import use_cache


NUM_ACCOUNTS = 360
TIMES_EACH = 2
RELATIVE, OF_SCALE = 1e-9, 1e-12
NUMBERS = (
    "equity_usd",
    "adjusted_equity",
    "derivatives_mmr",
    "borrow_imr",
    "total_mmr",
    "total_imr",
)


def switched_numbers() -> dict[str, Any]:
    """Every choice of the published set the other way round, and tiers where it has none."""
    numbers = numbers_of("bybit-pre-2025-01-10")
    numbers["option_pnl"] = "coin"
    numbers["grid"]["whole_seconds"] = False
    numbers["grid"]["price_steps"] = [-1.0, -0.9, -0.5, -0.3, -0.1, 0.0, 0.1, 0.2, 0.5, 0.6, 0.7]
    numbers["grid"]["near_expiry"]["scale_volatility"] = True
    numbers["spot_hedge"]["coins"] = ["LTC", "BTC"]
    numbers["contingency"]["spot_basis"] |= {"threshold_rule": "gate", "threshold": 0.03}
    numbers["contingency"]["perpetual_futures"] = {
        "bounds_usd": [10_000.0, 1_000_000.0],
        "rates": [0.0003, 0.0006, 0.01],
    }
    return numbers


SHAPES = (Shape(4, 2, 0, 0), Shape(2, 2, 2, 8), Shape(8, 8, 2, 64), Shape(8, 8, 4, 64, 3, 16))
SETS = {"published": numbers_of(), "switched": switched_numbers()}


class Scored:
    """All random accounts at all times through the engine, under both sets."""

    def __init__(self) -> None:
        use_cache()
        axis = bybit_random.currencies()
        self.books = bybit_random.accounts(NUM_ACCOUNTS, seed=11)
        self.market = bybit_random.markets()
        contracts = contract_records(bybit_random.instruments(), axis)
        engine = Engine(tile_accounts=128, devices=[jax.local_devices()[0]])
        times = np.arange(len(bybit_random.TIMES))
        params = [over_times(bybit_parameters(n, axis), len(times)) for n in SETS.values()]
        priced = engine.price(self.market, contracts, params)
        # Few classes, so that few programs are compiled.
        built = batches(bybit_random.snapshot(self.books), terms_of(contracts), axis, shapes=SHAPES)
        self.shapes = {batch.shape for batch in built}
        self.margin: dict[tuple[str, int], tuple[Any, Any, int]] = {}
        self._expected: dict[tuple[str, int, int], dict[str, Any]] = {}
        for batch in built:
            size = len(batch.accounts)
            for name, tables in zip(SETS, priced, strict=True):
                state = initial_state(size, MODEL)
                result = engine.replay(batch, state, tables, np.zeros(size, int), times)
                theta = multipliers_over_times(engine, batch, tables)
                for place, k in enumerate(batch.accounts):
                    self.margin[name, int(k)] = (result.margin, theta, place)

    def answer(self, name: str, k: int, time: int) -> dict[str, Any]:
        margin, theta, place = self.margin[name, k]

        def number(values: Any) -> float:
            return float(values[time, place])

        return {
            **{field: number(getattr(margin, field)) for field in (*NUMBERS, "margin_level")},
            **{charge: number(margin.charges[charge]) for charge in CHARGES},
            "status": STATUS_NAMES[int(margin.status[time, place])],
            "theta": {charge: number(theta[charge]) for charge in CHARGES},
        }

    def expected(self, name: str, k: int, time: int) -> dict[str, Any]:
        if (name, k, time) not in self._expected:
            file = bybit_random.portfolio_file(self.books[k], time, self.market, with_all=False)
            with unchecked():
                answer = reference.margin(file, SETS[name])
            account = answer["account"]
            if account["status"] != "unpriced":
                level = account["margin_level"]
                account |= {
                    **answer["detail"]["charges"],
                    "margin_level": np.inf if level is None else level,
                    "bindings": {unit["binding"] for unit in answer["units"].values()},
                }
            self._expected[name, k, time] = account
        return self._expected[name, k, time]

    def scale(self, k: int) -> float:
        """Gross size of everything in the account, USD, at the price it was drawn at."""
        book, table, coins = self.books[k], bybit_random.instruments(), bybit_random.COINS
        total = sum(abs(x) * coins.get(c, 1.0) for c, x in book.balances.items())
        for place, contracts, _ in (*book.legs, *book.orders):
            row = table.loc[place]
            in_coins = row["multiplier"] != 100.0
            price = coins[row["coin"]] if in_coins else 1.0
            total += abs(contracts) * row["multiplier"] * price
        return float(total)


@pytest.fixture(scope="module")
def scored() -> Scored:
    return Scored()


def pairs() -> list[tuple[int, int]]:
    rng = np.random.default_rng(5)
    times = [rng.choice(len(bybit_random.TIMES), TIMES_EACH, False) for _ in range(NUM_ACCOUNTS)]
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
@pytest.mark.parametrize("name", SETS)
def test_every_number_of_random_accounts(name: str, scored: Scored):
    problems = []
    unpriced = 0
    for k, time in pairs():
        answer, expected = scored.answer(name, k, time), scored.expected(name, k, time)
        if "unpriced" in (expected["status"], answer["status"]):
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
    """The sample is worth something: every charge is there, orders bind, statuses, settlements."""
    expected = [scored.expected("published", k, t) for k, t in pairs()]
    priced = [e for e in expected if e["status"] != "unpriced"]
    for name in CHARGES:
        assert sum(e[name] > 0 for e in priced) > 40, name
    assert {"ok", "warning", "liquidation", "bankrupt"} <= {e["status"] for e in priced}
    for binding in ("positions", "positions+buys", "positions+sells"):
        assert sum(binding in e["bindings"] for e in priced) > 40, binding
    assert scored.shapes == set(SHAPES)


SHARED = ("mmr", "imr", "delta", "cash_delta", "spot_in_use", "upl")
ACCOUNT = (*NUMBERS, "margin_level")


@pytest.mark.slow
@pytest.mark.parametrize("k", [4, 5, 10, 11, 22, 29])
def test_what_if_is_the_reference(k: int, scored: Scored):
    """Of the unit numbers too; its cells are totals, those of the reference options alone."""
    time = next(
        t
        for t in (0, 1, 5, 6)
        if scored.expected("published", k, t)["status"] not in ("unpriced", "no_requirement")
    )
    file = bybit_random.portfolio_file(scored.books[k], time, scored.market)
    found = what_if_margin(file, SETS["published"])
    with unchecked():
        expected = reference.margin(file, SETS["published"])
    room = OF_SCALE * scored.scale(k)
    assert expected["units"].keys() <= found["units"].keys()
    problems = []
    for coin, unit in expected["units"].items():
        answer = found["units"][coin]
        names = (*(name for name in CHARGES if name != "borrow"), *SHARED)
        problems += [wrong(f"{coin} {n}", answer[n], unit[n], room) for n in names]
        assert answer.get("binding", "positions") == unit["binding"]
        prices = expected["detail"]["units"][coin]["max_loss"]["prices"]
        for i, (cell, option) in enumerate(
            zip(answer["max_loss_cells"], unit["cells"], strict=True)
        ):
            assert (cell["price_move"], cell["vol"]) == (option["price_move"], option["vol"])
            total = option["pnl"] + prices[i // 3]["linear"] + prices[i // 3]["spot"]
            problems.append(wrong(f"{coin} cell {i}", cell["pnl"], total, room))
    for name in ACCOUNT:
        problems.append(wrong(name, found["account"][name], expected["account"][name], room))
    assert [text for text in problems if text is not None] == []
    assert found["account"]["status"] == expected["account"]["status"]
