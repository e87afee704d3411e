"""Scores that are no means of rows: the same whichever way they are computed, intervals and tests that hold what they say."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cotune.evaluate.arms import ArmScores, ArmsMetric, aggregate_statistic
from cotune.evaluate.attribution import ARMS, attribute
from cotune.evaluate.intervals import aggregate_interval
from cotune.evaluate.resampling import evaluate_over, resampling_weights
from cotune.task.answered import Answered
from cotune.task.metrics import METRICS, Aggregate
from cotune.task.output import label_output

Floats = NDArray[np.float64]
LABELS = ("a", "b", "c")
MICRO = METRICS["json_f1"].aggregate
assert MICRO is not None


def label_arm(gold: list[str], answers: list[str], name: str) -> ArmScores:
    aggregate = METRICS[name].aggregate
    assert aggregate is not None
    right = np.array([float(g == a) for g, a in zip(gold, answers, strict=True)])
    return ArmScores(right, predicted=np.array(answers), counts=aggregate.counts(Answered(gold, answers, label_output(LABELS))))


@pytest.mark.parametrize("name", ["macro_f1", "weighted_f1"])
def test_sums_give_what_the_confusion_matrix_gives(name: str) -> None:
    rng = np.random.default_rng(0)
    gold = list(rng.choice(LABELS, 40))
    arms = {arm: label_arm(gold, list(rng.choice(LABELS, 40)), name) for arm in ("one", "two")}
    aggregate = METRICS[name].aggregate
    assert aggregate is not None
    by_sums, by_matrix = ArmsMetric(arms, aggregate), ArmsMetric(arms, name, gold)  # type: ignore[arg-type]
    weights = next(resampling_weights(40, 50, 1))
    np.testing.assert_allclose(by_sums.statistic()(weights), by_matrix.statistic()(weights))
    swaps = rng.integers(0, 2, size=(30, 40), dtype=np.int8)
    pair = (("one", "two"),)
    np.testing.assert_allclose(by_sums.swapped(pair, swaps), by_matrix.swapped(pair, swaps), atol=1e-12)


def test_counts_are_needed_row_for_row() -> None:
    with pytest.raises(ValueError, match="counts"):
        ArmsMetric({"one": ArmScores(np.ones(3))}, Aggregate(lambda answered: np.ones((3, 1)), lambda sums: sums[..., 0]))


def fields(
    rng: np.random.Generator, rows: int, skill: float, given_rows: tuple[Floats, Floats] | None = None
) -> tuple[Floats, Floats]:
    """Counts and row scores of answers with one to five values, right more often in some rows than in others."""
    gold, ease = given_rows or (rng.integers(1, 6, rows).astype(np.float64), rng.beta(2, 2, rows))
    hits = rng.binomial(gold.astype(int), np.clip(skill * (0.5 + ease), 0, 1)).astype(np.float64)
    given = hits + rng.poisson(0.3 * (gold - hits) + 0.1)
    return np.stack([hits, gold, given], axis=1), 2 * hits / (gold + given)


@pytest.mark.parametrize(("rows", "least"), [(30, 0.92), (100, 0.93)])
def test_the_interval_of_a_micro_f1_holds_the_true_value(rows: int, least: float) -> None:
    assert MICRO is not None
    rng = np.random.default_rng(rows)
    held, total = 0, 0
    for skill in (0.4, 0.75, 0.9):
        many, _ = fields(rng, 200_000, skill)
        truth = float(MICRO.score(many.sum(axis=0)))
        for _ in range(150):
            counts, values = fields(rng, rows, skill)
            interval = aggregate_interval(aggregate_statistic(MICRO, [counts]), values, seed=total, draws=600)
            held, total = held + (truth in interval), total + 1
    assert held / total >= least


def test_rows_that_are_all_right_leave_room_below() -> None:
    assert MICRO is not None
    counts = np.ones((30, 3))
    interval = aggregate_interval(aggregate_statistic(MICRO, [counts]), np.ones(30), seed=0)
    assert 0.85 < interval.low < 0.95 and interval.high == 1.0


def test_gains_of_a_micro_f1_are_not_found_where_there_are_none_and_found_where_there_are() -> None:
    rng = np.random.default_rng(7)
    false, found, runs = 0, 0, 80
    for _ in range(runs):
        arms = {}
        rows = (rng.integers(1, 6, 60).astype(np.float64), rng.beta(2, 2, 60))
        for place, name in enumerate(ARMS):
            counts, values = fields(rng, 60, 0.9 if place == 4 else 0.6, rows)
            arms[name] = ArmScores(values, -np.log(np.clip(values, 0.05, 1)), counts=counts)
        gains = attribute(arms, metric=MICRO, permutations=199, draws=100).gains
        false += gains["tuning"].p <= 0.05
        found += gains["both"].p <= 0.05
    assert false <= 10 and found >= 0.9 * runs


def test_a_statistic_of_one_arm_has_one_column() -> None:
    assert MICRO is not None
    counts, _ = fields(np.random.default_rng(1), 20, 0.8)
    drawn = evaluate_over(aggregate_statistic(MICRO, [counts]), resampling_weights(20, 10, 0))
    assert drawn.shape == (10, 1) and np.isfinite(drawn).all()
