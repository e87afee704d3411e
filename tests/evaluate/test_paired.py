"""Paired tests keep their level, paired intervals cover, and what can be detected is said truly."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from cotune.evaluate.stats.paired import (
    discordant_rows,
    mcnemar,
    paired_difference,
    paired_intervals,
    paired_proportion_interval,
    sign_flip_test,
    tango_limits,
)
from cotune.evaluate.tried import Comparison


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_two_sided_binomial_test(first_only, second_only):
    p = mcnemar(first_only, second_only)
    if first_only + second_only:
        assert p == pytest.approx(stats.binomtest(first_only, first_only + second_only).pvalue)
    else:
        assert p == 1.0
    assert p == mcnemar(second_only, first_only)


def test_discordant_rows_are_counted_by_side():
    assert discordant_rows([1, 1, 0, 0, 1], [1, 0, 1, 0, 0]) == (2, 1)
    with pytest.raises(ValueError, match="same rows"):
        discordant_rows([1, 0], [1])


def test_sign_flip_enumerates_few_rows():
    differences = np.array([0.3, -0.1, 0.5, 0.2, 0.0, 0.4])
    moving = differences[differences != 0]
    sums = [abs(np.dot(signs, moving)) for signs in itertools.product((-1, 1), repeat=len(moving))]
    expected = np.mean(np.array(sums) >= abs(moving.sum()) - 1e-12)
    assert sign_flip_test(differences, seed=0) == pytest.approx(expected)
    assert sign_flip_test(np.zeros(8), seed=0) == 1.0


def test_sign_flip_of_zero_one_scores_is_mcnemar():
    differences = np.array([1.0] * 30 + [-1.0] * 14 + [0.0] * 100)
    assert sign_flip_test(differences, seed=3, draws=40_000) == pytest.approx(mcnemar(14, 30), abs=0.004)
    assert sign_flip_test(differences, seed=3) == sign_flip_test(differences, seed=3)


def test_sign_flip_keeps_its_level_and_finds_what_is_there():
    generator = np.random.default_rng(1)
    null = [sign_flip_test(generator.standard_t(3, 40), seed=run, draws=400) for run in range(800)]
    assert np.mean(np.array(null) <= 0.05) <= 0.065
    shifted = [sign_flip_test(generator.normal(0.6, 1, 40), seed=run, draws=400) for run in range(100)]
    assert np.mean(np.array(shifted) <= 0.05) >= 0.9


def test_flipping_groups_together_keeps_the_level_where_flipping_rows_does_not():
    generator, together, apart = np.random.default_rng(2), 0, 0
    ids = np.repeat(np.arange(25), 6)
    for run in range(300):
        differences = np.repeat(generator.normal(0, 1, 25), 6) + generator.normal(0, 0.5, 150)
        together += sign_flip_test(differences, seed=run, draws=300, groups=ids) <= 0.05
        apart += sign_flip_test(differences, seed=run, draws=300) <= 0.05
    assert together / 300 <= 0.08
    assert apart / 300 > 0.2


@pytest.mark.parametrize("n", [30, 100, 500])
def test_paired_proportions_are_covered_at_their_level(n):
    lost, gained = (axis.ravel() for axis in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    likely = (lost + gained <= n) & (lost + gained <= 0.5 * n + 40)
    lost, gained = lost[likely], gained[likely]
    low, high = tango_limits(gained, lost, n)
    log_choose = (
        special.gammaln(n + 1)
        - special.gammaln(lost + 1)
        - special.gammaln(gained + 1)
        - special.gammaln(n - lost - gained + 1)
    )
    covered = []
    for discordant in (0.05, 0.1, 0.25, 0.4):
        for lean in (0.0, 0.3, 0.6, 0.9):
            up, down = discordant * (1 + lean) / 2, discordant * (1 - lean) / 2
            weights = np.exp(
                log_choose + gained * np.log(up) + lost * np.log(down) + (n - lost - gained) * np.log1p(-discordant)
            )
            covered.append(np.sum(weights * ((low <= up - down) & (up - down <= high))))
    assert 0.94 <= np.mean(covered) <= 0.98


def test_score_interval_solves_the_score_equation():
    n, lost, gained = 120, 6, 19
    interval = paired_proportion_interval(lost, gained, n)
    for end in (interval.low, interval.high):
        # The restricted likelihood of the table at this difference, maximised by brute force.
        downs = np.linspace(max(0.0, -end) + 1e-9, (1 - end) / 2 - 1e-9, 200_001)
        likelihood = gained * np.log(downs + end) + lost * np.log(downs) + (n - lost - gained) * np.log1p(-2 * downs - end)
        down = downs[np.argmax(np.where(downs + end > 0, likelihood, -np.inf))]
        statistic = (gained - lost - n * end) / np.sqrt(n * (2 * down + end * (1 - end)))
        assert abs(statistic) == pytest.approx(1.96, abs=0.01)


def test_score_interval_has_width_without_discordant_rows_and_mirrors():
    empty = paired_proportion_interval(0, 0, 200)
    assert empty.low < 0 < empty.high
    one, other = paired_proportion_interval(3, 11, 90), paired_proportion_interval(11, 3, 90)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert 8 / 90 in one


def test_paired_interval_chooses_by_the_scores():
    first, second = np.array([1, 0, 1, 1, 0, 0] * 10), np.array([1, 1, 1, 1, 0, 1] * 10)
    assert paired_intervals(first, second, seed=0)(0.95) == paired_proportion_interval(0, 20, 60)
    soft = paired_intervals(first * 0.9, second * 0.9, seed=0)(0.95)
    assert soft.low < 0.9 / 3 < soft.high


def test_a_difference_of_grouped_rows_counts_groups_and_not_rows():
    groups = np.repeat(np.arange(8), 10)
    first, second = np.zeros(80), np.repeat([1.0, 1, 1, 1, 0, 0, 0, 0], 10)
    alone, p_alone = paired_difference(first, second, seed=0)
    grouped, p_grouped = paired_difference(first, second, seed=0, groups=groups)
    assert p_alone < 1e-9 and p_grouped == pytest.approx(2 / 2**4)
    assert grouped.width > 2 * alone.width


def test_a_comparison_on_a_single_row_is_valid_json():
    interval, p = paired_difference([0.5], [0.7], seed=0)
    compared = Comparison("base", 0.7, 0.5, 0.2, interval.low, interval.high, p, None, [])
    shown = json.loads(json.dumps(compared.to_json(), allow_nan=False))
    assert shown["low"] is None and shown["high"] is None, "the interval is unbounded"
    assert shown["difference"] == 0.2 and shown["p"] == 1.0
