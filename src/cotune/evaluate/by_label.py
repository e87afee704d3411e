"""What of label answers is right label by label: precision, recall and F1 with intervals, and what was taken for what."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cotune.evaluate.shares import PartScores
from cotune.evaluate.stats.f1_posterior import confusion_counts
from cotune.task.answered import Answered
from cotune.task.metrics.label import label_counts


def label_scores(answered: Answered, *, seed: int, groups: npt.ArrayLike | None = None) -> list[PartScores]:
    """The labels of the output, in its order.

    Args:
        answered: rows and answers; all labels of both are the output's.
        seed: of the resampling.
        groups: group id of each row.
    """
    hits, right, given = np.split(label_counts(answered), 3, axis=1)
    ids = None if groups is None else np.asarray(groups)
    return [
        PartScores.of(label, hits[:, place], right[:, place], given[:, place], groups=ids, seed=seed)
        for place, label in enumerate(answered.output.labels)
    ]


def confusions(answered: Answered) -> npt.NDArray[np.int64]:
    """``[labels, labels]`` rows by their right label and the one that was answered, in the order of the output's labels."""
    place = {label: i for i, label in enumerate(answered.output.labels)}
    gold, answers = (np.array([place[label] for label in labels]) for labels in (answered.gold, answered.answers))
    return confusion_matrix(gold, answers, len(place))


def confusion_matrix(gold: npt.NDArray[np.int64], answers: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """``[labels, labels]`` rows by the numbers of their right label and of the one that was answered."""
    counts: npt.NDArray[np.int64] = confusion_counts((gold * size + answers)[None], size)[0].astype(np.int64)
    return counts
