"""Scores of several arms on the same rows: their metric on resamples, and after swapping rows between arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cotune.evaluate.stats.f1 import Average, f1_from_counts, f1_statistic, label_indicators
from cotune.evaluate.stats.resampling import Floats, Statistic, weighted_mean
from cotune.task.metrics.metric import Aggregate

MetricName = Literal["mean", "macro_f1", "weighted_f1"]
Metric = MetricName | Aggregate | Callable[[npt.NDArray[Any], npt.NDArray[Any]], float]
"""``"mean"`` of the per-row scores (accuracy), an F1 of the predicted labels, an aggregate of each arm's ``counts``, or any
``function(references, predicted)``.
"""

Pair = tuple[str, str]


@dataclass(frozen=True)
class ArmScores:
    """Scores of one arm on each row.

    Attributes:
        score: score of each row, 0 or 1 for right or wrong, shape (rows,).
        log_loss: log-loss of each row in nats, shape (rows,); None if unknown.
        predicted: the answer to each row, shape (rows,); needed only for metrics of answers.
        counts: per-row counts that the metric sums over rows, shape (rows, columns); needed only for aggregates.
        candidate: id of the candidate (prompt, adapter, decision rule); arms with the same id are the same arm.
    """

    score: npt.NDArray[Any]
    log_loss: npt.NDArray[Any] | None = None
    predicted: npt.NDArray[Any] | None = None
    counts: Floats | None = None
    candidate: str | None = None


class ArmsMetric:
    """One metric of several arms on the same rows.

    Args:
        arms: by name, all with the same rows.
        metric: see :data:`Metric`.
        references: the right answers, shape (rows,); needed if the metric is not a mean.

    Raises:
        ValueError: rows differ, values are not finite, or references or predictions are missing.
    """

    def __init__(self, arms: Mapping[str, ArmScores], metric: Metric, references: npt.ArrayLike | None = None) -> None:
        self.names = list(arms)
        self.metric = metric
        self.scores = np.stack([np.asarray(arm.score, dtype=np.float64) for arm in arms.values()], axis=1)
        self.rows = len(self.scores)
        if not self.rows or not np.all(np.isfinite(self.scores)):
            raise ValueError("arms need at least one row, and scores that are neither NaN nor infinite")
        if metric == "mean":
            return
        if isinstance(metric, Aggregate):
            if any(arm.counts is None or len(arm.counts) != self.rows for arm in arms.values()):
                raise ValueError("a metric of sums needs each arm's counts, one row for each score")
            self.counts = [np.asarray(arm.counts, dtype=np.float64) for arm in arms.values()]
            return
        if references is None or any(arm.predicted is None for arm in arms.values()):
            raise ValueError("a metric that is not a mean needs references and each arm's predictions")
        self.references = np.asarray(references)
        self.predicted = [np.asarray(arm.predicted) for arm in arms.values()]
        if any(len(column) != self.rows for column in [self.references, *self.predicted]):
            raise ValueError("references, predictions and scores must have the same rows")

    @property
    def is_zero_one(self) -> bool:
        """Whether the metric is the share of right rows."""
        return self.metric == "mean" and bool(np.all((self.scores == 0) | (self.scores == 1)))

    def statistic(self) -> Statistic:
        """The arms' metrics as a statistic of resampling weights; values of shape (draws, arms)."""
        if self.metric == "mean":
            return weighted_mean(self.scores)
        if isinstance(self.metric, Aggregate):
            return aggregate_statistic(self.metric, self.counts)
        if not callable(self.metric):
            return f1_statistic(self.references, self.predicted, _average(self.metric))
        return self._called

    def differs(self, pairs: Sequence[Pair]) -> npt.NDArray[np.bool_]:
        """Whether the arms of the pairs differ on a row; shape (rows,)."""
        if self.metric == "mean":
            change = sum(self.scores[:, self.names.index(one)] - self.scores[:, self.names.index(two)] for one, two in pairs)
            return np.asarray(np.abs(change) > 1e-12)
        results = self.counts if isinstance(self.metric, Aggregate) else [column[:, None] for column in self.predicted]
        apart = [results[self.names.index(one)] != results[self.names.index(two)] for one, two in pairs]
        return np.asarray(np.any([change.any(axis=1) for change in apart], axis=0))

    def swapped(self, pairs: Sequence[Pair], swaps: npt.NDArray[np.int8]) -> Floats:
        """Sum of the pairs' differences (first minus second) after exchanging the rows marked in ``swaps`` in each pair.

        Args:
            pairs: arm names.
            swaps: 1 for rows whose results are exchanged, shape (draws, rows).

        Returns:
            Shape (draws,).
        """
        total = np.zeros(len(swaps))
        for first, second in pairs:
            one, two = self.names.index(first), self.names.index(second)
            total += self._mixed(one, two, swaps) - self._mixed(two, one, swaps)
        return total

    def _mixed(self, base: int, other: int, swaps: npt.NDArray[np.int8]) -> Floats:
        """The metric of one arm with the marked rows taken from another."""
        if self.metric == "mean":
            change = self.scores[:, other] - self.scores[:, base]
            return np.asarray((self.scores[:, base].sum() + swaps @ change) / self.rows, dtype=np.float64)
        if isinstance(self.metric, Aggregate):
            here, there = self.counts[base], self.counts[other]
            return self.metric.score(here.sum(axis=0) + swaps.astype(np.float64) @ (there - here))
        if callable(self.metric):
            mixes = np.where(swaps.astype(bool), self.predicted[other], self.predicted[base])
            return np.array([float(self.metric(self.references, mix)) for mix in mixes])
        names = np.unique(np.concatenate([self.references, self.predicted[base], self.predicted[other]]))
        truth = label_indicators(self.references, names)
        from_base, from_other = (label_indicators(self.predicted[arm], names) for arm in (base, other))
        weights = swaps.astype(np.float64)
        predicted = from_base.sum(axis=0) + weights @ (from_other - from_base)
        hits = (truth * from_base).sum(axis=0) + weights @ (truth * (from_other - from_base))
        support = np.broadcast_to(truth.sum(axis=0), predicted.shape)
        return f1_from_counts(hits, support, predicted, _average(self.metric))

    def _called(self, weights: Floats) -> Floats:
        assert callable(self.metric)
        values = np.empty((len(weights), len(self.predicted)))
        for draw, counts in enumerate(weights):
            chosen = np.repeat(np.arange(self.rows), counts.astype(np.int64))
            for arm, predicted in enumerate(self.predicted):
                values[draw, arm] = float(self.metric(self.references[chosen], predicted[chosen]))
        return values


def aggregate_statistic(metric: Aggregate, counts: Sequence[Floats]) -> Statistic:
    """An aggregate as a statistic of resampling weights, with one column per arm."""

    def statistic(weights: Floats) -> Floats:
        return np.stack([metric.score(weights @ table) for table in counts], axis=-1)

    return statistic


def _average(metric: MetricName) -> Average:
    return "macro" if metric == "macro_f1" else "weighted"
