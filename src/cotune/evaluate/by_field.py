"""What of JSON answers is right field by field: precision, recall and F1 of each, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cotune.evaluate.shares import Share, ratio_share
from cotune.task.answered import Answered
from cotune.task.metrics.json_fields import counts_by_field, fields_of

MOST_FIELDS = 60


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
        f1 = ratio_share(2 * good, gold + said, ids, seed)
        if f1 is None:
            continue
        precision, recall = ratio_share(good, said, ids, seed), ratio_share(good, gold, ids, seed)
        found.append(FieldScores(names[place], int(gold.sum()), int(said.sum()), precision, recall, f1))
        if len(found) == MOST_FIELDS:
            break
    return found
