"""Conformal scores for a bundle: those of dev rows, and the coverage of their sets on the sealed test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cotune.cycle.context import RunContext
from cotune.cycle.search.arms import ArmResult, Confirmed
from cotune.evaluate.responses import LabelOutputs, label_indices
from cotune.evaluate.stats.conformal import conformal_scores, coverage, label_sets, least_rows, threshold
from cotune.evaluate.stats.intervals import proportion_interval

SHARES = (0.05, 0.1, 0.2)
"""Shares of errors whose sets are checked on the test."""
_DIGITS = 10_000


def conformal_scores_of(context: RunContext, confirmed: Confirmed, results: Mapping[str, ArmResult]) -> dict[str, Any] | None:
    """The conformal entry of ``metrics.json``, see :mod:`cotune.bundle.calibration`.

    Returns:
        Number ``n`` of dev rows, their ``scores`` in ascending order, rounded up, and a ``test`` of each share that they
        suffice for. None if answers are written, if the model returns labels without probabilities, or for an earlier bundle
        with other labels than the task's.
    """
    measured, shipped = confirmed.chosen, results[confirmed.ships]
    given, outputs = measured.scores, shipped.scores
    if not (isinstance(given, LabelOutputs) and isinstance(outputs, LabelOutputs) and context.answering.rules):
        return None
    if given.own or outputs.own:
        return None
    log_probs = measured.candidate.decision.log_probs(given.log_probs)
    scores = np.sort(np.maximum(conformal_scores(log_probs, label_indices(context.dev, context.task)), 0.0))
    # Rounded up, so that no label is removed from a set.
    kept = [math.ceil(score * _DIGITS) / _DIGITS for score in scores.tolist()]
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
