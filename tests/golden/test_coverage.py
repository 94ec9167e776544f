"""Published results of coverage tests. Sources: `tests/golden/README.md`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from backtest.statistics.binomial import likelihood_ratio
from backtest.statistics.coverage import acceptance_region, binomial, kupiec
from backtest.statistics.findings import BacktestKind
from backtest.statistics.independence import (
    Transitions,
    conditional_coverage,
    independence,
    transitions,
)
from backtest.statistics.power import rejection
from backtest.statistics.records import Counts, Sequences
from backtest.statistics.severity import Shape, z2_critical
from backtest.statistics.timing import (
    between_failures,
    first_failure,
    waiting_ratio,
    weibull_duration,
)
from backtest.statistics.traffic_light import (
    basel_multiplier,
    basel_plus_factor,
    bounds,
    simulated_bounds,
    simulated_counts,
    traffic_light,
)


NUMBERS: dict[str, Any] = json.loads((Path(__file__).parent / "coverage.json").read_text())
KIND = BacktestKind.CORE_MODEL
PRINTED = 1e-4


def counted(row: dict[str, Any]) -> Counts:
    return Counts.of(KIND, row["probability"], row["breaches"], row["observations"])


def table(row: dict[str, Any]) -> Transitions:
    return Transitions(counted(row), *(np.array([n]) for n in row["transitions"]))


def sequence(row: dict[str, Any]) -> Sequences:
    hit = np.zeros(row["observations"], dtype=bool)
    hit[np.array(row["days"]) - 1] = True
    return Sequences.of(KIND, row["probability"], hit)


@pytest.mark.parametrize("name", ["bin", "pof", "cci", "cc"])
def test_matlab_statistic_and_p_value(name: str):
    row = NUMBERS["matlab"]
    finding = {
        "bin": lambda: binomial(counted(row)),
        "pof": lambda: kupiec(counted(row)),
        "cci": lambda: independence(table(row)),
        "cc": lambda: conditional_coverage(table(row)),
    }[name]()
    assert finding.statistic[0] == pytest.approx(row[name][0], rel=PRINTED)
    assert finding.p_value[0] == pytest.approx(row[name][1], rel=PRINTED)
    if name in row["unrounded"]:
        assert finding.statistic[0] == pytest.approx(row["unrounded"][name], rel=2e-9)


def test_matlab_first_failure():
    row = NUMBERS["matlab"]
    hit = np.zeros(row["observations"], dtype=bool)
    hit[row["first_failure"] - 1] = True
    finding = first_failure(Sequences.of(KIND, row["probability"], hit))
    assert finding.statistic[0, 0] == pytest.approx(row["unrounded"]["tuff"], rel=1e-9)
    assert finding.p_value[0, 0] == pytest.approx(row["tuff"][1], rel=PRINTED)


@pytest.mark.parametrize("name", ["tbfi", "tbf"])
def test_matlab_time_between_failures_degrees(name: str):
    statistic, degrees, p = NUMBERS["matlab"][name]
    assert special.chdtrc(degrees, statistic) == pytest.approx(p, rel=PRINTED)
    assert degrees == NUMBERS["matlab"]["breaches"] + (name == "tbf")


def test_matlab_mixed_test_adds_the_proportion_of_failures():
    row = NUMBERS["matlab"]
    assert row["tbfi"][0] + row["unrounded"]["pof"] == pytest.approx(row["tbf"][0], abs=1e-3)


def test_matlab_traffic_light():
    cumulative, type_one, zone = NUMBERS["matlab"]["tl"]
    light = traffic_light(counted(NUMBERS["matlab"]))
    assert light.cumulative[0] == pytest.approx(cumulative, rel=PRINTED)
    assert light.type_one[0] == pytest.approx(type_one, rel=PRINTED)
    assert light.words[0] == zone


def test_jorion_year_1998():
    row = NUMBERS["jorion"]["jpm_1998"]
    found = [
        kupiec(counted(row)).statistic[0],
        independence(table(row)).statistic[0],
        conditional_coverage(table(row)).statistic[0],
    ]
    assert found == pytest.approx(row["computed"], rel=1e-8)
    assert np.round(found, 2).tolist() == row["book"]


def test_jorion_chapter_6():
    row = NUMBERS["jorion"]["chapter_6"]
    assert kupiec(counted(row)).statistic[0] == pytest.approx(row["uc"], rel=1e-9)
    assert independence(table(row)).statistic[0] == pytest.approx(row["ind"], rel=1e-9)


def test_dowd_exact_upper_tail():
    row = NUMBERS["dowd"]
    p_exact = binomial(counted(row), "upper").p_exact
    assert p_exact is not None
    assert p_exact[0] == pytest.approx(row["p_value"], rel=1e-8)


@pytest.mark.parametrize("probability", NUMBERS["kupiec_region"]["rows"])
def test_kupiec_non_rejection_region(probability: str):
    region = NUMBERS["kupiec_region"]
    cells = region["rows"][probability]
    low, high = acceptance_region(
        Counts.of(KIND, float(probability), np.zeros(len(cells)), region["observations"])
    )
    assert (high + 1).tolist() == [b for _, b in cells]
    # where the published cell has no lower end, the formula still rejects zero breaches
    assert (low - 1).tolist() == [0 if a is None else a for a, _ in cells]


def test_zero_breaches_are_rejected_from_some_length_on():
    region = NUMBERS["kupiec_region"]
    for n, expected in region["zero_breaches"].items():
        statistic = kupiec(Counts.of(KIND, 0.01, 0, int(n))).statistic[0]
        assert statistic == pytest.approx(expected, abs=5e-4)
    for p, first in region["first_rejection_of_zero"].items():
        n = np.array([first - 1, first])
        ratio = likelihood_ratio(0 * n, n, np.full(2, float(p)))
        assert (ratio > special.chdtri(1, 0.05)).tolist() == [False, True]


def test_basel_cumulative_probabilities_and_zones():
    row = NUMBERS["basel"]
    light = traffic_light(Counts.of(KIND, row["probability"], np.arange(11), row["observations"]))
    assert light.cumulative == pytest.approx(row["cumulative"], abs=5.1e-5)
    assert light.words.tolist() == ["green"] * 5 + ["yellow"] * 5 + ["red"]


def test_basel_factors():
    row = NUMBERS["basel"]
    assert basel_plus_factor(np.arange(11)).tolist() == row["plus_1996"]
    assert basel_multiplier(np.arange(11)).tolist() == row["multiplier_mar"]


def test_first_yellow_and_red_for_other_lengths_and_levels():
    rows = np.array(NUMBERS["basel"]["first_yellow_red"])
    ends = bounds(rows[:, 0].astype(int), rows[:, 1])
    assert (ends.max_green + 1).tolist() == rows[:, 2].tolist()
    assert (ends.max_yellow + 1).tolist() == rows[:, 3].tolist()


def test_basel_power():
    row = NUMBERS["basel"]
    region = rejection("yellow", np.array([row["observations"]]), np.array([row["probability"]]))
    for true, accepted in row["at_most_4"].items():
        power = region.power(np.array([float(true)]))[0]
        assert 1.0 - power == pytest.approx(accepted, abs=5.1e-6)


@pytest.mark.slow
def test_overlapping_windows():
    row = NUMBERS["overlap"]
    ends = simulated_bounds(tuple(row["observations"]), row["probability"], row["horizon"])
    assert ends.max_green.tolist() == row["green"]
    assert np.abs(ends.max_yellow - row["amber"]).max() <= 1


@pytest.mark.slow
def test_overlapping_windows_of_three_portfolios():
    # 19 and 20 green breaches are both cumulatively at 95.0 % within the noise of the simulation
    row = NUMBERS["overlap"]["three_portfolios"]
    rho = row["correlation"]
    correlation = ((1.0, rho, rho), (rho, 1.0, rho), (rho, rho, 1.0))
    sizes = (row["observations"],)
    paths = 100_000
    counts = simulated_counts(sizes, 0.01, 10, correlation, paths=paths)
    cumulative = np.cumsum(counts[0]) / paths
    assert cumulative[row["green"]] < 0.95
    assert cumulative[row["green"] + 1] == pytest.approx(0.95, abs=4 * np.sqrt(0.05 * 0.95 / paths))
    assert cumulative[row["amber"]] < 0.9999 + 4 * 1e-2 / np.sqrt(paths)
    assert cumulative[row["amber"] + 2] > 0.9999 - 4 * 1e-2 / np.sqrt(paths)


def test_windows_that_do_not_overlap_have_the_binomial_bounds():
    ends = simulated_bounds((250,), 0.01, 1, paths=200_000)
    assert [ends.max_green[0], ends.max_yellow[0]] == NUMBERS["overlap"]["independent_250"]


@pytest.mark.parametrize("row", NUMBERS["r_packages"], ids=lambda row: row["id"])
def test_r_packages_transitions_and_likelihood_ratios(row: dict[str, Any]):
    found = transitions(sequence(row))
    counts = [int(n[0, 0]) for n in (found.n00, found.n01, found.n10, found.n11)]
    assert counts == row["transitions"]
    assert kupiec(found.counts).statistic[0, 0] == pytest.approx(row["uc"], rel=1e-9)
    assert independence(found).statistic[0, 0] == pytest.approx(row["ind"], rel=1e-9)
    assert conditional_coverage(found).statistic[0, 0] == pytest.approx(row["cc"], rel=1e-9)


@pytest.mark.parametrize("row", NUMBERS["r_packages"], ids=lambda row: row["id"])
def test_r_packages_waiting_times(row: dict[str, Any]):
    sequences = sequence(row)
    assert first_failure(sequences).statistic[0, 0] == pytest.approx(row["tuff"], rel=1e-8)
    between = between_failures(sequences)
    assert between.statistic[0, 0] == pytest.approx(row["tbfi"], rel=1e-9)
    assert between.degrees[0, 0] == len(row["days"])
    first = waiting_ratio(np.array([row["days"][0]]), np.array([row["probability"]]))
    assert first[0] == pytest.approx(row["tuff"], rel=1e-8)


@pytest.mark.parametrize("row", NUMBERS["r_packages"], ids=lambda row: row["id"])
def test_r_packages_weibull_duration(row: dict[str, Any]):
    found = weibull_duration(sequence(row))
    assert found.shape[0, 0] == pytest.approx(row["shape"], rel=2e-6)
    assert bool(found.at_bound[0, 0]) == (row["id"] == "B")
    assert found.finding.statistic[0, 0] == pytest.approx(row["duration"], rel=1e-9)
    p = found.finding.p_value[0, 0]
    assert p == pytest.approx(row["p_duration"], rel=row["p_tolerance"])


@pytest.mark.parametrize(("name", "shape"), [("normal", Shape()), ("t3", Shape(3.0))])
def test_critical_value_of_z2(name: str, shape: Shape):
    row = NUMBERS["severity"]
    assert z2_critical(row["times"], row["alpha"], shape=shape) == pytest.approx(
        row[name], abs=0.01
    )


@pytest.mark.parametrize("row", NUMBERS["vartests"]["mid_p"])
def test_mid_p_values_of_another_package(row: list[float]):
    counts = Counts.of(KIND, row[2], int(row[0]), int(row[1]))
    for side, expected in zip(("upper", "lower", "two"), row[3:], strict=True):
        p_mid = binomial(counts, side).p_mid
        assert p_mid is not None
        assert p_mid[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("row", NUMBERS["vartests"]["power"])
def test_power_of_another_package(row: list[float]):
    n, p = np.array([int(row[0])]), np.array([row[1]])
    region = rejection("binomial, upper tail", n, p)
    assert region.high[0] == row[2]
    found = [region.power(np.array([q]))[0] for q in (row[1], 0.02, 0.03)]
    assert found == pytest.approx(row[3:], rel=1e-9)
