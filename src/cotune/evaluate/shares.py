"""Precision, recall and F1 by label and by field, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cotune.evaluate.stats.f1_posterior import confusion_counts
from cotune.evaluate.stats.intervals import Interval, aggregate_interval, proportion_interval
from cotune.evaluate.stats.resampling import OfSums
from cotune.task.answered import Answered
from cotune.task.metrics.json_fields import counts_by_field, fields_of
from cotune.task.metrics.label import label_counts

MOST_FIELDS = 60
_DRAWS = 1_000
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """A score from 0 to 1 and its 95% interval."""

    value: float
    interval: Interval

    def as_dict(self) -> dict[str, Any]:
        return {
            "value": round(self.value, 6),
            "ci": self.interval.rounded(),
        }


@dataclass(frozen=True)
class PartScores:
    """Scores of one label, or of one field of JSON.

    Attributes:
        name: the label, or the field's path, such as ``slots.time`` or ``tags[]``; empty if the whole answer is one value.
        precision: share of answered values that are right; None without any.
        recall: share of right values that were answered; None without any.
    """

    name: str
    right: int
    given: int
    precision: Share | None
    recall: Share | None
    f1: Share | None

    @classmethod
    def of(
        cls, name: str, hits: Floats, right: Floats, given: Floats, *, groups: npt.NDArray[Any] | None, seed: int
    ) -> PartScores:
        """Compute the scores of a part from the numbers of each row's hits, right values and answered values."""
        precision, recall = ratio_share(hits, given, groups, seed), ratio_share(hits, right, groups, seed)
        f1 = ratio_share(2 * hits, right + given, groups, seed)
        return cls(name, int(right.sum()), int(given.sum()), precision, recall, f1)

    def as_dict(self, part: str) -> dict[str, Any]:
        """For JSON; ``part`` is the key of the name, ``label`` or ``field``."""
        shares = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        record = {name: None if share is None else share.as_dict() for name, share in shares.items()}
        return {part: self.name, "right": self.right, "given": self.given, **record}


def ratio_share(part: Floats, whole: Floats, groups: npt.NDArray[Any] | None, seed: int) -> Share | None:
    """A ratio of sums over rows, with its interval; rows without a denominator are left out. None if all are."""
    held = whole > 0
    if not held.any():
        return None
    part, whole = part[held], whole[held]
    rows = part / whole
    own = None if groups is None else groups[held]
    if np.all(whole == 1):
        return Share(float(rows.mean()), proportion_interval(rows, groups=own))
    interval = aggregate_interval(_ratio(part, whole), rows, seed=seed, groups=own, draws=_DRAWS)
    return Share(float(part.sum() / whole.sum()), interval)


def _ratio(part: Floats, whole: Floats) -> OfSums:
    return OfSums(np.stack([part, whole], axis=1), lambda sums: sums[:, :1] / np.maximum(sums[:, 1:], 1e-12))


def label_scores(answered: Answered, *, seed: int, groups: npt.ArrayLike | None = None) -> list[PartScores]:
    """Scores of each label, in the output's order; all answers are labels of the output."""
    hits, right, given = np.split(label_counts(answered), 3, axis=1)
    ids = None if groups is None else np.asarray(groups)
    return [
        PartScores.of(label, hits[:, place], right[:, place], given[:, place], groups=ids, seed=seed)
        for place, label in enumerate(answered.output.labels)
    ]


def confusions(answered: Answered) -> npt.NDArray[np.int64]:
    """Confusion matrix ``[labels, labels]``: right label by predicted label, in the output's order."""
    place = {label: i for i, label in enumerate(answered.output.labels)}
    references, answers = (np.array([place[label] for label in labels]) for labels in (answered.references, answered.answers))
    return confusion_matrix(references, answers, len(place))


def confusion_matrix(references: npt.NDArray[np.int64], answers: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """``[labels, labels]`` counts of rows by the indices of the right and the predicted label."""
    counts: npt.NDArray[np.int64] = confusion_counts((references * size + answers)[None], size)[0].astype(np.int64)
    return counts


def field_scores(answered: Answered, *, seed: int, groups: npt.ArrayLike | None = None) -> list[PartScores]:
    """Scores of at most :data:`MOST_FIELDS` fields in right or given answers, the most frequent first.

    Each interval uses the rows that have the field, because resamples of all rows may lack a rare field. If each such row has
    one value it is the interval of a proportion, otherwise that of a ratio of sums.
    """
    hits, right, given = np.split(counts_by_field(answered), 3, axis=1)
    ids = None if groups is None else np.asarray(groups)
    scores = []
    names = fields_of(answered)
    for place in sorted(range(len(names)), key=lambda i: (-right[:, i].sum(), i)):
        one = PartScores.of(names[place], hits[:, place], right[:, place], given[:, place], groups=ids, seed=seed)
        if one.f1 is None:
            continue
        scores.append(one)
        if len(scores) == MOST_FIELDS:
            break
    return scores
