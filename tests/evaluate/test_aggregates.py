"""Scores that are no means of rows: the same whichever way they are computed, intervals and tests that hold what they say."""

from __future__ import annotations

import numpy as np
import pytest
from dependent import ALONE, GROUPED, ids_of
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from cotune.evaluate.arms import ArmScores, ArmsMetric, aggregate_statistic
from cotune.evaluate.attribution import attribute
from cotune.evaluate.frozen_arms import ARMS
from cotune.evaluate.scoring import AVERAGES, judged, score_interval
from cotune.evaluate.shares import ratio_share
from cotune.evaluate.stats.clusters import FEW_GROUPS
from cotune.evaluate.stats.intervals import Interval, aggregate_interval, few_groups_limits
from cotune.evaluate.stats.resampling import (
    evaluate_over,
    leave_one_out_weights,
    resample,
    resampling_weights,
    weighted_mean,
    without_each,
)
from cotune.task.answered import Answered
from cotune.task.metrics.metric import METRICS, Aggregate, Metric
from cotune.task.values.output import Output, label_output

Floats = NDArray[np.float64]
LABELS = ("a", "b", "c")
MICRO = METRICS["json_f1"].aggregate
assert MICRO is not None


def label_arm(gold: list[str], answers: list[str], name: str) -> ArmScores:
    aggregate = METRICS[name].aggregate
    assert aggregate is not None
    right = np.array([float(g == a) for g, a in zip(gold, answers, strict=True)])
    return ArmScores(right, counts=aggregate.counts(Answered(gold, answers, label_output(LABELS))))


@pytest.mark.parametrize("name", ["macro_f1", "weighted_f1"])
def test_sums_give_what_the_confusion_matrix_gives(name: str) -> None:
    rng = np.random.default_rng(0)
    gold = list(rng.choice(LABELS, 40))
    answers = {arm: rng.choice(LABELS, 40) for arm in ("one", "two")}
    aggregate = METRICS[name].aggregate
    assert aggregate is not None
    by_sums = ArmsMetric({arm: label_arm(gold, list(given), name) for arm, given in answers.items()}, aggregate)
    weights = next(resampling_weights(40, 50, 1))
    average = AVERAGES[name]

    def f1(answers: NDArray[np.str_], rows: NDArray[np.int64]) -> float:
        return float(f1_score(np.array(gold)[rows], answers[rows], average=average, zero_division=0))

    drawn = [np.repeat(np.arange(40), row.astype(int)) for row in weights]
    by_matrix = [[f1(given, rows) for given in answers.values()] for rows in drawn]
    np.testing.assert_allclose(by_sums.statistic()(weights), by_matrix)
    swaps = rng.integers(0, 2, size=(30, 40), dtype=np.int8)
    mixed = [(np.where(row, answers["two"], answers["one"]), np.where(row, answers["one"], answers["two"])) for row in swaps]
    differences = [f1(one, np.arange(40)) - f1(two, np.arange(40)) for one, two in mixed]
    np.testing.assert_allclose(by_sums.swapped((("one", "two"),), swaps), differences, atol=1e-12)


def test_counts_are_needed_row_for_row() -> None:
    with pytest.raises(ValueError, match="counts"):
        ArmsMetric({"one": ArmScores(np.ones(3))}, Aggregate(lambda answered: np.ones((3, 1)), lambda sums: sums[..., 0]))


def fields(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    skill: float,
    given_rows: tuple[Floats, Floats] | None = None,
) -> tuple[Floats, Floats]:
    """Counts and row scores of answers with one to five values, right more often in some rows than in others."""
    gold, ease = given_rows or (rng.integers(1, 6, shape).astype(np.float64), rng.beta(2, 2, shape))
    hits = rng.binomial(gold.astype(int), np.clip(skill * (0.5 + ease), 0, 1)).astype(np.float64)
    given = hits + rng.poisson(0.3 * (gold - hits) + 0.1)
    return np.stack([hits, gold, given], axis=-1), 2 * hits / (gold + given)


def _micro_coverage(groups: int, size: int) -> float:
    """3,000 samples of rows, each a column; in groups the rows' ease, and often the rows themselves, are the group's."""
    assert MICRO is not None
    metric, rng, rows, held = MICRO, np.random.default_rng(groups * size), groups * size, []
    ids = ids_of(groups, size) if size > 1 else None
    for skill in (0.4, 0.6, 0.75, 0.9):
        for same in (0.5, 1.0) if size > 1 else (0.0,):
            truth = float(metric.score(fields(rng, (400_000,), skill)[0].sum(axis=0)))
            samples = 750 if size == 1 else 375
            counts, _ = fields(rng, (rows, samples), skill)
            if size > 1:
                first = np.arange(rows) // size * size
                counts = np.where(rng.random((rows, samples, 1)) < same, counts[first], counts)

            def statistic(weights: Floats, table: Floats = counts) -> Floats:
                return metric.score((weights @ table.reshape(rows, -1)).reshape(len(weights), -1, 3))

            values = 2 * counts[..., 0] / (counts[..., 1] + counts[..., 2])
            if size > 1 and groups < FEW_GROUPS:
                low, high = few_groups_limits(statistic, values.T, ids)
            else:
                # Fewer draws than are reported with make the ends less certain, so that they hold the truth no more often.
                low, high = resample(statistic, rows, seed=1, draws=600, groups=ids, widened=ids is not None)[1](0.95)
            held.append(np.mean((low <= truth) & (truth <= high)))
    return float(np.mean(held))


@pytest.mark.parametrize("n", ALONE)
def test_the_interval_of_a_micro_f1_holds_the_true_value(n: int) -> None:
    assert 0.94 <= _micro_coverage(*ALONE[n]) <= 0.98


@pytest.mark.parametrize("shape", GROUPED)
def test_the_interval_of_a_micro_f1_of_grouped_rows_holds_the_true_value(shape: tuple[int, int]) -> None:
    assert _micro_coverage(*GROUPED[shape]) >= 0.94


@pytest.mark.parametrize(("groups", "size"), [(6, 5), (24, 5)])
def test_the_reported_interval_of_a_micro_f1_is_that_one(groups: int, size: int) -> None:
    assert MICRO is not None
    counts, values = fields(np.random.default_rng(3), (groups * size,), 0.7)
    ids, statistic = ids_of(groups, size), aggregate_statistic(MICRO, [counts])
    interval = aggregate_interval(statistic, values, seed=1, groups=ids)
    if groups < FEW_GROUPS:
        low, high = few_groups_limits(statistic, values[None], ids)
    else:
        low, high = resample(statistic, len(ids), seed=1, draws=4000, groups=ids, widened=True)[1](0.95)
    assert (interval.low, interval.high) == pytest.approx((low[0], high[0]))


def test_a_label_metric_of_a_package_that_is_made_of_sums_has_an_interval() -> None:
    def hits(answered: Answered) -> Floats:
        return np.array([[float(g == a)] * 2 for g, a in zip(answered.references, answered.answers, strict=True)])

    # Nothing is known of such a metric but its sums.
    metric = Metric("packaged", "hits", ("label",), lambda answered: hits(answered)[:, 0], Aggregate(hits, _share_of_hits))
    gold, answers, output = ["a", "b"] * 30, ["a", "b", "b", "b"] * 15, label_output(LABELS)
    found = judged(Answered(gold, answers, output), np.zeros(60), metric)
    interval = score_interval(found, gold, metric, output, seed=1)
    assert found.score == pytest.approx(0.75)
    assert interval.low < found.score < interval.high


@pytest.mark.parametrize("name", sorted(AVERAGES))
def test_the_interval_of_an_averaged_f1_is_over_the_labels_of_its_score(name: str) -> None:
    """Of many labels a test may hold a few; the score is over those that are there."""
    metric, labels = METRICS[name], [f"l{i}" for i in range(30)]
    gold = ["l0", "l1"] * 200
    answers = ["l1" if i % 16 == 0 else label for i, label in enumerate(gold)]
    wide, narrow = label_output(labels), label_output(labels[:2])
    found = judged(Answered(gold, answers, wide), np.zeros(400), metric)
    interval = score_interval(found, gold, metric, wide, seed=1)
    assert interval.low < found.score < interval.high and interval.width < 0.1
    assert interval == score_interval(found, gold, metric, narrow, seed=1)


def _share_of_hits(sums: Floats) -> Floats:
    return np.asarray(sums[..., 0] / 60)


def test_rows_that_are_all_right_leave_room_below() -> None:
    assert MICRO is not None
    counts = np.ones((30, 3))
    interval = aggregate_interval(aggregate_statistic(MICRO, [counts]), np.ones(30), seed=0)
    assert 0.85 < interval.low < 0.95 and interval.high == 1.0


def test_rare_wrong_rows_of_a_micro_f1_are_covered() -> None:
    assert MICRO is not None
    rng, held = np.random.default_rng(3), []
    for rows, rare in ((30, 0.1), (100, 0.03), (500, 0.01)):
        for _ in range(150):
            gold = rng.integers(1, 6, rows).astype(np.float64)
            # Of the rows that are wrong, most lack one value of three in the mean, the others all of them.
            wrong = np.where(rng.random(rows) < 0.7, gold - 1, 0.0)
            hits = np.where(rng.random(rows) < rare, wrong, gold)
            counts = np.stack([hits, gold, gold], axis=-1)
            found = aggregate_interval(aggregate_statistic(MICRO, [counts]), hits / gold, seed=0, draws=300)
            held.append(1 - rare * (0.7 / 3 + 0.3) in found)
    assert np.mean(held) >= 0.94


def test_gains_of_a_micro_f1_are_not_found_where_there_are_none_and_found_where_there_are() -> None:
    rng = np.random.default_rng(7)
    false, found, runs = 0, 0, 80
    for _ in range(runs):
        arms = {}
        rows = (rng.integers(1, 6, (60,)).astype(np.float64), rng.beta(2, 2, (60,)))
        for place, name in enumerate(ARMS):
            counts, values = fields(rng, (60,), 0.9 if place == 4 else 0.6, rows)
            arms[name] = ArmScores(values, -np.log(np.clip(values, 0.05, 1)), counts=counts)
        gains = attribute(arms, metric=MICRO, permutations=199, draws=100).gains
        false += gains["tuning"].p <= 0.05
        found += gains["both"].p <= 0.05
    assert false <= 10 and found >= 0.9 * runs


def test_a_statistic_of_one_arm_has_one_column() -> None:
    assert MICRO is not None
    counts, _ = fields(np.random.default_rng(1), (20,), 0.8)
    drawn = evaluate_over(aggregate_statistic(MICRO, [counts]), resampling_weights(20, 10, 0))
    assert drawn.shape == (10, 1) and np.isfinite(drawn).all()


# Scores that are cut at 0 -----------------------------------------------------------------------------------------------


def number_interval(metric: str, right: Floats, given: Floats, ids: NDArray[np.str_] | None, seed: int) -> Interval:
    answered = Answered([repr(float(one)) for one in right], [repr(float(one)) for one in given], Output("number"))
    found = judged(answered, np.zeros(len(right)), METRICS[metric])
    return score_interval(found, answered.references, METRICS[metric], answered.output, seed=seed, groups=ids)


@pytest.mark.parametrize("metric", ["r2", "pearson"])
@pytest.mark.parametrize(("groups", "size", "truth"), [(30, 1, 0.15), (15, 20, 0.3)])
def test_the_interval_of_a_score_that_is_cut_at_zero_holds_the_true_value(
    metric: str, groups: int, size: int, truth: float
) -> None:
    """Of so many rows a score of 0 may be one of 0.3, and of few groups half of the spread may be theirs."""
    rng, draws = np.random.default_rng(groups), 100
    ids = ids_of(groups, size) if size > 1 else None

    def normal() -> Floats:
        own = rng.normal(size=groups * size)
        return own if size == 1 else np.sqrt(0.5) * np.repeat(rng.normal(size=groups), size) + np.sqrt(0.5) * own

    held = 0
    for draw in range(draws):
        right = normal()
        given = right + np.sqrt(1 - truth) * normal() if metric == "r2" else truth * right + np.sqrt(1 - truth**2) * normal()
        held += truth in number_interval(metric, right, given, ids, draw)
    assert held >= 88


def number_arms(aggregate: Aggregate, right: Floats, first: Floats, last: Floats) -> dict[str, ArmScores]:
    """The five arms, of which the tuned winner gives the last answers and all others the first."""
    arms = {}
    for place, name in enumerate(ARMS):
        texts = [[repr(float(one)) for one in side] for side in (right, last if place == 4 else first)]
        counts = aggregate.counts(Answered(*texts, Output("number")))
        arms[name] = ArmScores(np.zeros(len(right)), counts=counts, candidate=str(place == 4))
    return arms


def test_the_interval_of_a_gain_over_a_score_that_is_cut_at_zero_holds_the_true_value() -> None:
    aggregate, rng, held, draws, share = METRICS["r2"].aggregate, np.random.default_rng(5), 0, 150, 0.135
    assert aggregate is not None
    for draw in range(draws):
        right = rng.normal(size=30)
        # They explain none and a share of the variance.
        noise = rng.normal(size=(2, 30))
        first, last = 0.5 * right + np.sqrt(0.75) * noise[0], share * right + np.sqrt(share * (1 - share)) * noise[1]
        arms = number_arms(aggregate, right, first, last)
        gain = attribute(arms, metric=aggregate, permutations=19, draws=200, seed=draw).gains["both"]
        held += share in gain.ci_single
    assert held >= 0.92 * draws


def test_an_arm_far_below_zero_does_not_widen_the_gains_over_it() -> None:
    aggregate, rng = METRICS["r2"].aggregate, np.random.default_rng(2)
    assert aggregate is not None
    right = rng.normal(size=200)
    near, far = right + 0.4 * rng.normal(size=200), 0.5 * right + 1.5 + 0.3 * rng.normal(size=200)
    gain = attribute(number_arms(aggregate, right, far, near), metric=aggregate, permutations=99, draws=400).gains["both"]
    assert gain.value > 0.8 and gain.ci.width < 0.15
    none = attribute(number_arms(aggregate, right, far, far + 0.5), metric=aggregate, permutations=99, draws=400).gains["both"]
    assert none.value == 0.0 and none.ci.width < 0.3


def test_constant_answers_and_single_groups_have_an_interval_too() -> None:
    right = np.random.default_rng(0).normal(size=40)
    assert number_interval("pearson", right, np.ones(40), None, 0).low == 0.0
    assert number_interval("r2", right, np.full(40, right.mean()), None, 0).high < 0.05
    assert number_interval("r2", right, right, None, 0).high == 1.0
    one = number_interval("r2", right, right + 0.3, np.repeat("a", 40), 0)
    assert (one.low, one.high) == pytest.approx((0.1, 1.0), abs=0.1)


def test_few_groups_of_rows_with_unequal_numbers_of_values_are_covered() -> None:
    rng, draws, held = np.random.default_rng(0), 200, 0
    for _ in range(draws):
        whole = np.where(rng.random(150) < 0.1, 30.0, 1.0)
        part = np.where(rng.random(150) < 0.7, whole, 0.0)
        share = ratio_share(part, whole, np.repeat(np.arange(15), 10), 0)
        assert share is not None
        held += 0.7 in share.interval
    assert held >= 0.92 * draws


@pytest.mark.parametrize("grouped", [False, True])
def test_the_jackknife_of_sums_is_that_of_weights(grouped: bool) -> None:
    assert MICRO is not None
    rng = np.random.default_rng(1)
    tables = [fields(rng, (30,), skill)[0] for skill in (0.5, 0.8)]
    ids = np.array([f"g{place % 7}" for place in range(30)]) if grouped else None
    for statistic in (aggregate_statistic(MICRO, tables), weighted_mean(rng.normal(size=(30, 2)))):
        by_weights = evaluate_over(statistic, leave_one_out_weights(30, ids))
        np.testing.assert_allclose(without_each(statistic, 30, ids), by_weights, atol=1e-12)
