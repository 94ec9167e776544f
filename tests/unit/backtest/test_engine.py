"""The engine on random accounts: padded times, precision, sums, window after window."""

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

from backtest.batching import Batch, batches
from backtest.engine import Engine, initial_state, over_times, stacked
from backtest.market_window import MarketWindow
from backtest.model_records import contract_records
from backtest.okx_records import okx_parameters
from backtest.tile_programs import COUNT_COLUMNS, SUM_UNIT_USD, sum_columns
from backtest.what_if import terms_of
from backtest.window_records import TileResult, WindowTables
from kernels.episodes import STATUS_MASK
from kernels.models import okx
from kernels.records import OPTION
from kernels.status import STATUS_NAMES
from tests.okx_books import merged_numbers
from tests.unit.kernels import random_books


pytestmark = pytest.mark.slow
AXIS = random_books.currencies()
TIMES = np.arange(random_books.NUM_TIMES)
SUM_COLUMNS = sum_columns(okx.MODEL)
UNDERFLOW_USD = 1e-20
"""Scenario profits of less than 1e-38 USD a contract, as of hopeless options, are 0 in float32."""


def engine(precision: str = "float64", tile: int = 512) -> Engine:
    random_books.use_cache()
    return Engine(precision, tile, num_segments=3, devices=[jax.local_devices()[0]])


def tables(of: Engine) -> WindowTables:
    contracts = contract_records(random_books.instruments(), AXIS)
    params = over_times(okx_parameters(merged_numbers(), AXIS), random_books.NUM_TIMES)
    (priced,) = of.price(random_books.markets(), contracts, [params])
    return priced


@pytest.fixture(scope="module")
def batch() -> Batch:
    """The class of most random accounts, with and without options."""
    terms = terms_of(contract_records(random_books.instruments(), AXIS))
    found = batches(random_books.snapshot(random_books.accounts(330, seed=11)), terms, AXIS)
    return max(found, key=lambda b: len(b.accounts))


def replay(of: Engine, batch: Batch, times: np.ndarray = TIMES, state: Any = None) -> TileResult:
    size = len(batch.accounts)
    state = initial_state(size, okx.MODEL) if state is None else state
    return of.replay(batch, state, tables(of), np.arange(size) % 3, times)


@pytest.fixture(scope="module")
def whole(batch: Batch) -> TileResult:
    return replay(engine(), batch)


def assert_same(one: Any, other: Any):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sums_are_those_of_the_accounts(whole: TileResult):
    """Counts by status and money by segment, to half a unit an account; unpriced left out."""
    codes = whole.codes & STATUS_MASK
    segment = np.arange(codes.shape[1]) % 3
    priced = codes != STATUS_NAMES.index("unpriced")
    for k in range(3):
        mine = segment == k
        for name in STATUS_NAMES[:7]:
            count = (codes[:, mine] == STATUS_NAMES.index(name)).sum(axis=1)
            np.testing.assert_array_equal(whole.sums[:, k, SUM_COLUMNS.index(name)], count)
        for name in ("equity_usd", "total_mmr"):
            values = np.where(priced, getattr(whole.margin, name), 0.0)[:, mine].sum(axis=1)
            found = whole.sums[:, k, SUM_COLUMNS.index(name)] * SUM_UNIT_USD
            room = SUM_UNIT_USD * mine.sum() + 1e-12 * np.abs(values)
            assert (np.abs(found - values) <= room).all(), name
    assert len(COUNT_COLUMNS) < len(SUM_COLUMNS)


def test_padded_times_change_nothing(batch: Batch, whole: TileResult):
    """Times with index -1 are computed and forgotten."""
    some = np.where(TIMES < 20, TIMES, -1)
    padded = replay(engine(), batch, some)
    np.testing.assert_array_equal(padded.codes[:20], whole.codes[:20])
    scored = padded.state.scored + padded.state.unpriced
    np.testing.assert_array_equal(scored, np.full(len(scored), 20))
    assert padded.state.worst_time.max() < 20


def test_a_state_goes_on_from_window_to_window(batch: Batch, whole: TileResult):
    first = replay(engine(), batch, np.where(TIMES < 12, TIMES, -1))
    second = replay(engine(), batch, np.where(TIMES >= 12, TIMES, -1), first.state)
    assert_same(second.state, whole.state)
    np.testing.assert_array_equal(second.codes[12:], whole.codes[12:])


def test_tier_tables_may_change_inside_a_window(batch: Batch, whole: TileResult):
    """Times under either tables are those of a replay under these alone; states go on in order."""
    numbers = merged_numbers()
    dearer = copy.deepcopy(numbers)
    for tiers in dearer["mr8"]["tiers"].values():
        tiers["mmr"] = [2.0 * x for x in tiers["mmr"]]
    records = [okx_parameters(n, AXIS) for n in (numbers, dearer)]
    is_late = np.isin(TIMES, [7, 8, *range(20, random_books.NUM_TIMES)])
    params = stacked([records[int(k)] for k in is_late])
    priced = replace(tables(engine()), params=params)
    alone = replace(priced, params=over_times(records[1], len(TIMES)))
    assert [int(mask.sum()) for mask in priced.eras] == [7, 2, 11, len(TIMES) - 20]

    size = len(batch.accounts)
    start = batch, initial_state(size, okx.MODEL)
    mixed, late = (
        engine().replay(*start, numbers, np.arange(size) % 3, TIMES) for numbers in (priced, alone)
    )
    for name in ("margin_level", "total_mmr", "status"):
        ours, first, second = (getattr(r.margin, name) for r in (mixed, whole, late))
        np.testing.assert_array_equal(ours, np.where(is_late[:, None], second, first))
    mmr = mixed.margin.total_mmr[is_late]
    assert (mmr != whole.margin.total_mmr[is_late]).any()
    levels = np.where(np.isnan(mixed.margin.margin_level), np.inf, mixed.margin.margin_level)
    np.testing.assert_array_equal(mixed.state.worst_level, levels.min(axis=0))
    chosen = np.where(is_late[:, None, None], late.sums, whole.sums)
    money = SUM_COLUMNS.index("total_mmr")
    np.testing.assert_array_equal(mixed.sums[..., money], chosen[..., money])


def test_the_state_given_is_left_alone(batch: Batch):
    state = initial_state(len(batch.accounts), okx.MODEL)
    before = jax.tree.map(np.copy, state)
    replay(engine(), batch, state=state)
    assert_same(state, before)


def float32_room(batch: Batch) -> dict[str, np.ndarray]:
    """What float32 scenario columns may change the charges of each account by, [time, account].

    A scenario sum over ``k`` legs is off by at most ``(k + 2) 2^-23 sum |n_i pnl_i|``: each term
    carries one rounding of the table, one of the contracts, one of the product, and at most
    ``k - 1`` of the additions, each half of 2^-23. A charge is a worst loss over some columns, so
    it moves by no more than the worst of these columns; a unit's requirement by no more than its
    charges together; an account adds up its units.
    """
    table = np.moveaxis(np.asarray(tables(engine()).tables.scenarios), -1, 0)
    (instrument,) = np.asarray(batch.book.option_instrument)
    size = np.abs(np.asarray(batch.book.option_contracts)[0])
    terms = 2 + (instrument > 0).sum(axis=1)
    columns = {
        "mr1": okx.MR1_CELLS,
        "mr2": slice(okx.MR2_CELL, okx.MR2_CELL + 1),
        "mr5": okx.MR5_CELLS,
        "mr6": okx.MR6_CELLS,
    }
    room = {name: np.zeros((len(TIMES), instrument.shape[-1])) for name in columns}
    for time in TIMES:
        scale = np.einsum("ula,ulac->uac", size, np.abs(table[time][instrument]))
        error = terms[..., None] * 2.0**-23 * scale
        for name, which in columns.items():
            factor = merged_numbers()["mr6"]["factor"] if name == "mr6" else 1.0
            room[name][time] = factor * error[..., which].max(axis=-1).sum(axis=0)
    return room | {"derivatives_mmr": sum(room.values(), np.zeros(()))}


def test_float32_changes_the_scenario_columns_alone(batch: Batch, whole: TileResult):
    """Equity and everything linear keep float64; the rest moves within the rounding of its terms.

    MR1, MR2, MR5, MR6 and the requirement: ``(legs + 2) 2^-23 sum |contracts * scenario profit|``
    of the worst column of each charge, added over charges and units (``float32_room``).
    """
    single = replay(engine("float32"), batch)
    for name in ("equity_usd", "adjusted_equity", "gross_notional_usd"):
        assert_same(getattr(single.margin, name), getattr(whole.margin, name))
    for name in ("mr3", "mr4", "mr7", "mr8", "mr9"):
        assert_same(single.margin.charges[name], whole.margin.charges[name])
    for name, room in float32_room(batch).items():
        exact, found = (
            r.margin.derivatives_mmr if name == "derivatives_mmr" else r.margin.charges[name]
            for r in (whole, single)
        )
        assert found.dtype == np.float64
        priced = np.isfinite(exact)
        assert (np.abs(found - exact) <= room + UNDERFLOW_USD)[priced].all(), name
        assert (np.abs(found - exact) > UNDERFLOW_USD)[priced].any(), name


def test_tables_of_a_precision(batch: Batch):
    assert tables(engine("float32")).tables.scenarios.dtype == np.float32
    assert tables(engine()).tables.scenarios.dtype == np.float64
    assert tables(engine("float32")).tables.features.dtype == np.float64
    assert len(batch.accounts) > 50


@pytest.mark.parametrize(
    ("accounts", "times", "tile"),
    [
        (10, 24, 8_192),
        (8_193, 24, 16_384),
        (50_000, 24, 65_536),
        (10**6, 24, 131_072),
        (10**6, 168, 16_384),
        (10**6, 10**6, 8_192),
    ],
)
def test_accelerators_take_large_tiles(batch: Batch, accounts: int, times: int, tile: int):
    card: Any = SimpleNamespace(platform="gpu")
    large = replace(batch, accounts=np.arange(accounts))
    assert Engine(devices=[card]).tile_size(large, times) == tile


def test_prices_are_the_same_in_blocks_of_any_size():
    # A block in which nothing is alive is not computed: its numbers must be what they would be.
    contracts = contract_records(random_books.instruments(), AXIS)
    market = random_books.markets()
    ends_s = np.where(contracts.kind == OPTION, market.times_us[0] / 1e6, contracts.expiry_s)
    expired = eqx.tree_at(lambda c: c.expiry_s, contracts, ends_s)
    params = over_times(okx_parameters(merged_numbers(), AXIS), random_books.NUM_TIMES)
    found = []
    for size in (1, 8, 256):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("backtest.engine.BLOCK_INSTRUMENTS", size)
            found.append(
                [engine().price(market, each, [params])[0].tables for each in (contracts, expired)]
            )
    options = np.flatnonzero(contracts.kind == OPTION)
    assert np.count_nonzero(found[0][0].scenarios[options])
    assert not np.count_nonzero(found[0][1].scenarios[options])
    for other in found[1:]:
        for mine, its in zip(jax.tree.leaves(found[0]), jax.tree.leaves(other), strict=True):
            # Another program rounds otherwise: by the last bits of a coin's price.
            np.testing.assert_allclose(np.asarray(mine), np.asarray(its), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9, 12, 23, 168])
def test_prices_are_the_same_in_windows_of_any_length(count: int):
    contracts, market = contract_records(random_books.instruments(), AXIS), random_books.markets()
    record = okx_parameters(merged_numbers(), AXIS)

    def priced(times: np.ndarray) -> Any:
        window = MarketWindow(**{k: v[times] for k, v in market.__dict__.items()})
        return engine().price(window, contracts, [over_times(record, len(times))])[0].tables

    whole = priced(np.arange(random_books.NUM_TIMES))
    times = (5 + np.arange(count)) % random_books.NUM_TIMES
    for mine, its in zip(jax.tree.leaves(whole), jax.tree.leaves(priced(times)), strict=True):
        np.testing.assert_array_equal(np.asarray(mine)[..., times], np.asarray(its))
