"""Comparison of two sets of answers to the same rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy.typing as npt

from cotune.evaluate.arms import ArmScores
from cotune.evaluate.arms import Metric as Scoring
from cotune.evaluate.attribution import Gain, attribute
from cotune.evaluate.frozen_arms import ARMS
from cotune.evaluate.scoring import Evaluation
from cotune.task.metrics.metric import Metric


def gain_over(first: Evaluation, second: Evaluation, metric: Metric, *, groups: npt.ArrayLike | None = None) -> Gain:
    """The gain of ``second`` over ``first``, paired by row: value, 95% interval, p-value.

    The same comparison as between a run's arms (:func:`cotune.evaluate.attribution.attribute`). It tests a single hypothesis,
    so nothing is corrected.
    """

    def arm(name: str, evaluation: Evaluation) -> ArmScores:
        return ArmScores(evaluation.values, counts=evaluation.counts, candidate=name)

    before, after = arm("first", first), arm("second", second)
    return gain_between(before, after, metric.aggregate or "mean", groups=groups)


def gain_between(
    before: ArmScores, after: ArmScores, metric: Scoring, *, groups: npt.ArrayLike | None = None, seed: int = 0
) -> Gain:
    """The same of two arms, which need different candidates."""
    arms = dict.fromkeys(ARMS, before) | {"best_tuned": after}
    return attribute(arms, metric=metric, groups=groups, seed=seed).gains["both"]


def same_order(first: Sequence[object], second: Sequence[object]) -> list[int] | None:
    """For each row its index in ``second``; None if the two do not have the same rows. Equal rows are paired in order."""
    places: dict[object, list[int]] = {}
    for place, row in enumerate(second):
        places.setdefault(row, []).append(place)
    if len(first) != len(second):
        return None
    order = []
    for row in first:
        if not (left := places.get(row)):
            return None
        order.append(left.pop(0))
    return order
