import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backtest import cli
from backtest.bench import checks
from backtest.bench.book import LINEAR_LEGS, OPTION_LEGS, reference_book, reference_world
from backtest.bench.figure import save_figure
from backtest.bench.flat import flat_book
from backtest.bench.laps import Lap, exponent, laps
from backtest.bench.peers import needed
from backtest.bench.results import QUICK, TARGETS, Findings, Measure
from backtest.bench.runs import Runs
from backtest.bench.text import sheets
from backtest.cli.bench import chosen
from backtest.config import load_config
from backtest.errors import ConfigError, RunError
from backtest.liquidation_rules import rules_of_sets
from backtest.market.config import GeneratedConfig


def test_laps_take_turns():
    seen: list[str] = []
    found = laps({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 2, {"a": 10.0})
    assert "".join(seen) == "ababab"  # the first of each is not timed
    assert len(found["a"].seconds) == 2
    assert found["a"].rate == 10.0 / found["a"].median_s


def test_lap_statistics():
    lap = Lap((1.0, 2.0, 4.0), work=6.0)
    assert lap.median_s == 2.0
    assert lap.rate == 3.0
    assert lap.spread == (3.0 - 1.5) / 2.0
    both = lap.plus(Lap((1.0, 1.0, 1.0)))
    assert both.seconds == (2.0, 3.0, 5.0)
    assert both.work == 6.0


def test_exponent_of_growth():
    assert exponent([1.0, 10.0, 100.0], [2.0, 20.0, 200.0]) == pytest.approx(1.0)
    assert exponent([1.0, 10.0, 100.0], [1.0, 100.0, 1e4]) == pytest.approx(2.0)


def test_the_book_is_the_reference_book():
    world = reference_world()
    book = reference_book(world, 2_000)
    assert len(world.instruments) == 800
    assert len(set(world.instruments["coin"])) == 10
    is_option = world.terms.is_option[book.leg_instrument]
    options = np.bincount(book.leg_account[is_option], minlength=2_000)
    linear = np.bincount(book.leg_account[~is_option], minlength=2_000)
    assert set(options) == {0, OPTION_LEGS}
    assert set(linear) == {LINEAR_LEGS}
    assert 0.3 < (options > 0).mean() < 0.4
    again = reference_book(world, 2_000)
    for name, values in vars(book).items():
        np.testing.assert_array_equal(values, getattr(again, name))


def test_the_market_prices_everything():
    world = reference_world()
    window = world.window(3)
    assert np.isfinite(window.mark[:, 1:]).all()
    assert (window.mark[:, 1:] >= 0).all()
    assert (world.terms.expiry_s[1:] > window.times_us[-1] / 1e6).all()
    longer = world.window(30)
    assert (world.terms.expiry_s[1:] > longer.times_us[-1] / 1e6).all()


def test_flat_books_hold_every_leg_once():
    world = reference_world()
    snapshot = reference_book(world, 500)
    book = flat_book(snapshot, world)
    assert len(book.unit_start) == 501
    assert book.unit_start[-1] == len(book.unit_coin)
    assert book.leg_start[-1] == len(snapshot.leg_account)
    unit = np.repeat(np.arange(len(book.unit_coin)), np.diff(book.leg_start))
    account = np.repeat(np.arange(500), np.diff(book.unit_start))[unit]
    assert (world.terms.coin[book.leg_instrument] == book.unit_coin[unit]).all()
    total = np.bincount(account, weights=book.leg_contracts, minlength=500)
    expected = np.bincount(snapshot.leg_account, weights=snapshot.leg_contracts, minlength=500)
    np.testing.assert_allclose(total, expected, rtol=1e-12)


def test_disagreement_stops_the_benchmark():
    assert checks.agreed("a and b", 3, 1e-12).worst == 1e-12
    with pytest.raises(RunError, match=r"a and b: differ by 0\.1"):
        checks.agreed("a and b", 3, 0.1)
    with pytest.raises(RunError, match="nan"):
        checks.agreed("a and b", 3, float("nan"))


def test_differences_are_relative():
    def margins(level: float, charge: float) -> checks.Margins:
        one = np.asarray([1e6])
        return checks.Margins(np.asarray([level]), np.full((1, 9), charge), one, one)

    assert checks.largest_difference(margins(2.0, 5.0), margins(2.0, 5.0)) == 0.0
    assert checks.largest_difference(margins(np.inf, 5.0), margins(np.inf, 5.0)) == 0.0
    assert checks.largest_difference(margins(2.0, 5.0), margins(2.0, 6.0)) == pytest.approx(1e-6)
    assert checks.largest_difference(margins(2.2, 5.0), margins(2.0, 5.0)) == pytest.approx(0.1)
    assert np.isnan(checks.largest_difference(margins(np.nan, 5.0), margins(2.0, 5.0)))


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(ConfigError, match=r'pip install "pm-stress\[bench\]"'):
        needed("no_such_package_of_peers")


@pytest.mark.parametrize("only", ["P11", "P1,fast", "", ","])
def test_unknown_targets(only: str, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert cli.call(["bench", "--only", only, "--out", str(tmp_path / "out")]) == 2
    text = capsys.readouterr().err
    assert "--only" in text
    assert "P1, P2" in text
    assert not (tmp_path / "out").exists()


def test_targets_are_chosen_in_their_order():
    assert chosen("p2, P1,P2") == ("P2", "P1")
    assert set(QUICK) == set(TARGETS) - {"P5", "P6", "P7", "P9", "P10"}


def findings(*measures: Measure) -> Findings:
    machine: dict[str, Any] = {"cpu": "x"}
    return Findings(machine, {"accounts": 10}, measures=list(measures))


def test_targets_are_met_within_their_bounds():
    assert Measure("P2", 5.0).met is True
    assert Measure("P2", 4.9).met is False
    assert Measure("P4", 3.1).met is False
    assert Measure("P8", 1.04).met is True
    assert Measure("P8", 0.9).met is False
    assert Measure("P5", 1.0, also_met=False).met is False
    assert Measure("P9", None).met is None


def test_results_are_json_and_pictures():
    found = findings(Measure("P2", 0.5, more={"float64": 0.5}), Measure("P9", None))
    found.laps["ours float64"] = Lap((1.0, 1.1), 10.0)
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["measures"][0]["met"] is False
    assert record["measures"][1]["value"] is None
    assert record["laps"]["ours float64"]["work"] == 10.0
    assert record["targets"]["P1"]["high"] is None
    titles = [sheet.title for sheet in sheets(found)]
    assert titles == ["Targets", "Laps"]
    assert save_figure(found).startswith(b"\x89PNG")
    assert save_figure(findings()).startswith(b"\x89PNG")


@pytest.mark.parametrize("mode", ["measure", "simulate"])
def test_configurations_of_whole_runs_hold(mode: str, tmp_path: Path):
    file = Runs(tmp_path, 100, 1, lambda text: None).config(mode, 24, after_hours=90, mode=mode)
    config = load_config(file)
    assert len(rules_of_sets(config)) == (mode == "simulate")
    assert isinstance(config.market, GeneratedConfig)
    assert config.market.crash is not None
    falls = config.market.start + config.market.crash.after
    start, end = config.replay.start, config.replay.end
    assert start is not None
    assert end is not None
    assert start < falls < falls + config.market.crash.duration < end
