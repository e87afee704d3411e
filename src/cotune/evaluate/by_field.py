"""What of JSON answers is right field by field: precision, recall and F1 of each, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cotune.evaluate.stats.intervals import Interval, aggregate_interval, proportion_interval
from cotune.evaluate.stats.resampling import Statistic
from cotune.task.answered import Answered
from cotune.task.metrics.json_fields import counts_by_field, fields_of

MOST_FIELDS = 60
_DRAWS = 1_000
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """A score from 0 to 1 and its 95% interval."""

    value: float
    interval: Interval

    def as_dict(self) -> dict[str, Any]:
        """For the summary."""
        return {
            "value": round(self.value, 6),
            "ci": [None if end is None else round(end, 6) for end in self.interval.as_list()],
        }


@dataclass(frozen=True)
class FieldScores:
    """A field of JSON answers on some rows.

    Attributes:
        field: its path, such as ``slots.time`` or ``tags[]``; empty where the whole answer is one value.
        right: values that should be there.
        given: values that were given.
        precision: share of the given values that are right; None where none was given.
        recall: share of the right values that were given; None where there are none.
        f1: of both.
    """

    field: str
    right: int
    given: int
    precision: Share | None
    recall: Share | None
    f1: Share

    def as_dict(self) -> dict[str, Any]:
        """For the summary."""
        shares = {name: getattr(self, name) for name in ("precision", "recall", "f1")}
        told = {name: None if share is None else share.as_dict() for name, share in shares.items()}
        return {"field": self.field, "right": self.right, "given": self.given, **told}


def field_scores(answered: Answered, *, seed: int, groups: npt.ArrayLike | None = None) -> list[FieldScores]:
    """The fields that stand in right or given answers, the most frequent first, :data:`MOST_FIELDS` at most.

    Each interval is that of the rows that hold the field: of all rows, resamples without any of a rare field would tell nothing
    of it. Where each such row holds one value it is that of a share of right rows, else that of a score of sums over rows.

    Args:
        answered: rows and answers.
        seed: of the resampling.
        groups: group id of each row.
    """
    hits, right, given = np.split(counts_by_field(answered), 3, axis=1)
    ids = None if groups is None else np.asarray(groups)
    found = []
    names = fields_of(answered)
    for place in sorted(range(len(names)), key=lambda i: (-right[:, i].sum(), i)):
        good, gold, said = hits[:, place], right[:, place], given[:, place]
        f1 = _share(2 * good, gold + said, ids, seed)
        if f1 is None:
            continue
        precision, recall = _share(good, said, ids, seed), _share(good, gold, ids, seed)
        found.append(FieldScores(names[place], int(gold.sum()), int(said.sum()), precision, recall, f1))
        if len(found) == MOST_FIELDS:
            break
    return found


def _share(part: Floats, whole: Floats, groups: npt.NDArray[Any] | None, seed: int) -> Share | None:
    """A ratio of sums over rows; None where there is nothing to divide by."""
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


def _ratio(part: Floats, whole: Floats) -> Statistic:
    def statistic(weights: Floats) -> Floats:
        return np.asarray((weights @ part) / np.maximum(weights @ whole, 1e-12))[:, None]

    return statistic
