"""The interval of a task's score for any metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy.typing as npt

from cotune.evaluate.arms import aggregate_statistic
from cotune.evaluate.scoring import Evaluation, wrong_instead
from cotune.evaluate.stats.f1_posterior import dirichlet_f1
from cotune.evaluate.stats.intervals import Interval, aggregate_interval, mean_interval
from cotune.task.metrics.label import Average
from cotune.task.metrics.metric import Metric
from cotune.task.values.output import Output

AVERAGES: dict[str, Average] = {"macro_f1": "macro", "weighted_f1": "weighted"}
"""Averaging of the F1 metrics over labels; packages may add other aggregates for labels."""


def score_interval(
    evaluation: Evaluation,
    references: Sequence[str],
    metric: Metric,
    output: Output,
    *,
    seed: int,
    groups: npt.ArrayLike | None = None,
) -> Interval:
    """The 95% interval of a score.

    Args:
        evaluation: evaluation of the answers.
        references: the right answers.
        metric: the metric.
        output: the output type.
        seed: seed of the resampling.
        groups: group id of each row.
    """
    if metric.aggregate is None:
        return mean_interval(evaluation.values, groups=groups, seed=seed)
    if metric.name in AVERAGES:
        # Like the score, over the labels that occur in the rows or the answers.
        answers = wrong_instead(evaluation.answers, references, output.labels)
        return dirichlet_f1(references, answers, average=AVERAGES[metric.name], seed=seed, groups=groups)
    assert evaluation.counts is not None
    statistic = aggregate_statistic(metric.aggregate, [evaluation.counts])
    return aggregate_interval(statistic, evaluation.values, groups=groups, seed=seed)
