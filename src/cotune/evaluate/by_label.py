"""What of label answers is right label by label: precision, recall and F1 with intervals, and what was taken for what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cotune.evaluate.shares import Share, ratio_share
from cotune.evaluate.stats.f1_posterior import confusion_counts
from cotune.task.answered import Answered
from cotune.task.metrics.label import label_counts


@dataclass(frozen=True)
class LabelScores:
    """A label on some rows.

    Attributes:
        label: its text.
        right: rows that have it.
        given: rows that it was answered to.
        precision: share of the rows that it was answered to that have it; None where there are none.
        recall: share of the rows that have it that it was answered to; None where there are none.
        f1: of both; None where it neither stands in a row nor was answered.
    """

    label: str
    right: int
    given: int
    precision: Share | None
    recall: Share | None
    f1: Share | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        shares = {name: getattr(self, name) for name in ("precision", "recall", "f1")}
        told = {name: None if share is None else share.as_dict() for name, share in shares.items()}
        return {"label": self.label, "right": self.right, "given": self.given, **told}


def label_scores(answered: Answered, *, seed: int, groups: npt.ArrayLike | None = None) -> list[LabelScores]:
    """The labels of the output, in its order.

    Args:
        answered: rows and answers; all labels of both are the output's.
        seed: of the resampling.
        groups: group id of each row.
    """
    hits, right, given = np.split(label_counts(answered), 3, axis=1)
    ids = None if groups is None else np.asarray(groups)
    found = []
    for place, label in enumerate(answered.output.labels):
        good, gold, said = hits[:, place], right[:, place], given[:, place]
        shares = (ratio_share(good, said, ids, seed), ratio_share(good, gold, ids, seed))
        f1 = ratio_share(2 * good, gold + said, ids, seed)
        found.append(LabelScores(label, int(gold.sum()), int(said.sum()), *shares, f1))
    return found


def confusions(answered: Answered) -> npt.NDArray[np.int64]:
    """``[labels, labels]`` rows by their right label and the one that was answered, in the order of the output's labels."""
    place = {label: i for i, label in enumerate(answered.output.labels)}
    gold, answers = (np.array([place[label] for label in labels]) for labels in (answered.gold, answered.answers))
    return confusion_matrix(gold, answers, len(place))


def confusion_matrix(gold: npt.NDArray[np.int64], answers: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """``[labels, labels]`` rows by the numbers of their right label and of the one that was answered."""
    counts: npt.NDArray[np.int64] = confusion_counts((gold * size + answers)[None], size)[0].astype(np.int64)
    return counts
