"""Differences that are read together: p-value and interval never contradict each other."""

from __future__ import annotations

import numpy as np
import pytest
from dependent import f1_counts, f1_metric
from scipy import special

from cotune.evaluate.arms import ArmScores
from cotune.evaluate.attribution import attribute
from cotune.evaluate.frozen_arms import ARMS
from cotune.evaluate.previous import compare_parts
from cotune.evaluate.stats.intervals import Interval
from cotune.evaluate.stats.paired import paired_difference, paired_proportion_interval
from cotune.evaluate.stats.together import read_together


def around(value: float) -> object:
    return lambda level: Interval(value - special.ndtri((1 + level) / 2), value + special.ndtri((1 + level) / 2))


def two_sided(value: float) -> float:
    return float(2 * special.ndtr(-abs(value)))


def test_p_and_interval_are_corrected_by_the_same_count() -> None:
    p, interval = read_together(two_sided(3.0), around(3.0), 4)
    assert p == pytest.approx(4 * two_sided(3.0))
    assert interval.low == pytest.approx(3.0 - special.ndtri(1 - 0.05 / 8))
    assert read_together(0.6, around(0.5), 4)[0] == 1.0


def test_where_test_and_interval_disagree_the_more_cautious_one_holds() -> None:
    # The test sees nothing, the interval leaves out zero.
    p, interval = read_together(0.06, around(2.2))
    assert p == 0.06 and interval.low == 0 and 0 in interval
    p, interval = read_together(0.06, around(-2.2))
    assert interval.high == 0 and interval.low < -2.2
    # The test sees a difference, the interval reaches zero at the level 0.08.
    for count in (1, 6):
        p, interval = read_together(0.01 / count, around(-special.ndtri(0.04 / count)), count)
        assert 0 in interval and p == pytest.approx(0.08)


def test_rows_that_mcnemar_cannot_tell_apart_get_an_interval_with_zero() -> None:
    first, second = np.zeros(40), np.zeros(40)
    second[:5] = 1
    assert paired_proportion_interval(0, 5, 40).low > 0, "Tango's interval alone leaves it out"
    interval, p = paired_difference(first, second, seed=0)
    assert p == pytest.approx(0.0625) and 0 in interval
    part = compare_parts(second, first, np.ones(40))["all"].gain
    assert part.p == pytest.approx(0.0625) and 0 in part.ci and 0 in part.ci_single


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("metric", ["mean", "macro_f1"])
def test_an_interval_leaves_out_zero_where_p_says_so(metric: str, grouped: bool) -> None:
    generator = np.random.default_rng(7)
    seen = {True: 0, False: 0}
    for _ in range(25):
        rows = int(generator.integers(20, 120))
        gold = generator.integers(0, 3, rows)
        arms = {}
        for name in ARMS:
            right = generator.random(rows) < generator.choice([0.5, 0.6, 0.75, 0.9])
            predicted = np.where(right, gold, (gold + 1) % 3)
            loss = np.where(right, 0.3, 1.2) + 0.3 * generator.random(rows)
            arms[name] = ArmScores(right.astype(float), loss, f1_counts(gold, predicted), candidate=name)
        groups = np.arange(rows) // 3 if grouped else None
        measure = "mean" if metric == "mean" else f1_metric(metric)
        found = attribute(arms, metric=measure, groups=groups, draws=300, permutations=300)
        for gain in [*found.gains.values(), *found.log_loss.values()]:
            for interval, p in ((gain.ci, gain.p), (gain.ci_single, gain.p_single)):
                assert (0.0 not in interval) == (p < 0.05), gain
                seen[p < 0.05] += 1
    assert min(seen.values()) > 50, seen
