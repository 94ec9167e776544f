"""Paths of moved prices: toys of the backtesting rules (3.10), decay, bounds, moved markets."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backtest.dataset import Dataset
from backtest.impact import MICROS_PER_DAY, DailyVolatility, Traded, path_of, standing
from backtest.impact_rounds import STATE, Impact, Round, begun, net, save
from backtest.market_window import MarketSource, MarketWindow, micros, stamp
from backtest.model_records import Currencies
from backtest.moves import NOTHING, Moves, moved_market
from backtest.portfolio_at import Holdings, MarketView, portfolio_at
from backtest.reference.impact import moved
from tests.unit.backtest import tiny_world
from tests.unit.liquidation.liquidation_books import rules_of


HOUR = MICROS_PER_DAY // 24
GRID = np.arange(6) * HOUR
SHOCK = 0.05
NOTIONALS = (1e6, 2e6, 4e6)


def linear(per_usd: float, **changed: Any) -> dict[str, Any]:
    rules = rules_of(impact__model="linear", impact__tolerance=1e-12, **changed)
    rules["impact"]["linear"]["move_per_musd"] = {"default": per_usd * 1e6}
    return rules


def path(traded: Traded, rules: dict[str, Any], sigma: float = 0.0) -> Moves:
    return path_of(traded, GRID, rules, lambda time, coin: sigma)


def rounds(
    liquidated: Callable[[float], float], rules: dict[str, Any], count: int = 100
) -> tuple[list[float], bool]:
    """Drops of a shock of 5 % in the second hour, round by round; whether they stand still."""
    now, drops = NOTHING, [SHOCK]
    for _ in range(count):
        after = path({HOUR: {"BTC": -liquidated(drops[-1])}}, rules)
        now, change = standing(now, after, rules["impact"]["tolerance"])
        if change <= rules["impact"]["tolerance"]:
            return drops, True
        drops.append(SHOCK - now.by_key[HOUR, "BTC"])
    return drops, False


def test_uniform_thresholds_amplify_by_a_geometric_series() -> None:
    """Shock 5 %, 2e-9 a USD, 1e8 USD a unit of drop: 0.05 / (1 - 0.2) (toy 3.10)."""
    drops, stands = rounds(lambda drop: 1e8 * drop, linear(2e-9))
    assert drops[:6] == pytest.approx([0.05, 0.06, 0.062, 0.0624, 0.06248, 0.062496])
    assert drops[-1] == pytest.approx(0.0625)
    assert drops[-1] / SHOCK == pytest.approx(1.25)
    assert stands


def test_a_feedback_of_one_grows_to_the_bound() -> None:
    """Product of impact and density 1: the shock is added every round (toy 3.10)."""
    rules = linear(1e-8)
    drops, stands = rounds(lambda drop: 1e8 * drop, rules, count=8)
    assert drops == pytest.approx([SHOCK * (k + 1) for k in range(9)])
    assert not stands
    bounded, _ = rounds(lambda drop: 1e8 * drop, rules)
    assert bounded[-1] == SHOCK + rules["impact"]["max_move"]


@pytest.mark.parametrize(
    ("thresholds", "final"),
    [((0.05, 0.065, 0.09), 0.06), ((0.05, 0.059, 0.09), 0.08), ((0.05, 0.059, 0.079), 0.12)],
)
def test_three_longs(thresholds: tuple[float, ...], final: float) -> None:
    """Notionals 1, 2 and 4 million, 1e-8 a USD, shock 5 % (toy 3.10)."""

    def sold(drop: float) -> float:
        return sum(n for n, at in zip(NOTIONALS, thresholds, strict=True) if drop >= at)

    drops, stands = rounds(sold, linear(1e-8))
    assert drops[-1] == pytest.approx(final)
    assert stands


def test_what_is_left_decays_and_adds_up() -> None:
    """Half-life an hour: 1 % and then half of it and -2 %, half of that, and so on."""
    rules = linear(1e-8, impact__half_life_days=1.0 / 24.0)
    found = path({HOUR: {"BTC": 1e6}, 2 * HOUR: {"BTC": -2e6, "ETH": 1e6}}, rules)
    btc = [found.by_key.get((k * HOUR, "BTC"), 0.0) for k in range(5)]
    assert btc == pytest.approx([0.0, 0.01, -0.015, -0.0075, -0.00375])
    assert found.by_key[5 * HOUR, "ETH"] == pytest.approx(0.01 / 8)


def test_small_moves_end_and_a_later_trade_begins_again() -> None:
    rules = linear(1e-8, impact__half_life_days=1.0 / 24.0)
    rules["impact"]["tolerance"] = 0.004
    found = path({0: {"BTC": -1e6}, 4 * HOUR: {"BTC": -1e6}}, rules)
    assert found.by_key == pytest.approx(
        {
            (0, "BTC"): -0.01,
            (HOUR, "BTC"): -0.005,
            (4 * HOUR, "BTC"): -0.01,
            (5 * HOUR, "BTC"): -0.005,
        }
    )
    assert path({HOUR: {"BTC": -3e5}}, rules).by_key == {}


def test_moves_have_a_bound_together() -> None:
    rules = linear(1e-8, impact__half_life_days=1.0, impact__max_move=0.1)
    found = path({k * HOUR: {"BTC": -9e6} for k in range(3)}, rules)
    assert found.frac.min() == -0.1


def test_volatility_thins_the_book() -> None:
    """115 million: 0.75 % of a usual day, 1.8 % at twice the volatility; root of it (reference)."""
    rules = rules_of(impact__model="depth", impact__half_life_days=0.0)
    for sigma, move in ((0.03, -0.0075), (0.06, -0.018)):
        assert path({HOUR: {"BTC": -1.15e8}}, rules, sigma).frac == pytest.approx([move])
    rules["impact"]["model"] = "square_root"
    assert path({HOUR: {"BTC": 2e8}}, rules, 0.04).frac == pytest.approx([0.004])


def test_a_path_that_stands_still_is_the_same_one() -> None:
    """Changes within the tolerance count as none, however many rounds they take."""
    old = Moves.of({(0, "BTC"): 0.1, (1, "BTC"): 0.2})
    new = Moves.of({(0, "BTC"): 0.1 + 1e-10, (1, "BTC"): 0.3, (2, "ETH"): 1e-10})
    kept, change = standing(old, new, 1e-9)
    assert change == pytest.approx(0.1)
    assert kept.by_key == {(0, "BTC"): 0.1, (1, "BTC"): 0.3}
    assert kept.name(0) == old.name(0) != ""
    assert kept.name(1) != old.name(1)
    assert standing(old, old, 0.0)[1] == 0.0


def test_the_name_of_a_path_knows_no_later_move() -> None:
    one = Moves.of({(5, "BTC"): 0.1})
    other = Moves.of({(5, "BTC"): 0.1, (7, "DOGE"): 0.2})
    assert one.name(4) == NOTHING.name(9) == ""
    assert one.name(6) == other.name(6)
    assert one.name(7) != other.name(7)


def test_trades_add_up_exactly_in_any_order() -> None:
    time = tiny_world.START
    rows: list[dict[str, Any]] = [
        {"time": time, "sold_coins": ["BTC"], "sold_delta_usd": [usd]}
        for usd in (1e16, 1.0, -1e16, 3.0)
    ]
    assert net(rows) == net(rows[::-1]) == {int(micros([time])[0]): {"BTC": 4.0}}
    assert net([]) == {}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> MarketSource:
    dataset = Dataset.open(tiny_world.write(tmp_path_factory.mktemp("moves") / "world"))
    instruments = tiny_world.instruments()
    return MarketSource(
        dataset=dataset,
        instruments=instruments,
        all_instruments=instruments,
        currencies=Currencies(["BTC", "ETH"]),
        snapshot_us=int(micros([tiny_world.START])[0]),
        max_staleness_us=HOUR,
        with_funding=False,
    )


def views(source: MarketSource, moves: Moves) -> tuple[MarketWindow, MarketWindow]:
    market = source.window(micros(tiny_world.TIMES))
    return market, moved_market(market, moves, source.instruments, source.currencies)


@pytest.mark.parametrize("moves_index", [False, True])
def test_a_moved_market_is_that_of_the_reference(source: MarketSource, moves_index: bool) -> None:
    """Marks, forwards, options and index of every contract at every time, some expired."""
    times = micros(tiny_world.TIMES).tolist()
    moves = Moves.of(
        {(times[2], "BTC"): -0.1, (times[2], "ETH"): 0.03, (times[5], "BTC"): 0.02},
        moves_index=moves_index,
    )
    before, after = views(source, moves)
    names = source.currencies.names
    count = len(source.instruments)
    held = Holdings(np.arange(1, count + 1), np.ones(count), np.ones(count), {"USDT": 1.0}, {})
    rules = rules_of(impact__moves_index=moves_index)
    for k, time in enumerate(times):
        given = portfolio_at(held, MarketView(before, source.instruments, names), k)
        found = portfolio_at(held, MarketView(after, source.instruments, names), k)
        chosen = {coin: moves.by_key.get((time, coin), 0.0) for coin in ("BTC", "ETH")}
        wanted = moved(given, chosen, rules)
        for row, theirs in zip(found["positions"], wanted["positions"], strict=True):
            for key in ("mark_price", "forward", "mark_iv", "entry_price"):
                assert (row[key] is None) == (theirs[key] is None)
                assert theirs[key] is None or row[key] == pytest.approx(theirs[key], rel=1e-13)
        assert found["index_usd"] == pytest.approx(wanted["index_usd"])


def test_what_does_not_move_keeps_its_bits(source: MarketSource) -> None:
    times = micros(tiny_world.TIMES)
    before, after = views(source, NOTHING)
    assert after is before
    before, after = views(source, Moves.of({(int(times[2]), "ETH"): 0.1}))
    assert after.mark[2, 2] == before.mark[2, 2] * 1.1
    after.mark[2, 2] = before.mark[2, 2]
    for name, values in before.__dict__.items():
        assert np.array_equal(values, getattr(after, name), equal_nan=values.dtype.kind == "f")


def test_daily_volatility_is_that_of_the_last_day(source: MarketSource) -> None:
    """Hourly returns of the index; the first time knows of none, a part of a day is scaled up."""
    times = micros(tiny_world.TIMES)
    found = DailyVolatility(source.dataset, ["BTC", "FOO"], int(times[0]), int(times[-1]), 1.0)
    returns = np.diff(np.log(tiny_world.BTC))
    for k in (1, 3, 8):
        wanted = math.sqrt(float((returns[:k] ** 2).sum()) * 24 / k)
        assert found(int(times[k]), "BTC") == pytest.approx(wanted)
    short = DailyVolatility(source.dataset, ["BTC"], int(times[0]), int(times[-1]), 2 / 24)
    assert short(int(times[8]), "BTC") == pytest.approx(math.sqrt((returns[6:] ** 2).sum() * 12))
    assert found(int(times[0]), "BTC") == found(int(times[3]), "FOO") == 0.0
    assert found.index_usd(int(times[3]) + 1, "BTC") == tiny_world.BTC[3]
    assert math.isnan(found.index_usd(int(times[0]) - 1, "BTC"))
    assert stamp(times[0]) == pd.Timestamp(tiny_world.START)


def test_a_damaged_path_is_begun_anew(tmp_path: Path) -> None:
    """What a crash left of the path is never believed."""
    first = begun(tmp_path, 2)
    assert (first.number, first.rows, first.moves) == (0, [], [NOTHING, NOTHING])
    moves = Moves.of({(5, "BTC"): -0.1}, moves_index=True)
    save(tmp_path, Round(3, [moves], [{"round": 2}]))
    again = begun(tmp_path, 1)
    assert (again.number, again.rows) == (3, [{"round": 2}])
    assert again.moves[0].by_key == moves.by_key
    assert again.moves[0].moves_index
    file = tmp_path / STATE
    file.write_bytes(file.read_bytes().replace(b"-0.1", b"-0.2"))
    assert begun(tmp_path, 1).number == 0


def test_prices_that_go_in_a_circle_end_the_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down, up, down ...: after the second round every later one is known."""
    down, up = (Moves.of({(10, "BTC"): move}, moves_index=True) for move in (-0.1, -0.05))
    following = iter([down, up, down])
    monkeypatch.setattr("backtest.impact_rounds.path_of", lambda *_: next(following))
    monkeypatch.setattr("backtest.impact_rounds.liquidated_rows", lambda *_: [])
    impact = object.__new__(Impact)
    impact.__dict__ |= {
        "config": SimpleNamespace(parameter_sets=[SimpleNamespace(name="mine")]),
        "plan": SimpleNamespace(times_us=np.asarray([10, 20])),
        "out": tmp_path,
        "numbers": {0: {"impact": {"max_rounds": 50.0, "tolerance": 1e-6}}},
        "volatility": {0: None},
    }
    replayed, said = list[Sequence[Moves]](), list[str]()

    def replay(moves: Sequence[Moves]) -> list[Any]:
        replayed.append(moves)
        return []

    _, last = impact.replay(replay, said.append)
    assert [each[0].by_key for each in replayed] == [{}, down.by_key, up.by_key]
    assert [row["goes_in_a_circle"] for row in last.rows] == [False, False, True]
    assert [row["stands_still"] for row in last.rows] == [False, False, False]
    assert "would go on for ever" in said[-1]
    # What an interrupted run finds of the rounds before.
    assert begun(tmp_path, 1).seen["mine"] == [m[0].name(20) for m in replayed[:2]]
