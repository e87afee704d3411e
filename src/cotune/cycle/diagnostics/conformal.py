"""Conformal scores for a bundle: those of dev rows, and the coverage of their sets on the sealed test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.context import RunContext
from cotune.cycle.search.arms import ArmResult, Confirmed
from cotune.cycle.search.measured import Measured
from cotune.evaluate.responses import FieldOutputs, LabelOutputs, label_indices
from cotune.evaluate.stats.conformal import conformal_scores, coverage, error_scores, label_sets, least_rows, threshold
from cotune.evaluate.stats.intervals import proportion_interval

SHARES = (0.05, 0.1, 0.2)
"""Shares of errors whose sets are checked on the test."""
_DIGITS, _SHARE_DIGITS = 10_000, 1_000_000


def conformal_scores_of(context: RunContext, confirmed: Confirmed, results: Mapping[str, ArmResult]) -> dict[str, Any] | None:
    """The conformal entry of ``metrics.json``, see :mod:`cotune.bundle.calibration`.

    Returns:
        Number ``n`` of dev rows, their ``scores`` in ascending order, rounded up, and a ``test`` of each share that they
        suffice for. None if answers are written or measured numbers, if the model returns labels without probabilities, or for
        an earlier bundle with other labels or fields than the task's.
    """
    measured, shipped = confirmed.chosen, results[confirmed.ships]
    given, outputs = measured.scores, shipped.scores
    if isinstance(given, FieldOutputs) and isinstance(outputs, FieldOutputs) and given.fields == outputs.fields:
        return _of_whole_answers(measured, given, shipped, outputs)
    if not (isinstance(given, LabelOutputs) and isinstance(outputs, LabelOutputs) and context.answering.rules):
        return None
    if given.own or outputs.own:
        return None
    log_probs = measured.candidate.decision.log_probs(given.log_probs)
    scores = np.sort(np.maximum(conformal_scores(log_probs, label_indices(context.dev, context.task)), 0.0))
    # So that no label is removed from a set.
    kept = _rounded_up(scores, _DIGITS)
    truth = label_indices(shipped.rows, context.task)
    on_test = shipped.candidate.decision.log_probs(outputs.log_probs)

    def checked(share: float) -> dict[str, Any]:
        sets = label_sets(on_test, threshold(np.array(kept), share))
        found = coverage(sets, truth)
        inside = sets[np.arange(len(truth)), truth]
        return {
            "share": share,
            "n": len(truth),
            "covered": round(found.covered, 6),
            "ci": proportion_interval(inside, groups=shipped.groups).rounded(),
            "answered": round(found.answered, 6),
            "wrong": round(found.wrong, 6),
            "size": round(found.size, 4),
            "by_label": {
                context.task.labels[label]: {"covered": round(covered, 6), "n": int((truth == label).sum())}
                for label, covered in found.by_label.items()
            },
        }

    tested = [checked(share) for share in SHARES if len(kept) >= least_rows(share)]
    return {"n": len(kept), "scores": kept, "test": tested}


def _of_whole_answers(
    measured: Measured, given: FieldOutputs, shipped: ArmResult, outputs: FieldOutputs
) -> dict[str, Any] | None:
    """The entry for answers of several fields, by their confidence; None for numbers, which have none."""
    confidence, on_test = (one.fields.judged(one.log_probs, one.texts).confidence for one in (given, outputs))
    if confidence is None or on_test is None:
        return None
    right = shipped.evaluation.correct > 0
    # So that no wrong answer is above the threshold.
    kept = _rounded_up(np.sort(error_scores(confidence, measured.evaluation.correct > 0)), _SHARE_DIGITS)

    def checked(share: float) -> dict[str, Any]:
        answered = on_test > threshold(np.array(kept), share)
        covered = right | ~answered
        return {
            "share": share,
            "n": len(right),
            "covered": round(float(covered.mean()), 6),
            "ci": proportion_interval(covered, groups=shipped.groups).rounded(),
            "answered": round(float(answered.mean()), 6),
            "wrong": round(float((answered & ~right).mean()), 6),
        }

    return {"n": len(kept), "scores": kept, "test": [checked(share) for share in SHARES if len(kept) >= least_rows(share)]}


def _rounded_up(scores: NDArray[np.float64], digits: int) -> list[float]:
    return [math.ceil(score * digits) / digits for score in scores.tolist()]
