"""Scores of several arms on the same rows: their metric on resamples, and after swapping rows between arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cotune.evaluate.frozen_arms import Pair
from cotune.evaluate.stats.resampling import Floats, OfSums, jackknife_limits, weighted_mean
from cotune.task.metrics.metric import Aggregate

_SURE = 0.999
"""Level of the interval above which a score that is surely below 0 does not reach 0."""
Metric = Literal["mean"] | Aggregate
"""The ``"mean"`` of the per-row scores, or an aggregate of each arm's ``counts``."""


@dataclass(frozen=True)
class ArmScores:
    """Scores of one arm on each row.

    Attributes:
        score: score of each row, 0 or 1 for right or wrong, shape (rows,).
        log_loss: log-loss of each row in nats, shape (rows,); None if unknown.
        counts: per-row counts that the metric sums over rows, shape (rows, columns); needed only for aggregates.
        candidate: id of the candidate (prompt, adapter, decision rule); arms with the same id are the same arm.
    """

    score: npt.NDArray[Any]
    log_loss: npt.NDArray[Any] | None = None
    counts: Floats | None = None
    candidate: str | None = None


class ArmsMetric:
    """One metric of several arms on the same rows.

    Raises:
        ValueError: rows differ, values are not finite, or counts are missing.
    """

    def __init__(self, arms: Mapping[str, ArmScores], metric: Metric) -> None:
        self.names = list(arms)
        self.metric = metric
        self.scores = np.stack([np.asarray(arm.score, dtype=np.float64) for arm in arms.values()], axis=1)
        self.rows = len(self.scores)
        if not self.rows or not np.all(np.isfinite(self.scores)):
            raise ValueError("arms need at least one row, and scores that are neither NaN nor infinite")
        if metric == "mean":
            return
        if any(arm.counts is None or len(arm.counts) != self.rows for arm in arms.values()):
            raise ValueError("a metric of sums needs each arm's counts, one row for each score")
        self.counts = [np.asarray(arm.counts, dtype=np.float64) for arm in arms.values()]

    @property
    def is_zero_one(self) -> bool:
        """Whether the metric is the share of right rows."""
        return self.metric == "mean" and bool(np.all((self.scores == 0) | (self.scores == 1)))

    def statistic(self) -> OfSums:
        """The arms' metrics as a statistic of resampling weights; values of shape (draws, arms)."""
        if self.metric == "mean":
            return weighted_mean(self.scores)
        return aggregate_statistic(self.metric, self.counts)

    def uncut_statistic(self, groups: npt.ArrayLike | None) -> OfSums | None:
        """The arms' metrics as they vary before they are cut at 0, as :meth:`statistic`; None if the metric is never cut.

        An arm whose score is below 0 is moved to 0, so that differences between arms stay those of their scores. One that is
        surely below 0 stays cut: its errors, which may vary by many times the range of the metric, are no uncertainty of a 0.
        """
        if self.metric == "mean" or self.metric.signed is None:
            return None
        signed = aggregate_statistic(replace(self.metric, score=self.metric.signed), self.counts)
        whole = signed(np.ones((1, self.rows)))[0]
        surely = jackknife_limits(whole, signed.without_each(groups), _SURE)[1] < 0

        def moved(sums: Floats) -> Floats:
            found = signed.of(sums)
            return np.where(surely, np.maximum(found, 0.0), found - np.minimum(whole, 0.0))

        return OfSums(signed.table, moved)

    def differs(self, pairs: Sequence[Pair]) -> npt.NDArray[np.bool_]:
        """Whether the arms of the pairs differ on a row; shape (rows,)."""
        if self.metric == "mean":
            change = sum(self.scores[:, self.names.index(one)] - self.scores[:, self.names.index(two)] for one, two in pairs)
            return np.asarray(np.abs(change) > 1e-12)
        apart = [self.counts[self.names.index(one)] != self.counts[self.names.index(two)] for one, two in pairs]
        return np.asarray(np.any([change.any(axis=1) for change in apart], axis=0))

    def swapped(self, pairs: Sequence[Pair], swaps: npt.NDArray[np.int8]) -> Floats:
        """Sum of the pairs' differences (first minus second) after exchanging the rows marked in ``swaps``, ``[draws, rows]``.

        Only for aggregates.

        Returns:
            Shape (draws,).
        """
        assert self.metric != "mean"
        marked, total = swaps.astype(np.float64), np.zeros(len(swaps))
        for pair in pairs:
            first, second = (self.counts[self.names.index(name)] for name in pair)
            moved = marked @ (second - first)
            total += self.metric.score(first.sum(axis=0) + moved) - self.metric.score(second.sum(axis=0) - moved)
        return total


def aggregate_statistic(metric: Aggregate, counts: Sequence[Floats]) -> OfSums:
    """An aggregate as a statistic of resampling weights, with one column per arm."""
    arms = len(counts)
    return OfSums(np.hstack(counts), lambda sums: np.asarray(metric.score(sums.reshape(len(sums), arms, -1))))
