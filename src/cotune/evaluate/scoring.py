"""Scoring a candidate's outputs: value and log-loss of each row, and the task's metric with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cotune.errors import DivergedError
from cotune.evaluate.arms import aggregate_statistic
from cotune.evaluate.stats.f1_posterior import dirichlet_f1
from cotune.evaluate.stats.intervals import Interval, aggregate_interval, mean_interval
from cotune.task.answered import Answered
from cotune.task.metrics.label import Average
from cotune.task.metrics.metric import Metric
from cotune.task.values.output import Output

Floats = NDArray[np.float64]

AVERAGES: dict[str, Average] = {"macro_f1": "macro", "weighted_f1": "weighted"}
"""Averaging of the F1 metrics over labels; packages may add other aggregates for labels."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a candidate on labelled rows.

    Attributes:
        answers: ``[rows]`` answers; empty if none were generated.
        values: ``[rows]`` value of each row by the metric, from 0 to 1; empty if it needs answers and there are none.
        correct: ``[rows]`` 1 if the row counts as right; empty like ``values``.
        log_losses: ``[rows]`` minus the log-probability of the right label, bias applied, or of the right answer per token, in
            nats; infinite if unknown.
        score: the task's metric; NaN if it needs answers and there are none.
        counts: ``[rows, columns]`` counts of a metric that is not a mean of rows; otherwise None.
    """

    answers: tuple[str, ...]
    values: Floats
    correct: Floats
    log_losses: Floats
    score: float
    counts: Floats | None = None

    @property
    def log_loss(self) -> float:
        """Mean log-loss per row, in nats; infinite if some row's label is unknown to the candidate."""
        return float(self.log_losses.mean())

    @property
    def race_losses(self) -> Floats:
        """``[rows]`` losses of a race: log-losses, or one minus the rows' values if these are unknown."""
        return self.log_losses if np.isfinite(self.log_losses).all() else 1.0 - self.values

    @property
    def n(self) -> int:
        return len(self.log_losses)

    @property
    def is_scored(self) -> bool:
        """Whether the rows have values by the metric, which may need answers that are not generated yet."""
        return len(self.values) > 0


def judged(answered: Answered, log_losses: Floats, metric: Metric) -> Evaluation:
    """Score answers by a metric.

    Raises:
        DivergedError: a log-loss is not a number or infinite.
        InputError: a metric of the user's fails.
    """
    _check_finite(log_losses)
    values = metric.rows(answered)
    if metric.aggregate is None:
        return Evaluation(tuple(answered.answers), values, metric.right(values), log_losses, float(values.mean()))
    counts = metric.aggregate.counts(answered)
    score = float(metric.aggregate.score(counts.sum(axis=0)))
    return Evaluation(tuple(answered.answers), values, metric.right(values), log_losses, score, counts)


def unanswered(log_losses: Floats) -> Evaluation:
    """An evaluation without answers: only the likelihood of the right answers.

    Raises:
        DivergedError: a log-loss is not a number or infinite.
    """
    _check_finite(log_losses)
    none = np.zeros(0)
    return Evaluation((), none, none, log_losses, float("nan"))


def wrong_instead(answers: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The answers, with a wrong label of the task instead of one that it does not have, as of an earlier bundle.

    Metrics know only the task's labels.
    """
    asked = set(labels)
    return [
        answer if answer in asked else next(label for label in labels if label != reference)
        for answer, reference in zip(answers, references, strict=True)
    ]


def score_interval(
    evaluation: Evaluation,
    references: Sequence[str],
    metric: Metric,
    output: Output,
    *,
    seed: int,
    groups: ArrayLike | None = None,
) -> Interval:
    """The 95% interval of a score."""
    if metric.aggregate is None:
        return mean_interval(evaluation.values, groups=groups, seed=seed)
    if metric.name in AVERAGES:
        # Like the score, over the labels that occur in the rows or the answers.
        answers = wrong_instead(evaluation.answers, references, output.labels)
        return dirichlet_f1(references, answers, average=AVERAGES[metric.name], seed=seed, groups=groups)
    assert evaluation.counts is not None
    aggregate = metric.aggregate
    whole = aggregate if aggregate.signed is None else replace(aggregate, score=aggregate.signed)
    statistic = aggregate_statistic(whole, [evaluation.counts])
    signed = aggregate.signed is not None
    return aggregate_interval(statistic, evaluation.values, groups=groups, seed=seed, signed=signed)


def finite(value: float, digits: int = 6) -> float | None:
    """A number for JSON; None if it is infinite or unknown."""
    return round(value, digits) if np.isfinite(value) else None


def _check_finite(log_losses: Floats) -> None:
    if not np.isfinite(log_losses).all():
        raise DivergedError("a log-loss is not finite")
