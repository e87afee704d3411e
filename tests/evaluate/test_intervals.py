"""Intervals cover what they say they cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn.metrics import f1_score

from cotune.evaluate.arms import aggregate_statistic
from cotune.evaluate.stats.f1_posterior import dirichlet_f1
from cotune.evaluate.stats.intervals import Interval, aggregate_interval, mean_interval, proportion_interval, wilson
from cotune.evaluate.stats.resampling import resample, weighted_mean
from cotune.evaluate.words import p_value
from cotune.task.metrics.metric import METRICS

SIZES = (30, 100, 500)


def _exact_coverage(interval, n: int) -> float:
    """Coverage averaged over a grid of true shares, by summing the binomial distribution instead of sampling it."""
    counts = np.arange(n + 1)
    ends = [interval(int(count), n) for count in counts]
    low, high = np.array([end.low for end in ends]), np.array([end.high for end in ends])
    log_choose = special.gammaln(n + 1) - special.gammaln(counts + 1) - special.gammaln(n - counts + 1)
    covered = []
    for share in np.linspace(0.02, 0.98, 97):
        weights = np.exp(log_choose + counts * np.log(share) + (n - counts) * np.log1p(-share))
        covered.append(float(np.sum(weights * ((low <= share) & (share <= high)))))
    return float(np.mean(covered))


def test_wilson_gives_published_values():
    assert (wilson(8, 10).low, wilson(8, 10).high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@pytest.mark.parametrize("n", SIZES)
def test_proportions_are_covered_at_their_level(n):
    assert 0.94 <= _exact_coverage(wilson, n) <= 0.965


def test_the_textbook_interval_would_fail_that_test():
    def wald(successes: int, n: int) -> Interval:
        share = successes / n
        reach = 1.96 * (share * (1 - share) / n) ** 0.5
        return Interval(share - reach, share + reach)

    assert _exact_coverage(wald, 30) < 0.94


@given(n=st.integers(1, 400), share=st.floats(0, 1))
def test_proportion_intervals_hold_the_estimate_and_stay_within_zero_and_one(n, share):
    successes = round(share * n)
    interval = wilson(successes, n)
    assert 0 <= interval.low <= successes / n <= interval.high <= 1
    assert interval.width > 0


@pytest.mark.parametrize("n", SIZES)
def test_means_are_covered_at_their_level(n):
    datasets, generator, covered = 600, np.random.default_rng(n), []
    for a, b in ((0.5, 0.5), (4, 1), (2, 2), (1.5, 6), (8, 1)):
        values = generator.beta(a, b, size=(n, datasets))
        low, high = resample(weighted_mean(values), n, seed=1, draws=1500)[1](0.95)
        covered.append(np.mean((low <= a / (a + b)) & (a / (a + b) <= high)))
    assert 0.94 <= np.mean(covered) <= 0.97


RARE = {
    "lost": ((1.0, 0.0, 0.8), (1.0, 0.5, 0.5), (2, 4, 8)),
    "lost and won": ((0.5, 0.0, 1.0), (1.0, 0.5, 0.5), (2, 4, 8)),
    "won in part": ((0.5, 0.9), (1.0, 1.0), (1, 2, 4)),
    "lost in part": ((0.7, 0.0), (1.0, 1.0), (1, 2, 4)),
}
"""Scores, the commonest first, the shares of the others among the rare rows, and how many rows of these to expect."""


@pytest.mark.parametrize("case", RARE)
@pytest.mark.parametrize("n", SIZES)
def test_means_with_rare_other_scores_are_covered_at_their_level(n, case):
    values, shares, expected = (np.array(part) for part in RARE[case])
    rng, known, held = np.random.default_rng(n), {}, []
    for rare in expected:
        odds = np.concatenate([[1 - rare / n], shares[1:] * rare / n])
        for counts in map(tuple, rng.multinomial(n, odds, size=300)):
            if counts not in known:
                known[counts] = mean_interval(np.repeat(values, counts), seed=1, draws=500)
            held.append(values @ odds in known[counts])
    assert np.mean(held) >= 0.94


def test_a_partly_right_row_does_not_narrow_the_interval_of_right_ones():
    partly = np.concatenate([np.ones(99), [0.8]])
    assert mean_interval(partly, seed=0).low == pytest.approx(wilson(99.8, 100).low)
    groups = np.repeat(np.arange(25), 4)
    assert mean_interval(partly, seed=0, groups=groups).low < 0.92
    assert mean_interval(np.full(100, 0.5), seed=0).width == pytest.approx(1 - wilson(100, 100).low)


def test_bootstrap_of_one_column_is_the_bootstrap_of_many():
    values = np.random.default_rng(0).random((40, 3))
    low, high = resample(weighted_mean(values), 40, seed=7, draws=4000)[1](0.95)
    single = mean_interval(values[:, 1], seed=7)
    assert (single.low, single.high) == pytest.approx((low[1], high[1]))
    assert mean_interval(values[:, 1], seed=7) == single
    assert mean_interval(values[:, 1], seed=8) != single


def test_a_perfect_score_still_has_width_and_groups_count_as_one_row_then():
    assert proportion_interval(np.ones(50)).low == pytest.approx(wilson(50, 50).low)
    assert proportion_interval(np.ones(50), groups=np.arange(50) // 10).low == pytest.approx(wilson(5, 5).low)
    assert mean_interval(np.ones(50), seed=0) == proportion_interval(np.ones(50))


@pytest.mark.parametrize("scores", [[], [0.5, float("nan")], [[0.1], [0.2]]])
def test_scores_that_are_none_are_refused(scores):
    with pytest.raises(ValueError):
        mean_interval(scores, seed=0)


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_f1_is_that_of_scikit_learn(average):
    generator = np.random.default_rng(5)
    gold, predicted = generator.choice(list("abcde"), 60), generator.choice(list("bcdef"), 60)
    metric = METRICS[f"{average}_f1"]
    ours = metric(gold, predicted, sorted({*gold, *predicted}))
    assert ours == pytest.approx(f1_score(gold, predicted, average=average, zero_division=0))


def test_f1_interval_is_seeded():
    gold, predicted = list("aabbcc"), list("abbbcc")
    assert dirichlet_f1(gold, predicted, seed=1) == dirichlet_f1(gold, predicted, seed=1)
    assert 0 < dirichlet_f1(["a"] * 5, ["a"] * 5, seed=0).high <= 1


@pytest.mark.parametrize("high", [True, False])
def test_means_of_shares_stay_within_zero_and_one(high):
    generator = np.random.default_rng(3)
    values = np.where(generator.random(60) < 0.9, 1.0, 0.6)
    values = values if high else 1 - values
    interval = mean_interval(values, seed=0, groups=np.arange(60) // 3)
    assert 0 <= interval.low <= values.mean() <= interval.high <= 1


def test_a_perfect_precision_has_the_interval_of_a_perfect_share():
    # Each row gives one of two fields, and rightly: no resample has another precision than 1, though no row is perfect.
    counts = np.array([[1.0, 2.0, 1.0]] * 12)
    precision = aggregate_statistic(METRICS["json_precision"].aggregate, [counts])
    interval = aggregate_interval(precision, np.full(12, 2 / 3), seed=0)
    assert (interval.low, interval.high) == (proportion_interval(np.ones(12)).low, 1.0)
    nothing = aggregate_statistic(METRICS["json_precision"].aggregate, [np.array([[0.0, 2.0, 0.0]] * 12)])
    assert aggregate_interval(nothing, np.zeros(12), seed=0).high == 1.0


@pytest.mark.parametrize(
    ("p", "text"), [(0.0004, "p < 0.001"), (0.0312, "p = 0.031"), (np.nextafter(0.05, 0), "p < 0.05"), (0.05, "p = 0.050")]
)
def test_a_p_value_below_the_limit_is_seen_to_be(p, text):
    assert p_value(p) == text
