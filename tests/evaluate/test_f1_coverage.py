"""The interval of an F1 holds the true value as often as it says, with rows alone and with rows in groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dependent import ALONE, GROUPED, Floats, ids_of
from scipy import special

from cotune.evaluate.arms import aggregate_statistic
from cotune.evaluate.stats import f1_posterior
from cotune.evaluate.stats.f1_posterior import confusion_counts, dirichlet_f1, effective_share, f1_influence, posterior_limits
from cotune.evaluate.stats.resampling import influence_values
from cotune.task.answered import Answered
from cotune.task.metrics.label import Average, f1_from_counts
from cotune.task.metrics.metric import METRICS
from cotune.task.values.output import label_output

AVERAGES: tuple[Average, ...] = ("macro", "weighted")


def _population(labels: int, accuracy: float, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """How frequent labels are, and what is answered to each, shape (labels, labels)."""
    answers = np.zeros((labels, labels))
    for label in range(labels):
        right = np.clip(accuracy + generator.normal(0, 0.1), 0.02, 0.98)
        answers[label] = np.insert((1 - right) * generator.dirichlet(np.full(labels - 1, 0.5)), label, right)
    return generator.dirichlet(np.full(labels, 3.0)), answers


def _cells(
    frequent: Floats, answers: Floats, shape: tuple[int, int, int], alike: float, topical: float, generator: np.random.Generator
) -> np.ndarray:
    """Cells of the confusion matrix, (samples, rows): groups are alike in being right, in their errors, and in their labels."""
    samples, groups, size = shape
    labels, rows = len(frequent), (samples, groups, size)
    own = generator.choice(labels, (samples, groups, 1), p=frequent)
    gold = np.where(generator.random(rows) < topical, own, generator.choice(labels, rows, p=frequent))
    margin = np.sqrt(alike) * generator.normal(size=(samples, groups, 1)) + np.sqrt(1 - alike) * generator.normal(size=rows)
    right = special.ndtr(margin) < np.diagonal(answers)[gold]
    wrong = answers * (1 - np.eye(labels))
    steps = (wrong / wrong.sum(axis=1, keepdims=True)).cumsum(axis=1)
    which = np.where(generator.random(rows) < alike, generator.random((samples, groups, 1)), generator.random(rows))
    error = np.minimum((which[..., None] > steps[gold]).sum(axis=-1), labels - 1)
    return (gold * labels + np.where(right, gold, error)).reshape(samples, -1)


def _coverage(
    groups: int, size: int, *, averages: tuple[Average, ...] = AVERAGES, counted: bool = True, least: int = 1500
) -> list[float]:
    """Over labels, accuracies, and (where rows are grouped) ways to be alike: 1,500 samples.

    The simulation's own error is below 0.6 points. Intervals that hold the truth in 92.5% of cases would be found to do so in
    94% or more, which is asked for, in one of seventy draws.
    """
    generator, ids, held = np.random.default_rng(groups * size), ids_of(groups, size), []
    kinds = [(0.0, 0.0)] if size == 1 else [(0.5, 0.0), (0.9, 0.8), (1.0, 0.0), (1.0, 0.8)]
    points = [(labels, accuracy, kind) for labels in (2, 4) for accuracy in (0.3, 0.5, 0.7, 0.85, 0.95) for kind in kinds]
    for number, (labels, accuracy, (alike, topical)) in enumerate(points * max(1, 40 // len(points))):
        frequent, answers = _population(labels, accuracy, generator)
        table = answers * frequent[:, None]
        samples = -(-least // max(40, len(points)))
        cells = _cells(frequent, answers, (samples, groups, size), alike, topical, generator)
        counts = confusion_counts(cells, labels)
        for average in averages:
            truth = f1_from_counts(np.diagonal(table), table.sum(axis=1), table.sum(axis=0), average)
            share = effective_share(cells, counts, average, ids, 0.95)[:, None, None] if size > 1 and counted else 1.0
            low, high = posterior_limits(counts * share, (average,), seed=number, draws=150)
            held.append(np.mean((low <= truth) & (truth <= high)))
    return [float(np.mean(held[place :: len(averages)])) for place in range(len(averages))]


@pytest.mark.parametrize("n", ALONE)
def test_f1_is_covered_at_its_level_or_above(n: int) -> None:
    assert min(_coverage(*ALONE[n])) >= 0.94


@pytest.mark.parametrize("shape", GROUPED)
def test_f1_of_grouped_rows_is_covered_at_its_level_or_above(shape: tuple[int, int]) -> None:
    assert min(_coverage(*GROUPED[shape])) >= 0.94


def test_ignoring_the_groups_would_fail_that() -> None:
    # 480 samples: whatever the coverage, five standard errors are at most 11 points.
    assert max(_coverage(*GROUPED[500, 25], counted=False, least=480)) < 0.7


MANY = 120
"""A number of labels with which cells without rows are drawn as sums."""


def test_f1_of_many_labels_is_covered_at_its_level_or_above() -> None:
    generator, held = np.random.default_rng(5), dict.fromkeys(AVERAGES, 0.0)
    points = [(rows, accuracy) for rows in (2 * MANY, 5 * MANY) for accuracy in (0.5, 0.8, 0.95)] * 5
    for number, (rows, accuracy) in enumerate(points):
        frequent, answers = _population(MANY, accuracy, generator)
        table = answers * frequent[:, None]
        counts = confusion_counts(_cells(frequent, answers, (20, rows, 1), 0.0, 0.0, generator), MANY)
        for average, low, high in zip(AVERAGES, *posterior_limits(counts, AVERAGES, seed=number, draws=150), strict=True):
            truth = f1_from_counts(np.diagonal(table), table.sum(axis=1), table.sum(axis=0), average)
            held[average] += np.mean((low <= truth) & (truth <= high)) / len(points)
    # 600 samples: the simulation's own error is below 0.9 points.
    assert min(held.values()) >= 0.94


FEWER = 60
"""Labels for which each cell can be drawn in little time; the fewer labels, the more a cell has to do with both of its sums."""


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("rows", [FEWER, 10 * FEWER])
def test_sums_of_cells_without_rows_vary_as_the_cells_do(average: Average, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(6)
    gold = generator.integers(0, FEWER, rows)
    predicted = np.where(generator.random(rows) < 0.7, gold, generator.integers(0, FEWER, rows))
    counts = confusion_counts((gold * FEWER + predicted)[None], FEWER)
    cells = posterior_limits(counts, (average,), seed=0, draws=1500)
    monkeypatch.setattr(f1_posterior, "_MOST_LABELS", FEWER - 1)
    sums = posterior_limits(counts, (average,), seed=0, draws=1500)
    assert not np.array_equal(sums, cells), "they are drawn in two ways"
    width = float(cells[1][0, 0] - cells[0][0, 0])
    assert np.ravel(sums) == pytest.approx(np.ravel(cells), abs=0.06 * width)


def test_the_interval_of_very_many_labels_takes_as_many_draws_as_there_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [0]

    class Counting(np.random.Generator):
        def standard_gamma(self, shape: Any, **named: Any) -> Any:
            drawn[0] += np.size(shape)
            return super().standard_gamma(shape, **named)

    generator = np.random.default_rng(7)
    labels, rows, draws = 500, 1500, 20
    gold = generator.integers(0, labels, rows)
    predicted = np.where(generator.random(rows) < 0.8, gold, generator.integers(0, labels, rows))
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Counting(np.random.PCG64(seed)))
    found = dirichlet_f1(gold, predicted, seed=0, draws=draws)
    assert 0 < drawn[0] <= 2 * draws * (rows + 3 * labels) and 0.6 < found.low < found.high < 0.9


@pytest.mark.parametrize("average", AVERAGES)
def test_many_tables_at_once_are_what_one_is(average: Average) -> None:
    generator, ids = np.random.default_rng(1), ids_of(12, 5)
    gold = generator.integers(0, 3, 60)
    predicted = np.where(generator.random(60) < 0.6, gold, generator.integers(0, 3, 60))
    cells = (gold * 3 + predicted)[None]
    counts = confusion_counts(cells, 3)
    counts *= effective_share(cells, counts, average, ids, 0.95)[:, None, None]
    low, high = posterior_limits(counts, (average,), seed=4, draws=500)
    one = dirichlet_f1(gold, predicted, average=average, seed=4, draws=500, groups=ids)
    assert (one.low, one.high) == pytest.approx((low[0, 0], high[0, 0]))
    assert one.width > 1.05 * dirichlet_f1(gold, predicted, average=average, seed=4, draws=500).width


@pytest.mark.parametrize("average", AVERAGES)
def test_influence_is_what_leaving_a_row_out_shows(average: Average) -> None:
    generator = np.random.default_rng(2)
    gold = generator.integers(0, 4, 400)
    predicted = np.where(generator.random(400) < 0.6, gold, generator.integers(0, 4, 400))
    cells = gold * 4 + predicted
    by_cell = f1_influence(confusion_counts(cells[None], 4), average)[0].ravel()[cells]
    aggregate = METRICS[f"{average}_f1"].aggregate
    assert aggregate is not None
    counts = aggregate.counts(Answered(gold.astype(str), predicted.astype(str), label_output(list("0123"))))
    by_row = influence_values(aggregate_statistic(aggregate, [counts]), 400)[:, 0]
    np.testing.assert_allclose(by_cell, by_row, atol=0.03)
    assert by_cell.mean() == pytest.approx(0, abs=1e-9)
