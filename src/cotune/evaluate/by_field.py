"""What of JSON answers is right field by field: precision, recall and F1 of each, with intervals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cotune.evaluate.shares import PartScores
from cotune.task.answered import Answered
from cotune.task.metrics.json_fields import counts_by_field, fields_of

MOST_FIELDS = 60


def field_scores(answered: Answered, *, seed: int, groups: npt.ArrayLike | None = None) -> list[PartScores]:
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
        one = PartScores.of(names[place], hits[:, place], right[:, place], given[:, place], groups=ids, seed=seed)
        if one.f1 is None:
            continue
        found.append(one)
        if len(found) == MOST_FIELDS:
            break
    return found
