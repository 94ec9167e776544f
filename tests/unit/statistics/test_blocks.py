"""Intervals from time blocks: known breach probabilities, dependence between accounts, extremes."""

import logging

import numpy as np
import pytest

from backtest.errors import ConfigError
from backtest.statistics.blocks import (
    Plan,
    account_intervals,
    block_lengths,
    panel_intervals,
    rate_difference,
    resampled,
    system_intervals,
)
from backtest.statistics.coverage import clopper_pearson, kupiec
from backtest.statistics.findings import BacktestKind, Verdict
from backtest.statistics.independence import independence, transitions
from backtest.statistics.power import markov_breaches
from backtest.statistics.records import Sequences


LOG = logging.getLogger(__name__)
KIND = BacktestKind.LIQUIDATION_OUTCOME
REPETITIONS, TIMES, RATE = 1_000, 2_000, 0.05
PLAN = Plan(resamples=400)


def covered(low: np.ndarray, high: np.ndarray) -> float:
    return float(((low <= RATE) & (high >= RATE)).mean())


@pytest.mark.parametrize(
    ("name", "after_breach"), [("iid", None), ("clustered", 0.3), ("long clusters", 0.5)]
)
def test_intervals_cover_a_known_breach_probability(name: str, after_breach: float | None):
    """Shown with ``--log-cli-level=INFO``: how often intervals cover and tests reject."""
    rng = np.random.default_rng(7)
    hit = markov_breaches(REPETITIONS, TIMES, RATE, rng, after_breach)
    sequences = Sequences.of(KIND, RATE, hit)
    found = account_intervals(sequences, PLAN)
    exact = clopper_pearson(sequences.counts())
    rates = {
        "blocks": covered(found.low, found.high),
        "Clopper-Pearson": covered(exact.low, exact.high),
        "POF rejects": float(kupiec(sequences.counts()).rejected.mean()),
        "independence rejects": float(independence(transitions(sequences)).rejected.mean()),
        "median n_eff": float(np.median(found.effective_observations)),
    }
    LOG.info("%s: %s", name, rates)
    assert 0.93 <= rates["blocks"] <= 0.97, rates
    if after_breach is None:
        assert 0.93 <= rates["Clopper-Pearson"] <= 0.97, rates
        assert 0.02 <= rates["POF rejects"] <= 0.07, rates
        assert rates["independence rejects"] <= 0.08, rates
    else:  # who takes clustered breaches for independent ones is wrong far too often
        assert rates["Clopper-Pearson"] < 0.9, rates
        assert rates["POF rejects"] > 0.1, rates
        assert rates["independence rejects"] > 0.9, rates
        theory = TIMES * (1 - (after_breach - RATE) / (1 - RATE))
        theory /= 1 + (after_breach - RATE) / (1 - RATE)
        assert rates["median n_eff"] == pytest.approx(theory, rel=0.2)


def test_accounts_that_breach_together_are_one_witness():
    rng = np.random.default_rng(0)
    shared = rng.random(TIMES) < RATE
    together = Sequences.of(KIND, RATE, np.tile(shared, (40, 1)))
    apart = Sequences.of(KIND, RATE, rng.random((40, TIMES)) < RATE)
    one, many = system_intervals(together, PLAN), system_intervals(apart, PLAN)
    assert one.design_effect[0] == pytest.approx(40.0, rel=0.25)
    assert one.effective_observations[0] == pytest.approx(TIMES, rel=0.25)
    assert many.design_effect[0] < 1.6
    assert (one.high - one.low)[0] > 5 * (many.high - many.low)[0]


def test_nothing_that_varies_still_gives_an_honest_interval():
    hit = np.zeros((4, 300), dtype=bool)
    hit[1] = True
    observed = np.ones((1, 4, 300), dtype=bool)
    observed[0, 2] = False
    observed[0, 3, 5:] = False
    found = account_intervals(Sequences(KIND, 0.01, hit[None], observed), PLAN)
    assert found.low[0, 0] == 0.0
    assert found.high[0, 0] == pytest.approx(1 - 0.025 ** (1 / 300))
    assert (found.low[0, 1], found.high[0, 1]) == (pytest.approx(0.025 ** (1 / 300)), 1.0)
    assert np.isnan(found.value[0, 2])
    assert (found.low[0, 2], found.high[0, 2]) == (0.0, 1.0)
    verdicts = [Verdict.LOW_POWER, Verdict.TOO_MANY, Verdict.NO_OBSERVATIONS, Verdict.FEW_TIMES]
    assert found.verdict[0].tolist() == verdicts
    assert found.words[0, 2] == "insufficient data: no observations"


def test_accounts_without_a_breach_count_as_one_each_time():
    system = system_intervals(Sequences.of(KIND, 0.01, np.zeros((1_000, 300), dtype=bool)), PLAN)
    assert system.effective_observations[0] == 300
    assert system.high[0] == pytest.approx(1 - 0.025 ** (1 / 300))


def test_resampling_keeps_totals_and_pairs():
    rows = np.stack([np.ones(50), np.arange(50.0)])
    ones, same = resampled((rows, rows), 5, PLAN)
    assert (ones[0] == 50).all()
    assert (ones == same).all()
    assert ones[1].mean() == pytest.approx(rows[1].sum(), rel=0.05)


def test_results_do_not_depend_on_who_else_is_in_the_batch():
    hit = markov_breaches(6, 500, 0.1, np.random.default_rng(2), 0.4)
    together = account_intervals(Sequences.of(KIND, 0.1, hit), PLAN)
    for i in range(6):
        alone = account_intervals(Sequences.of(KIND, 0.1, hit[i]), PLAN)
        assert alone.low[0, 0] == pytest.approx(together.low[0, i])
        assert alone.p_value[0, 0] == pytest.approx(together.p_value[0, i])


def test_blocks_are_no_shorter_than_the_overlap_and_no_longer_than_a_tenth():
    rng = np.random.default_rng(0)
    series = np.cumsum(rng.standard_normal((3, 400)), axis=1)
    assert (block_lengths(series) > 20).all()
    assert (block_lengths(series) <= 40).all()
    noise = rng.standard_normal((3, 400))
    assert (block_lengths(noise, Plan(min_block=10.0)) >= 10).all()
    assert (block_lengths(np.zeros((2, 400))) == 1).all()
    assert (block_lengths(noise, Plan(block=24)) == 24).all()
    with pytest.raises(ConfigError, match="at least 1 time"):
        Plan(block=-1)


def test_the_p_value_agrees_with_the_interval():
    hit = markov_breaches(200, 500, 0.07, np.random.default_rng(5), 0.3)
    found = account_intervals(Sequences.of(KIND, 0.05, hit), PLAN)
    inside = (found.low <= 0.05) & (found.high >= 0.05)
    assert (inside == (found.p_value >= 0.05)).all()


def test_differences_of_sets_are_paired():
    rng = np.random.default_rng(3)
    base = markov_breaches(30, 800, 0.05, rng, 0.5)
    more = base | (rng.random(base.shape) < 0.01)
    hit = np.stack([base, more])
    sequences = Sequences(KIND, 0.05, hit, np.ones_like(hit))
    found = rate_difference(sequences, 0, 1, PLAN)
    assert found.value == pytest.approx(more.mean() - base.mean())
    assert found.low < found.value < found.high
    assert found.verdict is Verdict.FIRST_IS_BETTER
    assert rate_difference(sequences, 1, 0, PLAN).verdict is Verdict.SECOND_IS_BETTER
    assert rate_difference(sequences, 0, 0, PLAN).verdict is Verdict.NO_DIFFERENCE
    alone = system_intervals(sequences, PLAN)
    assert found.std_error < 0.5 * float(alone.std_error.max())


def test_groups_from_counts_are_the_system_of_their_accounts():
    hit = np.random.default_rng(1).random((20, 400)) < 0.1
    sequences = Sequences.of(KIND, 0.1, hit)
    system = system_intervals(sequences, PLAN)
    counted = panel_intervals(KIND, 0.1, hit.sum(axis=0)[None], np.full((1, 400), 20), PLAN)
    assert counted.low[0] == pytest.approx(system.low[0])
    assert counted.observations[0] == 8_000
