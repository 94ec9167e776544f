"""Kernels of the Bybit model: published numbers, single rules, parameter records, large batches."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from backtest.batching import Batch, batches
from backtest.bybit_records import bybit_parameters
from backtest.engine import Engine, over_times
from backtest.errors import ConfigError
from backtest.market_window import MarketWindow
from backtest.model_records import Currencies, contract_records
from backtest.parameter_records import has_split_units, parameter_record
from backtest.what_if import margin, terms_of
from kernels import account
from kernels.breakeven import last_roots
from kernels.features import COIN_VALUE, VALUE, contract_features
from kernels.models import bybit, bybit_contracts, model_of
from kernels.records import AccountMargin, Book, Contract, Quote, Table, UnitMargin
from kernels.stages import together
from tests.bybit_books import future, numbers_of, portfolio, stable_option, swap
from tests.okx_books import merged_numbers, option
from tests.unit.kernels import bybit_random
from tests.unit.kernels.random_books import use_cache


B1: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "golden" / "bybit_uta.json").read_text()
)["B1"]
TOLERANCE = B1["tolerance"]
MOVES = list(B1["grid"])
HEDGE = -0.001000062225
"""The spot hedge before it was cut to eight decimals (note of the vector)."""
NUMBERS = numbers_of()
AXIS = bybit_random.currencies()


@pytest.fixture(scope="module", autouse=True)
def cached() -> None:
    use_cache()


def b1() -> dict[str, Any]:
    """A perpetual, a long call and a spot debt of one coin."""
    perpetual, call = B1["positions"].values()
    expiry = datetime.fromtimestamp(B1["expiry_s"], tz=UTC).isoformat()
    quoted = {"mark_iv": B1["mark_iv_solved"], "forward": B1["forward_solved"]}
    return portfolio(
        swap("BTC-USDT-SWAP", perpetual["size"], perpetual["mark"]),
        stable_option("BTC-USDT-25SEP26-80000-C", expiry, call["size"], call["mark"], **quoted),
        time=datetime.fromtimestamp(B1["now_ms"] / 1000.0, tz=UTC).isoformat(),
        index_usd={"BTC": B1["index_btc_solved"], **B1["fx"]},
        balances={"BTC": HEDGE, "USDT": 100_000.0},
    )


@pytest.fixture(scope="module")
def b1_answer() -> dict[str, Any]:
    return margin(b1(), NUMBERS)


def b1_table() -> Table:
    """The shared table of a perpetual and the call of B1."""
    rows = pd.DataFrame([instrument for instrument in b1()["instruments"]])
    rows["expiry"] = pd.to_datetime(rows["expiry"], utc=True)
    axis = Currencies(["BTC"])
    usd = np.ones((1, len(axis.names)))
    usd[0, axis.position["BTC"]] = B1["index_btc_solved"]
    usd[0, axis.position["USDT"]] = B1["fx"]["USDT"]
    missing = np.full((1, 3), np.nan)
    marks = [np.nan, *(position["mark"] for position in B1["positions"].values())]
    window = MarketWindow(
        times_us=np.asarray([B1["now_ms"] * 1000]),
        currency_usd=usd,
        mark=np.asarray([marks]),
        forward_usd=np.asarray([[np.nan, np.nan, B1["forward_solved"]]]),
        iv=np.asarray([[np.nan, np.nan, B1["mark_iv_solved"]]]),
        settlement=missing,
        settlement_fx=missing,
        funding=np.zeros((1, 3)),
    )
    params = over_times(bybit_parameters(NUMBERS, axis), 1)
    (priced,) = Engine().price(window, contract_records(rows, axis), [params])
    return jax.tree.map(lambda x: np.asarray(x[..., 0]), priced.tables)


def place_of(move: str) -> int:
    moves = [0.02 * step for step in range(-5, 6)]
    return int(np.argmin(np.abs(np.asarray(moves) - float(move))))


def test_b1_scenarios():
    table, (perpetual, call) = b1_table(), B1["positions"].values()
    assert np.all(table.scenarios[:2] == 0.0)
    cells = call["size"] * table.scenarios[2].reshape(11, 3)
    linear_usd = perpetual["size"] * table.columns[1, bybit_contracts.LINEAR_USD]
    for move in MOVES:
        expected = B1["grid"][move]
        down_same_up = expected["option_up_same_down"][::-1]
        np.testing.assert_allclose(
            cells[place_of(move)], down_same_up, rtol=0, atol=TOLERANCE["grid_cells"]
        )
        assert linear_usd * float(move) == pytest.approx(
            expected["perp"], abs=TOLERANCE["grid_cells"]
        )
    delta = table.columns[2, bybit_contracts.DELTA]
    assert delta == pytest.approx(B1["option_delta"], abs=1e-6)


def test_b1_margin(b1_answer: dict[str, Any]):
    unit, expected = b1_answer["units"]["BTC"], B1["contingency"]
    assert unit["mmr"] == pytest.approx(B1["mm"], rel=TOLERANCE["mm_relative"])
    assert unit["imr"] == pytest.approx(B1["im"], rel=TOLERANCE["mm_relative"])
    assert unit["imr"] == pytest.approx(1.2 * unit["mmr"], rel=1e-15)
    assert unit["spot_in_use"] == HEDGE
    assert unit["short_options"] == unit["vega_spread"] == unit["stablecoin_spread"] == 0.0
    assert unit["delta_spread"] == pytest.approx(expected["delta_spread"], rel=1e-5)
    assert unit["perpetual_futures"] == pytest.approx(expected["perpetual_and_futures"], rel=1e-6)


@pytest.mark.parametrize("move", MOVES)
def test_b1_sums_of_a_price(move: str, b1_answer: dict[str, Any]):
    cells = b1_answer["units"]["BTC"]["max_loss_cells"]
    at_price = [c["pnl"] for c in cells if c["price_move"] == pytest.approx(float(move))]
    assert len(at_price) == 3
    assert min(at_price) == pytest.approx(B1["grid"][move]["all"], abs=TOLERANCE["all"])


def test_the_model_declares_itself():
    record = parameter_record(NUMBERS, AXIS)
    model = model_of(record)
    assert model is bybit.MODEL
    assert model.name == NUMBERS["model"]
    assert not has_split_units(NUMBERS)
    assert list(model.charges) == list(bybit.CHARGES)
    assert model.borrow_charge in model.charges
    assert record.price_moves.shape == (len(AXIS.names), bybit_contracts.NUM_PRICES)


def test_numbers_of_coins_and_of_all_others():
    record = bybit_parameters(NUMBERS, AXIS)
    place = AXIS.position
    assert record.price_moves[place["BTC"], -1] == 0.10
    assert record.price_moves[place["LTC"], 0] == -0.20
    hedging = {name for name in AXIS.names if record.hedges[place[name]]}
    assert hedging == {"BTC", "ETH", "SOL"}
    assert float(record.basis_cap[place["BTC"]]) == pytest.approx(0.94 * 0.85)
    assert float(record.basis_cap[place["LTC"]]) == pytest.approx(0.94 * 0.80)
    assert float(record.basis_factor[place["SOL"]]) == 0.6
    assert float(record.expiry_window_s) == pytest.approx(1800.0)
    assert float(record.account.borrow_fee_rate) == 0.0


def test_switched_off_spot_hedging_holds_for_every_coin():
    numbers = numbers_of()
    numbers["spot_hedge"]["enabled"] = False
    assert not np.any(bybit_parameters(numbers, AXIS).hedges)


def test_another_number_of_prices_is_refused():
    numbers = numbers_of()
    numbers["grid"]["price_steps"] = [-1.0, 0.0, 1.0]
    with pytest.raises(ConfigError, match=r"grid\.price_steps: 3 prices, this version"):
        bybit_parameters(numbers, AXIS)


def test_other_quote_currencies_are_refused():
    numbers = numbers_of()
    numbers["quote_currencies"] = ["USDT"]
    with pytest.raises(ConfigError, match="quote_currencies"):
        bybit_parameters(numbers, AXIS)


def scalar(value: float) -> jax.Array:
    return jnp.asarray(value, jnp.float64)


@pytest.mark.parametrize(
    ("left_s", "window_s", "expected"),
    [
        (900.0, 1800.0, 0.5),
        (1800.0, 1800.0, 1.0),
        (1e6, 1800.0, 1.0),
        (0.0, 1800.0, 0.0),
        (5.0, 0.0, 1.0),
    ],
)
def test_price_shock_before_an_expiry(left_s: float, window_s: float, expected: float):
    """15 % becomes 7.5 % 900 seconds before."""
    params = bybit_parameters(NUMBERS, AXIS)
    params = eqx.tree_at(lambda p: p.expiry_window_s, params, scalar(window_s))
    assert float(bybit_contracts.expiry_share(scalar(left_s), params)) == expected


@pytest.mark.parametrize("days", [0.01, 1.0, 1.5, 3.0, 30.0, 186.0, 400.25])
def test_volatility_by_days_rounded_up(days: float):
    params = bybit_parameters(NUMBERS, AXIS)
    down, same, up = bybit_contracts.shocked_vols(scalar(0.5), scalar(days * 86_400.0), params)
    size = (30.0 / max(1.0, np.ceil(days))) ** 0.3
    assert float(same) == 0.5
    assert float(up) == pytest.approx(0.5 * (1 + 0.24 * size), rel=1e-15)
    assert float(down) == pytest.approx(0.5 * (1 - 0.20 * size), rel=1e-15)


def test_whole_days_are_counted_whole():
    """A compiled division by a constant must not lose a day."""
    days = np.arange(1.0, 4000.0)
    params = bybit_parameters(NUMBERS, AXIS)

    def first(left_s: jax.Array) -> jax.Array:
        return bybit_contracts.shocked_vols(scalar(1.0), left_s, params)[2]

    found = jax.jit(jax.vmap(first))(days * 86_400.0)
    np.testing.assert_allclose(found, 1 + 0.24 * (30.0 / days) ** 0.3, rtol=1e-14)
    floored = jax.jit(jax.vmap(lambda x: x // bybit_contracts.SECONDS_PER_DAY))(days * 86_400.0)
    np.testing.assert_array_equal(floored, days)


def test_calendar_sides():
    """2 coins long at 30 days, 1 short at 10, 1 short at 40: 2 over 5 days."""
    sides: bybit.Sides = (scalar(0.0),) * 4
    assert float(bybit.hedged_days(sides)) == 0.0
    for amount, days in ((2.0, 30.0), (-1.0, 10.0), (-1.0, 40.0)):
        sides = bybit.added_bucket(sides, scalar(amount), scalar(days))
    assert float(bybit.hedged_days(sides)) == 2.0 * 5.0


def test_multipliers_are_a_closed_form():
    units = {name: jnp.asarray([10.0, 5.0]) for name in bybit.CHARGES}
    units |= {"vega_spread": jnp.zeros(2), "borrow": jnp.zeros(2)}
    params = bybit_parameters(NUMBERS, AXIS)

    def multipliers(available_usd: float) -> dict[str, float]:
        pieces = bybit.pieces(units, scalar(25.0), scalar(available_usd), params)
        found = last_roots(pieces, dict.fromkeys(pieces, scalar(7.0)))
        return {name: float(x) for name, x in found.items()}

    found = multipliers(130.0)
    assert found["max_loss"] == pytest.approx((130.0 - 85.0) / 15.0)
    assert found["borrow"] == pytest.approx((130.0 - 75.0) / 25.0)
    # Without such a charge nothing lowers the multiplier of earlier times.
    assert found["vega_spread"] == 7.0
    assert multipliers(80.0)["max_loss"] == 0.0
    assert set(multipliers(1e6).values()) == set(multipliers(np.nan).values()) == {7.0}


def contract(**terms: Any) -> Contract:
    known = {"kind": 4, "is_inverse": False, "multiplier": 2.0, "strike_usd": 60_000.0}
    known |= {"call_sign": 1.0, "expiry_s": 100.0, "coin": 4, "settle": 0} | terms
    return Contract(**{name: jnp.asarray(value) for name, value in known.items()})


@pytest.mark.parametrize(
    ("settle", "fx", "sign", "expected"),
    [
        (0, 0.5, 1.0, 2.0 * (200_000.0 - 60_000.0)),
        (0, 2.0, -1.0, 2.0 * (60_000.0 - 50_000.0)),
        (1, 1.0, -1.0, 0.0),
        (4, 100_000.0, 1.0, 2.0 * 40_000.0 / 100_000.0),
    ],
)
def test_settlement_of_options(settle: int, fx: float, sign: float, expected: float):
    """The index is 100,000 USD; a strike is in the quote currency that the option settles in."""
    unknown = {"mark": np.nan, "forward_usd": np.nan, "iv": np.nan, "funding": 0.0}
    known = unknown | {"settlement": 100_000.0, "settlement_fx": fx}
    quote = Quote(**{name: scalar(value) for name, value in known.items()})
    usd = jnp.ones(5)
    terms = contract(settle=np.int32(settle), call_sign=sign)
    found = np.asarray(contract_features(terms, quote, scalar(100.0), usd))
    value = found[COIN_VALUE] if settle == 4 else found[VALUE][settle]
    assert value == pytest.approx(expected, rel=1e-15)


def test_futures_beside_options_enter_once():
    """A future of a unit with options is an expiring leg; its loss is not counted twice."""
    later = "2025-06-27T08:00:00Z"
    index = {"BTC": 60_000.0, "USDT": 1.0}
    held = future("BTC-USDT-250627", later, 2.0, 60_000.0)
    far = option("BTC-USD-250627-900000-C", later, 1e-9, 0.0, mark_iv=0.1, forward=60_000.0)
    units = [
        margin(portfolio(*legs, index_usd=index, balances={"USDT": 1e5}), NUMBERS)["units"]["BTC"]
        for legs in ((held,), (held, far))
    ]
    assert units[0]["max_loss"] == pytest.approx(0.1 * 2.0 * 60_000.0)
    assert units[1]["max_loss"] == pytest.approx(units[0]["max_loss"], rel=1e-9)
    for unit in units:
        assert len(unit["max_loss_cells"]) == bybit_contracts.NUM_SCENARIOS


def test_both_models_score_one_portfolio():
    """The what-if calculator takes the model from the numbers alone."""
    book = portfolio(
        swap("BTC-USDT-SWAP", 1.0, 60_000.0),
        index_usd={"BTC": 60_000.0, "USDT": 1.0},
        balances={"USDT": 20_000.0},
    )
    found = [margin(book, numbers)["account"] for numbers in (merged_numbers(), NUMBERS)]
    assert list(found[1]["theta"]) == list(bybit.CHARGES)
    assert found[1]["total_mmr"] == pytest.approx(6_018.0)
    assert found[0]["total_mmr"] != found[1]["total_mmr"]


@pytest.fixture(scope="module")
def priced() -> tuple[Table, bybit.BybitParameters]:
    contracts = contract_records(bybit_random.instruments(), AXIS)
    params = bybit_parameters(NUMBERS, AXIS)
    engine = Engine(devices=[jax.local_devices()[0]])
    market = bybit_random.markets()
    over = over_times(params, len(market.times_us))
    (tables,) = engine.price(market, contracts, [over])
    return jax.tree.map(lambda x: x[..., 0], tables.tables), params


def small(book: bybit_random.RandomAccount) -> bybit_random.RandomAccount:
    """Two coins and two legs a coin, so that all fall into one class with and one without."""
    rows = bybit_random.instruments()
    legs: list[tuple[int, float, float]] = []
    seen: dict[str, int] = {}
    for leg in book.legs:
        coin = rows.loc[leg[0], "coin"]
        if coin in ("BTC", "SOL") and seen.get(coin, 0) < 2:
            seen[coin] = seen.get(coin, 0) + 1
            legs.append(leg)
    keep = {c: x for c, x in book.balances.items() if c not in ("ETH", "LTC")}
    limits = {c: x for c, x in book.limits.items() if c in keep}
    return bybit_random.RandomAccount(legs, [], keep, limits, True)


def batch_of(with_options: bool) -> Batch:
    """The most frequent class of small accounts with or without options."""
    books = [small(b) for b in bybit_random.accounts(120, seed=21)]
    terms = terms_of(contract_records(bybit_random.instruments(), AXIS))
    built = batches(bybit_random.snapshot(books), terms, AXIS)
    mine = [b for b in built if (b.shape.option_units > 0) == with_options]
    return max(mine, key=lambda b: len(b.accounts))


def all_margins(
    book: Book, table: Table, params: bybit.BybitParameters
) -> tuple[UnitMargin, AccountMargin, dict[str, jax.Array]]:
    exposures = account.batch_exposures(book, table, params)
    units = account.batch_units(exposures, book, table, params)
    balances = account.batch_balances(exposures, book, table, params)
    totals = account.batch_totals(units, balances, book, table, params)
    free = jnp.full_like(totals.margin_level, jnp.inf)
    theta = account.batch_theta(together, units, totals, params, dict.fromkeys(bybit.CHARGES, free))
    return units, totals, theta


@pytest.mark.parametrize(
    ("with_options", "size"), [(False, 16_385), (False, 32_769), (False, 40_000), (True, 40_000)]
)
@pytest.mark.slow
def test_an_account_is_the_same_in_a_batch_of_any_size(
    with_options: bool, size: int, priced: tuple[Table, bybit.BybitParameters]
):
    batch = batch_of(with_options)
    count = len(batch.accounts)
    assert count >= 10
    repeat = np.arange(size) % count
    run = jax.jit(all_margins)
    few = run(jax.tree.map(jnp.asarray, batch.book), *priced)
    many = run(jax.tree.map(lambda x: jnp.asarray(x[..., repeat]), batch.book), *priced)
    for one, all_of_them in zip(jax.tree.leaves(few), jax.tree.leaves(many), strict=True):
        assert one.dtype == all_of_them.dtype
        expected, found = np.asarray(one)[..., repeat], np.asarray(all_of_them)
        scale = np.nanmax(np.where(np.isfinite(one), np.abs(one), 0.0))
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-15 * scale)
