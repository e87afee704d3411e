"""Split conformal prediction: sets of labels that contain the right label with a given probability.

The score of a label is minus its log-probability. Given the scores of the right labels of ``n`` rows that the model was not
trained on, the threshold for a share ``a`` of errors is the ``ceil((n + 1) (1 - a))``-th smallest score. A new row's set holds
every label whose score is not higher. This is the score of least ambiguous sets (Sadinle, Lei and Wasserman, JASA 2019, ``LAC``
in MAPIE) on the log scale, which gives the same sets and keeps its precision near probability one.

**What is guaranteed** (Vovk, Gammerman and Shafer, 2005; Lei et al., JASA 2018): if the ``n`` rows and a new one are
exchangeable, the set holds the right label with probability at least ``1 - a``, on average over all rows. There is no guarantee
for a single label, for a kind of row, or for rows of another source. Here the likeliest label is always in the set, so that no
set is empty; this can only add right labels. A row is answered if its set has one label. So at most a share ``a`` of all rows
is answered wrongly; the others are answered rightly or left open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def conformal_scores(log_probs: Floats, truth: NDArray[np.int64]) -> Floats:
    """Scores of the right labels.

    Args:
        log_probs: ``[rows, labels]`` by a model that was not trained on the rows.
        truth: ``[rows]`` number of the right label.
    """
    scores: Floats = -log_probs[np.arange(len(truth)), truth]
    return scores


def least_rows(share: float) -> int:
    """Minimum number of rows of a threshold for a share of errors."""
    return math.ceil(1 / share - 1e-9) - 1


def threshold(scores: Floats, share: float) -> float:
    """Highest score of a label that is in a set; infinite if there are fewer scores than :func:`least_rows`.

    Args:
        scores: scores of :func:`conformal_scores`.
        share: share of sets that may lack the right label, between 0 and 1.
    """
    # In binary, 20 * 0.95 may be above 19.
    rank = math.ceil((len(scores) + 1) * (1 - share) - 1e-9)
    return math.inf if rank > len(scores) else float(np.sort(scores)[max(rank, 1) - 1])


def label_sets(log_probs: Floats, highest: float) -> NDArray[np.bool_]:
    """``[rows, labels]`` whether a label is in a row's set; the likeliest label always is."""
    sets: NDArray[np.bool_] = -log_probs <= highest
    sets[np.arange(len(log_probs)), log_probs.argmax(axis=1)] = True
    return sets


@dataclass(frozen=True)
class Coverage:
    """Quality of sets on rows whose labels are known.

    Attributes:
        covered: share of rows whose set holds the right label.
        answered: share of rows whose set has one label.
        wrong: share of all rows that were answered wrongly.
        size: mean number of labels in a set.
        by_label: ``covered`` for the rows of each label that occurs, by its number.
    """

    covered: float
    answered: float
    wrong: float
    size: float
    by_label: dict[int, float]


def coverage(sets: NDArray[np.bool_], truth: NDArray[np.int64]) -> Coverage:
    """Compute the coverage of sets."""
    sizes, inside = sets.sum(axis=1), sets[np.arange(len(truth)), truth]
    by_label = {int(label): float(inside[truth == label].mean()) for label in np.unique(truth)}
    single = sizes == 1
    return Coverage(float(inside.mean()), float(single.mean()), float((single & ~inside).mean()), float(sizes.mean()), by_label)
