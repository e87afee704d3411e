"""Comparison of two sets of answers to the same rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cotune.evaluate.arms import ArmScores
from cotune.evaluate.attribution import Gain, attribute
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
    arms = dict.fromkeys(("seed_prompt", "prompt_only", "best_prompt", "seed_tuned"), before) | {"best_tuned": after}
    return attribute(arms, metric=metric.aggregate or "mean", groups=groups).gains["both"]


def flips(first: Evaluation, second: Evaluation) -> tuple[int, int]:
    """Number of rows that only the first has right, and number that only the second has right."""
    one, two = np.asarray(first.correct) > 0, np.asarray(second.correct) > 0
    return int(np.sum(one & ~two)), int(np.sum(~one & two))


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
