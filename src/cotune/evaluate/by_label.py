"""What of label answers is right label by label: precision, recall and F1 with intervals, and what was taken for what."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cotune.evaluate.shares import PartScores
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
    counts = np.zeros((len(place), len(place)), dtype=np.int64)
    np.add.at(counts, ([place[label] for label in answered.gold], [place[label] for label in answered.answers]), 1)
    return counts
