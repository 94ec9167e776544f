"""Events of one account through time: what counts as an episode, and what a state keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import episodes, status
from kernels.account import account_status
from kernels.episodes import BANKRUPTED, RECOVERED, STARTED, STATUS_MASK, WARNED, AccountState
from kernels.models.okx import CHARGES
from kernels.records import AccountMargin
from tests.unit.kernels import random_books
from tests.unit.kernels.kernel_cases import params


NAN = float("nan")
RULES = params().account


@pytest.fixture(scope="module", autouse=True)
def compilation_cache() -> None:
    random_books.use_cache()


def fresh(shape: tuple[int, ...] = ()) -> AccountState:
    def full(value: float, dtype: jnp.dtype) -> jax.Array:
        return jnp.full(shape, value, dtype)

    def nine(value: float) -> dict[str, jax.Array]:
        return {name: full(value, jnp.float64) for name in CHARGES}

    flags = {k: full(0, jnp.bool_) for k in ("is_warned", "in_episode", "is_bankrupt")}
    counts = ("episodes", "scored", "unpriced", "liquidation_times")
    integers = {k: full(0, jnp.int32) for k in counts}
    integers |= {k: full(-1, jnp.int32) for k in ("first_time", "worst_time")}
    numbers = ("worst_adjusted_equity", "worst_equity_usd", "worst_total_mmr")
    floats = {k: full(NAN, jnp.float64) for k in numbers}
    floats |= {k: full(np.inf, jnp.float64) for k in ("worst_level", "lowest_equity_usd")}
    return AccountState(**flags, **integers, **floats, worst_charges=nine(NAN), theta=nine(np.inf))


def margins(levels: np.ndarray, equity: np.ndarray | None = None) -> AccountMargin:
    """Margins whose level is given: requirement 1,000, equity the level unless given."""
    level = jnp.asarray(levels, jnp.float64)
    mmr = jnp.full_like(level, 1000.0)
    held = level * 1000.0 + 1e5 if equity is None else jnp.asarray(equity, jnp.float64)
    charges = {name: mmr * k for k, name in enumerate(CHARGES)}
    code = jax.vmap(account_status, in_axes=(0, 0, 0, None))(
        level.reshape(-1), held.reshape(-1), mmr.reshape(-1), RULES
    ).reshape(level.shape)
    return AccountMargin(
        charges=charges,
        derivatives_mmr=mmr,
        total_mmr=mmr,
        total_imr=mmr,
        borrow_imr=mmr,
        borrow_fee=mmr,
        order_cost=mmr,
        equity_usd=held,
        adjusted_equity=level * mmr,
        margin_level=level,
        gross_notional_usd=mmr,
        status=code,
    )


@jax.jit
def walk(state: AccountState, path: AccountMargin) -> tuple[AccountState, jax.Array]:
    """Times first in every field of the path."""

    def one(state: AccountState, now: tuple[AccountMargin, jax.Array]):
        return episodes.advance(state, *now, RULES)

    times = jnp.arange(path.margin_level.shape[0], dtype=jnp.int32)
    return jax.lax.scan(one, state, (path, times))


def events(
    levels: list[float], equity: list[float] | None = None
) -> tuple[AccountState, list[str]]:
    """State after the path, and for each time the events and the status as a short text."""
    size = 16
    padded = np.concatenate([levels, np.full(size - len(levels), NAN)])
    held = None if equity is None else np.concatenate([equity, np.full(size - len(equity), 1e6)])
    state, codes = walk(fresh(), margins(padded, held))
    names = {WARNED: "W", STARTED: "L", RECOVERED: "R", BANKRUPTED: "B"}
    texts = ["".join(t for bit, t in names.items() if int(c) & bit) for c in codes[: len(levels)]]
    return state, texts


def test_an_account_hovering_at_the_trigger_counts_once():
    levels = [2.0, 0.99, 1.01, 1.0, 1.05, 0.98, 1.1, 0.9]
    state, texts = events(levels)
    assert texts == ["W", "L", "", "", "", "", "", ""]
    assert int(state.episodes) == 1
    assert int(state.liquidation_times) == 4
    assert int(state.first_time) == 1


def test_recovery_needs_more_than_the_safe_level():
    state, texts = events([1.0, 1.1, np.nextafter(1.1, 2.0), 0.5])
    assert texts == ["L", "", "R", "L"]
    assert int(state.episodes) == 2
    assert int(state.first_time) == 0


def test_exactly_the_trigger_is_a_liquidation_and_just_above_is_not():
    assert events([1.0])[1] == ["L"]
    assert events([np.nextafter(1.0, 2.0)])[1] == ["W"]


def test_a_warning_comes_once_until_the_level_is_back_above():
    assert events([3.0, 2.99, 2.5, 3.0, 2.9])[1] == ["", "W", "", "", "W"]


def test_no_warning_when_the_level_falls_straight_to_the_trigger():
    assert events([5.0, 0.9, 2.0, 2.0])[1] == ["", "L", "R", ""]


def test_bankruptcy_is_told_once_an_episode():
    levels = [0.5, -0.1, -0.2, 0.2, -0.1, 1.2, -0.3]
    equity = [50.0, -1.0, -2.0, 5.0, -3.0, 1e6, -9.0]
    state, texts = events(levels, equity)
    assert texts == ["L", "B", "", "", "", "R", "LB"]
    assert float(state.lowest_equity_usd) == -9.0


def test_an_unpriced_time_counts_and_changes_nothing_else():
    held, gap = [0.9, 2.0, 0.8], [0.9, NAN, 2.0, NAN, 0.8]
    one, texts = events(held)
    other, with_gap = events(gap)
    assert [t for t in with_gap if t] == [t for t in texts if t] == ["L", "R", "L"]
    for name in ("episodes", "scored", "worst_level", "lowest_equity_usd", "in_episode"):
        assert getattr(one, name) == getattr(other, name), name
    assert int(other.unpriced) - int(one.unpriced) == 0  # both padded to 16 times
    assert int(other.scored) == 3


def test_worst_time_is_the_first_of_equal_levels_and_keeps_its_numbers():
    state, _ = events([2.0, 0.7, 0.7, 0.9])
    assert int(state.worst_time) == 1
    assert float(state.worst_level) == 0.7
    assert float(state.worst_adjusted_equity) == pytest.approx(700.0)
    assert float(state.worst_charges["mr3"]) == 2000.0


def test_no_requirement_is_neither_warning_nor_worst():
    state, texts = events([np.inf, np.inf])
    assert texts == ["", ""]
    assert int(state.worst_time) == -1
    assert int(state.scored) == 2


@pytest.mark.parametrize("size", [16_385, 32_769, 40_000])
def test_many_accounts_at_once_are_the_rules_in_numpy(size: int):
    rng = np.random.default_rng(size)
    levels = rng.choice([0.5, 1.0, 1.05, 1.2, 2.0, 3.0, 4.0, NAN], (16, size))
    equity = np.where(rng.random(levels.shape) < 0.05, -1.0, 1e6)
    equity = np.where(np.isnan(levels), NAN, equity)
    step = jax.jit(jax.vmap(episodes.advance, in_axes=(0, 0, None, None)))
    state, mine = fresh((size,)), numpy_state(size)
    for time in range(len(levels)):
        now = margins(levels[time], equity[time])
        state, code = step(state, now, jnp.asarray(time, jnp.int32), RULES)
        expected = numpy_advance(mine, levels[time], equity[time], time)
        np.testing.assert_array_equal(np.asarray(code) & ~STATUS_MASK, expected)
    for name in mine:
        np.testing.assert_array_equal(getattr(state, name), mine[name], err_msg=name)
    assert state.episodes.dtype == jnp.int32
    assert state.worst_level.dtype == jnp.float64


def numpy_state(size: int) -> dict[str, np.ndarray]:
    flags = {k: np.zeros(size, bool) for k in ("is_warned", "in_episode", "is_bankrupt")}
    counts = ("episodes", "scored", "unpriced", "liquidation_times")
    integers = {k: np.zeros(size, int) for k in counts}
    return (
        flags | integers | {"first_time": np.full(size, -1), "worst_level": np.full(size, np.inf)}
    )


def numpy_advance(  # noqa: C901 (the rules in one place, as one would write them down)
    s: dict[str, np.ndarray], level: np.ndarray, equity: np.ndarray, time: int
):
    """The event rules account by account, as one would write them down."""
    codes = np.zeros(len(level), int)
    for k in range(len(level)):
        if np.isnan(level[k]):
            s["unpriced"][k] += 1
            continue
        s["scored"][k] += 1
        s["worst_level"][k] = min(s["worst_level"][k], level[k])
        was_in_episode = s["in_episode"][k]
        if level[k] <= 1.0:
            s["liquidation_times"][k] += 1
            if not was_in_episode:
                codes[k] += STARTED
                s["episodes"][k] += 1
                s["in_episode"][k] = True
                if s["first_time"][k] < 0:
                    s["first_time"][k] = time
        elif level[k] < 3.0 and not s["is_warned"][k] and not was_in_episode:
            codes[k] += WARNED
        recovered = was_in_episode and level[k] > 1.1
        if equity[k] < 0 and not s["is_bankrupt"][k]:
            codes[k] += BANKRUPTED
            s["is_bankrupt"][k] = True
        if recovered:
            codes[k] += RECOVERED
            s["in_episode"][k] = s["is_bankrupt"][k] = False
        s["is_warned"][k] = level[k] < 3.0
    return codes


@pytest.mark.parametrize(
    ("level", "equity", "requirement", "name"),
    [
        (5.0, 20_000.0, 10.0, "ok"),
        (5.0, 9_999.0, 10.0, "ineligible"),
        (2.9, 9_999.0, 10.0, "warning"),
        (np.inf, 100.0, 0.0, "no_requirement"),
        (1.0, 100.0, 10.0, "liquidation"),
        (-1.0, -100.0, 10.0, "bankrupt"),
        (np.inf, -100.0, 0.0, "bankrupt"),
        (NAN, 100.0, 10.0, "unpriced"),
    ],
)
def test_status_is_the_most_serious_that_applies(
    level: float, equity: float, requirement: float, name: str
):
    at, usd, required = (jnp.asarray(x, jnp.float64) for x in (level, equity, requirement))
    assert status.STATUS_NAMES[int(account_status(at, usd, required, RULES))] == name
